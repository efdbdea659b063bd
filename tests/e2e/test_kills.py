"""kill -9 to the grid and to agents at random moments, as real processes, while pipelines run at two sites.

Safety: nothing runs twice or is committed twice, no money appears, no process stays, no log is cut short.
Liveness: when the killing stops, every job succeeds.
"""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from suan.doors.client import Client
from suan.grid import fact as f
from suan.grid.error import NotNow
from suan.grid.job import Place, Resources, Task
from suan.grid.state import State
from suan.journals.sqlite import SqliteJournal
from suan.rules.evolve import evolve
from suan.stores.logs import LogFolder

SEED = 20261121
KILLS = 21
SITES = ("east", "west")
STAGES = 4
AT_ONCE = 3  # pipelines


class Program:
    """One of ours as a real process, which can be killed and started again."""

    def __init__(self, folder: Path, name: str, arguments: list[str]) -> None:
        self.name = name
        self._arguments = arguments
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "SUAN_CONFIG": str(self._folder / "client.json")}
        with open(self._folder / f"{self.name}.log", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "suan.doors.cli.main", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def end(self, number: int, within_s: float = 40) -> int:
        if self.process is None or self.process.poll() is not None:
            return -1
        self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    @property
    def said(self) -> str:
        return (self._folder / f"{self.name}.log").read_text("utf-8", "replace")


class Programs:
    """A grid and two sites, linked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sites: dict[str, Program] = {}
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.grid = Program(folder, "grid", ["up", "--state", str(folder / "grid"), "--port", str(port)])

    def start(self) -> None:
        folder = self.folder
        self.grid.start()
        until(lambda: (folder / "grid" / "grid.json").exists(), of=self.grid)
        self.client = Client(self.url, (folder / "grid" / "admin.key").read_text().strip())
        for site in SITES:
            token = self.client.join_token(site)
            state = str(folder / site)
            arguments = ["join", self.url, "--site", site, "--state", state, "--pool", "cpu:CPU:1x8"]
            self.sites[site] = Program(folder, site, [*arguments, "--token", token])
            self.sites[site].start()
        for site in SITES:
            until(lambda site=site: self._has_pools(site), of=self.sites[site])
        for source, destination in (SITES, SITES[::-1]):
            self.client.set_link(source, destination, mbit_per_s=1000, microyuan_per_gb=10_000)

    def _has_pools(self, name: str) -> bool:
        return any(site["name"] == name and site["pools"] for site in self.client.sites())

    def all(self) -> list[Program]:
        return [self.grid, *self.sites.values()]

    def processes_of_runs(self) -> list[int]:
        """Everything alive that belongs to a run of these sites, supervisors included."""
        marker = f"SUAN_RUN_FOLDER={self.folder}/".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if marker in environment:
                found.append(int(name))
        return found

    def close(self) -> None:
        for program in self.sites.values():
            program.end(signal.SIGKILL)
        self.grid.end(signal.SIGKILL)
        for process in self.processes_of_runs():
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    try:
        programs.start()
        yield programs
    finally:
        programs.close()


def until(condition: Callable[[], object], within_s: float = 40, of: Program | None = None) -> None:
    """Asks until it is so; a grid that is away for a moment counts as no."""
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            if condition():
                return
        except NotNow:
            pass
        assert time.monotonic() < deadline_s, of.said if of else "not in time"
        time.sleep(0.1)


def pipeline(number: int, folder: Path) -> list[Task]:
    """Four tasks, each reading what the one before it wrote, at alternating sites: everything moves."""
    tasks = []
    for stage in range(STAGES):
        name = f"p{number}s{stage}"
        seconds = 1 + (number + stage) % 3 / 2
        read = "cat $SUAN_INPUT_LINES/text >> $SUAN_OUTPUT_LINES/text;" if stage else ""
        tasks.append(
            Task(
                name=name,
                run=f"echo $SUAN_RUN_ID >> {folder}/ran; echo begin {name}; sleep {seconds}; {read}"
                f" echo {name} >> $SUAN_OUTPUT_LINES/text; seq 1 2000; echo end {name}",
                duration_s=2,
                resources=(Resources(cpus=1),),
                inputs={"lines": f"dataset:p{number}s{stage - 1}"} if stage else {},
                outputs={"lines": f"dataset:{name}"},
                place=Place(sites=(SITES[(number + stage) % 2],)),
            )
        )
    return tasks


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(programs: Programs) -> None:
    dice = random.Random(SEED)
    client = programs.client
    jobs: list[str] = []
    kills: Counter[str] = Counter()

    def submit() -> None:
        number = len(jobs) // STAGES
        tasks = pipeline(number, programs.folder)
        until(lambda: jobs.extend(job["id"] for job in _submit(client, tasks, number)) or True)

    def unfinished() -> int:
        return sum(client.job(job)["ended_at_s"] is None for job in jobs)

    for _ in range(AT_ONCE):
        submit()
    while sum(kills.values()) < KILLS:
        time.sleep(dice.uniform(0.1, 1.5))
        # Turns, so that each gets its share; two at once now and then.
        victims = dice.sample(programs.all(), k=2 if dice.random() < 0.2 else 1)
        for victim in victims:
            assert victim.process is not None and victim.process.poll() is None, victim.said
            victim.end(signal.SIGKILL)
            kills[victim.name] += 1
        time.sleep(dice.uniform(0.0, 0.7))
        for victim in victims:
            victim.start()
        until(client.version, of=programs.grid)
        if unfinished() < STAGES * (AT_ONCE - 1):
            submit()
    until(lambda: unfinished() == 0, within_s=60, of=programs.grid)
    assert min(kills.values()) >= 3, kills
    until(lambda: not programs.processes_of_runs(), within_s=10)
    for site in programs.sites.values():
        assert site.end(signal.SIGTERM) == 0, site.said
    programs.grid.end(signal.SIGTERM)
    for program in programs.all():
        assert "Traceback" not in program.said, program.said
    check(programs.folder, jobs)


def _submit(client: Client, tasks: list[Task], number: int) -> list[dict[str, str]]:
    return client.submit(tasks, pipeline=f"p{number}", idempotency_key=f"p{number}")


def check(folder: Path, jobs: list[str]) -> None:
    """What must be true of the journal, the logs and the machine, whatever was killed when."""
    journal = SqliteJournal(folder / "grid" / "grid.sqlite")
    facts = [fact for _, fact in journal.read()]
    journal.close()
    state = State()
    for fact in facts:
        evolve(state, fact)
    assert sorted(state.jobs) == sorted(jobs)
    ends = Counter(fact.job for fact in facts if isinstance(fact, f.JobEnded))
    assert ends == Counter(jobs)
    assert {job.phase for job in state.jobs.values()} == {"succeeded"}, state.jobs
    commits = Counter(fact.artifact.job for fact in facts if isinstance(fact, f.ArtifactCommitted))
    assert commits == Counter(jobs)
    assert {artifact.id.partition("@")[2] for artifact in state.artifacts.values()} == {"1"}
    assert sum(entry.amount_microyuan for entry in state.entries) == 0
    settled = [entry.movement for entry in state.entries if entry.what == "pays"]
    assert len(settled) == len(set(settled))
    ran = (folder / "ran").read_text().split()
    assert len(ran) == len(set(ran)), "a run was started twice"
    logs = LogFolder(folder / "grid" / "logs")
    for job in state.jobs.values():
        assert [run for run in job.runs if run in ran] == list(job.runs[-1:]), job
        said = logs.read(job.runs[-1], 0, 1 << 20).decode()
        expected = "\n".join(
            [f"begin {job.task.name}", *map(str, range(1, 2001)), f"end {job.task.name}", ""]
        )
        assert said == expected, (job.id, said[-200:])
        artifact = state.artifacts[job.outputs["lines"]]
        number, stage = map(int, re.findall(r"\d+", job.task.name))
        lines = "".join(f"p{number}s{part}\n" for part in range(stage + 1))
        assert artifact.bytes == len(lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
