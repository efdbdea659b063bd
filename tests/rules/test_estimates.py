"""Jobs that the performance model knows: a length for each pool, where they do not fit, what sites teach."""

import math

import pytest
from scenario import Scenario, task

from suan.grid import fact as f
from suan.grid.error import Refused
from suan.grid.job import Elastic, EndCause, Job, Resources
from suan.grid.work import Estimate, Estimates, Work
from suan.rules.admit import admit
from suan.rules.decide import considered
from suan.rules.durations import expected
from suan.rules.estimates import METERED_LOG_SPREAD, QUANTILE_90, estimate
from suan.rules.explain import explain

WORK = Work(stage="train", shape={}, precision="bfloat16")
EITHER = tuple(Resources(accelerator=kind, accelerators=8) for kind in ("H100-SXM", "A100-80GB-SXM"))


def said(hours: float, *, fits: bool = True, wide: float = 1.2, **about: object) -> Estimate:
    run_s = hours * 3600
    least = 60.0 if fits else 90.0
    return Estimate(
        run_s=run_s, low_s=run_s / wide, high_s=run_s * wide, fits=fits, least_gib=least, capacity_gib=77.0,
        **about,  # type: ignore[arg-type]
    )  # fmt: skip


def grid(on: dict[str, Estimate], *pools: str) -> Scenario:
    there = Scenario().site("east", *(pools or ("H100-SXM 4x8 20", "A100-80GB-SXM 4x8 5")))
    return there.tell(f.WorkEstimated(at_s=there.now_s, name="w1", work=WORK, on=on))


def submit(there: Scenario, **about: object) -> str:
    made = task("train", resources=EITHER, duration_s=999_999, **about)  # type: ignore[arg-type]
    known = there.state.works["w1"]
    (fact,) = admit(there.state, "default", (made,), now_s=there.now_s, works=[("w1", known)])
    there.tell(fact)
    return fact.job


def bids(there: Scenario, job: str) -> dict[tuple[str, int], int]:
    weighed = considered(there.state, there.policy, there.state.jobs[job], there.now_s)
    return {(bid.pool, bid.nodes): bid.quote.run_s for bid in weighed.bids}


def test_each_pool_has_a_length_of_its_own() -> None:
    there = grid({"H100-SXM:8x1": said(1), "A100-80GB-SXM:8x1": said(2.5)})
    assert bids(there, submit(there)) == {("p0", 1): 3600, ("p1", 1): 9000}


def test_the_bid_says_the_plan_and_the_run_keeps_it() -> None:
    there = grid({"A100-80GB-SXM:8x1": said(2, plan={"tp": 2}, bound_by="network")}, "A100-80GB-SXM 1x8")
    job = submit(there)
    there.plan()
    (run,) = there.state.runs.values()
    assert run.job == job and run.plan == {"tp": 2}
    kept = there.state.jobs[job].considered
    assert kept is not None and kept.bids[0].estimate is not None
    assert kept.bids[0].estimate.bound_by == "network"


def test_a_pool_on_which_the_model_does_not_fit_is_refused_with_numbers() -> None:
    there = grid({"H100-SXM:8x1": said(1, fits=False), "A100-80GB-SXM:8x1": said(3)})
    weighed = considered(there.state, there.policy, there.state.jobs[submit(there)], there.now_s)
    assert [bid.pool for bid in weighed.bids] == ["p1"]
    reason = weighed.unfit["east/p0"]
    assert (reason.need, reason.have, reason.unit) == (90.0, 77.0, "GiB a device")


def test_a_model_that_fits_nowhere_is_not_admitted() -> None:
    there = grid({f"{one.accelerator}:8x1": said(1, fits=False) for one in EITHER})
    with pytest.raises(Refused) as refused:
        submit(there)
    assert refused.value.code == "impossible" and "90.0 GiB" in str(refused.value)


