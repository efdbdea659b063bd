"""The test bed, put together: four machines, the network between them, a grid and three sites that have
joined.

Knows how it is started and ended, and how the grid is asked over it. What happens on it is `story.py`'s and
`faults.py`'s.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import world
from clusters import short_folder
from machines import End, Machine, Network

from suan.doors.cli.quickstart.world import DeclaredSite, tariff_of
from suan.doors.client import Client
from suan.grid.error import NotNow, SiteTrouble

Result = TypeVar("Result")
_POLL_S = 0.3


@dataclass
class Bed:
    """A grid and its sites, up. `machines` by name, the grid's among them."""

    folder: Path
    sites: tuple[world.BedSite, ...]
    machines: dict[str, Machine]
    network: Network
    client: Client
    daemons: dict[str, list[str]]  # by site: what can be killed there besides the agent
    say: Callable[[str], None]

    def site(self, name: str) -> world.BedSite:
        return next(site for site in self.sites if site.name == name)

    def persist(self, work: Callable[[], Result], within_s: float = 60.0) -> Result:
        """What `work` gives, asked again while the grid is away."""
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                return work()
            except (NotNow, SiteTrouble):
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(_POLL_S)

    def until(self, what: str, condition: Callable[[], object], within_s: float = 90.0) -> float:
        """Seconds until it was so; a grid that is away counts as not yet.

        Raises: AssertionError.
        """
        began_s = time.monotonic()
        while True:
            with contextlib.suppress(NotNow, SiteTrouble):
                if condition():
                    return time.monotonic() - began_s
            assert time.monotonic() - began_s < within_s, f"not within {within_s:.0f} s: {what}"
            time.sleep(_POLL_S)

    def phase(self, site: str) -> str:
        return str(self.client.site(site)["phase"])

    def log(self, name: str) -> str:
        file = "grid.log" if name == world.GRID[0] else "agent.log"
        return (self.folder / name / file).read_text("utf-8", "replace")


@contextlib.contextmanager
def standing(say: Callable[[str], None], folder: Path | None = None) -> Iterator[Bed]:
    """The bed, up; at the end nothing of it is left, and the folder neither when none was named."""
    place = folder or short_folder()
    with contextlib.ExitStack() as stack:
        if folder is None:
            stack.callback(shutil.rmtree, place, ignore_errors=True)
        sites = world.sites()
        machines = {}
        for name, arguments in _hosts(place, sites).items():
            (place / name).mkdir()
            (place / name).chmod(0o755)
            machine = Machine(name, arguments["address"], arguments, place / name / "host.log")
            machines[name] = machine
            stack.callback(_end, machine, say)
            stack.callback(machine.begin_end)  # in any order, and before the first of them is waited for
        network = _connect(machines, sites, place)
        stack.callback(network.end)
        say(f"machines: {', '.join(machines)}; below {place}")
        workers = stack.enter_context(ThreadPoolExecutor(len(machines)))
        began_s = time.monotonic()
        grid = workers.submit(machines["grid"].ask, "start")
        clusters = {site.name: workers.submit(machines[site.name].ask, "open", site.prices) for site in sites}
        answer = grid.result()
        client = Client(answer["url"], answer["key"])
        daemons = {name: cluster.result() for name, cluster in clusters.items()}
        say(f"PostgreSQL, SeaweedFS, the grid and {len(sites)} clusters are up after "
            f"{time.monotonic() - began_s:.0f} s")  # fmt: skip
        bed = Bed(place, sites, machines, network, client, daemons, say)
        _join(bed)
        yield bed


def _hosts(place: Path, sites: tuple[world.BedSite, ...]) -> dict[str, dict[str, Any]]:
    """Name -> what `host.py` is told."""
    grid, address = world.GRID
    hosts: dict[str, dict[str, Any]] = {grid: {"role": "grid", "address": address, "policy": world.POLICY}}
    for site in sites:
        hosts[site.name] = {"role": site.engine, "site": site.name, "address": site.address}
    return {name: {**arguments, "folder": str(place / name)} for name, arguments in hosts.items()}


def _connect(machines: dict[str, Machine], sites: tuple[world.BedSite, ...], place: Path) -> Network:
    import os

    here = End(*world.HERE, os.getpid())
    ends: list[End] = [*machines.values(), here]
    network = Network(ends, world.LINKS, place / "wan.log")
    rates = {site.name: site.mbit_per_s for site in sites}
    for end in ends:
        end.connect(rates.get(end.name, 0.0))
    return network


def _join(bed: Bed) -> None:
    client = bed.client
    for site in bed.sites:
        token = client.join_token(site.name)
        more = {"region": site.region, "data_host": site.address, **site.more}
        if site.more.get("data_relay"):
            more["data_url"] = f"{client.url}/v1/relay/{site.name}"  # the agent dials through a bad line
        bed.machines[site.name].ask("join", client.url, token, more, site.store_mib)

    def all_ready() -> bool:
        found = client.sites()
        for site in bed.sites:
            assert bed.machines[site.name].ask("alive"), bed.log(site.name)[-2000:]
        return sum(bool(site["pools"]) and site["phase"] == "ready" for site in found) == len(bed.sites)

    bed.until("all sites are ready", all_ready)
    for link in world.LINKS:
        source, destination = link["ends"]
        if "here" in link["ends"] or "grid" in link["ends"]:
            continue
        for a, b in ((source, destination), (destination, source)):
            client.set_link(
                a,
                b,
                mbit_per_s=bed.site(a).mbit_per_s,
                rtt_ms=2 * link["delay_ms"],
                microyuan_per_gb=round(world.YUAN_PER_GB * 1e6),
            )
    for site in bed.sites:
        declared = DeclaredSite(site.name, site.region, site.province, site.pue, 0.0, "")
        client.set_tariff(msgspec.structs.replace(tariff_of(declared, world.ROOT), site=site.name))
        pools = ", ".join(
            f"{pool['nodes']} × {pool['devices_per_node']} {pool['accelerator']}"
            for pool in _pools(client, site.name)
        )
        bed.say(f"  {site.name}: {site.engine}, {pools}; {site.province}'s tariff, PUE {site.pue:g}")


def _pools(client: Client, site: str) -> list[dict[str, Any]]:
    pools = client.site(site)["pools"]
    return list(pools.values()) if isinstance(pools, dict) else list(pools)


def _end(machine: Machine, say: Callable[[str], None]) -> None:
    if not machine.end():
        say(f"{machine.name} did not end by itself and was killed")


def note(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)
