"""The folder that holds one run on a Ray cluster: what was planned, who took it, how its nodes ended.

Knows files only, the same that `ray_node.py` writes on the nodes. Does not know the cluster.

    place.json           what the engine remembers; no secrets
    claim.json           who has the run: a node that starts it, or the agent that cancelled it
    stop.json            the order to stop
    failed.json          the node that failed first
    exit.json            the last word, the agent's
    node-N/              one node as supervise.py keeps it: launch.json until it starts, state, exit and
                         its confirmation end.json, log
"""

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from suan.engines import supervise
from suan.engines.metering import PowerShare
from suan.engines.ray_api import JobSeen
from suan.engines.record import State
from suan.engines.run_folders import Exit, read_record
from suan.grid.job import EndCause

PLAN, CLAIM, STOP, FAILED, EXIT, LAUNCH = (
    "place.json",
    "claim.json",
    "stop.json",
    "failed.json",
    "exit.json",
    "launch.json",
)
END, PULSE, _INDEX = "end.json", "pulse", "log.index"
_LONGEST_NAME = 200  # of a run's folder; file systems take 255 bytes


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine keeps of a run for as long as it remembers it. No secrets."""

    run: str
    submission_id: str
    pool: str
    node_ids: tuple[str, ...]
    bundles: tuple[dict[str, float], ...]  # what each node gives, by Ray's resources
    ports: tuple[int, ...]
    port: int
    grace_s: int
    power: PowerShare


class _Stop(msgspec.Struct, frozen=True, kw_only=True):
    text: str  # differs in every order
    grace_s: float
    at_s: float  # on the boot clock of the agent's machine


class _Failed(msgspec.Struct, frozen=True, kw_only=True):
    rank: int


class RayRecord:
    """One run's folder. Reading what is not there, or was torn, gives None."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, plan: Plan, orders: Sequence[dict[str, Any]]) -> None:
        """Fills the folder, which exists and which nobody else sees yet."""
        for rank, order in enumerate(orders):
            node = self.node(rank)
            node.mkdir(mode=0o700)
            for name in (supervise.LOCK, supervise.LOG):
                (node / name).touch(0o600)
            supervise.write_json(str(node / LAUNCH), order)
        supervise.write_json(str(self.folder / PLAN), msgspec.to_builtins(plan))

    def node(self, rank: int) -> Path:
        return self.folder / f"node-{rank}"

    def plan(self) -> Plan | None:
        return read_record(self.folder / PLAN, Plan)

    def exit(self) -> Exit | None:
        return read_record(self.folder / EXIT, Exit)

    def is_claimed(self) -> bool:
        return (self.folder / CLAIM).exists()

    def cancel(self) -> bool:
        """Takes the run before any node has; False when one has it. Nothing can start it afterwards."""
        try:
            file = os.open(self.folder / CLAIM, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except (FileExistsError, FileNotFoundError):
            return False
        with open(file, "w", encoding="ascii") as stream:
            json.dump({"holder": "agent"}, stream)
        return True

    def is_cancelled(self) -> bool:
        """Whether an agent took it and was killed before it could write down the end."""
        claim = supervise.read_json(str(self.folder / CLAIM))
        return claim is not None and claim.get("holder") == "agent"

    def order_stop(self, grace_s: float) -> None:
        """Durable until the run ends; asked again, it can only shorten the grace."""
        path = self.folder / STOP
        before, now_s = read_record(path, _Stop), supervise.boot_clock_s()
        if before is None or now_s + grace_s < before.at_s + before.grace_s:
            order = _Stop(text=uuid.uuid4().hex, grace_s=max(0.0, grace_s), at_s=now_s)
            supervise.write_json(str(path), msgspec.to_builtins(order))

    def stop_overdue_s(self) -> float:
        """For how long the grace of the stop is over; negative while it is not, or none was ordered."""
        stop = read_record(self.folder / STOP, _Stop)
        return float("-inf") if stop is None else supervise.boot_clock_s() - stop.at_s - stop.grace_s

    def is_stop_ordered(self) -> bool:
        return (self.folder / STOP).exists()

    def states(self, nodes: int) -> list[State | None]:
        return [read_record(self.node(rank) / supervise.STATE, State) for rank in range(nodes)]

    def pulse_ns(self, nodes: int) -> int:
        """Changes while any node of the run gives a sign of life."""
        newest = 0
        signs = [self.node(rank) / name for rank in range(nodes) for name in (supervise.STATE, PULSE)]
        for path in (self.folder / CLAIM, *signs):
            with contextlib.suppress(OSError):
                newest = max(newest, path.stat().st_mtime_ns)
        return newest

    # ---------------------------------------------------------------- end

    def told(self, nodes: int) -> Exit | None:
        """How the run ended, once every node has said how it did."""
        exits = [self._said(self.node(rank)) for rank in range(nodes)]
        whole = [exit for exit in exits if exit is not None]
        return self._joined(whole) if whole and len(whole) == nodes else None

    def _said(self, node: Path) -> Exit | None:
        """The node's word. A plain exit counts once it is confirmed; before, it may have been Ray's doing."""
        said = read_record(node / END, Exit)
        if said is None:
            said = read_record(node / supervise.EXIT, Exit)
            if said is not None and said.cause is EndCause.EXITED:
                return None
        return said

    def _joined(self, exits: Sequence[Exit]) -> Exit:
        failed = read_record(self.folder / FAILED, _Failed)
        if failed is not None:
            word = exits[failed.rank]
        else:
            word = next((exit for exit in exits if exit.cause is not EndCause.EXITED), exits[0])
        code = word.exit_code
        if failed is None and code == 0:
            code = next((exit.exit_code for exit in exits if exit.exit_code), 0)
        detail = word.detail
        if failed is not None and not detail and len(exits) > 1:
            detail = f"node {failed.rank} failed first"
        started = [exit.started_at_s for exit in exits if exit.started_at_s is not None]
        return Exit(
            cause=word.cause,
            exit_code=code,
            detail=detail,
            started_at_s=min(started, default=None),
            ended_at_s=max(exit.ended_at_s for exit in exits),
            wall_s=max(exit.wall_s for exit in exits),
            cpu_s=sum(exit.cpu_s for exit in exits),
            peak_memory_bytes=sum(exit.peak_memory_bytes for exit in exits),
        )

    def lost(self, nodes: int, cause: EndCause, detail: str) -> Exit:
        """The end of a run that no node can tell any more: it ran until its last sign of life."""
        started = [state.started_at_s for state in self.states(nodes) if state is not None]
        ended_at_s = self.pulse_ns(nodes) // 1_000_000_000 if started else int(time.time())
        started_at_s = min(started, default=None)
        wall_s = 0.0 if started_at_s is None else float(max(0, ended_at_s - started_at_s))
        return Exit(
            cause=cause, detail=detail, ended_at_s=ended_at_s, started_at_s=started_at_s, wall_s=wall_s
        )

    def end(self, exit: Exit) -> Exit:
        """Writes down the last word, and removes what holds secrets."""
        with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
            supervise.write_json(str(self.folder / EXIT), msgspec.to_builtins(exit), durable=True)
        for node in self.folder.glob("node-*"):
            for name in (LAUNCH, supervise.ORDER):
                (node / name).unlink(missing_ok=True)
        return exit

    # ---------------------------------------------------------------- log

    def log(self, nodes: int, offset: int, limit: int) -> bytes:
        """The run's output. Several nodes' logs are woven together by lines, in the order in which they were
        first seen; the order is written down, so that offsets stay what they were."""
        offset, limit = max(0, offset), max(0, limit)
        if nodes == 1:
            return self._piece(0, offset, limit)
        pieces, found = self._index(nodes, offset + limit), b""
        position = 0
        for rank, start, length in pieces:
            first, last = max(offset, position), min(offset + limit, position + length)
            if first < last:
                found += self._piece(rank, start + first - position, last - first)
            position += length
        return found

    def _piece(self, rank: int, start: int, length: int) -> bytes:
        try:
            with open(self.node(rank) / supervise.LOG, "rb") as file:
                return os.pread(file.fileno(), length, start)
        except FileNotFoundError:
            return b""

    def _index(self, nodes: int, wanted: int) -> list[tuple[int, int, int]]:
        """(node, start, length) of every piece, grown until `wanted` bytes are covered or all is."""
        try:
            file = open(self.folder / _INDEX, "a+", encoding="ascii")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return []
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            lines = file.read().split("\n")[:-1]
            pieces = [(rank, start, length) for rank, start, length in map(_numbers, lines)]
            if sum(length for _, _, length in pieces) >= wanted:
                return pieces
            ends = [0] * nodes
            for rank, start, length in pieces:
                ends[rank] = start + length
            for rank, start in enumerate(ends):
                if length := self._whole_lines(rank, start):
                    pieces.append((rank, start, length))
                    file.write(f"{rank} {start} {length}\n")
            return pieces

    def _whole_lines(self, rank: int, start: int) -> int:
        """Bytes from `start` to the last line's end; to the very end once the node has ended."""
        ended = (self.node(rank) / supervise.EXIT).exists() or (self.folder / EXIT).exists()
        try:
            size = (self.node(rank) / supervise.LOG).stat().st_size
        except FileNotFoundError:
            return 0
        if ended:
            return size - start
        block = 1 << 16
        position = size
        while position > start:
            low = max(start, position - block)
            found = self._piece(rank, low, position - low).rfind(b"\n")
            if found >= 0:
                return low + found + 1 - start
            position = low
        return 0


def _numbers(line: str) -> tuple[int, int, int]:
    rank, start, length = line.split(" ")
    return int(rank), int(start), int(length)


def unstarted(cause: EndCause, detail: str) -> Exit:
    """The end of a run that no node has begun."""
    return Exit(cause=cause, detail=detail, ended_at_s=int(time.time()))


def lost_detail(job: JobSeen | None) -> str:
    """Why a run is lost, in Ray's words where it has any."""
    if job is None:
        return "the Ray head has forgotten the job, and its nodes are silent"
    return f"Ray ended the job ({job.status}): {' '.join((job.message or '').split())[-300:]}"
