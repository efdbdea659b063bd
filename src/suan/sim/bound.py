"""A floor under what any schedule of the same jobs costs.

Each job at the pool and in the hour where a device costs least between its submission and the end, as if
it were alone
and every second of it could be in that hour. True for every schedule, and loose: it knows no capacity. The
bound of
the clearing, which does, takes its place once there is one.
"""

from itertools import accumulate
from typing import TYPE_CHECKING

from suan.grid.job import Job
from suan.grid.site import Pool, Tariff, hour_rate
from suan.grid.units import HOUR_S
from suan.rules.fit import fit
from suan.rules.quote import power_w
from suan.sim.site import DURATION_ENV

if TYPE_CHECKING:
    from suan.sim.run import Simulation

_ROUNDING_MICROYUAN = 2  # a run's three entries are rounded by half a micro-yuan each


def cost_lower_bound_microyuan(simulation: "Simulation", done: list[Job]) -> int | None:
    """The floor for these jobs, or None where this reasoning does not hold.

    It does not where faults struck (a site that dies pays nothing for the work a checkpoint kept) and where a
    device-hour may have a negative price (then work that is thrown away makes a schedule cheaper).
    """
    if simulation.fired or simulation.world.faults:
        return None
    state, policy = simulation.state, simulation.policy.policy
    first_hour = simulation.world.start_s // HOUR_S
    hours = simulation.clock.now_s() // HOUR_S - first_hour + 1
    pools = []
    for site in state.sites.values():
        tariff = state.tariff(site.name, simulation.world.start_s)
        for pool in site.pools.values():
            rates = _rates(
                pool, tariff, range(first_hour, first_hour + hours), policy.carbon_microyuan_per_kg
            )
            if min(rates) < 0:
                return None
            pools.append((site, pool, list(accumulate(reversed(rates), min))[::-1]))
    total = 0.0
    for job in done:
        truth_s = int(job.task.envs.get(DURATION_ENV, job.task.duration_s or 1))
        floors = []
        for site, pool, cheapest in pools:
            index = fit(job.task, site, pool)
            if isinstance(index, int):
                devices = job.task.resources[index].devices * job.task.num_nodes
                run_s = max(1, round(truth_s / pool.speed_ratio))
                rate = cheapest[job.submitted_at_s // HOUR_S - first_hour]
                floors.append(rate * devices * run_s / HOUR_S)
        total += max(0.0, min(floors, default=0.0) - _ROUNDING_MICROYUAN)
    return int(total)


def _rates(pool: Pool, tariff: Tariff | None, hours: range, carbon_microyuan_per_kg: int) -> list[float]:
    """Micro-yuan a device-hour, all in, for each hour."""
    if tariff is None:
        return [float(pool.machine_microyuan_per_device_h)] * len(hours)
    socket_kw = power_w(pool, 1) / 1000 * tariff.pue
    rates = []
    for hour in hours:
        money, gco2 = hour_rate(tariff, hour)
        electricity = socket_kw * (money + gco2 / 1000 * carbon_microyuan_per_kg)
        rates.append(pool.machine_microyuan_per_device_h + electricity)
    return rates
