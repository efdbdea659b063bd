"""Safety while everything goes wrong, and every job ended once it does no more."""

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from small_worlds import FAULT_KINDS, make, simulation, small_arrivals, small_world, world_table

from suan.control.observe import silences
from suan.grid import fact as f
from suan.grid.action import Observation
from suan.grid.job import EndCause, JobPhase
from suan.sim.check import unfinished, violations
from suan.sim.trace import Arrival, JobRow, make_trace

SEEDS = range(50)


def jobs(*rows: JobRow, **changes: Any) -> tuple[Arrival, ...]:
    return make_trace(list(rows), make(world_table(**changes))).arrivals


HOUR = JobRow(job_id="hour", submit_s=0, duration_s=3600, gpus=4)


@pytest.mark.parametrize("first", SEEDS[::10])
def test_nothing_breaks_and_every_job_ends(first: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, first + 10):
        run = simulation(small_world(seed), small_arrivals(seed), seed=seed)
        run.run(until_s=3 * 86_400)
        run.calm_down()
        assert violations(run) == (), f"seed {seed}"
        assert unfinished(run) == (), f"seed {seed}"
        assert len(run.state.jobs) == 30
        counts += run.fired
    # A transfer must be under way to fail, so that kind is asserted on its own below.
    assert set(FAULT_KINDS) - {"failed_transfer"} <= set(counts), counts


def test_baselines_are_as_safe() -> None:
    for seed, policy in ((100, "fifo"), (101, "fifo-any"), (102, "fifo-any")):
        run = simulation(small_world(seed), small_arrivals(seed), policy, seed=seed)
        run.run(until_s=3 * 86_400)
        run.calm_down()
        assert (violations(run), unfinished(run)) == ((), ()), (seed, policy)


def test_a_broken_transfer_is_taken_up_again() -> None:
    """100 GB at 1 Gbit/s take 800 s; the connection breaks at 300 s and what had arrived is not sent
    twice."""
    row = JobRow(job_id="one", submit_s=0, duration_s=600, gpus=4, data_gb=100, data_site="a")
    table = world_table(
        link=[{"from": "a", "to": "b", "gbps": 1.0}],
        fault=[{"kind": "failed_transfer", "site": "b", "at_s": 300}],
    )
    table["site"][0]["pool"][0]["devices_per_node"] = 1  # too small for the job, so its data must travel
    run = simulation(make(table), jobs(row))
    run.run()
    run.calm_down()
    assert run.fired == {"failed_transfer": 1}
    assert violations(run) == ()
    ends = [fact for fact in run.facts() if isinstance(fact, f.TransferEnded)]
    assert [bool(end.failed) for end in ends] == [True, False]
    assert sum(end.moved_bytes for end in ends) == 100_000_000_000
    assert 800 <= ends[1].at_s - run.world.start_s <= 830
    assert [job.phase for job in run.state.jobs.values()] == [JobPhase.SUCCEEDED]


def test_a_partition_longer_than_the_lease_moves_the_run_only_after_the_fence() -> None:
    """The site stops its runs by itself before the grid places them again, and what a checkpoint held is
    kept."""
    table = world_table(fault=[{"kind": "partition", "site": "a", "at_s": 1000, "for_s": 5000}])
    table["site"][0]["pool"][0]["machine_microyuan_per_device_h"] = 1  # so the job begins there
    run = simulation(make(table), jobs(HOUR))
    run.run()
    run.calm_down()
    assert violations(run) == ()
    runs = list(run.state.runs.values())
    assert [(r.site, str(r.cause)) for r in runs] == [("a", "fenced"), ("b", "exited")]
    stopped_s = run.sites["a"].engine.stretches[0].ended_at_s
    assert stopped_s <= run.world.start_s + 1031 < runs[1].placed_at_s


def test_a_short_partition_loses_nothing() -> None:
    table = world_table(fault=[{"kind": "partition", "at_s": 1000, "for_s": 25}])
    run = simulation(make(table), jobs(HOUR))
    run.run()
    assert len(run.state.runs) == 1
    assert sum(site.lost_device_s for site in run.sites.values()) == 0


def test_a_report_that_was_overtaken_buries_nothing_newer() -> None:
    """An old list of everything arrives late: the run that started since is not gone. By a newer one it
    is."""
    run = simulation(make(world_table()), jobs(HOUR))
    made_s = run.clock.now_s()
    run.run(until_s=120)
    (placed,) = run.state.runs.values()
    pools = run.sites[placed.site].engine.pools()
    for knows_s, cause in ((made_s, None), (made_s + 60, EndCause.LOST)):
        seen = Observation(site=placed.site, epoch=1, full=True, pools=pools, knows_s=knows_s)
        run.grid.report(seen)
        assert run.state.runs[placed.id].cause is cause


# ---------------------------------------------------------------- the checks themselves


def test_the_checks_find_what_is_wrong() -> None:
    run = simulation(make(world_table()), jobs(HOUR))
    run.run()
    run.calm_down()
    assert violations(run) == ()
    engine = next(site.engine for site in run.sites.values() if site.engine.stretches)
    engine.stretches.append(engine.stretches[0])
    found = violations(run)
    assert any("ran twice at once" in what for what in found)
    assert any("really ran 8 of 4" in what for what in found)
    engine.stretches.pop()
    run.state.balances["carbon"] += 1
    assert any("ledger" in what for what in violations(run))
    assert any("another state" in what for what in violations(run))


def test_the_checks_catch_a_grid_that_fences_too_early(monkeypatch) -> None:
    """A mutant: runs count as ended after three silent seconds, while their site's lease has thirty."""

    def hasty(state, heard, policy, now_s):
        return silences(state, heard, replace(policy, lease_s=3, grace_s=0, clock_margin_s=0), now_s)

    monkeypatch.setattr("suan.control.loop.silences", hasty)
    found = []
    for seed in range(6):
        run = simulation(small_world(seed), small_arrivals(seed), seed=seed)
        run.run(until_s=86_400)
        run.calm_down()
        found.extend(violations(run))
    assert any("ran twice at once" in what for what in found)
