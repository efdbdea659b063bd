"""Every way to run a job: which pools, from when, at which price; and what is kept of it for the record.

Does not choose whose turn it is, and places nothing.
"""

from collections.abc import Iterator

import numpy as np

from suan.grid.artifact import Artifact
from suan.grid.hardware import accelerator
from suan.grid.job import Bid, Considered, Job, Priority, Reason
from suan.grid.units import HOUR_S, yuan_text
from suan.rules.cycle import Cycle, Offer, Offers
from suan.rules.fit import quota_reason
from suan.rules.move import Move, moves_to
from suan.rules.quote import Setting, electricity_of_starts, power_w, quote, turning_points
from suan.rules.scarcity import curve, span_price
from suan.rules.supply import Supply

KEPT_BIDS = 12  # in the journal, for each placement


def bids_for(
    cycle: Cycle, job: Job, artifacts: dict[str, Artifact]
) -> tuple[list[tuple[Bid, tuple[Move, ...]]], dict[str, Reason]]:
    """Every way to run the job, cheapest first, with what must be moved for it; and the pools that cannot."""
    found: list[tuple[Bid, tuple[Move, ...]]] = []
    offers, never = _offers(cycle, job, artifacts)
    unfit = dict(never)
    for offer in offers:
        if reason := _quota(cycle, job, offer):
            unfit[offer.supply.name] = reason
            continue
        found.extend((bid, offer.moves) for bid in _pool_bids(cycle, job, offer))
    ordered = job.task.resources_ordered
    found.sort(
        key=lambda item: (
            item[0].resources_index if ordered else 0,
            item[0].quote.total_microyuan + item[0].scarcity_microyuan,
            item[0].start_s,
            item[0].site,
            item[0].pool,
        )
    )
    return found, unfit


def _offers(cycle: Cycle, job: Job, artifacts: dict[str, Artifact]) -> Offers:
    """What each pool offers to jobs of this demand; the same all through one plan."""
    wanted = cycle.state.waiting.get(job.id, ())
    if wanted in cycle.offers:
        return cycle.offers[wanted]
    able, never = cycle.fitting(job)
    unfit = dict(never)
    offers: list[Offer] = []
    moves_by_site: dict[str, tuple[Move, ...] | Reason] = {}
    for supply, index in able:
        site = supply.site.name
        if site not in moves_by_site:
            moves_by_site[site] = moves_to(cycle.state, artifacts, site, cycle.now_s)
        moves = moves_by_site[site]
        if isinstance(moves, Reason):
            unfit[supply.name] = moves
            continue
        devices = job.task.resources[index].devices * job.task.num_nodes
        setting = _setting(cycle, job, supply, moves)
        offers.append(
            Offer(supply=supply, resources_index=index, devices=devices, setting=setting, moves=moves)
        )
    if wanted:
        cycle.offers[wanted] = (offers, unfit)
    return offers, unfit


def _setting(cycle: Cycle, job: Job, supply: Supply, moves: tuple[Move, ...]) -> Setting:
    tenant = cycle.state.tenants.get(job.tenant)
    return Setting(
        pool=supply.pool,
        tariff=cycle.state.tariff(supply.site.name, cycle.now_s),
        move_bytes=sum(move.bytes for move in moves),
        move_s=sum(move.duration_s for move in moves),
        move_microyuan=sum(move.cost_microyuan for move in moves),
        waiting_microyuan_per_h=tenant.waiting_microyuan_per_h if tenant else 0,
    )


def _pool_bids(cycle: Cycle, job: Job, offer: Offer) -> Iterator[Bid]:
    """Bids in one pool: as soon as possible and, if the job may wait, at the cheapest moment after that."""
    supply = offer.supply
    run_s = cycle.run_s(job, supply.pool)
    soonest_s = max(cycle.now_s + offer.setting.move_s, supply.forecast_s(offer.devices, cycle.now_s, run_s))
    yield _bid(cycle, job, offer, soonest_s, run_s)
    if (later_s := _cheapest_later(cycle, job, offer, soonest_s, run_s)) is not None:
        yield _bid(cycle, job, offer, later_s, run_s)


