"""What a Kubernetes API answers: nodes, pods and Jobs as they are read, and the pools that the nodes make up.

Knows fields, labels and quantities. Pure: asks nothing, so the same answers always read the same. Does not
know what becomes of a run; what is written to the API is `kubernetes_job.py`.
"""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from suan.grid import hardware
from suan.grid.error import Refused
from suan.grid.site import Pool
from suan.grid.units import BYTES_PER_GIB

Json = dict[str, Any]
RUN_LABEL, SITE_LABEL, POOL_LABEL = "suan.dev/run", "suan.dev/site", "suan.dev/pool"
ACCELERATOR_LABEL = "suan.dev/accelerator"
# Where clusters say what their devices are, the surest first. Sources: NVIDIA gpu-feature-discovery README;
# AMD's k8s-device-plugin, node labeller; SkyPilot's label formatters (sky/provision/kubernetes/utils.py),
# which cover GKE, EKS, Karpenter and CoreWeave; Ascend's device plugin guide.
_KIND_LABELS = (
    ACCELERATOR_LABEL,
    "nvidia.com/gpu.product",
    "amd.com/gpu.product-name",
    "cloud.google.com/gke-accelerator",
    "cloud.google.com/gke-tpu-accelerator",
    "gpu.nvidia.com/class",
    "karpenter.k8s.aws/instance-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "skypilot.co/accelerator",
    "node.kubernetes.io/npu.chip.name",
    "accelerator",
)
_VENDOR_WORDS = frozenset({"nvidia", "tesla", "geforce", "quadro", "amd", "instinct", "huawei"})
_CPU_KINDS = {"amd64": "CPU-x86", "arm64": "CPU-ARM"}


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields that are read; the rest of an answer is skipped."""


class Owner(_Struct):
    kind: str = ""


class Meta(_Struct):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    deletion_timestamp: str | None = None
    owner_references: list[Owner] = []
    annotations: dict[str, str] = {}


class Condition(_Struct):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class Resources(_Struct):
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Container(_Struct):
    resources: Resources = Resources()


class Taint(_Struct):
    key: str
    effect: str = ""


class NodeSpec(_Struct):
    unschedulable: bool = False
    taints: list[Taint] = []


class NodeStatus(_Struct):
    allocatable: dict[str, str] = {}
    conditions: list[Condition] = []


class Node(_Struct):
    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_ready(self) -> bool:
        return any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)


class Waiting(_Struct):
    reason: str = ""
    message: str = ""


class Terminated(_Struct):
    exit_code: int = 0
    reason: str = ""
    message: str = ""


class ContainerState(_Struct):
    waiting: Waiting | None = None
    terminated: Terminated | None = None


class ContainerStatus(_Struct):
    state: ContainerState = ContainerState()


class PodSpec(_Struct):
    node_name: str = ""
    containers: list[Container] = []
    init_containers: list[Container] = []
    overhead: dict[str, str] = {}


class PodStatus(_Struct):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: list[Condition] = []
    container_statuses: list[ContainerStatus] = []


class Pod(_Struct):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_over(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def trouble(self) -> str:
        """Why it ended or does not start, in the cluster's words."""
        said = [f"{self.status.reason} {self.status.message}".strip()]
        for container in self.status.container_statuses:
            for state in (container.state.waiting, container.state.terminated):
                if state is not None:
                    said.append(f"{state.reason} {state.message}".strip())
        said += [one.message for one in self.status.conditions if one.type == "PodScheduled"]
        return next((text for text in said if text and text != "Completed"), "")

    @property
    def is_in_doubt(self) -> bool:
        """Whether its machine may not be heard any more: it should be gone, or does not count as ready."""
        unready = any(one.type == "Ready" and one.status != "True" for one in self.status.conditions)
        return self.metadata.deletion_timestamp is not None or unready

    @property
    def cannot_start(self) -> bool:
        """Whether waiting longer cannot help: the order itself is refused by the node."""
        waiting = (container.state.waiting for container in self.status.container_statuses)
        return any(one is not None and one.reason in _HOPELESS for one in waiting)


