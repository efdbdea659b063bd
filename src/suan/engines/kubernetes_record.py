"""One run's folder on the volume that agent and pods share: orders out, exits in, one log made of many.

Knows files. Does not know the cluster. The same files from the other side: `kubernetes_node.py`. Below it:

    place.json      what the engine keeps of the run
    order-R.json    what rank R is to do, its secrets too; a pod takes the rank by renaming it to node-R.json
    node-R.json     where rank R is
    state-R.json    touched every second or so while rank R runs
    log-R           its output; `log.index` says which part of which log comes when
    script.sh       setup and command
    made            its Job was made: when it is gone, somebody took it away
    stop.json       stop, with this grace
    exit-R.json     how rank R ended
    exit.json       how the run ended: the last word
"""

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from suan.engines import supervise
from suan.engines.devices import LOOPBACK
from suan.engines.metering import PowerShare
from suan.engines.run_folders import Exit, read_record
from suan.grid.job import EndCause

PLACE, STOP, EXIT, MADE, SCRIPT = "place.json", "stop.json", "exit.json", "made", "script.sh"
_INDEX = "log.index"
_LONGEST_NAME = 200  # of a run's folder; file systems take 255 bytes
_PIECE = struct.Struct("<IQQ")  # rank, and the piece of its log: from, to
_LONGEST_LINE = 64 << 10  # of one node, before others may come in between


