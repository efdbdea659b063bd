"""A second opinion on quotas: what a plan would make every tenant and parent hold, against the limits.

Shares no code with `quota`: it counts the whole tree anew, from its leaves, for every kind that the plan
gives away. Objects only to what the plan makes worse: a quota that was lowered under running jobs is nobody's
fault.
"""

from suan.grid.account import Tenant
from suan.grid.action import PlaceRun, Plan
from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.state import State

Use = dict[str, int]  # tenant -> devices of one kind


def audit_quota(state: State, plan: Plan) -> tuple[str, ...]:
    """Every borrow or lend limit that the plan breaks, in words; empty when it may be carried out."""
    quotas = [tenant.quota for tenant in state.tenants.values()]
    if not any(quota.nominal_devices or quota.borrow_devices for quota in quotas):
        return ()
    given: dict[str, Use] = {}
    for action in plan.actions:
        if isinstance(action, PlaceRun) and action.job in state.jobs and action.bid.site in state.sites:
            pool = state.sites[action.bid.site].pools.get(action.bid.pool)
            tenant = state.jobs[action.job].tenant
            if pool is not None and tenant in state.tenants:
                use = given.setdefault(_name(pool.accelerator), {})
                use[tenant] = use.get(tenant, 0) + action.bid.devices
    found: list[str] = []
    for kind, more in given.items():
        before = _open_runs(state, kind)
        after = {name: before.get(name, 0) + more.get(name, 0) for name in state.tenants}
        was, now = _excess(state, kind, before), _excess(state, kind, after)
        for name, excess in now.items():
            if excess > max(0, was.get(name, 0)):
                found.append(f"tenant {name} would hold {excess} {kind} more than its quota and loans allow")
    return tuple(found)


def _name(kind: str) -> str:
    try:
        return accelerator(kind).name
    except Refused:
        return kind


def _open_runs(state: State, kind: str) -> Use:
    use: Use = {}
    for runs in state.open_runs.values():
        for run in (state.runs[name] for name in runs):
            if _name(run.accelerator) == kind:
                use[run.tenant] = use.get(run.tenant, 0) + run.devices
    return use


def _excess(state: State, kind: str, use: Use) -> Use:
    """Tenant -> devices above its own limit, for those that have one; less than nought is room."""
    children: dict[str, list[Tenant]] = {}
    for tenant in state.tenants.values():
        children.setdefault(tenant.parent if tenant.parent in state.tenants else "", []).append(tenant)
    found: Use = {}
    roots = frozenset(root.name for root in children.get("", ()))
    for root in children.get("", ()):  # a ring hangs from no root: the command refuses to make one
        said, _, _ = _subtree(root, kind, use, (children, roots, found))
        if not said:
            for name in _below(root.name, children):
                found.pop(name, None)
    return found


def _subtree(
    tenant: Tenant, kind: str, use: Use, into: tuple[dict[str, list[Tenant]], frozenset[str], Use]
) -> tuple[bool, int, int]:
    """(whether anybody here has a quota of the kind, devices lent upwards, devices taken from there); writes
    down by how much each is above its limit.
    """
    children, roots, found = into
    nominal, borrow, lend = (
        _said(table, kind)
        for table in (tenant.quota.nominal_devices, tenant.quota.borrow_devices, tenant.quota.lend_devices)
    )
    said = nominal is not None or borrow is not None
    has, takes = nominal or 0, use.get(tenant.name, 0)
    for child in children.get(tenant.name, ()):
        child_said, lent, taken = _subtree(child, kind, use, into)
        said, has, takes = said or child_said, has + lent, takes + taken
    if tenant.name in roots or borrow is not None:
        found[tenant.name] = takes - has - (borrow or 0)
    lent = has if lend is None else min(has, lend)
    return said, lent, max(0, takes - (has - lent))


def _said(table: dict[str, int], kind: str) -> int | None:
    for name, devices in table.items():
        if name != "*" and (name == kind or _name(name) == kind):
            return devices
    return table.get("*")


def _below(name: str, children: dict[str, list[Tenant]]) -> list[str]:
    return [name, *(one for child in children.get(name, ()) for one in _below(child.name, children))]
