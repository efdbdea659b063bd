"""Every way to run a job: which pools, from when, at which price; and what is kept of it for the record.

Does not choose whose turn it is, and places nothing.
"""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import overload

import numpy as np

from suan.grid.artifact import Artifact
from suan.grid.job import Bid, Considered, Job, Priority, Reason
from suan.grid.units import HOUR_S, yuan_text
from suan.rules.ahead import may_pause
from suan.rules.cycle import Alike, Cycle, Offer, Offers
from suan.rules.elastic import node_counts
from suan.rules.estimates import estimate, fits_on
from suan.rules.hours import Hours
from suan.rules.move import Move, moves_to
from suan.rules.quote import Setting, electricity_of_starts, power_w, quote, terms, turning_points, waiting
from suan.rules.scarcity import curve, span_price
from suan.rules.supply import Supply

KEPT_BIDS = 12  # in the journal, for each placement


class Candidate:
    """One way to run a job, with its price; itemised as a bid only when somebody looks.

    The price has in it what pauses save in the hours ahead, what carbon counts for beyond its own price
    (`green_microyuan`), and for a job that may wait what the clearing says that the devices are worth.
    """

    __slots__ = (
        "_bid",
        "cycle",
        "green_microyuan",
        "hours",
        "job",
        "offer",
        "price_microyuan",
        "run_s",
        "spent_h",
        "start_s",
        "wait_microyuan",
    )

    def __init__(
        self, cycle: Cycle, job: Job, offer: Offer, *, start_s: int, run_s: int, hours: Hours | None = None
    ) -> None:
        self.cycle, self.job, self.offer, self.start_s, self.run_s = cycle, job, offer, start_s, run_s
        self.hours = hours
        # A guessed length may turn out far longer: each hour counts for as much as it is likely to be run in.
        self.spent_h = cycle.spent_h(job, offer, start_s, run_s) if hours is None else None
        found = terms(
            job, offer.setting, offer.devices, (start_s, start_s + run_s), cycle.policy, spent_h=self.spent_h
        )
        self.wait_microyuan = found.wait
        self.green_microyuan = round(found.gco2 / 1000 * cycle.policy.carbon_weight_microyuan_per_kg)
        self.price_microyuan = found.total_microyuan + self.scarcity_microyuan + self.green_microyuan
        if hours is not None and hours.holds(start_s, run_s):
            saved = hours.through(start_s, run_s) - hours.run(start_s, run_s)
            self.price_microyuan -= round(offer.devices * max(0.0, saved)) if math.isfinite(saved) else 0
        if job.task.elastic is not None:  # on more nodes it ends sooner: what is waited for is the end
            ratio = cycle.policy.waiting_ratio.get(job.task.priority, 1.0)
            self.price_microyuan += round(offer.setting.waiting_microyuan_per_h * ratio * run_s / HOUR_S)
        self._bid: Bid | None = None

    @property
    def scarcity_microyuan(self) -> int:
        """What its devices are worth by the clearing prices, beyond their cost, where the job may wait.
        Others take what is free at once, which those who wait could not have used.
        """
        if not _defers(self.cycle, self.job):
            return 0
        per_device = span_price(
            self.cycle.clearing, self.offer.supply.name, self.start_s, self.start_s + self.run_s
        )
        return round(self.offer.devices * per_device)

    def starting_at(self, start_s: int) -> "Candidate":
        """The same at another moment."""
        return Candidate(
            self.cycle, self.job, self.offer, start_s=start_s, run_s=self.run_s, hours=self.hours
        )

    def of(self, job: Job) -> "Candidate":
        """The same for another job, which is like this one in all but its age."""
        if job is self.job:
            return self
        other = copy(self)
        other.job, other._bid = job, None
        other.wait_microyuan = waiting(job, self.offer.setting, self.start_s, self.cycle.policy)
        other.price_microyuan += other.wait_microyuan - self.wait_microyuan
        return other

    @property
    def bid(self) -> Bid:
        if self._bid is None:
            offer = self.offer
            self._bid = Bid(
                site=offer.supply.site.name,
                pool=offer.supply.pool.name,
                devices=offer.devices,
                nodes=offer.nodes,
                start_s=self.start_s,
                finish_s=self.start_s + self.run_s,
                quote=quote(
                    self.job,
                    offer.setting,
                    offer.devices,
                    self.start_s,
                    self.cycle.policy,
                    run_s=self.run_s,
                    spent_h=self.spent_h,
                ),
                scarcity_microyuan=self.scarcity_microyuan,
                resources_index=offer.resources_index,
                estimate=estimate(
                    self.cycle.state, self.job, (offer.supply.site.name, offer.supply.pool), offer.nodes
                ),
            )
        return self._bid


