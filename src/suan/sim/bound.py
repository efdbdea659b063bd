"""A floor under what any schedule of the same jobs costs in the same world, within the same time.

Each job alone first: its cheapest unbroken stretch in any pool that fits, between its submission and the end;
if it has checkpoints, its cheapest hours, in pieces and wherever they are; and the link to where it can run.
Then capacity, which can only raise the floor: for any prices of pool-hours that are not negative, the jobs'
cheapest stretches at cost plus price, less what all pool-hours are worth at those prices, is a floor, too
(Lagrange's). Which prices raise it most is found by subgradient steps over classes of similar jobs; the floor
itself is then summed over the true jobs. Knows no order of scheduling and no forecast.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from suan.grid.job import Job, Run
from suan.grid.site import Pool, Site, SitePhase, Tariff, hour_rates
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB, HOUR_S
from suan.rules.fit import fit
from suan.rules.quote import power_w
from suan.sim.ascent import Classes, ascend
from suan.sim.site import DURATION_ENV

if TYPE_CHECKING:
    from suan.sim.run import Simulation

Floats = np.ndarray[Any, Any]
_ROUNDING_MICROYUAN = 2  # a run's entries are rounded by half a micro-yuan each
_BATCH = 64  # lengths at a time
_SHORTEST_H, _STEP = (
    0.25,
    np.log(1.2),
)  # classes of length: up to a quarter of an hour, then in steps of a fifth


class Problem:
    """The jobs as arrays: rows are jobs, columns are pools, and hours count from the simulation's first."""

    def __init__(self, simulation: "Simulation", jobs: list[Job]) -> None:
        state, world = simulation.state, simulation.world
        self.start_s = world.start_s
        self.hours = max(1, -(-(simulation.clock.now_s() - self.start_s) // HOUR_S))
        self.end_s = float(simulation.clock.now_s() - self.start_s)
        pools = [(site, pool) for site in state.sites.values() for pool in site.pools.values()]
        self.devices = np.array([float(pool.devices) for _, pool in pools])
        self.speed = np.array([pool.speed_ratio for _, pool in pools])
        carbon = simulation.policy.policy.carbon_microyuan_per_kg
        self.rates = np.array(
            [
                _rates(pool, state.tariff(site.name, self.start_s), self.start_s, self.hours, carbon)
                for site, pool in pools
            ]
        ).reshape(len(pools), self.hours)
        arrivals = {arrival.task.name: arrival for arrival in simulation.arrivals}
        paths = _paths(simulation)
        shapes: dict[object, Floats] = {}
        count = len(jobs)
        self.submit_s, self.width, self.work_s, self.paid_s = (np.zeros(count) for _ in range(4))
        self.broken, self.elastic = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        self.fits = np.zeros((count, len(pools)), dtype=bool)
        self.move = np.zeros((count, len(pools)))
        self.slack = np.zeros(count)
        for row, job in enumerate(jobs):
            task = job.task
            shape = (task.resources, task.num_nodes, task.place)
            if shape not in shapes:
                shapes[shape] = np.array([_devices(job, site, pool) for site, pool in pools])
            self.fits[row] = shapes[shape] > 0
            self.width[row] = max(1, shapes[shape].max(initial=0))
            self.submit_s[row] = job.submitted_at_s - self.start_s
            self.work_s[row] = max(1, int(task.envs.get(DURATION_ENV, task.duration_s or 1)))
            self.elastic[row] = task.elastic is not None
            self.broken[row] = self.elastic[row] or task.checkpoint is not None
            self.slack[row] = _ROUNDING_MICROYUAN * len(job.runs)
            if self.broken[row]:  # what a fault made a gift of was not paid for
                self.paid_s[row] = sum(
                    state.usage[run].device_s * _speed(state.runs[run], state) / self.width[row]
                    for run in job.runs
                    if run in state.usage
                )
            arrival = arrivals.get(task.name)
            if arrival is not None and arrival.data is not None:
                gigabytes = arrival.data.bytes / BYTES_PER_GB
                self.move[row] = [gigabytes * paths[arrival.data_site, site.name] for site, _ in pools]
        self.possible = self.fits.any(axis=1)


def cost_lower_bound_microyuan(simulation: "Simulation", done: list[Job]) -> int:
    """The floor for these jobs and what else is on the bill."""
    jobs = [job for job in done if job.runs]
    total = _others(simulation, {job.id: None for job in jobs})
    if not jobs:
        return int(np.floor(total))
    problem = Problem(simulation, jobs)
    if problem.rates.min(initial=0.0) < 0:  # work that is thrown away earns where the price is below nought
        lost_device_s = sum(site.lost_device_s for site in simulation.sites.values())
        total += problem.rates.min() * lost_device_s / HOUR_S
    prices = ascend(_classes(problem), problem.rates, problem.devices)
    best = max(floor(problem, np.zeros_like(prices)), floor(problem, prices))
    return int(np.floor(total + best))


def floor(problem: Problem, prices: Floats) -> float:
    """The floor in micro-yuan at these prices of device-hours, by pool and hour."""
    rates = problem.rates + prices
    least = np.full(len(problem.submit_s), np.inf)
    for pool in range(len(problem.devices)):
        rows = np.flatnonzero(problem.fits[:, pool] & ~problem.broken)
        if len(rows):
            cost = _stretches(problem, rows, pool, rates[pool]) + problem.move[rows, pool]
            least[rows] = np.minimum(least[rows], cost)
    _pieces(problem, rates, least)
    jobs = float((least[problem.possible] - problem.slack[problem.possible]).sum())
    return jobs - float((prices * problem.devices[:, None]).sum())


# ---------------------------------------------------------------- one job


def _stretches(problem: Problem, rows: Floats, pool: int, rates: Floats) -> Floats:
    """What the cheapest unbroken stretch of each of these jobs costs in this pool; infinite if none fits."""
    run_s = np.maximum(1.0, np.round(problem.work_s[rows] / problem.speed[pool]))
    submit_s, width = problem.submit_s[rows], problem.width[rows]
    found = np.full(len(rows), np.inf)
    short = run_s <= HOUR_S
    cheapest = np.minimum.accumulate(rates[::-1])[::-1]
    found[short] = (cheapest[(submit_s[short] // HOUR_S).astype(int)]) * run_s[short] / HOUR_S
    lengths, of = np.unique(run_s[~short], return_inverse=True)
    long_submit_s, long = submit_s[~short], np.full(int((~short).sum()), np.inf)
    order = np.argsort(of, kind="stable")
    edges = np.searchsorted(of[order], np.arange(0, len(lengths) + _BATCH, _BATCH))
    for batch, (first, last) in enumerate(pairwise(edges)):
        chosen = order[first:last]
        if len(chosen):
            some = lengths[batch * _BATCH : (batch + 1) * _BATCH]
            row = of[chosen] - batch * _BATCH
            long[chosen] = _cheapest_stretch(rates, some, row, long_submit_s[chosen], problem.end_s)
    found[~short] = long
    cost: Floats = found * width
    return cost


def _cheapest_stretch(
    rates: Floats, lengths_s: Floats, row: Floats, submit_s: Floats, end_s: float
) -> Floats:
    """For jobs of `lengths_s[row]` from `submit_s` on, the least money a device.

    The cost of a stretch is linear in its start between the moments at which either end meets a full hour:
    the least is at such a moment, or at the submission, or with its end at the very end.
    """
    hours = len(rates)
    sums = np.concatenate([[0.0], np.cumsum(rates)])  # micro-yuan a device up to each full hour
    full = np.arange(hours + 1) * float(HOUR_S)

    def upto(at_s: Floats) -> Floats:
        hour = np.clip((at_s // HOUR_S).astype(int), 0, hours - 1)
        money: Floats = sums[hour] + rates[hour] * (at_s / HOUR_S - hour)
        return money

    ends_s = full[None, :] + lengths_s[:, None]
    from_full = np.where(ends_s <= end_s, upto(np.minimum(ends_s, end_s)) - sums[None, :], np.inf)
    starts_s = full[None, :] - lengths_s[:, None]
    to_full = np.where(
        (starts_s >= 0) & (full[None, :] <= end_s), sums[None, :] - upto(np.maximum(starts_s, 0)), np.inf
    )
    from_full = np.minimum.accumulate(from_full[:, ::-1], axis=1)[:, ::-1]
    to_full = np.minimum.accumulate(to_full[:, ::-1], axis=1)[:, ::-1]
    run_s = lengths_s[row]
    first = np.minimum(np.ceil(submit_s / HOUR_S).astype(int), hours)
    first_end = np.minimum(np.ceil((submit_s + run_s) / HOUR_S).astype(int), hours)
    at_once = np.where(submit_s + run_s <= end_s, upto(submit_s + run_s) - upto(submit_s), np.inf)
    at_last = np.where(submit_s + run_s <= end_s, upto(np.array(end_s)) - upto(end_s - run_s), np.inf)
    least: Floats = np.minimum.reduce([from_full[row, first], to_full[row, first_end], at_once, at_last])
    return least


def _pieces(problem: Problem, rates: Floats, least: Floats) -> None:
    """Puts into `least` what the cheapest hours of the jobs that may be broken up cost."""
    for shape in np.unique(problem.fits[problem.broken], axis=0):
        if not shape.any():
            continue
        rows = np.flatnonzero(problem.broken & (problem.fits == shape).all(axis=1))
        speed = problem.speed[shape]
        by_work = (rates[shape] / speed[:, None]).min(axis=0)  # for an hour's work at speed 1
        fastest = speed.max()
        for hour in np.unique(problem.submit_s[rows] // HOUR_S).astype(int):
            these = rows[problem.submit_s[rows] // HOUR_S == hour]
            sums = np.concatenate([[0.0], np.cumsum(np.sort(by_work[hour:]))]) * fastest
            work_h = np.minimum(problem.work_s[these], problem.paid_s[these]) / HOUR_S / fastest
            money = np.interp(work_h, np.arange(len(sums)), sums)
            money = np.where(problem.elastic[these], work_h * sums[1], money)  # wide enough, an hour suffices
            least[these] = money * problem.width[these] + problem.move[these][:, shape].min(axis=1)


# ---------------------------------------------------------------- the world


def _rates(
    pool: Pool, tariff: Tariff | None, start_s: int, hours: int, carbon_microyuan_per_kg: int
) -> list[float]:
    """Micro-yuan a device-hour, all in, for each hour."""
    machine = float(pool.machine_microyuan_per_device_h)
    if tariff is None:
        return [machine] * hours
    socket_kw = power_w(pool, 1) / 1000 * tariff.pue
    known = zip(*hour_rates(tariff, start_s // HOUR_S, hours), strict=True)
    return [machine + socket_kw * (money + gco2 / 1000 * carbon_microyuan_per_kg) for money, gco2 in known]


def _devices(job: Job, site: Site, pool: Pool) -> int:
    """Devices that the job takes in the pool; 0 where it does not fit, whatever state the site is in now."""
    found = fit(job.task, replace(site, phase=SitePhase.READY), pool)
    return job.task.resources[found].devices * job.task.num_nodes if isinstance(found, int) else 0


def _paths(simulation: "Simulation") -> dict[tuple[str, str], float]:
    """Micro-yuan a GB from site to site over the cheapest links, infinite where there is no way."""
    sites = [site.name for site in simulation.world.sites]
    price = {(one, other): 0.0 if one == other else np.inf for one in sites for other in sites}
    for link in simulation.world.links:
        here = (link.source, link.destination)
        price[here] = min(price[here], float(link.microyuan_per_gb))
    for via in sites:
        for one in sites:
            for other in sites:
                price[one, other] = min(price[one, other], price[one, via] + price[via, other])
    return price


def _speed(run: Run, state: State) -> float:
    return state.sites[run.site].pools[run.pool].speed_ratio


def _others(simulation: "Simulation", jobs: dict[str, None]) -> float:
    """What is on the bill for jobs that are not finished, where that is below nought; else nought."""
    sums: dict[str, int] = {}
    for entry in simulation.state.entries:
        if entry.what != "pays" and entry.job not in jobs:
            sums[entry.job] = sums.get(entry.job, 0) + entry.amount_microyuan
    return float(sum(min(0, amount) for amount in sums.values()))


def _classes(problem: Problem) -> list[Classes]:
    """Jobs that fit into the same pools and run about as long, by the hour of their submission."""
    found: list[Classes] = []
    known = problem.possible
    for shape in np.unique(problem.fits[known], axis=0):
        rows = np.flatnonzero(known & (problem.fits == shape).all(axis=1))
        hours = problem.work_s[rows] / HOUR_S / problem.speed[shape].mean()
        steps = np.maximum(0, np.ceil(np.log(np.maximum(hours, _SHORTEST_H) / _SHORTEST_H) / _STEP))
        for step in np.unique(steps):
            these, length_h = rows[steps == step], hours[steps == step]
            work = length_h * problem.width[these]
            mean_h = min(float(work.sum() / problem.width[these].sum()), problem.end_s / HOUR_S)
            weight = np.zeros(problem.hours)
            np.add.at(weight, (problem.submit_s[these] // HOUR_S).astype(int), work / mean_h)
            found.append(Classes(pools=np.flatnonzero(shape), hours=mean_h, devices=weight))
    return found
