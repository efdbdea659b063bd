"""The grid as its own agents see it from within the process: no HTTP, the same answers."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from suan.grid.action import Observation, Orders
from suan.stores.logs import LogFolder


class Grid(Protocol):
    """The part of `control.loop.Grid` that a site speaks to."""

    def report(self, seen: Observation) -> Orders: ...

    def orders(self, site: str, *, whole: bool = False) -> Orders: ...

    def listen(self, listener: Callable[[list[tuple[int, Any]]], None]) -> Callable[[], None]: ...


class DirectDoor:
    """`runner.GridDoor` over a grid in this process. `close` ends what it listens to."""

    def __init__(self, grid: Grid, logs: LogFolder | None = None) -> None:
        self._grid, self._logs = grid, logs
        self._news = threading.Condition()
        self._sequence = 0
        self._unlisten = grid.listen(self._hear)

    def report(self, observation: Observation, wait_s: float = 0, known: int = 0) -> Orders:
        """Orders: at once, or when they differ from `known`, `wait_s` later at most."""
        deadline_s = time.monotonic() + wait_s
        with self._news:
            heard = self._sequence
        orders = self._grid.report(observation)
        while wait_s and orders.version == known:
            with self._news:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    break
                if self._sequence == heard:
                    self._news.wait(left_s)
                heard = self._sequence
            orders = self._grid.orders(observation.site, whole=observation.full)
        return orders

    def append_log(self, site: str, run: str, offset: int, data: bytes) -> int:
        """The log's size afterwards."""
        return self._logs.append(run, offset, data) if self._logs else offset + len(data)

    def close(self) -> None:
        self._unlisten()

    def _hear(self, facts: Sequence[tuple[int, Any]]) -> None:
        with self._news:
            self._sequence = facts[-1][0]
            self._news.notify_all()
