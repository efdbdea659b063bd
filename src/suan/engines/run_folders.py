"""The folders in which an engine keeps its runs, and the lock under which it gives devices away.

Knows names, hidden folders that nobody else sees yet or any more, and the last word about a run. Does not
know what else a run's folder holds, nor any engine.
"""

import contextlib
import fcntl
import os
import shutil
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from suan.engines.metering import PowerShare, metered
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.ports import EngineRun

_LONGEST_NAME = 200  # of a run's folder; file systems take 255 bytes
_Record = TypeVar("_Record")
Lock = contextlib.AbstractContextManager[object]


class RunFolders:
    """One folder a run below `site`/runs. What a killed agent left half made or half removed goes."""

    def __init__(self, site: Path, lock: Lock) -> None:
        self._path, self._engine_lock = site / "runs", site / "engine.lock"
        self._lock = lock
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.exclusive():
            for leftover in self._path.glob(".*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def folder(self, name: str) -> Path:
        """The run's folder, there or not."""
        return self._path / name

    def entries(self) -> list[os.DirEntry[str]]:
        """The folders of all runs."""
        with os.scandir(self._path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]

    def names(self) -> list[str]:
        """Of the runs' folders."""
        return [entry.name for entry in self.entries()]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """One engine at a time gives devices away, whatever process it is in."""
        with self._lock, open(self._engine_lock, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A folder to fill, which becomes the run's at the end of the block, or never was."""
        fresh = self._hidden()
        fresh.mkdir(mode=0o700)
        try:
            yield fresh
            fresh.rename(self._path / name)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def remove(self, name: str) -> None:
        """The run was never heard of, at once and whole."""
        rest = self._hidden()
        with contextlib.suppress(FileNotFoundError):
            (self._path / name).rename(rest)
        shutil.rmtree(rest, ignore_errors=True)

    def _hidden(self) -> Path:
        return self._path / f".{uuid.uuid4().hex}"


def folder_name(run: str) -> str:
    """A file name that stands for the run's id, whatever is in it.

    Raises: SiteTrouble `launch_failed` when it cannot be one.
    """
    name = urllib.parse.quote(run, safe="")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if not 0 < len(name) <= _LONGEST_NAME:
        what = f"a run's id of {len(run)} characters cannot be kept: {run[:40]!r}"
        raise SiteTrouble("launch_failed", what)
    return name


def run_of(name: str) -> str:
    """The run's id that this folder name stands for."""
    return urllib.parse.unquote(name)


def read_record(path: Path, kind: type[_Record]) -> _Record | None:
    """What the file holds; None when it is not there, or was torn by a power loss."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """The last word about a run."""

    cause: EndCause
    ended_at_s: int
    exit_code: int | None = None
    detail: str = ""
    started_at_s: int | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0


class Placed(Protocol):
    """What an engine wrote of the run's place when it took it on."""

    @property
    def power(self) -> PowerShare: ...
    @property
    def port(self) -> int: ...


def ended_run(run: str, place: Placed | None, exit: Exit, devices: tuple[int, ...] = ()) -> EngineRun:
    """The run and its last word, as the port has it. Without a place nothing is metered."""
    usage = None
    if place is not None and exit.started_at_s is not None:
        usage = metered(place.power, exit.wall_s, exit.cpu_s, exit.peak_memory_bytes)
    return EngineRun(
        run=run,
        phase=RunPhase.ENDED,
        started_at_s=exit.started_at_s,
        ended_at_s=exit.ended_at_s,
        exit_code=exit.exit_code,
        cause=exit.cause,
        detail=exit.detail,
        usage=usage,
        port=place.port if place else 0,
        devices=devices,
    )
