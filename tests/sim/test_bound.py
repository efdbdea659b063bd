"""No schedule in any world costs less than the bound; where a schedule is the best there is, it meets it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from small_worlds import make, world_table

from suan.grid.site import Series
from suan.sim.compare import prepared
from suan.sim.policies import BUILT_IN, named_policy
from suan.sim.report import report
from suan.sim.trace import JobRow, make_trace
from suan.sim.world import World

POLICIES = [name for name in BUILT_IN if not name.startswith(("market", "greedy"))]


def random_world(seed: int) -> World:
    """Two or three sites with other prices every hour, some below nought; links; sometimes faults."""
    chance = random.Random(f"bound/{seed}")
    table = world_table()
    names = ["a", "b", "c"][: chance.randint(2, 3)]
    table["site"] = [
        {
            "name": name,
            "pool": [
                {
                    "accelerator": "H100-SXM",
                    "devices_per_node": 4,
                    "nodes": chance.randint(1, 2),
                    "machine_microyuan_per_device_h": chance.choice([0, 500_000]),
                    "speed_ratio": chance.choice([1.0, 1.0, 1.5]),
                    "host_w_per_node": 800,
                }
            ],
            "tariff": {"flat_yuan_per_kwh": 0.5, "pue": 1.2, "gco2_per_kwh": 400},
        }
        for name in names
    ]
    table["link"] = [
        {"from": one, "to": other, "gbps": 5, "microyuan_per_gb": chance.randint(0, 50_000)}
        for one in names
        for other in names
        if one != other
    ]
    if chance.random() < 0.4:
        table["fault"] = [
            {"kind": kind, "per_day": 10, "until_s": 40_000}
            for kind in ("node_loss", "run_crash", "engine_forgets", "partition")
        ]
    world = make(table)
    lowest = chance.choice([-800_000, 0, 100_000])
    sites = []
    for site in world.sites:
        money = tuple(chance.randint(lowest, 2_000_000) for _ in range(60))
        gco2 = tuple(float(chance.randint(20, 900)) for _ in range(60))
        prices = Series(start_at_s=world.start_s, microyuan_per_kwh=money, gco2_per_kwh=gco2)
        assert site.tariff is not None
        sites.append(replace(site, tariff=replace(site.tariff, prices=prices)))
    return replace(world, sites=tuple(sites))


def random_jobs(seed: int, world: World) -> list[JobRow]:
    chance = random.Random(f"jobs/{seed}")
    rows = []
    for number in range(chance.randint(1, 25)):
        length_s = chance.choice([30, 900, 3600, 5000, 12_345, 40_000])
        data_gb = chance.choice([0, 0, 20])
        rows.append(
            JobRow(
                job_id=f"j{number}",
                submit_s=chance.randint(0, 30_000),
                duration_s=length_s,
                gpus=chance.choice([1, 2, 4, 8]),
                deadline_s=chance.choice([None, length_s + 20_000]),
                checkpoint_s=chance.choice([None, 600]),
                data_gb=data_gb,
                data_site=chance.choice(world.sites).name if data_gb else "",
            )
        )
    return rows


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), policy=st.sampled_from(POLICIES))
def test_no_schedule_costs_less(seed: int, policy: str) -> None:
    world = random_world(seed)
    chosen = named_policy(policy, {})
    trace = make_trace(random_jobs(seed, world), world, oracle=chosen.oracle)
    run = prepared(world, trace, chosen, seed=seed)
    run.run(until_s=4 * 86_400)
    run.calm_down()
    row = report(run, trace.impossible)
    assert row["cost_lower_bound_microyuan"] <= row["cost_microyuan"], (seed, policy)
    assert row["objective_lower_bound_microyuan"] <= row["objective_microyuan"], (seed, policy)


def test_a_job_alone_in_its_cheapest_hours_meets_the_bound() -> None:
    """Power is dear for three hours, then cheap for two: a job of 90 minutes that waits costs the bound."""
    world = make(world_table())
    money = (2_000_000,) * 3 + (100_000,) * 2 + (2_000_000,) * 19
    sites = []
    for site in world.sites:
        assert site.tariff is not None
        prices = Series(
            start_at_s=world.start_s,
            microyuan_per_kwh=money,
            gco2_per_kwh=tuple(rate / 4000 for rate in money),
        )
        sites.append(replace(site, tariff=replace(site.tariff, prices=prices)))
    world = replace(world, sites=tuple(sites))
    row = JobRow(job_id="x", submit_s=0, duration_s=5400, gpus=4, deadline_s=20 * 3600)
    figures = {}
    for policy in ("fifo-any", "suspend-resume-oracle"):
        chosen = named_policy(policy, {"suspend-resume-oracle": {}})
        trace = make_trace([row], world, oracle=True)
        run = prepared(world, trace, chosen)
        run.run()
        figures[policy] = report(run, {})
    dear, cheap = figures["fifo-any"], figures["suspend-resume-oracle"]
    assert dear["gap_ratio"] == pytest.approx(0, abs=1e-6)  # all was over before power was cheap
    assert cheap["gap_ratio"] == pytest.approx(0, abs=1e-6)
    assert cheap["cost_microyuan"] < dear["cost_microyuan"]


@pytest.mark.parametrize(("jobs", "least"), [(2, 8_000_000), (4, 26_000_000)])
def test_the_bound_knows_how_much_there_is_of_the_cheap(jobs: int, least: int) -> None:
    """Two jobs of 4 h fit at the cheap site; of four, two must go where a device-hour costs ten times as much
    or wait for hours that the simulation does not have."""
    table = world_table()
    for site, price in zip(table["site"], (1_000_000, 10_000_000), strict=True):
        site["pool"][0] |= {"machine_microyuan_per_device_h": price, "device_w": 0.0}
    table["site"][0]["pool"][0]["nodes"] = 2
    table["site"][1]["pool"][0]["nodes"] = 2
    world = make(table)
    rows = [JobRow(job_id=f"j{n}", submit_s=0, duration_s=4 * 3600, gpus=4) for n in range(jobs)]
    run = prepared(world, make_trace(rows, world), named_policy("cheapest-now", {}))
    run.run()
    row = report(run, {})
    assert row["cost_lower_bound_microyuan"] <= row["cost_microyuan"]
    assert row["cost_lower_bound_microyuan"] > 3.9 * least  # 4 devices; without capacity it were 16 M a job
