"""Runs that a plan stops of its own accord: for others that are worth more, and for their own good.

Knows who was blocked in this plan. Whom it is worth to stop is `preempt.py`, when to pause `leave.py`, which
size is best `elastic.py`.
"""

from collections.abc import Iterator

from suan.grid.action import StopRun
from suan.grid.job import Job, Priority, Reason
from suan.grid.units import HOUR_S
from suan.rules.bids import Candidate, offers_for
from suan.rules.cycle import Cycle
from suan.rules.elastic import resize
from suan.rules.leave import leaving
from suan.rules.move import bound_artifacts
from suan.rules.preempt import Claim, Standing, victims, with_preemption

_BEST_POOLS = 3  # in which room is made for one job, the cheapest first


def stops_for_others(cycle: Cycle) -> Iterator[StopRun]:
    """Stops that make room for jobs that this plan could not place, in the order of their turns."""
    claims = [job for job in cycle.blocked if job.task.priority != Priority.VALLEY]
    sites = {name for name, runs in cycle.state.open_runs.items() if _has_old_run(cycle, runs)}
    if not claims or not sites:
        return
    standing: Standing | None = None
    for job in claims[: cycle.policy.preempt_tries]:
        for claim in _claims(cycle, job):
            if claim.pool[0] not in sites or not _may_pay(cycle, claim):
                continue
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


def _may_pay(cycle: Cycle, claim: Claim) -> bool:
    """A quick look before a long one: whom it could stop by right, or whether its gain exceeds the least that
    stopping a peer can lose.
    """
    if cycle.state.valley_runs or claim.job.task.priority == Priority.ONLINE or cycle.quotas.is_limited:
        return True
    pool = cycle.state.sites[claim.pool[0]].pools[claim.pool[1]]
    missing = max(1, claim.need - claim.free)
    restored = missing * pool.machine_microyuan_per_device_h * cycle.policy.restore_s / HOUR_S
    return claim.value_microyuan > restored * (1 + cycle.policy.preempt_margin_ratio)


def _claims(cycle: Cycle, job: Job) -> Iterator[Claim]:
    """What the job would gain in each pool by starting now, the cheapest pools first."""
    artifacts = bound_artifacts(cycle.state, job)
    if isinstance(artifacts, Reason):
        return
    offers = [offer for offer in offers_for(cycle, job, artifacts)[0] if not offer.moves]
    now: list[Candidate] = []
    starts: list[tuple[int, Candidate]] = []
    for offer in offers:
        run_s = cycle.run_s(job, offer.supply, offer.nodes)
        one = Candidate(cycle, job, offer, start_s=cycle.now_s, run_s=run_s)
        forecast_s = offer.supply.forecast_s(offer.devices, cycle.now_s, run_s)
        likely_s = max(cycle.now_s, offer.supply.likely_s(offer.devices, forecast_s))
        later = one.starting_at(likely_s)
        now.append(one)
        starts.append((later.price_microyuan, later))
    if not now:
        return
    otherwise_microyuan, otherwise = min(starts, key=lambda item: (item[0], item[1].offer.supply.name))
    now.sort(key=lambda one: (one.price_microyuan, one.offer.supply.name))
    for one in now[:_BEST_POOLS]:
        supply = one.offer.supply
        yield Claim(
            job=job,
            pool=(supply.site.name, supply.pool.name),
            need=one.offer.devices,
            free=supply.free,
            held_s=one.run_s,
            # nobody is stopped for the sake of cleaner hours
            value_microyuan=otherwise_microyuan
            - otherwise.green_microyuan
            - (one.price_microyuan - one.green_microyuan),
            starts_s=otherwise.start_s,
        )


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
