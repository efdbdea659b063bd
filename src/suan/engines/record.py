"""The folder that holds one local run: what was ordered, where it stands, how it ended, what of it is alive.

Knows files, locks and /proc. Does not know what to do about them: that is `local.py`. The same files from the
other side: `supervise.py`.
"""

import contextlib
import fcntl
import os
import signal
import struct
import time
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from suan.engines import supervise
from suan.engines.devices import LOOPBACK
from suan.engines.metering import PowerShare
from suan.engines.run_folders import Exit, read_record
from suan.grid.job import EndCause

SUPERVISOR_LOG, SCRIPT = "supervisor.log", "script.sh"
_PLACE = "place.json"
# struct flock of Linux on 64-bit machines: type, whence, start, length, pid. Source: fcntl(2).
_FLOCK = struct.Struct("@hhqqi0q")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine keeps of a run for as long as it remembers it. No secrets: those are in the order."""

    run: str
    pool: str
    devices: tuple[int, ...]
    ports: tuple[int, ...]
    port: int
    boot_id: str
    power: PowerShare


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Written by the supervisor before it starts anything, and again when the run is ending."""

    phase: str
    started_at_s: int
    cgroup: str = ""
    address: str = LOOPBACK


@cache
def boot_id() -> str:
    """Changes when the machine starts anew."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class RunRecord:
    """One run's folder. Reading what is not there, or was torn by a power loss, gives None."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, place: Place, order: dict[str, Any]) -> None:
        """Fills the folder, which exists and which nobody else sees yet."""
        os.mkfifo(self.folder / supervise.WAKE, 0o600)
        for name in (supervise.LOCK, supervise.LOG):
            (self.folder / name).touch(0o600)
        supervise.write_json(str(self.folder / _PLACE), msgspec.to_builtins(place))
        supervise.write_json(str(self.folder / supervise.ORDER), order)

    def place(self) -> Place | None:
        return read_record(self.folder / _PLACE, Place)

    def state(self) -> State | None:
        return read_record(self.folder / supervise.STATE, State)

    def exit(self) -> Exit | None:
        return read_record(self.folder / supervise.EXIT, Exit)

    def has_begun(self) -> bool:
        """Whether a supervisor got as far as starting processes; no other will start them again."""
        return (self.folder / supervise.STATE).exists()

    def lost(self, detail: str) -> Exit:
        """Ends a run in its supervisor's place. After a reboot: it ran until its last sign of life."""
        state, place = self.state(), self.place()
        ended_at_s = int(time.time())
        if state is not None and (place is None or place.boot_id != boot_id()):
            ended_at_s = int((self.folder / supervise.STATE).stat().st_mtime)
        started_at_s = state.started_at_s if state else None
        wall_s = 0.0 if started_at_s is None else float(max(0, ended_at_s - started_at_s))
        exit = Exit(
            cause=EndCause.LOST,
            ended_at_s=ended_at_s,
            detail=detail,
            started_at_s=started_at_s,
            wall_s=wall_s,
        )
        return self._end(exit)

    def not_started(self) -> Exit:
        """Ends a run whose supervisor does not come up, with what it last said."""
        said = (self.folder / SUPERVISOR_LOG).read_text("utf-8", "replace").strip()
        detail = f"its supervisor does not start: {said[-300:]}"
        return self._end(Exit(cause=EndCause.NOT_STARTED, detail=detail, ended_at_s=int(time.time())))

    def _end(self, exit: Exit) -> Exit:
        with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
            supervise.write_json(str(self.folder / supervise.EXIT), msgspec.to_builtins(exit), durable=True)
            (self.folder / supervise.ORDER).unlink(missing_ok=True)
        return exit

    def is_supervised(self) -> bool:
        """Whether a supervisor holds the run's lock. Asking takes no lock, so it cannot turn one away."""
        try:
            with open(self.folder / supervise.LOCK, "rb") as file:
                question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = fcntl.fcntl(file.fileno(), fcntl.F_GETLK, question)
        except OSError:
            return False
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    # ---- stop

    def is_stop_ordered(self) -> bool:
        return (self.folder / supervise.STOP).exists()

    def order_stop(self, grace_s: float) -> None:
        """Durable until the run ends; asked again, it can only shorten the grace."""
        path = str(self.folder / supervise.STOP)
        deadline_s = supervise.boot_clock_s() + max(0.0, grace_s)
        before = supervise.read_json(path)
        if before is None or deadline_s < before["deadline_s"]:
            supervise.write_json(path, {"deadline_s": deadline_s})
        with contextlib.suppress(OSError):  # ENXIO: no supervisor reads; it will look before it starts
            wake = os.open(self.folder / supervise.WAKE, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(wake, b"!")
            finally:
                os.close(wake)

    # ---- what a killed supervisor left behind

    def orphans(self) -> list[int]:
        """Processes of the run, found by the marker in their environment and by its control group."""
        marker = f"{supervise.MARKER}=".encode() + os.fsencode(self.folder)
        found = set()
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                    if marker in file.read().split(b"\0"):
                        found.add(int(name))
        state = self.state()
        if state is not None and state.cgroup:
            with contextlib.suppress(OSError), open(f"{state.cgroup}/cgroup.procs", encoding="ascii") as file:
                found.update(map(int, file))
        return sorted(found)

    def kill_orphans(self) -> bool:
        """SIGKILL to every orphan, and again to what they started meanwhile. True when none is left."""
        for _ in range(50):
            orphans = self.orphans()
            if not orphans:
                state = self.state()
                supervise.remove_cgroup(state.cgroup if state else "")
                return True
            for process in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        return False
