"""Plans by several orders of turns, and the cheapest of them.

Knows which orders are worth a try. How jobs find their place is `commit.py`.
"""

import numpy as np

from suan.rules.clearing.bulk import Crew, commit_bulk
from suan.rules.clearing.commit import Desk, Row, commit, desk, fresh, placements
from suan.rules.clearing.dual import Climb, Field
from suan.rules.clearing.layout import Layout
from suan.rules.clearing.question import Counts, Placements, cost_of
from suan.rules.clearing.slots import Floats

# Up to so many jobs each is placed by itself; above, classes are placed in pieces.
_FINE_JOBS = 2_000
_MISSED = 4.0  # a job that finds no place counts as so many times its least cost when plans are compared


class Book:
    """The cheapest plan so far."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.plan: Placements = placements([])
        self.rows: list[Row] = []  # of the plan, where jobs were placed one by one
        self.cost = np.inf
        self.coarse = int(layout.question.counts.sum()) > _FINE_JOBS
        self._exact = Field(layout)
        self._desks: list[tuple[Floats, Desk]] = []  # the newest few

    def attempt(self, prices: Floats, turns: Counts) -> None:
        """Commits in these turns at these prices; the plan is kept when it is cheaper."""
        free, left = fresh(self.layout.question)
        if self.coarse:
            crew = Crew(self.layout.question.counts)
            commit_bulk(self.desk_at(prices), turns, free, left, crew)
            self.keep([], crew.plan(), left)
        else:
            rows = commit(self.desk_at(prices), turns, free, left)
            self.keep(rows, placements(rows), left)

    def keep(self, rows: list[Row], plan: Placements, left: Counts) -> bool:
        """Whether the plan is cheaper than what there was; then it is kept. Jobs without a place cost more
        than any place does.
        """
        cost = float(cost_of(self.layout.question, plan).sum())
        missed = left[self.layout.rows.of]
        if missed.any():
            least = self._exact.value(np.zeros(self.layout.capacity.shape)).least
            cost += float(missed @ np.abs(least)) * _MISSED
        cheaper = cost < self.cost * (1 - 1e-9) if self.cost > 0 else cost < self.cost
        if cheaper:
            self.rows, self.plan, self.cost = rows, plan, cost
        return cheaper

    def desk_at(self, prices: Floats, costs: Floats | None = None) -> Desk:
        """For commits at these prices; `costs` are the rows' at them, if known."""
        for known, found in self._desks:
            if np.array_equal(known, prices):
                return found
        costs = self._exact.value(prices).costs if costs is None else costs
        found = desk(self.layout, prices, costs)
        self._desks = [(prices, found), *self._desks[:3]]
        return found


def smith(layout: Layout) -> Counts:
    """Classes by what an hour of waiting costs over the devices and hours they hold, dearest first (the rule
    that is optimal for one machine: W. E. Smith, Naval Research Logistics Quarterly 3, 1956).
    """
    question = layout.question
    urgency = question.waiting_microyuan_per_s + question.late_microyuan_per_s
    return np.argsort(-urgency / _work(layout), kind="stable")


def orders(layout: Layout, found: Climb) -> list[Counts]:
    """Orders of all classes that are worth a try, the likelier first."""
    question = layout.question
    work = _work(layout)
    starts = np.zeros(len(question.counts))
    starts[layout.rows.of] = found.value.start
    squeezed = np.zeros(len(question.counts))  # what prices add to the least cost, for each device-second
    squeezed[layout.rows.of] = found.value.least
    slack = (
        question.due_s
        - question.slots.start_s
        - np.where(question.devices > 0, question.run_s, 0).max(axis=1)
    )
    return [
        smith(layout),
        np.argsort(-work, kind="stable"),
        np.argsort(starts, kind="stable"),
        np.argsort(slack, kind="stable"),
        np.argsort(-squeezed / work, kind="stable"),
        np.argsort(-question.devices.max(axis=1, initial=0), kind="stable"),
        np.lexsort((-work, np.round(starts / max(1.0, float(layout.lengths.mean()))))),
    ]


def _work(layout: Layout) -> Floats:
    """Device-seconds of one job of each class, in the pool where they are fewest."""
    rows = layout.rows
    work = np.full(len(layout.question.counts), np.inf)
    np.minimum.at(work, rows.classes, rows.devices * rows.run)
    return work
