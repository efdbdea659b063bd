"""Whose turn it is: who starves, priority class, fair share, and worth: what a device-hour spent on the job
saves.

Ties end in the sequence of submission. Knows no pools and no prices of devices.
"""

import math

from suan.grid.job import Job, Priority
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy

_RANK = {Priority.ONLINE: 0, Priority.STANDARD: 1, Priority.VALLEY: 2}

Turn = tuple[int, float, float, int]


def turn(job: Job, share: float, policy: Policy, now_s: int) -> Turn:
    """A key that sorts jobs by whose turn it is, first first; without a market.

    `share` is what the tenant holds now over its weight. A job that has waited `policy.ageing_s` counts one
    priority class higher, twice that two, so that nothing waits for ever behind a stream of better classes.
    """
    rank = max(0, _RANK[job.task.priority] - (now_s - job.submitted_at_s) // policy.ageing_s)
    due_s = float("inf") if job.task.deadline_s is None else job.submitted_at_s + job.task.deadline_s
    return (rank, share, due_s, job.sequence)


def market_turn(job: Job, over_share: float, worth: float, policy: Policy, now_s: int) -> Turn:
    """A key that sorts jobs by whose turn it is, first first; in a market.

    `over_share` is 0 for a tenant that holds no more than its share, 1 for one above it: those below go
    first, and within each the job whose device-hours save the most. Only valley jobs age into better classes;
    for all, `policy.starvation_s` is the bound (`starving`).
    """
    rank = _RANK[job.task.priority]
    if rank == _RANK[Priority.VALLEY]:
        rank = max(0, rank - (now_s - job.submitted_at_s) // policy.ageing_s)
    return (rank, over_share, -worth, job.sequence)


def worth(
    job: Job, work_device_s: float, waiting_microyuan_per_h: float, policy: Policy, now_s: int
) -> float:
    """Micro-yuan an hour that starting the job saves, for each device-hour that it needs.

    For waiting alone this is Smith's rule (weight over work), which no other order beats on one machine. A
    deadline adds what its loss comes to, discounted by the slack that is left (the apparent tardiness cost
    rule); one that is lost already, and was worth a fixed sum, adds nothing any more.
    Source: W. E. Smith, "Various optimizers for single-stage production", 1956; A. P. J. Vepsalainen and
    T. E. Morton, "Priority rules for job shops with weighted tardiness costs", Management Science, 1987.
    """
    task = job.task
    saved = waiting_microyuan_per_h * policy.waiting_ratio.get(task.priority, 1.0)
    if task.deadline_s is not None:
        devices = max(1, task.resources[0].devices * task.num_nodes)
        slack_s = job.submitted_at_s + task.deadline_s - now_s - work_device_s / devices
        pressing = math.exp(-max(0.0, slack_s) / policy.urgency_s)
        if task.value_microyuan is None:
            saved += policy.late_microyuan_per_h * pressing
        elif slack_s >= 0:
            saved += task.value_microyuan * HOUR_S / policy.urgency_s * pressing
    return saved * HOUR_S / max(1.0, work_device_s)


def starving(state: State, policy: Policy, now_s: int) -> list[Job]:
    """Jobs that have waited in one stretch for `policy.starvation_s`, the longest first."""
    found = []
    for job_id in state.waiting:  # in the order in which they began to wait
        job = state.jobs[job_id]
        last = state.runs[job.runs[-1]] if job.runs else None
        since_s = last.ended_at_s or job.submitted_at_s if last else job.submitted_at_s
        if now_s - since_s < policy.starvation_s:
            break
        found.append(job)
    return found


def fair_share(state: State) -> float:
    """The share of each tenant if those that hold or want devices now shared all of them alike."""
    tenants = dict.fromkeys(tenant for (tenant, _), devices in state.tenant_devices.items() if devices)
    tenants |= dict.fromkeys(demand[0] for demand in state.queues)
    weights = sum(state.tenants[name].weight if name in state.tenants else 1.0 for name in tenants)
    return 1.0 / weights if weights else float("inf")
