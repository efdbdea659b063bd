"""The course of a simulation in time, hour by hour: what the plots show.

Reads the facts' outcome (runs, jobs, ledger) and the world's tariffs. Draws nothing.
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from suan.grid.site import hour_rates
from suan.grid.state import State
from suan.grid.units import HOUR_S, MICROYUAN_PER_YUAN
from suan.rules.quote import power_w

if TYPE_CHECKING:
    from suan.sim.run import Simulation

Floats = list[float]
_COST_TERMS = ("machine", "electricity", "carbon", "link")


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """How long one kind of job waited for its first start."""

    name: str
    jobs: int
    mean_s: float
    p99_s: float


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """One value an hour in each list, from the first submission's hour to the last end's."""

    start_s: int  # of the first hour
    used_ratio: dict[str, Floats]  # site -> devices in use over all it has
    price: dict[str, list[float | None]]  # site -> yuan a kWh
    waiting_jobs: Floats
    carbon_kg: Floats
    cost_yuan: dict[str, float]  # term -> sum
    waits_by_size: list[Waits]
    waits_by_tenant: list[Waits]  # the largest


_MOST_TENANTS = 12


def timeline(simulation: "Simulation") -> Timeline:
    """What went on, in hours."""
    start = simulation.world.start_s // HOUR_S
    end = max((run.ended_at_s or 0 for run in simulation.state.runs.values()), default=0)
    hours = max(1, -(-end // HOUR_S) - start)
    used, energy_kwh = _used(simulation, start, hours)
    price: dict[str, list[float | None]] = {}
    carbon = np.zeros(hours)
    for site in simulation.world.sites:
        if site.tariff is None:
            price[site.name] = [None] * hours
            continue
        money, gco2 = hour_rates(site.tariff, start, hours)
        price[site.name] = [round(one / MICROYUAN_PER_YUAN, 4) for one in money]
        carbon += energy_kwh[site.name] * site.tariff.pue * np.array(gco2) / 1000
    devices = {site.name: sum(pool.devices for pool in site.pools) for site in simulation.world.sites}
    return Timeline(
        start_s=start * HOUR_S,
        used_ratio={site: _rounded(device_h / devices[site]) for site, device_h in used.items()},
        price=price,
        waiting_jobs=_rounded(_waiting(simulation, start, hours)),
        carbon_kg=_rounded(carbon),
        cost_yuan=_cost(simulation),
        waits_by_size=waits_by_size(simulation.state),
        waits_by_tenant=_waits_by_tenant(simulation),
    )


def _spread(into: np.ndarray, start_h: float, end_h: float, weight: float) -> None:
    """Adds a weight to every hour of a span; the first and the last get their part."""
    end_h = min(end_h, float(len(into)))
    if end_h <= start_h:
        return
    first, last = int(start_h), int(end_h)
    if first == last:
        into[first] += weight * (end_h - start_h)
        return
    into[first] += weight * (first + 1 - start_h)
    into[first + 1 : last] += weight
    if last < len(into):
        into[last] += weight * (end_h - last)


def _used(
    simulation: "Simulation", start: int, hours: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Device-hours and IT energy by site and hour, of runs as the grid knows them."""
    sites = [site.name for site in simulation.world.sites]
    used = {site: np.zeros(hours) for site in sites}
    energy = {site: np.zeros(hours) for site in sites}
    pools = {(site.name, pool.name): pool for site in simulation.world.sites for pool in site.pools}
    for run in simulation.state.runs.values():
        if run.started_at_s is None:
            continue
        until_s = run.ended_at_s or simulation.clock.now_s()
        span = (run.started_at_s / HOUR_S - start, until_s / HOUR_S - start)
        _spread(used[run.site], *span, run.devices)
        _spread(energy[run.site], *span, power_w(pools[run.site, run.pool], run.devices) / 1000)
    return used, energy


def _waiting(simulation: "Simulation", start: int, hours: int) -> np.ndarray:
    """Jobs that have not started yet, on average over each hour."""
    waiting = np.zeros(hours)
    for job in simulation.state.jobs.values():
        until_s = job.started_at_s or job.ended_at_s or simulation.clock.now_s()
        _spread(waiting, job.submitted_at_s / HOUR_S - start, until_s / HOUR_S - start, 1.0)
    return waiting


def _cost(simulation: "Simulation") -> dict[str, float]:
    totals = dict.fromkeys(_COST_TERMS, 0)
    for entry in simulation.state.entries:
        if entry.what != "pays":
            account = entry.account.split(":")
            totals[account[-1] if account[0] == "site" else account[0]] += entry.amount_microyuan
    return {term: round(total / MICROYUAN_PER_YUAN, 2) for term, total in totals.items()}


def waits_by_size(state: State) -> list[Waits]:
    """Of jobs that started, in classes of doubling size."""
    classes: dict[int, list[int]] = {}
    for job in state.jobs.values():
        if job.started_at_s is not None:
            devices = state.runs[job.runs[0]].devices
            classes.setdefault((devices - 1).bit_length(), []).append(job.started_at_s - job.submitted_at_s)
    return [_waits(_class_name(size), waits) for size, waits in sorted(classes.items())]


def _class_name(size: int) -> str:
    """`1`, `2`, `3-4`, `5-8` ..."""
    return str(1 << size) if size < 2 else f"{(1 << size - 1) + 1}-{1 << size}"


def _waits_by_tenant(simulation: "Simulation") -> list[Waits]:
    tenants: dict[str, list[int]] = {}
    for job in simulation.state.jobs.values():
        if job.started_at_s is not None:
            tenants.setdefault(job.tenant, []).append(job.started_at_s - job.submitted_at_s)
    largest = sorted(tenants.items(), key=lambda item: (-len(item[1]), item[0]))[:_MOST_TENANTS]
    return [_waits(name, waits) for name, waits in largest]


def _waits(name: str, waits: list[int]) -> Waits:
    ordered = sorted(waits)
    p99 = ordered[max(0, -int(-0.99 * len(ordered) // 1) - 1)]
    return Waits(name=name, jobs=len(ordered), mean_s=round(sum(ordered) / len(ordered), 1), p99_s=p99)


def _rounded(values: np.ndarray) -> Floats:
    return [round(float(value), 4) for value in values]
