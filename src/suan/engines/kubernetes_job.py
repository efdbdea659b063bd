"""The Job of one run as it is written to a Kubernetes API, and what of it a server did not keep.

Knows the fields of Jobs and pods since Kubernetes 1.20. Pure. Command and variables of a run are not here:
they are in the run's folder, because they may be secret, and longer than an API object may be.
"""

from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from suan.engines.kubernetes_objects import POOL_LABEL, RUN_LABEL, SITE_LABEL, Json, Settings
from suan.engines.kubernetes_record import PodPlace
from suan.grid.error import SiteTrouble

# Source: kueue.sigs.k8s.io/docs/tasks/run/jobs (read 2026-11).
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
INDEXED_SINCE = (1, 22)  # completionMode is on by default. Source: Kubernetes' feature gates, IndexedJob
_HOST = "kubernetes.io/hostname"
_LONGEST_GRACE_S = 3600
# Ranks are taken in the run's folder; the index only makes a pod's name show its rank.
_MAY_BE_DROPPED = frozenset({"spec.completionMode"})


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What of a run its Job says, and where it may go."""

    place: PodPlace
    site: str
    command: tuple[str, ...]
    volumes: tuple[Path, ...]
    hosts: tuple[str, ...]  # host names of the pool's machines, empty: those with the pool's label
    user: int
    group: int
    indexed: bool


def job_manifest(order: JobOrder, settings: Settings) -> Json:
    """The Job of one run. It never starts a pod in place of a failed one: the grid does, or does not."""
    place = order.place
    labels = {RUN_LABEL: place.job, SITE_LABEL: order.site, "app.kubernetes.io/managed-by": "suan"}
    pod = _laid_over(_pod_spec(order, settings), settings.pod)
    job: Json = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": place.job, "labels": dict(labels), "annotations": {RUN_LABEL: place.run}},
        "spec": {
            "parallelism": place.nodes,
            "completions": place.nodes,
            "backoffLimit": 0,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    if order.indexed:
        job["spec"]["completionMode"] = "Indexed"
    if settings.queue:
        job["metadata"]["labels"][QUEUE_LABEL] = settings.queue
        job["spec"]["suspend"] = True  # until Kueue has room in the queue's quota
    return job


def _pod_spec(order: JobOrder, settings: Settings) -> Json:
    """One node of the run: its container, and where it may go."""
    place = order.place
    devices = {} if place.resource == "cpu" else {place.resource: str(place.devices_per_node)}
    memory = {"memory": f"{int(place.memory_gib * 1024)}Mi"} if place.memory_gib else {}
    cpus = {"cpu": f"{int(place.cpus * 1000)}m"}
    volumes, mounts = _volumes(order, settings)
    of_pod = {"SUAN_POD_NAME": "metadata.name", "SUAN_POD_IP": "status.podIP"}
    container = {
        "name": "run",
        "image": settings.image,
        "command": list(order.command),
        "env": [
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in of_pod.items()
        ],
        "resources": {"requests": cpus | memory | devices, "limits": memory | (devices or cpus)},
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod: Json = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The node's own supervisor keeps a run to its grace; this only must not be shorter than any.
        "terminationGracePeriodSeconds": max(place.grace_s, _LONGEST_GRACE_S),
        "securityContext": {"runAsUser": order.user, "runAsGroup": order.group},
        "affinity": _affinity(order),
        "containers": [container],
        "volumes": volumes,
    }
    if settings.nodes:
        pod["nodeSelector"] = dict(settings.nodes)
    if place.resource != "cpu":  # what keeps pods without devices off such machines
        pod["tolerations"] = [{"key": place.resource, "operator": "Exists"}]
    return pod


def _affinity(order: JobOrder) -> Json:
    """To the pool's machines, and each node of a run on its own."""
    key, values = (_HOST, order.hosts) if order.hosts else (POOL_LABEL, (order.place.pool,))
    where = {"matchExpressions": [{"key": key, "operator": "In", "values": list(values)}]}
    affinity: Json = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [where]}}
    }
    if order.place.nodes > 1:
        apart = {"labelSelector": {"matchLabels": {RUN_LABEL: order.place.job}}, "topologyKey": _HOST}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
    return affinity


def _volumes(order: JobOrder, settings: Settings) -> tuple[list[Json], list[Json]]:
    """(volumes, mounts): every folder at its own path, and memory for what processes share."""
    volumes: list[Json] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Json] = [{"name": "shm", "mountPath": "/dev/shm"}]
    if settings.claim:
        volumes.append({"name": "state", "persistentVolumeClaim": {"claimName": settings.claim}})
    for number, folder in enumerate(order.volumes):
        if not settings.claim:
            name = f"state-{number}"
            volumes.append({"name": name, "hostPath": {"path": str(folder), "type": "Directory"}})
            mounts.append({"name": name, "mountPath": str(folder)})
            continue
        if not folder.is_relative_to(settings.claim_path):
            what = f"{folder} is not on the claim {settings.claim}, which is at {settings.claim_path}"
            raise SiteTrouble("not_on_claim", what, hint="keep the site's state on the claim: --state")
        inside = str(PurePosixPath(folder.relative_to(settings.claim_path)))
        mount = {"name": "state", "mountPath": str(folder)}
        mounts.append(mount if inside == "." else {**mount, "subPath": inside})
    return volumes, mounts


def _laid_over(below: Json, above: Json) -> Json:
    """Objects join key by key, lists one after the other; else what is above stands."""
    joined = dict(below)
    for key, value in above.items():
        under = joined.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            joined[key] = _laid_over(under, value)
        else:
            joined[key] = under + value if isinstance(under, list) and isinstance(value, list) else value
    return joined


def dropped(sent: Any, kept: Any, path: str = "") -> list[str]:
    """Fields that were sent and are not in the answer. Old servers leave out what they do not know, and say
    nothing.
    """
    if isinstance(sent, dict):
        lost = []
        for key, value in sent.items():
            here = f"{path}.{key}" if path else key
            if not isinstance(kept, dict) or key not in kept:
                is_nothing = (
                    value in ({}, [], "", None) or value is False
                )  # left out because it is the default
                lost += [] if is_nothing or here in _MAY_BE_DROPPED else [here]
            else:
                lost += dropped(value, kept[key], here)
        return lost
    if isinstance(sent, list):
        lost = []
        for number, one in enumerate(sent):
            here = f"{path}[{number}]"
            other = _partner(one, number, kept)
            lost += [here] if other is None else dropped(one, other, here)
        return lost
    return []


def _partner(one: Any, number: int, kept: Any) -> Any:
    """The item of a list that answers for this one: by name, because others may have been put in between."""
    if not isinstance(kept, list):
        return None
    if isinstance(one, dict) and "name" in one:
        return next(
            (other for other in kept if isinstance(other, dict) and other.get("name") == one["name"]), None
        )
    return kept[number] if number < len(kept) else None
