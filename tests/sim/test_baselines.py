"""Each baseline does what its name says, keeps to partitions, and is as safe as ours."""

from typing import Any

import pytest
from msgspec.structs import replace
from small_worlds import make, small_arrivals, small_world, world_table

from suan.grid.job import Priority
from suan.grid.site import Series, hour_rate
from suan.grid.units import HOUR_S
from suan.sim.check import unfinished, violations
from suan.sim.compare import prepared
from suan.sim.policies import BUILT_IN, named_policy
from suan.sim.published import as_published
from suan.sim.run import Simulation
from suan.sim.site import RESTORE_S
from suan.sim.trace import JobRow, Trace, make_trace
from suan.sim.world import World

BASELINES = [name for name in BUILT_IN if not name.startswith(("market", "greedy"))]
DAY = (300_000,) * 8 + (1_500_000,) * 4 + (300_000,) * 12  # dear from eight to twelve


def job(name: str, submit_s: int = 0, duration_s: int = 3600, gpus: int = 4, **more: Any) -> JobRow:
    return JobRow(job_id=name, submit_s=submit_s, duration_s=duration_s, gpus=gpus, **more)


def run(policy: str, world: World, *rows: JobRow) -> Simulation:
    chosen = named_policy(policy, world.policies)
    simulation = prepared(world, make_trace(list(rows), world, oracle=chosen.oracle), chosen)
    simulation.run()
    simulation.calm_down()
    assert (violations(simulation), unfinished(simulation)) == ((), ())
    return simulation


def starts(simulation: Simulation) -> dict[str, int]:
    """When each job first started, in seconds."""
    return {
        one.task.name: one.started_at_s - simulation.world.start_s for one in simulation.state.jobs.values()
    }


def sites(simulation: Simulation) -> dict[str, str]:
    return {simulation.state.jobs[one.job].task.name: one.site for one in simulation.state.runs.values()}


def one_site(**changes: Any) -> dict[str, Any]:
    table = world_table(**changes)
    del table["site"][1]
    return table


def hourly(world: World, money: tuple[int, ...]) -> World:
    """The same prices and carbon every day, at every site."""
    changed = []
    for site in world.sites:
        assert site.tariff is not None
        carbon = tuple(rate / 1000 for rate in money)
        prices = Series(start_at_s=world.start_s, microyuan_per_kwh=money, gco2_per_kwh=carbon)
        changed.append(replace(site, tariff=replace(site.tariff, prices=prices)))
    return replace(world, sites=tuple(changed))


# ---------------------------------------------------------------- order


def test_first_come_first_served_lets_nobody_by() -> None:
    rows = (job("first"), job("wide", 60), job("small", 120, gpus=1))
    found = starts(run("fifo-any", make(one_site()), *rows))
    assert found == {"first": 0, "wide": 3600, "small": 7200}


def test_fifo_keeps_each_job_at_one_centre_and_spreads_them_as_devices_are() -> None:
    table = world_table()
    table["site"][0]["pool"][0]["nodes"] = 30
    table["site"][1]["pool"][0]["nodes"] = 10
    rows = [job(f"j{number}", number, 60, 1) for number in range(400)]
    homes = list(sites(run("fifo", make(table), *rows)).values())
    assert 0.65 < homes.count("a") / len(homes) < 0.85
    data = job("data", 0, 60, 1, data_gb=1, data_site="b")
    assert sites(run("fifo", make(table), data)) == {"data": "b"}


@pytest.mark.parametrize(("policy", "filler_s"), [("sjf", 10), ("sjf-strict", 4260)])
def test_the_shortest_goes_first(policy: str, filler_s: int) -> None:
    """3 of 4 devices run for an hour. Who fits beside them starts at once, if he does not delay the shortest;
    strictly nobody passes it."""
    rows = (
        job("now", 0, 3600, 3),
        job("long", 1, 9000),
        job("short", 2, 600),
        job("filler", 10, 3000, 1),
        job("tiny", 11, 60),
    )
    found = starts(run(policy, make(one_site()), *rows))
    assert found == {"now": 0, "tiny": 3600, "short": 3660, "filler": filler_s, "long": found["long"]}
    assert found["long"] == (4260 if policy == "sjf" else 7260)