def _bid(cycle: Cycle, job: Job, offer: Offer, start_s: int, run_s: int) -> Bid:
    pool = offer.supply.pool
    scarcity = span_price(cycle.clearing, offer.supply.name, start_s, start_s + run_s)
    return Bid(
        site=offer.supply.site.name,
        pool=pool.name,
        devices=offer.devices,
        nodes=job.task.num_nodes,
        start_s=start_s,
        finish_s=start_s + run_s,
        quote=quote(job, offer.setting, offer.devices, start_s, cycle.policy, run_s=run_s),
        scarcity_microyuan=round(offer.devices * scarcity),
        resources_index=offer.resources_index,
    )


def _cheapest_later(cycle: Cycle, job: Job, offer: Offer, soonest_s: int, run_s: int) -> int | None:
    """The moment after the soonest at which the run would cost least; None for a job that does not defer."""
    task, policy, setting = job.task, cycle.policy, offer.setting
    if task.replicas or (task.deadline_s is None and task.priority != Priority.VALLEY):
        return None
    until_s = cycle.now_s + policy.shift_horizon_s
    if task.deadline_s is not None:
        until_s = min(until_s, job.submitted_at_s + task.deadline_s - run_s)
    found = turning_points(setting.tariff, soonest_s, until_s, run_s)
    scarce = curve(cycle.clearing, offer.supply.name)
    if scarce is not None:
        found.extend(at_s for at_s in scarce.times if soonest_s < at_s <= until_s)
    if not found:
        return None
    starts_s = np.array(found, float)
    cost = starts_s * (
        setting.waiting_microyuan_per_h * policy.waiting_ratio.get(task.priority, 1.0) / HOUR_S
    )
    if setting.tariff is not None:
        kw = power_w(offer.supply.pool, offer.devices) / 1000 * setting.tariff.pue
        money, gco2 = electricity_of_starts(setting.tariff, starts_s, run_s)
        cost += kw * (money + gco2 / 1000 * policy.carbon_microyuan_per_kg)
    if scarce is not None:
        cost += offer.devices * scarce.spans(starts_s, run_s)
    return found[int(np.argmin(cost))]


def weighed(bids: list[Bid], unfit: dict[str, Reason]) -> Considered:
    kept = tuple(bids[:KEPT_BIDS])
    few = dict(list(unfit.items())[:KEPT_BIDS])
    return Considered(bids=kept, unfit=few, chosen=0, why=_why(kept, len(bids), len(unfit)))


def _why(bids: tuple[Bid, ...], weighed: int, unfit: int) -> str:
    """One sentence: why the first of these bids was chosen."""
    if not bids:
        return f"none of {unfit} pools can run it"
    best = bids[0]
    others = [bid for bid in bids[1:] if (bid.site, bid.pool) != (best.site, best.pool)] or list(bids[1:])
    if not others:
        return f"the only one of {1 + unfit} pools that can run it"
    second = others[0]
    saved = second.quote.total_microyuan - best.quote.total_microyuan
    if saved == 0:
        return f"same total as {second.site}/{second.pool}; the earlier start, then the name, decides"
    terms = ("machine", "electricity", "carbon", "move", "wait", "late", "preemption")
    differences = {
        term: getattr(second.quote, f"{term}_microyuan") - getattr(best.quote, f"{term}_microyuan")
        for term in terms
    }
    main = max(terms, key=lambda term: abs(differences[term]))
    sign = "less" if differences[main] > 0 else "more"
    return (
        f"cheapest of {weighed} bids: {yuan_text(saved)} below {second.site}/{second.pool},"
        f" mostly {main} ({yuan_text(abs(differences[main]))} {sign})"
    )


def _quota(cycle: Cycle, job: Job, offer: Offer) -> Reason | None:
    tenant = cycle.state.tenants.get(job.tenant)
    if tenant is None or not (tenant.quota.nominal_devices or tenant.quota.borrow_devices):
        return None
    share = (job.tenant, accelerator(offer.supply.pool.accelerator).name)
    used = cycle.state.tenant_devices.get(share, 0) + cycle.taken.get(share, 0)
    return quota_reason(tenant, share[1], used, offer.devices)
