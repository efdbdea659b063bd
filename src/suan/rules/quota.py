"""Quotas in a tree of tenants: who may take how many devices of a kind, and who holds what others are owed.

Every tenant is guaranteed its nominal devices, lends what it leaves idle to those below the same parent, as
far as its lend limit lets it, and borrows from them, as far as its borrow limit does. What is kept back by a
lend limit never shows above; everything else bubbles up to the root. Knows devices by kind. Does not know
pools, jobs or whose turn it is.

Source: the arithmetic of Kueue's cohorts (kubernetes-sigs/kueue, pkg/cache resource_node.go; KEP-1093 and
KEP-1224), with three differences: a tenant without a parent may borrow from the grid itself where a borrow
limit says how far; a tree that says nothing of a kind is not limited in it; and what a tenant keeps for
itself stays usable when those above it are over their limits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from suan.grid.account import ANY_KIND, Tenant
from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.job import Reason
from suan.grid.state import State


def canonical(kind: str) -> str:
    """The kind's name in the table of accelerators; itself where it has none."""
    try:
        return accelerator(kind).name
    except Refused:
        return kind


@dataclass(frozen=True, slots=True)
class Tree:
    """Who is below whom. Tenants are numbered by their place in `names`."""

    names: tuple[str, ...]
    place: dict[str, int]
    parent: tuple[int, ...]  # -1: none
    upward: tuple[int, ...]  # every place after those below it

    def line(self, at: int) -> list[int]:
        """The place itself, its parent, and so on up to the root."""
        line = []
        while at >= 0:
            line.append(at)
            at = self.parent[at]
        return line


def tree_of(tenants: dict[str, Tenant]) -> Tree:
    """The tree that the parents make. An unknown parent is none; a ring is cut at its oldest tenant."""
    names = tuple(tenants)
    place = {name: number for number, name in enumerate(names)}
    parent = [place.get(tenant.parent, -1) for tenant in tenants.values()]
    depth = [0] * len(names)
    for start in range(len(names)):
        at = parent[start]
        for _ in names:
            if at < 0 or at == start:
                break
            at = parent[at]
        if at == start:
            parent[start] = -1
    for start, above in enumerate(parent):
        while above >= 0:
            depth[start] += 1
            above = parent[above]
    upward = tuple(sorted(range(len(names)), key=lambda one: -depth[one]))
    return Tree(names=names, place=place, parent=tuple(parent), upward=upward)


@dataclass(frozen=True, slots=True)
class _Limits:
    """One kind's quota, by place."""

    limited: list[bool]  # whether anybody in its tree says anything of the kind
    own: list[int]  # nominal
    nominal: list[int]  # its own and all below it
    subtree: list[int]  # its own and what those below it lend
    kept: list[int]  # of that, what it does not lend
    borrow: list[int | None]


@dataclass(frozen=True, slots=True)
class _Use:
    """One kind's devices in use, by place."""

    own: list[int]
    held: list[int]  # its own and all below it
    charged: list[int]  # its own and what those below it take from it beyond what they keep for themselves

    def copy(self) -> "_Use":
        return _Use(self.own.copy(), self.held.copy(), self.charged.copy())


