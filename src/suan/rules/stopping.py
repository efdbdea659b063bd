"""Runs that a plan stops of its own accord: for others that are worth more, and for their own good.

Knows who was blocked in this plan. Whom it is worth to stop is `preempt.py`, when to pause `leave.py`, which
size is best `elastic.py`.
"""

from collections.abc import Iterator

from suan.grid.action import StopRun
from suan.grid.job import Job, Priority, Reason
from suan.rules.bids import candidates_for
from suan.rules.cycle import Cycle
from suan.rules.elastic import resize
from suan.rules.leave import leaving
from suan.rules.move import bound_artifacts
from suan.rules.preempt import Claim, Standing, victims, with_preemption

_BEST_POOLS = 3  # in which room is made for one job, the cheapest first


def stops_for_others(cycle: Cycle) -> Iterator[StopRun]:
    """Stops that make room for jobs that this plan could not place, in the order of their turns."""
    claims = [job for job in cycle.blocked if job.task.priority != Priority.VALLEY]
    if not claims or not any(cycle.state.open_runs.values()):
        return
    state, policy = cycle.state, cycle.policy
    standing = Standing.of(state, policy, cycle.now_s, quotas=cycle.quotas, actions=tuple(cycle.actions))
    for job in claims[: policy.preempt_tries]:
        for claim in _claims(cycle, job):
            made = victims(standing, claim)
            if isinstance(made, Reason):
                continue
            standing = with_preemption(standing, claim, made)
            yield from made.stops
            break


def _claims(cycle: Cycle, job: Job) -> Iterator[Claim]:
    """What the job would gain in each pool by starting now, the cheapest pools first."""
    artifacts = bound_artifacts(cycle.state, job)
    if isinstance(artifacts, Reason):
        return
    candidates, _ = candidates_for(cycle, job, artifacts)
    if not candidates:
        return
    first = candidates[0]
    likely_s = first.offer.supply.likely_s(first.offer.devices, first.start_s)
    best = first.starting_at(max(cycle.now_s, likely_s))
    now = sorted(
        (one.starting_at(cycle.now_s) for one in candidates if not one.offer.moves),
        key=lambda one: (one.price_microyuan, one.offer.supply.name),
    )
    for one in now[:_BEST_POOLS]:
        supply = one.offer.supply
        yield Claim(
            job=job,
            pool=(supply.site.name, supply.pool.name),
            need=one.offer.devices,
            free=supply.free,
            held_s=one.run_s,
            value_microyuan=best.price_microyuan - one.price_microyuan,
            starts_s=best.start_s,
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
