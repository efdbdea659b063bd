"""Opens a site's Slurm cluster and says what was found there and what is lacking.

Knows the options of engine `slurm` and how a site is told about them. Does not know runs.
"""

import getpass
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from suan.engines.slurm import SlurmEngine
from suan.engines.slurm_calls import Commands, Rest, Slurm, token_source
from suan.engines.slurm_pools import SlurmPool
from suan.engines.table import Opened, known_options
from suan.grid.site import Pool

# url: of slurmrestd, without it Slurm's commands are used; user and token_file: for its JSON web tokens;
# config: slurm.conf, when SLURM_CONF does not say; account: what the jobs are charged to.
OPTIONS = ("url", "user", "token_file", "config", "account")
# What an engine of this kind cannot do, and why: "not yet" may change, "never" is how Slurm is.
LIMITS = {
    "container image": "not yet: tasks name no image",
    "device indices": "never: Slurm gives devices, and gives no promise about which before the job starts",
    "start at once": "never: a run waits in Slurm's queue behind other users' jobs, ordered meanwhile",
}


def open_slurm(folder: Path, declared: Sequence[Pool], options: Mapping[str, str]) -> Opened:
    """The cluster, and a line for each pool and each lack.

    Raises: Refused `bad_engine_option`, `unknown_pool`; SiteTrouble when Slurm cannot be asked and never was.
    """
    known_options("slurm", options, OPTIONS)
    slurm: Slurm
    if options.get("url"):
        file = options.get("token_file")
        user = options.get("user") or getpass.getuser()
        slurm = Rest(options["url"], user, token_source(Path(file) if file else None))
    else:
        slurm = Commands(options.get("config", ""))
    engine = SlurmEngine(folder, slurm, declared, account=options.get("account", ""))
    pools, lacks = engine.inventory()
    return engine, (*map(_line, pools), *(f"lacks: {lack}" for lack in (*lacks, *_own_lacks(folder))))


def _line(found: SlurmPool) -> str:
    pool = found.pool
    asked = f"partition {found.partition}" + (f", gres {found.gres}" if found.gres else "")
    return (
        f"found: pool {pool.name}: {pool.nodes} of {len(found.nodes)} nodes usable, "
        f"{pool.devices_per_node} × {pool.accelerator} each ({asked}); "
        f"free now: {found.free_nodes} whole nodes, "
        f"{found.free_devices} devices"
    )


def _own_lacks(folder: Path) -> list[str]:
    """What this machine can tell about the folder that all nodes have to share."""
    kind = _file_system(folder)
    if kind in ("tmpfs", "ramfs", "overlay"):
        return [f"{folder} is on {kind}, which no other machine sees: choose a --state that all nodes share"]
    return []


def _file_system(folder: Path) -> str:
    """The type of the file system that holds the folder, "" when this machine does not say."""
    best, kind = "", ""
    real = os.path.realpath(folder)
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, where, what = line.split()[:3]
        below = real == where or real.startswith(where.rstrip("/") + "/")
        if below and len(where) >= len(best):
            best, kind = where, what
    return kind