def candidates_for(
    cycle: Cycle, job: Job, artifacts: dict[str, Artifact]
) -> tuple[Sequence[Candidate], dict[str, Reason]]:
    """Every way to run the job, cheapest first; and the pools that cannot.

    In a market a job that does not defer takes what is free, the cheapest of it, and waits only for want of
    devices: how soon a cheaper pool will be free is a guess, and time is what such a job is short of.
    """
    offers, unfit = offers_for(cycle, job, artifacts)
    ordered = job.task.resources_ordered
    found: list[Candidate] = []
    if cycle.policy.market and not ordered and not _defers(cycle, job):
        found = _free_now(cycle, job, offers)
    if not found:
        found = _ranked(cycle, job, offers)
    if ordered:
        found.sort(key=lambda one: one.offer.resources_index)
    found, unfit = _within_quota(cycle, job, found, unfit)
    return _Aged(found, job), unfit


class _Aged(Sequence[Candidate]):
    """What was found for a job that is like this one in all but its age, each priced for this one once
    somebody looks.
    """

    def __init__(self, found: list[Candidate], job: Job) -> None:
        self._found, self._job = found, job

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, at: int) -> Candidate: ...
    @overload
    def __getitem__(self, at: slice) -> list[Candidate]: ...
    def __getitem__(self, at: int | slice) -> Candidate | list[Candidate]:
        if isinstance(at, slice):
            return [one.of(self._job) for one in self._found[at]]
        return self._found[at].of(self._job)


def _ranked(cycle: Cycle, job: Job, offers: list[Offer]) -> list[Candidate]:
    found = [one for offer in offers for one in _in_pool(cycle, job, offer)]
    found.sort(key=lambda one: (one.price_microyuan, one.start_s, one.offer.supply.name))
    return found


def _free_now(cycle: Cycle, job: Job, offers: list[Offer]) -> list[Candidate]:
    """Where the job can start at once, cheapest first. Of jobs that would pay the same but for their age only
    the first is priced: what is free only shrinks within one plan.
    """
    alike = _alike(cycle, job)
    before = cycle.ranked.get(alike) if alike is not None else None
    if before is None:
        found = _ranked(cycle, job, [offer for offer in offers if _has_room(cycle, job, offer)])
    else:
        now_s = cycle.now_s
        found = [one for one in before if one.offer.supply.can_start(one.offer.devices, now_s, one.run_s)]
    if alike is not None:
        cycle.ranked[alike] = found
    return found


def _alike(cycle: Cycle, job: Job) -> Alike | None:
    """What jobs have in common that would pay the same for the same start; None for one like no other."""
    wanted, checkpoint = cycle.state.waiting.get(job.id), job.task.checkpoint
    if wanted is None or job.runs:
        return None
    return wanted, cycle.length_s(job), job.task.duration_s, checkpoint.every_s if checkpoint else 0


def _within_quota(
    cycle: Cycle, job: Job, found: list[Candidate], unfit: dict[str, Reason]
) -> tuple[list[Candidate], dict[str, Reason]]:
    """Those that the tenant may take now; and why not the others, beside what is known to be unfit."""
    if not cycle.quotas.is_limited:
        return found, unfit
    reasons: dict[tuple[str, int], Reason | None] = {}
    kept, above = [], {}
    for one in found:
        wanted = one.offer.supply.pool.accelerator, one.offer.devices
        if wanted not in reasons:
            reasons[wanted] = cycle.quotas.reason(job.tenant, *wanted)
        if reason := reasons[wanted]:
            above[one.offer.supply.name] = reason
        else:
            kept.append(one)
    return kept, {**unfit, **above}


