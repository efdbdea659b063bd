"""The cheapest hours of a job that may pause and must have ended by a moment: when it begins, runs and rests.

Time is cut into slots of one length. What is left to pay from each slot on, for each number of slots that can
still be spared, running or resting before, is found once, backwards from the end (dynamic programming); every
question after that is a look-up. Costs are of one device: they grow with the devices. Knows no pools, no
prices and no clock: `ahead.py` makes it from them.
"""

from math import inf

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_UNITS_S = (300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400)
_MOST_SPARE, _MOST_SLOTS = 96, 768  # a table of so many is made in five milliseconds


def unit_for(left_s: float, window_s: float) -> int:
    """The length of a slot for so much work in so much time, in seconds."""
    for unit_s in _UNITS_S:
        if window_s - left_s <= _MOST_SPARE * unit_s and window_s <= _MOST_SLOTS * unit_s:
            return unit_s
    return _UNITS_S[-1]


class Hours:
    """What is left to pay for one device, by slot and slots to spare; `inf` where it cannot end in time."""

    __slots__ = ("_begin", "_cost", "_going", "_resting", "_until", "again_s", "first_s", "unit_s")

    def __init__(self, first_s: int, unit_s: int, cost: Floats, begin: Floats, *, spare: int, again_s: int):
        """`cost` of running through each slot from `first_s` on, and `begin` of going on in it after a rest,
        in micro-yuan; at most `spare` slots in which it does not run; a rest costs `again_s` of work besides.
        """
        count = len(cost)
        going, resting = np.zeros((count + 1, spare + 1)), np.zeros((count + 1, spare + 1))
        rest = np.empty(spare + 1)
        for slot in range(count - 1, -1, -1):
            rest[0], rest[1:] = inf, resting[slot + 1, :-1]
            on = cost[slot] + going[slot + 1]
            np.minimum(on, rest, out=going[slot])
            np.minimum(on + begin[slot], rest, out=resting[slot])
            if count - slot <= spare:  # as many to spare as there are: nothing is left to do
                going[slot, count - slot :] = resting[slot, count - slot :] = 0.0
        self.first_s, self.unit_s, self.again_s = first_s, unit_s, again_s
        self._cost, self._begin, self._going, self._resting = cost, begin, going, resting
        self._until = np.concatenate(([0.0], np.cumsum(cost)))

    @property
    def bytes(self) -> int:
        return self._going.nbytes + self._resting.nbytes

    @property
    def end_s(self) -> int:
        return self.first_s + self.unit_s * len(self._cost)

    def holds(self, at_s: int, left_s: float) -> bool:
        """Whether it can be asked about so much work at a moment."""
        spare_s = self.end_s - at_s - left_s
        return self.first_s <= at_s and 0 <= spare_s < (self._going.shape[1] - 1) * self.unit_s

    def through(self, at_s: int, left_s: float) -> float:
        """What running from a moment to the end without a rest costs."""
        return inf if at_s + left_s > self.end_s else self._sum(at_s + left_s) - self._sum(at_s)

    def run(self, at_s: int, left_s: float) -> float:
        """The least that is left to pay by one that runs at a moment, until the slot ends at least."""
        slot, rest_s = self._slot(at_s)
        runs_s = min(left_s, rest_s)
        return float(self._cost[slot]) * runs_s / self.unit_s + self._at(
            self._going, slot + 1, left_s - runs_s
        )

    def rest(self, at_s: int, left_s: float) -> float:
        """The least for one that stops at a moment and goes on when a later slot begins."""
        slot = self._slot(at_s)[0] + 1
        if self._spare(slot, left_s + self.again_s) < 0:  # what it costs to begin again is in the table
            return inf
        return self._at(self._resting, slot, left_s)

    def resumes_s(self, at_s: int, left_s: float) -> int:
        """When one that stops at a moment should go on."""
        slot = self._slot(at_s)[0] + 1
        spare = self._spare(slot, left_s)
        while spare > 0:
            on = self._cost[slot] + self._begin[slot] + self._going[slot + 1, spare]
            if on <= self._resting[slot + 1, spare - 1]:
                break
            slot, spare = slot + 1, spare - 1
        return self.first_s + self.unit_s * slot

    def rests_s(self, at_s: int, left_s: float) -> int | None:
        """When one that runs at a moment should stop next; None if it should run to its end."""
        if self.rest(at_s, left_s) < self.run(at_s, left_s):
            return at_s
        slot, rest_s = self._slot(at_s)
        spare = self._spare(slot + 1, max(0.0, left_s - rest_s))
        last = len(self._cost) - spare  # where its work ends if it never rests
        if spare < 1 or slot + 1 >= last:
            return None
        on = self._cost[slot + 1 : last] + self._going[slot + 2 : last + 1, spare]
        found = np.flatnonzero(self._resting[slot + 2 : last + 1, spare - 1] < on)
        return self.first_s + self.unit_s * (slot + 1 + int(found[0])) if len(found) else None

    def begins_s(self, at_s: int, left_s: float) -> int | None:
        """Of the slots after a moment the one with which a job that has not begun should begin; None where it
        would be too late in all of them.
        """
        slot = self._slot(at_s)[0] + 1
        runs_s = min(left_s, self.unit_s)
        low, part = divmod((self.end_s - left_s + runs_s - self.first_s) / self.unit_s - (slot + 1), 1)
        spare = int(low) - np.arange(max(0, min(int(low) + 1, len(self._cost) - slot)))
        if not len(spare):
            return None
        after = np.arange(len(spare)) + slot + 1
        going = self._going[after, spare]
        if part:
            going = going + part * (
                self._going[after, np.minimum(spare + 1, self._going.shape[1] - 1)] - going
            )
        on = self._cost[slot : slot + len(spare)] * (runs_s / self.unit_s) + going
        return self.first_s + self.unit_s * (slot + int(on.argmin()))

    def _slot(self, at_s: int) -> tuple[int, int]:
        """(the slot of a moment, seconds until it ends)."""
        slot, gone_s = divmod(at_s - self.first_s, self.unit_s)
        return slot, self.unit_s - gone_s

    def _sum(self, at_s: float) -> float:
        slot, part = divmod((at_s - self.first_s) / self.unit_s, 1)
        low = float(self._until[int(slot)])
        return low + part * (float(self._until[int(slot) + 1]) - low) if part else low

    def _spare(self, slot: int, left_s: float) -> int:
        """Whole slots that can be spared from one on, for so much work."""
        return len(self._cost) - slot - int(-(-left_s // self.unit_s))

    def _at(self, table: Floats, slot: int, left_s: float) -> float:
        low, part = divmod(len(self._cost) - slot - left_s / self.unit_s, 1)
        if low < 0:
            return inf
        known = float(table[slot, int(low)])
        return known + part * (float(table[slot, int(low) + 1]) - known) if part else known
