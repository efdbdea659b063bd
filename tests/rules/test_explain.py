"""Why a job waits: prices, pools, and changes that would really start it sooner."""

from scenario import NIGHT, Scenario, task

from suan.grid import fact as f
from suan.grid.job import EndCause, JobPhase, Place, Priority
from suan.grid.market import Clearing, Step
from suan.rules.decide import reason_for
from suan.rules.explain import Explanation, explain


def explained(grid: Scenario, job: str) -> Explanation:
    reason = reason_for(grid.plan(), grid.state, job)
    return explain(grid.state, grid.policy, grid.state.jobs[job], reason, grid.now_s)


def full(*pools: str, **about: float) -> Scenario:
    """A grid whose H100s are all taken for two hours."""
    grid = Scenario().tenant().site("east", *(pools or ("H100-SXM 1x8 10",)), **about)
    (first,) = grid.submit(task("first", devices=8, duration_s=7200))
    grid.plan()
    return grid.started(grid.state.jobs[first].runs[-1])


def test_a_job_that_waits_for_devices_is_told_when_and_on_what_it_would_start_sooner() -> None:
    grid = full("H100-SXM 1x8 10", "A100-80GB-SXM 1x8 5")
    (job,) = grid.submit(task("second", devices=8, duration_s=3600))
    found = explained(grid, job)
    assert found.reason is not None and found.reason.code == "devices"
    assert found.start_s == grid.now_s + 7200
    assert found.finish_s == grid.now_s + 10_800
    (other,) = [help for help in found.sooner if "A100" in help.text]
    assert (other.start_s, other.gained_s) == (grid.now_s, 7200)
    assert other.change == {"resources.any_of": "accelerators: A100-80GB-SXM:8"}
    assert other.extra_microyuan is not None and other.extra_microyuan < 0
    assert "at once" in other.text and "less" in other.text


def test_what_is_said_to_help_helps() -> None:
    grid = full("H100-SXM 1x8 10", "A100-80GB-SXM 1x8 5")
    (job,) = grid.submit(task("second", devices=8, duration_s=3600))
    help = explained(grid, job).sooner[0]
    kind, _, count = help.change["resources.any_of"].removeprefix("accelerators: ").partition(":")
    (changed,) = grid.submit(task("changed", devices=int(count), accelerator=kind, duration_s=3600))
    grid.plan()
    (run,) = grid.state.jobs[changed].runs
    assert grid.state.runs[run].accelerator == kind


def test_fewer_devices_help_where_some_are_free() -> None:
    grid = Scenario().tenant().site("east", "H100-SXM 1x8 10")
    (first,) = grid.submit(task("first", devices=4, duration_s=7200))
    grid.plan()
    grid.started(grid.state.jobs[first].runs[-1])
    (job,) = grid.submit(task("second", devices=8, duration_s=3600))
    (half, *_) = explained(grid, job).sooner
    assert half.change == {"resources": "4"}
    assert half.start_s == grid.now_s
    assert half.billed_microyuan > 0


def test_a_valley_job_is_told_the_price_it_waits_for_and_what_starting_now_costs() -> None:
    grid = Scenario(now_s=NIGHT - 4 * 3600).tenant(waiting_microyuan_per_h=0)
    grid.site("east", "H100-SXM 1x8 10", valley=0.2, yuan_per_kwh=2.0)
    (job,) = grid.submit(task("night", devices=8, duration_s=3600, priority=Priority.VALLEY))
    found = explained(grid, job)
    assert found.reason is not None and found.reason.code == "cheaper_hour"
    assert found.price is not None and found.price.pool == "east/p0"
    assert found.price.microyuan_per_kwh == 400_000
    assert found.price.now_microyuan_per_kwh == 2_000_000
    (now,) = [help for help in found.sooner if help.change == {"priority": "standard"}]
    assert now.start_s == grid.now_s
    assert now.extra_microyuan is not None and now.extra_microyuan > 0


def test_the_clearing_price_stands_beside_the_present_one() -> None:
    grid = full()
    now_s = grid.now_s
    prices = {"east/p0": (Step(now_s, 9_000_000), Step(now_s + 3600, 4_000_000))}
    clearing = Clearing(at_s=now_s, until_s=now_s + 86_400, prices=prices)
    grid.tell(f.MarketCleared(at_s=now_s, clearing=clearing))
    (job,) = grid.submit(task("second", devices=8, duration_s=3600))
    weighed = explain(grid.state, grid.policy, grid.state.jobs[job], None, now_s)
    assert weighed.price is not None
    assert weighed.price.clearing_now_microyuan_per_device_h == 9_000_000
    assert weighed.price.clearing_microyuan_per_device_h == 4_000_000
    assert weighed.price.scarcity_microyuan == 8 * 4_000_000


def test_a_job_that_is_too_dear_is_told_the_least_it_must_offer() -> None:
    grid = Scenario().tenant().site("east", "H100-SXM 1x8 10")
    (job,) = grid.submit(task("dear", devices=8, duration_s=3600, max_cost_microyuan=1_000_000))
    found = explained(grid, job)
    assert found.reason is not None and found.reason.code == "max_cost"
    assert found.start_s is None
    (offer,) = [help for help in found.sooner if "max_cost" in help.change]
    assert offer.gained_s is None
    assert float(offer.change["max_cost"].split()[0]) >= offer.billed_microyuan / 1e6 - 0.01


def test_a_job_sees_what_every_pool_has_or_lacks() -> None:
    grid = full().site("west", "L40S 2x4 3").site("north", "H100-SXM 1x4 9")
    (job,) = grid.submit(task("second", devices=8, place=Place(not_sites=("west",))))
    found = explained(grid, job)
    assert {view.pool: view.reason.code if view.reason else "" for view in found.pools} == {
        "east/p0": "",
        "north/p0": "devices_per_node",
        "west/p0": "place",
    }
    east = found.pools[0]
    assert (east.devices, east.free_devices, east.start_s) == (8, 0, found.start_s)


def test_a_job_that_runs_keeps_the_bids_of_its_placement() -> None:
    grid = full()
    job = grid.state.jobs["j1"] if "j1" in grid.state.jobs else next(iter(grid.state.jobs.values()))
    found = explain(grid.state, grid.policy, job, None, grid.now_s)
    assert found.considered is not None and found.considered == job.considered
    assert (found.start_s, found.finish_s) == (grid.now_s, grid.now_s + 7200)
    assert found.sooner == () and found.pools == ()


def test_the_length_says_what_it_rests_on() -> None:
    grid = Scenario().tenant().site("east", "H100-SXM 1x8 10")
    for _ in range(8):
        (job,) = grid.submit(task("bert-1"))
        grid.plan()
        run = grid.state.jobs[job].runs[-1]
        grid.started(run)
        grid.now_s += 500
        grid.ended(run, cause=EndCause.EXITED)
        grid.tell(f.JobEnded(at_s=grid.now_s, job=job, phase=JobPhase.SUCCEEDED, outcome="done"))
    (job,) = grid.submit(task("bert-9"))
    found = explain(grid.state, grid.policy, grid.state.jobs[job], None, grid.now_s)
    assert 400 < found.length.p50_s < 700
    assert found.length.basis == "8 jobs of default called bert on 1 device"
