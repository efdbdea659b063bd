"""Runs that a plan stops of its own accord: for others that are worth more, and for their own good.

Knows who was blocked in this plan. Whom it is worth to stop is `preempt.py`, when to pause `leave.py`, which
size is best `elastic.py`.
"""

from collections.abc import Iterator
from math import inf

from suan.grid.action import StopRun
from suan.grid.job import Job, Priority, Reason
from suan.grid.units import HOUR_S
from suan.rules.bids import Candidate, offers_for
from suan.rules.cycle import Cycle
from suan.rules.elastic import resize
from suan.rules.leave import leaving
from suan.rules.move import bound_artifacts
from suan.rules.preempt import Claim, Standing, victims, with_preemption
from suan.rules.quote import waiting

_BEST_POOLS = 3  # in which room is made for one job, the cheapest first


def stops_for_others(cycle: Cycle) -> Iterator[StopRun]:
    """Stops that make room for jobs that this plan could not place, in the order of their turns."""
    claims = [job for job in cycle.blocked if job.task.priority != Priority.VALLEY]
    sites = {name for name, runs in cycle.state.open_runs.items() if _has_old_run(cycle, runs)}
    if not claims or not sites:
        return
    standing: Standing | None = None
    for job in claims[: cycle.policy.preempt_tries]:
        for claim in _claims(cycle, job, sites):
            if standing is None:
                standing = Standing.of(
                    cycle.state,
                    cycle.policy,
                    cycle.now_s,
                    quotas=cycle.quotas,
                    actions=tuple(cycle.actions),
                )
            made = victims(standing, claim)
            if isinstance(made, Reason):
                continue
            standing = with_preemption(standing, claim, made)
            yield from made.stops
            break


def _has_old_run(cycle: Cycle, runs: dict[str, None]) -> bool:
    """Whether any run there has lasted long enough to be stopped; they are in the order of their starts."""
    oldest = next(iter(runs), None)
    return oldest is not None and cycle.now_s - cycle.state.runs[oldest].placed_at_s >= cycle.policy.min_run_s


def _claims(cycle: Cycle, job: Job, sites: set[str]) -> Iterator[Claim]:
    """What the job would gain at `sites`, whose runs may be stopped, by starting now, the cheapest pools
    first; nothing where no claim is worth a longer look, and few are.
    """
    artifacts = bound_artifacts(cycle.state, job)
    if isinstance(artifacts, Reason):
        return
    waits: list[tuple[int, int, Candidate]] = []  # about what it will cost to wait there, and until when
    for offer in offers_for(cycle, job, artifacts)[0]:
        if not offer.moves:
            run_s = cycle.run_s(job, offer.supply, offer.nodes)
            forecast_s = offer.supply.forecast_s(offer.devices, cycle.now_s, run_s)
            likely_s = max(cycle.now_s, offer.supply.likely_s(offer.devices, forecast_s))
            one = Candidate(cycle, job, offer, start_s=cycle.now_s, run_s=run_s)
            wait_microyuan = waiting(job, offer.setting, likely_s, cycle.policy) - one.wait_microyuan
            waits.append((one.price_microyuan + wait_microyuan, likely_s, one))
    now = sorted((one for *_, one in waits), key=_rank)
    best = [one for one in now[:_BEST_POOLS] if one.offer.supply.site.name in sites]
    otherwise = _otherwise(cycle, waits, best)
    if otherwise is None:
        return
    for one in best:
        # nobody is stopped for the sake of cleaner hours
        value_microyuan = _gain(otherwise.price_microyuan - otherwise.green_microyuan, one)
        if value_microyuan > _least_gain(cycle, one):
            yield Claim(
                job=job,
                pool=(one.offer.supply.site.name, one.offer.supply.pool.name),
                need=one.offer.devices,
                free=one.offer.supply.free,
                held_s=one.run_s,
                value_microyuan=value_microyuan,
                starts_s=otherwise.start_s,
            )


def _otherwise(
    cycle: Cycle, waits: list[tuple[int, int, Candidate]], best: list[Candidate]
) -> Candidate | None:
    """The cheapest of the starts that the job may wait for; None once one is so cheap that no claim can be
    worth a longer look.
    """
    cheapest: Candidate | None = None
    for _, likely_s, one in sorted(waits, key=lambda wait: wait[:2]):
        later = one.starting_at(likely_s)
        cheapest = later if cheapest is None else min(cheapest, later, key=_rank)
        if not any(_gain(cheapest.price_microyuan, here) > _least_gain(cycle, here) for here in best):
            return None
    return cheapest


def _least_gain(cycle: Cycle, one: Candidate) -> float:
    """Micro-yuan above which a claim is worth a longer look: the least that stopping a peer can lose; any,
    where somebody could be stopped by right.
    """
    if cycle.state.valley_runs or one.job.task.priority == Priority.ONLINE or cycle.quotas.is_limited:
        return -inf
    supply = one.offer.supply
    missing = max(1, one.offer.devices - supply.free)
    restored = missing * supply.pool.machine_microyuan_per_device_h * cycle.policy.restore_s / HOUR_S
    return restored * (1 + cycle.policy.preempt_margin_ratio)


def _rank(one: Candidate) -> tuple[int, str]:
    return one.price_microyuan, one.offer.supply.name


def _gain(otherwise_microyuan: int, now: Candidate) -> int:
    return otherwise_microyuan - (now.price_microyuan - now.green_microyuan)


def stops_for_themselves(cycle: Cycle) -> Iterator[StopRun]:
    """Valley runs that pause before dear hours, and elastic ones that come back at another size."""
    state, policy = cycle.state, cycle.policy
    if not state.flexible_runs:
        return
    planned = frozenset(action.run for action in cycle.actions if isinstance(action, StopRun))
    left = leaving(state, policy, cycle.now_s, planned=planned)
    yield from left.stops
    if left.wake_at_s is not None:
        cycle.wake(left.wake_at_s)
    free = {
        (supply.site.name, supply.pool.name): 0 if supply.reserved_at_s is not None else supply.free
        for supply in cycle.supplies
    }
    planned |= {stop.run for stop in left.stops}
    changed = resize(state, policy, cycle.now_s, free=free, quotas=cycle.quotas, planned=planned)
    yield from changed.stops
    if changed.wake_at_s is not None:
        cycle.wake(changed.wake_at_s)
