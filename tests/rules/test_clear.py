"""What a clearing promises: a plan that can be carried out, a bound that no plan beats, prices that mean
something.
"""

import numpy as np
import pytest
from clear_cases import GRID_S, HOUR_S, small
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from suan.rules.clearing.clear import clear
from suan.rules.clearing.question import NEVER, Answer, Limit, Question, cost_of
from suan.rules.clearing.slots import Slots, make_slots

SEEDS = st.integers(min_value=0, max_value=1_000_000)
QUICK = Limit(rounds=60, improvements=20, orders=3)


def check_fits(question: Question, answer: Answer) -> None:
    """At every second there are at least as many devices as the plan takes; nobody starts too early."""
    plan = answer.plan
    ends = plan.start_s + question.run_s[plan.classes, plan.pools]
    held = plan.counts * question.devices[plan.classes, plan.pools]
    assert (held > 0).all()
    assert (plan.start_s >= question.ready_by_pool_s[plan.classes, plan.pools]).all()
    edges = question.slots.edges_s
    for pool, free in enumerate(question.free):
        mine = plan.pools == pool
        for at_s in np.unique(np.concatenate([plan.start_s[mine], edges])):
            used = held[mine & (plan.start_s <= at_s) & (ends > at_s)].sum()
            slot = min(int(np.searchsorted(edges, at_s, side="right")) - 1, len(free) - 1)
            assert used <= free[slot], f"pool {pool} at {at_s}: {used} of {free[slot]}"
    placed = np.bincount(plan.classes, weights=plan.counts, minlength=len(question.counts))
    assert (placed + answer.unplaced == question.counts).all()


@pytest.mark.parametrize("seed", range(50))
def test_plan_fits_and_costs_no_less_than_the_bound(seed: int) -> None:
    question = small(seed)
    answer = clear(question, limit=Limit(rounds=100, improvements=30))
    check_fits(question, answer)
    assert not answer.unplaced.any()
    assert answer.bound_microyuan <= answer.cost_microyuan * (1 + 1e-9)
    assert answer.cost_microyuan == pytest.approx(cost_of(question, answer.plan).sum())
    assert (answer.prices >= 0).all()
    assert answer.complete


def test_gaps_of_small_questions_are_small() -> None:
    gaps = [clear(small(seed)).gap_ratio for seed in range(10)]
    assert np.median(gaps) <= 0.03


@given(SEEDS, SEEDS)
@settings(max_examples=20, deadline=None)
def test_no_schedule_beats_the_bound(seed: int, schedule: int) -> None:
    """Jobs one after the other at any time and place that is free: never cheaper than the bound."""
    question = small(seed)
    draw = np.random.default_rng(schedule)
    answer = clear(question, limit=QUICK)
    order = draw.permutation(len(question.counts))
    other = clear(question, order=order, limit=Limit(rounds=1))
    check_fits(question, other)
    assert answer.bound_microyuan <= other.cost_microyuan * (1 + 1e-9)


@given(SEEDS)
@settings(max_examples=8, deadline=None)
def test_more_devices_never_cost_more(seed: int) -> None:
    """The bound is the least cost by prices: with one more device in every pool and slot it cannot rise, at
    the same prices.
    """
    question = small(seed)
    answer = clear(question, limit=QUICK)
    richer = replace(question, free=question.free + 1)
    at_same_prices = clear(richer, answer.prices, limit=Limit(rounds=1))
    assert at_same_prices.bound_microyuan <= answer.bound_microyuan + 1e-6 * abs(answer.bound_microyuan)


@given(SEEDS)
@settings(max_examples=8, deadline=None)
def test_a_warm_start_is_never_worse(seed: int) -> None:
    question = small(seed)
    cold = clear(question, limit=QUICK)
    warm = clear(question, cold.prices, limit=QUICK)
    assert warm.bound_microyuan >= cold.bound_microyuan * (1 - 1e-12)


def test_same_question_same_answer() -> None:
    one, two = clear(small(3)), clear(small(3))
    assert one.bound_microyuan == two.bound_microyuan
    assert np.array_equal(one.prices, two.prices)
    for name in ("classes", "pools", "start_s", "counts"):
        assert np.array_equal(getattr(one.plan, name), getattr(two.plan, name))


def test_when_time_is_up_there_is_a_plan_all_the_same() -> None:
    question = small(1)
    answer = clear(question, out_of_time=lambda: True)
    assert not answer.complete
    assert not answer.unplaced.any()
    check_fits(question, answer)
    assert answer.bound_microyuan <= answer.cost_microyuan


# ---------------------------------------------------------------- small worlds worked out by hand


def world(**changes: object) -> Question:
    """Two classes of one job each and one pool of 4 devices for ten hours, machine 1 micro-yuan a second."""
    question = Question(
        slots=Slots(edges_s=np.arange(11, dtype=np.int64) * HOUR_S),
        counts=np.array([1, 1]),
        devices=np.array([[4], [4]]),
        run_s=np.array([[HOUR_S], [HOUR_S]]),
        ready_s=np.array([0, 0]),
        waiting_microyuan_per_s=np.array([1.0, 8.0]),
        due_s=np.full(2, np.inf),
        late_microyuan_per_s=np.zeros(2),
        late_fixed_microyuan=np.zeros(2),
        fixed_microyuan=np.zeros((2, 1)),
        machine_microyuan_per_device_s=np.array([1.0]),
        energy_microyuan_per_device=np.zeros((1, 11)),
        energy_microyuan_per_device_s_after=np.zeros(1),
        free=np.full((1, 10), 4),
    )
    return replace(question, **changes)


