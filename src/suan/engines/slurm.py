"""Runs as jobs of a Slurm cluster; each node's part of a run is under a supervisor that outlives the agent.

Knows its own books (one folder a run, on a file system that all nodes share) and what Slurm answers. Which
nodes a run gets, and when, is Slurm's business: a run that other users' jobs keep waiting stays ORDERED.
Does not know artifacts or the grid.

What holds the promises:
- A run is accepted when its folder appears, in one step; its job carries the run's name and no number
  decides. A submission whose answer was lost is found again by that name, or made again: only one job can
  claim a run.
- Ends come from what the nodes wrote. Slurm's word counts when they can write no more: its job is over, and
  nothing has touched the run's files since.
- While slurmctld is down, runs are what their files say, and nothing is lost.
"""

import contextlib
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from suan.engines import slurm_node, supervise
from suan.engines.devices import EVERYWHERE, LOOPBACK, choose_devices, free_port
from suan.engines.metering import power_share
from suan.engines.order import Placement, inherited, shell_arguments, shell_text
from suan.engines.record import SCRIPT, boot_id
from suan.engines.run_folders import Exit, RunFolders, ended_run, folder_name, run_of
from suan.engines.slurm_answers import Job
from suan.engines.slurm_calls import Latest, Slurm
from suan.engines.slurm_order import install_program, job_request, node_order
from suan.engines.slurm_pools import PoolWatch, SlurmPool
from suan.engines.slurm_record import (
    LOG,
    Place,
    SlurmRecord,
    ended_now,
    explained,
    joined,
    slurms_word,
)
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.ports import EngineRun, LaunchSpec

_POLL_S = 2.0  # between questions about jobs; what the nodes write is looked at every time
_SETTLE_S = 5.0  # after Slurm says a job is over, for what its nodes wrote last to be seen here
_GONE_S = 60.0  # after Slurm has forgotten a job, without a sign of life from its nodes
_LATE_S = 15.0  # after the grace of a stop, before Slurm is told to end the job


