"""Whose turn it is: priority class, fair share, deadline, age. Ties end in the sequence of submission."""

from suan.grid.job import Job, Priority
from suan.grid.state import State
from suan.rules.policy import Policy

_RANK = {Priority.ONLINE: 0, Priority.STANDARD: 1, Priority.VALLEY: 2}

Turn = tuple[int, float, float, int]


def turn(job: Job, share: float, policy: Policy, now_s: int) -> Turn:
    """A key that sorts jobs by whose turn it is, first first.

    `share` is what the tenant holds now over its weight. A job that has waited `policy.ageing_s` counts one
    priority class higher, twice that two, so that nothing waits for ever behind a stream of better classes.
    """
    rank = max(0, _RANK[job.task.priority] - (now_s - job.submitted_at_s) // policy.ageing_s)
    due_s = float("inf") if job.task.deadline_s is None else job.submitted_at_s + job.task.deadline_s
    return (rank, share, due_s, job.sequence)


def shares(state: State) -> dict[str, float]:
    """For each tenant the devices it holds, over its weight."""
    held: dict[str, float] = dict.fromkeys(state.tenants, 0.0)
    for (tenant, _), devices in state.tenant_devices.items():
        held[tenant] = held.get(tenant, 0.0) + devices
    return {
        name: devices / (state.tenants[name].weight if name in state.tenants else 1.0)
        for name, devices in held.items()
    }
