"""Why a job waits: one dominant reason, two numbers in one unit, and what would help."""

from suan.grid.job import Bid, Job, Reason
from suan.grid.state import State
from suan.grid.units import duration_text, yuan_text
from suan.rules.move import Move
from suan.rules.supply import Supply


def too_dear(state: State, job: Job, bid: Bid) -> Reason | None:
    billed, limit = bid.quote.billed_microyuan, job.task.max_cost_microyuan
    if limit is not None and billed > limit:
        return Reason(
            code="max_cost",
            text=f"the cheapest bid costs {yuan_text(billed)}, its max_cost is {yuan_text(limit)}",
            need=billed,
            have=limit,
            unit="micro-yuan",
            help="raise max_cost, or give it a deadline further away",
        )
    tenant = state.tenants.get(job.tenant)
    if tenant and tenant.budget.limit_microyuan is not None:
        left = tenant.budget.limit_microyuan + state.balances.get(f"tenant:{job.tenant}", 0)
        if billed > left:
            return Reason(
                code="budget",
                text=f"it would cost {yuan_text(billed)}, {yuan_text(left)} of {job.tenant}'s budget is left",
                need=billed,
                have=left,
                unit="micro-yuan",
                help="ask an operator to raise the budget",
            )
    return None


def nowhere(unfit: dict[str, Reason]) -> Reason:
    if not unfit:
        return Reason(
            code="no_site", text="no site is ready", need=1, have=0, unit="sites", help="add one: suan join"
        )
    order = ("quota", "data", "rights", "memory", "cpus", "nodes", "devices_per_node", "place", "accelerator")
    rank = {code: place for place, code in enumerate(order)}
    name, reason = min(unfit.items(), key=lambda item: (rank.get(item[1].code, len(order)), item[0]))
    return Reason(
        code=reason.code,
        text=f"no pool can run it; {name}: {reason.text}",
        need=reason.need,
        have=reason.have,
        unit=reason.unit,
        help=reason.help,
    )


def moving(moves: tuple[Move, ...], bid: Bid) -> Reason:
    names = ", ".join(move.artifact for move in moves)
    return Reason(
        code="moving",
        text=f"{names} is on its way from {moves[0].source} to {bid.site}, where it runs cheapest",
        need=sum(move.bytes for move in moves),
        have=0,
        unit="bytes",
        help="nothing to do",
        expected_start_s=bid.start_s,
    )


def devices_reason(need: int, supply: Supply, start_s: int, now_s: int) -> Reason:
    reserved = supply.free >= need
    held = f"; {supply.free} are free but held for a job whose turn comes first" if reserved else ""
    return Reason(
        code="devices",
        text=f"needs {need} devices, {supply.name} has {supply.free} of {supply.pool.devices} free{held};"
        f" expected in {duration_text(start_s - now_s)}",
        need=need,
        have=supply.free,
        unit="devices",
        help="fewer devices, or another accelerator in resources.any_of",
        expected_start_s=start_s,
    )
