"""What a simulation came to: one flat object a policy, and a table for people.

Reads the grid's own state and facts, the sites' lost work, and the clock of this machine for the time it
took.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from suan.grid import fact as f
from suan.grid.job import TERMINAL_PHASES, EndCause, Job, JobPhase
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB, HOUR_S, duration_text, yuan_text
from suan.rules.policy import Policy
from suan.sim.bound import cost_lower_bound_microyuan
from suan.sim.site import DURATION_ENV
from suan.sim.timeline import waits_by_size
from suan.sim.trace import SOFT, STRICT

if TYPE_CHECKING:
    from suan.sim.run import Simulation

_encode = msgspec.json.Encoder().encode


def report(simulation: "Simulation", impossible: dict[str, str]) -> dict[str, Any]:
    """The figures of one policy. Jobs that were never admitted count as failed."""
    state = simulation.state
    jobs = list(state.jobs.values())
    never = len(impossible) + len(simulation.refused)
    done = [job for job in jobs if job.phase == JobPhase.SUCCEEDED]
    failed = [job for job in jobs if job.phase in TERMINAL_PHASES and job.phase != JobPhase.SUCCEEDED]
    waits_s = sorted(job.started_at_s - job.submitted_at_s for job in jobs if job.started_at_s is not None)
    first_s = min((job.submitted_at_s for job in jobs), default=0)
    makespan_s = max((job.ended_at_s or 0 for job in jobs), default=first_s) - first_s
    makespan_s = max(0, makespan_s)
    device_s = sum(usage.device_s for usage in state.usage.values())
    devices = sum(pool.devices for site in simulation.world.sites for pool in site.pools)
    cost = sum(entry.amount_microyuan for entry in state.entries if entry.what != "pays")
    bound = cost_lower_bound_microyuan(simulation, done)
    decide_s = sorted(simulation.decide_s)
    moved_bytes = sum(fact.moved_bytes for fact in simulation.facts() if isinstance(fact, f.TransferEnded))
    return {
        "policy": simulation.policy.name,
        "jobs": len(jobs) + never,
        "done": len(done),
        "failed": len(failed) + never,
        "missed_deadlines": sum(_missed(job, simulation.clock.now_s()) for job in jobs),
        "wait_s_mean": _mean(waits_s),
        "wait_s_p50": _quantile(waits_s, 0.5),
        "wait_s_p99": _quantile(waits_s, 0.99),
        "jct_s_mean": _mean([(job.ended_at_s or 0) - job.submitted_at_s for job in done]),
        "makespan_s": makespan_s,
        "gpu_hours": device_s / HOUR_S,
        "utilisation_ratio": device_s / (devices * makespan_s) if makespan_s else 0.0,
        "energy_kwh": _quantity(state, "kWh"),
        "carbon_kg": _quantity(state, "kg CO2"),
        "cost_microyuan": cost,
        "cost_lower_bound_microyuan": bound,
        "gap_ratio": (cost - bound) / bound if bound > 0 else None,
        "preemptions": _preemptions(state),
        "lost_device_s": round(sum(site.lost_device_s for site in simulation.sites.values())),
        "moved_gb": moved_bytes / BYTES_PER_GB,
        "wall_s": simulation.wall_s,
        "decide_s_p50": _quantile(decide_s, 0.5),
        "decide_s_p99": _quantile(decide_s, 0.99),
        "digest": digest(simulation.facts()),
        "faults": dict(sorted(simulation.fired.items())),
        **_objective(simulation, jobs, cost, bound),
        **_deadlines(simulation, jobs),
        "wait_s_p99_by_size": {one.name: one.p99_s for one in waits_by_size(state)},
    }


def _objective(simulation: "Simulation", jobs: list[Job], cost: int, bound: int) -> dict[str, Any]:
    """Money, waiting and lateness together, as the policy prices them; and a floor under the sum: that of
    the money, and the lateness of jobs that are due before they could end anywhere."""
    state, policy, now_s = simulation.state, simulation.policy.policy, simulation.clock.now_s()
    fastest = max(pool.speed_ratio for site in simulation.world.sites for pool in site.pools)
    waiting = late = surely_late = 0.0
    for job in jobs:
        tenant = state.tenants[job.tenant]
        wait_s = (job.started_at_s or job.ended_at_s or now_s) - job.submitted_at_s
        ratio = policy.waiting_ratio.get(job.task.priority, 1.0)
        waiting += wait_s / HOUR_S * tenant.waiting_microyuan_per_h * ratio
        if job.task.deadline_s is None:
            continue
        due_s = job.submitted_at_s + job.task.deadline_s
        succeeded = job.phase == JobPhase.SUCCEEDED and job.ended_at_s is not None
        late += _lateness(job, (job.ended_at_s if succeeded else now_s) or now_s, due_s, policy)
        if succeeded:
            soonest_s = job.submitted_at_s + round(int(job.task.envs[DURATION_ENV]) / fastest)
            surely_late += _lateness(job, soonest_s, due_s, policy)
    objective, floor = round(cost + waiting + late), int(bound + surely_late)
    return {
        "objective_microyuan": objective,
        "objective_lower_bound_microyuan": floor,
        "objective_gap_ratio": (objective - floor) / floor if floor > 0 else None,
        "waiting_microyuan": round(waiting),
        "late_microyuan": round(late),
    }


def _lateness(job: Job, end_s: int, due_s: int, policy: Policy) -> float:
    if end_s <= due_s:
        return 0.0
    if job.task.value_microyuan is not None:
        return float(job.task.value_microyuan)
    return (end_s - due_s) / HOUR_S * policy.late_microyuan_per_h


def _deadlines(simulation: "Simulation", jobs: list[Job]) -> dict[str, Any]:
    """Strict deadlines that were met, and what of the soft jobs' value was earned."""
    arrivals = {arrival.task.name: arrival for arrival in simulation.arrivals}
    strict = met = 0
    soft = earned = 0.0
    for job in jobs:
        arrival = arrivals[job.task.name]
        succeeded = job.phase == JobPhase.SUCCEEDED and job.ended_at_s is not None
        took_s = job.ended_at_s - job.submitted_at_s if succeeded and job.ended_at_s else math.inf
        if arrival.kind == STRICT:
            strict += 1
            met += took_s <= (job.task.deadline_s or 0)
        elif arrival.kind == SOFT and arrival.worth:
            soft += arrival.worth[0][1]
            earned += next((value for by_s, value in arrival.worth if took_s <= by_s), 0.0)
    return {
        "strict_deadlines": strict,
        "strict_met_ratio": met / strict if strict else None,
        "soft_value_yuan": soft,
        "soft_earned_ratio": earned / soft if soft else None,
    }


