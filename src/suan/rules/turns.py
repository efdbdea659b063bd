"""The order in which one plan looks at the jobs that wait, one class of equal demand at a time.

Knows turns and queues. Places nothing; what became of a job before tells it which of its class comes next.
"""

import heapq
from collections.abc import Iterator

from suan.grid.job import Demand, Job
from suan.rules.cycle import Cycle
from suan.rules.order import Turn, market_turn, starving, turn, worth

# What keeps one job of a demand waiting and keeps all others of it, too.
_OF_THE_CLASS = ("quota", "place", "accelerator", "devices_per_node", "nodes", "cpus", "memory", "no_site")


def turns(cycle: Cycle) -> Iterator[tuple[Demand, Job]]:
    """Jobs in the order of their turns. After one that must wait, the next few of its class may slip in
    before it.
    """
    state, policy, now_s = cycle.state, cycle.policy, cycle.now_s
    first = dict.fromkeys(job.id for job in starving(state, policy, now_s)) if policy.market else {}
    members = {wanted: _members(cycle, wanted) for wanted in state.queues}
    heap: list[tuple[Turn, Demand, Job]] = []

    def push(wanted: Demand) -> None:
        for job_id in members[wanted]:
            if job_id not in state.stop_requested and job_id not in first:
                job = state.jobs[job_id]
                heapq.heappush(heap, (turn_of(cycle, job), wanted, job))
                return

    for job_id in first:
        if job_id not in state.stop_requested:
            yield state.waiting[job_id], state.jobs[job_id]
    for wanted in state.queues:
        push(wanted)
    misses: dict[Demand, int] = {}
    while heap:
        _, wanted, job = heapq.heappop(heap)
        yield wanted, job
        reason = cycle.reasons.get(job.id)
        if reason is not None and reason.code != "refused":  # a pause of its own says nothing of the others
            again = policy.backfill_tries if reason.code in _OF_THE_CLASS else 1
            misses[wanted] = misses.get(wanted, 0) + again
        if misses.get(wanted, 0) < policy.backfill_tries:
            push(wanted)


def _members(cycle: Cycle, wanted: Demand) -> Iterator[str]:
    """Jobs of one demand in their order; those that can no longer make their deadline come last."""
    queue = cycle.state.queues[wanted]
    head = cycle.state.jobs[next(iter(queue))]
    if head.task.deadline_s is None or not cycle.policy.market:
        return iter(queue)
    latest_s = cycle.now_s + (0 if head.task.duration_s is not None else round(cycle.length_s(head)))
    return queue.in_time_first(latest_s)


def turn_of(cycle: Cycle, job: Job) -> Turn:
    """When it is the job's turn in this plan: a key that sorts first first."""
    state, policy = cycle.state, cycle.policy
    share = cycle.shares.share(job.tenant)
    if not policy.market:
        return turn(job, share, policy, cycle.now_s)
    tenant = state.tenants.get(job.tenant)
    devices = job.task.resources[0].devices * job.task.num_nodes
    waiting = tenant.waiting_microyuan_per_h if tenant else 0
    saved = worth(job, devices * cycle.length_s(job), waiting, policy, cycle.now_s)
    kind = job.task.resources[0].accelerator
    after = cycle.shares.after(
        job.tenant, kind, devices
    )  # who holds nothing may have the first job of any size
    is_over = share > 0 and after > cycle.fair_share
    return market_turn(job, float(is_over), saved, policy, cycle.now_s)
