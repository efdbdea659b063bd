"""What a simulation came to: one flat object a policy, and a table for people.

Reads the grid's own state and facts, the sites' lost work, and the clock of this machine for the time it
took.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from suan.grid import fact as f
from suan.grid.job import TERMINAL_PHASES, EndCause, Job, JobPhase
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB, HOUR_S, duration_text, yuan_text
from suan.sim.bound import cost_lower_bound_microyuan

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
        "gap_ratio": (cost - bound) / bound if bound else None,
        "preemptions": _preemptions(state),
        "lost_device_s": round(sum(site.lost_device_s for site in simulation.sites.values())),
        "moved_gb": moved_bytes / BYTES_PER_GB,
        "wall_s": simulation.wall_s,
        "decide_s_p50": _quantile(decide_s, 0.5),
        "decide_s_p99": _quantile(decide_s, 0.99),
        "digest": digest(simulation.facts()),
        "faults": dict(sorted(simulation.fired.items())),
    }


def digest(facts: Iterable[f.Fact]) -> str:
    """A hash of everything that happened, in order."""
    hashed = hashlib.blake2b(digest_size=16)
    for fact in facts:
        hashed.update(_encode(fact))
        hashed.update(b"\n")
    return hashed.hexdigest()


def table(reports: Sequence[dict[str, Any]]) -> Table:
    """The reports side by side, for a terminal."""
    shown = Table(title="simulation")
    shown.add_column("")
    for row in reports:
        shown.add_column(row["policy"], justify="right")
    for name, show in _ROWS.items():
        shown.add_row(name, *("-" if row[name] is None else show(row[name]) for row in reports))
    return shown


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _three(value: float) -> str:
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


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
