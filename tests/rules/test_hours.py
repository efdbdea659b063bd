"""Jobs that may pause: their hours are the cheapest there are, they end in time, their reasons say why."""

import itertools
import math

import numpy as np
import pytest
from going_on import EVERY, running
from scenario import NIGHT, Scenario, task

from suan.grid.job import Priority
from suan.grid.units import HOUR_S
from suan.rules.durations import count
from suan.rules.hours import Hours
from suan.rules.leave import leaving
from suan.rules.policy import Policy

SLOT_S = 600


def least(cost: np.ndarray, work: int, begin: float) -> float:
    """By trying every choice of slots; each stretch but the first costs `begin`."""
    best = math.inf
    for chosen in itertools.combinations(range(len(cost)), work):
        rests = sum(after - before > 1 for before, after in itertools.pairwise(chosen))
        best = min(best, float(cost[list(chosen)].sum()) + rests * begin)
    return best


def followed(hours: Hours, at_s: int, work: int, cost: np.ndarray, begin: float) -> float:
    """What it comes to when each answer is obeyed."""
    total, left = 0.0, work
    while True:
        rests_s = hours.rests_s(at_s, left * SLOT_S)
        if rests_s is None:
            return total + hours.through(at_s, left * SLOT_S)
        first, last = at_s // SLOT_S, rests_s // SLOT_S
        total, left = total + float(cost[first:last].sum()) + begin, left - (last - first)
        at_s = hours.resumes_s(rests_s, left * SLOT_S)


@pytest.mark.parametrize("seed", range(40))
def test_the_hours_found_are_the_cheapest_of_all_and_can_be_followed(seed: int) -> None:
    draw = np.random.default_rng(seed)
    slots = int(draw.integers(4, 12))
    work = int(draw.integers(1, slots))
    cost, begin = draw.uniform(-1, 10, slots), float(draw.uniform(0, 4))
    hours = Hours(0, SLOT_S, cost, np.full(slots, begin), spare=slots - work + 1, again_s=0)
    begins_s = hours.begins_s(0, work * SLOT_S)
    assert begins_s is not None
    by_start = {at_s: hours.run(at_s, work * SLOT_S) for at_s in (0, begins_s)}
    at_s = min(by_start, key=lambda at_s: by_start[at_s])
    assert by_start[at_s] == pytest.approx(least(cost, work, begin))
    assert followed(hours, at_s, work, cost, begin) == pytest.approx(by_start[at_s])


def test_what_cannot_end_in_time_costs_infinitely_much_to_put_off() -> None:
    hours = Hours(0, SLOT_S, np.ones(6), np.zeros(6), spare=2, again_s=60)
    assert hours.run(0, 6 * SLOT_S) == hours.through(0, 6 * SLOT_S) == 6.0
    assert hours.rest(0, 6 * SLOT_S) == math.inf
    assert hours.rest(0, 5 * SLOT_S) == math.inf, "beginning again takes a minute"
    assert hours.rest(0, 5 * SLOT_S - 60) == pytest.approx(4.9)
    assert hours.rests_s(0, 6 * SLOT_S) is None and hours.begins_s(0, 6 * SLOT_S) is None
    assert not hours.holds(0, 6 * SLOT_S + 1)


# ---------------------------------------------------------------- with prices


def dear_by_day(hour: int = 8, *, free: bool = True) -> Scenario:
    grid = Scenario(policy=Policy(free_until_deadline=free), now_s=NIGHT + hour * HOUR_S)
    return grid.tenant().site("a", "H100-SXM 1x8 10", yuan_per_kwh=2.0, valley=0.2)


def at_checkpoint(grid: Scenario, **about: object) -> str:
    """A run of nine hours that has just written a checkpoint."""
    (run,) = running(grid, 8, for_s=5400 + 30, **{"duration_s": 9 * HOUR_S, **about})
    return run


