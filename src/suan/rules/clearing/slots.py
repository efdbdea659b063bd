"""The slots that time is cut into for the market: fine ones soon, coarse ones later, coarser ones far away.

Knows seconds only. What happens in a slot is `question.py`.
"""

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from suan.grid.units import HOUR_S

Seconds = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Slots(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """S slots between S + 1 edges, in seconds, strictly increasing."""

    edges_s: Seconds

    @property
    def count(self) -> int:
        return len(self.edges_s) - 1

    @property
    def start_s(self) -> int:
        return int(self.edges_s[0])

    @property
    def end_s(self) -> int:
        return int(self.edges_s[-1])

    @property
    def lengths_s(self) -> Seconds:
        return np.diff(self.edges_s)


def make_slots(
    now_s: int,
    *,
    fine_s: int = 900,
    fine_for_s: int = 86_400,
    coarse_s: int = HOUR_S,
    until_s: int = 7 * 86_400,
    tail_s: int = 28 * 86_400,
) -> Slots:
    """Slots from now: `fine_s` long for `fine_for_s`, then `coarse_s` long until `until_s` from now, then
    each twice as long as the one before for at least `tail_s`.

    Every full hour before the tail is an edge, because tariffs change on the hour; the first slot is cut so
    that the second starts on the grid. The tail gives a queue of weeks a place and a price. `fine_s` must
    divide an hour, `coarse_s` be a multiple of one.
    """
    assert HOUR_S % fine_s == 0 and coarse_s % HOUR_S == 0, "tariffs change on the hour"
    fine_end_s = -(-(now_s + fine_for_s) // coarse_s) * coarse_s
    coarse_end_s = max(fine_end_s, -(-(now_s + until_s) // coarse_s) * coarse_s)
    edges = [
        now_s,
        *range((now_s // fine_s + 1) * fine_s, fine_end_s, fine_s),
        *range(fine_end_s, coarse_end_s, coarse_s),
        coarse_end_s,
        *_doubling(coarse_end_s, coarse_s, tail_s),
    ]
    return Slots(edges_s=np.array(edges, dtype=np.int64))


def _doubling(from_s: int, step_s: int, for_s: int) -> Iterator[int]:
    at_s = from_s
    while at_s < from_s + for_s:
        step_s *= 2
        at_s += step_s
        yield at_s
