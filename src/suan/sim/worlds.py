"""Small worlds drawn from a seed: sites, links, tariffs, tenants, jobs, a policy, and the faults that strike.

Knows what may be drawn and how often. Each kind of fault is on or off for a whole world: what one of them
brings to light another may hide. The same seed gives the same world, on any machine.
"""

import random
from collections.abc import Sequence
from typing import get_args

import msgspec

from suan.grid.account import Budget, Quota, Tenant
from suan.grid.artifact import Artifact
from suan.grid.job import Checkpoint, Elastic, Place, Priority, Replicas, Resources, Task
from suan.grid.rights import Rights
from suan.grid.site import Bands, Link, Pool, Series, Tariff
from suan.grid.units import DAY_S, HOUR_S
from suan.rules.policy import Policy
from suan.sim.faults import Strike
from suan.sim.keys import FaultKind
from suan.sim.network import MESSAGE_FAULTS
from suan.sim.policies import NamedPolicy, named_policy
from suan.sim.site import CHECKPOINT_ENV, DURATION_ENV, NODES_ENV, OUTPUT_ENV, digest_of
from suan.sim.trace import Arrival
from suan.sim.world import SiteWorld, World

FAULT_KINDS: tuple[str, ...] = get_args(FaultKind)
START_S = 1_767_225_600  # 2026-01-01T00:00Z
BUSY_S = 3 * HOUR_S  # jobs arrive and faults strike so long