def offers_for(cycle: Cycle, job: Job, artifacts: dict[str, Artifact]) -> Offers:
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
        per_node, setting = job.task.resources[index].devices, _setting(cycle, job, supply, moves)
        for nodes, _ in node_counts(job.task, supply.pool):
            if not fits_on(cycle.state, job, supply.pool, nodes):
                continue
            offers.append(
                Offer(
                    supply=supply,
                    resources_index=index,
                    nodes=nodes,
                    devices=per_node * nodes,
                    setting=setting,
                    moves=moves,
                )
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


def _in_pool(cycle: Cycle, job: Job, offer: Offer) -> Iterator[Candidate]:
    """In one pool: as soon as possible and, if the job may wait, at the cheapest moment after that."""
    supply = offer.supply
    run_s = cycle.run_s(job, supply, offer.nodes)
    soonest_s = max(cycle.now_s + offer.setting.move_s, supply.forecast_s(offer.devices, cycle.now_s, run_s))
    due_s = cycle.due_s(job, supply, offer.nodes)
    hours = cycle.hours(supply, soonest_s, run_s, due_s) if may_pause(cycle.policy, job.task) else None
    yield Candidate(cycle, job, offer, start_s=soonest_s, run_s=run_s, hours=hours)
    if hours is not None:
        later_s = hours.begins_s(soonest_s, run_s)
    else:
        later_s = _cheapest_later(cycle, job, offer, (soonest_s, run_s, due_s))
    if later_s is not None:
        yield Candidate(cycle, job, offer, start_s=later_s, run_s=run_s, hours=hours)


def _defers(cycle: Cycle, job: Job) -> bool:
    """Whether the job may wait for a cheaper hour or pool. One with a deadline only if its task or the
    performance model says how long it takes, or the policy has it so: the deadline would pay for a guess.
    """
    task = job.task
    if task.replicas is not None:
        return False
    if task.priority == Priority.VALLEY or cycle.policy.waits_free(task):
        return True
    return task.deadline_s is not None and (task.duration_s is not None or bool(job.work))


def _has_room(cycle: Cycle, job: Job, offer: Offer) -> bool:
    supply = offer.supply
    if offer.devices > supply.free:
        return False
    return supply.can_start(offer.devices, cycle.now_s, cycle.run_s(job, supply, offer.nodes))


def _cheapest_later(cycle: Cycle, job: Job, offer: Offer, times: tuple[int, int, float]) -> int | None:
    """The moment after the soonest at which the run would cost least; None for a job that does not defer."""
    task, policy, setting = job.task, cycle.policy, offer.setting
    soonest_s, run_s, due_s = times
    if not _defers(cycle, job):
        return None
    scarce = curve(cycle.clearing, offer.supply.name)
    is_contended = scarce is not None or offer.supply.reserved_at_s is not None
    if is_contended and task.deadline_s is not None and not policy.waits_free(task):
        return None  # nobody keeps the pool's devices until a cheaper hour
    until_s = cycle.now_s + policy.shift_horizon_s
    if task.deadline_s is not None:
        until_s = min(until_s, int(due_s) - run_s)
    else:  # prices of those who come later must not put it off for ever
        until_s = min(until_s, job.submitted_at_s + policy.starvation_s)
    found = turning_points(setting.tariff, soonest_s, until_s, run_s)
    if scarce is not None:
        found.extend(at_s for at_s in scarce.times if soonest_s < at_s <= until_s)
    if task.deadline_s is not None and until_s > soonest_s:
        found.append(until_s)  # the last moment may be cheapest though no price changes at it
    if not found:
        return None
    starts_s = np.array(found, float)
    ratio = 0.0 if policy.waits_free(task) else policy.waiting_ratio.get(task.priority, 1.0)
    cost = starts_s * (setting.waiting_microyuan_per_h * ratio / HOUR_S)
    if setting.tariff is not None:
        kw = power_w(offer.supply.pool, offer.devices) / 1000 * setting.tariff.pue
        money, gco2 = electricity_of_starts(setting.tariff, starts_s, run_s)
        cost += kw * (money + gco2 / 1000 * policy.weighed_microyuan_per_kg)
    if scarce is not None:
        cost += offer.devices * scarce.spans(starts_s, run_s)
    return found[int(np.argmin(cost))]


def weighed(candidates: Sequence[Candidate], unfit: dict[str, Reason]) -> Considered:
    kept = tuple(one.bid for one in candidates[:KEPT_BIDS])
    few = dict(list(unfit.items())[:KEPT_BIDS])
    return Considered(bids=kept, unfit=few, chosen=0, why=_why(kept, len(candidates), len(unfit)))


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
