"""A site's agent: what the grid wants there, done; what is there, told.

Knows one site's engine, store, mover and data door, any of which but the store may be missing: the grid's own
store is a site without an engine. Does no network itself (`runner.py` does) and decides nothing: orders are
levels, and obeying the same ones twice, late or out of turn changes nothing.

What holds the promises:
- A run is launched at most once: the engine knows it, or its end is settled on disk, or it is among the
  forgotten, which are remembered for longer than any order can be late.
- Outputs are in the store, and what they are is on disk, before the run counts as ended.
- Nothing is launched after the lease: what was staged until then is dropped, the grid will order it again.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from suan.engines.clearing import Clearing, Forgotten
from suan.engines.outcome import (
    Ends,
    failure_of,
    log_tail,
    progress_of,
    store_outputs,
    succeeded,
)
from suan.engines.readiness import Readiness
from suan.engines.staging import RunFolder, RunNotes, Stager, only_agent
from suan.engines.wattage import Wattage
from suan.grid.action import LaunchOrder, Observation, Orders, RunSeen, Ticket
from suan.grid.error import SiteTrouble, SuanError
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.ports import Clock, Engine, EngineRun, Mover, Store, seen_of

log = logging.getLogger("suan.agent")

_STAGERS = 4  # runs staged at once
_STORERS = 2  # runs whose outputs are stored at once
_STORE_TRIES = 2880  # four hours, before a finished run is given up whose outputs the store does not take
_STORE_PAUSE_S = 5.0


@dataclass(slots=True, eq=False)
class _Staging:
    """A launch on its way. The lock decides between a launch and a stop that meet."""

    order: LaunchOrder
    lock: threading.Lock = field(default_factory=threading.Lock)
    cancelled: bool = False


class Door(Protocol):
    """Where other sites fetch from this one."""

    url: str

    def allow(self, tickets: Sequence[Ticket]) -> None:
        """These tickets and no others are honoured from now on."""
        ...

    def close(self) -> None: ...


class Agent:
    """One site. Several threads may call `step`; slow work goes on in threads of its own until `close`."""

    def __init__(
        self,
        *,
        site: str,
        store: Store,
        folder: Path,
        clock: Clock,
        engine: Engine | None = None,
        mover: Mover | None = None,
        door: Door | None = None,
        wattage: Wattage | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        """Finds what an earlier agent left in `folder`.

        Raises: Refused `agent_running` when another agent uses the folder.
        """
        self.site = site
        self.epoch = 0  # 0: no orders yet
        self._obeyed_s = 0  # `now_s` of the newest orders obeyed
        self.engine, self.store, self.mover, self.door = engine, store, mover, door
        self.changed = threading.Event()  # set when something has happened that a step would tell
        self._folder = folder.resolve()
        self._only = only_agent(self._folder)
        self._clock = clock
        self._lock = threading.RLock()
        self._stager = Stager(site, self._folder, store)
        self._ends = Ends(self._folder / "ends")
        self._forgotten = Forgotten(self._folder / "forgotten")
        self._clearing = Clearing(self._folder, store, self._stager.checkouts, self._ends.digests)
        self._readiness = readiness or Readiness()
        self._wattage = wattage or Wattage(engine.pools() if engine else ())
        self._staging: dict[str, _Staging] = {}
        self._storing: dict[str, str] = {}  # run -> trouble, "" while all goes well
        self._failures: dict[str, RunSeen] = {}  # worked out once; the engine remembers the rest
        self._notes: dict[str, RunNotes] = {}
        self._lease_end_s = 0.0  # on the monotonic clock
        self._closing = threading.Event()  # the site takes no more runs
        self._closed = threading.Event()  # the agent ends
        self._stop_ordered: set[str] = set()
        self._there: tuple[EngineRun, ...] = ()
        self._stagers = ThreadPoolExecutor(_STAGERS, thread_name_prefix="staging")
        self._storers = ThreadPoolExecutor(_STORERS, thread_name_prefix="storing")
        for leftover in (self._folder / "runs").glob(".*"):  # of an agent that was killed while it cleared
            self._remove(leftover)

    # ------------------------------------------------------------ the loop's half

    def step(self, orders: Orders | None, *, full: bool, age_s: float = 0.0) -> Observation:
        """Obeys, then tells what is there. `orders` only when they have just arrived: they renew the lease,
        counted from when they were asked for, `age_s` ago."""
        with self._lock:
            if orders is not None and orders.epoch >= self.epoch and not self._closed.is_set():
                self._obey(orders, age_s)
            return self._observe(full=full)

    def logs(self) -> tuple[tuple[str, bool], ...]:
        """(run, whether its log is whole) of every run that the engine has, as of the last step."""
        return tuple((run.run, run.phase is RunPhase.ENDED) for run in self._there)

    def read_log(self, run: str, offset: int, limit: int) -> bytes:
        return self.engine.log(run, offset, limit) if self.engine else b""

    def forget(self, runs: Sequence[str]) -> None:
        """Clears away runs that an order to forget has named before."""
        with self._lock:
            for run in () if self._closed.is_set() else runs:
                self._forget(run)

    def stop_runs(self, grace_s: int) -> None:
        """The site closes: stops every run, launches none. Their ends are the site's doing (LOST)."""
        with self._lock:
            self._closing.set()
            for staging in list(self._staging.values()):
                self._cancel(staging, EndCause.LOST, "the site was closed")
            for run in self.engine.runs() if self.engine else ():
                if run.phase is not RunPhase.ENDED and self.engine:
                    self.engine.stop(run.run, grace_s)

    def close(self) -> None:
        """Ends the agent's own work; runs go on. Twice is once."""
        with self._lock:
            self._closed.set()
        for workers in (self._stagers, self._storers):
            workers.shutdown(wait=True, cancel_futures=True)
        self._readiness.close()
        if self.mover:
            self.mover.close()
        if self.door:
            self.door.close()
        self._only.close()

    # ------------------------------------------------------------ obey

    def _obey(self, orders: Orders, age_s: float) -> None:
        self.epoch = orders.epoch
        self._obeyed_s = orders.now_s
        # A run that left the staging since the last step is with the engine by now.
        self._there = self.engine.runs() if self.engine else ()
        self._renew_lease(orders.lease_s - age_s)
        if self.mover:
            self.mover.want(orders.fetch, orders.probes)
        if self.door:
            self.door.allow(orders.tickets)
        for launch in orders.launch:
            self._launch(launch)
        for stop in orders.stop:
            self._stop(stop.run, stop.grace_s)
        self._clearing.need(orders.keep, [one.digest for one in (*orders.fetch, *orders.tickets)])
        for run in orders.forget:
            self._forget(run)
        if orders.keep is not None:  # nothing goes by what the grid said some time ago
            self._clearing.consider(busy=bool(self._staging or self._storing))

    def _renew_lease(self, left_s: float) -> None:
        """A late answer never shortens what a newer one gave."""
        end_s = time.monotonic() + left_s
        if left_s >= 1 and end_s > self._lease_end_s:
            self._lease_end_s = end_s
            if self.engine:
                self.engine.renew_lease(int(left_s))

    def _may_launch(self) -> bool:
        return time.monotonic() < self._lease_end_s and not (self._closing.is_set() or self._closed.is_set())

    def _launch(self, order: LaunchOrder) -> None:
        run = order.run
        known = run in self._staging or run in self._ends or any(there.run == run for there in self._there)
        if known or run in self._forgotten or self.engine is None or not self._may_launch():
            return
        staging = self._staging[run] = _Staging(order)
        self._stagers.submit(self._stage, staging)

    def _stage(self, staging: _Staging) -> None:
        """In a thread: stages and launches. Until it is done, the run is among the staging."""
        order = staging.order
        try:
            spec = self._stager.stage(order, lambda: not staging.cancelled and self._may_launch())
            with staging.lock:
                if spec is not None and not staging.cancelled and self._may_launch():
                    assert self.engine is not None, "without an engine nothing is staged"
                    self.engine.launch(spec)
        except Exception as error:  # a bug must not look like a run that is staged for ever
            code = error.code if isinstance(error, SuanError) else type(error).__name__
            log.warning("run %s could not be started", order.run, exc_info=error, extra={"run": order.run})
            self._settle_unstarted(order.run, EndCause.NOT_STARTED, f"{code}: {error}")
        finally:
            with self._lock:
                self._staging.pop(order.run, None)
            self.changed.set()

    def _settle_unstarted(self, run: str, cause: EndCause, detail: str) -> None:
        now_s = self._clock.now_s()
        seen = RunSeen(run=run, phase=RunPhase.ENDED, ended_at_s=now_s, cause=cause, detail=detail[:500])
        with self._lock:
            self._ends.settle(seen)

    def _stop(self, run: str, grace_s: int) -> None:
        self._stop_ordered.add(run)
        staging = self._staging.get(run)
        if staging is not None and self._cancel(staging, EndCause.STOPPED, "stopped before it started"):
            return
        if self.engine is None or run in self._ends:
            return
        if staging is None and run not in {there.run for there in self.engine.runs()}:
            # Never seen here: the stop overtook the launch. The answer ends it; a late launch finds it ended.
            if run not in self._forgotten:
                self._settle_unstarted(run, EndCause.STOPPED, "stopped before it started")
            return
        self.engine.stop(run, grace_s)

    def _cancel(self, staging: _Staging, cause: EndCause, detail: str) -> bool:
        """Whether the launch could still be prevented."""
        run = staging.order.run
        with staging.lock:
            launched = self.engine is not None and run in {there.run for there in self.engine.runs()}
            if not launched:
                staging.cancelled = True
                self._settle_unstarted(run, cause, detail)
            return not launched

    def _forget(self, run: str) -> None:
        """Clears an ended run away. Its end goes last, so that a kill in between forgets nothing half."""
        if run in self._staging or run in self._storing:
            return
        there = {known.run: known for known in self._there}.get(run)
        if there is not None and there.phase is not RunPhase.ENDED:
            return
        self._forgotten.add(run)
        folder = RunFolder(self._folder, run)
        notes = folder.notes()
        if self.engine:
            self.engine.forget(run)
        self._remove(folder.path)
        going = {self._noted(other.run).job for other in self._there if other.phase is not RunPhase.ENDED}
        going |= {staging.order.job for staging in self._staging.values()}
        if there is not None and succeeded(there) and notes is not None and notes.job not in going:
            shutil.rmtree(self._folder / "checkpoints" / notes.job, ignore_errors=True)  # nobody resumes
        self._there = tuple(known for known in self._there if known.run != run)
        self._readiness.forget(run)
        for memory in (self._failures, self._notes):
            memory.pop(run, None)
        self._stop_ordered.discard(run)
        self._ends.forget(run)

    def _remove(self, folder: Path) -> None:
        """Out of the way at once; what may be gigabytes goes in a thread."""
        gone = folder.with_name(f".{time.time_ns()}.gone")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(gone)
            self._storers.submit(shutil.rmtree, gone, ignore_errors=True)

    # ------------------------------------------------------------ observe

    def _observe(self, *, full: bool) -> Observation:
        # In this order, a run that is being launched or settled meanwhile is in one of them at least.
        staging = dict(self._staging)
        self._there = self.engine.runs() if self.engine else ()
        self._wattage.look([(there, self._noted(there.run)) for there in self._there])
        progress: dict[str, float | str] = {"phase": "staging"}
        runs = {run: RunSeen(run=run, phase=RunPhase.ORDERED, progress=progress) for run in staging}
        for there in self._there:
            runs[there.run] = self._seen(there)
        runs |= self._ends.all()
        transfers = self.mover.seen() if self.mover else ()
        pools: tuple[Pool, ...] = ()
        replicas: tuple[str, ...] = ()
        if full:
            pools = self.engine.pools() if self.engine else ()
            replicas = self.store.digests()  # last: what a run or a transfer says is here was here before
        return Observation(
            site=self.site,
            epoch=self.epoch,
            full=full,
            runs=tuple(runs[run] for run in sorted(runs)),
            transfers=transfers,
            replicas=replicas,
            pools=pools,
            data_url=self.door.url if self.door else "",
            fenced=any(run.cause is EndCause.FENCED for run in self._there),
            knows_s=self._obeyed_s,
            links=self.mover.links() if self.mover and full else (),
        )

    def _seen(self, run: EngineRun) -> RunSeen:
        """One of the engine's runs. An end is told once its outputs are stored."""
        if run.run in self._ends:
            return self._ends.all()[run.run]
        folder = RunFolder(self._folder, run.run)
        if run.phase is not RunPhase.ENDED:
            progress = progress_of(folder)
            return replace(seen_of(run, progress), endpoint=self._endpoint(run, progress))
        if succeeded(run):
            return self._seen_storing(run)
        if run.run not in self._failures:
            run = replace(run, usage=self._wattage.usage(run, self._noted(run.run)))
            self._failures[run.run] = self._failure(run, folder)
        return self._failures[run.run]

    def _endpoint(self, run: EngineRun, progress: dict[str, float | str]) -> str:
        serves = self._noted(run.run).service and run.phase is RunPhase.RUNNING
        return self._readiness.endpoint(run, progress) if serves else ""

    def _noted(self, run: str) -> RunNotes:
        """What was written down when it was staged; nothing much for a run that was not staged here."""
        if run not in self._notes and (notes := RunFolder(self._folder, run).notes()):
            self._notes[run] = notes
        return self._notes.get(run) or RunNotes(run=run, job="")

    def _failure(self, run: EngineRun, folder: RunFolder) -> RunSeen:
        if self._closing.is_set() and run.cause is EndCause.STOPPED and run.run not in self._stop_ordered:
            closed = replace(run, cause=EndCause.LOST, detail="the site was closed")
            self._ends.settle(failure_of(closed, folder, b""))
            return self._ends.all()[run.run]
        assert self.engine is not None, "there was a run"
        return failure_of(run, folder, log_tail(self.engine, run.run))

    # ------------------------------------------------------------ outputs

    def _seen_storing(self, run: EngineRun) -> RunSeen:
        """A run that exited 0, until its outputs are stored: it still counts as running."""
        if run.run not in self._storing and not self._closed.is_set():
            self._storing[run.run] = ""
            self._storers.submit(self._store, run)
        trouble = self._storing.get(run.run, "")
        progress: dict[str, float | str] = {"phase": "storing outputs"}
        progress |= {"trouble": trouble} if trouble else {}
        return RunSeen(run=run.run, phase=RunPhase.RUNNING, started_at_s=run.started_at_s, progress=progress)

    def _store(self, run: EngineRun) -> None:
        """In a thread: stores the outputs and settles the end. A failing store is tried again; then the run
        is lost, because its site's trouble is no verdict on the job."""
        folder, notes = RunFolder(self._folder, run.run), self._noted(run.run)
        run = replace(run, usage=self._wattage.usage(run, notes))
        trouble = ""
        for _ in range(_STORE_TRIES):
            try:
                if self._settle_stored(store_outputs(run, folder, notes, self.store)):
                    return
            except (SiteTrouble, OSError) as error:
                trouble = str(error)
            except Exception as error:  # a bug must not look like a run that is stored for ever
                log.exception("outputs of run %s could not be stored", run.run, extra={"run": run.run})
                trouble = f"{type(error).__name__}: {error}"
            with self._lock:
                self._storing[run.run] = trouble
            if self._closed.wait(_STORE_PAUSE_S):
                return
        detail = f"its outputs could not be stored: {trouble}"[:500]
        with self._lock:
            self._ends.settle(replace(seen_of(run, {}), cause=EndCause.LOST, detail=detail))
            self._storing.pop(run.run, None)
        self.changed.set()

    def _settle_stored(self, seen: RunSeen) -> bool:
        """False when clearing took the same content away meanwhile: nobody needed it until now."""
        with self._clearing.guard:
            if not all(self.store.has(output.digest) for output in seen.outputs.values()):
                return False
            self._ends.settle(seen)
        with self._lock:
            self._storing.pop(seen.run, None)
        self.changed.set()
        return True
