"""Runs as Jobs of a Kubernetes cluster, 1.20 and later: one Job a run, one pod a node.

Knows pools as machines of the cluster and the folder, on a volume shared with the pods, where runs are kept.
What a run does and how it ended goes through that folder (`kubernetes_record.py`, and `kubernetes_node.py` in
the pod); the API says which pods there are and why one does not start. So no secret is in an API object, a
run's end is known after its pod has gone, and a lease ends in the pod itself, whether or not agent, API and
network live. Does not know artifacts or the grid.

Never done: a pod in place of another (`backoffLimit` 0, and a rank starts once), JobSets (a run is one set of
equal nodes, which is a Job; what a JobSet adds is restarting them), Pods without a Job (quotas and Kueue see
Jobs).
"""

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suan.engines import supervise
from suan.engines.devices import EVERYWHERE, free_port
from suan.engines.kubernetes_api import Api
from suan.engines.kubernetes_cluster import Cluster
from suan.engines.kubernetes_objects import Pod, Settings
from suan.engines.kubernetes_record import MADE, SCRIPT, STOP, PodPlace, PodRecord
from suan.engines.metering import power_share
from suan.engines.order import Placement, run_variables, shell_arguments, shell_text
from suan.engines.run_folders import Exit, RunFolders, ended_run, folder_name, run_of
from suan.grid import hardware
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.ports import EngineRun, LaunchSpec

_DOUBT_S = 30.0  # beyond lease and grace, before a machine that nobody hears is taken for dead


