"""What this machine has, as pools: its cores, and the accelerators that nvidia-smi shows.

Knows where to look. What is found can be declared by hand as well, with prices, which no machine knows.
"""

import os
import platform
import shutil
import subprocess
from collections import Counter

from suan.grid import hardware
from suan.grid.error import Refused
from suan.grid.site import Pool

_TIMEOUT_S = 10
_GIB = 1 << 30


def local_pools(cpu_pool: str = "cpu", gpu_pool: str = "gpu") -> tuple[Pool, ...]:
    """One pool of cores, and one pool for each kind of accelerator that the table knows."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    cpu = Pool(
        name=cpu_pool,
        accelerator="CPU-ARM" if platform.machine() in ("aarch64", "arm64") else "CPU-x86",
        devices_per_node=cores,
        nodes=1,
        cpus_per_node=float(cores),
        memory_gib_per_node=round(memory_gib, 1),
    )
    kinds = Counter(kind for name in nvidia_names() if (kind := kind_of(name)))
    pools = [
        Pool(
            name=gpu_pool if len(kinds) == 1 else f"{gpu_pool}-{kind.lower()}",
            accelerator=kind,
            devices_per_node=count,
            nodes=1,
            cpus_per_node=float(cores),
            memory_gib_per_node=round(memory_gib, 1),
        )
        for kind, count in sorted(kinds.items())
    ]
    return (cpu, *pools)


def nvidia_names() -> list[str]:
    """The NVIDIA devices of this machine as their driver calls them; none without a driver."""
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return []
    command = [binary, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def kind_of(name: str) -> str:
    """The table's name for `NVIDIA H100 80GB HBM3` and the like; "" for what it does not have.

    The longest run of leading words that the table knows: the most exact kind wins.
    """
    words = [word for word in name.replace("-", " ").split() if word not in ("NVIDIA", "Tesla", "GeForce")]
    for count in range(len(words), 0, -1):
        for joiner in ("-", ""):
            try:
                return hardware.accelerator(joiner.join(words[:count])).name
            except Refused:
                continue
    return ""
