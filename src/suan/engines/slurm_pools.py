"""Pools out of a cluster's nodes: which accelerators they have by the table's names, and how to ask for them.

Knows partitions, generic resources and how sites spell them. Does not know runs.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from suan.engines import supervise
from suan.engines.slurm_answers import Gres, Node
from suan.engines.slurm_calls import Latest, Slurm
from suan.grid import hardware
from suan.grid.error import Refused
from suan.grid.site import Pool

_MIB_PER_GIB = 1024
_ASK_EVERY_S = 20.0
_ARM = ("aarch64", "arm64")
# Words of drivers' device names that the table leaves out.
_MAKERS = frozenset(["nvidia", "tesla", "geforce", "quadro", "amd", "instinct", "huawei", "ascend"])
# Generic resources that are no devices of their own. Source: slurm.schedmd.com/gres.html.
_NO_DEVICES = frozenset(["shard", "mps", "nic", "craynetwork", "hbm", "bandwidth", "tmpfs", "localtmp"])


class SlurmPool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool, and what a job asks Slurm for to be put there."""

    pool: Pool  # its nodes are those that take work now
    partition: str
    gres: str  # gpu:h100, "" in a CPU pool
    nodes: tuple[str, ...]
    others: tuple[str, ...]  # nodes of the partition that are not the pool's
    addresses: dict[str, str]
    threads_per_core: int
    memory_mib: int  # of the smallest node
    free_nodes: int  # whole ones
    free_devices: int
    overlaps: str = ""  # the pool that has the same nodes and is offered in this one's place


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    pools: tuple[SlurmPool, ...]
    lacks: tuple[str, ...]  # what cannot be offered, and what would mend it

    def offered(self) -> dict[str, SlurmPool]:
        return {found.pool.name: found for found in self.pools if not found.overlaps}


class _Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What makes nodes of one partition identical."""

    accelerator: str
    gres: str
    devices: int
    cores: int
    threads: int


def inventory(nodes: Sequence[Node], partitions: Mapping[str, bool]) -> Inventory:
    """Every pool of the partitions, and what is lacking. Of partitions that share nodes, one offers them: the
    default one, else the largest, else the first by name. `partitions`: name -> whether it is the default.
    """
    lacks: dict[str, None] = {}
    groups: dict[str, dict[_Kind, list[Node]]] = defaultdict(lambda: defaultdict(list))
    for node in nodes:
        kinds = _kinds(node, lacks)
        for partition in node.partitions:
            if partition in partitions:
                for kind in kinds:
                    groups[partition][kind].append(node)
    if not groups:
        lacks["no partition that takes jobs has a node that can be offered"] = None
    members = {
        partition: {n.name for found in kinds.values() for n in found} for partition, kinds in groups.items()
    }
    preferred = sorted(groups, key=lambda name: (not partitions[name], -len(members[name]), name))
    taken: dict[str, str] = {}  # node -> the partition that offers it
    found: list[SlurmPool] = []
    for partition in preferred:
        names = _names(partition, list(groups[partition]))
        owners = sorted({taken[name] for name in members[partition] if name in taken})
        for kind, its in groups[partition].items():
            pool = _pool(names[kind], partition, kind, its, others=members[partition])
            found.append(msgspec.structs.replace(pool, overlaps=", ".join(owners)))
        if not owners:
            taken |= dict.fromkeys(sorted(members[partition]), partition)
        else:
            shared = (
                f"partition {partition} shares nodes with {', '.join(owners)} and is left out; declare its"
            )
            lacks[f"{shared} pool ({', '.join(sorted(names.values()))}) to use it instead"] = None
    pools = tuple(sorted(found, key=lambda one: one.pool.name))
    return Inventory(pools=pools, lacks=tuple(lacks))


def accelerator_of(gres: Gres, features: Iterable[str] = ()) -> str:
    """The table's name for a generic resource; "" when the table has none.

    The type as sites write it (`h100`) or as a driver reports it (`nvidia_a100-sxm4-80gb`); a resource
    without a type goes by the node's features.
    """
    spelt = {
        _fold(kind.slurm_gres): name for name, kind in hardware.accelerators().items() if kind.slurm_gres
    }
    if gres.type and (exact := spelt.get(_fold(gres.request))):
        return exact
    if gres.type:
        return _in_table(gres.type)
    named = {
        kind
        for feature in features
        if (kind := spelt.get(_fold(f"{gres.name}:{feature}")) or _in_table(feature))
    }
    return named.pop() if len(named) == 1 else ""


def declared_over(found: Mapping[str, SlurmPool], declared: Sequence[Pool]) -> dict[str, SlurmPool]:
    """The declared pools with Slurm's nodes: prices and watts are the declaration's, and it may offer less.

    Raises: Refused `unknown_pool`.
    """
    chosen = {}
    for pool in declared:
        if pool.name not in found:
            hint = f"Slurm has: {', '.join(found) or 'none'}"
            raise Refused("unknown_pool", f"no pool {pool.name!r} was found in Slurm", hint=hint)
        known = found[pool.name]
        merged = msgspec.structs.replace(
            pool,
            nodes=min(pool.nodes, known.pool.nodes),
            devices_per_node=min(pool.devices_per_node, known.pool.devices_per_node),
            cpus_per_node=known.pool.cpus_per_node,
            memory_gib_per_node=known.pool.memory_gib_per_node,
        )
        chosen[pool.name] = msgspec.structs.replace(known, pool=merged)
    return chosen


# ---------------------------------------------------------------- one node


def _kinds(node: Node, lacks: dict[str, None]) -> list[_Kind]:
    """The kinds of device on this node. Cores beside accelerators are theirs and no pool of their own."""
    devices = [gres for gres in node.gres if gres.count and gres.name not in _NO_DEVICES]
    kinds = []
    for gres in devices:
        accelerator = accelerator_of(gres, node.features)
        if accelerator:
            kinds.append(
                _Kind(
                    accelerator=accelerator,
                    gres=gres.request,
                    devices=gres.count,
                    cores=node.cores,
                    threads=node.threads_per_core,
                )
            )
        elif gres.type:
            lacks[f"gres {gres.request} is in no row of the accelerator table; suan sites --accelerators"] = (
                None
            )
        else:
            lacks[
                f"gres {gres.name} of {node.name} has no type: give Gres= a type, or the nodes a feature"
            ] = None
    if kinds or devices or node.cores < 1:
        return kinds
    arm = node.architecture.lower() in _ARM
    return [_Kind(accelerator="CPU-ARM" if arm else "CPU-x86", gres="", devices=node.cores, cores=node.cores,
                  threads=node.threads_per_core)]  # fmt: skip


def _in_table(spelt: str) -> str:
    """The longest run of leading words that the table knows: the most exact kind wins."""
    words = [word for word in re.split(r"[\s_-]+", spelt) if word and word.lower() not in _MAKERS]
    for count in range(len(words), 0, -1):
        for joiner in ("-", ""):
            try:
                return hardware.accelerator(joiner.join(words[:count])).name
            except Refused:
                continue
    return ""


def _fold(text: str) -> str:
    return text.lower().replace("_", "-")


# ---------------------------------------------------------------- a pool


def _names(partition: str, kinds: Sequence[_Kind]) -> dict[_Kind, str]:
    """The partition's name for its only kind; else with accelerator, count and cores as far as needed."""
    names: dict[_Kind, str] = {}
    for kind in kinds:
        same = [other for other in kinds if other.accelerator == kind.accelerator]
        parts = [partition]
        if len(kinds) > 1:
            parts.append(kind.accelerator)
        if len(same) > 1:
            parts.append(str(kind.devices))
        if len([other for other in same if other.devices == kind.devices]) > 1:
            parts += [f"{kind.cores}c", kind.gres.replace(":", "-")]
        names[kind] = re.sub(r"[^a-z0-9._-]+", "-", "-".join(parts).lower()).strip("-")[:63]
    return names


