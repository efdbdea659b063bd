"""Small worlds in which one thing about a market shows, each with what must come of it; and random ones.

Knows arrivals and outcomes. What must never happen anywhere is `market_checks.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from market_checks import KIND, Watch, complaints, expected_terms, moved_gb, stopped_runs
from msgspec.structs import replace
from small_worlds import make, small_arrivals, small_world

from suan.grid import fact as f
from suan.grid.account import Budget, Quota
from suan.grid.artifact import Artifact
from suan.grid.job import Bid, Checkpoint, Elastic, Job, Place, Priority, Resources, Task
from suan.grid.site import Series
from suan.grid.units import BYTES_PER_GB, HOUR_S
from suan.rules.policy import Policy
from suan.sim.engine import SimulatedEngine
from suan.sim.policies import named_policy
from suan.sim.run import Simulation
from suan.sim.site import CHECKPOINT_ENV, DURATION_ENV, digest_of
from suan.sim.trace import Arrival
from suan.sim.world import World

FLAT = (500_000,)
VALLEY, ONLINE = Priority.VALLEY, Priority.ONLINE
Expect = Callable[[Simulation], Iterator[str]]


@dataclass
class Case:
    """A simulation that has not begun, and what must come of it."""

    name: str
    simulation: Simulation
    watch: Watch
    expect: Expect

    def complaints(self) -> Iterator[str]:
        """What is wrong after it has run; a crash is a complaint, too."""
        try:
            self.simulation.run(until_s=4 * 86_400)
            self.simulation.calm_down()
        except Exception as error:
            yield f"crash: {type(error).__name__}: {error}"
            return
        yield from complaints(self.simulation, self.watch)
        yield from (f"{self.name}: {what}" for what in self.expect(self.simulation))


def site(name: str, devices: int, nodes: int = 1, **about: Any) -> dict[str, Any]:
    pool = {"accelerator": KIND, "devices_per_node": devices, "nodes": nodes, "device_w": 500}
    pool |= {"machine_microyuan_per_device_h": about.get("machine", 2_000_000)}
    tariff = {"flat_yuan_per_kwh": 0.5, "pue": about.get("pue", 1.2), "gco2_per_kwh": 500}
    return {"name": name, "pool": [pool], "tariff": tariff}


def hours(world: World, **by_site: tuple[tuple[int, ...], tuple[float, ...]]) -> World:
    """The world with (micro-yuan, gCO2) a kWh by the hour at these sites, again and again."""
    sites = []
    for one in world.sites:
        assert one.tariff is not None
        money, carbon = by_site.get(one.name, (FLAT, (500.0,)))
        prices = Series(start_at_s=world.start_s, microyuan_per_kwh=money, gco2_per_kwh=carbon)
        sites.append(replace(one, tariff=replace(one.tariff, prices=prices)))
    return replace(world, sites=tuple(sites))


def job(name: str, at_s: int, length_s: int, devices: int = 1, **about: Any) -> Arrival:
    """`known_s`: what its task says of its length, the truth unless told; `memory_gib` sets demands apart."""
    env, checkpoint = {DURATION_ENV: str(length_s)}, about.pop("checkpoint_s", None)
    if checkpoint:
        env[CHECKPOINT_ENV] = str(checkpoint)
        about["checkpoint"] = Checkpoint(every_s=checkpoint)
    memory_gib = about.pop("memory_gib", 0.0)
    resources = Resources(accelerator=KIND, accelerators=devices, cpus=0, memory_gib=memory_gib)
    tenant, data = about.pop("tenant", "x"), about.pop("data", None)
    known_s = about.pop("known_s", length_s)
    task = Task(name=name, run="true", envs=env, resources=(resources,), duration_s=known_s, **about)
    if data is None:
        return Arrival(at_s=at_s, tenant=tenant, task=task)
    where, size_gb = data
    artifact = Artifact(
        id=f"dataset:{name}@1", digest=digest_of(name), bytes=size_gb * BYTES_PER_GB, files=1, tenant=tenant,
        created_at_s=0,
    )  # fmt: skip
    task = replace(task, inputs={"data": f"dataset:{name}"})
    return Arrival(at_s=at_s, tenant=tenant, task=task, data=artifact, data_site=where)


def nothing(run: Simulation) -> Iterator[str]:
    yield from ()


def case(
    name: str, world: World, arrivals: list[Arrival], expect: Expect = nothing, *, seed: int = 0, **about: Any
) -> Case:
    """`tenants`: what an operator says of them; everything else is of the policy."""
    tenants = about.pop("tenants", {})
    chosen = named_policy("market", {})
    watch = Watch(chosen)
    policy = replace(chosen, policy=replace(Policy(), **about), decider=watch)
    ordered = sorted(arrivals, key=lambda arrival: arrival.at_s)
    simulation = Simulation(world, ordered, policy, seed=seed)
    facts = [f.TenantSet(at_s=world.start_s, tenant=name, **said) for name, said in tenants.items()]
    simulation.grid.do(lambda state, at_s: (facts, None))
    return Case(name, simulation, watch, expect)


def jobs_of(run: Simulation) -> dict[str, Job]:
    return {one.task.name: one for one in run.state.jobs.values()}


def wait_s(one: Job) -> int:
    return (one.started_at_s or 10**12) - one.submitted_at_s


# ---------------------------------------------------------------- turns


def short_first() -> Case:
    """Behind one that fills the pool, jobs worth alike start the shortest first."""
    lengths_s = (2400, 600, 3000, 300, 1200, 1800)
    arrivals = [job("first", 0, 600, 4)]
    arrivals += [job(f"{s}", 1 + n, s, 4, memory_gib=n + 1.0) for n, s in enumerate(lengths_s)]

    def expect(run: Simulation) -> Iterator[str]:
        waiting = [one for name, one in jobs_of(run).items() if name != "first"]
        order = [int(one.task.name) for one in sorted(waiting, key=wait_s)]
        if order != sorted(order):
            yield f"jobs started in the order of {order} s"

    return case("short first", make({"site": [site("a", 4)]}), arrivals, expect)


def deadlines() -> Case:
    """There is one order in which everybody is in time."""
    arrivals = [job("first", 0, 600, 4)]
    for number, place in enumerate((3, 0, 4, 1, 2)):
        due_s = 600 + 1000 * (place + 1) + 200
        arrivals.append(job(f"d{place}", 1, 1000, 4, memory_gib=number + 1.0, deadline_s=due_s))

    def expect(run: Simulation) -> Iterator[str]:
        for name, one in jobs_of(run).items():
            due_s = one.submitted_at_s + (one.task.deadline_s or 10**9)
            if one.ended_at_s is None or one.ended_at_s > due_s:
                yield f"{name} ended too late"

    return case("deadlines", make({"site": [site("a", 4)]}), arrivals, expect)


def starvation() -> Case:
    """A gang that is worth least, in a stream of short jobs that the pool cannot take: it starts within
    `starvation_s`, the longest run that may hold its devices then, and the stream's interval."""
    bound_s, length_s, every_s = 2 * HOUR_S, 600, 200
    arrivals = [job(f"s{n}", n * every_s, length_s, 2, tenant="eager") for n in range(60)]
    arrivals.append(job("gang", 400, 1800, 2, num_nodes=2))

    def expect(run: Simulation) -> Iterator[str]:
        gang = jobs_of(run)["gang"]
        if wait_s(gang) > bound_s + length_s + every_s:
            yield f"the gang waited for {wait_s(gang)} s"

    world, tenants = make({"site": [site("a", 2, 2)]}), {"eager": {"waiting_microyuan_per_h": 90_000_000}}
    return case("starvation", world, arrivals, expect, tenants=tenants, starvation_s=bound_s)