@dataclass(frozen=True, slots=True)
class Quotas:
    """What every tenant may take and holds. A value: `with_use` gives another one. Kinds are looked at when
    they are first asked for; an operation costs the depth of the tree.
    """

    tree: Tree
    tenants: dict[str, Tenant]
    devices: dict[str, dict[int, int]]  # kind -> {place: devices in use}
    is_limited: bool  # whether any tenant has a quota
    _limits: dict[str, _Limits | None]  # a memo
    _uses: dict[str, _Use]  # a memo, but for the kinds that `with_use` has changed

    @staticmethod
    def of(state: State) -> "Quotas":
        """As the state has it: runs that are stopping count until their exit is confirmed."""
        tree = tree_of(state.tenants)
        devices: dict[str, dict[int, int]] = {}
        for (tenant, kind), count in state.tenant_devices.items():
            at = tree.place.get(tenant)
            if at is not None and count:
                of_kind = devices.setdefault(canonical(kind), {})
                of_kind[at] = of_kind.get(at, 0) + count
        quotas = [tenant.quota for tenant in state.tenants.values()]
        is_limited = any(quota.nominal_devices or quota.borrow_devices for quota in quotas)
        return Quotas(tree, state.tenants, devices, is_limited, {}, {})

    def available(self, tenant: str, kind: str) -> int | None:
        """Devices of the kind that the tenant may take now; None without a limit."""
        found = self._room(tenant, canonical(kind))
        return None if found is None else max(0, found[0])

    def capacity(self, tenant: str, kind: str) -> int | None:
        """Devices of the kind that the tenant could hold if nobody held any; None without a limit."""
        kind = canonical(kind)
        limits = self._limits_of(kind)
        at = self.tree.place.get(tenant)
        if at is None or limits is None or not limits.limited[at]:
            return None
        return self._walk(at, limits, None)[0]

    def with_use(self, tenant: str, kind: str, devices: int) -> "Quotas":
        """The same after the tenant has taken so many devices; fewer than nought gives them back."""
        kind = canonical(kind)
        at = self.tree.place.get(tenant)
        if at is None or not devices:
            return self
        use = self._use_of(kind).copy()
        limits = self._limits_of(kind)
        use.own[at] += devices
        for one in self.tree.line(at):
            use.held[one] += devices
        if limits is not None:
            _charge(self.tree, limits, use.charged, (at, devices))
        uses = {**self._uses, kind: use}
        return Quotas(self.tree, self.tenants, self.devices, self.is_limited, self._limits, uses)

    def held(self, tenant: str, kind: str) -> int:
        """Devices of the kind in use by the tenant and all below it."""
        at = self.tree.place.get(tenant)
        return 0 if at is None else self._use_of(canonical(kind)).held[at]

    def borrowed(self, tenant: str, kind: str) -> int:
        """Devices of the kind that the tenant and those below it hold above what they are guaranteed."""
        at = self.tree.place.get(tenant)
        if at is None:
            return 0
        kind = canonical(kind)
        limits = self._limits_of(kind)
        nominal = limits.nominal[at] if limits is not None else 0
        return max(0, self._use_of(kind).held[at] - nominal)

    def owed(self, claimant: str, debtor: str, kind: str, need: int) -> int:
        """Devices that `debtor` holds above its guarantee while `claimant`, with `need` more, keeps within
        its own: what may be taken back. Compared where their branches of the tree part, as the rest is
        shared; each level of the debtor's branch must be above its guarantee.
        """
        kind = canonical(kind)
        limits = self._limits_of(kind)
        mine, theirs = self.tree.place.get(claimant), self.tree.place.get(debtor)
        if limits is None or mine is None or theirs is None or mine == theirs:
            return 0
        use = self._use_of(kind)
        line, other = self.tree.line(mine), self.tree.line(theirs)
        while line and other and line[-1] == other[-1]:
            line.pop()
            other.pop()
        branch = (use.held[line[-1]], limits.nominal[line[-1]]) if line else (use.own[mine], limits.own[mine])
        if branch[0] + need > branch[1]:
            return 0
        above = [use.own[theirs] - limits.own[theirs]]
        above.extend(use.held[at] - limits.nominal[at] for at in other)
        return max(0, min(above))

    def reason(self, tenant: str, kind: str, need: int) -> Reason | None:
        """Why the tenant may not take `need` more devices of a kind now; None when it may."""
        kind = canonical(kind)
        found = self._room(tenant, kind)
        if found is None or need <= found[0]:
            return None
        return self._why(tenant, kind, need, found)

    # ---------------------------------------------------------------- one kind

    def _limits_of(self, kind: str) -> _Limits | None:
        if not self.is_limited:
            return None
        if kind not in self._limits:
            self._limits[kind] = _limits(self.tree, self.tenants, kind)
        return self._limits[kind]

    def _use_of(self, kind: str) -> _Use:
        if kind not in self._uses:
            count = len(self.tree.names)
            use = _Use([0] * count, [0] * count, [0] * count)
            limits = self._limits_of(kind)
            for at, devices in self.devices.get(kind, {}).items():
                use.own[at] += devices
                for one in self.tree.line(at):
                    use.held[one] += devices
                if limits is not None:
                    _charge(self.tree, limits, use.charged, (at, devices))
            self._uses[kind] = use
        return self._uses[kind]

    def _room(self, tenant: str, kind: str) -> tuple[int, int] | None:
        """(devices it may take, the place whose limit says so); None without a limit."""
        at = self.tree.place.get(tenant)
        limits = self._limits_of(kind)
        if at is None or limits is None or not limits.limited[at]:
            return None
        return self._walk(at, limits, self._use_of(kind).charged)

    def _walk(self, at: int, limits: _Limits, charged: list[int] | None) -> tuple[int, int]:
        """From the root down: what is left above, no more than it may borrow, and what it keeps back."""
        room, level = 0, -1
        for one in reversed(self.tree.line(at)):
            taken = charged[one] if charged is not None else 0
            if level < 0:
                room, level = limits.subtree[one] - taken + (limits.borrow[one] or 0), one
                continue
            kept, borrow = limits.kept[one], limits.borrow[one]
            if borrow is not None:
                most = limits.subtree[one] - kept - max(0, taken - kept) + borrow
                if most < room:
                    room, level = most, one
            room = max(0, room) + max(0, kept - taken)
        return room, level

    def _why(self, tenant: str, kind: str, need: int, found: tuple[int, int]) -> Reason:
        room, level = max(0, found[0]), found[1]
        at, name = self.tree.place[tenant], self.tree.names[level]
        held = self._use_of(kind).held
        most = self.capacity(tenant, kind) or 0
        if level == at:
            text = f"tenant {tenant} uses {held[at]} of its {held[at] + room} {kind}; this job needs {need}"
            wait = "wait for its other jobs"
        else:
            text = (
                f"tenant {tenant} may take {room} {kind}, this job needs {need}: {name}, above it, uses"
                f" {held[level]} of {held[level] + room}{self._idle(level, kind, room)}"
            )
            wait = f"wait for the other jobs below {name}"
        if need > most:
            wait = f"ask for at most {most} devices" if most else "take another accelerator"
        return Reason(
            code="quota",
            text=text,
            need=held[level] + need,
            have=held[level] + room,
            unit="devices",
            help=f"{wait}, or raise the quota: suan tenant set {name}",
        )

    def _idle(self, level: int, kind: str, room: int) -> str:
        limits, use = self._limits_of(kind), self._use_of(kind)
        idle = limits.nominal[level] - use.held[level] - room if limits is not None else 0
        return f", and {idle} idle ones are not lent" if idle > 0 else ""


