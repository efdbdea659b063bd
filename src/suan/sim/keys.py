"""The keys of a world file, and what is said of one that is wrong. Documented in docs/reference/simulate.md.

Knows which keys there are, their kinds and which exclude each other; what they mean is `world`'s matter.
"""

import datetime
import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from suan.grid.error import Refused


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
    published_h: int | None = Field(default=None, ge=0, le=23)

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
        if self.published_h is not None and not self.region:
            raise ValueError("published_h is for hourly prices (region); bands are known for ever")
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


class TenantTable(_Table):
    """Devices by accelerator, or by `*` for all kinds together."""

    name: str = Field(min_length=1)
    weight: float = Field(default=1, gt=0)
    parent: str = ""
    nominal_devices: dict[str, int] = {}
    borrow_devices: dict[str, int] = {}
    lend_devices: dict[str, int] = {}
    waiting_yuan_per_h: float = Field(default=1, ge=0)


FaultKind = Literal[
    "partition",
    "agent_restart",
    "grid_restart",
    "grid_outage",
    "journal_failure",
    "engine_forgets",
    "node_loss",
    "run_crash",
    "failed_transfer",
    "node_down",
    "clock_step",
    "lost_artifact",
    "corrupt_artifact",
    "lost_reports",
    "lost_answers",
    "late_answers",
    "duplicated_reports",
    "delayed_reports",
    "drain",
    "tariff_change",
    "link_change",
    "quota_change",
    "budget_cut",
    "cancel_storm",
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
    tenant: list[TenantTable] = []
    fault: list[FaultTable] = []
    policy: dict[str, dict[str, Any]] = {}
    start: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def refusal(name: str, error: ValidationError) -> Refused:
    """What the first of the errors says, with its path and the nearest known key."""
    first = error.errors()[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        what, hint = "no such key", nearest(str(first["loc"][-1]), _keys_at(first["loc"][:-1]))
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
        "tenant": TenantTable,
        "fault": FaultTable,
    }
    for part in location:
        model = tables.get(str(part), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def nearest(name: str, known: list[str]) -> str:
    """A hint: the known name that looks like it, else all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
