"""The folder that holds one run on a Slurm cluster: what was asked for, what its nodes wrote, how it ended.

Knows files. They are on a file system that the agent's machine and every node share, so nothing here asks
for a lock, a fifo or a clock that two machines would have to agree on. The same files from the other side:
`slurm_node.py`. Does not ask Slurm.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from suan.engines import slurm_node, supervise
from suan.engines.metering import PowerShare
from suan.engines.record import State
from suan.engines.run_folders import Exit, read_record
from suan.engines.slurm_answers import Job
from suan.engines.slurm_calls import JobRequest
from suan.grid.job import EndCause

LOG = "log"
_PLACE, _SUBMITTED, _EXIT = "place.json", "submitted", "exit.json"
_SLURMS_DOING = frozenset({"PREEMPTED", "CANCELLED", "NODE_FAIL"})  # not the run's own end
# When nodes end differently, the run ended for the first of these.
_PRECEDENCE = (EndCause.FENCED, EndCause.STOPPED, EndCause.LOST, EndCause.NOT_STARTED)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine keeps of a run for as long as it remembers it. No secrets: those are in the orders."""

    run: str
    pool: str
    devices: tuple[int, ...]  # promised on the pool; which ones Slurm gives is its business
    port: int
    rendezvous_port: int
    power: PowerShare
    request: JobRequest


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """Written once, read by every node and by the engine that judges the end."""

    grace_s: float
    deadline_s: float  # on the boot clock of the agent's machine
    cause: EndCause = EndCause.STOPPED
    detail: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    node: int


class SlurmRecord:
    """One run's folder. Reading what is not there, or not whole yet, gives None."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, place: Place, order: dict[str, Any]) -> None:
        """Fills the folder, which exists and which nobody else sees yet."""
        first = slurm_node.order_path(str(self.folder), 0)
        supervise.write_json(first, order)
        for node in range(1, place.request.nodes):
            os.link(first, slurm_node.order_path(str(self.folder), node))
        (self.folder / slurm_node.NODES).mkdir(mode=0o700)
        supervise.write_json(str(self.folder / _PLACE), msgspec.to_builtins(place))

    def place(self) -> Place | None:
        return read_record(self.folder / _PLACE, Place)

    # ---- Slurm's half

    def is_submitted(self) -> bool:
        """Whether Slurm has said that it took the run; without, it may have it all the same."""
        return (self.folder / _SUBMITTED).exists()

    def note_submitted(self, job: int) -> None:
        (self.folder / _SUBMITTED).write_text(str(job), "ascii")

    # ---- the nodes' half

    def has_begun(self) -> bool:
        """Whether a job has claimed the run; none that comes later will start it."""
        return (self.folder / slurm_node.CLAIM).exists()

    def states(self, nodes: int) -> tuple[State, ...]:
        """Of the nodes that have started the run's processes."""
        found = (read_record(self._node(node) / supervise.STATE, State) for node in range(nodes))
        return tuple(state for state in found if state is not None)

    def exits(self, nodes: int) -> tuple[Exit, ...]:
        """Of the nodes that are done, in the order of ranks."""
        found = (read_record(self._node(node) / supervise.EXIT, Exit) for node in range(nodes))
        return tuple(exit for exit in found if exit is not None)

    def life(self, nodes: int) -> tuple[int, ...]:
        """Changes for as long as a supervisor of the run lives: it touches its state about every second."""
        marks = []
        for node in range(nodes):
            with contextlib.suppress(OSError):
                marks.append((self._node(node) / supervise.STATE).stat().st_mtime_ns)
        return tuple(marks)

    def failed_node(self) -> int | None:
        failed = read_record(self.folder / slurm_node.FAILED, Failed)
        return None if failed is None else failed.node

    def _node(self, node: int) -> Path:
        return self.folder / slurm_node.NODES / str(node)

    # ---- stop and end

    def stop(self) -> Stop | None:
        return read_record(self.folder / supervise.STOP, Stop)

    def order_stop(self, grace_s: float, cause: EndCause = EndCause.STOPPED, detail: str = "") -> None:
        """Durable until the run ends; asked again, it can only shorten the grace."""
        grace_s = max(0.0, grace_s)
        fresh = Stop(
            grace_s=grace_s, deadline_s=supervise.boot_clock_s() + grace_s, cause=cause, detail=detail
        )
        before = self.stop()
        if before is not None:
            if before.deadline_s <= fresh.deadline_s:
                return
            fresh = msgspec.structs.replace(fresh, cause=before.cause, detail=before.detail)
        supervise.write_json(str(self.folder / supervise.STOP), msgspec.to_builtins(fresh))

    def exit(self) -> Exit | None:
        return read_record(self.folder / _EXIT, Exit)

    def end(self, exit: Exit) -> Exit:
        """Keeps the last word about the run; orders that nobody read are removed: they hold secrets."""
        with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
            supervise.write_json(str(self.folder / _EXIT), msgspec.to_builtins(exit), durable=True)
            for order in self.folder.glob("order-*.json"):
                order.unlink(missing_ok=True)
        return exit

    def log_tail(self, limit: int = 300) -> str:
        try:
            return (self.folder / LOG).read_bytes()[-limit:].decode("utf-8", "replace").strip()
        except OSError:
            return ""


