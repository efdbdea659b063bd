"""Time of collectives by message size: in a scale-up domain on measured curves, and between nodes.

Knows rings, where a group's members sit, and what a node's network cards share. Does not know models.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from suan.estimate.cases import Bools, Floats, Ints, Machines
from suan.estimate.rates import Rates, table


@dataclass(frozen=True, slots=True)
class Fabric:
    """Links of each case's machine."""

    domain: Floats  # devices that reach each other at link speed
    link_bytes_per_s: Floats  # all-reduce bus bandwidth of a device, large messages
    link_latency_s: Floats
    network_bytes_per_s: Floats  # a device's share of its node's network, as reached
    network_latency_s: Floats
    curve: Ints  # position in curves()


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that run a collective together: how many, and how many of them share a domain."""

    ranks: Floats
    local: Floats

    @property
    def inside(self) -> Bools:
        """Whether the group stays in one domain."""
        return self.local >= self.ranks

    @property
    def domains(self) -> Floats:
        """Domains the group spans."""
        return np.ceil(self.ranks / self.local)


@cache
def curves() -> tuple[tuple[str, Floats, Floats], ...]:
    """(family, log2 of message bytes, log2 of the part of the large-message bandwidth reached), the general
    one last. Where a larger message was measured to be sooner there, it takes as long as the smaller one.
    """
    found = []
    for family, entry in table()["curves"].items():
        sizes, reached = np.array(entry["bytes"], dtype=np.float64), np.array(entry["bus_gb_per_s"])
        logs = np.log2(sizes)
        took = np.maximum.accumulate(logs - np.log2(reached / reached[-1]))
        found.append((family, logs, np.asarray(logs - took, dtype=np.float64)))
    return tuple(found)


def fabric_of(machines: Machines, rates: Rates, *, network_ratio: float = 1.0) -> Fabric:
    """Links of each machine; `network_ratio` is what collectives in training reach of the network's own
    rate.
    """
    names = [family for family, _, _ in curves()]
    of_family = np.array([names.index(f) if f in names else len(names) - 1 for f in rates.families])
    kind = machines.kind
    share = machines.scaleout_gbps_per_node * 1e9 / 8.0 / machines.devices_per_node
    return Fabric(
        domain=np.maximum(rates.link_domain[kind], machines.devices_per_node),
        link_bytes_per_s=rates.link_bytes_per_s[kind],
        link_latency_s=rates.link_latency_s[kind],
        network_bytes_per_s=share * rates.network_ratio[kind] * network_ratio,
        network_latency_s=rates.network_latency_s[kind],
        curve=of_family[rates.family[kind]],
    )


def group_of(fabric: Fabric, ranks: Floats | Ints, stride: Floats | Ints | int) -> Group:
    """The group of `ranks` devices, `stride` apart in the order devices are numbered."""
    count = np.asarray(ranks, dtype=np.float64)
    return Group(ranks=count, local=np.clip(np.floor(fabric.domain / stride), 1.0, count))


def _reached(fabric: Fabric, size_bytes: Floats) -> Floats:
    """Part of the large-message bandwidth a message in a domain reaches."""
    out = np.empty(len(size_bytes))
    logs = np.log2(np.maximum(size_bytes, 1.0))
    for code, (_, sizes, reached) in enumerate(curves()):
        mine = fabric.curve == code
        if mine.any():
            # Below the smallest message measured, time is that message's.
            small = np.minimum(logs[mine] - sizes[0], 0.0)
            # Between two measured sizes in logarithms of both: so time never falls as messages grow.
            out[mine] = np.exp2(np.interp(logs[mine], sizes, reached) + small)
    return out


def gather_s(fabric: Fabric, group: Group, size_bytes: Floats) -> Floats:
    """Seconds of an all-gather or reduce-scatter of `size_bytes` (the whole, over all ranks)."""
    ranks = group.ranks
    volume = size_bytes * (ranks - 1.0) / ranks
    inside = volume / (fabric.link_bytes_per_s * _reached(fabric, size_bytes))
    # Across nodes a ring enters and leaves a node once, and may use the cards of its members there.
    network = np.minimum(fabric.network_bytes_per_s * group.local, fabric.link_bytes_per_s)
    hops = np.log2(np.maximum(group.domains, 2.0))
    across = volume / network + fabric.network_latency_s * hops
    return np.where(ranks <= 1, 0.0, np.where(group.inside, inside, np.maximum(across, inside)))


def all_reduce_s(fabric: Fabric, group: Group, size_bytes: Floats) -> Floats:
    """Seconds of an all-reduce of `size_bytes`."""
    return 2.0 * gather_s(fabric, group, size_bytes)


def dispatch_s(fabric: Fabric, group: Group, token_bytes: Floats, copies: Floats | Ints) -> Floats:
    """Seconds until each rank has sent its tokens (`token_bytes` of them all) to `copies` experts each,
    spread evenly.

    A token goes once to a domain, however many of its experts are there (DeepEP, 2025).
    """
    ranks, domains = group.ranks, group.domains
    elsewhere = domains - 1.0
    leaves = elsewhere * (1.0 - (1.0 - 1.0 / domains) ** copies)
    stays = copies * (ranks - 1.0) / ranks
    inside = stays * token_bytes / (fabric.link_bytes_per_s * _reached(fabric, token_bytes * copies))
    across = leaves * token_bytes / fabric.network_bytes_per_s
    latency = fabric.link_latency_s + np.where(leaves > 0, fabric.network_latency_s, 0.0)
    return np.where(ranks <= 1, 0.0, np.maximum(inside, across) + latency)


def send_s(fabric: Fabric, distance: Floats | Ints, size_bytes: Floats) -> Floats:
    """Seconds to send `size_bytes` to the device `distance` further on."""
    near = size_bytes / fabric.link_bytes_per_s + 0.5 * fabric.link_latency_s
    far = size_bytes / fabric.network_bytes_per_s + 0.5 * fabric.network_latency_s
    return np.where(np.asarray(distance) < fabric.domain, near, far)
