"""Runs' logs as the grid keeps them: one growing file a run, written by offset.

Knows offsets. Does not know who writes: an agent that lost an answer sends the same bytes again, and they are
kept once.
"""

import os
import re
from pathlib import Path

from suan.grid.error import Refused

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class LogFolder:
    """Logs in `path`, which is made when it is not there. One writer a run at a time."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._path.mkdir(parents=True, exist_ok=True)

    def append(self, run: str, offset: int, data: bytes) -> int:
        """The log's size afterwards: from where the writer should go on.

        What is there already is skipped; data that would leave a gap are not written. Not synced: a machine
        that loses power may lose the end, and the size then says so.

        Raises: Refused `bad_run` or `bad_offset`.
        """
        if offset < 0:
            raise Refused("bad_offset", f"{offset} is not a place in a log", hint="count bytes from 0")
        descriptor = os.open(self._file(run), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with open(descriptor, "r+b") as file:
            size = os.fstat(descriptor).st_size
            fresh = memoryview(data)[size - offset :] if offset <= size else b""
            if not fresh:
                return size
            file.seek(size)
            file.write(fresh)
            return size + len(fresh)

    def read(self, run: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; none at the end or for unknown runs.

        Raises: Refused `bad_run` or `bad_offset`.
        """
        if offset < 0 or limit < 0:
            raise Refused(
                "bad_offset", f"{offset}, {limit} are not a place in a log", hint="count bytes from 0"
            )
        try:
            with self._file(run).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def size(self, run: str) -> int:
        """Bytes kept; 0 for unknown runs.

        Raises: Refused `bad_run`.
        """
        try:
            return self._file(run).stat().st_size
        except FileNotFoundError:
            return 0

    def _file(self, run: str) -> Path:
        if not _RUN.fullmatch(run) or ".." in run:
            raise Refused(
                "bad_run", f"{run[:80]!r} cannot be a run", hint="take the id that `suan jobs` shows"
            )
        return self._path / f"{run}.log"