def test_backfill_fills_in_what_does_not_delay_the_head() -> None:
    """3 of 4 devices are taken for an hour; the head needs all; of two small jobs the one that ends in time
    may pass."""
    rows = (job("runs", 0, 3600, 3), job("head", 10), job("long", 20, 7200, 1), job("short", 30, 1800, 1))
    found = starts(run("backfill-oracle", make(one_site()), *rows))
    assert found == {"runs": 0, "short": 30, "head": 3600, "long": 7200}


def test_backfill_uses_another_pool_than_the_one_that_is_promised() -> None:
    table = world_table()
    table["site"][1]["pool"][0]["devices_per_node"] = 1
    rows = (job("runs", 0, 3600, 3), job("head", 10), job("long", 20, 7200, 1))
    simulation = run("backfill-oracle", make(table), *rows)
    assert starts(simulation)["long"] == 20 and sites(simulation)["long"] == "b"
    assert starts(simulation)["head"] == 3600


# ---------------------------------------------------------------- place


@pytest.mark.parametrize(("policy", "best"), [("cheapest-now", "a"), ("greenest-now", "b")])
def test_the_best_pool_with_room_and_else_the_next(policy: str, best: str) -> None:
    table = world_table()
    for site, money, carbon in zip(table["site"], (0.2, 0.9), (900, 50), strict=True):
        site["tariff"] |= {"flat_yuan_per_kwh": money, "gco2_per_kwh": carbon}
        site["pool"][0]["machine_microyuan_per_device_h"] = 0
    rows = (job("one"), job("two", 60), job("three", 120))
    simulation = run(policy, make(table), *rows)
    other = "b" if best == "a" else "a"
    assert (sites(simulation)["one"], sites(simulation)["two"]) == (best, other)
    assert starts(simulation) == {"one": 0, "two": 60, "three": 3600}


def test_the_emptiest_pool_takes_the_next_job() -> None:
    table = world_table()
    table["site"][1]["pool"][0]["nodes"] = 4
    rows = [job(f"j{number}", number, 3600, 1) for number in range(10)]
    found = list(sites(run("least-loaded", make(table), *rows)).values())
    assert found.count("b") == 8


# ---------------------------------------------------------------- partitions


@pytest.mark.parametrize("policy", [name for name in BASELINES if not name.startswith("suspend")])
def test_a_tenant_never_has_more_than_its_partition(policy: str) -> None:
    table = world_table(
        tenant=[
            {"name": "x", "nominal_devices": {"*": 2}, "borrow_devices": {"*": 6}},
            {"name": "y", "nominal_devices": {"H100": 6}},
        ]
    )
    rows = [job(f"x{number}", number, 600, 1, tenant="x") for number in range(6)]
    rows += [job(f"y{number}", number, 600, 1, tenant="y") for number in range(6)]
    simulation = run(policy, make(table), *rows)
    spans = [one for site in simulation.sites.values() for one in site.engine.stretches]
    most = {"x": 0, "y": 0}
    for moment in {one.started_at_s for one in spans}:
        for tenant in most:
            held = sum(
                one.devices
                for one in spans
                if simulation.state.jobs[one.job].tenant == tenant
                and one.started_at_s <= moment < one.ended_at_s
            )
            most[tenant] = max(most[tenant], held)
    assert most["x"] == 2
    assert most["y"] <= 6
    if policy != "fifo":
        assert max(value for name, value in starts(simulation).items() if name[0] == "y") <= 5


# ---------------------------------------------------------------- hours


