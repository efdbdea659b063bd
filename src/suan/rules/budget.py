"""What a job may still cost: its own max_cost, and what is left of its tenant's budget.

Knows quotes and the ledger. What runs now counts with its quote until it is settled: a budget is not promised
twice.
"""

from collections.abc import Sequence

from suan.grid.job import Job, Reason
from suan.grid.state import State
from suan.grid.units import yuan_text
from suan.rules.bids import Candidate
from suan.rules.cycle import Cycle


def affordable(
    cycle: Cycle, job: Job, candidates: Sequence[Candidate]
) -> tuple[Sequence[Candidate], dict[str, Reason]]:
    """Those that the job may cost, in their order; and the pools that are too dear, with why."""
    limit, left = job.task.max_cost_microyuan, _left(cycle, job.tenant)
    if limit is None and left is None:
        return candidates, {}
    found: list[Candidate] = []
    dear: dict[str, tuple[int, Reason]] = {}
    for one in candidates:
        billed, pool = one.bid.quote.billed_microyuan, one.offer.supply.name
        if limit is not None and billed > limit:
            reason = _above_max_cost(billed, limit)
        elif left is not None and billed > left:
            reason = _above_budget(billed, left, job.tenant)
        else:
            found.append(one)
            continue
        if pool not in dear or billed < dear[pool][0]:  # the nearest miss says it
            dear[pool] = (billed, reason)
    able = {one.offer.supply.name for one in found}
    return found, {pool: reason for pool, (_, reason) in dear.items() if pool not in able}


def too_dear(dear: dict[str, Reason]) -> Reason:
    """Why the job waits when every pool is too dear: the nearest miss."""
    return min(dear.values(), key=lambda reason: reason.need or 0.0)


def promised(state: State, tenant: str) -> int:
    """Micro-yuan that the tenant's open runs are quoted at, not settled yet."""
    return sum(
        state.runs[run].quote.billed_microyuan
        for runs in state.open_runs.values()
        for run in runs
        if state.runs[run].tenant == tenant
    )


def _left(cycle: Cycle, name: str) -> int | None:
    """Micro-yuan that the tenant may still promise; None without a limit."""
    state, tenant = cycle.state, cycle.state.tenants.get(name)
    if tenant is None or tenant.budget.limit_microyuan is None:
        return None
    if name not in cycle.promised:
        cycle.promised[name] = promised(state, name)
    return tenant.budget.limit_microyuan + state.balances.get(f"tenant:{name}", 0) - cycle.promised[name]


def _above_max_cost(billed: int, limit: int) -> Reason:
    return Reason(
        code="max_cost",
        text=f"the cheapest bid costs {yuan_text(billed)}, its max_cost is {yuan_text(limit)}",
        need=billed,
        have=limit,
        unit="micro-yuan",
        help="raise max_cost, or give it a deadline further away",
    )


def _above_budget(billed: int, left: int, tenant: str) -> Reason:
    return Reason(
        code="budget",
        text=f"it would cost {yuan_text(billed)}, {yuan_text(left)} of {tenant}'s budget is left",
        need=billed,
        have=left,
        unit="micro-yuan",
        help="wait for its other jobs, or ask an operator to raise the budget",
    )
