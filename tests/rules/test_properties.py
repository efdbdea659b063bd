"""Whatever happens in whatever order: no over-commitment, no double placement, a ledger of zero, terminal is
terminal, folding the journal gives the state, and the plan does not depend on anything but its input."""

import copy

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario import NIGHT, Scenario, task

from suan.control.observe import observe, silences
from suan.grid import fact as f
from suan.grid.account import Budget, Quota, Usage
from suan.grid.action import Observation, OutputSeen, RunSeen
from suan.grid.job import TERMINAL_PHASES, EndCause, JobPhase, Priority, RunPhase
from suan.grid.state import State
from suan.rules.decide import decide
from suan.rules.evolve import fold

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 8), st.integers(1, 2), st.sampled_from(list(Priority))),
        st.tuples(st.just("start"), st.integers(0, 9)),
        st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(list(EndCause)), st.integers(0, 1)),
        st.tuples(st.just("stop"), st.integers(0, 9)),
        st.tuples(st.just("pass"), st.integers(1, 8000)),
        st.tuples(st.just("again")),
    ),
    max_size=40,
)


def apply(grid: Scenario, step: tuple, heard: dict[str, int], last: list[Observation]) -> None:
    runs = [run for site in grid.state.open_runs.values() for run in site]
    match step:
        case ("submit", devices, nodes, priority):
            number = grid.state.sequence
            about = {"max_restarts": 1, "duration_s": 600, "outputs": {"o": f"model:m{number}"}}
            grid.submit(task(f"t{number}", devices=devices, nodes=nodes, priority=priority, **about))
        case ("start", index) if runs:
            run = grid.state.runs[runs[index % len(runs)]]
            report(
                grid, RunSeen(run=run.id, phase=RunPhase.RUNNING, started_at_s=grid.now_s - 9999), heard, last
            )
        case ("end", index, cause, code) if runs:
            run = grid.state.runs[runs[index % len(runs)]]
            outputs = {"o": OutputSeen(digest=run.id, bytes=1, files=1)} if code == 0 else {}
            usage = Usage(device_s=run.devices * 60, energy_kwh=0.5)
            about = {"cause": cause, "exit_code": code, "usage": usage, "outputs": outputs}
            seen = RunSeen(run=run.id, phase=RunPhase.ENDED, started_at_s=grid.now_s, **about)
            report(grid, seen, heard, last)
        case ("stop", index) if grid.state.jobs:
            grid.tell(
                f.JobStopRequested(at_s=grid.now_s, job=list(grid.state.jobs)[index % len(grid.state.jobs)])
            )
        case ("pass", seconds):
            grid.now_s += seconds
            grid.tell(*silences(grid.state, heard, grid.policy, grid.now_s))
        case ("again",) if last:
            grid.tell(*observe(grid.state, last[-1], grid.now_s))  # a duplicated, late report


def report(grid: Scenario, seen: RunSeen, heard: dict[str, int], last: list[Observation]) -> None:
    site = grid.state.runs[seen.run].site
    heard[site] = grid.now_s
    observation = Observation(site=site, epoch=grid.state.sites[site].epoch, runs=(seen,))
    last.append(observation)
    grid.tell(*observe(grid.state, observation, grid.now_s))


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_invariants_hold_whatever_happens(steps: list[tuple]) -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 2x8").site("b", "H100-SXM 1x4", "A100-80GB-SXM 1x8")
    heard: dict[str, int] = {}
    last: list[Observation] = []
    terminal: dict[str, JobPhase] = {}
    for step in steps:
        apply(grid, step, heard, last)
        grid.plan()  # asserts that the audit has no objection
        state = grid.state
        for (site, pool), used in state.used_devices.items():
            held = sum(
                r.devices
                for r in state.runs.values()
                if (r.site, r.pool) == (site, pool) and r.phase != "ended"
            )
            assert used == held <= state.sites[site].pools[pool].devices
        assert sum(state.balances.values()) == 0
        for job in state.jobs.values():
            assert sum(state.runs[run].phase != RunPhase.ENDED for run in job.runs) <= 1
            assert (job.id in state.waiting) == (job.phase == JobPhase.WAITING)
            assert job.id not in terminal or job.phase == terminal[job.id]
            if job.phase in TERMINAL_PHASES:
                terminal[job.id] = job.phase
        made = [artifact.job for artifact in state.artifacts.values()]
        assert len(made) == len(set(made)), "one committed output a job"
    again = fold(State(), grid.facts)
    assert again == grid.state
    assert decide(again, grid.policy, grid.now_s) == decide(
        copy.deepcopy(grid.state), grid.policy, grid.now_s
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=20), st.integers(0, 30))
def test_a_gang_starts_within_the_work_that_was_there_before_it(sizes: list[int], late: int) -> None:
    """With a stream of small jobs arriving for ever, a gang of the whole pool waits no longer than what ran
    before.
    """
    grid = Scenario().site("a", "H100-SXM 2x8")
    length_s = 600
    grid.submit(*(task(f"s{n}", devices=min(8, size), duration_s=length_s) for n, size in enumerate(sizes)))
    grid.plan()
    before_s = length_s * (1 + len(sizes))
    (gang,) = grid.submit(task("gang", devices=8, nodes=2, duration_s=length_s))
    for _ in range(before_s // 60 + 2):
        grid.now_s += 60
        for run in [run for runs in grid.state.open_runs.values() for run in runs]:
            if grid.state.runs[run].placed_at_s + length_s <= grid.now_s:
                grid.ended(run)
                grid.tell(
                    f.JobEnded(at_s=grid.now_s, job=run.split("-")[0], phase=JobPhase.SUCCEEDED, outcome="")
                )
        grid.submit(task("stream", devices=1 + late % 4, duration_s=length_s))
        grid.plan()
        if grid.state.jobs[gang].runs:
            break
    assert grid.state.jobs[gang].runs
    assert grid.state.runs[f"{gang}-r1"].placed_at_s - NIGHT <= before_s + 60


def test_facts_survive_the_codec_as_they_are() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 2x8")
    grid.submit(task(duration_s=60))
    grid.plan()
    encoded = msgspec.json.encode(grid.facts)
    assert msgspec.json.decode(encoded, type=list[f.Fact]) == grid.facts


KINDS = st.tuples(st.integers(1, 8), st.integers(1, 2), st.sampled_from((None, 600, 7200)), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 90)), max_size=40), st.booleans(), st.booleans())
def test_jobs_alike_get_what_each_would_get_by_itself(jobs: list, limited: bool, budget: bool) -> None:
    """One plan prices the pools once for jobs that are alike. Nobody gets another pool, price or reason."""
    quota = Quota(nominal_devices={"H100-SXM": 20}) if limited else Quota()
    limit = Budget(limit_microyuan=60_000_000 if budget else None)
    grid = Scenario().tenant(waiting_microyuan_per_h=300_000, quota=quota, budget=limit)
    grid.site("a", "H100-SXM 2x8 3", "H100-SXM 1x4 2").site("b", "H100-SXM 1x8 1.5", yuan_per_kwh=0.3)
    grid.link("a", "b", 1000).artifact("dataset:d@1", "a", 10**9)
    for number, ((devices, nodes, length_s, moves), late_s) in enumerate(jobs):
        grid.now_s += late_s
        about = {"inputs": {"d": "dataset:d@1"}} if moves else {}
        grid.submit(task(f"t{number}", devices=devices, nodes=nodes, duration_s=length_s, **about))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suan.rules.bids._alike", lambda cycle, job: None)
        alone = decide(grid.state, grid.policy, grid.now_s)
    assert decide(grid.state, grid.policy, grid.now_s) == alone
