"""A simulated compute centre: orders -> engine and mover calls, their changes -> observations.

Does in memory what an agent does on disk: remembers each run's order, keeps checkpoints and outputs, and
says a thing
again until it was answered. Knows no faults, no grid and no other site.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from suan.grid.action import LaunchOrder, Observation, Orders, OutputSeen, RunSeen
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.ports import Clock, EngineRun, seen_of, spec_of
from suan.rules.scaling import prior_speed
from suan.sim.engine import SimulatedEngine
from suan.sim.mover import SimulatedMover

DURATION_ENV = "SUAN_SIM_DURATION_S"  # how long the task really takes at speed 1
CHECKPOINT_ENV = "SUAN_SIM_CHECKPOINT_S"  # how often it saves what it has done
NODES_ENV = "SUAN_SIM_NODES"  # on how many nodes that is, for a job that may run on others
OUTPUT_ENV = "SUAN_SIM_OUTPUT_BYTES"  # how large each of its outputs is

FULL_S = 30  # from a report that names everything to the next
RESTORE_S = 60  # to start again from a checkpoint, as `Policy.restore_s` expects
_ALWAYS_S = 10**9  # a lease that is renewed for as long as the connection stands
_FOLDER = Path(".")


class SimulatedSite:
    """One site's agent, engine, mover and store in virtual time."""

    def __init__(self, name: str, clock: Clock, pools: Sequence[Pool], *, by_node: bool = False) -> None:
        self.name = name
        self.store: dict[str, int] = {}  # digest -> bytes
        self.engine = SimulatedEngine(clock, pools, by_node=by_node)
        self.mover = SimulatedMover(clock, self.store)
        self.lost_device_s = 0.0  # work that has to be done again
        self.clock_off_s = 0  # how far its clock is ahead: it shows in what it says, leases do not go by it
        self.corrupt: dict[str, None] = {}  # digests that are damaged, which nobody has noticed yet
        self._clock = clock
        self._wants_full = True  # the next report should name everything
        self._full_again_s: int | None = None
        self._epoch = 0
        self._obeyed_s = -1  # when the orders last obeyed were made
        self._connected = True
        self._orders: dict[str, LaunchOrder] = {}
        self._started_off_s: dict[str, int] = {}  # run -> how far the clock was ahead at its start
        self._saved_s: dict[str, float] = {}  # job -> its work, at speed 1, that a checkpoint holds
        self._untold: dict[str, RunSeen] = {}
        self._told_transfers: frozenset[str] = frozenset()

    # ---------------------------------------------------------------- observation

    def next_s(self) -> int | None:
        """When something happens here by itself."""
        at_s = self.engine.next_s()
        if not self.mover.is_idle:
            at_s = _sooner(at_s, self.mover.next_s())
        return _sooner(at_s, self._full_again_s)

    def want_full(self) -> None:
        """The next report names everything, and one a while later again: agents repeat theirs, and what
        one of
        them does not name may be too new for the grid to believe it gone."""
        self._wants_full, self._full_again_s = True, self._clock.now_s() + FULL_S

    def may_have_news(self, now_s: int) -> bool:
        """A quick look: False when `has_news` would be."""
        if self._full_again_s is not None and self._full_again_s <= now_s:
            self._wants_full, self._full_again_s = True, None
        if self._untold or self._wants_full or self.engine.has_changed or not self.mover.is_idle:
            return True
        next_s = self.engine.next_s()
        return next_s is not None and next_s <= now_s

    def has_news(self) -> bool:
        """Whether there is anything that the grid has not heard yet."""
        self._look()
        if self._untold or self._wants_full:
            return True
        return any(
            seen.transfer not in self._told_transfers
            for seen in self.mover.seen()
            if seen.done or seen.failed
        )

    def observe(self) -> Observation:
        """What is new here, or everything when that is wanted."""
        self._look()
        full = self._wants_full
        runs = dict(self._untold)
        if full:
            runs = {run.run: self._seen(run) for run in self.engine.runs()} | runs
        return Observation(
            site=self.name,
            epoch=self._epoch,
            full=full,
            runs=tuple(runs.values()),
            transfers=self.mover.seen(),
            replicas=tuple(sorted(self.store)) if full else (),
            pools=self.engine.pools() if full else (),
            knows_s=max(0, self._obeyed_s),
        )

    def answered(self, seen: Observation) -> None:
        """The grid has got this report: its news is no news any more."""
        for run in seen.runs:
            if self._untold.get(run.run) == run:
                del self._untold[run.run]
        self._told_transfers = frozenset(t.transfer for t in seen.transfers if t.done or t.failed)
        self._wants_full = self._wants_full and not seen.full

    def _look(self) -> None:
        for name in self.engine.take_changed():
            run = self.engine.run(name)
            if run is None:
                self._untold.pop(name, None)
                continue
            if run.phase == RunPhase.ENDED:
                self._note_end(run)
            self._untold[name] = self._seen(run)

    def _seen(self, run: EngineRun) -> RunSeen:
        order = self._orders[run.run]
        succeeded = run.cause == EndCause.EXITED and not run.exit_code
        outputs = {name: _output(order, name) for name in order.outputs} if succeeded else {}
        started_s, ended_s = run.started_at_s, run.ended_at_s
        if started_s is not None:
            started_s += self._started_off_s.get(run.run, 0)
        if ended_s is not None:
            ended_s += self.clock_off_s
        return replace(seen_of(run, {}), outputs=outputs, started_at_s=started_s, ended_at_s=ended_s)

    def _note_end(self, run: EngineRun) -> None:
        """What a run that did not finish leaves to its successor here, and what of it is lost."""
        order = self._orders[run.run]
        if run.cause == EndCause.EXITED and not run.exit_code:
            for name in order.outputs:
                made = _output(order, name)
                self.store[made.digest] = made.bytes
            return
        assert run.started_at_s is not None and run.ended_at_s is not None
        speed = self._speed(order.pool) * _scaling(order)
        span_s = run.ended_at_s - run.started_at_s
        every_s = float(order.env.get(CHECKPOINT_ENV, "0"))
        kept_s = 0.0
        if order.checkpoint and every_s > 0:
            before_s = self._saved_s.get(order.job, 0.0)
            restored_s = RESTORE_S if before_s else 0
            reached_s = before_s + max(0, span_s - restored_s) * speed
            # A stopped run has a grace in which to save everything; any other leaves its last checkpoint.
            after_s = reached_s if run.cause == EndCause.STOPPED else reached_s // every_s * every_s
            self._saved_s[order.job] = max(before_s, after_s)
            kept_s = min(span_s, (self._saved_s[order.job] - before_s) / speed)
        self.lost_device_s += max(0.0, span_s - kept_s) * order.nodes * order.devices_per_node

    def _speed(self, pool: str) -> float:
        return next(p.speed_ratio for p in self.engine.pools() if p.name == pool)

    # ---------------------------------------------------------------- orders

    def obey(self, orders: Orders) -> None:
        """Makes what is here what should be. Orders older than those already obeyed are left alone."""
        if orders.now_s < self._obeyed_s:
            return
        self._obeyed_s = orders.now_s
        if orders.epoch != self._epoch:
            self._epoch = orders.epoch
            self.want_full()
        self.engine.renew_lease(_ALWAYS_S if self._connected else orders.lease_s)
        self.mover.want(orders.fetch)
        over = {t.transfer for t in self.mover.seen() if t.done or t.failed}
        self._told_transfers &= over  # what goes on again will be news again
        for launch in orders.launch:
            self._launch(launch)
        for stop in orders.stop:
            if self.engine.run(stop.run) is None and stop.run not in orders.forget:
                self._untold[stop.run] = RunSeen(
                    run=stop.run, phase=RunPhase.ENDED, cause=EndCause.STOPPED, detail="it had not started"
                )
            self.engine.stop(stop.run, stop.grace_s)
        self._look()
        for run in orders.forget:
            self.engine.forget(run)
            if self.engine.run(run) is None:
                self._orders.pop(run, None)
                self._started_off_s.pop(run, None)
                self._untold.pop(run, None)

    def connect(self, connected: bool, lease_s: int) -> None:
        """Whether heartbeats get through from now on; without them the last lease runs out."""
        self._connected = connected
        self.engine.renew_lease(_ALWAYS_S if connected else lease_s)

    def restart(self) -> None:
        """The agent starts anew: the engine's runs go on, what the agent had in mind is gone."""
        self._epoch, self._obeyed_s = 0, -1
        self.want_full()
        self._untold, self._told_transfers = {}, frozenset()

    def forget_running(self, run: str) -> None:
        """The run is gone and so is the engine's memory of it."""
        self.engine.lose(run)
        self._look()
        self.engine.forget(run)
        self._untold.pop(run, None)
        self.want_full()

    def read(self, digest: str) -> str:
        """Why the content cannot be read; "" when it can. Damage is noticed now, and the content is gone."""
        if digest in self.corrupt:
            del self.corrupt[digest]
            self.store.pop(digest, None)
            self.want_full()
            return "corrupt: what lay here was damaged"
        return "" if digest in self.store else "missing: it is not here"

    def _launch(self, order: LaunchOrder) -> None:
        if order.run in self._untold or self.engine.run(order.run) is not None:
            return  # it is known, or its refusal has not been heard yet
        troubles = [why for digest in order.inputs.values() if (why := self.read(digest))]
        if troubles:
            self._refuse(order, troubles[0])
            return
        truth_s = float(order.env.get(DURATION_ENV, order.duration_s or 1))
        saved_s = self._saved_s.get(order.job, 0.0)
        left_s = max(1.0, truth_s - saved_s) / _scaling(order)
        if saved_s:
            left_s += RESTORE_S * self._speed(order.pool)  # restoring takes as long in any pool
        self._orders[order.run] = order
        self._started_off_s[order.run] = self.clock_off_s
        spec = replace(spec_of(order, _FOLDER, order.env), duration_s=round(left_s))
        try:
            self.engine.launch(spec)
        except SiteTrouble as trouble:
            del self._orders[order.run], self._started_off_s[order.run]
            self._refuse(order, f"{trouble.code}: {trouble.what}")

    def _refuse(self, order: LaunchOrder, detail: str) -> None:
        self._untold[order.run] = RunSeen(
            run=order.run, phase=RunPhase.ENDED, cause=EndCause.NOT_STARTED, detail=detail
        )


def _output(order: LaunchOrder, name: str) -> OutputSeen:
    """What a run writes is the same whenever it is written."""
    digest = digest_of(f"{order.job}/{name}")
    return OutputSeen(digest=digest, bytes=int(order.env.get(OUTPUT_ENV, "1000000")), files=1)


def _scaling(order: LaunchOrder) -> float:
    """How much faster it runs than on its own number of nodes."""
    own = int(order.env.get(NODES_ENV, order.nodes))
    return prior_speed(order.nodes) / prior_speed(own)


def _sooner(one_s: int | None, other_s: int | None) -> int | None:
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def digest_of(name: str) -> str:
    """The address that a simulated artifact of this name has."""
    return hashlib.blake2b(name.encode(), digest_size=32).hexdigest()
