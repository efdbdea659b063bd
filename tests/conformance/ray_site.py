"""Opens Ray engines for the conformance suite, all on one real cluster of two nodes."""

import os
from pathlib import Path

from engine_site import POOL
from ray_cluster import NodeShape, RayCluster, free_ports, missing

from suan.engines.ray import RayEngine
from suan.engines.ray_api import RayApi


class RayOpener:
    """The cluster starts with the first engine and ends with `close`; the next engine starts another. Each
    folder is a site of its own.
    """

    def __init__(self) -> None:
        self._cluster: RayCluster | None = None
        self._api: RayApi | None = None
        self.missing = missing

    def __call__(self, folder: Path) -> RayEngine:
        if self._api is None:
            os.environ.setdefault("LC_MEASUREMENT", "kept")  # what a node has, its runs have
            shape = NodeShape(cpus=POOL.devices_per_node)
            self._cluster = RayCluster([shape] * POOL.nodes, free_ports()).start()
            self._api = self._cluster.api()
        return RayEngine(folder, (POOL,), self._api)

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = self._api = None
