"""Logs on their way from a site to its grid: what is new, by offset, in pieces.

Knows how far each log has got. The grid's answer says where to go on, so that pieces that are lost or sent
twice do no harm, and a restarted agent or grid goes on where the other is.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from suan.engines.agent import Agent
from suan.grid.error import Refused

PIECE_BYTES = 256 << 10


class LogDoor(Protocol):
    """Where logs go."""

    def append_log(self, site: str, run: str, offset: int, data: bytes) -> int:
        """The log's size as the grid has it: where to go on. Raises: SuanError."""
        ...


class LogShipper:
    """One thread ships; any may ask how far it is."""

    def __init__(self, agent: Agent, grid: LogDoor) -> None:
        self._agent, self._grid = agent, grid
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}  # run -> bytes at the grid, once asked
        self._whole: set[str] = set()

    def ship(self, halted: Callable[[], bool]) -> bool:
        """Brings everything new, run by run, a piece of each in turn. Whether a log became whole.

        Raises: SuanError when the grid does not answer.
        """
        known = self._agent.logs()
        self._drop({run for run, _ in known})
        whole_before = len(self._whole)
        going = [(run, is_whole) for run, is_whole in known if run not in self._whole]
        while going and not halted():
            going = [(run, is_whole) for run, is_whole in going if self._ship_piece(run, is_whole)]
        return len(self._whole) > whole_before

    def has_all(self, run: str) -> bool:
        """Whether the grid has all that the run will ever have said; true of runs that never started."""
        with self._lock:
            return run in self._whole or all(run != known for known, _ in self._agent.logs())

    def _ship_piece(self, run: str, is_whole: bool) -> bool:
        """Whether there may be more."""
        site = self._agent.site
        if run not in self._sizes:
            # An empty piece asks how far an earlier agent got.
            self._sizes[run] = self._append(site, run, 0, b"")
        piece = self._agent.read_log(run, self._sizes[run], PIECE_BYTES)
        if piece:
            self._sizes[run] = self._append(site, run, self._sizes[run], piece)
            return True
        if is_whole:
            with self._lock:
                self._whole.add(run)
        return False

    def _append(self, site: str, run: str, offset: int, piece: bytes) -> int:
        try:
            return self._grid.append_log(site, run, offset, piece)
        except Refused as refused:
            if refused.status == 401:
                raise
            return offset + len(piece)  # the grid wants no log of this run: so be it

    def _drop(self, known: set[str]) -> None:
        with self._lock:
            self._whole &= known
        for run in self._sizes.keys() - known:
            del self._sizes[run]
