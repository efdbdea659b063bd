"""A whole grid in one process for tests: real loop, agents, engines and stores, no HTTP to the grid.

Sites are folders; their agents run in threads of their own and can be ended and started again.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from suan.control import commands
from suan.control.loop import Grid
from suan.engines.agent import Agent
from suan.engines.direct import DirectDoor
from suan.engines.local import LocalEngine
from suan.engines.runner import GridDoor, run_agent
from suan.grid.account import Tenant
from suan.grid.job import TERMINAL_PHASES, Job, Resources, Task
from suan.grid.site import Link, Pool
from suan.journals.memory import MemoryJournal
from suan.rules.policy import Policy
from suan.stores.artifacts import open_store
from suan.stores.door import DataDoor
from suan.stores.logs import LogFolder
from suan.stores.mover import ChunkMover

TENANT = "team"


class WallClock:
    def now_s(self) -> int:
        return int(time.time())


def cpu_pool(devices: int = 4, **details: object) -> Pool:
    return Pool(
        name="cpu", accelerator="CPU-x86", devices_per_node=devices, nodes=1, memory_gib_per_node=8, **details
    )


def shell(name: str, run: str, **details: object) -> Task:
    """A task on one core that is expected to be short."""
    return Task(name=name, run=run, duration_s=1, resources=(Resources(cpus=1),), **details)


class RunningSite:
    """One site's agent in threads of this process."""

    def __init__(self, world: "World", name: str, pools: tuple[Pool, ...], door: GridDoor) -> None:
        folder = world.folder / name
        store = open_store(folder / "store")
        self.agent = Agent(
            site=name,
            store=store,
            folder=folder,
            clock=WallClock(),
            engine=LocalEngine(folder / "engine", pools) if pools else None,
            mover=ChunkMover(store),
            door=DataDoor(store),
        )
        self.stop = threading.Event()
        self.stop_runs = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(door,), daemon=True)
        self.thread.start()

    def _run(self, door: GridDoor) -> None:
        try:
            run_agent(self.agent, door, self.stop, stop_runs=self.stop_runs, grace_s=2)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """As after SIGTERM: the runs go on."""
        self.stop.set()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()
        self.agent.close()

    def close(self) -> None:
        """As after SIGINT: the runs are stopped."""
        self.stop_runs.set()
        self.end()


class World:
    def __init__(self, folder: Path, policy: Policy | None = None) -> None:
        self.folder = folder
        self.logs = LogFolder(folder / "logs")
        self.journal = MemoryJournal()
        self.grid = Grid(self.journal, WallClock(), policy or Policy(), secret=b"secret")
        self.grid.start()
        self.doors: list[DirectDoor] = []
        self.sites: dict[str, RunningSite] = {}
        self.grid.do(commands.set_tenant(Tenant(name=TENANT)))

    def join(self, name: str) -> None:
        token = self.grid.do(commands.issue_join_token(name))
        self.grid.do(commands.join_site(token, name))

    def start(
        self,
        name: str,
        *pools: Pool,
        through: Callable[[DirectDoor], GridDoor] = lambda door: door,
    ) -> RunningSite:
        """Starts the site's agent; returns when the grid knows its pools."""
        if name not in self.grid.state.sites:
            self.join(name)
        door = DirectDoor(self.grid, self.logs)
        self.doors.append(door)
        site = self.sites[name] = RunningSite(self, name, pools or (cpu_pool(),), through(door))
        self.until(lambda: self.grid.state.sites[name].pools and self.grid.state.sites[name].data_url)
        return site

    def link(self, source: str, destination: str, mbit_per_s: float, **details: object) -> None:
        link = Link(source=source, destination=destination, mbit_per_s=mbit_per_s, **details)
        self.grid.do(commands.set_link(link))

    def submit(self, *tasks: Task) -> tuple[str, ...]:
        return self.grid.do(commands.submit(TENANT, tasks))

    def job(self, job: str) -> Job:
        return self.grid.state.jobs[job]

    def ended(self, *jobs: str, within_s: float = 30) -> list[Job]:
        self.until(
            lambda: all(self.job(job).phase in TERMINAL_PHASES for job in jobs), within_s=within_s, of=jobs
        )
        return [self.job(job) for job in jobs]

    def log(self, run: str) -> bytes:
        return self.logs.read(run, 0, 1 << 30)

    def until(self, condition: Callable[[], object], within_s: float = 30, of: tuple[str, ...] = ()) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline_s:
                jobs = [(self.job(job), self.grid.reason(job)) for job in of]
                runs = list(self.grid.state.runs.values())
                raise AssertionError(f"not within {within_s} s: {jobs} {runs} {self.grid.live}")
            time.sleep(0.02)

    def close(self) -> None:
        for site in self.sites.values():
            if site.thread.is_alive():
                site.stop_runs.set()
                site.stop.set()
        for site in self.sites.values():
            site.end()
        for door in self.doors:
            door.close()
        self.grid.stop()
