"""Opens Kubernetes engines for the conformance suite: one control plane a session, two machines a folder.

With SUAN_TEST_KUBECONFIG the suite runs on that cluster instead, on its machines labelled suan-test=yes. They
have this machine's files at the same paths: a cluster of one machine, or shared storage under --basetemp.
"""

import os
import shutil
import tempfile
import uuid
from pathlib import Path

import kube_cluster
from engine_site import POOL

from suan.engines.kubernetes import KubernetesEngine
from suan.engines.kubernetes_api import Api
from suan.engines.kubernetes_objects import Settings
from suan.ports import Engine


class KubernetesOpener:
    def __init__(self) -> None:
        self._cluster: kube_cluster.KubeCluster | None = None
        self._labels: dict[Path, dict[str, str]] = {}
        self._given = os.environ.get("SUAN_TEST_KUBECONFIG", "")

    def missing(self) -> str:
        return "" if self._given else kube_cluster.missing()

    @property
    def cluster(self) -> kube_cluster.KubeCluster:
        if self._cluster is None:
            folder = tempfile.mkdtemp(prefix="suan-kube-")
            self._cluster = kube_cluster.KubeCluster(Path(folder) / "k")
        return self._cluster

    @property
    def api(self) -> Api:
        return Api(Path(self._given) if self._given else self.cluster.kubeconfig)

    def __call__(self, folder: Path) -> Engine:
        return self.open(folder)

    def open(self, folder: Path, **settings: object) -> KubernetesEngine:
        """An engine on machines of the folder's own, so that no other test's runs count there."""
        labels = self._labels.get(folder)
        if labels is None:
            labels = self._labels[folder] = {"suan-test": "yes"} if self._given else self._machines()
        image = os.environ.get("SUAN_TEST_IMAGE", "python:3.11")
        given = {"image": image, "nodes": labels, **settings}
        return KubernetesEngine(
            folder, (POOL,), api=self.api, settings=Settings(**given), shared=[folder.parent]
        )

    def _machines(self) -> dict[str, str]:
        name = f"t{uuid.uuid4().hex[:8]}"
        for number in range(POOL.nodes):
            resources = {"cpu": str(POOL.devices_per_node), "memory": "16Gi"}
            self.cluster.kubelet.add_node(f"{name}-{number}", resources, {"suan-test": name})
        return {"suan-test": name}

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            shutil.rmtree(self._cluster.folder.parent, ignore_errors=True)
            self._cluster = None
