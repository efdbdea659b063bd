"""Runs as jobs of a Ray cluster, submitted over its Jobs REST API; their nodes are supervised where they run.

Knows pools, Ray's nodes and the folder where runs are kept, which every node has to see at the same path.
Everything it says of a run is read from there: Ray forgets its jobs with its head, and its word about a job
after that is not to be trusted. Ray is asked where the folder is silent. Does not know artifacts or the grid.

What holds the promises:
- The submission id is made of the run's. A job that Ray starts twice, late or after its stop finds the run's
  claim taken and starts nothing, so a job that stays pending can be ended at once.
- Nothing is submitted that cannot start now: this engine picks the nodes, counting what it has promised
  itself and what Ray says that others use. What waits all the same is given up after `_PATIENCE_S`.
- Stops, leases and limits are kept on the nodes, by `ray_node.py` and `supervise.py`, whether the agent or
  the head live or not.
"""

import contextlib
import hashlib
import os
import random
import re
import secrets
import shlex
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from suan.engines import supervise
from suan.engines.devices import LOOPBACK
from suan.engines.metering import power_share
from suan.engines.order import shell_text
from suan.engines.ray_api import ENDED, JobSeen, JobWatch, RayApi, RayNode, Submission
from suan.engines.ray_order import is_local, node_orders, program_folder
from suan.engines.ray_pools import counted, fitting, pool_nodes, pools_of
from suan.engines.ray_record import Plan, RayRecord, lost_detail, unstarted
from suan.engines.record import SCRIPT
from suan.engines.run_folders import Exit, RunFolders, ended_run, folder_name, run_of
from suan.grid import hardware
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.ports import EngineRun, LaunchSpec

