"""A world in TOML: sites with pools and tariffs, links, tenants, faults, policies.

Knows the keys and what they mean in the grid's nouns; paths are relative to the file. Tables of prices are
read by
`feeds.tariffs`. Documented in docs/reference/simulate.md.
"""

import datetime
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from suan.feeds.tariffs import CNY_PER_USD, PriceTable, china_grid, china_tou, price_series
from suan.grid.account import Quota, Tenant
from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.site import Link, Pool, Series, Tariff
from suan.grid.units import HOUR_S, microyuan
from suan.rules.policy import Policy
from suan.sim.keys import (
    FaultTable,
    SiteTable,
    TariffTable,
    TenantTable,
    WorldTable,
    nearest,
    refusal,
)

_PER_KWH = {"USD": CNY_PER_USD / 1000, "CNY": 1 / 1000}  # prices in the tables are a MWh


class SiteWorld(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    region: str
    pools: tuple[Pool, ...]
    tariff: Tariff | None
    by_node: bool
    published_h: int | None = None  # hour of the day (UTC) when the next day's prices come out; None: known


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a simulation starts from, in the grid's own nouns. `start_s` is second 0 of its
    traces."""

    start_s: int
    sites: tuple[SiteWorld, ...]
    links: tuple[Link, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    faults: tuple[FaultTable, ...] = ()
    policies: dict[str, dict[str, Any]] = {}


def read_world(path: Path) -> World:
    """The world that the file describes.

    Raises: Refused `no_world`, `bad_world` (with the key's path and the nearest known key), and what
        `feeds.tariffs` refuses.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise Refused("no_world", f"there is no file {path}", hint="see examples/worlds/") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused("bad_world", f"{path} is not TOML: {error}", hint="see examples/worlds/") from error
    return make_world(table, path.parent, name=str(path))


def make_world(table: dict[str, Any], folder: Path, *, name: str = "the world") -> World:
    """The world of a table already read; relative paths start at `folder`.

    Raises: as `read_world`.
    """
    try:
        parsed = WorldTable.model_validate(table)
    except ValidationError as error:
        raise refusal(name, error) from error
    start = parsed.start if parsed.start.tzinfo else parsed.start.replace(tzinfo=datetime.UTC)
    start_s = int(start.timestamp()) // HOUR_S * HOUR_S
    sites = tuple(_site(name, folder, start_s, place, row) for place, row in enumerate(parsed.site))
    _check_names(name, parsed)
    _check_policies(name, parsed.policy)
    links = tuple(
        Link(
            source=link.source,
            destination=link.destination,
            mbit_per_s=link.gbps * 1000,
            rtt_ms=link.rtt_ms,
            microyuan_per_gb=link.microyuan_per_gb,
            at_s=start_s,
        )
        for link in parsed.link
    )
    return World(
        start_s=start_s,
        sites=sites,
        links=links,
        tenants=tuple(_tenant(name, place, row) for place, row in enumerate(parsed.tenant)),
        faults=tuple(parsed.fault),
        policies=parsed.policy,
    )


def _tenant(name: str, place: int, row: TenantTable) -> Tenant:
    """The tenant with its quota; kinds are spelt as the grid spells them."""
    quota: dict[str, Any] = {}
    for field in ("nominal_devices", "borrow_devices", "lend_devices"):
        if devices := getattr(row, field):
            quota[field] = {_kind(name, f"tenant[{place}].{field}", kind): n for kind, n in devices.items()}
    return Tenant(
        name=row.name,
        parent=row.parent,
        weight=row.weight,
        quota=Quota(**quota),
        waiting_microyuan_per_h=microyuan(row.waiting_yuan_per_h),
    )


def _kind(name: str, where: str, kind: str) -> str:
    if kind == "*":
        return kind
    try:
        return accelerator(kind).name
    except Refused as error:
        raise Refused("bad_world", f"{name}: {where}: {error.what}", hint=error.hint) from error


# ---------------------------------------------------------------- sites


def _site(name: str, folder: Path, start_s: int, place: int, row: SiteTable) -> SiteWorld:
    pools = []
    for number, pool in enumerate(row.pool):
        kind = _kind(name, f"site[{place}].pool[{number}].accelerator", pool.accelerator)
        pool_name = pool.name or (kind if number == 0 else f"{kind}-{number + 1}")
        fields = pool.model_dump() | {"name": pool_name, "accelerator": kind}
        pools.append(Pool(**fields))
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        raise Refused("bad_world", f"{name}: site[{place}].pool: two have one name", hint="name them apart")
    return SiteWorld(
        name=row.name,
        region=row.region or row.name,
        pools=tuple(pools),
        tariff=_tariff(folder, start_s, row.name, row.tariff) if row.tariff else None,
        by_node=row.packing == "node",
        published_h=row.tariff.published_h if row.tariff else None,
    )


def _tariff(folder: Path, start_s: int, site: str, row: TariffTable) -> Tariff:
    if row.region:
        assert row.csv is not None
        table = PriceTable(
            path=folder / row.csv,
            price_column=row.column,
            yuan_per_kwh_per_unit=_PER_KWH[row.currency],
            carbon_column=row.carbon_column,
        )
        tariff = price_series(table, row.region, pue=row.pue)
        tariff = msgspec.structs.replace(tariff, prices=_laid(tariff.prices, row, start_s))
    else:
        flat_yuan, gco2 = row.flat_yuan_per_kwh, row.gco2_per_kwh
        if row.grid and row.grids_csv is not None:
            known = china_grid(folder / row.grids_csv, row.grid)
            flat_yuan = known.flat_yuan_per_kwh if flat_yuan is None else flat_yuan
            gco2 = known.gco2_per_kwh if gco2 is None else gco2
        assert flat_yuan is not None
        if row.grid:
            assert row.csv is not None
            tariff = china_tou(
                folder / row.csv,
                row.grid,
                flat_yuan_per_kwh=flat_yuan,
                pue=row.pue,
                gco2_per_kwh=gco2 or 0.0,
            )
        else:
            prices = Series(
                start_at_s=start_s, microyuan_per_kwh=(microyuan(flat_yuan),), gco2_per_kwh=(gco2 or 0.0,)
            )
            tariff = Tariff(
                site=site, prices=prices, pue=row.pue, source=f"{flat_yuan} yuan a kWh at any hour"
            )
    return msgspec.structs.replace(tariff, site=site)


def _laid(prices: Any, row: TariffTable, start_s: int) -> Series:
    """The series, with the hour of the file that `start` names at second 0; its first hour by default."""
    assert isinstance(prices, Series)
    hours = len(prices.microyuan_per_kwh)
    skip_h = 0
    if isinstance(row.start, int):
        skip_h = row.start
    elif row.start is not None:
        try:
            moment = datetime.datetime.fromisoformat(str(row.start))
        except ValueError as error:
            raise Refused(
                "bad_world",
                f"tariff.start is {row.start!r}",
                hint="write 2022-06-01T00:00Z, or hours to skip",
            ) from error
        at = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        skip_h = int(at.timestamp() - prices.start_at_s) // HOUR_S
    if not 0 <= skip_h < hours:
        first = datetime.datetime.fromtimestamp(prices.start_at_s, datetime.UTC)
        raise Refused(
            "bad_world",
            f"tariff.start {row.start} is outside the file of {row.region}",
            hint=f"it has {hours} hours from {first:%Y-%m-%dT%H:%MZ}",
        )
    return msgspec.structs.replace(prices, start_at_s=start_s - skip_h * HOUR_S)


# ---------------------------------------------------------------- refusals


def _check_names(name: str, parsed: WorldTable) -> None:
    sites = [site.name for site in parsed.site]
    for place, site in enumerate(sites):
        if site in sites[:place] or site == "grid":
            raise Refused(
                "bad_world", f"{name}: site[{place}].name: {site!r} is taken", hint="choose another"
            )
    tenants = [tenant.name for tenant in parsed.tenant]
    for place, tenant in enumerate(parsed.tenant):
        if tenant.name in tenants[:place]:
            what = f"{name}: tenant[{place}].name: {tenant.name!r} is taken"
            raise Refused("bad_world", what, hint="choose another")
        if tenant.parent and tenant.parent not in tenants:
            what = f"{name}: tenant[{place}].parent: no tenant is called {tenant.parent!r}"
            raise Refused("bad_world", what, hint=nearest(tenant.parent, tenants))
    named: Iterator[tuple[str, str]] = iter(
        [
            *((f"link[{n}].from", link.source) for n, link in enumerate(parsed.link)),
            *((f"link[{n}].to", link.destination) for n, link in enumerate(parsed.link)),
            *((f"fault[{n}].site", fault.site) for n, fault in enumerate(parsed.fault) if fault.site),
        ]
    )
    for where, site in named:
        if site not in sites:
            raise Refused(
                "bad_world", f"{name}: {where}: no site is called {site!r}", hint=nearest(site, sites)
            )


def _check_policies(name: str, policies: dict[str, dict[str, Any]]) -> None:
    known = [*Policy.__struct_fields__, "like", "oracle"]
    for policy, overrides in policies.items():
        for key in overrides:
            if key not in known or key == "name":
                where = f"policy.{policy}.{key}"
                raise Refused("bad_world", f"{name}: {where}: no such key", hint=nearest(key, known))
        try:
            msgspec.convert({k: v for k, v in overrides.items() if k not in ("like", "oracle")}, Policy)
        except msgspec.ValidationError as error:
            raise Refused(
                "bad_world", f"{name}: policy.{policy}: {error}", hint="see docs/reference/simulate.md"
            ) from error
