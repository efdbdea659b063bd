"""What must never have happened in a simulation, looked for after it: in the facts, the ledger and the
engines.

Shares no code with the rules that it checks, but for `evolve`, which makes states of facts. Knows what
really went on
at the sites, which the grid does not.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from suan.grid import fact as f
from suan.grid.job import TERMINAL_PHASES, EndCause, JobPhase, RunPhase
from suan.grid.state import State
from suan.rules.evolve import evolve
from suan.sim.site import SimulatedSite

if TYPE_CHECKING:
    from suan.sim.run import Simulation


def violations(simulation: "Simulation") -> tuple[str, ...]:
    """Everything that must not be, in words; empty when all is well. Call it after `calm_down`."""
    found = list(_facts(simulation))
    found.extend(_money(simulation.state))
    for name, site in simulation.sites.items():
        found.extend(_orphans(simulation.state, name, site))
        found.extend(_overcommitted(name, site))
    found.extend(_doubles(simulation))
    return tuple(found)


def unfinished(simulation: "Simulation") -> tuple[str, ...]:
    """Jobs that have not ended, each with its reason."""
    return tuple(
        f"{job.id} ({job.task.name}) is {job.phase}: {simulation.grid.reason(job.id)}"
        for job in simulation.state.jobs.values()
        if job.phase not in TERMINAL_PHASES
    )


def _facts(simulation: "Simulation") -> Iterator[str]:
    """Folds the journal anew: what was once over stays over, nothing is given away twice, and the end is
    the same."""
    state = State()
    committed: Counter[tuple[str, str]] = Counter()
    for fact in simulation.facts():
        match fact:
            case f.JobEnded() if state.jobs[fact.job].phase in TERMINAL_PHASES:
                yield f"{fact.job} ended twice: {state.jobs[fact.job].phase}, then {fact.phase}"
            case f.RunPlaced():
                job = state.jobs[fact.job]
                if job.phase in TERMINAL_PHASES:
                    yield f"{fact.run} was placed after {fact.job} had {job.phase}"
                if any(state.runs[run].phase != RunPhase.ENDED for run in job.runs):
                    yield f"{fact.run} was placed while another run of {fact.job} may have gone on"
            case f.ArtifactCommitted() if fact.artifact.job:
                committed[fact.artifact.job, fact.output] += 1
                run = state.runs[fact.artifact.run]
                if run.job != fact.artifact.job or run.exit_code or run.cause != EndCause.EXITED:
                    yield f"{fact.artifact.id} was committed for {run.id}, which did not succeed"
        evolve(state, fact)
        if isinstance(fact, f.RunPlaced):
            pool = state.sites[fact.bid.site].pools[fact.bid.pool]
            held = state.used_devices[fact.bid.site, fact.bid.pool]
            if held > pool.devices:
                yield f"{fact.bid.site}/{fact.bid.pool} holds {held} of {pool.devices} devices"
    for (writer, output), times in committed.items():
        if times > 1:
            yield f"output {output} of {writer} was committed {times} times"
    for job_id, job in state.jobs.items():
        if job.phase == JobPhase.SUCCEEDED and set(job.outputs) != set(job.task.outputs):
            yield f"{job_id} succeeded without all its outputs"
    if state != simulation.state or list(state.waiting) != list(simulation.state.waiting):
        yield "the facts fold to another state than the grid's"


def _money(state: State) -> Iterator[str]:
    if total := sum(state.balances.values()):
        yield f"the ledger sums to {total} micro-yuan"
    movements: Counter[str] = Counter()
    payers: Counter[str] = Counter()
    for entry in state.entries:
        movements[entry.movement] += entry.amount_microyuan
        payers[entry.movement] += entry.what == "pays"
    for movement, total in movements.items():
        if total:
            yield f"movement {movement} sums to {total} micro-yuan"
        if payers[movement] != 1:
            yield f"movement {movement} was settled {payers[movement]} times"


def _orphans(state: State, name: str, site: SimulatedSite) -> Iterator[str]:
    """Once everything was said, a site runs what the grid holds there, and the grid holds nothing else."""
    running, held = set(site.engine.going_on()), set(state.open_runs.get(name, {}))
    for run in sorted(running - held):
        yield f"{run} goes on at {name}, and the grid does not know"
    for run in sorted(held - running):
        yield f"{run} is held at {name}, and nothing goes on there"


def _overcommitted(name: str, site: SimulatedSite) -> Iterator[str]:
    """By what went on, not by what was said: at no moment more devices than the pool has."""
    for pool in site.engine.pools():
        changes = []
        for stretch in site.engine.stretches:
            if stretch.pool == pool.name:
                changes.append((stretch.started_at_s, 1, stretch.devices))
                changes.append((stretch.ended_at_s, 0, -stretch.devices))
        held = 0
        for at_s, _, devices in sorted(changes):
            held += devices
            if held > pool.devices:
                yield f"{name}/{pool.name} really ran {held} of {pool.devices} devices at {at_s}"
                break


def _doubles(simulation: "Simulation") -> Iterator[str]:
    """No job ever really ran twice at once, anywhere, and each that succeeded was once run to its end."""
    by_job: dict[str, list[tuple[int, int, str, bool]]] = {}
    for name, site in simulation.sites.items():
        for one in site.engine.stretches:
            finished = one.cause == EndCause.EXITED and not one.exit_code
            where = f"{one.run} at {name}"
            by_job.setdefault(one.job, []).append((one.started_at_s, one.ended_at_s, where, finished))
    for job, stretches in by_job.items():
        for before, after in pairwise(sorted(stretches)):
            if after[0] < before[1]:
                yield f"{job} ran twice at once: {before[2]} until {before[1]}, {after[2]} from {after[0]}"
        phase = simulation.state.jobs[job].phase
        if phase == JobPhase.SUCCEEDED and not any(finished for *_, finished in stretches):
            yield f"{job} succeeded, and no run of it finished"
