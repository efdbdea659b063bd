"""Why a job is where it is: the price it waits for, every pool with what it has or lacks, and what would
start it sooner, with what that costs.

Asks `considered` about the job as it is and about changed copies of it; decides nothing. A copy is
judged as if it were its turn, over what is free now: what is held for others it may have to wait for.
"""

from collections.abc import Iterator

import msgspec

from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator
from suan.grid.job import Bid, Considered, Job, JobPhase, Place, Priority, Reason, Resources, Task
from suan.grid.market import price_at
from suan.grid.site import SitePhase, hour_rate
from suan.grid.state import State
from suan.grid.units import HOUR_S, duration_text, yuan_text
from suan.rules.decide import considered
from suan.rules.durations import expected
from suan.rules.estimates import unit_s
from suan.rules.fit import fit
from suan.rules.policy import Policy
from suan.rules.scarcity import span_price

SOONER_S = 60  # what gains less is no help
_MOST_HELP = 6  # suggestions, the best first
# ln of a normal's 90th percentile over that of its 95th, which is where an interval of nine in ten ends.
P10_OF_90 = 1.2816 / 1.6449

replace = msgspec.structs.replace


class Length(msgspec.Struct, frozen=True, kw_only=True):
    """How long the job is expected to take where the speed is 1, and what that rests on."""

    p10_s: int
    p50_s: int
    p90_s: int
    mean_s: int
    basis: str


class PriceWaited(msgspec.Struct, frozen=True, kw_only=True):
    """The price at which the job would start, beside the price now. Clearing prices are of a device-hour,
    beyond its cost; electricity is a kWh at the socket.
    """

    pool: str
    start_s: int
    clearing_microyuan_per_device_h: int
    clearing_now_microyuan_per_device_h: int
    scarcity_microyuan: int  # of its devices for the whole run by the clearing prices: paid by nobody
    microyuan_per_kwh: int
    now_microyuan_per_kwh: int


class Sooner(msgspec.Struct, frozen=True, kw_only=True):
    """One change of the task, when it would start then, and how its bill would differ."""

    change: dict[str, str]  # key of the task file -> what to write there
    text: str
    start_s: int
    gained_s: int | None  # None: as it is, it does not start at all
    billed_microyuan: int
    extra_microyuan: int | None  # against the bill as it is; None where there is none


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """One pool, as the job finds it now."""

    pool: str
    accelerator: str
    devices: int
    free_devices: int
    clearing_microyuan_per_device_h: int
    reason: Reason | None = None  # why it cannot run there
    start_s: int | None = None
    total_microyuan: int | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    reason: Reason | None
    considered: Considered | None  # as the bids stand now, or for a job that was placed as they stood then
    start_s: int | None  # forecast, or when it started
    finish_s: int | None
    length: Length
    price: PriceWaited | None
    sooner: tuple[Sooner, ...]
    pools: tuple[PoolView, ...]


def explain(state: State, policy: Policy, job: Job, reason: Reason | None, now_s: int) -> Explanation:
    """Everything there is to say about where the job is. `reason` is the newest plan's."""
    if job.phase != JobPhase.WAITING:
        run = state.runs[job.runs[-1]] if job.runs else None
        then = job.considered.bids[job.considered.chosen] if job.considered and job.considered.bids else None
        return Explanation(
            reason=reason,
            considered=job.considered,
            start_s=job.started_at_s,
            finish_s=job.ended_at_s or (run.expected_end_s if run else None),
            length=_length(state, policy, job, then),
            price=None,
            sooner=(),
            pools=(),
        )
    weighed = considered(state, policy, job, now_s)
    best = weighed.bids[0] if weighed.bids else None
    length = _length(state, policy, job, best)
    start_s = _forecast_start(reason, best)
    run_s = best.finish_s - best.start_s if best else length.mean_s
    return Explanation(
        reason=reason,
        considered=weighed,
        start_s=start_s,
        finish_s=None if start_s is None else start_s + run_s,
        length=length,
        price=_price(state, best, now_s) if best else None,
        sooner=_sooner(state, policy, replace(job, id="changed"), (best, start_s), now_s),
        pools=tuple(_pools(state, job, weighed, now_s)),
    )