_KINDS = ("H100-SXM", "A800", "L40S")
_FOREVER_S = 10**7  # how long a service would run
_BANDS = ("valley", "flat", "peak")
_BASELINES = ("fifo-any", "sjf", "backfill", "cheapest-now", "greenest-now", "least-loaded")


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one seed stands for."""

    seed: int
    world: World
    arrivals: tuple[Arrival, ...]
    policy: NamedPolicy
    strikes: tuple[Strike, ...]


def drawn(seed: int) -> Drawn:
    """The world of a seed. Every sixth has no faults."""
    chance = random.Random(f"soak/{seed}")
    policy = _policy(chance)
    ours = policy.name in ("market", "greedy")
    sites = _sites(chance)
    names = tuple(site.name for site in sites)
    world = World(
        start_s=START_S + chance.randrange(365 * 24) * HOUR_S,
        sites=sites,
        links=_links(chance, names),
        tenants=_tenants(chance, limits=chance.random() if ours else 1.0),
    )
    world = msgspec.structs.replace(world, sites=tuple(_priced(chance, site, world) for site in sites))
    return Drawn(
        seed=seed,
        world=world,
        arrivals=_arrivals(chance, world),
        policy=policy,
        strikes=_strikes(chance, names, world.start_s) if seed % 6 else (),
    )


# ---------------------------------------------------------------- the policy


def _policy(chance: random.Random) -> NamedPolicy:
    numbers = {
        "lease_s": chance.choice((15, 30, 30, 60)),
        "grace_s": chance.choice((5, 10)),
        "clock_margin_s": chance.choice((1, 5)),
        "stop_grace_s": chance.choice((5, 10, 30)),
        "clear_every_s": chance.choice((300, 900, 3600)),
        "clear_rounds": chance.choice((10, 30)),
        "ageing_s": chance.choice((HOUR_S, 6 * HOUR_S)),
        "starvation_s": chance.choice((2 * HOUR_S, DAY_S)),
        "shift_horizon_s": chance.choice((2 * HOUR_S, 6 * HOUR_S, DAY_S)),
        "default_duration_s": chance.choice((60, 3600)),
        "backfill_tries": chance.choice((1, 4)),
        "reserve": chance.random() < 0.9,
    }
    name = chance.choices(("market", "greedy", chance.choice(_BASELINES)), (7, 2, 1))[0]
    chosen = named_policy(name, {})
    policy = msgspec.structs.replace(chosen.policy, **numbers)
    return msgspec.structs.replace(chosen, policy=msgspec.convert(msgspec.to_builtins(policy), Policy))


# ---------------------------------------------------------------- sites


def _sites(chance: random.Random) -> tuple[SiteWorld, ...]:
    kinds = chance.sample(_KINDS, chance.randint(1, 2))
    sites = []
    for number in range(chance.randint(2, 4)):
        pools = []
        for kind in chance.sample(kinds, chance.randint(1, len(kinds))):
            pools.append(
                Pool(
                    name=kind.lower(),
                    accelerator=kind,
                    devices_per_node=chance.choice((1, 2, 4, 8)),
                    nodes=chance.randint(1, 4),
                    machine_microyuan_per_device_h=chance.randint(0, 9) * 1_000_000,
                    device_w=chance.choice((None, 400.0)),
                    host_w_per_node=chance.choice((0.0, 800.0)),
                    preemption_per_h=chance.choice((0.0, 0.0, 0.2)),
                    speed_ratio=chance.choice((1.0, 1.0, 0.5, 1.7)),
                )
            )
        region = chance.choice(("north", "west"))
        by_node = chance.random() < 0.5
        sites.append(
            SiteWorld(name=f"s{number}", region=region, pools=tuple(pools), tariff=None, by_node=by_node)
        )
    return tuple(sites)


def _priced(chance: random.Random, site: SiteWorld, world: World) -> SiteWorld:
    """The site with bands by month, a series by the hour, or free electricity."""
    kind, pue = chance.choice(("bands", "series", "series", "")), chance.choice((1.0, 1.2, 1.6))
    if kind == "bands":
        day = tuple(chance.choice(_BANDS) for _ in range(24))
        ratios = {"valley": 0.4, "flat": 1.0, "peak": 1.7}
        prices: Bands | Series = Bands(
            flat_microyuan_per_kwh=chance.randint(200_000, 900_000),
            ratios=ratios,
            months=(day,),
            gco2_per_kwh=chance.uniform(0, 900),
        )
    else:
        hours = chance.choice((1, 24, 48))
        prices = Series(
            start_at_s=world.start_s,
            microyuan_per_kwh=tuple(chance.randint(0, 1_500_000) for _ in range(hours)),
            gco2_per_kwh=tuple(chance.uniform(0, 900) for _ in range(hours)),
        )
    tariff = Tariff(site=site.name, prices=prices, pue=pue, source="drawn") if kind else None
    return msgspec.structs.replace(site, tariff=tariff)


def _links(chance: random.Random, names: Sequence[str]) -> tuple[Link, ...]:
    return tuple(
        Link(
            source=one,
            destination=other,
            mbit_per_s=chance.choice((50.0, 200.0, 2000.0)),
            rtt_ms=chance.choice((0.0, 40.0)),
            microyuan_per_gb=chance.choice((0, 10_000)),
        )
        for one in names
        for other in names
        if one != other and chance.random() < 0.9
    )


def _tenants(chance: random.Random, *, limits: float) -> tuple[Tenant, ...]:
    """`limits` below a half: a tree with quotas; a quarter of the rest have budgets."""
    if limits >= 0.5:
        most_yuan = chance.choice((10, 50, 400))
        limit = chance.randint(1, most_yuan) * 1_000_000 if limits < 0.75 else None
        budget = Budget(limit_microyuan=limit)
        return tuple(
            Tenant(name=name, weight=chance.choice((1.0, 3.0)), budget=budget)
            for name in ("x", "y", "z")[: chance.randint(1, 3)]
        )
    tenants = [Tenant(name="above", quota=_quota(chance) if limits < 0.1 else Quota())]
    for name in ("x", "y", "z"):
        parent = chance.choice(("above", "above", "x" if name == "z" else ""))
        quota = _quota(chance) if chance.random() < 0.8 else Quota()
        waiting = chance.choice((0, 1_000_000, 20_000_000))
        tenants.append(Tenant(name=name, parent=parent, quota=quota, waiting_microyuan_per_h=waiting))
    return tuple(tenants)


def _quota(chance: random.Random) -> Quota:
    kind = chance.choice(("*", *_KINDS))
    return Quota(
        nominal_devices={kind: chance.randint(0, 8)},
        borrow_devices={kind: chance.randint(0, 8)} if chance.random() < 0.6 else {},
        lend_devices={kind: chance.randint(0, 8)} if chance.random() < 0.5 else {},
    )


# ---------------------------------------------------------------- jobs


def _arrivals(chance: random.Random, world: World) -> tuple[Arrival, ...]:
    """Three to fourteen submissions: single tasks and pipelines, some of them with data of their own."""
    payers = [tenant.name for tenant in world.tenants if tenant.name != "above"]
    rush = chance.random() < 0.3  # all at once
    arrivals = []
    for number in range(chance.randint(3, 14)):
        at_s = chance.randint(0, 60 if rush else BUSY_S)
        tenant, name = chance.choice(payers), f"t{number}"
        task = _task(chance, world, name)
        data, where = None, ""
        if chance.random() < 0.3:
            data, where = _data(chance, name, tenant), chance.choice(world.sites).name
            task = msgspec.structs.replace(task, inputs={"data": f"dataset:{name}"})
        arrivals.append(
            Arrival(
                at_s=at_s,
                tenant=tenant,
                task=task,
                then=tuple(_then(chance, world, task)),
                data=data,
                data_site=where,
            )
        )
    return tuple(sorted(arrivals, key=lambda arrival: arrival.at_s))


def _data(chance: random.Random, name: str, tenant: str) -> Artifact:
    return Artifact(
        id=f"dataset:{name}@1",
        digest=digest_of(name),
        bytes=chance.randint(1, 20_000) * 1_000_000,
        files=1,
        tenant=tenant,
        created_at_s=0,
        rights=Rights(owner=tenant),
    )


def _then(chance: random.Random, world: World, first: Task) -> list[Task]:
    """Up to two later tasks: each reads what the one before wrote, or only comes after it."""
    tasks: list[Task] = []
    before = first
    for number in range(chance.choice((0, 0, 0, 1, 2))):
        task = _task(chance, world, f"{first.name}-{number}")
        if before.outputs and chance.random() < 0.8:
            task = msgspec.structs.replace(task, inputs={"before": before.outputs["out"]})
        else:
            task = msgspec.structs.replace(task, after=(before.name,))
        tasks.append(task)
        before = task
    return tasks


def _task(chance: random.Random, world: World, name: str) -> Task:
    site = chance.choice(world.sites)
    pool = chance.choice(site.pools)
    devices = chance.randint(1, pool.devices_per_node)
    nodes = chance.randint(1, pool.nodes) if chance.random() < 0.3 else 1
    if chance.random() < 0.02:
        nodes = 99  # refused
    truth_s = chance.choice((1, chance.randint(5, 120), chance.randint(60, 2400), chance.randint(600, 9000)))
    env = {DURATION_ENV: str(truth_s), OUTPUT_ENV: str(chance.randint(1, 9000) * 1_000_000)}
    about: dict[str, object] = {"priority": chance.choice(list(Priority))}
    if chance.random() < 0.4:
        every_s = chance.choice((30, 120, 600))
        about["checkpoint"], env[CHECKPOINT_ENV] = Checkpoint(every_s=every_s), str(every_s)
        if chance.random() < 0.4 and nodes < 99:
            low, high = chance.randint(1, nodes), nodes + chance.randint(0, 2)
            about["elastic"], env[NODES_ENV] = Elastic(min_nodes=low, max_nodes=high), str(nodes)
    elif chance.random() < 0.08:
        about["replicas"], truth_s = Replicas(), _FOREVER_S
        env[DURATION_ENV] = str(truth_s)
    if chance.random() < 0.3:
        about["deadline_s"] = truth_s * chance.choice((1, 3, 20)) + 60
        about["value_microyuan"] = chance.choice((None, 5_000_000))
    if chance.random() < 0.3:
        about["place"] = chance.choice((Place(sites=(site.name,)), Place(regions=(site.region,))))
    if chance.random() < 0.05:
        about["max_duration_s"] = chance.randint(30, 3000)
    if chance.random() < 0.1:
        about["max_cost_microyuan"] = chance.choice((300_000_000, 1_000_000_000))
    kinds = dict.fromkeys((pool.accelerator, chance.choice(_KINDS))) if chance.random() < 0.2 else {}
    return Task(
        name=name,
        run=f"sleep {truth_s}",
        envs=env,
        resources=tuple(
            Resources(accelerator=kind, accelerators=devices, cpus=0) for kind in kinds or (pool.accelerator,)
        ),
        num_nodes=nodes,
        outputs={"out": f"model:{name}"} if chance.random() < 0.5 else {},
        duration_s=chance.choice((None, truth_s, max(1, truth_s // 3), truth_s * 3)),
        max_restarts=chance.choice((0, 3, 50)),
        **about,
    )


# ---------------------------------------------------------------- faults


def _strikes(chance: random.Random, sites: Sequence[str], start_s: int) -> tuple[Strike, ...]:
    """Some kinds, each a few times; trouble comes by itself, or all within minutes."""
    kinds = [kind for kind in FAULT_KINDS if chance.random() < 0.35] or [chance.choice(FAULT_KINDS)]
    middle_s = chance.randint(0, BUSY_S) if chance.random() < 0.3 else None
    strikes = []
    for kind in kinds:
        # A transfer must be under way to break, so that is tried more often.
        for _ in range(chance.randint(1, 3) if kind != "failed_transfer" else 20):
            at_s = chance.randint(0, BUSY_S) if middle_s is None else middle_s + chance.randint(0, 300)
            longest = (120, 400, 2000) if kind in MESSAGE_FAULTS else (8, 25, 40, 55, 120, 400, 2000)
            strikes.append(
                Strike(
                    kind=kind,
                    site=chance.choice(sites),
                    at_s=start_s + at_s,
                    for_s=chance.choice(longest),
                    draw=chance.random(),
                )
            )
    return tuple(sorted(strikes, key=lambda strike: strike.at_s))
