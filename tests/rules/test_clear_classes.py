"""Large queues: classes keep the bound true for their jobs, and each job fits where the plan puts it."""

import numpy as np
import pytest
from clear_cases import queue, supply
from hypothesis import given, settings
from hypothesis import strategies as st

from suan.rules.clearing.classes import Jobs, classes_of
from suan.rules.clearing.clear import clear
from suan.rules.clearing.question import Limit, Supply
from suan.rules.clearing.queue import clear_queue, cost_of_jobs

FEW = Limit(rounds=20, improvements=0, orders=1)


@pytest.mark.parametrize("kind", ["alike", "mixed", "urgent"])
def test_every_job_fits_where_its_class_is_placed(kind: str) -> None:
    pools = supply(1, 6)
    jobs = queue(2, 3_000, pools, load=0.5, kind=kind)
    answer = clear_queue(jobs, pools, most=150, limit=FEW)
    where, start_s = answer.pool, answer.start_s
    placed = where >= 0
    assert placed.all()
    assert answer.bound_microyuan <= answer.cost_microyuan
    assert answer.cost_microyuan == pytest.approx(cost_of_jobs(jobs, pools, where, start_s).sum())
    assert (jobs.able[jobs.fit[placed], where[placed]] == 1).all()
    end_s = start_s + np.ceil(jobs.run_s / np.where(placed, pools.speed_ratio[where], 1.0))
    for pool, free in enumerate(pools.free):
        mine = where == pool
        at_s = np.unique(start_s[mine])
        for moment in at_s[:: max(1, len(at_s) // 50)]:
            used = jobs.devices[mine & (start_s <= moment) & (end_s > moment)].sum()
            slot = min(int(np.searchsorted(pools.slots.edges_s, moment, side="right")) - 1, len(free) - 1)
            assert used <= free[slot]


@given(st.integers(min_value=0, max_value=10_000))
@settings(max_examples=6, deadline=None)
def test_the_bound_by_classes_is_a_bound_for_the_jobs(seed: int) -> None:
    """The same prices by single jobs come to no less than by classes."""
    pools = supply(seed, 3)
    jobs = queue(seed, 120, pools, load=0.6)
    single = classes_of(jobs, pools, most=10**6)
    assert len(single.question.counts) == len(jobs.devices)
    few = clear_queue(jobs, pools, most=60, limit=FEW)
    exact = clear(single.question, few.prices, limit=Limit(rounds=1, orders=1, improvements=0))
    assert few.bound_microyuan <= exact.bound_microyuan * (1 + 1e-9)


def test_a_queue_is_cleared_the_same_way_twice() -> None:
    pools = supply(5, 4)
    jobs = queue(5, 2_500, pools, load=0.8)
    one, two = (clear_queue(jobs, pools, most=120, limit=FEW) for _ in range(2))
    assert one.bound_microyuan == two.bound_microyuan
    assert np.array_equal(one.start_s, two.start_s)
    assert np.array_equal(one.prices, two.prices)


def test_members_lie_between_the_edges() -> None:
    pools: Supply = supply(3, 4)
    jobs: Jobs = queue(3, 2_000, pools, load=1.0)
    classes = classes_of(jobs, pools, most=200)
    k = classes.member
    assert len(classes.question.counts) <= 200
    assert (np.bincount(k) == classes.question.counts).all()
    run_s = jobs.run_s[:, None] / pools.speed_ratio
    assert (classes.floor.run_s[k] <= run_s + 1).all()
    assert (classes.question.run_s[k] >= run_s).all()
    assert (classes.floor.waiting_microyuan_per_s[k] <= jobs.waiting_microyuan_per_s).all()
    assert (classes.floor.due_s[k] >= jobs.due_s).all()
    assert (classes.question.due_s[k] <= jobs.due_s).all()
