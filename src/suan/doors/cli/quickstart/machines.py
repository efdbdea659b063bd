"""The quickstart's three processes: the grid and two agents, each started by the command that a person would
type.

Knows where each keeps its state, starts again what was killed and counts that, and ends all of them,
confirmed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from suan.doors.cli import process as processes
from suan.doors.cli.process import Process
from suan.doors.cli.quickstart.world import SITES, DeclaredSite, site_toml
from suan.doors.client import Client
from suan.grid.error import NotNow, Refused, SuanError

Result = TypeVar("Result")

_START_S = 60.0
_AWAY_S = 120.0
_STOP_S = 45.0  # an agent gives its runs 10 s, then tells the grid how they ended
_MOST_DEATHS = 20  # of one process in a minute: then something is wrong with it
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Machines:
    """Grid, east and west, below one state folder."""

    def __init__(self, state: Path, say: Callable[[str], None]) -> None:
        self.state = state
        self.restarts = 0
        self.config = state / "client.json"
        self._say = say
        self._running: dict[str, Process] = {}
        self._deaths: dict[str, list[float]] = {}
        for name in self._names():
            if (found := processes.load(self._note(name))) and found.alive:
                self._running[name] = found

    @property
    def url(self) -> str:
        """Where the grid listens: a port chosen once for this state folder."""
        path = self.state / "port"
        if not path.exists():
            path.write_text(str(_free_port()), "utf-8")
        return f"http://127.0.0.1:{path.read_text('utf-8').strip()}"

    def client(self) -> Client:
        """The grid, with its admin's key.

        Raises: NotNow when it has not started yet.
        """
        try:
            key = (self.state / "grid" / "admin.key").read_text("utf-8").strip()
        except FileNotFoundError as error:
            raise NotNow("grid_unreachable", "the grid has not started yet", hint="suan up") from error
        return Client(self.url, key)

    def start(self) -> Client:
        """The grid and both sites, up and known to each other."""
        if "grid" not in self._running:
            self._start_grid()
        client = self._wait_for_grid()
        for site in SITES:
            if site.name not in self._running:
                self._start_agent(site, client)
        self._wait_for_sites(client)
        return client

    def watch(self) -> bool:
        """Starts again whatever has died since the last look; whether anything had.

        Raises: Refused `keeps_dying` when one of them dies again and again.
        """
        dead = [name for name, process in self._running.items() if not process.alive]
        for name in dead:
            what = "the grid" if name == "grid" else f"the agent of {name}"
            del self._running[name]
            self._count_death(name, what)
            self.restarts += 1
            self._say(f"{what} has died; starting it again from what it wrote down")
            if name == "grid":
                self._start_grid()
                self._wait_for_grid()
            else:
                self._start_agent(next(site for site in SITES if site.name == name), None)
        return bool(dead)

    def persist(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, done again while the grid is away. For work that may be done twice.

        Raises: NotNow when the grid stays away.
        """
        deadline_s = time.monotonic() + _AWAY_S
        while True:
            try:
                self.watch()
                return work()
            except NotNow:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(0.3)

    def stop(self) -> list[str]:
        """Ends the agents, which end their runs, then the grid; what had to be killed. Nothing is left."""
        killed = []
        agents = [name for name in self._running if name != "grid"]
        for name in agents:
            self._running[name].signal(signal.SIGTERM)
        for name in [*agents, *(["grid"] if "grid" in self._running else [])]:
            if not self._running.pop(name).end(_STOP_S):
                killed.append(name)
            self._note(name).unlink(missing_ok=True)
        deadline_s = time.monotonic() + 15
        while (left := processes.left_in(self.state)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        for process in left:  # of a run whose agent was killed; its supervisor would end it with the lease
            killed.append(f"process {process.pid} of a run")
            process.signal(signal.SIGKILL)
            process.wait(5.0)
        return killed

    # ------------------------------------------------------------ inside

    def _names(self) -> tuple[str, ...]:
        return ("grid", *(site.name for site in SITES))

    def _note(self, name: str) -> Path:
        return self.state / f"{name}.process.json"

    def _log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def _start_grid(self) -> None:
        port = self.url.rpartition(":")[2]
        self._launch(
            "grid", ["up", "--state", str(self.state / "grid"), "--host", "127.0.0.1", "--port", port]
        )

    def _start_agent(self, site: DeclaredSite, client: Client | None) -> None:
        """With a token where the site has no key yet."""
        folder = self.state / site.name
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "site.toml"
        config.write_text(site_toml(site, self.url, folder), "utf-8")
        token = {}
        if not (folder / "site.json").exists():
            token = {"SUAN_TOKEN": (client or self.client()).join_token(site.name)}
        self._launch(site.name, ["join", "--config", str(config), "--stop-runs"], token)

    def _launch(self, name: str, arguments: list[str], extra: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "suan.doors.cli.main", *arguments]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        mine = {name: value for name, value in os.environ.items() if not name.startswith("SUAN_")}
        environment = {**mine, **_OFFLINE, "PATH": path, "SUAN_CONFIG": str(self.config), **(extra or {})}
        self._running[name] = processes.start(command, self._log(name), environment)
        processes.save(self._note(name), self._running[name])

    def _wait_for_grid(self) -> Client:
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                client = self.client()
                client.whoami()
                return client
            except SuanError as error:
                process = self._running["grid"]
                if time.monotonic() > deadline_s or not process.alive:
                    raise self._failed("grid", f"the grid did not start: {error.what}") from error
            time.sleep(0.1)

    def _wait_for_sites(self, client: Client) -> None:
        deadline_s = time.monotonic() + _START_S
        wanted = {site.name for site in SITES}
        while True:
            ready = {site["name"] for site in client.sites() if site["pools"] and site["phase"] == "ready"}
            if wanted <= ready:
                return
            for name in sorted(wanted - ready):
                if time.monotonic() > deadline_s or not self._running[name].alive:
                    raise self._failed(name, f"the site {name} did not join")
            time.sleep(0.1)

    def _count_death(self, name: str, what: str) -> None:
        deaths = self._deaths.setdefault(name, [])
        deaths.append(time.monotonic())
        if len([at_s for at_s in deaths if at_s > time.monotonic() - 60]) > _MOST_DEATHS:
            raise self._failed(name, f"{what} dies again and again")

    def _failed(self, name: str, what: str) -> Refused:
        log = self._log(name)
        tail = log.read_text("utf-8", "replace").strip().splitlines()[-1:] if log.exists() else []
        return Refused("did_not_start", ": ".join([what, *tail]), hint=f"see {log}")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file, empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: object) -> None:
    """Replaces the file, all or nothing."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
    fresh.replace(path)
