"""Which devices of a simulated pool are free. Knows nodes and indices; knows neither runs nor time."""

from collections.abc import Sequence

from suan.grid.error import SiteTrouble
from suan.grid.site import Pool


class Devices:
    """The free devices of one pool, node by node.

    `by_node`: a run gets its devices on distinct nodes, fullest nodes first, as an engine without
    migration would
    place it. Without it the pool is one big node: the engine is taken to keep its nodes free of fragments.
    """

    def __init__(self, pool: Pool, *, by_node: bool) -> None:
        self._pool, self._by_node = pool, by_node
        self._width = pool.devices_per_node if by_node else max(1, pool.devices)
        self._free = [
            list(range(first + self._width - 1, first - 1, -1))
            for first in range(0, pool.devices, self._width)
        ]
        self._count = pool.devices

    def take(self, nodes: int, devices_per_node: int) -> tuple[int, ...]:
        """Indices for so many nodes, in order.

        Raises: SiteTrouble `no_devices`.
        """
        wanted, parts = (devices_per_node, nodes) if self._by_node else (nodes * devices_per_node, 1)
        fitting = (
            sorted((len(free), node) for node, free in enumerate(self._free) if len(free) >= wanted)
            if self._count >= wanted * parts
            else []
        )
        if len(fitting) < parts:
            raise SiteTrouble(
                "no_devices",
                f"pool {self._pool.name} has {self._count} of {self._pool.devices} devices free,"
                f" not {nodes} x {devices_per_node}",
                pool=self._pool.name,
                free_devices=self._count,
            )
        chosen = [self._free[node].pop() for _, node in fitting[:parts] for _ in range(wanted)]
        self._count -= len(chosen)
        return tuple(sorted(chosen))

    def withdraw(self, devices: Sequence[int]) -> None:
        """These, which are free, are gone until they are given back."""
        self._count -= len(devices)
        for index in devices:
            self._free[index // self._width].remove(index)

    def give_back(self, devices: Sequence[int]) -> None:
        """These are free again."""
        self._count += len(devices)
        for index in devices:
            self._free[index // self._width].append(index)
