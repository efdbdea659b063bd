"""Runs as processes of this machine, each under a supervisor of its own that outlives the agent.

Knows pools, devices and the folder where runs are kept; everything it says is read from there, so that a new
`LocalEngine` on the same folder goes on where a killed one stopped. Does not know artifacts or the grid.

A run's environment: the agent's own without its SUAN_ variables (they may hold its key), then the order's.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from suan.engines import supervise
from suan.engines.devices import choose_devices, free_port, pin
from suan.engines.metering import power_share
from suan.engines.order import Placement, inherited, shell_arguments, shell_text, supervisor_order
from suan.engines.record import SCRIPT, SUPERVISOR_LOG, Place, RunRecord, boot_id
from suan.engines.run_folders import Exit, RunFolders, ended_run, folder_name, run_of
from suan.grid import hardware
from suan.grid.error import SiteTrouble
from suan.grid.job import RunPhase
from suan.grid.site import Pool
from suan.ports import EngineRun, LaunchSpec

_MOST_STARTS = 3  # of a supervisor that ends before it has begun, by one engine
_LONGEST_NAME = 200  # of a run's folder; file systems take 255 bytes


class LocalEngine:
    """`suan.ports.Engine` for this machine. Several threads, an old and a new agent may use it at once."""

    def __init__(self, folder: Path, pools: Sequence[Pool]) -> None:
        """Finds the runs that are in `folder`.

        Raises: Refused `unknown_accelerator` for a pool of a kind that is not in the table.
        """
        for pool in pools:
            hardware.accelerator(pool.accelerator)
        self._pools = {pool.name: pool for pool in pools}
        self._folder = folder.resolve()
        self._shell = shutil.which("bash") or "/bin/sh"
        self._lock = threading.RLock()
        self._runs = RunFolders(self._folder, self._lock)
        self._ended: dict[str, tuple[int, EngineRun]] = {}  # folder name -> inode, and the last word
        self._supervisors: dict[str, subprocess.Popen[bytes]] = {}  # those that this engine started
        self._starts: Counter[str] = Counter()

    # ---------------------------------------------------------------- the port

    def pools(self) -> tuple[Pool, ...]:
        return tuple(self._pools.values())

    def launch(self, spec: LaunchSpec) -> None:
        """See `Engine.launch`. A run is accepted when its folder appears, in one step, and started when its
        supervisor says so. A kill anywhere between leaves a run that the next `runs` starts.

        Raises: SiteTrouble `no_devices`, `no_pool`, `no_port`, `launch_failed`.
        """
        name = folder_name(spec.run)
        try:
            with self._runs.exclusive():
                if self._look(name) is None:
                    self._accept(spec, name)
                    self._start(name)
        except OSError as error:
            raise SiteTrouble("launch_failed", f"run {spec.run} could not be started: {error}") from error

    def stop(self, run: str, grace_s: int) -> None:
        name = folder_name(run)
        with self._lock:
            seen = self._look(name)
            if seen is not None and seen.phase is not RunPhase.ENDED:
                self._record(name).order_stop(grace_s)

    def runs(self) -> tuple[EngineRun, ...]:
        with self._lock:
            for name, supervisor in list(self._supervisors.items()):
                if supervisor.poll() is not None:
                    del self._supervisors[name]
            seen = (self._look(entry.name, entry.inode()) for entry in self._runs.entries())
            return tuple(sorted((run for run in seen if run is not None), key=lambda run: run.run))

    def log(self, run: str, offset: int, limit: int) -> bytes:
        try:
            with open(self._runs.folder(folder_name(run)) / supervise.LOG, "rb") as file:
                return os.pread(file.fileno(), max(0, limit), max(0, offset))
        except FileNotFoundError:
            return b""

    def forget(self, run: str) -> None:
        name = folder_name(run)
        with self._runs.exclusive():
            seen = self._look(name)
            if seen is None or seen.phase is not RunPhase.ENDED:
                return
            self._runs.remove(name)
            self._ended.pop(name, None)
            self._starts.pop(name, None)

    def renew_lease(self, seconds: int) -> None:
        """See `Engine.renew_lease`. Before the first call there is no lease and runs go on by themselves."""
        lease = {"deadline_s": supervise.boot_clock_s() + seconds, "boot_id": boot_id()}
        supervise.write_json(str(self._lease), lease)

    # ---------------------------------------------------------------- launch

    @property
    def _lease(self) -> Path:
        return self._folder / "lease.json"

    def _record(self, name: str) -> RunRecord:
        return RunRecord(self._runs.folder(name))

    def _accept(self, spec: LaunchSpec, name: str) -> None:
        """Gives the run its devices and writes it down: all or nothing."""
        pool = self._pools.get(spec.pool)
        if pool is None:
            known = ", ".join(self._pools)
            raise SiteTrouble("no_pool", f"this site has no pool {spec.pool!r}", hint=f"it has: {known}")
        places = self._active_places()
        taken = {index for place in places if place.pool == pool.name for index in place.devices}
        devices = choose_devices(pool, spec.nodes, spec.devices_per_node, taken)
        ports = {port for place in places for port in place.ports}
        rendezvous_port = free_port(ports)
        port = spec.port or (free_port(ports | {rendezvous_port}) if spec.service else 0)
        by_node = [
            devices[node * spec.devices_per_node : (node + 1) * spec.devices_per_node]
            for node in range(spec.nodes)
        ]
        pins = tuple(pin(pool, self.pools(), node_devices) for node_devices in by_node)
        placement = Placement(pins=pins, port=port, rendezvous_port=rendezvous_port)
        place = Place(
            run=spec.run,
            pool=pool.name,
            devices=devices,
            ports=(rendezvous_port, port),
            port=port,
            boot_id=boot_id(),
            power=power_share(pool, spec.nodes, spec.devices_per_node),
        )
        with self._runs.making(name) as fresh:
            text = shell_text(spec)
            (fresh / SCRIPT).write_text(text, "utf-8", "surrogateescape")
            arguments = shell_arguments(self._shell, text, self._runs.folder(name) / SCRIPT)
            order = supervisor_order(spec, placement, arguments)
            RunRecord(fresh).create(place, {**order, "lease": str(self._lease), "boot_id": boot_id()})

    def _active_places(self) -> list[Place]:
        """Of the runs that hold devices: all that have not ended, the stopping ones too."""
        places = []
        for entry in self._runs.entries():
            seen = self._look(entry.name, entry.inode())
            place = self._record(entry.name).place() if seen and seen.phase is not RunPhase.ENDED else None
            if place is not None:
                places.append(place)
        return places

    def _start(self, name: str) -> None:
        """Starts an accepted run, or makes it unknown again: a failed launch starts nothing later."""
        try:
            self._supervise(name)
        except OSError:
            self._runs.remove(name)
            raise

    def _supervise(self, name: str) -> None:
        """Starts a supervisor unless this engine has just started one. One too many ends by itself."""
        if self._is_starting(name):
            return
        folder = self._runs.folder(name)
        environment = inherited(os.environ)
        environment[supervise.MARKER] = str(folder)
        with open(folder / SUPERVISOR_LOG, "ab") as output:
            self._starts[name] += 1
            self._supervisors[name] = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", supervise.__file__, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    # ---------------------------------------------------------------- look

    def _look(self, name: str, inode: int | None = None) -> EngineRun | None:
        """The run in this folder as it is now, None when there is none. Mends what a kill left half done."""
        record = self._record(name)
        if inode is None:
            try:
                inode = record.folder.stat().st_ino
            except FileNotFoundError:
                return None
        known = self._ended.get(name)
        if known is not None and known[0] == inode:
            return known[1]
        state = record.state()
        supervised = record.is_supervised()
        exit = record.exit()
        place = record.place()
        if exit is None and not supervised:
            exit = self._mend(name, place)
        if exit is not None:
            run = ended_run(run_of(name), place, exit, place.devices if place else ())
            self._ended[name] = (inode, run)
            return run
        if not record.folder.exists():
            return None
        stopping = record.is_stop_ordered() or (state is not None and state.phase != "running")
        started = state is not None
        return EngineRun(
            run=run_of(name),
            phase=RunPhase.STOPPING if stopping else RunPhase.RUNNING if started else RunPhase.ORDERED,
            started_at_s=state.started_at_s if state else None,
            port=place.port if place else 0,
            devices=place.devices if place else (),
        )

    def _mend(self, name: str, place: Place | None) -> Exit | None:
        """The exit of a run that nobody supervises, or None while there is still something to do for it."""
        # The order of questions matters. A state, then a free lock, then no exit: a supervisor began and was
        # killed. Asked in any other order, one that is just starting or just ending could look dead.
        record = self._record(name)
        if not record.folder.exists():
            return None
        if place is None or place.boot_id != boot_id():
            if not record.kill_orphans():
                return None
            return record.lost("the machine was started anew" if place else "the run's record is damaged")
        if record.has_begun():
            if record.is_supervised() or record.exit() is not None:
                return record.exit()
            if not record.kill_orphans():
                return None
            return record.lost("the run's supervisor was killed; its processes were ended")
        if self._starts[name] >= _MOST_STARTS and not self._is_starting(name):
            return record.not_started()
        with contextlib.suppress(OSError):  # no memory, no processes: the next look tries again
            self._supervise(name)
        return None

    def _is_starting(self, name: str) -> bool:
        return name in self._supervisors and self._supervisors[name].poll() is None