def test_the_dearer_wait_goes_first() -> None:
    answer = clear(world())
    assert answer.first_start_s.tolist() == [HOUR_S, 0]
    assert answer.cost_microyuan == 2 * 4 * HOUR_S + HOUR_S
    assert answer.gap_ratio < 0.01


def test_a_given_turn_is_kept_and_nobody_delays_an_earlier_one() -> None:
    answer = clear(world(), order=np.array([0, 1]), price_weight=0.0)
    assert answer.first_start_s.tolist() == [0, HOUR_S]
    backfilled = clear(world(devices=np.array([[3], [4]]), counts=np.array([2, 3])), order=np.array([0, 1]),
                       price_weight=0.0)  # fmt: skip
    assert backfilled.plan.start_s[backfilled.plan.classes == 0].tolist() == [0, HOUR_S]


def test_the_price_of_the_scarce_hour_is_what_waiting_costs() -> None:
    """Whoever gives way waits an hour for 1 micro-yuan a second: 3600 over 4 devices x 3600 seconds."""
    answer = clear(world())
    assert answer.prices[0, 0] == pytest.approx(0.25, rel=0.1)
    assert (answer.prices[0, 2:] < 0.01).all()


def test_a_job_waits_for_the_cheap_hour_only_if_waiting_is_cheaper() -> None:
    dear = np.array([[0, 2, 4, 6, 6, 6, 6, 6, 6, 6, 6]]) * float(HOUR_S)
    patient = clear(world(energy_microyuan_per_device=dear, waiting_microyuan_per_s=np.array([0.1, 9.0])))
    assert patient.first_start_s.tolist() == [3 * HOUR_S, 0]


def test_an_hour_below_nought_is_taken() -> None:
    paid = np.array([[0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6]]) * float(HOUR_S)
    answer = clear(world(energy_microyuan_per_device=paid, counts=np.array([1, 0]),
                         waiting_microyuan_per_s=np.zeros(2)))  # fmt: skip
    assert answer.first_start_s.tolist() == [4 * HOUR_S, NEVER]
    assert answer.cost_microyuan == pytest.approx(answer.bound_microyuan)


def test_a_hard_deadline_is_met_when_it_is_worth_it() -> None:
    due = np.array([float(HOUR_S), np.inf])
    for lost, first in ((1e6, 0), (1.0, HOUR_S)):
        answer = clear(world(due_s=due, late_fixed_microyuan=np.array([lost, 0.0])))
        assert answer.first_start_s[0] == first


def test_a_run_may_start_between_edges_to_end_in_the_cheap_hours() -> None:
    """Half an hour's work before the dear hour begins, ready at no edge."""
    answer = clear(world(run_s=np.array([[GRID_S], [GRID_S]]), ready_s=np.array([700, 0])))
    assert answer.first_start_s.tolist() == [GRID_S, 0]


def test_what_fits_nowhere_is_said_and_costs_nothing() -> None:
    answer = clear(world(devices=np.array([[5], [4]])))
    assert answer.unplaced.tolist() == [1, 0]
    assert answer.first_start_s.tolist() == [NEVER, 0]
    assert answer.bound_microyuan <= answer.cost_microyuan == 4 * HOUR_S


def test_a_window_that_closes_for_ever_leaves_the_late_unplaced() -> None:
    """Devices for both only until the first hour ends: one runs, and the bound speaks of that one."""
    free = np.array([[4, 2, 2, 2, 2, 2, 2, 2, 2, 2]])
    answer = clear(world(free=free))
    assert answer.unplaced.sum() == 1
    assert answer.bound_microyuan <= answer.cost_microyuan * (1 + 1e-9)


def test_gangs_that_cannot_share_are_not_counted_as_if_they_could() -> None:
    """Three devices each on four: one at a time, and the bound knows it."""
    answer = clear(world(devices=np.array([[3], [3]])))
    assert answer.first_start_s.tolist() == [HOUR_S, 0]
    assert answer.gap_ratio < 0.01


def test_work_for_longer_than_the_horizon_is_placed_behind_it() -> None:
    question = world(counts=np.array([30, 5]))
    answer = clear(question)
    check_fits(question, answer)
    assert answer.plan.start_s.max() == 34 * HOUR_S
    assert answer.bound_microyuan <= answer.cost_microyuan


def test_equal_jobs_stand_side_by_side_and_one_after_the_other() -> None:
    question = world(counts=np.array([20, 0]), devices=np.array([[2], [4]]))
    answer = clear(question)
    check_fits(question, answer)
    assert answer.plan.counts.tolist() == [2] * 10
    assert answer.plan.start_s.tolist() == [hour * HOUR_S for hour in range(10)]
    assert answer.mean_start_s[0] == pytest.approx(4.5 * HOUR_S)


def test_slots_have_an_edge_on_every_hour() -> None:
    slots = make_slots(1_000_000)
    edges = slots.edges_s
    assert edges[0] == 1_000_000
    assert (np.diff(edges) > 0).all()
    hours = np.arange(1_000_000 // HOUR_S + 1, (1_000_000 + 7 * 86_400) // HOUR_S) * HOUR_S
    assert np.isin(hours, edges).all()
    assert slots.lengths_s[1] == 900
    assert slots.end_s >= 1_000_000 + 35 * 86_400
