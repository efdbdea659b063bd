"""A launch as the nodes of a Ray cluster take it, and the program that takes it there.

Knows the run environment's names, by `order.py`, and what Ray asks for each node. Does not know which nodes
are free.
"""

import hashlib
import shutil
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suan.engines import supervise
from suan.engines.devices import EVERYWHERE, Pinning
from suan.engines.order import (
    _INHERITED,
    _INHERITED_FAMILIES,
    Placement,
    node_variables,
    run_variables,
    shell_arguments,
    shell_text,
)
from suan.engines.ray_api import RayNode
from suan.engines.ray_pools import demand
from suan.engines.record import SCRIPT
from suan.ports import LaunchSpec

_PROGRAM = "ray_node.py"
_A_LITTLE = 0.001  # of the resource that every node has under its address: asks for that very node


def program_folder(folder: Path) -> Path:
    """`ray_node.py`, with supervise.py beside it, below `folder`, where nodes see it; a folder a version."""
    sources = [Path(supervise.__file__), Path(__file__).with_name(_PROGRAM)]
    texts = [source.read_bytes() for source in sources]
    version = hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    home = folder / "programs" / version
    if not home.exists():
        fresh = home.with_name(f".{uuid.uuid4().hex}")
        fresh.mkdir(parents=True)
        for name, text in zip(("supervise.py", _PROGRAM), texts, strict=True):
            (fresh / name).write_bytes(text)
        try:
            fresh.rename(home)
        except OSError:  # another engine was first
            shutil.rmtree(fresh, ignore_errors=True)
    return home / _PROGRAM


def node_orders(
    spec: LaunchSpec, nodes: Sequence[RayNode], folder: Path, *, meeting_port: int, port: int
) -> tuple[tuple[dict[str, float], ...], list[dict[str, Any]]]:
    """(what each node has to give, by Ray's resources; what its supervisor is told), one of each a node."""
    bundles = tuple({**demand(node, spec.devices_per_node), f"node:{node.ip}": _A_LITTLE} for node in nodes)
    placement = Placement(pins=(), host=EVERYWHERE, port=port, rendezvous_port=meeting_port)
    shared = run_variables(spec, placement) | {"MASTER_ADDR": nodes[0].ip}
    arguments = shell_arguments("bash", shell_text(spec), folder / SCRIPT)
    addresses = "\n".join(node.ip for node in nodes)
    orders = []
    for rank, (node, bundle) in enumerate(zip(nodes, bundles, strict=True)):
        threads = max(1, int(bundle.get("CPU", 1)))
        own = node_variables(spec, rank, Pinning(env={"OMP_NUM_THREADS": str(threads)}))
        own["SKYPILOT_NODE_IPS"] = addresses
        if node.device_resource == "CPU":
            own["SKYPILOT_NUM_GPUS_PER_NODE"] = "0"
        orders.append(
            {
                "argv": arguments,
                "folder": str(spec.folder),
                "address": node.ip,
                "env": shared,
                "nodes": [{"env": own, "cpus": []}],
                "grace_s": spec.grace_s,
                "max_duration_s": spec.max_duration_s,
                "memory_bytes": int(spec.memory_gib * (1 << 30)),
                "inherit": sorted(_INHERITED),
                "families": list(_INHERITED_FAMILIES),
            }
        )
    return bundles, orders


def is_local(ip: str) -> bool:
    """Whether the address is one of this machine's."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((ip, 0))
            return True
    except OSError:
        return False
