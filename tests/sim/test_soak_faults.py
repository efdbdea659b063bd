"""Faults of the control plane, of clocks and of stores, one at a time, in worlds where their effect shows."""

import pytest
from msgspec.structs import replace
from small_worlds import make, simulation, world_table

from suan.grid import fact as f
from suan.grid.job import JobPhase
from suan.sim.check import unfinished, violations
from suan.sim.faults import Strike
from suan.sim.policies import named_policy
from suan.sim.run import Simulation
from suan.sim.soak_checks import complaints
from suan.sim.trace import JobRow, make_trace

HOUR = JobRow(job_id="hour", submit_s=600, duration_s=3600, gpus=4)


def played(*faults: dict[str, object], row: JobRow = HOUR, **changes: object) -> Simulation:
    world = make(world_table(fault=list(faults), **changes))
    run = simulation(world, make_trace([row], world).arrivals)
    run.run()
    run.calm_down()
    assert (violations(run), tuple(complaints(run)), unfinished(run)) == ((), (), ())
    assert [job.phase for job in run.state.jobs.values()] == [JobPhase.SUCCEEDED]
    return run


def test_an_outage_within_the_lease_is_noticed_by_nobody() -> None:
    run = played({"kind": "grid_outage", "at_s": 1000, "for_s": 25})
    assert run.fired["grid_outage"] == 1
    assert len(run.state.runs) == 1


def test_an_outage_longer_than_the_lease_stops_the_runs_and_counts_against_no_site() -> None:
    run = played({"kind": "grid_outage", "at_s": 1000, "for_s": 900})
    assert [str(one.cause) for one in run.state.runs.values()] == ["fenced", "exited"]
    assert not any(isinstance(fact, f.SiteSilent | f.SiteFenced) for fact in run.facts())


@pytest.mark.parametrize("draw", [0.1, 0.5, 0.9], ids=["nothing written", "lost", "kept"])
def test_a_submission_into_a_failing_journal_is_one_job(draw: float) -> None:
    """Whoever submits hears nothing, and asks again: whatever the disk kept, there is one job."""
    world = make(world_table())
    strike = Strike(kind="journal_failure", site="a", at_s=world.start_s + 300, for_s=60, draw=draw)
    arrivals = make_trace([HOUR], world).arrivals
    run = Simulation(world, arrivals, named_policy("greedy", {}), strikes=[strike])
    run.run()
    assert run.fired == {"journal_failure": 1}
    assert [job.phase for job in run.state.jobs.values()] == [JobPhase.SUCCEEDED]
    submitted = next(fact for fact in run.facts() if isinstance(fact, f.JobSubmitted))
    assert submitted.at_s - world.start_s == (600 if draw == 0.9 else 660)


def test_a_drain_that_a_failing_journal_kept_is_undone_all_the_same() -> None:
    world = make(world_table())
    failure = Strike(kind="journal_failure", site="a", at_s=world.start_s + 300, for_s=60, draw=0.9)
    drain = Strike(kind="drain", site="a", at_s=world.start_s + 400, for_s=600, draw=0.5)
    arrivals = make_trace([HOUR], world).arrivals
    run = Simulation(world, arrivals, named_policy("greedy", {}), strikes=[failure, drain])
    run.run()
    told = [fact.draining for fact in run.facts() if isinstance(fact, f.SiteDraining)]
    assert (run.fired["journal_failure"], told[0], told[-1]) == (1, True, False)


def test_a_clock_that_jumps_makes_no_run_longer() -> None:
    """It starts before it was placed, or ends before it started, if one believes the site."""
    for at_s in (590, 2000):
        run = played({"kind": "clock_step", "site": "a", "at_s": at_s, "for_s": 10_000},
                     {"kind": "clock_step", "site": "b", "at_s": at_s, "for_s": 10_000})  # fmt: skip
        (one,) = run.state.runs.values()
        assert one.started_at_s is not None and one.ended_at_s is not None
        assert one.placed_at_s <= one.started_at_s <= one.ended_at_s
        assert run.state.usage[one.id].device_s == 4 * 3600


def test_damaged_data_are_fetched_again_from_another_site() -> None:
    """Two copies: the nearer is damaged, which shows when the run is to start; it is fetched once more."""
    table = world_table(link=[{"from": "a", "to": "b", "gbps": 1.0}])
    table["site"][0]["pool"][0]["devices_per_node"] = 1  # too small for the job, so its data travel to b
    world = make(table)
    rows = [
        JobRow(job_id="one", submit_s=0, duration_s=600, gpus=4, data_gb=10, data_site="a"),
        JobRow(job_id="two", submit_s=3000, duration_s=600, gpus=4),
    ]
    arrivals = list(make_trace(rows, world).arrivals)
    second = arrivals[1].task
    arrivals[1] = replace(arrivals[1], task=replace(second, inputs=arrivals[0].task.inputs))
    strike = Strike(kind="corrupt_artifact", site="b", at_s=world.start_s + 2000, for_s=1, draw=0.0)
    run = Simulation(world, arrivals, named_policy("greedy", {}), strikes=[strike])
    run.run()
    run.calm_down()
    assert (violations(run), tuple(complaints(run)), unfinished(run)) == ((), (), ())
    causes = [str(one.cause) for one in run.state.runs.values()]
    assert causes == ["exited", "not_started", "exited"]
    assert sum(isinstance(fact, f.TransferEnded) for fact in run.facts()) == 2


def test_a_node_that_is_away_takes_its_runs_along_and_comes_back() -> None:
    table = world_table(fault=[{"kind": "node_down", "site": "a", "at_s": 1000, "for_s": 5000}])
    table["site"] = table["site"][:1]
    world = make(table)
    run = simulation(world, make_trace([HOUR], world).arrivals)
    run.run()
    run.calm_down()
    assert (violations(run), unfinished(run)) == ((), ())
    first, second = run.state.runs.values()
    assert str(first.cause) == "lost"
    assert second.placed_at_s - world.start_s == 6000
