"""Every way to run a job: which pools, from when, at which price; and what is kept of it for the record.

Does not choose whose turn it is, and places nothing.
"""

from collections.abc import Iterator

from suan.grid.artifact import Artifact
from suan.grid.hardware import accelerator
from suan.grid.job import Bid, Considered, Job, Priority, Reason
from suan.grid.units import yuan_text
from suan.rules.cycle import Cycle, Offer, Offers
from suan.rules.fit import quota_reason
from suan.rules.move import Move, moves_to
from suan.rules.quote import Setting, duration_s, price_drops, quote
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
            item[0].quote.total_microyuan,
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
    """Bids in one pool: as soon as possible and, for jobs that may wait, at every change of price."""
    policy, now_s, task = cycle.policy, cycle.now_s, job.task
    supply, setting, devices = offer.supply, offer.setting, offer.devices
    run_s = duration_s(task, supply.pool, policy)
    soonest_s = max(now_s + setting.move_s, supply.forecast_s(devices, now_s, run_s))
    starts = [soonest_s]
    if (task.deadline_s is not None or task.priority == Priority.VALLEY) and not task.replicas:
        horizon_s = now_s + policy.shift_horizon_s
        if task.deadline_s is not None:
            horizon_s = min(horizon_s, job.submitted_at_s + task.deadline_s - run_s)
        starts.extend(price_drops(setting.tariff, soonest_s, horizon_s))
    for start_s in starts:
        yield Bid(
            site=supply.site.name,
            pool=supply.pool.name,
            devices=devices,
            nodes=task.num_nodes,
            start_s=start_s,
            finish_s=start_s + run_s,
            quote=quote(job, setting, devices, start_s, policy),
            resources_index=offer.resources_index,
        )


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
