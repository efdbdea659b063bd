"""How many sites can one control plane serve?

A real grid in a process of its own, its journal on disk; a thousand agents in another one, which speak to its
REST door over HTTP as real agents do: a long poll each, a report of every change, a full report every half
minute, each run's log. What they stand for is simulated: a run only takes its time. Jobs arrive at a steady
rate until there were 100,000 runs. `--agents N`, `--runs N`, `--rate PER_S` for another size.

Limits: reports are answered within a second at p99, a tenth of the third of a lease after which an agent
would ask again; a submission reaches its site within 5 s at p99, as long as the run's own start may take on
Ray; the grid's own processor time a run stays below what one core can give at 100 runs a second. Beside it in
the same run: a bare answer of the same web server to the same requests.
"""

import argparse
import asyncio
import contextlib
import heapq
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from report import Result, show

from suan.doors.client import Client
from suan.engines.runner import FULL_S, LOOK_S
from suan.grid.account import Usage
from suan.grid.action import Observation, Orders, RunSeen
from suan.grid.job import EndCause, Resources, RunPhase, Task
from suan.grid.site import Pool

DEVICES, RUN_S, START_S, BATCH = 8, 20.0, 0.3, 20
_AT_ONCE = 16  # connections of those who submit
_SETTLE_S = 15.0  # sites have joined and all wait for news
_IDLE_S = 20.0  # in which the cost of agents without runs is measured
_BARE_REQUESTS = 2000
_KEPT_S, _PAUSE_S = 30.0, 0.5  # as `doors/connection.py` and `engines/runner.py` have it
_BARE = """
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def answer(request):
    return Response(bytes(400 - len(await request.body())))
uvicorn.run(Starlette(routes=[Route('/', answer, methods=['POST'])]), port={port}, log_level='error')
"""
_decode = msgspec.json.Decoder(Orders).decode
_encode = msgspec.json.Encoder().encode


@dataclass
class Seen:
    """What all agents measured together; seconds."""

    open_s: dict[str, float] = field(default_factory=dict)  # job -> submitted, or at its site, which is first
    reports_s: list[float] = field(default_factory=list)
    orders_s: list[float] = field(default_factory=list)  # from submission to the site
    submits_s: list[float] = field(default_factory=list)
    polls: int = 0
    asked_again: int = 0  # requests that were not answered, or with "not now"
    stopped: int = 0  # runs that the grid did not hold any more: their site was silent for too long
    ended: int = 0

    def note(self, job: str, at_s: float) -> None:
        """It was submitted, or came to its site, which may be known before the submission's answer."""
        if job in self.open_s:
            self.orders_s.append(abs(at_s - self.open_s.pop(job)))
        else:
            self.open_s[job] = at_s


class Http:
    """One connection that stays open while it is used, and one request on it at a time."""

    def __init__(self, url: str, key: str, seen: Seen) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._head = f"host: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used_s, self._seen = 0.0, seen

    async def ask(self, method: str, path: str, body: bytes, *more: str) -> bytes:
        """The body of a success. Asks until the grid answers, as agents do.

        Raises: AssertionError when the grid refuses.
        """
        lines = "".join(f"{line}\r\n" for line in more)
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{lines}content-length: {len(body)}\r\n\r\n"
        while True:
            try:
                answer, content = await self._once(head.encode() + body)
                if answer[9:12] not in (b"409", b"429", b"503"):
                    assert answer[9:10] == b"2", (method, path, answer, content)
                    return content
            except (OSError, EOFError):
                self.close()
            self._seen.asked_again += 1
            await asyncio.sleep(_PAUSE_S)

    async def _once(self, request: bytes) -> tuple[bytes, bytes]:
        """(head, body)"""
        if time.monotonic() - self._used_s > _KEPT_S:  # servers close idle connections
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        content = await reader.readexactly(length)
        self._used_s = time.monotonic()
        return answer, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


