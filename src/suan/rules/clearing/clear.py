"""clear(question) -> Answer: what every device is worth when, a plan for all jobs together, and a proven
bound on how far it is from the best possible plan.

The numbered comments are the clearing. `dual.py` finds prices and bound, `commit.py` the plan. Knows no jobs,
tenants or sites: those are `decide`'s, which asks. Knows no clock: whoever asks says when time is up.
"""

from collections.abc import Callable

import numpy as np

from suan.rules.clearing.commit import placements
from suan.rules.clearing.dual import Climb, Value, climb
from suan.rules.clearing.improve import improve
from suan.rules.clearing.layout import Layout
from suan.rules.clearing.plans import Book, orders, smith
from suan.rules.clearing.question import NEVER, Answer, Counts, Limit, Placements, Question, cost_of
from suan.rules.clearing.slots import Floats

METHOD = "price climb, priced list schedules"
_PRICE_WEIGHTS = (1.0, 0.5, 0.0)  # of the prices, when a job chooses its start


def never() -> bool:
    """There is time."""
    return False


def clear(
    question: Question,
    prices: Floats | None = None,
    *,
    order: Counts | None = None,
    price_weight: float = 1.0,
    limit: Limit | None = None,
    out_of_time: Callable[[], bool] = never,
) -> Answer:
    """The clearing of a question. Same input, same answer, as long as time lasts.

    `prices` are those of the last clearing, moved to these
    slots: the bound starts from them. `order` lists classes by turn, first first: each takes its cheapest
    place among what those before it left, and classes it does not name come after it. Prices count in that
    choice by `price_weight`: at 1 a job leaves an hour that others would pay more for, at 0 it never gives
    way to a later one. Without `order` several orders and weights are tried, and the cheapest plan is kept.
    """
    limit = limit or Limit()
    layout = Layout(question)
    shape = question.free.shape
    start = np.zeros(shape) if prices is None else np.maximum(0.0, np.asarray(prices, dtype=np.float64))
    if not len(layout.rows.of):
        return _answer(layout, _nothing(start), placements([]), complete=True)
    turns = None if order is None else _all_turns(order, len(question.counts))
    # 1. Some plan: its cost is the ceiling that prices climb towards. A large queue can do without.
    book = Book(layout)
    if not book.coarse:
        book.attempt(start * price_weight, smith(layout) if turns is None else turns)
    # 2. Prices and bound.
    found = climb(
        layout,
        start,
        book.cost,
        rounds=limit.rounds,
        gap_ratio=limit.gap_ratio,
        out_of_time=out_of_time,
    )
    complete = found.complete
    # 3. Plans by these prices, in the given order or in several. There is always one.
    book.desk_at(found.prices, found.value.costs)
    tries = orders(layout, found)[: limit.orders] if turns is None else [turns]
    weights = _PRICE_WEIGHTS if turns is None else (price_weight,)
    for weight, turn in [(weight, turn) for weight in weights for turn in tries]:
        if np.isfinite(book.cost):
            if book.coarse or book.cost - found.value.bound <= limit.gap_ratio * abs(book.cost):
                break
            if out_of_time() or not complete:
                complete = False
                break
        book.attempt(found.prices * weight, turn)
    # 4. Jobs that are dearer than they need be change places, where no turn forbids it.
    if turns is None and complete:
        complete = improve(book, found, limit, out_of_time)
    plan = placements(book.rows) if book.rows else book.plan
    return _answer(layout, found, plan, complete=complete)


def _all_turns(order: Counts, count: int) -> Counts:
    """The given turns, then the classes that have none, by index."""
    given = np.asarray(order, dtype=np.int64)
    rest = np.setdiff1d(np.arange(count), given)
    return np.concatenate([given, rest])


def _nothing(prices: Floats) -> Climb:
    """Where no class can run anywhere."""
    none = np.zeros(0)
    value = Value(bound=0.0, least=none, row=none.astype(np.int64), start=none, costs=none)
    return Climb(prices=np.zeros_like(prices), value=value, rounds=0, complete=True)


def _answer(layout: Layout, found: Climb, plan: Placements, *, complete: bool) -> Answer:
    question = layout.question
    kinds = len(question.counts)
    placed = np.bincount(plan.classes, weights=plan.counts, minlength=kinds)
    unplaced = question.counts - placed.astype(np.int64)
    first = np.full(kinds, np.iinfo(np.int64).max)
    np.minimum.at(first, plan.classes, plan.start_s)
    total = np.bincount(plan.classes, weights=plan.counts * plan.start_s.astype(np.float64), minlength=kinds)
    # The bound is for the jobs in the plan: each that is not takes its own least cost out of it.
    bound = found.value.bound - float(unplaced[layout.rows.of] @ found.value.least)
    return Answer(
        prices=found.prices,
        bound_microyuan=bound,
        plan=plan,
        cost_microyuan=float(cost_of(question, plan).sum()),
        unplaced=unplaced,
        first_start_s=np.where(placed > 0, first, NEVER),
        mean_start_s=np.where(placed > 0, total / np.maximum(placed, 1), NEVER),
        rounds=found.rounds,
        complete=complete,
        method=METHOD,
    )