def ageing() -> Case:
    """A valley job that may defer no longer, behind standard ones without end: it is one of the best after
    twice `ageing_s`."""
    arrivals = [job(f"s{n}", n * 250, 600, memory_gib=1.0) for n in range(60)]
    arrivals.append(job("valley", 500, 900, priority=VALLEY, deadline_s=3000))

    def expect(run: Simulation) -> Iterator[str]:
        waited_s = wait_s(jobs_of(run)["valley"])
        if not 600 <= waited_s <= 2 * HOUR_S + 850:
            yield f"the valley job waited for {waited_s} s"

    world = make({"site": [site("a", 2)]})
    return case("ageing", world, arrivals, expect, ageing_s=HOUR_S, starvation_s=10**8)


def shares() -> Case:
    """Who holds less than its share comes first, though each of its jobs saves less an hour."""
    arrivals = [job(f"x{n}", 0, 300, 2, tenant="x") for n in range(40)]
    arrivals += [job(f"y{n}", 1, 900, 2, tenant="y") for n in range(12)]

    def expect(run: Simulation) -> Iterator[str]:
        begun = [one for one in jobs_of(run).values() if one.tenant == "y" and wait_s(one) <= 1800]
        if len(begun) < 2:
            yield f"only {len(begun)} jobs of y began in the first half hour"

    return case("shares", make({"site": [site("a", 8)]}), arrivals, expect)


