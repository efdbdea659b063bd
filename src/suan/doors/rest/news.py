"""New facts and progress, kept for a while and told to whoever waits: long polls, event streams, logs.

Knows sequences. Does not know who may see what. The grid's thread adds; any event loop may wait.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from suan.control.execute import sites_told
from suan.control.loop import Grid
from suan.grid.fact import Fact, JobEnded, RunEnded, RunPlaced

KEPT_FACTS = 20_000
_SUBJECTS = 10_000


class Live(NamedTuple):
    """Something seen that is no fact: progress of a run or a transfer. It cannot be resumed from."""

    tenant: str
    data: dict[str, Any]


class Waiter:
    """One who waits, woken from any thread. Only the loop that made it may wait."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # its loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float) -> bool:
        """True when woken, False after the timeout; ready to be woken again."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class News:
    """The newest facts of one grid, with their sequences."""

    def __init__(self, grid: Grid, history: Iterable[tuple[int, Fact]] = ()) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._facts: deque[tuple[int, Fact]] = deque(history, maxlen=KEPT_FACTS)
        self._lives: deque[tuple[int, Live]] = deque(maxlen=1000)
        self._live_count = 0
        self._last: dict[Any, Live] = {}  # run or transfer -> its newest progress
        self._wanted: dict[Waiter, Callable[[Fact], bool] | None] = {}
        self._log_waiters: dict[Waiter, str] = {}
        self._site_waiters: dict[str, dict[Waiter, None]] = {}
        self._grid = grid
        self._from = self._facts[0][0] if self._facts else grid.state.sequence + 1
        grid.listen(self._add)

    def waiter(self, wanted: Callable[[Fact], bool] | None = None) -> Waiter:
        """Woken by facts that are wanted; without a wish by every fact and by progress. To be `leave`d."""
        waiter = Waiter()
        with self._lock:
            self._wanted[waiter] = wanted
        return waiter

    def log_waiter(self, run: str) -> Waiter:
        """Woken when the run's log has grown, and when any run begins or ends."""
        waiter = Waiter()
        with self._lock:
            self._wanted[waiter] = lambda fact: isinstance(fact, RunPlaced | RunEnded | JobEnded)
            self._log_waiters[waiter] = run
        return waiter

    def site_waiter(self, site: str) -> Waiter:
        """Woken when the site's orders may have changed; to be `leave_site`d. Thousands of sites wait: for
        what is no news for one, nothing is done.
        """
        waiter = Waiter()
        with self._lock:
            self._site_waiters.setdefault(site, {})[waiter] = None
        return waiter

    def leave_site(self, site: str, waiter: Waiter) -> None:
        with self._lock:
            self._site_waiters[site].pop(waiter, None)

    def leave(self, waiter: Waiter) -> None:
        with self._lock:
            self._wanted.pop(waiter, None)
            self._log_waiters.pop(waiter, None)

    def close(self) -> None:
        """Wakes everybody who waits, for the last time."""
        self.closed = True
        with self._lock:
            waiters = [*self._wanted, *self._log_waiters]
            waiters += [waiter for waiting in self._site_waiters.values() for waiter in waiting]
        for waiter in waiters:
            waiter.wake()

    def log_grew(self, run: str) -> None:
        with self._lock:
            waiters = [waiter for waiter, wanted in self._log_waiters.items() if wanted == run]
        for waiter in waiters:
            waiter.wake()

    def tell(self, live: Live) -> None:
        """Adds progress; the same again is no news."""
        subject = live.data.get("run") or live.data.get("transfer")
        with self._lock:
            if self._last.get(subject) == live:
                return
            if len(self._last) > _SUBJECTS:
                self._last.clear()
            self._last[subject] = live
            self._live_count += 1
            self._lives.append((self._live_count, live))
            waiters = [waiter for waiter, wanted in self._wanted.items() if wanted is None]
        for waiter in waiters:
            waiter.wake()

    def head(self) -> tuple[int, int]:
        """(sequence of the newest fact, number of the newest progress)"""
        with self._lock:
            return (self._facts[-1][0] if self._facts else self._from - 1), self._live_count

    def facts(self, after: int) -> tuple[int, list[tuple[int, Fact]]]:
        """(sequence from which on facts are kept, those after `after`)."""
        with self._lock:
            first = self._facts[0][0] if self._facts else self._from
            found = []
            for item in reversed(self._facts):
                if item[0] <= after:
                    break
                found.append(item)
        return first, found[::-1]

    def lives(self, after: int) -> tuple[int, list[Live]]:
        """(number of the newest progress, progress after number `after`)."""
        with self._lock:
            return self._live_count, [live for number, live in self._lives if number > after]

    def _add(self, news: list[tuple[int, Fact]]) -> None:
        sites = {site for _, fact in news for site in sites_told(self._grid.state, fact)}
        with self._lock:
            self._facts.extend(news)
            waiters = [
                waiter
                for waiter, wanted in self._wanted.items()
                if wanted is None or any(wanted(fact) for _, fact in news)
            ]
            waiters += [waiter for site in sites for waiter in self._site_waiters.get(site, ())]
        for waiter in waiters:
            waiter.wake()
