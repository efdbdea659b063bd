"""A journal that lasts as long as its process: for simulations and tests.

Keeps the facts themselves, so reading is free. Does not encode, and loses everything at the end.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from suan.grid.fact import Fact
from suan.journals.compare import check_head


class MemoryJournal:
    """`ports.Journal` in a list."""

    def __init__(self) -> None:
        self._facts: list[Fact] = []

    def head(self) -> int:
        return len(self._facts)

    def append(self, facts: Sequence[Fact], after_seq: int) -> int:
        check_head(self.head(), after_seq)
        self._facts.extend(facts)
        return self.head()

    def sync(self) -> None:
        """Nothing to do: memory is all there is."""

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, Fact]]:
        """(sequence, fact) in order, up to the head at the time of the call."""
        return enumerate(islice(self._facts, after_seq, self.head()), after_seq + 1)

    def close(self) -> None:
        """Nothing to do."""