class KubernetesEngine:
    """`suan.ports.Engine` for one namespace. Several threads, an old and a new agent may use it at once."""

    def __init__(
        self,
        folder: Path,
        pools: Sequence[Pool],
        *,
        api: Api,
        settings: Settings,
        shared: Sequence[Path] = (),
    ) -> None:
        """Finds the runs that are in `folder`, which every pod sees at the same path, and `shared` besides
        it. Without `pools`, the site has what the cluster has.

        Raises: Refused `unknown_accelerator`; SiteTrouble when the API does not answer.
        """
        for pool in pools:
            hardware.accelerator(pool.accelerator)
        self._settings = settings
        self._folder = folder.resolve()
        self._volumes = tuple(dict.fromkeys([self._folder, *(path.resolve() for path in shared)]))
        self._lock = threading.RLock()
        self._runs = RunFolders(self._folder, self._lock)
        self._ended: dict[str, tuple[int, EngineRun]] = {}  # folder name -> inode, and the last word
        self._taken_s: dict[tuple[str, int], float] = {}  # when a rank was first seen taken
        self._beats: dict[tuple[str, int], tuple[int, float]] = {}  # in doubt: heartbeat, and since when
        self._lease_s = 0
        with self._runs.exclusive():
            self._site = self._own_label()
            self._program = self._copy_programs()
        self._cluster = Cluster(api, settings, self._site, pools)

    # ---------------------------------------------------------------- the port

    def pools(self) -> tuple[Pool, ...]:
        """See `Engine.pools`. A machine counts while it is ready and nobody else holds devices there; while
        the API does not answer, what was there last.
        """
        with self._lock:
            return self._cluster.pools()

    def free(self) -> dict[str, tuple[int, int]]:
        """(whole machines, their devices) of each pool that nobody holds now."""
        with self._lock:
            return self._cluster.free()

    def launch(self, spec: LaunchSpec) -> None:
        """See `Engine.launch`. A run is accepted when its folder appears, in one step; then its Job is made.
        A kill, or a lost answer, anywhere between leaves a run whose Job the next `runs` makes.

        Raises: SiteTrouble `no_devices`, `no_pool`, `no_queue`, `fields_dropped`, `launch_failed`, or the
        API's.
        """
        name = folder_name(spec.run)
        try:
            with self._runs.exclusive():
                if self._look(name) is not None:
                    return
                place = self._accept(spec, name)
                try:
                    self._submit(name, place)
                except SiteTrouble as trouble:
                    if trouble.code == "engine_unreachable":  # it may have heard
                        return
                    self._runs.remove(name)
                    raise
        except OSError as error:
            raise SiteTrouble("launch_failed", f"run {spec.run} could not be started: {error}") from error

    def stop(self, run: str, grace_s: int) -> None:
        name = folder_name(run)
        with self._lock:
            seen = self._look(name)
            if seen is None or seen.phase is RunPhase.ENDED:
                return
            record = PodRecord(self._runs.folder(name))
            record.order_stop(grace_s)
            record.withdraw("stopped", "stopped before it started")
            if (place := record.place()) is not None:
                self._cluster.delete(place.job)  # tells the pods at once; they would see it a second later

    def runs(self) -> tuple[EngineRun, ...]:
        with self._lock:
            self._cluster.look(self._going)
            seen = (self._look(entry.name, entry.inode()) for entry in self._runs.entries())
            return tuple(sorted((run for run in seen if run is not None), key=lambda run: run.run))

    def log(self, run: str, offset: int, limit: int) -> bytes:
        with self._lock:
            return PodRecord(self._runs.folder(folder_name(run))).log(offset, limit)

    def forget(self, run: str) -> None:
        name = folder_name(run)
        with self._runs.exclusive():
            seen = self._look(name)
            if seen is None or seen.phase is not RunPhase.ENDED:
                return
            self._runs.remove(name)
            self._ended.pop(name, None)

    def renew_lease(self, seconds: int) -> None:
        """See `Engine.renew_lease`. Before the first call there is no lease and runs go on by themselves."""
        self._lease_s = seconds
        lease = {"seconds": seconds, "at_s": time.time(), "number": uuid.uuid4().hex}
        supervise.write_json(str(self._lease), lease)

    # ---------------------------------------------------------------- launch

    @property
    def _lease(self) -> Path:
        return self._folder / "lease.json"

    def _own_label(self) -> str:
        """What this site's Jobs are labelled with, drawn once: another folder's are never taken for ours."""
        path = self._folder / "site-label"
        if not path.exists():
            path.write_text(uuid.uuid4().hex, "ascii")
        return path.read_text("ascii")

    def _copy_programs(self) -> Path:
        """The node's program where pods see it, a folder for each version: running pods keep theirs."""
        places = (Path(supervise.__file__), Path(__file__).with_name("kubernetes_node.py"))
        sources = {place.name: place.read_bytes() for place in places}
        digest = hashlib.blake2b(b"".join(sources.values()), digest_size=8).hexdigest()
        folder = self._folder / f"program-{digest}"
        if not folder.exists():
            fresh = self._folder / f".{uuid.uuid4().hex}"
            fresh.mkdir()
            for name, data in sources.items():
                (fresh / name).write_bytes(data)
            fresh.rename(folder)
        return folder / places[-1].name

    def _going(self) -> dict[str, tuple[PodPlace, int]]:
        """By Job: each accepted run that has not ended, and how many of its nodes have."""
        going = {}
        for entry in self._runs.entries():
            record = PodRecord(self._runs.folder(entry.name))
            if entry.name not in self._ended and record.exit() is None and (place := record.place()):
                going[place.job] = (place, len(record.node_exits(record.names())))
        return going

    def _accept(self, spec: LaunchSpec, name: str) -> PodPlace:
        """Writes the run down when devices are free for it: all or nothing."""
        pool = self._cluster.pool(spec.pool)
        going = self._going()
        self._cluster.check_free(pool, spec.nodes, spec.devices_per_node, going)
        kind = hardware.accelerator(pool.accelerator)
        share = spec.devices_per_node / pool.devices_per_node
        on_cpu = kind.device_class == hardware.CPU_DEVICE_CLASS
        place = PodPlace(
            run=spec.run,
            pool=pool.name,
            job=f"suan-{hashlib.blake2b(f'{self._site}/{spec.run}'.encode(), digest_size=10).hexdigest()}",
            nodes=spec.nodes,
            devices_per_node=spec.devices_per_node,
            resource=kind.kubernetes_resource,
            cpus=spec.devices_per_node if on_cpu else pool.cpus_per_node * share,
            memory_gib=spec.memory_gib,
            grace_s=spec.grace_s,
            port=spec.port or (free_port({one.port for one, _ in going.values()}) if spec.service else 0),
            accepted_at_s=int(time.time()),
            power=power_share(pool, spec.nodes, spec.devices_per_node),
        )
        with self._runs.making(name) as fresh:
            PodRecord(fresh).create(
                place, shell_text(spec), self._orders(spec, place, self._runs.folder(name))
            )
        return place

    def _orders(self, spec: LaunchSpec, place: PodPlace, folder: Path) -> list[dict[str, Any]]:
        """What each rank is to do, as `kubernetes_node.py` reads it."""
        common = {
            "shells": ["/bin/bash", "/bin/sh"],
            "arguments": shell_arguments("", shell_text(spec), folder / SCRIPT)[1:],
            "folder": str(spec.folder),
            "env": run_variables(spec, Placement(pins=(), host=EVERYWHERE, port=place.port)),
            "ranks": spec.nodes,
            "grace_s": spec.grace_s,
            "max_duration_s": spec.max_duration_s,
            "memory_bytes": int(spec.memory_gib * (1 << 30)),
            "lease": str(self._lease),
            "meet_s": self._settings.start_s,
        }
        variables = (rank_variables(spec, place, rank) for rank in range(spec.nodes))
        return [{**common, "nodes": [{"env": env, "cpus": []}]} for env in variables]

    def _submit(self, name: str, place: PodPlace) -> None:
        folder = self._runs.folder(name)
        command = (self._settings.python, "-s", "-S", "-E", str(self._program), str(folder))
        self._cluster.submit(place, command, self._volumes)
        (folder / MADE).touch()

    # ---------------------------------------------------------------- look

    def _look(self, name: str, inode: int | None = None) -> EngineRun | None:
        """The run in this folder as it is now, None when there is none. Mends what a kill left half done."""
        record = PodRecord(self._runs.folder(name))
        if inode is None:
            try:
                inode = record.folder.stat().st_ino
            except FileNotFoundError:
                return None
        known = self._ended.get(name)
        if known is not None and known[0] == inode:
            return known[1]
        place, exit, detail = record.place(), record.exit(), ""
        if exit is None and place is not None:
            detail = self._mend(name, record, place)
            names = record.names()
            exits = record.node_exits(names)
            if len(exits) == place.nodes:
                exit = record.end(exits)
                self._cluster.delete(place.job)
        elif exit is None and record.folder.exists():
            exit = Exit(
                cause=EndCause.LOST, ended_at_s=int(time.time()), detail="the run's record is damaged"
            )
        if exit is not None:
            run = ended_run(run_of(name), place, exit)
            self._ended[name] = (inode, run)
            return run
        if place is None:
            return None
        started_at_s = record.started_at_s(place.nodes)
        started = RunPhase.ORDERED if started_at_s is None else RunPhase.RUNNING
        return EngineRun(
            run=place.run,
            phase=RunPhase.STOPPING if STOP in names else started,
            started_at_s=started_at_s,
            detail="" if started_at_s else detail,
            address=record.address(),
            port=place.port,
        )

    def _mend(self, name: str, record: PodRecord, place: PodPlace) -> str:
        """What keeps the run from starting, in the cluster's words. Writes the exits of ranks that cannot do
        it themselves: those that get no pod any more, and those whose pod is gone.
        """
        view = self._cluster.view  # older than what is read now: who is over there has written its exit here
        job, pods = view.jobs.get(place.job), view.pods.get(place.job, [])
        names = record.names()
        exits = record.node_exits(names)
        trouble = next((pod.trouble for pod in pods if pod.trouble), "")
        if any(exit.cause != "exited" or exit.exit_code for exit in exits.values()):
            record.withdraw("followed", "another node ended")
        elif STOP in names:  # a kill came between the stop and what it does
            record.withdraw("stopped", "stopped before it started")
            self._cluster.delete(place.job)
        elif any(pod.cannot_start for pod in pods):
            record.withdraw("not_started", trouble)
        elif job is not None and job.has_failed:
            record.withdraw("not_started", trouble or job.trouble)
        elif time.time() - place.accepted_at_s > self._settings.start_s:
            record.withdraw("not_started", f"waited {self._settings.start_s} s for the cluster: {trouble}")
        elif job is None and MADE not in names:
            with contextlib.suppress(SiteTrouble):  # the next look tries again
                self._submit(name, place)
        elif job is None and not pods and self._cluster.knows_of(place.job):
            record.withdraw("lost", "its Job was deleted")
        for rank in range(place.nodes):
            if f"node-{rank}.json" in names and rank not in exits:
                self._mend_rank(record, place, rank, pods)
        return trouble

    def _mend_rank(self, record: PodRecord, place: PodPlace, rank: int, pods: Sequence[Pod]) -> None:
        """Ends a rank that was taken when its pod is gone, or its machine has been silent for so long that
        the lease has ended there.
        """
        key, now_s = (place.job, rank), supervise.boot_clock_s()
        node = record.node(rank)
        pod = next((pod for pod in pods if node is not None and pod.metadata.name == node["pod"]), None)
        since_s = self._taken_s.setdefault(key, now_s)
        if pod is not None and pod.is_over:
            record.end_node(rank, "lost", f"its pod ended without a word: {pod.trouble}")
        elif pod is None and self._cluster.view.asked_s > since_s and not (node is None and pods):
            record.end_node(rank, "lost", "its pod is gone")
        elif pod is None or not pod.is_in_doubt:
            self._beats.pop(key, None)
        else:
            beat = record.heartbeat(rank)
            known, since_s = self._beats.setdefault(key, (beat, now_s))
            if known != beat:
                self._beats[key] = (beat, now_s)
            elif now_s - since_s > self._lease_s + place.grace_s + _DOUBT_S:
                record.end_node(rank, "lost", f"its machine {pod.spec.node_name} is silent")
                self._cluster.write_off(pod)


def rank_variables(spec: LaunchSpec, place: PodPlace, rank: int) -> dict[str, str]:
    """Rank and world of one node. Its devices are what the container sees, so none is named."""
    on_cpu = place.resource == "cpu"
    return {
        "SUAN_NODE_RANK": str(rank),
        "SUAN_NUM_NODES": str(spec.nodes),
        "SUAN_DEVICES_PER_NODE": str(spec.devices_per_node),
        "RANK": str(rank),
        "NODE_RANK": str(rank),
        "WORLD_SIZE": str(spec.nodes),
        "LOCAL_RANK": "0",
        "SKYPILOT_NODE_RANK": str(rank),
        "SKYPILOT_NUM_NODES": str(spec.nodes),
        "SKYPILOT_NUM_GPUS_PER_NODE": "0" if on_cpu else str(spec.devices_per_node),
        "OMP_NUM_THREADS": spec.env.get("OMP_NUM_THREADS", str(max(1, int(place.cpus)))),
    }
