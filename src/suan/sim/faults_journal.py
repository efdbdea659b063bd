"""A journal whose disk fails when it is told to: what was not synced by then may be there afterwards, or not.

Knows what a disk may do to writes. Does not know who writes, nor when it will be mended.
"""

from collections.abc import Sequence

from suan.grid.error import SiteTrouble
from suan.grid.fact import Fact
from suan.journals.memory import MemoryJournal

_ON_APPEND, _SYNC_LOSES, _SYNC_KEEPS = range(3)


class FailingJournal(MemoryJournal):
    """`ports.Journal` in a list; after `fail` the next write fails, and all that follow until `reopen`."""

    def __init__(self) -> None:
        super().__init__()
        self.outage_s = 0  # how long it takes to mend
        self._synced = 0
        self._way: int | None = None  # how the next write fails
        self._failed = False

    def fail(self, draw: float, outage_s: int) -> None:
        """The next write fails. `draw` in [0, 1) says how: nothing is written, a sync loses what was
        written since the one before, or it loses nothing and only says so."""
        self._way, self.outage_s = int(draw * 3), outage_s

    def spare(self) -> None:
        """What was to fail does not; what has failed stays so."""
        if not self._failed:
            self._way = None

    def reopen(self) -> None:
        """The disk works again; what it holds is what it holds."""
        self._failed, self._way = False, None
        self._synced = self.head()

    def append(self, facts: Sequence[Fact], after_seq: int) -> int:
        """Raises: as `Journal.append`; SiteTrouble `journal_failed`."""
        if self._failed or self._way == _ON_APPEND:
            raise self._failure()
        return super().append(facts, after_seq)

    def sync(self) -> None:
        """Raises: SiteTrouble `journal_failed`."""
        if self._failed or (self._way is not None and self.head() > self._synced):
            if self._way == _SYNC_LOSES:
                del self._facts[self._synced :]
            raise self._failure()
        self._synced = self.head()

    def _failure(self) -> SiteTrouble:
        self._failed = True
        return SiteTrouble("journal_failed", "the disk of the journal failed", hint="start the grid again")
