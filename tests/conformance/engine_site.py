"""Where an engine is tested: opens it, writes orders, waits for runs, looks for what they left behind."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from suan.engines.local import LocalEngine
from suan.grid.job import RunPhase
from suan.grid.site import Pool
from suan.ports import Engine, EngineRun, LaunchSpec

processes = pytest.mark.needs("processes")
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.05; done"  # does not heed SIGTERM
POOL = Pool(
    name="pool",
    accelerator="CPU-x86",
    devices_per_node=4,
    nodes=2,
    cpus_per_node=4,
    memory_gib_per_node=16,
    device_w=10.0,
    host_w_per_node=40.0,
)


@dataclass
class EngineSite:
    """Where an engine keeps its runs. `open()` gives a new engine object, as a restarted agent would."""

    name: str
    folder: Path
    abilities: frozenset[str]
    opener: Callable[[Path], Engine]
    pass_time: Callable[[float], None] = time.sleep  # a simulated engine moves its own clock
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def open(self) -> Engine:
        return self.opener(self.folder)

    def spec(self, run: str = "", command: str = "true", **changes: object) -> LaunchSpec:
        work = self.folder.parent / "work"
        work.mkdir(exist_ok=True)
        details = {
            "run": run or f"run-{next(self._numbers)}",
            "job": "job-1",
            "pool": POOL.name,
            "accelerator": POOL.accelerator,
            "nodes": 1,
            "devices_per_node": 1,
            "folder": work,
            "grace_s": 2,
            "duration_s": 3600 if "sleep" in command else 1,
        }
        return LaunchSpec(**{**details, "command": command, **changes})

    def wait(
        self, engine: Engine, run: str, phase: RunPhase = RunPhase.ENDED, timeout_s: float = 60
    ) -> EngineRun:
        """The run once it is in `phase` (an ended one is not waited for any longer)."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            seen = {one.run: one for one in engine.runs()}.get(run)
            if seen is not None and seen.phase in (phase, RunPhase.ENDED):
                assert seen.phase is phase, seen
                return seen
            self.pass_time(0.02)
        raise AssertionError(f"{run} is not {phase} after {timeout_s} s: {seen}")

    def run(self, spec: LaunchSpec) -> tuple[EngineRun, str]:
        """How the run ended, and its output."""
        engine = self.open()
        engine.launch(spec)
        return self.wait(engine, spec.run), engine.log(spec.run, 0, 1 << 30).decode()

    def clean(self) -> None:
        engine = self.open()
        left = [run.run for run in engine.runs() if run.phase is not RunPhase.ENDED]
        for run in left:
            engine.stop(run, 0)
        for run in left:
            self.wait(engine, run)


def open_local(folder: Path) -> Engine:
    return LocalEngine(folder, (POOL,))


def processes_of(folder: Path) -> list[int]:
    """Live processes that were started with this folder somewhere in their environment, ours left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if bytes(folder) + b"/" in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_until(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first true answer."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def numbers_in(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def supervisor_of(site: EngineSite, run: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[-2:-1] == [bytes(site.folder / "runs" / run)] and b"supervise.py" in words[-3]:
                    return int(entry.name)
    return 0
