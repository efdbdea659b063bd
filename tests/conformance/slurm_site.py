"""Opens Slurm engines for the conformance suite, all on one real cluster of two nodes.

Over slurmrestd where it can be started, else with Slurm's commands; SUAN_TEST_SLURM=commands asks for those.
"""

import os
import shutil
import tempfile
from pathlib import Path

from engine_site import POOL
from slurm_cluster import SlurmCluster, missing

from suan.engines.slurm import SlurmEngine
from suan.engines.slurm_calls import Commands, Rest, Slurm

_NODE = "CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=16384"


class SlurmOpener:
    """The cluster starts with the first engine and ends with `close`; the next engine starts another."""

    def __init__(self, *, rest: bool | None = None) -> None:
        self._rest = os.environ.get("SUAN_TEST_SLURM") != "commands" if rest is None else rest
        self._cluster: SlurmCluster | None = None
        self._slurm: Slurm | None = None
        self.missing = missing

    def __call__(self, folder: Path) -> SlurmEngine:
        if self._slurm is None:
            root = Path(tempfile.mkdtemp(prefix="suan-slurm-"))
            self._cluster = cluster = SlurmCluster(
                root,
                nodes=[f"n{number} {_NODE}" for number in (1, 2)],
                partitions=[f"{POOL.name} Nodes=ALL Default=YES MaxTime=INFINITE State=UP"],
            )
            cluster.start()
            self._slurm = Commands(str(cluster.config))
            if self._rest and cluster.start_rest():
                self._slurm = Rest(cluster.rest_url, "root", cluster.token)
        return SlurmEngine(folder, self._slurm, (POOL,))

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()
            shutil.rmtree(self._cluster.folder, ignore_errors=True)
            self._cluster = self._slurm = None