# ---------------------------------------------------------------- money


def cheapest() -> Case:
    """There is room for all at any moment, so nobody pays more than its best site and hour cost."""
    curve = (900_000,) * 4 + (200_000,) * 3 + (700_000,) * 9 + (300_000,) * 2 + (1_200_000,) * 6
    clean = (900.0,) * 8 + (100.0,) * 5 + (700.0,) * 11
    table = {
        "site": [
            site("a", 8, 4, pue=1.1),
            site("b", 8, 4, pue=1.9, machine=1_900_000),
            site("c", 8, 4, pue=1.3, machine=2_050_000),
        ]
    }
    world = hours(make(table), a=(curve, (600.0,)), b=((400_000,) * 24, clean), c=((650_000,), (0.0,)))
    arrivals = []
    for n in range(24):
        about: dict[str, Any] = {"priority": (VALLEY, Priority.STANDARD, ONLINE)[n % 3]}
        if n % 4 == 1:
            about["deadline_s"] = 7 * HOUR_S
        if n % 5 == 2:
            about |= {"deadline_s": 2 * HOUR_S, "value_microyuan": 30_000_000}
        arrivals.append(job(f"j{n}", 2700 * n, (1800, 3600, 9000)[n % 3], 4, **about))

    def expect(run: Simulation) -> Iterator[str]:
        for name, one in jobs_of(run).items():
            chosen, best = _paid(run, one)
            if chosen > best * 1.001 + 1000:
                yield f"{name} took a bid of {chosen:.0f}, there was one of {best:.0f}"

    return case("cheapest", world, arrivals, expect)


def _paid(run: Simulation, one: Job) -> tuple[float, float]:
    """What the job's placement comes to in all terms, and what the best one would have."""
    taken = run.state.runs[one.runs[0]]
    length_s, latest_s = one.task.duration_s or 0, 0
    if one.task.priority == VALLEY or one.task.deadline_s is not None:
        latest_s = 86_400
    if one.task.deadline_s is not None:
        latest_s = min(latest_s, one.task.deadline_s - length_s)
    costs = []
    for where in run.world.sites:
        for start_s in [
            taken.placed_at_s,
            *range(one.submitted_at_s, one.submitted_at_s + latest_s + 1, 900),
        ]:
            if start_s == taken.placed_at_s and where.name != taken.site:
                continue
            bid = Bid(
                site=where.name, pool=where.pools[0].name, devices=taken.devices, nodes=1, start_s=start_s,
                finish_s=start_s + length_s, quote=taken.quote,
            )  # fmt: skip
            costs.append((sum(expected_terms(run, one, bid).values()), where.name, start_s))
    chosen = next(cost for cost, name, at_s in costs if (name, at_s) == (taken.site, taken.placed_at_s))
    return chosen, min(costs)[0]