def test_elastic_jobs_bid_for_each_number_of_nodes_on_which_the_model_fits() -> None:
    on = {"H100-SXM:8x1": said(9, fits=False), "H100-SXM:8x2": said(4), "H100-SXM:8x4": said(2.2)}
    there = grid(on, "H100-SXM 4x8")
    job = submit(there, nodes=2, elastic=Elastic(min_nodes=1, max_nodes=4, speed={1: 1, 2: 2, 4: 3}))
    found = bids(there, job)
    assert ("p0", 1) not in found
    assert found["p0", 2] == 4 * 3600
    assert found["p0", 4] == pytest.approx(4 * 3600 * 2 / 3, abs=1), "a user's table goes before the model"
    assert submit(there, nodes=2, elastic=Elastic(min_nodes=2, max_nodes=4))
    other = bids(there, max(there.state.jobs, key=lambda name: there.state.jobs[name].sequence))
    assert other["p0", 4] == round(2.2 * 3600)


def test_where_the_model_knows_nothing_the_tasks_own_duration_stands() -> None:
    there = grid({"H100-SXM:8x1": said(1)})
    assert bids(there, submit(there))["p1", 1] == 999_999


def ran(there: Scenario, hours: float, cause: EndCause = EndCause.EXITED, exit_code: int = 0) -> None:
    job = submit(there)
    there.plan()
    (run,) = there.state.jobs[job].runs
    there.started(run)
    there.now_s += round(hours * 3600)
    there.ended(run, exit_code=exit_code, cause=cause, ended_at_s=there.now_s)
    there.tell(f.JobEnded(at_s=there.now_s, job=job, phase="succeeded", outcome=""))  # type: ignore[arg-type]


def one_pool() -> Scenario:
    return grid({"H100-SXM:8x1": said(1, wide=1.5)}, "H100-SXM 1x8")


def factor(there: Scenario) -> float:
    job = there.state.jobs[submit(there)]
    found = estimate(there.state, job, ("east", there.state.sites["east"].pools["p0"]), 1)
    assert found is not None
    there.tell(f.JobEnded(at_s=there.now_s, job=job.id, phase="stopped", outcome=""))  # type: ignore[arg-type]
    return found.site_factor


def test_a_sites_factor_moves_to_what_its_runs_took() -> None:
    there = one_pool()
    assert factor(there) == 1.0
    seen = []
    for _ in range(12):
        ran(there, 1.5)
        seen.append(factor(there))
    prior = (math.log(1.5) / QUANTILE_90) ** 2
    gain = prior / (prior + METERED_LOG_SPREAD**2)
    assert seen[0] == pytest.approx(1.5**gain)
    assert seen == sorted(seen) and seen[-1] == pytest.approx(1.5, rel=0.02)


def test_the_interval_narrows_as_the_site_is_known() -> None:
    there = one_pool()
    for _ in range(5):
        ran(there, 1.3)
    job = there.state.jobs[submit(there)]
    found = estimate(there.state, job, ("east", there.state.sites["east"].pools["p0"]), 1)
    assert found is not None and found.site_runs == 5
    assert found.high_s / found.low_s < 1.5
    assert found.low_s < 1.3 * 3600 < found.high_s


@pytest.mark.parametrize(
    ("cause", "exit_code"), [(EndCause.EXITED, 1), (EndCause.STOPPED, 0), (EndCause.LOST, 0)]
)
def test_runs_that_did_not_do_their_work_teach_nothing(cause: EndCause, exit_code: int) -> None:
    there = one_pool()
    ran(there, 0.1, cause, exit_code)
    assert factor(there) == 1.0


def test_one_outlier_moves_no_factor_far() -> None:
    there = one_pool()
    for _ in range(4):
        ran(there, 1.0)
    ran(there, 500.0)
    assert factor(there) < 1.2


def test_what_was_learnt_is_in_the_journal_alone() -> None:
    there = one_pool()
    ran(there, 1.5)
    again = Scenario().tell(*there.facts)
    assert again.state.history.factors == there.state.history.factors


def test_why_tells_the_models_hours_and_their_basis() -> None:
    there = one_pool()
    job: Job = there.state.jobs[submit(there)]
    found = explain(there.state, there.policy, job, None, there.now_s)
    assert found.length.p50_s == 3600 and found.length.p10_s < 3600 < found.length.p90_s
    assert "performance model" in found.length.basis and "east/p0" in found.length.basis


def test_lengths_that_the_model_foretold_are_not_counted_as_estimates_of_the_tenant() -> None:
    there = one_pool()
    ran(there, 2.0)
    assert not there.state.history.ratios
    assert expected(there.state, there.state.jobs[submit(there)], there.policy).mean_s == pytest.approx(3600)
    assert isinstance(there.state.works["w1"], Estimates)