class SlurmEngine:
    """`suan.ports.Engine` for one Slurm cluster. Several threads, an old and a new agent may use it at
    once.
    """

    def __init__(
        self, folder: Path, slurm: Slurm, declared: Sequence[Pool] = (), *, account: str = ""
    ) -> None:
        """Finds the runs that are in `folder`, which every node of the cluster must see under the same name.

        Raises: Refused `unknown_pool` for a declared pool that Slurm does not have; SiteTrouble when Slurm
        cannot be asked and never was.
        """
        self._slurm, self._account = slurm, account
        self._folder = folder.resolve()
        self._shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        self._lock = threading.RLock()
        self._runs = RunFolders(self._folder, self._lock)
        self._ended: dict[str, tuple[int, EngineRun]] = {}  # folder name -> inode, and the last word
        self._over: dict[
            str, tuple[float, tuple[int, ...]]
        ] = {}  # since when it looks over, and its last sign
        self._done_s: dict[str, float] = {}  # since when all of its nodes have told their end
        self._unknown_s: dict[str, float] = {}  # since when Slurm does not know its job
        self._told_s: dict[int, float] = {}  # job -> when Slurm was last told to end it
        self._stray_s: dict[int, float] = {}  # job -> since when no run of ours needs it
        self._submitting: set[str] = set()
        self._jobs = Latest(self._own_jobs, _POLL_S)
        with self._runs.exclusive():
            self._program = install_program(self._folder)
            self._label = f"suan-{self._engine_id()}-"
        self._watch = PoolWatch(slurm, declared, self._folder / "pools.json")

    # ---------------------------------------------------------------- the port

    def pools(self) -> tuple[Pool, ...]:
        """See `Engine.pools`: the nodes that take work now, whoever uses them."""
        return tuple(found.pool for found in self._watch.ask().values())

    def inventory(self) -> tuple[tuple[SlurmPool, ...], tuple[str, ...]]:
        """(the pools with what is free in them now, what is lacking); other users' jobs are counted.

        Raises: SiteTrouble when Slurm cannot be asked.
        """
        return tuple(self._watch.ask(must=True).values()), self._watch.lacks

    def launch(self, spec: LaunchSpec) -> None:
        """See `Engine.launch`. Devices are counted against this site's own runs; other users' jobs only
        delay.

        Raises: SiteTrouble `no_devices`, `no_pool`, `no_port`, `launch_failed`.
        """
        name = folder_name(spec.run)
        self._watch.ask()
        try:
            with self._runs.exclusive():
                if self._runs.folder(name).exists():
                    return
                self._accept(spec, name)
                self._submitting.add(name)
            try:  # without the lock: a slow Slurm delays nobody who only looks
                self._submit(name)
            except SiteTrouble as trouble:
                if trouble.fields.get("unsure"):
                    return  # Slurm may have it: the next look finds it by name, or submits it again
                with self._runs.exclusive():
                    self._remove(name)
                raise SiteTrouble("launch_failed", f"run {spec.run}: {trouble.what}") from trouble
            finally:
                self._submitting.discard(name)
        except OSError as error:
            raise SiteTrouble("launch_failed", f"run {spec.run} could not be started: {error}") from error

    def stop(self, run: str, grace_s: int) -> None:
        name = folder_name(run)
        with self._lock:
            record = SlurmRecord(self._runs.folder(name))
            if record.place() is None or record.exit() is not None:
                return
            record.order_stop(grace_s)
            self._look(name, self._jobs.get())
            self._jobs.expire()

    def runs(self) -> tuple[EngineRun, ...]:
        with self._lock:
            entries = [(entry.name, entry.inode()) for entry in self._runs.entries()]
            going = [name for name, inode in entries if self._ended.get(name, (0,))[0] != inode]
            jobs = self._jobs.get() if any(not self._has_ended(name) for name in going) else None
            self._sweep(jobs or {})
            seen = (self._look(name, jobs, inode) for name, inode in entries)
            return tuple(sorted((run for run in seen if run is not None), key=lambda run: run.run))

    def log(self, run: str, offset: int, limit: int) -> bytes:
        try:
            with open(self._runs.folder(folder_name(run)) / LOG, "rb") as file:
                return os.pread(file.fileno(), max(0, limit), max(0, offset))
        except FileNotFoundError:
            return b""

    def forget(self, run: str) -> None:
        name = folder_name(run)
        with self._runs.exclusive():
            if self._has_ended(name):
                self._remove(name)

    def renew_lease(self, seconds: int) -> None:
        """See `Engine.renew_lease`. Nodes count from when they see it change, on their own clocks."""
        lease = {"seconds": seconds, "beat": uuid.uuid4().hex}
        own = {"deadline_s": supervise.boot_clock_s() + seconds, "boot_id": boot_id()}
        supervise.write_json(str(self._folder / slurm_node.LEASE), lease | own)

    # ---------------------------------------------------------------- around the runs

    def _engine_id(self) -> str:
        """Tells this engine's jobs from those of other sites on the same cluster."""
        path = self._folder / "engine.json"
        kept = supervise.read_json(str(path))
        if kept is None:
            kept = {"id": uuid.uuid4().hex[:8]}
            supervise.write_json(str(path), kept, durable=True)
        return str(kept["id"])

    def _remove(self, name: str) -> None:
        self._runs.remove(name)
        self._ended.pop(name, None)

    # ---------------------------------------------------------------- launch

    def _accept(self, spec: LaunchSpec, name: str) -> None:
        """Writes the run down with the devices that are promised to it: all or nothing."""
        found = self._watch.pools.get(spec.pool)
        if found is None:
            known = ", ".join(self._watch.pools)
            raise SiteTrouble("no_pool", f"this site has no pool {spec.pool!r}", hint=f"it has: {known}")
        places = self._active_places()
        taken = {index for place in places if place.pool == spec.pool for index in place.devices}
        devices = choose_devices(found.pool, spec.nodes, spec.devices_per_node, taken)
        ports = {port for place in places for port in (place.port, place.rendezvous_port)}
        rendezvous_port = free_port(ports)
        port = spec.port or (free_port(ports | {rendezvous_port}) if spec.service else 0)
        placement = Placement(pins=(), host=EVERYWHERE, port=port, rendezvous_port=rendezvous_port)
        place = Place(
            run=spec.run,
            pool=spec.pool,
            devices=devices,
            port=port,
            rendezvous_port=rendezvous_port,
            power=power_share(found.pool, spec.nodes, spec.devices_per_node),
            request=job_request(
                spec,
                found,
                name=self._label + name,
                record=self._runs.folder(name),
                program=self._program,
                account=self._account,
            ),
        )
        with self._runs.making(name) as fresh:
            text = shell_text(spec)
            (fresh / SCRIPT).write_text(text, "utf-8", "surrogateescape")
            arguments = shell_arguments(self._shell, text, self._runs.folder(name) / SCRIPT)
            order = node_order(
                spec, found, placement=placement, arguments=arguments, lease=self._folder / slurm_node.LEASE
            )
            SlurmRecord(fresh).create(place, order)

    def _active_places(self) -> list[Place]:
        """Of the runs that hold devices: all that have not ended, the stopping ones too."""
        places = []
        for entry in self._runs.entries():
            record = SlurmRecord(self._runs.folder(entry.name))
            seen = None if self._has_ended(entry.name) else self._look(entry.name, None, entry.inode())
            if seen is not None and seen.phase is not RunPhase.ENDED and (place := record.place()):
                places.append(place)
        return places

    def _submit(self, name: str) -> None:
        record = SlurmRecord(self._runs.folder(name))
        place = record.place()
        if place is not None:
            record.note_submitted(self._slurm.submit(place.request, inherited(os.environ)))
            self._jobs.expire()  # the last answer does not have it

    # ---------------------------------------------------------------- look

    def _has_ended(self, name: str) -> bool:
        return name in self._ended or SlurmRecord(self._runs.folder(name)).exit() is not None

    def _own_jobs(self) -> dict[str, list[Job]]:
        """What Slurm knows of this engine's jobs, by name."""
        found: dict[str, list[Job]] = defaultdict(list)
        for job in self._slurm.jobs():
            if job.name.startswith(self._label):
                found[job.name].append(job)
        return dict(found)

    def _sweep(self, jobs_by_name: Mapping[str, list[Job]]) -> None:
        """Ends jobs of this engine that no run needs: its run was removed, or another job has it. One that
        has just ended is left to do so: accounts would show it as cancelled.
        """
        stray: dict[int, float] = {}
        for name, jobs in jobs_by_name.items():
            folder = name.removeprefix(self._label)
            if not self._runs.folder(folder).exists() or self._has_ended(folder):
                for job in jobs:
                    if not job.over:
                        stray[job.id] = self._stray_s.get(job.id, time.monotonic())
                        if job.pending or time.monotonic() - stray[job.id] > _LATE_S:
                            self._cancel([job])
        self._stray_s = stray

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Tells Slurm to end them, again after a while; what it says shows in the next look."""
        for job in jobs:
            if time.monotonic() - self._told_s.get(job.id, float("-inf")) > _LATE_S:
                self._told_s[job.id] = time.monotonic()
                with contextlib.suppress(SiteTrouble):
                    self._slurm.cancel(job.id)
                self._jobs.expire()

    def _look(
        self, name: str, jobs: Mapping[str, list[Job]] | None, inode: int | None = None
    ) -> EngineRun | None:
        """The run in this folder as it is now, None when there is none. Mends what a kill left half done."""
        record = SlurmRecord(self._runs.folder(name))
        if inode is not None and self._ended.get(name, (None,))[0] == inode:
            return self._ended[name][1]
        place, exit = record.place(), record.exit()
        if place is None and exit is None:
            if not record.folder.exists():
                return None
            exit = ended_now(EndCause.LOST, "the run's record is damaged")
        exit = exit or self._judge(name, place, record, jobs)  # type: ignore[arg-type]
        if exit is not None:
            run = ended_run(run_of(name), place, exit)
            with contextlib.suppress(FileNotFoundError):
                self._ended[name] = (record.folder.stat().st_ino, run)
            for memory in (self._over, self._done_s):
                memory.pop(name, None)
            return run
        assert place is not None, "judged"
        states = record.states(place.request.nodes)
        waiting = next((job.reason for job in (jobs or {}).get(place.request.name, ()) if job.pending), "")
        stopping = record.stop() is not None or any(state.phase != "running" for state in states)
        return EngineRun(
            run=place.run,
            phase=RunPhase.STOPPING if stopping else RunPhase.RUNNING if states else RunPhase.ORDERED,
            started_at_s=min(state.started_at_s for state in states) if states else None,
            address=states[0].address if states else LOOPBACK,
            port=place.port,
            detail=f"Slurm: {waiting}" if not states and waiting not in ("", "None") else "",
        )

    def _judge(
        self, name: str, place: Place, record: SlurmRecord, jobs: Mapping[str, list[Job]] | None
    ) -> Exit | None:
        """How the run ended, None while it has not, or nobody can say. Does for it what is to be done."""
        exits = record.exits(place.request.nodes)
        its = (jobs or {}).get(place.request.name, [])
        going = [job for job in its if not job.over]
        if len(exits) == place.request.nodes:
            exit = joined(exits, record.failed_node())
            # Why Slurm ended it is known once it says that the job is over. Even one that exited may have
            # been told to by Slurm: a while is given to hear that.
            unexplained = exit.cause in (EndCause.LOST, EndCause.EXITED) and going and record.stop() is None
            waited_s = time.monotonic() - self._done_s.setdefault(name, time.monotonic())
            if unexplained and (exit.cause is EndCause.LOST or waited_s < _SETTLE_S):
                return None
            return record.end(explained(exit, record.stop(), its))
        if jobs is None:
            return None
        if going:
            self._over.pop(name, None)
            self._unknown_s.pop(name, None)
            self._press(record, going)
            return None
        if not its and not record.is_submitted():
            return self._submit_again(name, record)
        life = record.life(place.request.nodes)
        since_s, last = self._over.setdefault(name, (time.monotonic(), life))
        if life != last:
            self._over[name] = since_s, _ = time.monotonic(), life
        never_placed = bool(its) and not any(job.nodes for job in its)
        wait_s = 0.0 if never_placed else _SETTLE_S if its else _GONE_S
        if not its and life and time.monotonic() - self._unknown_s.setdefault(name, since_s) >= _GONE_S:
            # slurmctld lost its state, or an agent was away for long: what lives has to end
            record.order_stop(0, EndCause.LOST, "Slurm does not know the run's job any more")
        if time.monotonic() - since_s < wait_s:
            return None
        return record.end(slurms_word(record, place.request.nodes, its))

    def _submit_again(self, name: str, record: SlurmRecord) -> Exit | None:
        """Nobody knows the run's job: an agent was killed before it asked for one, or the answer was lost."""
        stop = record.stop()
        if name in self._submitting:
            return None
        if stop is not None:
            return record.end(ended_now(stop.cause, stop.detail or "stopped before it started"))
        try:
            self._submit(name)
        except SiteTrouble as trouble:
            if not trouble.fields.get("unsure"):
                return record.end(ended_now(EndCause.NOT_STARTED, trouble.what))
        return None

    def _press(self, record: SlurmRecord, going: Sequence[Job]) -> None:
        """Ends in Slurm what must not start any more, and what has outlived its stop."""
        if not record.has_begun() and record.stop() is None and self._lease_has_ended():
            record.order_stop(0, EndCause.FENCED, "the site's lease ended before Slurm started it")
        stop = record.stop()
        if stop is not None:
            late = supervise.boot_clock_s() > stop.deadline_s + _LATE_S
            if late or not record.has_begun():
                self._cancel(going)

    def _lease_has_ended(self) -> bool:
        lease = supervise.read_json(str(self._folder / slurm_node.LEASE))
        return (
            lease is not None
            and lease["boot_id"] == boot_id()
            and lease["deadline_s"] <= supervise.boot_clock_s()
        )