class PodPlace(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine keeps of a run for as long as it remembers it. No secrets: those are in the orders."""

    run: str
    pool: str
    job: str  # the Job's name
    nodes: int
    devices_per_node: int
    resource: str  # what its Job asks for, a node
    cpus: float
    memory_gib: float
    grace_s: int
    port: int
    accepted_at_s: int
    power: PowerShare


class NodeExit(msgspec.Struct, frozen=True, kw_only=True):
    """How one rank ended, as its supervisor says. `followed`: because another did;
    `terminated`: its pod was ended, which may be for the same reason.
    """

    cause: str
    ended_at_s: int
    exit_code: int | None = None
    detail: str = ""
    started_at_s: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


class PodRecord:
    """Reading what is not there, or was torn by a power loss, gives None."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, place: PodPlace, script: str, orders: Sequence[dict[str, Any]]) -> None:
        """Fills the folder, which exists and which nobody else sees yet."""
        (self.folder / SCRIPT).write_text(script, "utf-8", "surrogateescape")
        supervise.write_json(str(self.folder / PLACE), msgspec.to_builtins(place))
        for rank, order in enumerate(orders):
            supervise.write_json(str(self.folder / f"order-{rank}.json"), order)

    def names(self) -> frozenset[str]:
        """Files that are there now. Opening the folder is what makes NFS ask its server anew."""
        try:
            return frozenset(os.listdir(self.folder))
        except OSError:
            return frozenset()

    def place(self) -> PodPlace | None:
        return read_record(self.folder / PLACE, PodPlace)

    def exit(self) -> Exit | None:
        return read_record(self.folder / EXIT, Exit)

    def node(self, rank: int) -> dict[str, Any] | None:
        """Where a rank that was taken is: `address`, `port` and `pod`; None before it has said so."""
        said = supervise.read_json(str(self.folder / f"node-{rank}.json"))
        return said if said is not None and "pod" in said else None

    def address(self) -> str:
        """Of its first rank, once that is there."""
        first = self.node(0)
        return str(first["address"]) if first is not None else LOOPBACK

    def node_exits(self, names: frozenset[str]) -> dict[int, NodeExit]:
        found = {}
        for name in sorted(names):
            if name.startswith("exit-") and name.endswith(".json"):
                exit = read_record(self.folder / name, NodeExit)
                if exit is not None:
                    found[int(name[len("exit-") : -len(".json")])] = exit
        return found

    def started_at_s(self, nodes: int) -> int | None:
        """When the last of its nodes began, None while one has not."""
        began = []
        for rank in range(nodes):
            state = supervise.read_json(str(self.folder / f"state-{rank}.json"))
            if state is None:
                return None
            began.append(state["started_at_s"])
        return max(began)

    def heartbeat(self, rank: int) -> int:
        """Changes while the rank lives; 0 before it began."""
        with contextlib.suppress(OSError):
            return (self.folder / f"state-{rank}.json").stat().st_mtime_ns
        return 0

    # ---- stop

    def order_stop(self, grace_s: float) -> None:
        """Durable until the run ends; asked again, it can only shorten the grace."""
        path = str(self.folder / STOP)
        deadline_s = supervise.boot_clock_s() + max(0.0, grace_s)
        before = supervise.read_json(path)
        if before is None or deadline_s < before["deadline_s"]:
            supervise.write_json(path, {"grace_s": max(0.0, grace_s), "deadline_s": deadline_s})

    def withdraw(self, cause: str, detail: str) -> None:
        """Takes every rank that no pod has taken: it will never start, and this is its exit."""
        for name in sorted(self.names()):
            if name.startswith("order-") and name.endswith(".json"):
                rank = name[len("order-") : -len(".json")]
                with contextlib.suppress(FileNotFoundError):  # a pod was quicker
                    (self.folder / name).rename(self.folder / f".withdrawn-{rank}")
                    self.end_node(int(rank), cause, detail)
                    (self.folder / f".withdrawn-{rank}").unlink()

    def end_node(self, rank: int, cause: str, detail: str) -> None:
        """Writes the exit of a rank that cannot do it itself."""
        state = supervise.read_json(str(self.folder / f"state-{rank}.json"))
        started_at_s = state["started_at_s"] if state else None
        now_s = int(time.time())
        exit = NodeExit(
            cause=cause,
            ended_at_s=now_s,
            detail=detail,
            started_at_s=started_at_s,
            wall_s=float(max(0, now_s - started_at_s)) if started_at_s else 0.0,
        )
        supervise.write_json(str(self.folder / f"exit-{rank}.json"), msgspec.to_builtins(exit))

    def end(self, exits: dict[int, NodeExit]) -> Exit:
        """The run's last word, on stable storage."""
        exit = verdict(exits)
        with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
            supervise.write_json(str(self.folder / EXIT), msgspec.to_builtins(exit), durable=True)
        return exit

    # ---- log

    def log(self, offset: int, limit: int) -> bytes:
        """Of one node, its log as it is. Of several, their logs in the order in which whole lines came in:
        once told, a byte keeps its offset.
        """
        place = self.place()
        if place is None:
            return b""
        if place.nodes == 1:
            return _pread(self.folder / "log-0", offset, limit)
        found = []
        for rank, first, last in self._pieces(place.nodes):
            length = last - first
            if offset < length and limit > 0:
                part = _pread(self.folder / f"log-{rank}", first + offset, min(limit, length - offset))
                found.append(part)
                limit -= len(part)
                offset = 0
            else:
                offset -= min(offset, length)
            if limit <= 0:
                break
        return b"".join(found)

    def _pieces(self, nodes: int) -> Iterator[tuple[int, int, int]]:
        """What has been told, then what has come since; that is written down before it is told."""
        told = dict.fromkeys(range(nodes), 0)
        with open(self.folder / _INDEX, "ab+") as index:
            index.seek(0)
            known = index.read()
            known = known[: len(known) - len(known) % _PIECE.size]
            pieces = list(_PIECE.iter_unpack(known))
            for rank, _, last in pieces:
                told[rank] = last
            ended = (self.folder / EXIT).exists()
            fresh = []
            for rank in range(nodes):
                last = _end_of_lines(self.folder / f"log-{rank}", told[rank], whole=ended)
                if last > told[rank]:
                    fresh.append((rank, told[rank], last))
            if fresh:
                index.truncate(len(known))  # a kill may have torn the last entry
                index.write(b"".join(_PIECE.pack(*piece) for piece in fresh))
        return iter(pieces + fresh)


def verdict(exits: dict[int, NodeExit]) -> Exit:
    """How a run ended whose nodes ended so: by the first that ended badly, else well."""
    order = sorted(exits, key=lambda rank: (exits[rank].ended_at_s, rank))
    bad = [rank for rank in order if exits[rank].cause != "exited" or exits[rank].exit_code]
    own = [rank for rank in bad if exits[rank].cause not in ("followed", "terminated")]
    own = own or [rank for rank in bad if exits[rank].cause == "terminated"] or bad
    first = own[0] if own else order[-1]
    told = exits[first]
    cause = EndCause.LOST if told.cause in ("followed", "terminated") else EndCause(told.cause)
    detail = told.detail
    if not detail and cause is EndCause.EXITED and own and len(exits) > 1:
        detail = f"node {first} failed first"
    starts = [exit.started_at_s for exit in exits.values() if exit.started_at_s is not None]
    return Exit(
        cause=cause,
        exit_code=told.exit_code,
        detail=detail,
        started_at_s=min(starts, default=None),
        ended_at_s=max(exit.ended_at_s for exit in exits.values()),
        wall_s=max(exit.wall_s for exit in exits.values()),
        cpu_s=sum(exit.cpu_s for exit in exits.values()),
        peak_memory_bytes=sum(exit.peak_memory_bytes for exit in exits.values()),
    )


def _pread(path: Path, offset: int, limit: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return os.pread(file.fileno(), max(0, limit), max(0, offset))
    return b""


def _end_of_lines(path: Path, told: int, *, whole: bool) -> int:
    """Where the last whole line after `told` ends; of an ended run, or an endless line, the file's end."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return told
    if whole or size - told > _LONGEST_LINE:
        return size
    fresh = _pread(path, told, size - told)
    return told + fresh.rfind(b"\n") + 1