_PATIENCE_S = 120.0  # for a submitted job to start: what fitted a moment ago was taken by somebody else
_SETTLE_S = 10.0  # for Ray's usage to show what has just ended, before a launch is turned away
_FRESH_S = 5.0  # how long a submitted job may be missing from that usage; 2 s were seen on a busy machine
_SILENT_S = 20.0  # without a sign of life, once Ray says that the job is over: there is one a second
_FENCED_S = 60.0  # beyond lease and grace, a silent run must have been fenced, whatever Ray says of it
_FORGOTTEN_S = 1.0  # after which a job that Ray does not know is submitted again
_ALL_NODES = 1 << 30  # as many as there are
_POOLS_S = 10.0  # between two counts of the nodes
_SWEEP_S = 60.0
_MOST_TRIES = 3  # of a submission that Ray has forgotten
_PORTS = range(20_000, 32_000)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RayEngine:
    """`suan.ports.Engine` for a Ray cluster. Several threads, an old and a new agent may use it at once."""

    def __init__(self, folder: Path, pools: Sequence[Pool], api: RayApi) -> None:
        """Finds the runs that are in `folder`. Without `pools`, takes those that the cluster has.

        Raises: Refused `unknown_accelerator`; SiteTrouble `ray_unreachable`, `ray_no_access`, `no_pool`.
        """
        for pool in pools:
            hardware.accelerator(pool.accelerator)
        self._api, self._watch = api, JobWatch(api)
        nodes = api.nodes()
        self._declared = tuple(pools) or pools_of(nodes, count=_ALL_NODES)
        self._pools = counted(self._declared, nodes)
        if not any(pool.nodes for pool in self._pools):
            raise SiteTrouble("no_pool", f"{api.address} has no node that a pool could be made of")
        self._looked_s = time.monotonic()
        self._folder = folder.resolve()
        self._program = program_folder(self._folder)
        self._id = self._own_id()
        self._prefix = f"suan-{self._id}-"  # of the names of all its jobs
        self._launching, self._lock = threading.Lock(), threading.RLock()
        self._runs = RunFolders(self._folder, self._launching)
        self._ended: dict[str, tuple[int, EngineRun]] = {}  # folder name -> inode, and the last word
        self._submitted_s: dict[str, float] = {}  # name -> when, on the monotonic clock
        self._pulses: dict[str, tuple[int, float]] = {}  # name -> newest sign of life, and when it was seen
        self._tries: Counter[str] = Counter()
        self._watch.later(self._sweep)

    # ---------------------------------------------------------------- the port

    def pools(self) -> tuple[Pool, ...]:
        """The declared pools, else what the cluster had at the start; nodes are counted in the background."""
        if time.monotonic() - self._looked_s > _POOLS_S:
            self._looked_s = time.monotonic()
            self._watch.later(self._look_around)
        return self._pools

    def launch(self, spec: LaunchSpec) -> None:
        """See `Engine.launch`. Returns when Ray has the job; what could not be submitted never starts.

        Raises: SiteTrouble `no_devices`, `no_pool`, `no_service`, `launch_failed`, `ray_unreachable`.
        """
        name = folder_name(spec.run)
        if self._runs.folder(name).exists():
            return
        try:
            with self._runs.exclusive():
                if not self._runs.folder(name).exists():
                    plan = self._accept(spec, name, self._choose(spec))
                    try:
                        self._submit(name, plan)
                    except BaseException:
                        self._remove(name)  # should Ray have the job after all, it finds nothing to start
                        raise
        except OSError as error:
            raise SiteTrouble("launch_failed", f"run {spec.run} could not be started: {error}") from error

    def stop(self, run: str, grace_s: int) -> None:
        name = folder_name(run)
        with self._lock:
            seen = self._look(name)
            if seen is None or seen.phase is RunPhase.ENDED:
                return
            record = RayRecord(self._runs.folder(name))
            record.order_stop(grace_s)
            if record.cancel():
                # Ray is not told: a job that it is asked to stop while it waits can stay waiting for ever.
                record.end(unstarted(EndCause.STOPPED, "stopped before it started"))

    def runs(self) -> tuple[EngineRun, ...]:
        with self._lock:
            seen = [self._look(entry.name, entry.inode()) for entry in self._runs.entries()]
            return tuple(sorted((run for run in seen if run is not None), key=lambda run: run.run))

    def log(self, run: str, offset: int, limit: int) -> bytes:
        record = RayRecord(self._runs.folder(folder_name(run)))
        plan = record.plan()
        return b"" if plan is None else record.log(len(plan.node_ids), offset, limit)

    def forget(self, run: str) -> None:
        name = folder_name(run)
        with self._lock:
            seen, plan = self._look(name), RayRecord(self._runs.folder(name)).plan()
            if seen is None or seen.phase is not RunPhase.ENDED:
                return
            self._remove(name)
            for memory in (self._ended, self._submitted_s, self._pulses, self._tries):
                memory.pop(name, None)
        if plan is not None:
            self._watch.forget(plan.submission_id)

    def renew_lease(self, seconds: int) -> None:
        """See `Engine.renew_lease`. The nodes count from when they see it, in their own time."""
        lease = {"seconds": seconds, "text": uuid.uuid4().hex}
        supervise.write_json(str(self._folder / "lease.json"), lease)

    # ---------------------------------------------------------------- launch

    def _own_id(self) -> str:
        """Tells this site's jobs from those of others on the cluster; made once a folder."""
        path = self._folder / "engine-id"
        with contextlib.suppress(FileExistsError):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(4))
        return path.read_text("ascii").strip()

    def _choose(self, spec: LaunchSpec) -> tuple[RayNode, ...]:
        """Nodes that have room now. Waits a moment where only Ray's own counting still lags behind."""
        pool = next((pool for pool in self._declared if pool.name == spec.pool), None)
        if pool is None:
            known = ", ".join(pool.name for pool in self._pools)
            raise SiteTrouble("no_pool", f"this site has no pool {spec.pool!r}", hint=f"it has: {known}")
        deadline_s = time.monotonic() + _SETTLE_S
        while True:
            nodes = pool_nodes(pool, self._api.nodes())
            if spec.service and not (nodes := tuple(node for node in nodes if is_local(node.ip))):
                raise SiteTrouble("no_service", f"pool {pool.name} has no node on the agent's own machine")
            own, fresh = self._held()
            found = fitting(pool, nodes, spec.devices_per_node, own=own, fresh=fresh)
            if len(found.now) >= spec.nodes:
                return found.now[: spec.nodes]
            if len(found.soon) < spec.nodes or time.monotonic() > deadline_s:
                raise SiteTrouble(
                    "no_devices",
                    f"pool {pool.name} has {len(found.now)} nodes with at least {spec.devices_per_node} "
                    f"free devices; {spec.nodes} were asked for",
                    hint="wait for a run to end: suan jobs",
                    pool=pool.name,
                    free_devices=found.free_devices,
                )
            time.sleep(0.3)

    def _held(self) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
        """By node: what this site's runs hold, and the part of it that Ray may not have counted yet."""
        own: dict[str, Counter[str]] = {}
        fresh: dict[str, Counter[str]] = {}
        now_s = time.monotonic()
        for name in self._runs.names():
            with self._lock:
                seen = self._look(name)
            record = RayRecord(self._runs.folder(name))
            plan = record.plan() if seen is not None and seen.phase is not RunPhase.ENDED else None
            if plan is None:
                continue
            is_fresh = not record.is_claimed() or now_s - self._submitted_s.get(name, 0.0) < _FRESH_S
            for holders in (own, fresh) if is_fresh else (own,):
                for node, bundle in zip(plan.node_ids, plan.bundles, strict=True):
                    holders.setdefault(node, Counter()).update(bundle)
        return own, fresh

    def _accept(self, spec: LaunchSpec, name: str, nodes: Sequence[RayNode]) -> Plan:
        """Writes the run down: all or nothing."""
        pool = next(pool for pool in self._declared if pool.name == spec.pool)
        taken = {port for run in self.runs() if run.phase is not RunPhase.ENDED for port in self._ports(run)}
        meeting, service = random.sample([port for port in _PORTS if port not in taken], k=2)
        port = spec.port or (service if spec.service else 0)
        bundles, orders = node_orders(spec, nodes, self._runs.folder(name), meeting_port=meeting, port=port)
        plan = Plan(
            run=spec.run,
            submission_id=self._submission_id(spec.run),
            pool=pool.name,
            node_ids=tuple(node.id for node in nodes),
            bundles=bundles,
            ports=(meeting, port),
            port=port,
            grace_s=spec.grace_s,
            power=power_share(pool, spec.nodes, spec.devices_per_node),
        )
        with self._runs.making(name) as fresh:
            (fresh / SCRIPT).write_text(shell_text(spec), "utf-8", "surrogateescape")
            RayRecord(fresh).create(plan, orders)
        return plan

    def _ports(self, run: EngineRun) -> tuple[int, ...]:
        plan = RayRecord(self._runs.folder(folder_name(run.run))).plan()
        return plan.ports if plan is not None else ()

    def _submission_id(self, run: str) -> str:
        """Ray's name for the run, the same each time. It names files there, so spelling is kept plain."""
        plain = run if _PLAIN.fullmatch(run) else hashlib.sha256(run.encode()).hexdigest()[:32]
        return f"{self._prefix}{plain}"

    def _submit(self, name: str, plan: Plan) -> None:
        """One node: the job's entrypoint is there. More: it is on the head, holds nothing, starts them."""
        needs = dict(plan.bundles[0]) if len(plan.bundles) == 1 else {}
        command = shlex.join(["python3", str(self._program), str(self._runs.folder(name))])
        self._api.submit(
            Submission(
                entrypoint=f"exec {command}",
                submission_id=plan.submission_id,
                metadata={"job_name": plan.run, "suan_run": plan.run, "suan_engine": self._id},
                entrypoint_num_cpus=needs.pop("CPU", 0),
                entrypoint_num_gpus=needs.pop("GPU", 0),
                entrypoint_resources=needs,
            )
        )
        self._submitted_s[name] = time.monotonic()
        self._tries[name] += 1

    def _remove(self, name: str) -> None:
        self._runs.remove(name)

    # ---------------------------------------------------------------- look

    def _look(self, name: str, inode: int | None = None) -> EngineRun | None:
        """The run in this folder as it is now, None when there is none."""
        record = RayRecord(self._runs.folder(name))
        if inode is None:
            try:
                inode = record.folder.stat().st_ino
            except FileNotFoundError:
                return None
        known = self._ended.get(name)
        if known is not None and known[0] == inode:
            return known[1]
        plan = record.plan()
        if plan is None:
            return None
        exit = record.exit() or self._conclude(name, record, plan)
        if exit is not None:
            run = ended_run(run_of(name), plan, exit)
            self._ended[name] = (inode, run)
            return run
        states = [state for state in record.states(len(plan.node_ids)) if state is not None]
        stopping = record.is_stop_ordered() or any(state.phase != "running" for state in states)
        whole = len(states) == len(plan.node_ids)
        return EngineRun(
            run=run_of(name),
            phase=RunPhase.STOPPING if stopping else RunPhase.RUNNING if whole else RunPhase.ORDERED,
            started_at_s=min((state.started_at_s for state in states), default=None),
            address=states[0].address if whole else LOOPBACK,
            port=plan.port,
        )

    def _conclude(self, name: str, record: RayRecord, plan: Plan) -> Exit | None:
        """The end of a run that has none on record yet; None while it is not over."""
        nodes = len(plan.node_ids)
        told = record.told(nodes)
        if told is not None:
            return record.end(told)
        if record.is_cancelled():
            stopped = record.is_stop_ordered()
            return record.end(unstarted(EndCause.STOPPED if stopped else EndCause.NOT_STARTED, "cancelled"))
        if not record.is_claimed():
            return self._mend_unstarted(name, record, plan)
        pulse, now_s = record.pulse_ns(nodes), time.monotonic()
        if self._pulses.get(name, (0, 0.0))[0] != pulse:
            self._pulses[name] = (pulse, now_s)
        silent_s = now_s - self._pulses[name][1]
        if record.stop_overdue_s() > _SILENT_S:
            self._watch.seldom(plan.submission_id, lambda: self._api.stop(plan.submission_id))
        if silent_s < _SILENT_S:
            return None
        job = self._watch.job(plan.submission_id)
        lease = supervise.read_json(str(self._folder / "lease.json"))
        if lease is not None and silent_s > lease["seconds"] + plan.grace_s + _FENCED_S:
            return record.end(record.lost(nodes, EndCause.FENCED, "silent for longer than its lease"))
        if job is None or (isinstance(job, JobSeen) and job.status in ENDED):
            return record.end(record.lost(nodes, EndCause.LOST, lost_detail(job)))
        return None

    def _mend_unstarted(self, name: str, record: RayRecord, plan: Plan) -> Exit | None:
        """Submits again what Ray has forgotten; gives up what it cannot or does not start."""
        now_s = time.monotonic()
        submitted_s = self._submitted_s.setdefault(name, now_s)
        job = self._watch.job(plan.submission_id)
        if job is None and now_s - submitted_s > _FORGOTTEN_S and self._tries[name] < _MOST_TRIES:
            self._watch.seldom(plan.submission_id, lambda: self._submit(name, plan))
            return None
        failed = isinstance(job, JobSeen) and job.status in ENDED
        if not failed and now_s - submitted_s < _PATIENCE_S:
            return None
        if not record.cancel():
            return None
        detail = f"Ray did not start it within {_PATIENCE_S:g} s"
        if failed and isinstance(job, JobSeen):
            said = " ".join((job.message or job.status).split())
            detail = f"Ray could not start it: {said[-300:]}"
        return record.end(unstarted(EndCause.NOT_STARTED, detail))

    # ---------------------------------------------------------------- in the background

    def _look_around(self) -> None:
        self._pools = counted(self._declared, self._api.nodes())
        self._watch.seldom("sweep", self._sweep, _SWEEP_S)

    def _sweep(self) -> None:
        """Takes jobs out of Ray's list whose runs this site no longer knows, stopping those that go on. Those
        that wait are left to start: they find nothing to do.
        """
        jobs = self._api.jobs()  # first: a run's folder is there before its job
        known = {
            plan.submission_id
            for name in self._runs.names()
            if (plan := RayRecord(self._runs.folder(name)).plan()) is not None
        }
        for job in jobs:
            # By its name: Ray writes a deleted job down again, without metadata, when its own watch over it
            # ends after the deletion (put_status in its job manager; seen with 2.60).
            name = job.submission_id
            if name is None or not name.startswith(self._prefix) or name in known:
                continue
            with contextlib.suppress(SiteTrouble):  # the next sweep tries again
                if job.status in ENDED:
                    self._api.delete(name)
                elif job.status == "RUNNING":
                    self._api.stop(name)
