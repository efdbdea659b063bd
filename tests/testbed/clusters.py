"""The clusters of the test bed's sites: real daemons, accelerators that exist in name only.

Knows how each is opened, which of its daemons can be killed, and what its site.toml has to say of it. Built
on the clusters of the conformance suite.
"""

import tempfile
from pathlib import Path
from typing import Any, Protocol

Table = dict[str, Any]  # a site.toml, or part of it


class Cluster(Protocol):
    daemons: tuple[str, ...]  # that can be killed and started again

    def open(self, prices: Table) -> Table:
        """Starts it; what site.toml says of it. `prices`: what each pool's devices cost."""
        ...

    def kill(self, daemon: str) -> None: ...

    def restore(self, daemon: str) -> None: ...

    def close(self) -> None: ...


class Slurm:
    """Two nodes with eight H100 each, and one of cores."""

    daemons = ("slurmctld", "slurmd")

    def __init__(self, folder: Path) -> None:
        from slurm_cluster import SlurmCluster, missing

        assert not missing(), missing()
        gpu = "CPUs=16 Sockets=1 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=16384 Gres=gpu:h100:8"
        cores = "CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=16384"
        self._cluster = SlurmCluster(
            folder / "slurm",
            nodes=[f"gpu1 {gpu}", f"gpu2 {gpu}", f"core1 {cores}"],
            partitions=[
                "gpu Nodes=gpu1,gpu2 MaxTime=INFINITE State=UP",
                "cpu Nodes=core1 Default=YES MaxTime=INFINITE State=UP",
            ],
        )

    def open(self, prices: Table) -> Table:
        self._cluster.start()
        pools = [pool("gpu", "H100", 2, 8, prices), pool("cpu", "CPU", 1, 4, prices)]
        options = {"config": str(self._cluster.config)}
        return {"engine": "slurm", "engine_options": options, "pool": pools}

    def kill(self, daemon: str) -> None:
        for name in self._names(daemon):
            self._cluster.kill(name)

    def restore(self, daemon: str) -> None:
        if daemon == "slurmctld":
            self._cluster.start_controller()
        else:
            for node in self._cluster.names:
                self._cluster.start_node(node)

    def _names(self, daemon: str) -> list[str]:
        return [daemon] if daemon != "slurmd" else [f"slurmd {node}" for node in self._cluster.names]

    def close(self) -> None:
        self._cluster.stop()


class Ray:
    """One head with eight Ascend 910B."""

    daemons = ("ray",)

    def __init__(self, folder: Path) -> None:
        from ray_cluster import NodeShape, RayCluster, free_ports, missing

        assert not missing(), missing()
        shape = NodeShape(cpus=8, devices=8, accelerator="Ascend910B", resource="NPU")
        self._cluster = RayCluster([shape], free_ports())
        self._token = folder / "ray.token"

    def open(self, prices: Table) -> Table:
        self._token.write_text(self._cluster.token)
        self._cluster.start()
        options = {"url": self._cluster.address, "token_file": str(self._token)}
        pools = [pool("npu", "910B", 1, 8, prices)]
        return {"engine": "ray", "engine_options": options, "pool": pools}

    def kill(self, daemon: str) -> None:
        self._cluster.kill_ray(len(self._cluster.nodes) - 1)

    def restore(self, daemon: str) -> None:
        for tries_left in (2, 1, 0):  # on a busy machine a head gives up on itself while it starts
            try:
                self._cluster.start()
                return
            except AssertionError:
                if not tries_left:
                    raise
                self._cluster.kill(len(self._cluster.nodes) - 1)
                self._cluster.nodes.pop()

    def close(self) -> None:
        self._cluster.close()


class Kubernetes:
    """A control plane and two nodes, one with eight H20."""

    daemons = ("kube-apiserver", "etcd")

    def __init__(self, folder: Path) -> None:
        from kube_cluster import missing

        assert not missing(), missing()
        self._folder = folder

    def open(self, prices: Table) -> Table:
        from kube_cluster import KubeCluster

        self._cluster = KubeCluster(self._folder / "kubernetes")
        add = self._cluster.kubelet.add_node
        add("gpu1", {"cpu": "16", "memory": "32Gi", "nvidia.com/gpu": "8"}, {"suan.dev/accelerator": "H20"})
        add("core1", {"cpu": "4", "memory": "16Gi"}, {})
        options = {"kubeconfig": str(self._cluster.kubeconfig), "image": "python:3.11"}
        pools = [pool("gpu", "H20", 1, 8, prices), pool("cpu", "CPU", 1, 4, prices)]
        return {"engine": "kubernetes", "engine_options": options, "pool": pools}

    def kill(self, daemon: str) -> None:
        process = self._process(daemon)
        process.kill()
        process.wait()

    def restore(self, daemon: str) -> None:
        process = self._process(daemon)
        self._cluster._daemons.remove(process)
        self._cluster._start(daemon, *process.args[1:])

    def _process(self, daemon: str) -> Any:
        return next(one for one in self._cluster._daemons if Path(one.args[0]).name == daemon)

    def close(self) -> None:
        if hasattr(self, "_cluster"):
            self._cluster.close()


class Local:
    """One machine of eight H20 and some cores; stands in where Kubernetes is not found."""

    daemons = ()

    def __init__(self, folder: Path) -> None:
        pass

    def open(self, prices: Table) -> Table:
        pools = [pool("gpu", "H20", 1, 8, prices), pool("cpu", "CPU", 1, 4, prices)]
        return {"engine": "local", "pool": pools}

    def kill(self, daemon: str) -> None:
        raise ValueError(f"no {daemon} here")

    def restore(self, daemon: str) -> None:
        raise ValueError(f"no {daemon} here")

    def close(self) -> None:
        pass


CLUSTERS: dict[str, type[Cluster]] = {"slurm": Slurm, "ray": Ray, "kubernetes": Kubernetes, "local": Local}


def pool(name: str, accelerator: str, nodes: int, devices_per_node: int, prices: Table) -> Table:
    """A `[[pool]]`."""
    table: Table = {"name": name, "accelerator": accelerator, "nodes": nodes}
    table |= {"devices_per_node": devices_per_node, "memory_gib_per_node": 16.0}
    return table | {"machine_yuan_per_device_h": prices[name]}


def short_folder() -> Path:
    """A folder that everybody may enter and whose sockets' paths are short."""
    folder = Path(tempfile.mkdtemp(prefix="suan-bed-", dir="/tmp"))
    folder.chmod(0o755)
    return folder