@pytest.mark.parametrize("policy", ["suspend-resume", "suspend-resume-oracle"])
def test_a_job_pauses_while_power_is_dear_and_loses_nothing(policy: str) -> None:
    world = hourly(make(one_site()), DAY)
    row = job("x", 6 * HOUR_S, 5 * HOUR_S, checkpoint_s=600, deadline_s=20 * HOUR_S)
    simulation = run(policy, world, row)
    went = [
        ((one.started_at_s - world.start_s) / HOUR_S, (one.ended_at_s - world.start_s) / HOUR_S)
        for one in simulation.sites["a"].engine.stretches
    ]
    assert len(went) == 2
    assert went[0][0] == 6 and went[0][1] == pytest.approx(8, abs=0.01)
    assert went[1] == (12, pytest.approx(15 + RESTORE_S / HOUR_S, abs=0.01))
    assert simulation.sites["a"].lost_device_s <= 4 * 2


def test_the_last_moment_comes_before_the_price() -> None:
    """Told the length, it starts in time even in dear hours, and does not pause then."""
    world = hourly(make(one_site()), DAY)
    row = job("x", 8 * HOUR_S, 2 * HOUR_S, checkpoint_s=600, deadline_s=3 * HOUR_S)
    simulation = run("suspend-resume-oracle", world, row)
    (one,) = simulation.state.jobs.values()
    assert one.ended_at_s - one.submitted_at_s <= 3 * HOUR_S


def test_without_checkpoints_only_the_start_is_shifted() -> None:
    world = hourly(make(one_site()), DAY)
    rows = (
        job("waits", 9 * HOUR_S, HOUR_S, priority=Priority.VALLEY, gpus=1),
        job("spans", 6 * HOUR_S, 4 * HOUR_S, deadline_s=20 * HOUR_S, gpus=1),
        job("at once", 9 * HOUR_S, HOUR_S, gpus=1),
    )
    simulation = run("suspend-resume-oracle", world, *rows)
    found = {name: start_s / HOUR_S for name, start_s in starts(simulation).items()}
    assert found == {"waits": 12, "spans": 12, "at once": 9}
    assert len(simulation.state.runs) == 3


def test_prices_that_are_not_out_yet_are_not_known() -> None:
    """From noon on tomorrow is known: a spike of tomorrow is seen then and not before."""
    world = hourly(make(one_site()), (100_000,) * 30 + (9_000_000,) * 2 + (100_000,) * 100)
    tariff = world.sites[0].tariff
    assert tariff is not None
    first = world.start_s // HOUR_S
    day_s = world.start_s
    today = as_published(tariff, day_s, day_s + 24 * HOUR_S, first_s=day_s)
    both = as_published(tariff, day_s, day_s + 48 * HOUR_S, first_s=day_s)
    assert [hour_rate(today, first + 30)[0], hour_rate(both, first + 30)[0]] == [100_000, 9_000_000]
    assert hour_rate(today, first + 5) == hour_rate(tariff, first + 5)


def test_a_world_that_publishes_late_surprises_all_but_oracles() -> None:
    """A valley job at hour 20 would wait for a spike of cheapness at hour 30 that only an oracle can know."""
    money = (500_000,) * 30 + (1_000,) * 2 + (500_000,) * 100
    world = hourly(make(one_site()), money)
    late = replace(world, sites=tuple(replace(site, published_h=23) for site in world.sites))
    row = job("x", 20 * HOUR_S, HOUR_S, priority=Priority.VALLEY)
    started_h = {
        policy: starts(run(policy, late, row))["x"] / HOUR_S
        for policy in ("greedy", "greedy-oracle", "suspend-resume-oracle")
    }
    assert started_h == {"greedy": 20, "greedy-oracle": 30, "suspend-resume-oracle": 30}


# ---------------------------------------------------------------- safety


@pytest.mark.parametrize("policy", BASELINES)
def test_as_safe_as_ours_while_everything_goes_wrong(policy: str) -> None:
    for seed in (100, 101):
        world = small_world(seed)
        chosen = named_policy(policy, {})
        trace = Trace(arrivals=small_arrivals(seed), impossible={})
        simulation = prepared(world, trace, chosen, seed=seed)
        simulation.run(until_s=4 * 86_400)
        simulation.calm_down()
        assert (violations(simulation), unfinished(simulation)) == ((), ()), seed
