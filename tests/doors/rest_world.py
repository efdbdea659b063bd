"""A small grid for the doors' tests: two sites that report, a store and logs, a key of every role."""

import asyncio
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from suan.control.commands import first_start, issue_join_token, issue_key, join_site, set_tenant
from suan.control.loop import Grid
from suan.doors.client import Client
from suan.doors.connection import Request
from suan.doors.rest import create_app
from suan.grid.account import Role, Tenant, Usage
from suan.grid.action import Observation, OutputSeen, RunSeen
from suan.grid.job import EndCause, Resources, RunPhase, Task
from suan.grid.site import Pool
from suan.journals.memory import MemoryJournal
from suan.rules.policy import Policy
from suan.stores.artifacts import open_store
from suan.stores.logs import LogFolder

NOW_S = 1_800_000_000


class SetClock:
    """A clock that a test moves."""

    def __init__(self, at_s: int = NOW_S) -> None:
        self.at_s = at_s

    def now_s(self) -> int:
        return self.at_s


class World:
    """Keys: admin, operator (tenant default), alice and bob (members of theirs), viewer (of alice's)."""

    def __init__(self, folder: Path) -> None:
        self.clock = SetClock()
        self.grid = Grid(MemoryJournal(), self.clock, Policy(), secret=b"secret")
        self.grid.do(first_start("suan_admin"))
        for tenant in ("alice", "bob"):
            self.grid.do(set_tenant(Tenant(name=tenant)))
        self.store = open_store(folder / "store")
        self.logs = LogFolder(folder / "logs")
        self.app = create_app(self.grid, logs=self.logs, store=self.store)
        self.keys = {
            "admin": "suan_admin",
            "operator": self.key(Role.OPERATOR, "default"),
            "alice": self.key(Role.MEMBER, "alice"),
            "viewer": self.key(Role.VIEWER, "alice"),
            "bob": self.key(Role.MEMBER, "bob"),
        }
        for site in ("east", "west"):
            self.keys[site] = self.join(site)
            self.grid.report(self.full(site))

    def key(self, role: Role, tenant: str) -> str:
        return self.grid.do(issue_key(role, tenant)).key

    def join(self, site: str) -> str:
        token = self.grid.do(issue_join_token(site))
        return self.grid.do(join_site(token, site, region=site)).key

    def full(self, site: str, **seen: Any) -> Observation:
        price = {"east": 3_000_000, "west": 1_000_000}[site]
        pool = Pool(
            name="cpu",
            accelerator="CPU-x86",
            devices_per_node=8,
            nodes=1,
            cpus_per_node=8,
            memory_gib_per_node=32,
            machine_microyuan_per_device_h=price,
        )
        return Observation(
            site=site, epoch=1, full=True, pools=(pool,), data_url=f"http://{site}.invalid", **seen
        )

    def client(self, who: str = "alice") -> Client:
        """A client over the app, without a network."""
        return Client("http://grid.invalid", self.keys.get(who, who), transport=InProcess(self.app))

    def submit(self, who: str = "alice", **changes: Any) -> str:
        return self.client(who).submit([task(**changes)])[0]["id"]

    def place(self, job: str) -> str:
        """The job's run, ordered and started."""
        self.grid.tick()
        run = self.grid.state.runs[self.grid.state.jobs[job].runs[-1]]
        self.clock.at_s += 5
        self.grid.report(
            Observation(
                site=run.site,
                epoch=1,
                runs=(RunSeen(run=run.id, phase=RunPhase.RUNNING, started_at_s=self.clock.at_s),),
            )
        )
        return run.id

    def finish(self, run: str, **seen: Any) -> None:
        """The run ends well after an hour on its devices."""
        known = self.grid.state.runs[run]
        self.clock.at_s += 3600
        end = RunSeen(
            run=run,
            phase=RunPhase.ENDED,
            cause=EndCause.EXITED,
            exit_code=0,
            started_at_s=known.started_at_s,
            ended_at_s=self.clock.at_s,
            usage=Usage(device_s=3600 * known.devices, energy_kwh=0.5),
            **seen,
        )
        self.grid.report(Observation(site=known.site, epoch=1, runs=(end,)))

    def serve_at(self, run: str, endpoint: str, **progress: Any) -> None:
        site = self.grid.state.runs[run].site
        seen = RunSeen(run=run, phase=RunPhase.RUNNING, endpoint=endpoint, progress=progress)
        self.grid.report(Observation(site=site, epoch=1, runs=(seen,)))


def task(name: str = "count", **changes: Any) -> Task:
    given = {"run": "echo hello", "resources": (Resources(cpus=1),), "duration_s": 60} | changes
    return Task(name=name, **given)


def output(digest: str = "d" * 64) -> OutputSeen:
    return OutputSeen(digest=digest, bytes=10, files=1)


class _Answer:
    def __init__(self, response: Any) -> None:
        self.status, self.headers = response.status_code, response.headers
        self._body = io.BytesIO(response.content)

    def read(self) -> bytes:
        return self._body.read()

    def readline(self) -> bytes:
        return self._body.readline()

    def close(self) -> None:
        pass


class InProcess:
    """`connection.Transport` to an app in this process."""

    def __init__(self, app: Any) -> None:
        self._client = TestClient(app, raise_server_exceptions=False)

    def send(self, request: Request) -> _Answer:
        response = self._client.request(
            request.method, request.target, content=request.body, headers=dict(request.headers)
        )
        return _Answer(response)


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """A real server on loopback; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)
