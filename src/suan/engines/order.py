"""What a supervisor is told to start: the shell text and every variable of every node.

Knows the run environment's names (docs: the run environment). Does not know which devices are free.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suan.engines.devices import LOOPBACK, Pinning
from suan.ports import LaunchSpec

# Linux takes at most 128 KiB in one argument (MAX_ARG_STRLEN, execve(2)); longer text goes through a file.
_ARGUMENT_BYTES = 100_000


# What a run gets of the agent's own environment. All else may be a secret of the site: its store's keys, say.
_INHERITED = frozenset(
    [
        "PATH",
        "HOME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "USER",
        "LOGNAME",
        "SHELL",
        "TERM",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "VIRTUAL_ENV",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
    ]
)
_INHERITED_FAMILIES = (
    "LC_", "PYTHON", "OMP_", "MKL_", "CUDA_", "NVIDIA_", "NCCL_", "HIP_", "ROCR_", "ASCEND_", "TRANSFORMERS_",
    "TOKENIZERS_",
)  # fmt: skip


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run was put on this machine."""

    pins: tuple[Pinning, ...]  # a node each
    host: str = LOOPBACK  # where a service listens: at this address
    port: int = 0  # and port, 0: none
    rendezvous_port: int = 0


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of the agent's environment that runs may have."""
    return {
        name: value
        for name, value in environment.items()
        if name in _INHERITED or name.startswith(_INHERITED_FAMILIES)
    }


def shell_text(spec: LaunchSpec) -> str:
    """`setup`, then `command` in the same shell; a setup that fails ends it with its code."""
    if not spec.setup.strip():
        return spec.command
    return f"{spec.setup}\ncase $? in 0) ;; *) exit $? ;; esac\n{spec.command}"


def shell_arguments(shell: str, text: str, script: Path) -> list[str]:
    """The command line that runs `text`, through the file `script` when it is too long for a command line."""
    if len(text.encode("utf-8", "surrogateescape")) <= _ARGUMENT_BYTES:
        return [shell, "-c", text]
    return [shell, str(script)]


def run_variables(spec: LaunchSpec, placement: Placement) -> dict[str, str]:
    """Variables that all nodes share. The grid's win, but for ports, which only the engine knows."""
    ports = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(placement.rendezvous_port)}
    if placement.port:
        ports |= {"SUAN_HOST": placement.host, "SUAN_PORT": str(placement.port)}
    return {
        "SUAN_JOB_ID": spec.job,
        "SUAN_RUN_ID": spec.run,
        "SUAN_POOL": spec.pool,
        "SKYPILOT_TASK_ID": spec.job,
        **spec.env,
        **ports,
    }


def node_variables(spec: LaunchSpec, node: int, pinning: Pinning) -> dict[str, str]:
    """Rank, world and devices of one node. A user's own OMP_NUM_THREADS stays."""
    own_threads = {"OMP_NUM_THREADS": spec.env["OMP_NUM_THREADS"]} if "OMP_NUM_THREADS" in spec.env else {}
    on_cpu = bool(pinning.cpus)
    return {
        "SUAN_NODE_RANK": str(node),
        "SUAN_NUM_NODES": str(spec.nodes),
        "SUAN_DEVICES_PER_NODE": str(spec.devices_per_node),
        "RANK": str(node),
        "NODE_RANK": str(node),
        "WORLD_SIZE": str(spec.nodes),
        "LOCAL_RANK": "0",
        "SKYPILOT_NODE_RANK": str(node),
        "SKYPILOT_NODE_IPS": "\n".join([LOOPBACK] * spec.nodes),
        "SKYPILOT_NUM_NODES": str(spec.nodes),
        "SKYPILOT_NUM_GPUS_PER_NODE": "0" if on_cpu else str(spec.devices_per_node),
        **pinning.env,
        **own_threads,
    }


def supervisor_order(spec: LaunchSpec, placement: Placement, arguments: list[str]) -> dict[str, Any]:
    """The run as supervise.py reads it. The memory limit is for all nodes together: they are one machine."""
    return {
        "argv": arguments,
        "folder": str(spec.folder),
        "env": run_variables(spec, placement),
        "nodes": [
            {"env": node_variables(spec, node, pinning), "cpus": list(pinning.cpus)}
            for node, pinning in enumerate(placement.pins)
        ],
        "grace_s": spec.grace_s,
        "max_duration_s": spec.max_duration_s,
        "memory_bytes": int(spec.memory_gib * spec.nodes * (1 << 30)),
    }
