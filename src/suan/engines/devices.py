"""Which devices of this machine a run gets, and how its processes are kept to them.

Knows pools and indices. Does not know which runs there are: it is told what is taken. A node of a local pool
is a slice of the machine: node k owns the devices k·n … k·n+n-1 of the pool, n being its devices per node.
"""

import os
import random
import socket
from collections.abc import Collection, Sequence

import msgspec

from suan.grid import hardware
from suan.grid.error import SiteTrouble
from suan.grid.site import Pool

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # where services listen: on one machine, on a cluster's nodes
# Below the range that Linux takes outgoing ports connections from (32768 on, ip(7)): what is free stays free.
_PORTS = range(20_000, 32_000)


class Pinning(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps one node's processes to their devices."""

    env: dict[str, str] = {}
    cpus: tuple[int, ...] = ()  # cores of the machine, empty: any


def choose_devices(pool: Pool, nodes: int, devices_per_node: int, taken: Collection[int]) -> tuple[int, ...]:
    """Indices on the pool, node after node, `devices_per_node` each. Fullest nodes first: whole ones stay so.

    Raises: SiteTrouble `no_devices`.
    """
    free_by_node = [
        [index for index in range(first, first + pool.devices_per_node) if index not in taken]
        for first in range(0, pool.devices, pool.devices_per_node)
    ]
    fitting = [free for free in free_by_node if len(free) >= devices_per_node]
    fitting.sort(key=lambda free: (len(free), free))
    if len(fitting) < nodes:
        free_devices = sum(map(len, free_by_node))
        raise SiteTrouble(
            "no_devices",
            f"pool {pool.name} has {free_devices} of {pool.devices} devices free, {len(fitting)} nodes "
            f"with at least {devices_per_node} of them; {nodes} such nodes were asked for",
            hint="wait for a run to end: suan jobs",
            pool=pool.name,
            free_devices=free_devices,
        )
    return tuple(index for free in sorted(fitting[:nodes]) for index in free[:devices_per_node])


def pin(pool: Pool, pools: Sequence[Pool], devices: Sequence[int]) -> Pinning:
    """How a node with these indices of `pool` is kept to them.

    Pools of the same kind count on where the one before them ended, in the order of `pools`. A CPU pool that
    declares more cores than this process may use wraps around: two devices then share a core.
    """
    kind = hardware.accelerator(pool.accelerator)
    on_cpu = kind.device_class == hardware.CPU_DEVICE_CLASS
    first = 0
    for other in pools:
        if other.name == pool.name:
            break
        other_kind = hardware.accelerator(other.accelerator)
        if (other_kind.device_class, other_kind.visible_env) == (kind.device_class, kind.visible_env):
            first += other.devices
    if on_cpu:
        cores = sorted(os.sched_getaffinity(0))
        cpus = sorted({cores[(first + index) % len(cores)] for index in devices})
        return Pinning(env={"OMP_NUM_THREADS": str(max(1, len(devices)))}, cpus=tuple(cpus))
    threads = int(pool.cpus_per_node * len(devices) / pool.devices_per_node)
    env = {"OMP_NUM_THREADS": str(max(1, threads))}
    if kind.visible_env:
        env[kind.visible_env] = ",".join(str(first + index) for index in devices)
    return Pinning(env=env)


def free_port(taken: Collection[int]) -> int:
    """A loopback port that nobody listens on and that is not `taken`.

    Raises: SiteTrouble `no_port`.
    """
    for port in random.sample(_PORTS, k=200):
        if port not in taken:
            with socket.socket() as probe:
                try:
                    probe.bind((LOOPBACK, port))
                    return port
                except OSError:
                    continue
    raise SiteTrouble("no_port", f"no free port among 200 tried in {_PORTS.start}-{_PORTS.stop - 1}")