def _pool(
    name: str, partition: str, kind: _Kind, nodes: Sequence[Node], *, others: Iterable[str]
) -> SlurmPool:
    usable = [node for node in nodes if node.usable]
    free = [_free_devices(node, kind) for node in usable]
    own = {node.name for node in nodes}
    memory_mib = min(node.memory_mib for node in nodes)
    pool = Pool(
        name=name,
        accelerator=kind.accelerator,
        devices_per_node=kind.devices,
        nodes=len(usable),
        cpus_per_node=float(kind.cores),
        memory_gib_per_node=round(memory_mib / _MIB_PER_GIB, 1),
    )
    return SlurmPool(
        pool=pool,
        partition=partition,
        gres=kind.gres,
        nodes=tuple(sorted(own)),
        others=tuple(sorted(set(others) - own)),
        addresses={node.name: node.address for node in nodes},
        threads_per_core=kind.threads,
        memory_mib=memory_mib,
        free_nodes=sum(count == kind.devices for count in free),
        free_devices=sum(free),
    )


def _free_devices(node: Node, kind: _Kind) -> int:
    free_cores = max(0, node.cores - node.cores_used)
    if not kind.gres:
        return free_cores
    used = sum(gres.count for gres in node.gres_used if gres.request == kind.gres)
    return max(0, kind.devices - used) if free_cores else 0


# ---------------------------------------------------------------- over time


class PoolWatch:
    """A cluster's pools as Slurm last told them, kept in a file: an agent may start while slurmctld is
    down.
    """

    def __init__(self, slurm: Slurm, declared: Sequence[Pool], file: Path) -> None:
        """Raises: Refused `unknown_pool` for a declared pool that Slurm does not have; SiteTrouble when Slurm
        cannot be asked and never was.
        """
        self._slurm, self._declared, self._file = slurm, tuple(declared), file
        self._latest = Latest(self._found, _ASK_EVERY_S)
        self.lacks: tuple[str, ...] = ()
        self.pools = self._kept()
        self.ask(must=not self.pools)

    def ask(self, *, must: bool = False) -> dict[str, SlurmPool]:
        """The pools by name, as Slurm last told them; asked anew, now when it `must` be, and waited for.

        Raises: SiteTrouble, when it must answer.
        """
        found = self._found() if must else self._latest.get()
        if found is not None:
            by_name = {one.pool.name: one for one in found.pools}
            pools = declared_over(by_name, self._declared) if self._declared else found.offered()
            if pools != self.pools:
                supervise.write_json(str(self._file), {"pools": msgspec.to_builtins(pools)})
            self.pools, self.lacks = pools, found.lacks
        return self.pools

    def _found(self) -> Inventory:
        return inventory(self._slurm.nodes(), self._slurm.partitions())

    def _kept(self) -> dict[str, SlurmPool]:
        kept = supervise.read_json(str(self._file))
        try:
            return msgspec.convert((kept or {}).get("pools", {}), dict[str, SlurmPool])
        except msgspec.ValidationError:  # of another release
            return {}
