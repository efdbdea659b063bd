"""Tenants and their keys, and what a grid needs at its very first start."""

from collections.abc import Sequence

import msgspec

from suan.control.commands.command import Command, check_name, key_hash, new_secret, next_key_id, unknown
from suan.grid import fact as f
from suan.grid.account import ANY_KIND, Key, Quota, Role, Tenant
from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.site import GRID_SITE
from suan.grid.state import State


class Issued(msgspec.Struct, frozen=True):
    """A new key and its secret, which is shown this once."""

    id: str
    key: str
    role: Role
    tenant: str


def issue_key(role: Role, tenant: str, label: str = "", expires_s: int | None = None) -> Command[Issued]:
    """A key of a tenant.

    Raises: Refused `unknown_tenant`, `bad_role`: sites get theirs by joining.
    """
    if role == Role.SITE:
        raise Refused("bad_role", "a site gets its key by joining", hint="make a join token: suan join")
    secret = new_secret()

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], Issued]:
        if tenant not in state.tenants:
            raise unknown("tenant", tenant, "suan tenant")
        expires_at_s = None if expires_s is None else now_s + expires_s
        key = Key(
            id=next_key_id(state),
            hash=key_hash(secret),
            role=role,
            tenant=tenant,
            label=label,
            expires_at_s=expires_at_s,
        )
        return (f.KeyIssued(at_s=now_s, key=key),), Issued(key.id, secret, role, tenant)

    return command


def revoke_key(key: str) -> Command[None]:
    """The key is worth nothing from now on. Unknown keys: nothing."""

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        return ((f.KeyRevoked(at_s=now_s, key=key),) if key in state.keys else ()), None

    return command


def set_tenant(tenant: Tenant) -> Command[None]:
    """Makes the tenant, or changes what it may use. The same again stores nothing.

    Raises: Refused `bad_name`, `out_of_range`, `unknown_accelerator`, and when it is carried out
    `unknown_tenant` for its parent and `cycle` when that is below the tenant.
    """
    check_name("tenant", tenant.name)
    quota = _canonical(tenant.quota)
    numbers = (
        *quota.nominal_devices.values(),
        *quota.borrow_devices.values(),
        *quota.lend_devices.values(),
    )
    limit = tenant.budget.limit_microyuan
    sensible = 0 < tenant.weight <= 1e6 and tenant.quota.max_waiting_jobs >= 0
    if not sensible or min(numbers, default=0) < 0 or (limit or 0) < 0 or tenant.waiting_microyuan_per_h < 0:
        raise Refused(
            "out_of_range",
            f"weight, quota or budget of {tenant.name} make no sense",
            hint="a weight is above 0, the rest is not negative",
        )

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        if state.tenants.get(tenant.name) == msgspec.structs.replace(tenant, quota=quota):
            return (), None
        _check_parent(state, tenant)
        fact = f.TenantSet(
            at_s=now_s,
            tenant=tenant.name,
            parent=tenant.parent,
            weight=tenant.weight,
            quota=quota,
            budget=tenant.budget,
            waiting_microyuan_per_h=tenant.waiting_microyuan_per_h,
        )
        return (fact,), None

    return command


def _canonical(quota: Quota) -> Quota:
    """The quota with its kinds as the table of accelerators calls them.

    Raises: Refused `unknown_accelerator`.
    """
    tables = ("nominal_devices", "borrow_devices", "lend_devices")
    kinds = {
        name: {
            kind if kind == ANY_KIND else accelerator(kind).name: devices
            for kind, devices in getattr(quota, name).items()
        }
        for name in tables
    }
    return msgspec.structs.replace(quota, **kinds)


def _check_parent(state: State, tenant: Tenant) -> None:
    """Raises: Refused `unknown_tenant`, `cycle`."""
    line, above = [tenant.name], tenant.parent
    while above:
        if above in line:
            raise Refused(
                "cycle",
                f"{tenant.name} cannot be below {tenant.parent}: {' below '.join((above, *reversed(line)))}",
                hint=f"take {line[-1]} out first: suan tenant set {line[-1]} --parent none",
            )
        if above not in state.tenants:
            raise unknown("tenant", above, "suan tenant")
        line.append(above)
        above = state.tenants[above].parent


def first_start(secret: str) -> Command[None]:
    """The grid's own store as a site, and at the very first start the tenant `default` with an admin's key.

    The key has this secret. Later starts add nothing.
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        facts: list[f.Fact] = []
        if GRID_SITE not in state.sites:
            facts.append(f.SiteJoined(at_s=now_s, site=GRID_SITE, engine="none"))
        if "default" not in state.tenants:
            facts.append(f.TenantSet(at_s=now_s, tenant="default"))
        if not state.keys:
            key = Key(
                id=next_key_id(state), hash=key_hash(secret), role=Role.ADMIN, tenant="default", label="first"
            )
            facts.append(f.KeyIssued(at_s=now_s, key=key))
        return facts, None

    return command