def digest(facts: Iterable[f.Fact]) -> str:
    """A hash of everything that happened, in order."""
    hashed = hashlib.blake2b(digest_size=16)
    for fact in facts:
        hashed.update(_encode(fact))
        hashed.update(b"\n")
    return hashed.hexdigest()


def rows(reports: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The reports side by side: each figure's name, and how people read it in every report."""
    return [
        (name, ["-" if row[name] is None else show(row[name]) for row in reports])
        for name, show in _ROWS.items()
    ]


def table(reports: Sequence[dict[str, Any]]) -> Table:
    """The reports side by side, for a terminal."""
    shown = Table(title="simulation")
    shown.add_column("")
    for row in reports:
        shown.add_column(row["policy"], justify="right")
    for name, cells in rows(reports):
        shown.add_row(name, *cells)
    return shown


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _three(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _by_size(value: dict[str, float]) -> str:
    return "\n".join(f"{size}: {duration_text(wait_s)}" for size, wait_s in value.items()) or "-"


def _faults(value: dict[str, int]) -> str:
    return "\n".join(f"{kind} {count}" for kind, count in value.items()) or "none"


_ROWS: dict[str, Any] = {
    "jobs": _count,
    "done": _count,
    "failed": _count,
    "missed_deadlines": _count,
    "wait_s_mean": duration_text,
    "wait_s_p50": duration_text,
    "wait_s_p99": duration_text,
    "jct_s_mean": duration_text,
    "makespan_s": duration_text,
    "gpu_hours": _count,
    "utilisation_ratio": "{:.1%}".format,
    "energy_kwh": _count,
    "carbon_kg": _count,
    "cost_microyuan": yuan_text,
    "cost_lower_bound_microyuan": yuan_text,
    "gap_ratio": "{:.1%}".format,
    "preemptions": _count,
    "lost_device_s": _count,
    "moved_gb": _three,
    "wall_s": _three,
    "decide_s_p50": _three,
    "decide_s_p99": _three,
    "digest": "{:.12}".format,
    "faults": _faults,
    "objective_microyuan": yuan_text,
    "objective_lower_bound_microyuan": yuan_text,
    "objective_gap_ratio": "{:.1%}".format,
    "strict_met_ratio": "{:.1%}".format,
    "soft_earned_ratio": "{:.1%}".format,
    "wait_s_p99_by_size": _by_size,
}


def _missed(job: Job, now_s: int) -> bool:
    if job.task.deadline_s is None:
        return False
    due_s = job.submitted_at_s + job.task.deadline_s
    if job.phase == JobPhase.SUCCEEDED and job.ended_at_s is not None:
        return job.ended_at_s > due_s
    return job.phase in TERMINAL_PHASES or now_s > due_s


def _preemptions(state: State) -> int:
    """Runs that were stopped for the grid's own reasons, not because somebody stopped their job."""
    return sum(
        run.cause == EndCause.STOPPED and state.jobs[run.job].stop_requested_at_s is None
        for run in state.runs.values()
    )


def _quantity(state: State, unit: str) -> float:
    return sum(entry.quantity for entry in state.entries if entry.unit == unit)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantile(values: Sequence[float], part: float) -> float | None:
    """Of sorted values, the smallest that at least this part of them does not exceed."""
    return values[min(len(values) - 1, max(0, -int(-part * len(values) // 1) - 1))] if values else None