# Source: kubelet's container waiting reasons, pkg/kubelet/images/types.go and pkg/kubelet/kuberuntime.
_HOPELESS = frozenset({"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})


class JobSpec(_Struct):
    suspend: bool = False


class JobStatus(_Struct):
    conditions: list[Condition] = []


class Job(_Struct):
    metadata: Meta
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def has_failed(self) -> bool:
        return any(one.type == "Failed" and one.status == "True" for one in self.status.conditions)

    @property
    def trouble(self) -> str:
        return next((one.message for one in self.status.conditions if one.type == "Failed"), "")


# ---------------------------------------------------------------- pools


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a site uses its cluster."""

    image: str  # in which runs start; it has Python 3.9 or later
    namespace: str = "default"
    claim: str = ""  # PersistentVolumeClaim that holds the site's state; "": the nodes have the same path
    claim_path: Path = Path("/")  # where this machine has the claim mounted
    python: str = "python3"  # in the image
    nodes: dict[str, str] = {}  # labels of the machines that the grid may use; none: all
    queue: str = ""  # a LocalQueue of Kueue's
    pod: Json = {}  # laid over the spec of every pod: tolerations, imagePullSecrets, priorityClassName …
    start_s: int = 900  # how long a run may wait for the cluster, Kueue's queue included


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the cluster, as the grid could use it."""

    name: str
    labels: dict[str, str]
    kind: str
    resource: str
    devices: int  # whole ones, whoever holds them
    held: float  # by pods that are none of this site's runs
    cpus: float
    memory_gib: float

    @property
    def free(self) -> int:
        return max(0, int(self.devices - self.held))

    @property
    def hostname(self) -> str:
        return self.labels.get("kubernetes.io/hostname", self.name)


@cache
def quantity(text: str) -> float:
    """`500m`, `64Gi`, `1e3` as a number.

    Source: the official client's parser.
    """
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(text) if text else Decimal(0))


def requested(pod: Pod, resource: str) -> float:
    """What the scheduler reserves for the pod.

    Source: Kubernetes' rule for init containers.
    """

    def of(containers: Sequence[Container]) -> list[float]:
        both = (
            one.resources.requests.get(resource) or one.resources.limits.get(resource, "")
            for one in containers
        )
        return [quantity(text) for text in both]

    most = max(sum(of(pod.spec.containers)), max(of(pod.spec.init_containers), default=0.0))
    return most + quantity(pod.spec.overhead.get(resource, ""))


@cache
def kind_called(name: str, resource: str) -> str:
    """The table's name for `NVIDIA-H100-80GB-HBM3` and the like among what the resource can be; "" for what
    is not there, and for a family's name, which says no more than the resource does (`huawei-Ascend910`).
    """
    words = [word for word in re.split(r"[-_\s]+", name) if word.lower() not in _VENDOR_WORDS]
    if "".join(words).lower() == resource.rpartition("/")[2].lower():
        return ""
    for count in range(len(words), 0, -1):
        for joiner in ("-", ""):
            try:
                kind = hardware.accelerator(joiner.join(words[:count]))
            except Refused:
                continue
            if kind.kubernetes_resource == resource:
                return kind.name
    return ""


def _kind_and_resource(node: Node) -> tuple[str, str]:
    """("", resource) when it has devices that nothing names."""
    there = node.status.allocatable
    table = hardware.accelerators().values()
    for resource in dict.fromkeys(kind.kubernetes_resource for kind in table if kind.device_class != "cpu"):
        if quantity(there.get(resource, "")) >= 1:
            labels = node.metadata.labels
            found = (kind_called(labels[label], resource) for label in _KIND_LABELS if label in labels)
            return next((kind for kind in found if kind), ""), resource
    return _CPU_KINDS.get(node.metadata.labels.get("kubernetes.io/arch", "amd64"), ""), "cpu"


def unnamed_devices(nodes: Iterable[Node]) -> list[str]:
    """Names of the nodes that have devices of which no label says what they are."""
    return [node.metadata.name for node in nodes if not _kind_and_resource(node)[0]]


def machines_of(nodes: Iterable[Node], pods: Iterable[Pod], settings: Settings, site: str) -> list[Machine]:
    """The nodes that could take a run now, by name. Those whose devices nothing names are left out."""
    others: dict[str, list[Pod]] = {}
    for pod in pods:
        if not pod.is_over and pod.metadata.labels.get(SITE_LABEL) != site:
            others.setdefault(pod.spec.node_name, []).append(pod)
    tolerated = {one.get("key", "") for one in settings.pod.get("tolerations", ())}
    found = []
    for node in nodes:
        kind, resource = _kind_and_resource(node)
        keeps_away = (one for one in node.spec.taints if one.effect in ("NoSchedule", "NoExecute"))
        if not kind or not node.is_ready or node.spec.unschedulable:
            continue
        if any(taint.key not in tolerated | {resource} for taint in keeps_away):
            continue
        here = others.get(node.metadata.name, [])
        daemons = [
            pod
            for pod in here
            if any(own.kind in ("DaemonSet", "Node") for own in pod.metadata.owner_references)
        ]
        there = node.status.allocatable
        reserved = sum(requested(pod, resource) for pod in daemons)
        found.append(
            Machine(
                name=node.metadata.name,
                labels=node.metadata.labels,
                kind=kind,
                resource=resource,
                devices=int(quantity(there.get(resource, "")) - reserved),
                held=sum(requested(pod, resource) for pod in here) - reserved,
                cpus=float(
                    int(quantity(there.get("cpu", "")) - sum(requested(pod, "cpu") for pod in daemons))
                ),
                memory_gib=(
                    quantity(there.get("memory", "")) - sum(requested(pod, "memory") for pod in daemons)
                )
                / BYTES_PER_GIB,
            )
        )
    return sorted(found, key=lambda machine: machine.name)


def pool_of(machine: Machine) -> str:
    """The pool's name that its label gives, else one made of what it has."""
    return machine.labels.get(POOL_LABEL) or f"{machine.kind.lower()}-x{machine.devices}"


def members(pool: Pool, machines: Sequence[Machine]) -> list[Machine]:
    """The pool's machines: those that bear its name; when none does, the unlabelled ones that have what it
    declares.
    """
    named = [machine for machine in machines if pool_of(machine) == pool.name]
    return [
        machine
        for machine in named or machines
        if (named or POOL_LABEL not in machine.labels)
        and machine.kind == pool.accelerator
        and machine.devices >= pool.devices_per_node
    ]


def as_found(pool: Pool, there: Sequence[Machine]) -> Pool:
    """The declared pool with the cores and memory of its machines, and no more nodes than there are."""
    cpus = float(pool.devices_per_node) if there[0].resource == "cpu" else min(one.cpus for one in there)
    return msgspec.structs.replace(
        pool,
        nodes=min(pool.nodes, len(there)),
        cpus_per_node=cpus,
        memory_gib_per_node=round(min(one.memory_gib for one in there), 1),
    )


def found_pools(machines: Sequence[Machine]) -> tuple[Pool, ...]:
    """Pools by name, at no price, each of one kind; devices, cores and memory as its smallest machine has."""
    groups: dict[str, list[Machine]] = {}
    for machine in machines:
        if machine.devices > 0:
            groups.setdefault(pool_of(machine), []).append(machine)
    return tuple(
        Pool(
            name=name,
            accelerator=group[0].kind,
            devices_per_node=min(machine.devices for machine in group),
            nodes=len(group),
            cpus_per_node=min(machine.cpus for machine in group),
            memory_gib_per_node=round(min(machine.memory_gib for machine in group), 1),
        )
        for name, group in sorted(groups.items())
        if len({machine.kind for machine in group}) == 1
    )
