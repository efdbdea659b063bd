"""Prices of devices by pool and slot, and the proven least cost of any plan.

A price turns "no more devices than there are" into money. With every job at its cheapest start by cost and
prices, less what the devices there are would earn at these prices, no plan can cost less: that is the bound.
Prices rise where more is wanted than there is and fall where less is, which climbs the bound. Knows nothing
of plans; the exact capacity over time is `commit.py`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from suan.rules.clearing.layout import Layout, View, search
from suan.rules.clearing.question import Counts
from suan.rules.clearing.slots import Floats

# The climb, fitted by bench/clear.py: how much of a step is the step before; what the bound may be hoped to
# gain at first, as a part of what is missing to a plan (or of the bound, without a plan); when and how much
# hope grows; after how many rounds in vain it shrinks, by how much, and where it ends.
_MOMENTUM_RATIO = 0.5
_HOPE_OF_MISSING_RATIO, _HOPE_OF_BOUND_RATIO, _HOPE_WHEN_WARM_RATIO = 0.3, 0.2, 0.02
_FULFILLED_RATIO, _GROWTH_RATIO = 0.3, 1.5
_PATIENCE, _SHRINK_RATIO, _HOPELESS_RATIO = 4, 0.6, 1e-6
# Above so many cells (shapes x candidate starts) prices are found by a rough search and proved by a full one.
# A search stops after so many cells, which a core looks at in about a second, but not before so many rounds.
_SMALL_CELLS, _EXACT_CELLS, _ROUGH_CELLS, _FEWEST_ROUNDS = 400_000, 60_000_000, 120_000_000, 10


@dataclass(slots=True)
class Value:
    """What the prices come to: the bound, and the cheapest row and start of each class."""

    bound: float
    least: Floats  # for each class with rows, one job's cost at these prices
    row: Counts
    start: Floats  # seconds from the first edge
    costs: Floats  # for each row


@dataclass(slots=True)
class Climb:
    """The best prices found."""

    prices: Floats
    value: Value
    rounds: int
    complete: bool


class Field:
    """All rows of a layout, searched together."""

    def __init__(self, layout: Layout, *, rough: bool = False) -> None:
        rows = layout.rows
        self.layout = layout
        self.view: View = layout.view(rough=rough)
        self.group = np.repeat(np.arange(len(rows.of)), np.diff(np.append(rows.first, len(rows.classes))))
        self.counts = layout.question.counts[rows.of].astype(np.float64)
        self.supply = layout.capacity * layout.lengths
        self.cells = len(layout.shapes.pool) * self.view.times.shape[1]

    def value(self, prices: Floats) -> Value:
        """The bound at these prices: a true one unless the field is rough."""
        rows = self.layout.rows
        best = search(self.layout, self.view, *self.layout.running(prices))
        costs = rows.fixed + rows.devices * best.cost[rows.shape]
        least = np.minimum.reduceat(costs, rows.first)
        cheapest = np.flatnonzero(costs == least[self.group])
        pick = cheapest[np.searchsorted(self.group[cheapest], np.arange(len(least)))]
        earned = float((prices * self.supply).sum())
        return Value(
            bound=float(self.counts @ least) - earned,
            least=least,
            row=pick,
            start=best.start[rows.shape[pick]],
            costs=costs,
        )

    def wanted(self, value: Value) -> Floats:
        """(P, S): device-seconds that the classes take at their cheapest starts."""
        rows = self.layout.rows
        amount = self.counts * rows.devices[value.row]
        span = (value.start, value.start + rows.run[value.row])
        return usage(self.layout, rows.pools[value.row], span, amount)


def usage(layout: Layout, pools: Counts, span: tuple[Floats, Floats], devices: Floats) -> Floats:
    """(P, S): device-seconds in each slot of runs that hold so many devices each over their spans."""
    edges = layout.edges
    shape = (layout.capacity.shape[0], len(edges) + 1)
    at, change = np.concatenate(span), np.concatenate([devices, -devices])
    cell = np.concatenate([pools, pools]) * shape[1] + np.searchsorted(edges, at, side="left")
    size = shape[0] * shape[1]
    rate = np.bincount(cell, weights=change, minlength=size).reshape(shape).cumsum(axis=1)[:, :-1]
    moment = np.bincount(cell, weights=change * at, minlength=size).reshape(shape).cumsum(axis=1)[:, :-1]
    return np.diff(edges * rate - moment, axis=1)


class _Steps:
    """How prices move: along the excess of what is wanted, each price at a pace of its own that slows
    with what it has seen, and all as far as the bound is hoped to climb.
    """

    def __init__(self, lengths: Floats, shape: tuple[int, ...], hope: float) -> None:
        self.lengths = lengths
        self.seen, self.drift = np.zeros(shape), np.zeros(shape)
        self.hope = hope

    def next(self, prices: Floats, excess: Floats, missing: float) -> Floats:
        """The next prices. `excess`: devices wanted beyond those there are; `missing`: money to climb."""
        self.seen += excess * excess
        excess = np.where((prices <= 0) & (excess < 0), 0.0, excess)
        self.drift = _MOMENTUM_RATIO * self.drift + (1 - _MOMENTUM_RATIO) * excess
        way = self.drift / np.sqrt(self.seen + 1e-9)
        gain = float((excess * way * self.lengths).sum())
        gain = max(gain, 0.3 * float((self.drift * way * self.lengths).sum()), 1e-12)
        return np.maximum(0.0, prices + missing / gain * way)


def climb(
    layout: Layout, prices: Floats, ceiling: float, *, rounds: int, gap_ratio: float,
    out_of_time: Callable[[], bool],
) -> Climb:  # fmt: skip
    """The best prices after so many rounds, or sooner when the bound is within `gap_ratio` of the ceiling:
    the cost of some plan, or infinite when none is known.
    """
    exact = Field(layout)
    if exact.cells <= _SMALL_CELLS:
        most = max(_FEWEST_ROUNDS, min(rounds, _EXACT_CELLS // exact.cells)) if rounds > 1 else 1
        return _rounds(exact, prices, (ceiling, gap_ratio, most), out_of_time)
    rough = Field(layout, rough=True)
    rounds = max(_FEWEST_ROUNDS, min(rounds, _ROUGH_CELLS // rough.cells)) if rounds > 1 else 1
    found = _rounds(rough, prices, (ceiling, gap_ratio, rounds), out_of_time)
    found.value = exact.value(found.prices)
    return found


def _rounds(
    field: Field, prices: Floats, until: tuple[float, float, int], out_of_time: Callable[[], bool]
) -> Climb:
    """The best prices of one field after some rounds from these prices on."""
    ceiling, gap_ratio, rounds = until
    value = field.value(prices)
    best, without = Climb(prices=prices, value=value, rounds=1, complete=True), 0
    size = max(1.0, abs(value.bound))
    hope = (_HOPE_WHEN_WARM_RATIO if prices.any() else _HOPE_OF_BOUND_RATIO) * size
    if np.isfinite(ceiling):
        hope = _HOPE_OF_MISSING_RATIO * (ceiling - value.bound)
    steps = _Steps(field.layout.lengths, prices.shape, hope)
    while best.rounds < rounds and steps.hope > _HOPELESS_RATIO * size:
        if np.isfinite(ceiling) and ceiling - best.value.bound <= gap_ratio * abs(ceiling):
            break
        if out_of_time():
            best.complete = False
            break
        excess = (field.wanted(value) - field.supply) / field.layout.lengths
        target = min(ceiling, best.value.bound + steps.hope)
        prices = steps.next(prices, excess, target - value.bound)
        value = field.value(prices)
        best.rounds += 1
        gained = value.bound - best.value.bound
        if gained > 0:
            best.prices, best.value, without = prices, value, 0
            if gained > _FULFILLED_RATIO * steps.hope:
                steps.hope *= _GROWTH_RATIO
        elif (without := without + 1) >= _PATIENCE:
            without, prices, value = 0, best.prices, best.value
            steps.hope *= _SHRINK_RATIO
    return best