def pauses() -> Case:
    """A valley job with checkpoints stands still through dear hours."""
    curve = ((200_000,) * 3 + (9_000_000,) * 3) * 4
    world = hours(make({"site": [site("a", 8)]}), a=(curve, (0.0,)))
    arrivals = [job("v", 0, 5 * HOUR_S, 4, priority=VALLEY, checkpoint_s=600)]
    arrivals.append(job("other", 700, 600, 1, tenant="y"))

    def expect(run: Simulation) -> Iterator[str]:
        if not stopped_runs(run, "paused"):
            yield "the valley job went on through the dear hours"

    return case("pauses", world, arrivals, expect)


def data() -> Case:
    """Data travel where that pays, from the site where they are cheapest to fetch."""
    table: dict[str, Any] = {"site": [site("a", 4), site("b", 4, machine=9_000_000), site("c", 8)]}
    table["link"] = [
        {"from": one, "to": other, "gbps": 1.0, "microyuan_per_gb": price}
        for one, other, price in (("a", "c", 9_000), ("b", "c", 1_000), ("a", "b", 500), ("b", "a", 500))
    ]
    arrivals = []
    for n in range(6):
        where = "ab"[n % 2]
        place = Place(sites=(("c",), ("b",), ())[n % 3])
        arrivals.append(job(f"j{n}", 900 * n, 1200, 2, data=(where, 20), place=place))
    shared = job("shared", 12_000, 900, 4)  # what j4 has brought from a to b is cheaper to fetch from there
    task = replace(shared.task, inputs={"data": "dataset:j4"}, place=Place(sites=("c",)))
    arrivals.append(replace(shared, task=task))

    def expect(run: Simulation) -> Iterator[str]:
        if moved_gb(run) > 20 * 8:
            yield f"{moved_gb(run):.0f} GB were moved"

    return case("data", make(table), arrivals, expect)


# ---------------------------------------------------------------- limits and stops