def _length(state: State, policy: Policy, job: Job, best: Bid | None) -> Length:
    """By the performance model where its best bid has an estimate, else by what is known of jobs like it."""
    said = best.estimate if best is not None else None
    if best is not None and said is not None and said.run_s:
        learnt = f", set right by {said.site_runs} runs there" if said.site_runs else ""
        return Length(
            p10_s=round(said.run_s * (said.low_s / said.run_s) ** P10_OF_90),
            p50_s=round(said.run_s),
            p90_s=round(said.run_s * (said.high_s / said.run_s) ** P10_OF_90),
            mean_s=round(said.run_s),
            basis=f"the performance model, in all, at {best.site}/{best.pool} on {best.nodes} nodes{learnt}",
        )
    known = expected(state, job, policy)
    return Length(
        p10_s=round(known.p10_s),
        p50_s=round(known.p50_s),
        p90_s=round(known.p90_s),
        mean_s=round(known.mean_s),
        basis=known.basis,
    )


def _forecast_start(reason: Reason | None, best: Bid | None) -> int | None:
    """When it should start: as the plan said, else as its best bid says; None while nothing will."""
    if reason is not None:
        return reason.expected_start_s
    return best.start_s if best else None


def _price(state: State, bid: Bid, now_s: int) -> PriceWaited:
    pool = f"{bid.site}/{bid.pool}"
    tariff = state.tariff(bid.site, now_s)
    return PriceWaited(
        pool=pool,
        start_s=bid.start_s,
        clearing_microyuan_per_device_h=price_at(state.clearing, pool, bid.start_s),
        clearing_now_microyuan_per_device_h=price_at(state.clearing, pool, now_s),
        scarcity_microyuan=round(bid.devices * span_price(state.clearing, pool, bid.start_s, bid.finish_s)),
        microyuan_per_kwh=bid.quote.microyuan_per_kwh,
        now_microyuan_per_kwh=hour_rate(tariff, now_s // HOUR_S)[0] if tariff else 0,
    )


def _pools(state: State, job: Job, weighed: Considered, now_s: int) -> Iterator[PoolView]:
    bids: dict[str, Bid] = {}
    for bid in weighed.bids:
        bids.setdefault(f"{bid.site}/{bid.pool}", bid)
    for site_name in sorted(state.sites):
        site = state.sites[site_name]
        for pool in site.pools.values():
            name = f"{site_name}/{pool.name}"
            found = fit(job.task, site, pool)
            best = bids.get(name)
            yield PoolView(
                pool=name,
                accelerator=pool.accelerator,
                devices=pool.devices,
                free_devices=pool.devices - state.used_devices.get((site_name, pool.name), 0),
                clearing_microyuan_per_device_h=price_at(state.clearing, name, now_s),
                reason=found if isinstance(found, Reason) else weighed.unfit.get(name),
                start_s=best.start_s if best else None,
                total_microyuan=best.quote.total_microyuan if best else None,
            )


# ---------------------------------------------------------------- what would help


def _sooner(
    state: State, policy: Policy, job: Job, as_it_is: tuple[Bid | None, int | None], now_s: int
) -> tuple[Sooner, ...]:
    """Changes of the task that start it at least a minute earlier: soonest first, then cheapest."""
    best, start_s = as_it_is
    limit = job.task.max_cost_microyuan
    found: dict[tuple[str, ...], Sooner] = {}  # of changes of one kind the soonest, then the smallest
    for change, task, what in _changes(state, policy, job):
        bids = considered(state, policy, replace(job, task=task), now_s).bids
        if limit is not None and task.max_cost_microyuan is not None:
            bids = tuple(bid for bid in bids if bid.quote.billed_microyuan <= limit)
        if not bids:
            continue
        bid = min(bids, key=lambda bid: (bid.start_s, bid.quote.billed_microyuan))
        if start_s is not None and start_s - bid.start_s < SOONER_S:
            continue
        if "max_cost" in change:
            change = {"max_cost": f"{bid.quote.billed_microyuan / 1e6:.2f} CNY"}
        extra = None if best is None else bid.quote.billed_microyuan - best.quote.billed_microyuan
        help = Sooner(
            change=change,
            text=_text(what, bid, extra, now_s),
            start_s=bid.start_s,
            gained_s=None if start_s is None else start_s - bid.start_s,
            billed_microyuan=bid.quote.billed_microyuan,
            extra_microyuan=extra,
        )
        kind = (*change, what if "resources.any_of" in change else "")
        if kind not in found or help.start_s < found[kind].start_s:
            found[kind] = help
    ranked = sorted(found.values(), key=lambda help: (help.start_s, help.billed_microyuan, help.text))
    return tuple(ranked[:_MOST_HELP])


def _text(what: str, bid: Bid, extra: int | None, now_s: int) -> str:
    away_s = bid.start_s - now_s
    when = "at once" if away_s <= 0 else f"in {duration_text(away_s)}"
    said = f"{what}: {bid.site}/{bid.pool} could start it {when}, for {yuan_text(bid.quote.billed_microyuan)}"
    if extra:
        said += f" ({yuan_text(abs(extra))} {'more' if extra > 0 else 'less'})"
    return said


Change = tuple[dict[str, str], Task, str]  # keys of the task file, the task with them, in words


def _changes(state: State, policy: Policy, job: Job) -> Iterator[Change]:
    """What a user could change about the task, each by itself."""
    task = job.task
    if unit_s(state, job) is None:  # of nodes that it does not name the performance model has said nothing
        yield from _other_kinds(state, task)
        yield from _fewer_devices(state, policy, job)
    if task.place != Place():
        yield {"place": ""}, replace(task, place=Place()), "anywhere"
    if task.priority == Priority.VALLEY:
        yield {"priority": "standard"}, replace(task, priority=Priority.STANDARD), "priority: standard"
    if task.deadline_s is not None and task.priority != Priority.VALLEY:
        yield {"deadline": ""}, replace(task, deadline_s=None), "without a deadline to defer to"
    if task.max_cost_microyuan is not None:
        yield {"max_cost": ""}, replace(task, max_cost_microyuan=None), "a higher max_cost"
        if task.deadline_s is not None:
            doubled = replace(task, deadline_s=2 * task.deadline_s)
            text = duration_text(2 * task.deadline_s)
            yield {"deadline": text}, doubled, f"deadline: {text}"


def _other_kinds(state: State, task: Task) -> Iterator[Change]:
    """The same number of devices of every kind that a ready site has and the task does not name."""
    named = dict.fromkeys(resources.accelerator for resources in task.resources)
    if "" in named:
        return
    there = {
        kind.name: None
        for site in state.sites.values()
        if site.phase == SitePhase.READY
        for pool in site.pools.values()
        if (kind := accelerator(pool.accelerator)).device_class != CPU_DEVICE_CLASS
    }
    for kind_name in sorted(there):
        if kind_name not in named:
            resources = replace(task.resources[0], accelerator=kind_name)
            count = resources.devices
            yield (
                {"resources.any_of": f"accelerators: {kind_name}:{count}"},
                replace(task, resources=(resources,)),
                f"{kind_name} as well",
            )


def _fewer_devices(state: State, policy: Policy, job: Job) -> Iterator[Change]:
    """Half the nodes, a quarter, and so on; on one node half the devices. Takes as much longer."""
    task = job.task
    length_s = expected(state, job, policy).mean_s
    if task.replicas is not None:
        return
    for part in (2, 4, 8):
        longer = round(length_s * part)
        if task.num_nodes >= part and task.num_nodes % part == 0:
            nodes = task.num_nodes // part
            fewer = replace(task, num_nodes=nodes, duration_s=longer)
            yield {"num_nodes": str(nodes)}, fewer, f"num_nodes: {nodes}, {part} times as long"
        elif task.num_nodes == 1 and all(_divides(part, resources) for resources in task.resources):
            smaller = tuple(_part(part, resources) for resources in task.resources)
            devices = smaller[0].devices
            fewer = replace(task, resources=smaller, duration_s=longer)
            yield (
                {"resources": str(devices)},
                fewer,
                f"{devices} device{'s' if devices > 1 else ''}, {part} times as long",
            )


def _divides(part: int, resources: Resources) -> bool:
    return resources.devices >= part and resources.devices % part == 0


def _part(part: int, resources: Resources) -> Resources:
    if resources.accelerator:
        return replace(resources, accelerators=resources.accelerators // part)
    return replace(resources, cpus=resources.devices / part)
