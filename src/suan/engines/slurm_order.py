"""What Slurm and the nodes are told about one run: the job that is asked for, and the order of its
supervisors.

Knows how a pool's devices become cores, memory and generic resources. Does not know which runs there are.
"""

import hashlib
import shlex
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from suan.engines import slurm_node, supervise
from suan.engines.devices import Pinning
from suan.engines.order import Placement, node_variables, run_variables
from suan.engines.slurm_calls import JobRequest
from suan.engines.slurm_pools import SlurmPool
from suan.engines.slurm_record import LOG
from suan.grid import hardware
from suan.ports import LaunchSpec

_MIB_PER_GIB = 1024
_SLACK_S = 600  # of Slurm's time limit over the run's own, which the run is told with a grace
_SCRIPT = """#!/bin/sh
python={python}
[ -x "$python" ] || python=python3
exec "$python" -I -S -X utf8 {program} {folder}
"""


def install_program(folder: Path) -> Path:
    """What the nodes run, copied to below `folder`, which they can read. Older copies stay for waiting
    jobs.
    """
    sources = [Path(module.__file__ or "") for module in (slurm_node, supervise)]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    programs = folder / "programs" / digest
    if not programs.exists():
        fresh = programs.with_name(f".{uuid.uuid4().hex}")
        fresh.mkdir(parents=True)
        for source in sources:
            shutil.copyfile(source, fresh / source.name)
        fresh.rename(programs)
    return programs / Path(slurm_node.__file__).name


def job_request(
    spec: LaunchSpec, pool: SlurmPool, *, name: str, record: Path, program: Path, account: str
) -> JobRequest:
    """The job that runs `spec`: its share of the node's cores and memory with each device.

    A run with a time limit tells Slurm a longer one, so that backfill can use it and it ends the run itself.
    """
    script = _SCRIPT.format(
        python=shlex.quote(sys.executable), program=shlex.quote(str(program)), folder=shlex.quote(str(record))
    )
    share_mib = pool.memory_mib * spec.devices_per_node // pool.pool.devices_per_node
    limit_s = None if spec.max_duration_s is None else spec.max_duration_s + spec.grace_s + _SLACK_S
    return JobRequest(
        name=name,
        script=script,
        folder=str(record.parent),
        output=str(record / LOG).replace("%", "%%"),  # Slurm takes it for a pattern
        partition=pool.partition,
        nodes=spec.nodes,
        cpus_per_task=_cores(pool, spec.devices_per_node) * pool.threads_per_core,
        memory_mib=int(spec.memory_gib * _MIB_PER_GIB) or share_mib,
        gres=f"{pool.gres}:{spec.devices_per_node}" if pool.gres else "",
        excluded_nodes=pool.others,
        account=account,
        minutes=None if limit_s is None else -(-limit_s // 60),
    )


def node_order(
    spec: LaunchSpec, pool: SlurmPool, *, placement: Placement, arguments: list[str], lease: Path
) -> dict[str, Any]:
    """What each node's supervisor reads; its rank, its address and its devices it finds out there."""
    kind = hardware.accelerator(pool.pool.accelerator)
    node = node_variables(spec, 0, Pinning(env={"OMP_NUM_THREADS": str(_cores(pool, spec.devices_per_node))}))
    if kind.device_class == hardware.CPU_DEVICE_CLASS:
        node["SKYPILOT_NUM_GPUS_PER_NODE"] = "0"
    return {
        "argv": arguments,
        "folder": str(spec.folder),
        "env": run_variables(spec, placement),
        "nodes": [{"env": node, "cpus": []}],
        "grace_s": spec.grace_s,
        "max_duration_s": spec.max_duration_s,
        "memory_bytes": int(spec.memory_gib * (1 << 30)),
        "lease": str(lease),
        "boot_id": "",
        "addresses": pool.addresses,
        "gres": pool.gres,
        "visible_env": kind.visible_env,
    }


def _cores(pool: SlurmPool, devices: int) -> int:
    """Cores of a node that so many of its devices bring along."""
    if not pool.gres:
        return devices
    return max(1, int(pool.pool.cpus_per_node * devices / pool.pool.devices_per_node))