def test_a_run_with_a_deadline_rests_through_dear_hours_and_says_why() -> None:
    grid = dear_by_day()
    run = at_checkpoint(grid, deadline_s=40 * HOUR_S)
    (stop,) = leaving(grid.state, grid.policy, grid.now_s).stops
    assert stop.run == run and stop.why.startswith(f"paused for {grid.state.runs[run].job}: power and")
    assert "in better hours, from 16h" in stop.why and "waiting counts as free" in stop.why


@pytest.mark.parametrize(
    "about",
    [
        {"deadline_s": 12 * HOUR_S},  # begun an hour and a half ago: the night would be too late
        {"deadline_s": 40 * HOUR_S, "priority": Priority.ONLINE},
        {"deadline_s": 40 * HOUR_S, "checkpoint": None},
        {},
    ],
)
def test_it_goes_on_where_it_would_be_late_or_nobody_said_that_it_may_wait(about: dict) -> None:
    grid = dear_by_day()
    at_checkpoint(grid, **about)
    assert leaving(grid.state, grid.policy, grid.now_s).stops == ()


def test_waiting_costs_what_it_costs_where_the_operator_does_not_make_it_free() -> None:
    grid = dear_by_day(free=False)
    at_checkpoint(grid, deadline_s=40 * HOUR_S)
    assert leaving(grid.state, grid.policy, grid.now_s).stops == ()


def test_a_length_that_is_not_known_keeps_slack() -> None:
    """Nine hours are expected, but others like it took twice as long as they said: it does not rest."""
    for said_ratio, stops in ((1.0, 1), (2.0, 0)):
        grid = dear_by_day()
        (sample,) = grid.submit(task("r0", devices=8, duration_s=9 * HOUR_S))
        for _ in range(3):
            count(grid.state.history, grid.state.jobs[sample], 9 * HOUR_S * said_ratio)
        at_checkpoint(grid, deadline_s=30 * HOUR_S)
        assert len(leaving(grid.state, grid.policy, grid.now_s).stops) == stops


def test_it_wakes_at_the_last_checkpoint_before_its_hours_end() -> None:
    grid = dear_by_day(hour=5)
    run = at_checkpoint(grid, deadline_s=40 * HOUR_S)
    found = leaving(grid.state, grid.policy, grid.now_s)
    assert found.stops == () and found.wake_at_s is not None
    started_s = grid.state.runs[run].started_at_s
    assert (found.wake_at_s - started_s) % EVERY.every_s == 30
    assert 0 <= NIGHT + 8 * HOUR_S - found.wake_at_s < EVERY.every_s


def test_until_its_deadline_waiting_is_free_and_the_reason_says_so() -> None:
    grid = dear_by_day()
    about = {"devices": 8, "duration_s": 4 * HOUR_S, "checkpoint": EVERY}
    (job,) = grid.submit(task("later", deadline_s=30 * HOUR_S, **about))
    reason = grid.plan().reasons[job]
    assert reason.code == "cheaper_hour" and reason.need < reason.have
    assert "until its deadline its waiting counts as free" in reason.text
    assert NIGHT + 24 * HOUR_S <= reason.expected_start_s <= NIGHT + 28 * HOUR_S
    (now,) = grid.submit(task("now", deadline_s=30 * HOUR_S, priority=Priority.ONLINE, **about))
    assert [action.job for action in grid.plan().actions] == [now]


def test_weighed_carbon_decides_over_hours_but_is_not_billed() -> None:
    """The dearer machine stands where less power is lost: only the weight of carbon draws the job there."""
    weighed = []
    for weight in (0, 100_000_000):
        grid = Scenario(policy=Policy(carbon_weight_microyuan_per_kg=weight)).tenant()
        grid.site("cheap", "H100-SXM 1x8 10", pue=1.6).site("clean", "H100-SXM 1x8 11", pue=1.0)
        grid.submit(task("t", devices=8, duration_s=2 * HOUR_S))
        (action,) = grid.plan().actions
        weighed.append(action.bid.site)
        kg = action.bid.quote.carbon_gco2 / 1000
        assert action.bid.quote.carbon_microyuan == pytest.approx(kg * 90_000, abs=1)
    assert weighed == ["cheap", "clean"]