def quotas() -> Case:
    """Three tenants below one parent, each at times the only one that wants devices."""
    said = {"x": (6, 2, 2), "y": (4, 4, 1), "z": (2, 8, 2)}
    tenants: dict[str, dict[str, Any]] = {"above": {}}
    for name, (nominal, borrow, lend) in said.items():
        quota = Quota(
            nominal_devices={KIND: nominal}, borrow_devices={KIND: borrow}, lend_devices={KIND: lend}
        )
        tenants[name] = {"parent": "above", "quota": quota}
    arrivals = []
    for n in range(36):
        tenant = "xyz"[(n // 6) % 3] if n < 18 else "xyz"[n % 3]
        arrivals.append(job(f"j{n}", 300 * n, (600, 2400, 5400)[n % 3], 1 + n % 2, tenant=tenant))

    arrivals += [job(f"b{n}", 30_000, 1800, tenant="x") for n in range(12)]

    def expect(run: Simulation) -> Iterator[str]:
        if max(_most(run, name) - said[name][0] for name in said) <= 0:
            yield "nobody ever borrowed"

    return case("quotas", make({"site": [site("a", 8, 2)]}), arrivals, expect, tenants=tenants)


def _most(run: Simulation, tenant: str) -> int:
    """The most devices that the tenant ever held."""
    runs = [one for one in run.state.runs.values() if one.tenant == tenant]
    spans = [(one.placed_at_s, one.ended_at_s or 10**12, one.devices) for one in runs]
    return max(sum(n for start, end, n in spans if start <= at < end) for at, _, _ in spans)


def elastic() -> Case:
    """A run changes its size only to come back at another one, and grows as far as its quota lets it."""
    quota = Quota(nominal_devices={KIND: 2}, borrow_devices={KIND: 0}, lend_devices={KIND: 0})
    size = Elastic(min_nodes=1, max_nodes=4, speed={1: 1.0, 2: 1.9, 3: 2.8, 4: 3.7})
    arrivals = [job("other", 0, 5400, 1, tenant="y", num_nodes=7)]
    arrivals.append(job("grows", 1, 8 * HOUR_S, elastic=size, checkpoint_s=600))
    arrivals.append(job("late", 7000, 600, 1, tenant="y"))
    arrivals.append(job("later", 20_000, 600, 1, tenant="y"))

    def expect(run: Simulation) -> Iterator[str]:
        runs = [run.state.runs[name] for name in jobs_of(run)["grows"].runs]
        for before, after in pairwise(runs):
            if before.stop_reason.startswith("resized") and before.nodes == after.nodes:
                yield f"{after.id} is as large as {before.id}, which was stopped to change its size"
        if runs[-1].nodes < 2:
            yield "it never grew"

    tenants = {"x": {"quota": quota, "waiting_microyuan_per_h": 20_000_000}}
    return case("elastic", make({"site": [site("a", 1, 8)]}), arrivals, expect, tenants=tenants)


def budgets() -> Case:
    """What is quoted at ten yuan takes less; a budget of 25 lets two run at once, and a job waits for a pool
    that it may cost."""
    arrivals = [job(f"b{n}", 0, 600, 1, tenant="poor", known_s=3600) for n in range(6)]
    arrivals += [job("first", 0, 1800, 8), job("m", 60, 3600, 4, max_cost_microyuan=60_000_000)]
    table = {"site": [site("a", 10, machine=10_000_000), site("b", 8, machine=30_000_000)]}
    tenants = {"poor": {"budget": Budget(limit_microyuan=25_000_000)}}
    return case("budgets", make(table), arrivals, tenants=tenants)


def preemption() -> Case:
    """Online jobs take the place of valley runs, of those that lose least, and not of standard ones."""
    long_s = 6 * HOUR_S
    arrivals = [
        job("kept", 0, long_s, 2, checkpoint_s=300, priority=VALLEY),
        job("lost", 0, long_s, 2, priority=VALLEY),
        job("standard", 1, long_s, 4),
        job("one", 1530, 900, 2, priority=ONLINE),
        job(
            "nosy", 1534, 60, 2, priority=VALLEY, deadline_s=60
        ),  # while the first to be stopped is still leaving
        job("young", 2500, 300, 2, priority=ONLINE),  # kept has just come back
        job("two", 9000, 900, 2, priority=ONLINE),
        job("three", 9000, 900, 2, priority=ONLINE, memory_gib=1.0),
        job("wanting", 12_000, 1200, 4, priority=VALLEY),
    ]

    def expect(run: Simulation) -> Iterator[str]:
        jobs = jobs_of(run)
        for name in ("one", "two", "three"):
            if wait_s(jobs[name]) > 60:
                yield f"{name} waited for {wait_s(jobs[name])} s"
        if len(jobs["standard"].runs) > 1:
            yield "the standard run was stopped"
        first = run.state.runs[jobs["lost"].runs[0]]
        if first.ended_at_s is not None and first.ended_at_s < run.world.start_s + 2400:
            yield "the run that had most to lose was stopped first"

    made = case("preemption", make({"site": [site("a", 8)]}), arrivals, expect)
    simulation = made.simulation
    pools = simulation.world.sites[0].pools
    simulation.sites["a"].engine = SimulatedEngine(simulation.clock, pools, by_node=False, stopping_s=8)
    return made


def faults(seed: int) -> Case:
    """A random world, with every kind of fault."""
    return case(f"faults {seed}", small_world(seed), list(small_arrivals(seed)), seed=seed)


BATTERY: tuple[Callable[[], Case], ...] = (
    short_first,
    deadlines,
    cheapest,
    budgets,
    preemption,
    quotas,
    data,
    elastic,
    pauses,
    shares,
    lambda: faults(1),
    ageing,
    starvation,
    lambda: faults(3),
)
