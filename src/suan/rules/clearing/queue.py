"""The clearing of a large queue of single jobs: prices and bound by classes, the plan job by job.

Knows how to put the parts together: `classes.py` groups, `dual.py` finds prices for the lower edges of the
classes, `bulk.py` places each job for its own time. Up to a few thousand classes of equal jobs `clear.py`
does better.
"""

from collections.abc import Callable

import msgspec
import numpy as np

from suan.rules.clearing.bulk import Crew, commit_bulk
from suan.rules.clearing.classes import Jobs, classes_of
from suan.rules.clearing.clear import never
from suan.rules.clearing.commit import desk, fresh
from suan.rules.clearing.dual import climb
from suan.rules.clearing.layout import Layout
from suan.rules.clearing.plans import smith
from suan.rules.clearing.question import NEVER, Counts, Limit, Supply, energy_at
from suan.rules.clearing.slots import Floats, Seconds


class QueueAnswer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """As `Answer`, with a place for each job instead of a plan by classes."""

    prices: Floats  # (P, S): micro-yuan a device-second, beyond cost
    bound_microyuan: float  # no plan for the queue costs less; for all jobs, also those without a place
    pool: Counts  # (N,); NEVER where no pool ever has so much free at once
    start_s: Seconds  # (N,); NEVER likewise
    cost_microyuan: float  # of the jobs that have a place
    classes: int
    rounds: int
    complete: bool

    @property
    def gap_ratio(self) -> float:
        """How far the plan can be from the best one, as a part of its own cost."""
        if self.cost_microyuan <= 0:
            return 0.0
        return min(1.0, max(0.0, 1 - self.bound_microyuan / self.cost_microyuan))


def clear_queue(
    jobs: Jobs,
    supply: Supply,
    prices: Floats | None = None,
    *,
    most: int = 600,
    limit: Limit | None = None,
    out_of_time: Callable[[], bool] = never,
) -> QueueAnswer:
    """The clearing of single jobs by at most so many classes; `prices` are those of the last clearing."""
    limit = limit or Limit()
    classes = classes_of(jobs, supply, most=most)
    question, floor = classes.question, Layout(classes.floor)
    layout = Layout(question)
    start = np.zeros(supply.free.shape) if prices is None else np.maximum(0.0, prices)
    # 1. Prices and bound, by the lower edges.
    found = climb(
        floor, start, np.inf, rounds=limit.rounds, gap_ratio=limit.gap_ratio, out_of_time=out_of_time
    )
    # 2. Places, each job for as long as it runs, the dearest wait of a class first.
    order = np.lexsort((np.arange(len(jobs.fit)), -jobs.waiting_microyuan_per_s, classes.member))
    longest = np.zeros(len(question.counts))
    np.maximum.at(longest, classes.member, jobs.run_s.astype(np.float64))
    crew = Crew(question.counts, jobs.run_s[order] / longest[classes.member[order]])
    free, left = fresh(question)
    at = desk(layout, found.prices, np.full(len(layout.rows.classes), -np.inf))
    commit_bulk(at, smith(layout), free, left, crew)
    pool = np.full(len(order), NEVER, dtype=np.int64)
    start_s = np.full(len(order), NEVER, dtype=np.int64)
    pool[order], start_s[order] = crew.pool, crew.start_s
    return QueueAnswer(
        prices=found.prices,
        bound_microyuan=found.value.bound,
        pool=pool,
        start_s=start_s,
        cost_microyuan=float(cost_of_jobs(jobs, supply, pool, start_s).sum()),
        classes=len(question.counts),
        rounds=found.rounds,
        complete=found.complete,
    )


def cost_of_jobs(jobs: Jobs, supply: Supply, pool: Counts, start_s: Seconds) -> Floats:
    """(N,): micro-yuan of each job where it is placed, for its own length; nought where it is not."""
    cost = np.zeros(len(pool))
    for index in range(len(supply.free)):
        mine = np.flatnonzero(pool == index)
        start = start_s[mine].astype(np.float64)
        run = np.ceil(jobs.run_s[mine] / supply.speed_ratio[index])
        finish = start + run
        energy = energy_at(supply, index, finish) - energy_at(supply, index, start)
        late = np.maximum(0.0, finish - jobs.due_s[mine])
        cost[mine] = (
            jobs.fixed_microyuan[jobs.fit[mine], index]
            + jobs.devices[mine] * (supply.machine_microyuan_per_device_s[index] * run + energy)
            + jobs.waiting_microyuan_per_s[mine] * (start - supply.slots.start_s)
            + jobs.late_microyuan_per_s[mine] * late
            + jobs.late_fixed_microyuan[mine] * (late > 0)
        )
    return cost
