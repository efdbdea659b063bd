"""Processes that outlive the command that started them: known again by pid and start time, ended and
confirmed.

Knows /proc. A pid alone proves nothing, it may belong to somebody else by now; so nothing is signalled whose
start time is not the one that was written down.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_POLL_S = 0.05
_RUN_MARKER = "SUAN_RUN_FOLDER"  # as engines/supervise.py sets it


class Process(NamedTuple):
    """One process, at one time of one boot. `started` is its start in clock ticks since the boot."""

    pid: int
    started: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; a child that has ended is collected on the way."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return self.boot == boot_id() and _start_ticks(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Sends the signal to this process, and to nobody who has its pid now."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """True when it has ended within the time."""
        deadline_s = time.monotonic() + timeout_s
        while self.alive:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def end(self, grace_s: float) -> bool:
        """SIGTERM, after the grace SIGKILL; returns when it has ended. False when it had to be killed."""
        self.signal(signal.SIGTERM)
        if self.wait(grace_s):
            return True
        self.signal(signal.SIGKILL)
        self.wait(10.0)
        return False


def this_process(pid: int | None = None) -> Process | None:
    """The process that has this pid now (our own when none is given); None when there is none."""
    number = os.getpid() if pid is None else pid
    started = _start_ticks(number)
    return None if started is None else Process(number, started, boot_id())


def start(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Process:
    """Starts it in a session of its own, out of a terminal's Ctrl-C; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        popen = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
        )
    popen.returncode = 0  # collected in `alive`; Popen must neither wait for it nor complain
    started = this_process(popen.pid)
    return started or Process(popen.pid, -1, boot_id())


def save(path: Path, process: Process) -> None:
    """Writes down which process it is, all or nothing."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(process._asdict()), "utf-8")
    fresh.replace(path)


def load(path: Path) -> Process | None:
    """The process that was written down; None where there is nothing that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
        return Process(int(found["pid"]), int(found["started"]), str(found["boot"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def boot_id() -> str:
    """This boot's id: start times are counted from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def left_in(folder: Path) -> list[Process]:
    """Every process of runs kept in `folder`: the local engine marks their environment with the run's."""
    marker, found = f"{_RUN_MARKER}={folder.resolve()}{os.sep}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # another user's, or gone
            continue
        if not any(variable.startswith(marker) for variable in environment):
            continue
        if process := this_process(int(entry.name)):
            found.append(process)
    return found


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when no such process runs. Source: proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