def joined(exits: Sequence[Exit], failed_node: int | None) -> Exit:
    """How a run ended whose nodes all say how they did: by the first that failed, if one did."""
    causes = [cause for cause in _PRECEDENCE if any(exit.cause is cause for exit in exits)]
    first = exits[failed_node] if failed_node is not None and failed_node < len(exits) else None
    decisive = first or next((exit for exit in exits if causes and exit.cause is causes[0]), None)
    decisive = decisive or next((exit for exit in exits if exit.exit_code), exits[0])
    detail = decisive.detail
    if not detail and first is not None and len(exits) > 1:
        detail = f"node {failed_node} failed first"
    started = [exit.started_at_s for exit in exits if exit.started_at_s is not None]
    return Exit(
        cause=causes[0] if causes else EndCause.EXITED,
        exit_code=decisive.exit_code,
        detail=detail,
        started_at_s=min(started) if started else None,
        ended_at_s=max(exit.ended_at_s for exit in exits),
        wall_s=max(exit.wall_s for exit in exits),
        cpu_s=sum(exit.cpu_s for exit in exits),
        peak_memory_bytes=sum(exit.peak_memory_bytes for exit in exits),
    )


def explained(exit: Exit, stop: Stop | None, jobs: Sequence[Job]) -> Exit:
    """The end as the nodes tell it; where Slurm ended them, why, and that it was lost: how a run ends when it
    is told to is no verdict.
    """
    state = jobs[-1].states[0] if jobs else ""
    if exit.cause is EndCause.EXITED and stop is None and state in _SLURMS_DOING:
        exit = msgspec.structs.replace(exit, cause=EndCause.LOST, exit_code=None)
    if exit.cause is not EndCause.LOST:
        return exit
    if stop is not None:
        return msgspec.structs.replace(exit, cause=stop.cause, detail=stop.detail)
    return msgspec.structs.replace(exit, detail=f"Slurm ended it: {state}" if state else exit.detail)


def slurms_word(record: SlurmRecord, nodes: int, jobs: Sequence[Job]) -> Exit:
    """The end of a run whose nodes can say no more, by what Slurm made of its job; `jobs` empty: it forgot
    it.
    """
    begun, states = record.has_begun(), record.states(nodes)
    started_at_s = min((state.started_at_s for state in states), default=None)
    now_s, stop, state = int(time.time()), record.stop(), jobs[-1].states[0] if jobs else ""
    exit_code = None
    if stop is not None:
        cause, detail = stop.cause, stop.detail or ("" if begun else "stopped before it started")
    elif state == "OUT_OF_MEMORY":
        cause, detail, exit_code = EndCause.EXITED, "memory limit exceeded, says Slurm", -signal.SIGKILL
    elif not begun and state in ("FAILED", "BOOT_FAIL", "COMPLETED"):
        said = record.log_tail()
        cause, detail = EndCause.NOT_STARTED, f"Slurm: {state}; {said}" if said else f"Slurm: {state}"
    else:
        cause, detail = EndCause.LOST, f"Slurm ended it: {state}" if state else "Slurm has forgotten its job"
    return Exit(
        cause=cause,
        exit_code=exit_code,
        detail=detail,
        started_at_s=started_at_s,
        ended_at_s=now_s,
        wall_s=0.0 if started_at_s is None else float(max(0, now_s - started_at_s)),
    )


def ended_now(cause: EndCause, detail: str) -> Exit:
    """The end of a run that never started."""
    return Exit(cause=cause, detail=detail, ended_at_s=int(time.time()))
