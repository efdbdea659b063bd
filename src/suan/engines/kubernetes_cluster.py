"""What a cluster has and what a site's Jobs do there, asked now and then and remembered in between.

Knows machines, pools, and the Jobs and pods with the site's label. While the API does not answer, what it
said last stands, and nothing is concluded from it. Does not know runs' folders.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from suan.engines import supervise
from suan.engines.devices import choose_devices
from suan.engines.kubernetes_api import Api
from suan.engines.kubernetes_job import INDEXED_SINCE, JobOrder, dropped, job_manifest
from suan.engines.kubernetes_objects import (
    POOL_LABEL,
    RUN_LABEL,
    SITE_LABEL,
    Job,
    Machine,
    Pod,
    Settings,
    as_found,
    found_pools,
    machines_of,
    members,
    requested,
)
from suan.engines.kubernetes_record import PodPlace
from suan.grid.error import SiteTrouble
from suan.grid.site import Pool

_LOOK_S = 1.0  # between two looks at the Jobs while runs are there
_IDLE_S = 60.0  # the same, while none is
_TROUBLE_S = 5.0  # the same, while the API does not answer
_POOLS_S = 10.0  # between two looks at machines and at what others hold there


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the API said last of this site's Jobs, by name. Asked at this time of the boot clock."""

    asked_s: float = float("-inf")
    jobs: dict[str, Job] = {}
    pods: dict[str, list[Pod]] = {}