class SimulatedAgent:
    """A site: tells what its runs do, as `engines/runner.py` does, and starts what it is ordered to."""

    def __init__(self, site: str, url: str, key: str, seen: Seen) -> None:
        self._site, self._seen = site, seen
        self._news, self._say, self._logs = (Http(url, key, seen) for _ in range(3))
        self._pool = Pool(name="cpu", accelerator="CPU-x86", devices_per_node=DEVICES, nodes=1)
        self._runs: dict[str, RunSeen] = {}
        self._told: dict[str, RunSeen] = {}
        self._forgotten: set[str] = set()  # no order that comes late starts them again
        self._due: list[tuple[float, str, RunPhase]] = []
        self._epoch, self._version, self._knows_s = 1, 0, 0
        self._full_at_s = float("-inf")
        self._changed = asyncio.Event()

    async def live(self) -> None:
        """Until it is cancelled."""
        try:
            await self._report(full=True)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._wait_for_news())
                tasks.create_task(self._look())
        except Exception as error:
            error.add_note(f"agent of {self._site}, which has {self._runs}")
            raise
        finally:
            for connection in (self._news, self._say, self._logs):
                connection.close()

    async def _wait_for_news(self) -> None:
        body = _encode(Observation(site=self._site, epoch=self._epoch))
        while True:
            path = f"/v1/sites/{self._site}/report?wait_s=10&known={self._version}"
            orders = _decode(await self._news.ask("POST", path, body))
            self._seen.polls += 1
            self._obey(orders)

    async def _look(self) -> None:
        while True:
            due_s = min(self._due[0][0] if self._due else float("inf"), self._full_at_s + FULL_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due_s - time.monotonic())):
                    await self._changed.wait()
            self._changed.clear()
            await self._pass_time()
            full = time.monotonic() - self._full_at_s >= FULL_S
            if full or self._runs != self._told:
                await self._report(full=full)
                await asyncio.sleep(LOOK_S)

    async def _pass_time(self) -> None:
        now_s, wall_s = time.monotonic(), int(time.time())
        while self._due and self._due[0][0] <= now_s:
            _, run, phase = heapq.heappop(self._due)
            if run not in self._runs:
                continue
            if phase is RunPhase.RUNNING:
                self._runs[run] = RunSeen(run=run, phase=phase, started_at_s=wall_s)
                heapq.heappush(self._due, (now_s + RUN_S, run, RunPhase.ENDED))
                continue
            started_at_s = self._runs[run].started_at_s
            path = f"/v1/sites/{self._site}/runs/{run}/log?offset=0"
            await self._logs.ask("PUT", path, b"what the run says, a line or two, in the end\n" * 4)
            if run not in self._runs:  # taken away meanwhile
                continue
            self._runs[run] = RunSeen(
                run=run,
                phase=phase,
                started_at_s=started_at_s,
                ended_at_s=wall_s,
                cause=EndCause.EXITED,
                exit_code=0,
                usage=Usage(device_s=RUN_S, cpu_s=RUN_S, energy_kwh=0.001),
            )
            self._seen.ended += 1

    async def _report(self, *, full: bool) -> None:
        runs = dict(self._runs)
        told = runs.values() if full else [run for run in runs.values() if self._told.get(run.run) != run]
        pools = (self._pool,) if full else ()
        report = Observation(
            site=self._site,
            epoch=self._epoch,
            full=full,
            runs=tuple(told),
            pools=pools,
            knows_s=self._knows_s,
        )
        began_s = time.monotonic()
        orders = _decode(await self._say.ask("POST", f"/v1/sites/{self._site}/report", _encode(report)))
        self._seen.reports_s.append(time.monotonic() - began_s)
        self._told = runs
        if full:
            # The first ones came together; the next need not.
            early_s = random.uniform(0.0, FULL_S) if self._full_at_s < 0 else 0.0
            self._full_at_s = began_s - early_s
        self._obey(orders)

    def _obey(self, orders: Orders) -> None:
        now_s = time.monotonic()
        self._version, self._epoch, self._knows_s = orders.version, orders.epoch, orders.now_s
        for launch in orders.launch:
            if launch.run not in self._runs and launch.run not in self._forgotten:
                self._runs[launch.run] = RunSeen(run=launch.run, phase=RunPhase.ORDERED)
                heapq.heappush(self._due, (now_s + START_S, launch.run, RunPhase.RUNNING))
                self._seen.note(launch.job, now_s)
        for run in orders.forget:
            known = self._runs.pop(run, None)
            self._seen.stopped += known is not None and known.phase is not RunPhase.ENDED
            self._told.pop(run, None)
            self._forgotten.add(run)
        assert not (ours := {order.run for order in orders.stop} - set(orders.forget)), ours
        self._changed.set()


