"""Counts requests and tokens of services, and writes them down every few seconds.

A grid that is killed loses what was counted since the last write, and nothing else.
"""

import asyncio
import logging
from collections import defaultdict

from anyio.to_thread import run_sync

from suan.control.commands import Metering, meter
from suan.control.loop import Grid
from suan.grid.error import SuanError

log = logging.getLogger("suan.doors")
FLUSH_S = 3.0


class Meter:
    """Counters by (run, tenant). Used by one event loop at a time."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._due: asyncio.Task[None] | None = None

    def add(self, run: str, tenant: str, tokens_in: int, tokens_out: int) -> None:
        """One request more. Written within FLUSH_S."""
        counts = self._counts[run, tenant]
        counts[0] += 1
        counts[1] += max(0, tokens_in)
        counts[2] += max(0, tokens_out)
        if self._due is None or self._due.done():
            self._due = asyncio.get_running_loop().create_task(self._later())

    async def flush(self) -> None:
        """Writes what has been counted. What cannot be written is counted on."""
        counts, self._counts = self._counts, defaultdict(lambda: [0, 0, 0])
        used = [Metering(run, tenant, *amounts) for (run, tenant), amounts in counts.items()]
        if not used:
            return
        try:
            await run_sync(self._grid.do, meter(used))
        except SuanError as error:
            log.error("use of services could not be written down, it is kept: %s", error)
            for (run, tenant), amounts in counts.items():
                kept = self._counts[run, tenant]
                self._counts[run, tenant] = [old + new for old, new in zip(kept, amounts, strict=True)]

    async def close(self) -> None:
        """Writes the rest."""
        if self._due is not None:
            self._due.cancel()
        await self.flush()

    async def _later(self) -> None:
        await asyncio.sleep(FLUSH_S)
        await self.flush()
