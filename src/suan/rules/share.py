"""Fair shares: how much of the scarcest kind each tenant holds, over its weight, at every level of the tree.

Dominant-resource fairness: a tenant's share is the largest part that it holds of any one kind of device. A
parent's share is that of its children together; who comes first is decided from the root down, among those of
the same parent. Knows what is held. Does not know priorities, deadlines or quotas.

Source: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011; for the tree, Bhattacharya et al.,
"Hierarchical Scheduling for Diverse Datacenter Workloads", SoCC 2013.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from suan.grid.state import State
from suan.rules.quota import Tree, canonical, tree_of

Line = tuple[float, ...]  # shares from the root down; compared from its first on


@dataclass(frozen=True, slots=True)
class Shares:
    """Who holds how much. A value: `with_use` gives another one, in the depth of the tree."""

    tree: Tree
    weights: tuple[float, ...]
    totals: dict[str, int]  # kind -> devices of all pools
    held: dict[tuple[str, str], int]  # (tenant or one above it, kind) -> devices
    dominant: dict[str, float]  # tenant -> the largest part it holds of a kind, with all below it

    @staticmethod
    def of(state: State) -> "Shares":
        """As the state has it. Devices of every pool count, whether its site answers or not."""
        totals: dict[str, int] = {}
        for site in state.sites.values():
            for pool in site.pools.values():
                kind = canonical(pool.accelerator)
                totals[kind] = totals.get(kind, 0) + pool.devices
        tree = tree_of(state.tenants)
        weights = tuple(tenant.weight for tenant in state.tenants.values())
        shares = Shares(tree, weights, totals, {}, {})
        for (tenant, kind), devices in state.tenant_devices.items():
            shares._add(tenant, canonical(kind), devices)
        return shares

    def share(self, tenant: str) -> float:
        """The largest part of a kind that the tenant and all below it hold, over its weight."""
        at = self.tree.place.get(tenant)
        return self.dominant.get(tenant, 0.0) / (1.0 if at is None else self.weights[at])

    def after(self, tenant: str, kind: str, devices: int) -> float:
        """The tenant's share when it has taken so many devices more."""
        at = self.tree.place.get(tenant)
        kind = canonical(kind) if kind else kind
        part = (self.held.get((tenant, kind), 0) + devices) / max(1, self.totals.get(kind, 0))
        dominant = max(self.dominant.get(tenant, 0.0), min(1.0, part) if kind in self.totals else 0.0)
        return dominant / (1.0 if at is None else self.weights[at])

    def line(self, tenant: str) -> Line:
        """A key that sorts tenants by who holds least: the shares from its root down to itself."""
        at = self.tree.place.get(tenant)
        if at is None:
            return (self.share(tenant),)
        return tuple(self.share(self.tree.names[one]) for one in reversed(self.tree.line(at)))

    def fair(self, active: Iterable[str]) -> dict[str, float]:
        """The share that each of the active tenants, and each one above them, would have if those of the same
        parent shared all that their parent has, by weight. More is theirs only while others leave it idle.
        """
        below: dict[int, dict[int, None]] = {}
        strangers = 0
        for tenant in active:
            at = self.tree.place.get(tenant)
            strangers += at is None
            for one in self.tree.line(-1 if at is None else at):
                below.setdefault(self.tree.parent[one], {})[one] = None
        found: dict[str, float] = {}
        parts = [(-1, 1.0)]
        while parts:
            above, part = parts.pop()
            ones = below.get(above, {})
            weights = sum(self.weights[one] for one in ones) + (strangers if above < 0 else 0)
            for one in ones:
                found[self.tree.names[one]] = part / weights
                parts.append((one, part / weights * self.weights[one]))
        return found

    def is_above(self, tenant: str, fair: dict[str, float]) -> bool:
        """Whether the tenant, or one above it, holds more than its fair share."""
        at = self.tree.place.get(tenant)
        names = [self.tree.names[one] for one in self.tree.line(at)] if at is not None else []
        return any(self.share(name) > fair.get(name, 1.0) for name in names)

    def with_use(self, tenant: str, kind: str, devices: int) -> "Shares":
        """The same after the tenant has taken so many devices; fewer than nought gives them back."""
        after = Shares(self.tree, self.weights, self.totals, self.held.copy(), self.dominant.copy())
        after._add(tenant, canonical(kind), devices)
        return after

    def _add(self, tenant: str, kind: str, devices: int) -> None:
        at = self.tree.place.get(tenant)
        names = [tenant] if at is None else [self.tree.names[one] for one in self.tree.line(at)]
        for name in names:
            before = self.held.get((name, kind), 0)
            self.held[name, kind] = before + devices
            part = (before + devices) / max(1, self.totals.get(kind, 0))
            if devices >= 0 and part >= self.dominant.get(name, 0.0):
                self.dominant[name] = part
            elif devices < 0:
                self.dominant[name] = max(
                    self.held.get((name, one), 0) / max(1, total) for one, total in self.totals.items()
                )


def shares(state: State) -> dict[str, float]:
    """Each tenant's share: the largest part of a kind that it and all below it hold, over its weight."""
    known = Shares.of(state)
    names = {**dict.fromkeys(state.tenants), **dict.fromkeys(tenant for tenant, _ in state.tenant_devices)}
    return {name: known.share(name) for name in names}
