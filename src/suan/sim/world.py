"""A world in TOML: sites with pools and tariffs, links, faults, policies.

Knows the keys and what they mean in the grid's nouns; paths are relative to the file. Tables of prices are
read by
`feeds.tariffs`. Documented in docs/reference/simulate.md.
"""

import datetime
import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from suan.feeds.tariffs import CNY_PER_USD, PriceTable, china_grid, china_tou, price_series
from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.site import Link, Pool, Series, Tariff
from suan.grid.units import HOUR_S, microyuan
from suan.rules.policy import Policy

_PER_KWH = {"USD": CNY_PER_USD / 1000, "CNY": 1 / 1000}  # prices in the tables are a MWh


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PoolTable(_Table):
    accelerator: str
    devices_per_node: int = Field(gt=0)
    nodes: int = Field(gt=0)
    machine_microyuan_per_device_h: int = Field(default=0, ge=0)
    name: str = ""
    cpus_per_node: float = Field(default=0, ge=0)
    memory_gib_per_node: float = Field(default=0, ge=0)
    device_w: float | None = Field(default=None, ge=0)
    host_w_per_node: float = Field(default=0, ge=0)
    preemption_per_h: float = Field(default=0, ge=0)
    speed_ratio: float = Field(default=1, gt=0)


class TariffTable(_Table):
    """One of three: `csv` and `region` (hourly prices), `csv` and `grid` (bands), or `flat_yuan_per_kwh`
    alone."""

    csv: Path | None = None
    region: str = ""
    column: str = "price_usd_mwh"
    currency: Literal["USD", "CNY"] = "USD"
    carbon_column: str = Field(
        default="ci_direct_g_kwh", validation_alias=AliasChoices("carbon_column", "carbon")
    )
    start: datetime.datetime | datetime.date | int | str | None = None
    grid: str = ""
    grids_csv: Path | None = None
    flat_yuan_per_kwh: float | None = Field(default=None, ge=0)
    gco2_per_kwh: float | None = Field(default=None, ge=0)
    pue: float = Field(default=1.0, ge=1)

    @model_validator(mode="after")
    def _one_kind(self) -> "TariffTable":
        if bool(self.region) and bool(self.grid):
            raise ValueError("region (hourly prices) and grid (time-of-use bands) exclude each other")
        if (self.region or self.grid) and self.csv is None:
            raise ValueError("region and grid need csv, the table that they are in")
        if self.csv is not None and not (self.region or self.grid):
            raise ValueError("csv needs region (hourly prices) or grid (time-of-use bands)")
        if not self.region and self.flat_yuan_per_kwh is None and self.grids_csv is None:
            raise ValueError("say flat_yuan_per_kwh, or grids_csv with the flat price of each grid")
        return self


class SiteTable(_Table):
    name: str = Field(min_length=1)
    pool: list[PoolTable] = Field(min_length=1)
    region: str = ""
    tariff: TariffTable | None = None
    packing: Literal["pool", "node"] = "pool"


class LinkTable(_Table):
    source: str = Field(alias="from")
    destination: str = Field(alias="to")
    gbps: float = Field(gt=0)
    rtt_ms: float = Field(default=0, ge=0)
    microyuan_per_gb: int = Field(default=0, ge=0)


FaultKind = Literal[
    "partition",
    "agent_restart",
    "grid_restart",
    "engine_forgets",
    "node_loss",
    "run_crash",
    "failed_transfer",
    "lost_answers",
    "duplicated_reports",
    "delayed_reports",
]


class FaultTable(_Table):
    """At `at_s`, or `per_day` times a day at moments drawn from the seed, at `site` or at one drawn each
    time."""

    kind: FaultKind
    site: str = ""
    at_s: int | None = Field(default=None, ge=0)
    for_s: int = Field(default=60, gt=0)
    per_day: float | None = Field(default=None, gt=0)
    until_s: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_time(self) -> "FaultTable":
        if (self.at_s is None) == (self.per_day is None):
            raise ValueError("say at_s or per_day, one of them")
        return self


class WorldTable(_Table):
    site: list[SiteTable] = Field(min_length=1)
    link: list[LinkTable] = []
    fault: list[FaultTable] = []
    policy: dict[str, dict[str, Any]] = {}
    start: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class SiteWorld(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    region: str
    pools: tuple[Pool, ...]
    tariff: Tariff | None
    by_node: bool


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a simulation starts from, in the grid's own nouns. `start_s` is second 0 of its
    traces."""

    start_s: int
    sites: tuple[SiteWorld, ...]
    links: tuple[Link, ...] = ()
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
        raise _bad(name, error) from error
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
        start_s=start_s, sites=sites, links=links, faults=tuple(parsed.fault), policies=parsed.policy
    )


# ---------------------------------------------------------------- sites


def _site(name: str, folder: Path, start_s: int, place: int, row: SiteTable) -> SiteWorld:
    pools = []
    for number, pool in enumerate(row.pool):
        try:
            kind = accelerator(pool.accelerator).name
        except Refused as error:
            where = f"site[{place}].pool[{number}].accelerator"
            raise Refused("bad_world", f"{name}: {where}: {error.what}", hint=error.hint) from error
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
                "bad_world", f"{name}: {where}: no site is called {site!r}", hint=_near(site, sites)
            )


def _check_policies(name: str, policies: dict[str, dict[str, Any]]) -> None:
    known = [*Policy.__struct_fields__, "like", "oracle"]
    for policy, overrides in policies.items():
        for key in overrides:
            if key not in known or key == "name":
                where = f"policy.{policy}.{key}"
                raise Refused("bad_world", f"{name}: {where}: no such key", hint=_near(key, known))
        try:
            msgspec.convert({k: v for k, v in overrides.items() if k not in ("like", "oracle")}, Policy)
        except msgspec.ValidationError as error:
            raise Refused(
                "bad_world", f"{name}: policy.{policy}: {error}", hint="see docs/reference/simulate.md"
            ) from error


def _bad(name: str, error: ValidationError) -> Refused:
    first = error.errors()[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        what, hint = "no such key", _near(str(first["loc"][-1]), _keys_at(first["loc"][:-1]))
    else:
        what, hint = first["msg"].removeprefix("Value error, "), "see docs/reference/simulate.md"
    return Refused("bad_world", f"{name}: {where}: {what}", hint=hint, path=where)


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at this place may have."""
    model: type[BaseModel] = WorldTable
    tables: dict[str, type[BaseModel]] = {
        "site": SiteTable,
        "pool": PoolTable,
        "tariff": TariffTable,
        "link": LinkTable,
        "fault": FaultTable,
    }
    for part in location:
        model = tables.get(str(part), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
