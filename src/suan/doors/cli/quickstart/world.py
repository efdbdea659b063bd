"""What the quickstart declares: two sites, what they have and charge, and the link between them.

The only place with figures. Each says where it is from or that it is an assumption; a real site declares its
own.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec

from suan.doors.client import Client
from suan.grid.error import Refused
from suan.grid.site import Tariff

LINK_MBIT_PER_S = 100.0
LINK_RTT_MS = (
    30.0  # Shanghai to Guizhou is 1,500 km: 15 ms of light in fibre, as much again for detours and routers
)
LINK_YUAN_PER_GB = (
    0.05  # assumption: a leased line's month spread over what it could carry at a third of its rate
)

CORE_W = 3.75  # CPU-x86 in the accelerator table: 240 W for 64 cores
HOST_W = 8.0  # assumption: two cores' part of what a server draws besides its CPU


class DeclaredSite(NamedTuple):
    """One site. Machine prices are CNY a core-hour, electricity apart."""

    name: str
    region: str
    province: str  # in the tables of tariffs
    pue: float
    machine_yuan_per_core_h: float
    price_basis: str


EAST = DeclaredSite(
    name="east",
    region="cn-east",
    province="Shanghai",
    pue=1.4,
    machine_yuan_per_core_h=0.10,
    price_basis="assumption: the order of a cloud's price of a general-purpose core, electricity taken out",
)
WEST = DeclaredSite(
    name="west",
    region="cn-southwest",
    province="Guizhou",
    pue=1.2,
    machine_yuan_per_core_h=0.07,
    price_basis="assumption: 30 % below the east, as its electricity and land are",
)
SITES = (EAST, WEST)
CORES = 2
POOL = "cpu"


def checkout_root() -> Path:
    """The folder of the source checkout, which has `examples/`.

    Raises: Refused `no_examples`.
    """
    for root in (Path.cwd(), *Path(__file__).resolve().parents):
        if (root / "examples" / "worlds" / "tariffs" / "china_grids.csv").is_file():
            return root
    raise Refused(
        "no_examples",
        "the quickstart needs the examples folder",
        hint="run it in a checkout: make quickstart",
    )


def tariff_of(site: DeclaredSite, root: Path) -> Tariff:
    """The site's time-of-use tariff: its province's bands around its flat price.

    Raises: Refused when the tables are damaged.
    """
    from suan.feeds.tariffs import china_grid, china_tou

    tables = root / "examples" / "worlds" / "tariffs"
    grid = china_grid(tables / "china_grids.csv", site.province)
    tariff = china_tou(
        tables / "china_tou_hubs_2026.csv",
        site.province,
        flat_yuan_per_kwh=grid.flat_yuan_per_kwh,
        pue=site.pue,
        gco2_per_kwh=grid.gco2_per_kwh,
    )
    source = f"{tariff.source}; flat price {grid.price_basis}; carbon {grid.carbon_basis}"
    return msgspec.structs.replace(tariff, site=site.name, source=source)


def site_toml(site: DeclaredSite, url: str, folder: Path) -> str:
    """The site.toml with which `suan join --config` makes this site."""
    return f"""\
# {site.name}, as the quickstart declares it. The machine's price is an {site.price_basis}.
site = "{site.name}"
url = "{url}"
state = {str(folder)!r}
region = "{site.region}"
emulate_links = true   # both sites are this machine: the declared round trip is waited out

[[pool]]
name = "{POOL}"
accelerator = "CPU"
nodes = 1
devices_per_node = {CORES}
machine_yuan_per_device_h = {site.machine_yuan_per_core_h}
device_w = {CORE_W}
host_w_per_node = {HOST_W}
"""


def declare(client: Client, root: Path) -> None:
    """Links both ways and tariffs, at sites that have joined. Twice is once more of the same."""
    for source, destination in ((EAST, WEST), (WEST, EAST)):
        client.set_link(
            source.name,
            destination.name,
            mbit_per_s=LINK_MBIT_PER_S,
            rtt_ms=LINK_RTT_MS,
            microyuan_per_gb=round(LINK_YUAN_PER_GB * 1e6),
        )
    for site in SITES:
        client.set_tariff(tariff_of(site, root))
