"""Devices of one pool that are free over time: exact, with any second as a step.

Knows no jobs and no money. What a slot has on average is `layout.py`'s business.
"""

import numpy as np

from suan.rules.clearing.question import Counts, Question
from suan.rules.clearing.slots import Seconds

FOREVER_S = 1 << 60


class Profile:
    """Free devices from each step on; the last holds for ever. Taking makes new arrays, so a saved pair of
    (times, free) stays what it was.
    """

    __slots__ = ("free", "times")

    def __init__(self, times: Seconds, free: Counts) -> None:
        self.times = times
        self.free = free

    def starts(self, devices: int, run_s: int, ready_s: int) -> tuple[Seconds, Seconds]:
        """First and last start of each span in which a run of so many devices may start, by time."""
        enough = np.zeros(len(self.free) + 2, dtype=np.int8)
        np.greater_equal(self.free, devices, out=enough[1:-1], casting="unsafe")
        turns = np.flatnonzero(enough[1:] != enough[:-1])
        first = np.maximum(self.times[turns[::2]], ready_s)
        ends = turns[1::2]
        last = np.where(ends < len(self.times), self.times[np.minimum(ends, len(self.times) - 1)], FOREVER_S)
        last = last - run_s
        kept = first <= last
        return first[kept], last[kept]

    def least(self, start_s: int, end_s: int) -> int:
        """The fewest devices free at any moment of a span."""
        low = int(self.times.searchsorted(start_s, side="right")) - 1
        high = int(self.times.searchsorted(end_s, side="left"))
        return int(self.free[low:high].min())

    def by_slot(self, edges_s: Seconds) -> Counts:
        """(S + 1,): the fewest devices free at any moment of each slot, and from the last edge on."""
        first = self.times.searchsorted(edges_s, side="right") - 1
        after = np.append(self.times.searchsorted(edges_s[1:], side="left"), len(self.times))
        pairs = np.column_stack([first, after]).reshape(-1)
        return np.minimum.reduceat(np.append(self.free, FOREVER_S), pairs)[::2]

    def until(self, start_s: int, devices: int) -> int:
        """The first moment after a start at which fewer are free."""
        low = int(self.times.searchsorted(start_s, side="right")) - 1
        short = self.free[low:] < devices
        return int(self.times[low + int(short.argmax())]) if short.any() else FOREVER_S

    def take(self, start_s: int, end_s: int, devices: int) -> None:
        """So many fewer from start to end; a negative number gives them back."""
        low = self._split(start_s)
        high = self._split(end_s)
        free = self.free.copy()
        free[low:high] -= devices
        self.free = free

    def take_until(self, start_s: int, ends_s: Seconds, devices: int) -> None:
        """So many fewer from the start to each of the ends."""
        ends_s = np.sort(ends_s)
        head = int(self.times.searchsorted(start_s, side="right"))
        times = np.concatenate([self.times, np.array([start_s], dtype=np.int64), ends_s])
        times = np.unique(times)
        free = self.free[self.times.searchsorted(times, side="right") - 1]
        first = int(times.searchsorted(start_s, side="left"))
        free[first:] -= devices * (len(ends_s) - ends_s.searchsorted(times[first:], side="right"))
        self.times, self.free = times, free
        assert head > 0, "nothing is known before the first step"

    def _split(self, at_s: int) -> int:
        index = int(self.times.searchsorted(at_s, side="left"))
        if index == len(self.times) or self.times[index] != at_s:
            head, tail = self.times[:index], self.times[index:]
            self.times = np.concatenate([head, np.array([at_s], dtype=np.int64), tail])
            self.free = np.concatenate([self.free[:index], self.free[index - 1 : index], self.free[index:]])
        return index


def profiles(question: Question) -> list[Profile]:
    """What is free in each pool before anything is placed."""
    found = []
    for free in question.free:
        changed = np.flatnonzero(np.diff(free, prepend=free[0] - 1))
        found.append(Profile(question.slots.edges_s[changed].copy(), free[changed].astype(np.int64)))
    return found