class Cluster:
    """One namespace of one cluster, for one site. Not safe for threads: the engine has a lock."""

    def __init__(self, api: Api, settings: Settings, site: str, declared: Sequence[Pool]) -> None:
        """Raises: SiteTrouble when the API does not answer."""
        self._api, self._settings, self._site = api, settings, site
        self._declared = tuple(declared)
        self._machines: list[Machine] = []
        self._machines_asked_s = float("-inf")
        self._next_look_s = float("-inf")
        self._submitted_s: dict[str, float] = {}
        self.view = View()
        self._indexed = api.version() >= INDEXED_SINCE

    # ---------------------------------------------------------------- machines

    def pools(self) -> tuple[Pool, ...]:
        """The declared pools as far as their machines are there, ready and free of others; without declared
        ones what is found.
        """
        with contextlib.suppress(SiteTrouble):
            self._look_at_machines()
        whole = [machine for machine in self._machines if machine.held < 1]
        if not self._declared:
            return found_pools(whole)
        counted = [(pool, members(pool, whole)) for pool in self._declared]
        return tuple(as_found(pool, there) for pool, there in counted if there)

    def pool(self, name: str) -> Pool:
        """The pool, whoever holds its machines now.

        Raises: SiteTrouble `no_pool`, or the API's when there is nothing to go by.
        """
        self._look_at_machines()
        pools = {pool.name: pool for pool in self._declared or found_pools(self._machines)}
        there = members(pools[name], self._machines) if name in pools else []
        if not there:
            hint = f"it has: {', '.join(pool.name for pool in self.pools()) or 'none'}"
            raise SiteTrouble("no_pool", f"this site has no pool {name!r} now", hint=hint)
        return as_found(pools[name], there)

    def free(self) -> dict[str, tuple[int, int]]:
        """(whole machines, devices) of each pool that neither others nor this site's pods hold now."""
        pools = self.pools()
        ours = [pod for pods in self.view.pods.values() for pod in pods if not pod.is_over]
        answer = {}
        for pool in pools:
            left = []
            for one in members(pool, self._machines):
                here = (pod for pod in ours if pod.spec.node_name == one.name)
                taken = sum(requested(pod, one.resource) for pod in here)
                left.append(max(0, min(pool.devices_per_node, int(one.devices - one.held - taken))))
            answer[pool.name] = (left.count(pool.devices_per_node), sum(left))
        return answer

    def check_free(
        self, pool: Pool, nodes: int, devices_per_node: int, going: Mapping[str, tuple[PodPlace, int]]
    ) -> None:
        """`going`: by Job, what was accepted and how many of its nodes have ended.

        Raises: SiteTrouble `no_devices` when what is free, less what waits for a machine, is too little.
        """
        there = members(pool, self._machines)
        size = pool.devices_per_node
        cluster = msgspec.structs.replace(pool, nodes=len(there))
        number = {machine.name: k for k, machine in enumerate(there)}
        taken = {k * size + i for k, one in enumerate(there) for i in range(max(0, size - one.free))}
        waiting = []
        for job, (place, ended) in going.items():
            placed = [pod.spec.node_name for pod in self.view.pods.get(job, ()) if not pod.is_over]
            for k in (number[name] for name in placed if name in number):
                free = [index for index in range(k * size, (k + 1) * size) if index not in taken]
                taken.update(free[: place.devices_per_node])
            left = place.nodes - ended - sum(map(bool, placed))
            if place.pool == pool.name and left > 0:
                waiting.append((left, place.devices_per_node))
        for left, devices in waiting:
            taken.update(choose_devices(cluster, left, devices, taken))
        choose_devices(cluster, nodes, devices_per_node, taken)

    def _look_at_machines(self) -> None:
        now_s = time.monotonic()
        if now_s - self._machines_asked_s < _POOLS_S:
            return
        nodes = self._api.nodes(",".join(f"{key}={value}" for key, value in self._settings.nodes.items()))
        pods = self._api.placed_pods(self._settings.namespace)
        self._machines = machines_of(nodes, pods, self._settings, self._site)
        self._machines_asked_s = now_s

    # ---------------------------------------------------------------- Jobs

    def look(self, active: Callable[[], Collection[str]]) -> None:
        """Asks anew when it is time, and deletes the Jobs of this site that are not `active`: their runs have
        ended, or are not known any more. Which are is asked after the Jobs: a run is known before its Job is.
        """
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return
        namespace, labels = self._settings.namespace, f"{SITE_LABEL}={self._site}"
        asked_s = supervise.boot_clock_s()
        try:
            jobs = self._api.jobs(namespace, labels)
            pods: dict[str, list[Pod]] = {}
            for pod in self._api.pods(namespace, labels):
                pods.setdefault(pod.metadata.labels.get(RUN_LABEL, ""), []).append(pod)
            going = active()
            for job in jobs:
                if job.metadata.name not in going and job.metadata.deletion_timestamp is None:
                    self._api.delete_job(namespace, job.metadata.name)
        except SiteTrouble:
            self._next_look_s = now_s + _TROUBLE_S
            return
        self.view = View(asked_s=asked_s, jobs={job.metadata.name: job for job in jobs}, pods=pods)
        self._next_look_s = now_s + (_LOOK_S if going else _IDLE_S)

    def knows_of(self, job: str) -> bool:
        """Whether the last look came after the Job was made: only then does its absence mean anything."""
        return self.view.asked_s > self._submitted_s.get(job, float("-inf"))

    def submit(self, place: PodPlace, command: Sequence[str], volumes: Sequence[Path]) -> None:
        """Makes a run's Job, unless it is there already: its name is the run's own.

        Raises: SiteTrouble `fields_dropped`, `no_queue`, or the API's.
        """
        namespace, queue = self._settings.namespace, self._settings.queue
        if queue and not self._api.has_queue(namespace, queue):
            hint = "kubectl get localqueues; is Kueue installed?"
            raise SiteTrouble("no_queue", f"namespace {namespace} has no LocalQueue {queue}", hint=hint)
        there = members(self.pool(place.pool), self._machines)
        labelled = bool(there) and all(POOL_LABEL in machine.labels for machine in there)
        order = JobOrder(
            place=place,
            site=self._site,
            command=tuple(command),
            volumes=tuple(volumes),
            hosts=() if labelled else tuple(machine.hostname for machine in there),
            user=os.getuid(),
            group=os.getgid(),
            indexed=self._indexed,
        )
        manifest = job_manifest(order, self._settings)
        kept = self._api.create_job(namespace, manifest)
        if kept is not None and (lost := dropped(manifest, kept)):
            self._api.delete_job(namespace, place.job)
            what = f"the cluster does not know and left out: {', '.join(lost)}"
            raise SiteTrouble("fields_dropped", what, hint="a queue needs Kubernetes 1.21 or later")
        self._submitted_s[place.job] = supervise.boot_clock_s()
        self._next_look_s = float("-inf")

    def delete(self, job: str) -> None:
        """The Job and its pods go. What fails now is done by a later look."""
        with contextlib.suppress(SiteTrouble):
            self._api.delete_job(self._settings.namespace, job)
        self._submitted_s.pop(job, None)

    def write_off(self, pod: Pod) -> None:
        """The pod goes from the books: its machine will not say any more that it ended."""
        with contextlib.suppress(SiteTrouble):
            self._api.delete_pod(self._settings.namespace, pod.metadata.name)