def _said(devices: dict[str, int], kind: str) -> int | None:
    """What a table of devices says of a kind: by its name or one of its other spellings, else by `*`."""
    if kind in devices:
        return devices[kind]
    for name, count in devices.items():
        if name != ANY_KIND and canonical(name) == kind:
            return count
    return devices.get(ANY_KIND)


def _limits(tree: Tree, tenants: dict[str, Tenant], kind: str) -> _Limits | None:
    """One kind's limits by place; None where no tenant says anything of the kind."""
    said = [
        (
            _said(tenant.quota.nominal_devices, kind),
            _said(tenant.quota.borrow_devices, kind),
            _said(tenant.quota.lend_devices, kind),
        )
        for tenant in tenants.values()
    ]
    limited = [nominal is not None or borrow is not None for nominal, borrow, _ in said]
    if not any(limited):
        return None
    own = [nominal or 0 for nominal, _, _ in said]
    nominal, subtree, kept = own.copy(), own.copy(), [0] * len(own)
    for at in tree.upward:
        above, lend = tree.parent[at], said[at][2]
        kept[at] = max(0, subtree[at] - lend) if lend is not None else 0
        if above >= 0:
            nominal[above] += nominal[at]
            subtree[above] += subtree[at] - kept[at]
            limited[above] = limited[above] or limited[at]
    for at in reversed(tree.upward):  # and from each root down: one word holds for its whole tree
        if tree.parent[at] >= 0:
            limited[at] = limited[tree.parent[at]]
    return _Limits(limited, own, nominal, subtree, kept, [borrow for _, borrow, _ in said])


def _charge(tree: Tree, limits: _Limits, charged: list[int], taken: tuple[int, int]) -> None:
    """Counts (place, devices) up the tree: above a place only what it takes beyond what it keeps back."""
    at, devices = taken
    while at >= 0 and devices:
        before = max(0, charged[at] - limits.kept[at])
        charged[at] += devices
        devices = max(0, charged[at] - limits.kept[at]) - before
        at = tree.parent[at]


def branches(tree: Tree, tenant: str) -> Iterator[str]:
    """The tenant's root, then each level down to itself; a tenant that nobody knows is its own root."""
    at = tree.place.get(tenant)
    if at is None:
        yield tenant
        return
    for one in reversed(tree.line(at)):
        yield tree.names[one]
