"""What would come of the live grid under another tariff, without a site, with one more, or by another policy:
side by side with what comes of it as it is.

Reads facts and worlds; touches nothing that is real. Both sides see the same jobs of the same lengths.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from suan.grid import fact as f
from suan.grid.account import Entry, Usage
from suan.grid.error import Refused
from suan.grid.job import TERMINAL_PHASES, EndCause, Job, JobPhase
from suan.grid.site import Bands, Series, Tariff
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB, HOUR_S
from suan.rules.decide import decide
from suan.rules.policy import Policy
from suan.rules.quote import power_w
from suan.rules.settle import settle_run
from suan.sim.live import Change, LiveSimulation, Past
from suan.sim.policies import NamedPolicy
from suan.sim.world import SiteWorld, read_world

replace = msgspec.structs.replace


def what_if(
    past: Past, policy: Policy, change: Change, other: NamedPolicy | None = None, *, hours: int, seed: int = 0
) -> dict[str, Any]:
    """{as_it_is, changed, difference}: what comes of the next hours on both sides, and what that differs by.

    Ends when all jobs have ended; `hours` at most.
    """
    here = NamedPolicy(name=policy.name, policy=policy, decider=decide)
    sides = {}
    for side, chosen, changes in (("as_it_is", here, Change()), ("changed", other or here, change)):
        simulation = LiveSimulation(past, chosen, changes, seed=seed)
        simulation.run(hours * HOUR_S)
        sides[side] = _figures(simulation, past)
    difference = {
        name: sides["changed"][name] - value
        for name, value in sides["as_it_is"].items()
        if isinstance(value, int | float) and isinstance(sides["changed"][name], int | float)
    }
    return {"at_s": past.at_s, "hours": hours, **sides, "difference": difference}


# ---------------------------------------------------------------- changes


def scaled(tariff: Tariff, ratio: float, source: str) -> Tariff:
    """The tariff with every price times `ratio`."""
    match tariff.prices:
        case Bands() as bands:
            flat = round(bands.flat_microyuan_per_kwh * ratio)
            prices: Bands | Series = replace(bands, flat_microyuan_per_kwh=flat)
        case Series() as series:
            prices = replace(
                series, microyuan_per_kwh=tuple(round(price * ratio) for price in series.microyuan_per_kwh)
            )
    return replace(tariff, prices=prices, source=f"{tariff.source}, {source}")


def joining(past: Past, path: Path, name: str) -> Change:
    """The change that a site of a world's file joins, with its links to sites that are there. The first hour
    of its tariff is the hour of now.

    Raises: Refused `unknown_site`, `bad_value`, and what `read_world` refuses.
    """
    world = read_world(path)
    found = next((site for site in world.sites if site.name == name), None)
    if found is None:
        known = ", ".join(site.name for site in world.sites)
        raise Refused("unknown_site", f"{path} has no site {name!r}", hint=f"it has {known}")
    if name in past.state.sites:
        raise Refused(
            "bad_value", f"the grid has a site {name} already", hint="name it otherwise in the file"
        )
    there = {*past.state.sites, name}
    links = tuple(link for link in world.links if {link.source, link.destination} <= there)
    links = tuple(link for link in links if name in (link.source, link.destination))
    return Change(sites=(replace(found, tariff=_from_now(found, past.at_s - world.start_s)),), links=links)


def _from_now(site: SiteWorld, later_s: int) -> Tariff | None:
    tariff = site.tariff
    if tariff is None or not isinstance(tariff.prices, Series):
        return tariff
    start_s = tariff.prices.start_at_s + later_s // HOUR_S * HOUR_S
    return replace(tariff, prices=replace(tariff.prices, start_at_s=start_s))


# ---------------------------------------------------------------- figures


def _figures(simulation: LiveSimulation, past: Past) -> dict[str, Any]:
    """What came of the jobs that were not over, and of those that came since; money since then."""
    state, now_s = simulation.state, simulation.clock.now_s()
    jobs = [
        job
        for job in state.jobs.values()
        if (before := past.state.jobs.get(job.id)) is None or before.phase not in TERMINAL_PHASES
    ]
    batch = [job for job in jobs if job.task.replicas is None]
    done = [job for job in batch if job.phase == JobPhase.SUCCEEDED]
    unfinished = [job for job in batch if job.phase not in TERMINAL_PHASES]
    waits_s = sorted(_wait_s(job, now_s) for job in batch if _waited(past.state, job))
    entries = state.entries[len(past.state.entries) :] + _accrued(state, past.at_s, now_s)
    moved = sum(
        fact.moved_bytes
        for fact in simulation.facts()
        if isinstance(fact, f.TransferEnded) and fact.at_s >= past.at_s
    )
    return {
        "policy": simulation.policy.name,
        "simulated_h": round((now_s - past.at_s) / HOUR_S, 3),
        "jobs": len(batch),
        "done": len(done),
        "failed": len(batch) - len(done) - len(unfinished),
        "unfinished": len(unfinished),
        "refused": len(simulation.refused),
        "missed_deadlines": sum(_missed(job, now_s) for job in batch),
        "wait_s_mean": sum(waits_s) / len(waits_s) if waits_s else None,
        "wait_s_p50": _quantile(waits_s, 0.5),
        "wait_s_p99": _quantile(waits_s, 0.99),
        "jct_s_mean": sum((job.ended_at_s or 0) - job.submitted_at_s for job in done) / len(done)
        if done
        else None,
        "device_h": _sum(entries, "device-hours"),
        "energy_kwh": _sum(entries, "kWh"),
        "carbon_kg": _sum(entries, "kg CO2"),
        "cost_microyuan": sum(entry.amount_microyuan for entry in entries if entry.what != "pays"),
        "preemptions": sum(
            run.cause == EndCause.STOPPED
            and (run.ended_at_s or 0) >= past.at_s
            and state.jobs[run.job].stop_requested_at_s is None
            for run in state.runs.values()
        ),
        "moved_gb": moved / BYTES_PER_GB,
        "device_h_by_site": {
            site: _sum([entry for entry in entries if entry.site == site], "device-hours")
            for site in sorted({entry.site for entry in entries if entry.unit == "device-hours"})
        },
    }


def _accrued(state: State, since_s: int, now_s: int) -> list[Entry]:
    """What the runs that are still going on would be billed if they ended now, from `since_s` on."""
    found: list[Entry] = []
    for name in (run for runs in state.open_runs.values() for run in runs):
        run = state.runs[name]
        if run.started_at_s is None or run.started_at_s >= now_s:
            continue
        run = replace(run, started_at_s=max(since_s, run.started_at_s))
        span_s = now_s - (run.started_at_s or now_s)
        kwh = power_w(state.sites[run.site].pools[run.pool], run.devices) * span_s / 1000 / HOUR_S
        usage = Usage(device_s=run.devices * span_s, energy_kwh=kwh)
        end = f.RunEnded(at_s=now_s, run=name, cause=EndCause.EXITED, ended_at_s=now_s, usage=usage)
        found.extend(settle_run(state, run, end))
    return found


def _waited(before: State, job: Job) -> bool:
    """Whether the job had not started when the simulation began."""
    known = before.jobs.get(job.id)
    return known is None or known.started_at_s is None


def _wait_s(job: Job, now_s: int) -> int:
    """From submission to start; of a job that never started, to its end or to now."""
    until_s = job.started_at_s or job.ended_at_s or now_s
    return max(0, until_s - job.submitted_at_s)


def _missed(job: Job, now_s: int) -> bool:
    if job.task.deadline_s is None:
        return False
    due_s = job.submitted_at_s + job.task.deadline_s
    if job.phase == JobPhase.SUCCEEDED:
        return (job.ended_at_s or 0) > due_s
    return job.phase in TERMINAL_PHASES or now_s > due_s


def _sum(entries: Sequence[Entry], unit: str) -> float:
    return sum(entry.quantity for entry in entries if entry.unit == unit and entry.what != "pays")


def _quantile(values: Sequence[int], part: float) -> int | None:
    """Of sorted values, the smallest that at least this part of them does not exceed."""
    return values[max(0, -int(-part * len(values) // 1) - 1)] if values else None
