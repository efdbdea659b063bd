"""Pools on a Ray cluster: which nodes are one, what each can still take.

Knows nodes and pools. Does not know runs: it is told what they hold.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from suan.engines.ray_api import RayNode
from suan.grid import hardware
from suan.grid.site import Pool
from suan.grid.units import BYTES_PER_GIB

Held = Mapping[str, Counter[str]]  # node -> resource -> amount


class Fitting(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run's nodes fit, the fullest first, so that empty ones stay whole."""

    now: tuple[RayNode, ...]  # by Ray's counting, too
    soon: tuple[RayNode, ...]  # by what this site itself has promised
    free_devices: int  # in all of the pool


class PoolSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A pool and how much of it nobody uses."""

    pool: Pool
    free_nodes: int  # whole ones
    free_devices: int


def pools_of(nodes: Sequence[RayNode], count: int | None = None) -> tuple[Pool, ...]:
    """One pool for all nodes that are alike in kind, devices, cores and memory (to the GiB); with `count`, of
    so many nodes, however many there are.
    """
    alike: dict[tuple[str, int, float, int], int] = Counter(
        _shape(node) for node in nodes if node.kind and node.devices
    )
    pools, names = [], Counter[str]()
    for (kind, devices, cores, memory_gib), found in sorted(alike.items()):
        is_cpu = hardware.accelerator(kind).device_class == hardware.CPU_DEVICE_CLASS
        name = "cpu" if is_cpu else re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
        names[name] += 1
        pools.append(
            Pool(
                name=name if names[name] == 1 else f"{name}-{names[name]}",
                accelerator=kind,
                devices_per_node=devices,
                nodes=count or found,
                cpus_per_node=cores,
                memory_gib_per_node=float(memory_gib),
            )
        )
    return tuple(pools)


def unknown_kinds(nodes: Sequence[RayNode]) -> tuple[str, ...]:
    """What no pool is made of: accelerators without a name, or with one that the table does not have."""
    unknown = (node for node in nodes if not node.kind)
    return tuple(sorted({node.kind_name or f"{node.device_resource} without a name" for node in unknown}))


def pool_nodes(pool: Pool, nodes: Sequence[RayNode]) -> tuple[RayNode, ...]:
    """The nodes that are `pool`'s: of its kind and with its devices at least; no more than it declares."""
    kind = hardware.accelerator(pool.accelerator)
    alike = []
    for node in nodes:
        if not node.kind or node.devices < pool.devices_per_node:
            continue
        known = hardware.accelerator(node.kind)
        # Ray does not say which architecture its cores are: a pool of cores is any node with nothing but.
        same_cores = kind.device_class == known.device_class == hardware.CPU_DEVICE_CLASS
        if same_cores or known.name == kind.name:
            alike.append(node)
    exact = [node for node in alike if _is_shaped(pool, node)]
    return tuple((exact or alike)[: pool.nodes])


def counted(pools: Sequence[Pool], nodes: Sequence[RayNode]) -> tuple[Pool, ...]:
    """The pools with as many nodes as live, none perhaps, and no more than they declare."""
    return tuple(msgspec.structs.replace(pool, nodes=len(pool_nodes(pool, nodes))) for pool in pools)


def demand(node: RayNode, devices: int) -> dict[str, float]:
    """What a run's node asks of Ray: its devices, and with accelerators their share of the cores."""
    counted = node.device_resource
    needs: dict[str, float] = {counted: float(devices)}
    if counted != "CPU":
        cores = int(node.total.get("CPU", 0.0) * devices / node.devices)
        needs |= {"CPU": float(cores)} if cores else {}
    return needs


def fitting(pool: Pool, nodes: Sequence[RayNode], devices: int, *, own: Held, fresh: Held) -> Fitting:
    """Which of the pool's nodes have room for `devices` more.

    `own` is what this site's runs hold, `fresh` the part of it that Ray may not have counted yet. Where it is
    counted twice, that errs on the side of waiting: what is submitted has to start.
    """
    now, soon, free_devices = [], [], 0
    for node in nodes:
        counted, mine = node.device_resource, own.get(node.id, Counter())
        others = {
            name: max(mine[name], node.used.get(name, 0.0) + fresh.get(node.id, Counter())[name])
            for name in node.total
        }
        free = min(pool.devices_per_node - mine[counted], node.total[counted] - others[counted])
        free_devices += max(0, int(free))
        needs = demand(node, devices)
        if devices > pool.devices_per_node - mine[counted]:
            continue
        if all(mine[name] + amount <= node.total[name] for name, amount in needs.items()):
            soon.append((free, node.id, node))
            if all(others[name] + amount <= node.total[name] for name, amount in needs.items()):
                now.append((free, node.id, node))
    return Fitting(
        now=tuple(node for *_, node in sorted(now, key=lambda one: one[:2])),
        soon=tuple(node for *_, node in sorted(soon, key=lambda one: one[:2])),
        free_devices=free_devices,
    )


def inventory(pools: Sequence[Pool], nodes: Sequence[RayNode]) -> tuple[PoolSeen, ...]:
    """Each pool with what nobody uses of it at the moment, as far as the cluster tells."""
    seen = []
    for pool in pools:
        free_by_node: dict[str, int] = defaultdict(int)
        whole = 0
        for node in pool_nodes(pool, nodes):
            used = node.used.get(node.device_resource, 0.0)
            free_by_node[node.id] = int(min(pool.devices_per_node, node.devices - used))
            whole += free_by_node[node.id] >= pool.devices_per_node
        seen.append(PoolSeen(pool=pool, free_nodes=whole, free_devices=sum(free_by_node.values())))
    return tuple(seen)


def _shape(node: RayNode) -> tuple[str, int, float, int]:
    memory_gib = int(node.total.get("memory", 0.0) // BYTES_PER_GIB)
    return node.kind, node.devices, node.total.get("CPU", 0.0), memory_gib


def _is_shaped(pool: Pool, node: RayNode) -> bool:
    _, devices, cores, memory_gib = _shape(node)
    shape = (pool.devices_per_node, pool.cpus_per_node, pool.memory_gib_per_node)
    return shape == (devices, cores, float(memory_gib))