async def submit(url: str, key: str, seen: Seen, runs: int, rate: float) -> None:
    """So many jobs of one core, at this rate, in requests of BATCH; at most some requests at once."""
    door = [Http(url, key, seen) for _ in range(_AT_ONCE)]
    free = asyncio.Queue[Http]()
    for one in door:
        free.put_nowait(one)
    task = Task(name="run", run="true", resources=(Resources(cpus=1),), duration_s=int(RUN_S))
    body = _encode({"tasks": [task] * BATCH, "pipeline": ""})
    headers = ("content-type: application/json",)

    async def one(connection: Http, number: int) -> None:
        began_s = time.monotonic()
        answer = await connection.ask("POST", "/v1/jobs", body, *headers, f"idempotency-key: bench-{number}")
        seen.submits_s.append(time.monotonic() - began_s)
        for job in msgspec.json.decode(answer)["jobs"]:
            seen.note(job["id"], began_s)
        free.put_nowait(connection)

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(runs // BATCH):
            await asyncio.sleep(max(0.0, began_s + number * BATCH / rate - time.monotonic()))
            tasks.create_task(one(await free.get(), number))
    for connection in door:
        connection.close()


# ---------------------------------------------------------------- the grid


@contextlib.contextmanager
def grid(folder: Path) -> Iterator[tuple[str, str, int]]:
    """(address, admin's key, process) of a control plane as a person starts it."""
    environment = {**os.environ, "SUAN_CONFIG": str(folder / "client.json")}
    command = [sys.executable, "-m", "suan.doors.cli.main", "up", "--state", str(folder / "grid"), "--port=0"]
    with open(folder / "grid.log", "wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        note = folder / "grid" / "grid.json"
        while not note.exists():
            assert process.poll() is None, (folder / "grid.log").read_text()
            time.sleep(0.05)
        url = msgspec.json.decode(note.read_bytes())["url"]
        yield url, (folder / "grid" / "admin.key").read_text().strip(), process.pid
        assert process.poll() is None, (folder / "grid.log").read_text()
    finally:
        process.terminate()
        process.wait()


def cpu_s(process: int) -> float:
    """Processor seconds of all its threads so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextlib.asynccontextmanager
async def joined(url: str, key: str, count: int, seen: Seen) -> AsyncIterator[None]:
    """So many agents, living."""

    def agent(number: int) -> SimulatedAgent:
        client, site = Client(url, key), f"site-{number:04}"
        return SimulatedAgent(site, url, client.join(client.join_token(site), site)["key"], seen)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        agents = list(pool.map(agent, range(count)))
    async with asyncio.TaskGroup() as tasks:  # one that fails ends the measurement at once
        living = [tasks.create_task(agent.live()) for agent in agents]
        await asyncio.sleep(_SETTLE_S)
        yield
        for task in living:
            task.cancel()


async def bare() -> float:
    """Processor seconds of a request to the same web server that only answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", _BARE.format(port=port)])
    try:
        door = Http(f"http://127.0.0.1:{port}", "key", Seen())
        await door.ask("POST", "/", bytes(200))
        began_s = cpu_s(server.pid)
        for _ in range(_BARE_REQUESTS):
            await door.ask("POST", "/", bytes(200))
        return (cpu_s(server.pid) - began_s) / _BARE_REQUESTS
    finally:
        server.terminate()
        server.wait()


async def measure(folder: Path, agents: int, runs: int, rate: float) -> list[Result]:
    seen = Seen()
    bare_s = await bare()
    with grid(folder) as (url, key, process):
        async with joined(url, key, agents, seen):
            settled_s = cpu_s(process)
            await asyncio.sleep(_IDLE_S)
            idle_s, idle_mib, idle_polls = cpu_s(process), peak_mib(process), seen.polls
            seen.reports_s.clear()
            began_s = time.monotonic()
            submitting = asyncio.create_task(submit(url, key, seen, runs, rate))
            while seen.ended < runs // BATCH * BATCH:
                await asyncio.sleep(1)
                if submitting.done():
                    submitting.result()
                said = f"{time.monotonic() - began_s:.0f} s, {seen.ended:,} ended, {len(seen.open_s)} wait"
                print(f"\r{said}   ", end="", file=sys.stderr)
            took_s, used_s = time.monotonic() - began_s, cpu_s(process) - idle_s
        peak = peak_mib(process)
    requests = len(seen.reports_s) + len(seen.submits_s) + seen.polls - idle_polls + runs
    print(f"\n{agents:,} agents, {runs:,} runs in {took_s:.0f} s, {requests:,} requests", file=sys.stderr)
    door = percentiles(seen.submits_s)
    print(f"submission p50 {door[0] * 1e3:.0f} ms, p99 {door[1] * 1e3:.0f} ms", file=sys.stderr)
    print(f"{seen.asked_again} requests asked again, {seen.stopped} runs stopped", file=sys.stderr)
    report, order = percentiles(seen.reports_s), percentiles(seen.orders_s)
    beside = f"{bare_s * 1e3:.2f} ms of the web server alone"
    return [
        Result("answer to a report, p99", report[1], "s", 1.0, "docstring", report[1] / report[0], "p50"),
        Result("submission to order at the site, p99", order[1], "s", 5.0, "docstring",
               order[1] / order[0], "p50"),
        Result("processor time a run", used_s / runs * 1e3, "ms", 10.0, "100 runs/s of one core",
               used_s / requests / bare_s, f"a request, {beside}"),
        Result("processors in use while nothing runs", (idle_s - settled_s) / _IDLE_S, "", 0.5, "half of one",
               (idle_s - settled_s) / used_s * took_s / _IDLE_S, "of what the runs take, agents included"),
        Result("processors in use", used_s / took_s, "", 1.0, "one", runs / took_s, "runs a second"),
        Result("memory at its peak", peak, "MiB", 2048.0, "20 kB a run that has ended", peak / idle_mib,
               "before the first run"),
    ]  # fmt: skip


def percentiles(values: list[float]) -> tuple[float, float]:
    """(p50, p99)"""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=100.0, help="jobs a second")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".", prefix="agents-") as name:
        show("agents", asyncio.run(measure(Path(name), asked.agents, asked.runs, asked.rate)))


if __name__ == "__main__":
    main()
