"""What is kept beside the state for speed says what a look at everything would say, whatever goes wrong."""

import pytest
from small_worlds import simulation, small_arrivals, small_world

from suan.grid.job import RunPhase
from suan.sim.run import Simulation


def owed(under: Simulation, site: str) -> set[str]:
    """The runs that the site is to start or to stop, by a look at every run."""
    runs = [run for run in under.state.runs.values() if run.site == site and run.phase != RunPhase.ENDED]
    return {run.id for run in runs if run.stop_reason or run.started_at_s is None}


def strays(under: Simulation, site: str) -> set[str]:
    """What the site says it has and the grid does not hold there, by a look at all it says."""
    held = under.state.open_runs.get(site, {})
    return {run for run in under.grid.live.seen_runs.get(site, {}) if run not in held}


@pytest.mark.parametrize("seed", range(4))
def test_every_site_is_told_all_that_it_owes_and_forgets_all_that_is_over(seed: int) -> None:
    under = simulation(small_world(seed), small_arrivals(seed), seed=seed)
    for hour in range(1, 9):
        under.run(hour * 3600)
        for site in under.sites:
            orders = under.grid.orders(site)
            told = {order.run for order in orders.launch} | {order.run for order in orders.stop}
            assert told - set(orders.forget) == owed(under, site)
            assert set(orders.forget) == strays(under, site)
    under.calm_down()
    assert not any(owed(under, site) or strays(under, site) for site in under.sites)
