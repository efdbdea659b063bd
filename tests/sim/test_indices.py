"""What is kept beside the state for speed says what a look at everything would say, whatever goes wrong."""

from collections import Counter

import pytest
from small_worlds import simulation, small_arrivals, small_world

from suan.control.execute import orders_for, sites_told
from suan.grid.artifact import TransferPhase
from suan.grid.fact import Fact, RunStarted
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


def links_of(under: Simulation, site: str) -> set[tuple[str, str]]:
    """The links in and out of the site, by a look at all of them."""
    return {pair for pair in under.state.links if site in pair}


def transfers_of(under: Simulation, site: str) -> set[str]:
    """The transfers that go on at the site, by a look at every transfer."""
    transfers = under.state.transfers.values()
    active = [one for one in transfers if one.phase == TransferPhase.ACTIVE]
    return {one.id for one in active if site in (one.source, one.destination)}


@pytest.mark.parametrize("seed", range(4))
def test_links_transfers_and_copies_are_found_by_site(seed: int) -> None:
    under = simulation(small_world(seed), small_arrivals(seed), seed=seed)
    moved = 0
    for quarter in range(1, 33):
        under.run(quarter * 900)
        for site in under.sites:
            assert set(under.state.links_at.get(site, ())) == links_of(under, site)
            assert set(under.state.transfers_at.get(site, ())) == transfers_of(under, site)
            held = {artifact for artifact, where in under.state.replicas.items() if site in where}
            assert set(under.state.held.get(site, ())) == held
            moved += len(transfers_of(under, site))
        assert set(under.state.nowhere) == {one for one, where in under.state.replicas.items() if not where}
    assert moved


@pytest.mark.parametrize("seed", range(4))
def test_whoever_has_other_orders_after_a_fact_is_woken(seed: int) -> None:
    """And few others are. That a run has started is what its site has said itself."""
    under = simulation(small_world(seed), small_arrivals(seed), seed=seed)
    grid, counts = under.grid, Counter[str]()

    def version(site: str) -> int:
        return orders_for(grid.state, site, grid.policy, grid.now_s()).version

    known = {site: version(site) for site in under.sites}

    def listen(news: list[tuple[int, Fact]]) -> None:
        told = {site for _, fact in news for site in sites_told(grid.state, fact)}
        said = {grid.state.runs[fact.run].site for _, fact in news if isinstance(fact, RunStarted)}
        counts["batches"] += 1
        for site in known.keys() - said:
            before, known[site] = known[site], version(site)
            counts["changed"] += known[site] != before
            counts["told"] += site in told
            assert known[site] == before or site in told, news
        known.update({site: version(site) for site in said})

    grid.listen(listen)
    under.run(8 * 3600)
    assert 3 < counts["changed"] <= counts["told"] < counts["batches"] * len(known) / 2
