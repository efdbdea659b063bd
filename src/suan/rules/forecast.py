"""What is known about a length before it has passed: quantiles, the mean, what remains after a while, and how
soon a look would pay.

Knows distributions in pieces. Does not know whose length it is (`durations`).
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

OVERDUE_S = 60  # what has outlived all that was known goes on for at least so long, or as long again
_KNOWN_RATIO = 1.05  # of the longest to the shortest: what somebody knows
_NOTHING_LEFT = 1e-6  # of the distribution: whoever comes so far is beyond what was known


class Forecast:
    """A distribution of seconds at speed 1: linear pieces between knots. Immutable."""

    __slots__ = ("_areas_s", "_cdf", "_gains", "_knots_s", "_pieces", "basis", "mean_s", "weight")

    def __init__(
        self, knots_s: Sequence[float], cdf: Sequence[float], *, basis: str = "", weight: float = 0.0
    ) -> None:
        """`cdf` is 0 at the first knot and 1 at the last. `basis` says what it rests on, `weight` on how
        many.
        """
        # mean time that has been spent by each knot, by those that have ended and those that have not
        areas_s = [knots_s[0]]
        for index in range(1, len(knots_s)):
            length_s = knots_s[index] - knots_s[index - 1]
            areas_s.append(areas_s[-1] + length_s * (1 - (cdf[index] + cdf[index - 1]) / 2))
        self._knots_s, self._cdf, self._areas_s = knots_s, cdf, areas_s
        self._gains: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        # by knots, from nought on: the knot, who is left there, half their fall a second, the area
        self._pieces: NDArray[np.float64] | None = None
        self.mean_s = areas_s[-1]
        self.basis, self.weight = basis, weight

    @property
    def p10_s(self) -> float:
        return self.quantile_s(0.1)

    @property
    def p50_s(self) -> float:
        return self.quantile_s(0.5)

    @property
    def p90_s(self) -> float:
        return self.quantile_s(0.9)

    def quantile_s(self, part: float) -> float:
        """Seconds that this part of such jobs does not exceed."""
        knots, cdf = self._knots_s, self._cdf
        index = min(bisect_right(cdf, part), len(cdf) - 1)
        rise = cdf[index] - cdf[index - 1]
        within = (part - cdf[index - 1]) / rise if rise > 0 else 1.0
        return knots[index - 1] + within * (knots[index] - knots[index - 1])

    def survival(self, elapsed_s: float) -> float:
        """The part of such jobs that take longer."""
        return 1 - self._at(elapsed_s)[0]

    def remaining_s(self, elapsed_s: float) -> float:
        """Mean seconds to go for one that has run so long. Past all that is known: as long again."""
        if elapsed_s <= 0:
            return self.mean_s
        passed, area = self._at(elapsed_s)
        if 1 - passed < _NOTHING_LEFT:
            return max(float(OVERDUE_S), elapsed_s)
        return max(1.0, (self.mean_s - area) / (1 - passed))

    def rest_s(self, elapsed_s: float, part: float) -> float:
        """Seconds to go that this part of those that have run so long does not exceed."""
        alive = 1 - self._at(elapsed_s)[0]
        if alive < _NOTHING_LEFT:
            return max(float(OVERDUE_S), elapsed_s)
        return max(1.0, self.quantile_s(1 - alive * (1 - part)) - elapsed_s)

    @property
    def is_known(self) -> bool:
        """Whether the length is known within a few per cent."""
        return self._knots_s[-1] <= _KNOWN_RATIO * self._knots_s[0]

    def spent_s(self, elapsed_s: float, until_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean seconds that one which has run so long goes on for by each of these moments, counted from now:
        in the end all of `remaining_s`.
        """
        passed, area = self._at(elapsed_s)
        if 1 - passed < _NOTHING_LEFT:
            return np.minimum(until_s, self.remaining_s(elapsed_s))
        if self._pieces is None:
            knots, cdf = np.array([(0.0, *self._knots_s), (0.0, *self._cdf)])
            falls = np.diff(cdf) / np.maximum(np.diff(knots), 1e-9) / 2
            self._pieces = np.array([knots[:-1], 1 - cdf[:-1], falls, (0.0, *self._areas_s[:-1])])
        knots, alive, falls, areas = self._pieces
        at_s = np.minimum(elapsed_s + until_s, self._knots_s[-1])
        low = np.searchsorted(knots[1:], at_s, side="right")
        since_s = at_s - knots[low]
        return np.asarray((areas[low] + since_s * (alive[low] - since_s * falls[low]) - area) / (1 - passed))

    def gittins(self, elapsed_s: float = 0.0) -> float:
        """The index to order by when lengths are unknown: the best chance of an end per second spent.

        The largest, over all quanta q, of P(ends within q | has run so long) over the mean time spent until
        the end or q. Per second; for a length that is known, one over what remains.
        Source: Gittins, Bandit processes and dynamic allocation indices, J. R. Stat. Soc. B 41 (1979); used
        for training jobs in Gu et al., Tiresias, NSDI 2019.
        """
        passed, area = self._at(elapsed_s)
        if 1 - passed < _NOTHING_LEFT:
            return 1 / max(float(OVERDUE_S), elapsed_s)
        after = bisect_right(self._knots_s, elapsed_s)
        if self._gains is None:
            self._gains = np.array(self._cdf), np.array(self._areas_s)
        gains = self._gains[0][after:] - passed
        spent = np.maximum(self._gains[1][after:] - area, 1e-9 * (1 + elapsed_s))
        return float((gains / spent).max())

    def _at(self, elapsed_s: float) -> tuple[float, float]:
        """(the part that has ended by then, mean time that was spent by then)."""
        knots, cdf, areas = self._knots_s, self._cdf, self._areas_s
        after = bisect_right(knots, elapsed_s)
        if after == 0:
            return 0.0, max(0.0, elapsed_s)
        if after == len(knots):
            return 1.0, areas[-1]
        low, high = after - 1, after
        within = elapsed_s - knots[low]
        passed = cdf[low] + (cdf[high] - cdf[low]) * within / (knots[high] - knots[low])
        return passed, areas[low] + within * (1 - (cdf[low] + passed) / 2)


def exactly(seconds: float, *, basis: str = "") -> Forecast:
    """A length that somebody knows, within one per cent."""
    return Forecast((0.99 * seconds, 1.01 * seconds), (0.0, 1.0), basis=basis)


def in_bins(edges_s: Sequence[float], parts: NDArray[np.float64], *, basis: str, weight: float) -> Forecast:
    """A distribution with these parts between these edges; empty ends are left out."""
    filled = np.flatnonzero(parts)
    first, last = int(filled[0]), int(filled[-1]) + 1
    cdf = np.cumsum(parts[first:last])
    return Forecast(edges_s[first : last + 1], [0.0, *(cdf / cdf[-1]).tolist()], basis=basis, weight=weight)
