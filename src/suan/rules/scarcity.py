"""What the clearing prices make of a span of hours in a pool.

Knows running sums, so that a span costs two look-ups. The prices are made in `rules/clearing/`.
"""

from bisect import bisect_right
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from suan.grid.market import Clearing, Step
from suan.grid.units import HOUR_S


class Curve:
    """Running sum of one pool's price: micro-yuan a device since the clearing."""

    __slots__ = ("rates", "sums", "times")

    def __init__(self, clearing: Clearing, pool: str) -> None:
        steps = (*clearing.prices[pool], Step(clearing.until_s, 0))
        self.times = [step.from_s for step in steps]
        self.rates = [step.microyuan_per_device_h / HOUR_S for step in steps]
        self.sums = [0.0]
        for before, after in pairwise(steps):
            length_s = after.from_s - before.from_s
            self.sums.append(self.sums[-1] + before.microyuan_per_device_h / HOUR_S * length_s)

    def upto(self, at_s: float) -> float:
        index = bisect_right(self.times, at_s) - 1
        return 0.0 if index < 0 else self.sums[index] + self.rates[index] * (at_s - self.times[index])

    def spans(self, starts_s: NDArray[np.float64], run_s: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Micro-yuan a device of runs that begin at each of the moments."""
        upto = np.interp(starts_s + run_s, self.times, self.sums)
        return np.asarray(upto - np.interp(starts_s, self.times, self.sums))


_curves: dict[str, Curve] = {}  # a memo of the newest clearing's curves
_of: list[Clearing | None] = [None]


def curve(clearing: Clearing | None, pool: str) -> Curve | None:
    """The pool's running sum; None where it is nowhere scarce."""
    if clearing is None or pool not in clearing.prices:
        return None
    if _of[0] is not clearing:
        _curves.clear()
        _of[0] = clearing
    if pool not in _curves:
        _curves[pool] = Curve(clearing, pool)
    return _curves[pool]


def span_price(clearing: Clearing | None, pool: str, start_s: int, end_s: int) -> float:
    """Micro-yuan that one device from `start_s` to `end_s` is worth, beyond its cost."""
    found = curve(clearing, pool)
    return found.upto(end_s) - found.upto(start_s) if found else 0.0
