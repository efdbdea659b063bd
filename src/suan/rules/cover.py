"""The cheapest set of indivisible things that is large enough: which runs to stop for so many devices.

Knows sizes and costs. Does not know what they stand for.
"""

from math import ceil, gcd

import numpy as np

_MOST = 1 << 36  # a loss in milli-yuan counts for no more than this: sums stay within 64 bits
_NEVER = 1 << 62


def cover(runs: list[tuple[int, int]], need: int) -> list[int] | None:
    """Indices of runs, each (devices, loss in micro-yuan), that free at least `need` at the least loss and,
    of equal ones, are fewest; None when all are too few.

    Exact, by dynamic programming over devices, in units of their greatest common divisor. None of the chosen
    could be left out: each costs something.
    """
    if need <= 0:
        return []
    if sum(devices for devices, _ in runs) < need:
        return None
    unit = gcd(*(devices for devices, _ in runs))
    slots = ceil(need / unit)
    order = sorted(range(len(runs)), key=lambda index: (runs[index][1], -runs[index][0], index))
    fewest: dict[int, int] = {}
    kept = []
    for index in order:  # of one size no more than fill the need by themselves can be of use
        devices = runs[index][0]
        fewest[devices] = fewest.get(devices, 0) + 1
        if fewest[devices] <= ceil(need / devices):
            kept.append(index)
    best = np.full(slots + 1, _NEVER, dtype=np.int64)
    best[0] = 0
    takes = np.zeros((len(kept), slots + 1), dtype=bool)
    places = np.arange(slots + 1)
    for row, index in enumerate(kept):
        devices, lost = runs[index]
        cost = min(_MOST, max(0, lost) // 1000) * 4096 + 1
        with_it = best[np.maximum(places - devices // unit, 0)] + cost
        takes[row] = with_it < best
        best = np.minimum(best, with_it)
    chosen, place = [], slots
    for row in range(len(kept) - 1, -1, -1):
        if takes[row, place]:
            chosen.append(kept[row])
            place = max(0, place - runs[kept[row]][0] // unit)
    return sorted(chosen)
