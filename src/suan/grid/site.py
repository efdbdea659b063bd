"""Compute centres: sites, their pools, the links between them, and what electricity costs there by the hour.

Knows the shapes and one lookup (a tariff's price in a given hour). Money terms are made in `rules/quote.py`.
"""

import datetime
import enum
from typing import TypeVar

import msgspec

from suan.grid.units import HOUR_S

_Rate = TypeVar("_Rate", int, float)
_ORDINAL_1970 = datetime.date(1970, 1, 1).toordinal()
GRID_SITE = "grid"  # the control plane's own store: a site without pools, where uploads arrive


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Identical nodes at a site. In a CPU pool a device is one core."""

    name: str
    accelerator: str  # canonical name in accelerators.toml
    devices_per_node: int
    nodes: int
    cpus_per_node: float = 0.0
    memory_gib_per_node: float = 0.0
    machine_microyuan_per_device_h: int = 0  # price or depreciation of one device, electricity apart
    device_w: float | None = None  # at full load; None: the accelerator's TDP
    host_w_per_node: float = 0.0  # what the node draws besides its devices
    preemption_per_h: float = 0.0  # hazard of losing a node
    speed_ratio: float = 1.0  # how fast this pool runs a job whose duration was given for ratio 1

    @property
    def devices(self) -> int:
        return self.devices_per_node * self.nodes


class SitePhase(enum.StrEnum):
    READY = "ready"
    SILENT = "silent"  # lease not renewed; its runs may still be running
    FENCED = "fenced"  # silent for so long that it must have stopped its runs
    DRAINING = "draining"  # no new runs


class Site(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    region: str = ""
    engine: str = "local"
    pools: dict[str, Pool] = {}
    phase: SitePhase = SitePhase.READY
    draining: bool = False  # takes no new runs, whatever its phase
    epoch: int = 1  # grows when a fenced site comes back: observations of an older epoch are stale
    joined_at_s: int = 0
    heard_at_s: int = 0  # last contact that a fact recorded
    data_url: str = ""  # where other sites fetch chunks from it, "" when it can only give through a relay
    labels: dict[str, str] = {}


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One direction, site to site."""

    source: str
    destination: str
    mbit_per_s: float
    rtt_ms: float = 0.0
    microyuan_per_gb: int = 0
    origin: str = "declared"  # declared | measured
    at_s: int = 0
    declared_mbit_per_s: float = 0.0  # of a measured link: what was declared, which nothing exceeds


class Bands(msgspec.Struct, frozen=True, kw_only=True, tag="bands"):
    """Time-of-use bands: for each month 24 band names in local time, and each band's ratio to flat."""

    flat_microyuan_per_kwh: int
    ratios: dict[str, float]
    months: tuple[tuple[str, ...], ...]  # 12 x 24, or 1 x 24 for every month alike
    utc_offset_s: int = 8 * HOUR_S
    gco2_per_kwh: float = 0.0


class Series(msgspec.Struct, frozen=True, kw_only=True, tag="series"):
    """A price for each hour from `start_at_s` on; it repeats when it ends."""

    start_at_s: int
    microyuan_per_kwh: tuple[int, ...]
    gco2_per_kwh: tuple[float, ...] = ()  # same length, or one value, or none


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """A site's price of electricity by time, its PUE and its carbon intensity."""

    site: str
    prices: Bands | Series
    pue: float = 1.0
    source: str = ""
    valid_from_s: int = 0
    valid_until_s: int | None = None


def hour_rates(tariff: Tariff, first_hour: int, hours: int) -> tuple[list[int], list[float]]:
    """Micro-yuan a kWh, and gCO2 a kWh, of each hour from the one that begins `first_hour * 3600` seconds
    after 1970 UTC.
    """
    match tariff.prices:
        case Bands() as bands:
            return _banded(bands, first_hour, hours), [bands.gco2_per_kwh] * hours
        case Series() as series:
            first = first_hour - series.start_at_s // HOUR_S
            return _repeated(series.microyuan_per_kwh, first, hours), _repeated(
                series.gco2_per_kwh or (0.0,), first, hours
            )


def hour_rate(tariff: Tariff, hour: int) -> tuple[int, float]:
    """Micro-yuan a kWh and gCO2 a kWh in the hour that begins `hour * 3600` seconds after 1970 UTC."""
    (money,), (gco2,) = hour_rates(tariff, hour, 1)
    return money, gco2


def _banded(bands: Bands, first_hour: int, hours: int) -> list[int]:
    """Whole local days, one after the other, without what lies before the first hour."""
    rates = {name: round(bands.flat_microyuan_per_kwh * ratio) for name, ratio in bands.ratios.items()}
    day, skipped = divmod(first_hour + bands.utc_offset_s // HOUR_S, 24)
    days: dict[int, list[int]] = {}
    found: list[int] = []
    while len(found) < skipped + hours:
        month = datetime.date.fromordinal(_ORDINAL_1970 + day).month
        if month not in days:
            days[month] = [rates[name] for name in bands.months[(month - 1) % len(bands.months)]]
        found.extend(days[month])
        day += 1
    return found[skipped : skipped + hours]


def _repeated(rates: tuple[_Rate, ...], first: int, hours: int) -> list[_Rate]:
    """So many from the first on, as if they went round for ever."""
    first %= len(rates)
    rounds = -(-(first + hours) // len(rates))
    return list((rates * rounds)[first : first + hours])
