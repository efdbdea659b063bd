"""Lengths that nobody stated: what is learnt from jobs that ended, and what is expected of the next."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenario import Scenario, task

from suan.grid import fact as f
from suan.grid.history import History
from suan.grid.job import Checkpoint, EndCause, Job, JobPhase, Replicas, Task
from suan.grid.state import State
from suan.rules.accuracy import accuracy, ended_runs, foretold
from suan.rules.durations import PRIOR_SIGMA, count, expected, forecast, stem
from suan.rules.evolve import fold
from suan.rules.forecast import Forecast, exactly
from suan.rules.policy import Policy

POLICY = Policy(default_duration_s=3600)


def job(name: str = "bert", tenant: str = "nlp", **about: object) -> Job:
    return Job(id="j1", tenant=tenant, task=task(name, **about), submitted_at_s=0, sequence=1)


def told(lengths_s: list[float], of: Job | None = None, history: History | None = None) -> History:
    known = history or History()
    for length_s in lengths_s:
        count(known, of or job(), length_s)
    return known


def known(history: History, of: Job | None = None) -> Forecast:
    of = of or job()
    return forecast(history, of.tenant, of.task, POLICY)


def grid() -> Scenario:
    return Scenario(policy=POLICY).tenant().site("east", "H100-SXM 1x8 10")


def ran(grid: Scenario, seconds: int, *tasks: Task, cause: EndCause = EndCause.EXITED) -> str:
    """The run of a job that was placed at once and ended after so long."""
    (name,) = grid.submit(*(tasks or (task("bert-1"),)))
    grid.plan()
    run = grid.state.jobs[name].runs[-1]
    grid.started(run)
    grid.now_s += seconds
    grid.ended(run, cause=cause)
    grid.tell(f.JobEnded(at_s=grid.now_s, job=name, phase=JobPhase.SUCCEEDED, outcome="done"))
    return run


# ---------------------------------------------------------------- without a past


def test_without_a_past_the_operators_number_is_the_mean() -> None:
    found = known(History())
    assert found.mean_s == pytest.approx(3600)
    assert found.p50_s == pytest.approx(3600 / math.exp(PRIOR_SIGMA**2 / 2), rel=0.5)
    assert found.p10_s < found.p50_s < found.p90_s
    assert "assumed" in found.basis


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30), st.floats(0, 2e6))
def test_time_spent_hour_by_hour_is_all_that_remains(lengths_s: list[float], elapsed_s: float) -> None:
    found = known(told(lengths_s))
    hours_s = np.arange(0.0, 2500) * 3600  # longer than any of them
    spent_s = found.spent_s(elapsed_s, hours_s)
    assert spent_s[0] == pytest.approx(0, abs=1e-3)
    assert spent_s[-1] == pytest.approx(found.remaining_s(elapsed_s), rel=1e-6, abs=1)
    each_s = np.diff(spent_s)
    assert (each_s > -1e-3).all() and (each_s <= 3600 + 1e-3).all()
    assert (np.diff(each_s) <= 1e-3).all()  # fewer and fewer of them still run


# ---------------------------------------------------------------- whose past counts


def test_the_next_of_a_series_is_expected_to_take_as_long_as_the_last_ones() -> None:
    found = known(told([600] * 20), job("bert-21"))
    assert 500 < found.p50_s < 720
    assert found.basis == "20 jobs of nlp called bert on 1 device"


def test_another_name_of_the_tenant_counts_less_than_its_own() -> None:
    history = told([60] * 20, job("tokenize"))
    told([36_000] * 20, job("pretrain"), history)
    assert known(history, job("tokenize-7")).p50_s < 100
    assert known(history, job("pretrain-7")).p50_s > 20_000


def test_a_tenant_without_a_past_is_expected_to_be_like_the_others() -> None:
    history = told([60] * 50)
    assert known(history, job("new", tenant="vision")).p50_s < 120


def test_a_recipe_tells_more_than_other_work_of_the_tenant() -> None:
    history = told([7200] * 20, job("poet", recipe="pretrain"))
    told([30] * 40, job("misc"), history)
    assert known(history, job("painter", recipe="pretrain")).p50_s > 3600


def test_what_changed_is_learnt_within_a_few_jobs() -> None:
    history = told([100_000] * 500)
    told([60] * 12, history=history)
    assert known(history).p50_s < 600


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("bert-7", "bert"),
        ("bert", "bert"),
        ("run-3f2a9c", "run"),
        ("application_1506638472019_10258", "application"),
        ("sft_v2", "sft"),
        ("eval/mmlu-2026-01-02", "eval-mmlu"),
        ("7", ""),
        ("deadline", "deadline"),
    ],
)
def test_repetitions_share_a_name(name: str, group: str) -> None:
    assert stem(name) == group


# ---------------------------------------------------------------- estimates


def test_an_estimate_wins_over_the_past_of_others() -> None:
    found = known(told([60] * 50), job(duration_s=7200))
    assert found.mean_s == pytest.approx(7200)
    assert found.p10_s == pytest.approx(7200, rel=0.02)


def test_estimates_that_were_right_stay_as_they_are() -> None:
    found = known(told([7200] * 30, job(duration_s=7200)), job(duration_s=500))
    assert found.mean_s == pytest.approx(500, rel=1e-6)


def test_a_tenant_that_asks_for_ten_times_what_it_needs_is_known_for_it() -> None:
    history = told([720] * 30, job(duration_s=7200))
    assert 800 < known(history, job(duration_s=10_000)).p50_s < 1300
    assert known(history, job(duration_s=10_000, tenant="vision")).p50_s == pytest.approx(10_000, rel=0.02)


# ---------------------------------------------------------------- while it runs


def test_what_a_job_of_a_mixed_past_still_needs_grows_once_the_short_ones_are_over() -> None:
    found = known(told([60, 60, 60, 36_000] * 30))
    assert found.remaining_s(600) > 5 * found.remaining_s(0) / 2
    assert found.remaining_s(30_000) < found.remaining_s(600)


def test_past_all_that_is_known_a_job_goes_on_for_as_long_again() -> None:
    assert exactly(600).remaining_s(1000) == 1000
    assert exactly(10).remaining_s(12) == 60


def test_the_index_of_a_known_length_is_one_over_what_is_left() -> None:
    assert exactly(1000).gittins(0) == pytest.approx(1 / 1000, rel=0.02)
    assert exactly(1000).gittins(800) == pytest.approx(1 / 200, rel=0.1)


def test_the_index_falls_when_a_job_turns_out_not_to_be_one_of_the_short_ones() -> None:
    found = known(told([60, 60, 60, 36_000] * 30))
    assert found.gittins(0) > 10 * found.gittins(1200)


@given(
    lengths_s=st.lists(st.floats(1, 1e7), max_size=40),
    elapsed_s=st.floats(0, 1e7),
    estimate_s=st.none() | st.integers(1, 10**6),
)
def test_a_forecast_is_a_distribution(
    lengths_s: list[float], elapsed_s: float, estimate_s: int | None
) -> None:
    of = job(duration_s=estimate_s)
    found = known(told(lengths_s, of), of)
    assert 0 < found.p10_s <= found.p50_s <= found.p90_s
    assert 0 <= found.survival(elapsed_s) <= 1
    assert found.remaining_s(elapsed_s) >= 1 or elapsed_s == 0
    assert found.gittins(elapsed_s) > 0
    # nobody can end sooner than on average over all ways to stop looking
    if found.survival(elapsed_s) > 0.01:
        assert found.gittins(elapsed_s) >= 0.999 / max(1.0, found.remaining_s(elapsed_s))


@given(part=st.floats(0.01, 0.99), lengths_s=st.lists(st.floats(1, 1e6), min_size=1, max_size=40))
def test_quantiles_are_the_inverse_of_survival(part: float, lengths_s: list[float]) -> None:
    found = known(told(lengths_s))
    assert found.survival(found.quantile_s(part)) == pytest.approx(1 - part, abs=0.01)


# ---------------------------------------------------------------- from the journal


def test_runs_that_ended_by_themselves_teach() -> None:
    there = grid()
    for _ in range(12):
        ran(there, 300)
    found = expected(there.state, job("bert-13", tenant="default"), POLICY)
    assert 240 < found.p50_s < 380


@pytest.mark.parametrize("cause", [EndCause.STOPPED, EndCause.LOST, EndCause.FENCED])
def test_runs_that_others_ended_teach_nothing(cause: EndCause) -> None:
    there = grid()
    ran(there, 300, cause=cause)
    assert there.state.history == History()


def test_services_teach_nothing() -> None:
    there = grid()
    ran(there, 300, task("chat", replicas=Replicas()))
    assert there.state.history == History()


def test_work_that_a_checkpoint_saved_counts() -> None:
    there = grid()
    (name,) = there.submit(task("bert", checkpoint=Checkpoint(every_s=100)))
    for seconds, cause in ((1000, EndCause.STOPPED), (250, EndCause.LOST), (500, EndCause.EXITED)):
        there.plan()
        run = there.state.jobs[name].runs[-1]
        there.started(run)
        there.now_s += seconds
        there.ended(run, cause=cause)
    (ended,) = ended_runs(there.state)
    assert ended.length_s == 1000 + 200 + 500


def test_the_history_is_the_same_after_a_replay() -> None:
    there = grid()
    for seconds in (10, 20, 3000, 40, 10):
        ran(there, seconds)
        expected(there.state, job("bert", tenant="default"), POLICY)  # asking changes nothing
    again = fold(State(), there.facts)
    assert again.history == there.state.history
    mine, other = (expected(state, job("bert", tenant="default"), POLICY) for state in (again, there.state))
    assert (mine.p50_s, mine.mean_s, mine.gittins(7)) == (other.p50_s, other.mean_s, other.gittins(7))


# ---------------------------------------------------------------- how good it was


def test_a_tenant_is_told_how_far_its_forecasts_were_off() -> None:
    there = grid()
    for _ in range(30):
        ran(there, 300)
    ran(there, 3000)
    rows = foretold(ended_runs(there.state), POLICY, newest=11)
    (line,) = accuracy(rows, "tenant")
    assert (line.group, line.runs) == ("default", 11)
    assert line.ratio_p50 == pytest.approx(1, rel=0.25)
    assert line.covered_ratio == pytest.approx(10 / 11)
    (size,) = accuracy(rows, "size")
    assert size.group == "1"
