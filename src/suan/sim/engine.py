"""An engine whose runs take virtual time: `ports.Engine` over a clock.

A run lasts its order's `duration_s` at its pool's speed, holds devices from launch to exit, and is metered
at the
pool's full power. Knows nothing of artifacts, faults or the grid; what befalls a run is done to it by its
methods.
"""

import heapq
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from suan.grid.account import Usage
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.grid.units import HOUR_S
from suan.ports import Clock, EngineRun, LaunchSpec
from suan.rules.quote import power_w
from suan.sim.devices import Devices

_SIGTERM = -15


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """What really went on at the site: one run from its start to its exit, whatever was reported about it."""

    run: str
    job: str
    pool: str
    devices: int
    started_at_s: int
    ended_at_s: int
    cause: EndCause
    exit_code: int | None


class _Held(msgspec.Struct, kw_only=True):
    """A run that holds devices."""

    spec: LaunchSpec
    devices: tuple[int, ...]
    started_at_s: int
    ends_at_s: int
    cause: EndCause = EndCause.EXITED
    exit_code: int | None = 0
    detail: str = ""
    stopping: bool = False


class SimulatedEngine:
    """`ports.Engine` in virtual time. Everything that is due by the clock has happened when a method
    answers."""

    def __init__(
        self, clock: Clock, pools: Sequence[Pool], *, by_node: bool = True, stopping_s: int = 1
    ) -> None:
        """`by_node`: a run's devices lie on as many nodes as it asked for; else a pool's devices are all
        alike.
        `stopping_s`: what a run takes from SIGTERM to its exit, if its grace is not shorter."""
        self._clock = clock
        self._pools = {pool.name: pool for pool in pools}
        self._devices = {pool.name: Devices(pool, by_node=by_node) for pool in pools}
        self._stopping_s = stopping_s
        self._down: dict[str, dict[int, None]] = {pool.name: {} for pool in pools}  # nodes by number
        self._held: dict[str, _Held] = {}
        self._ended: dict[str, EngineRun] = {}
        self._due: list[tuple[int, str]] = []  # (end, run); an entry whose run ends at another time is stale
        self._lease_ends_s: int | None = None
        self._changed: dict[str, None] = {}
        self.stretches: list[Stretch] = []

    # ---------------------------------------------------------------- the port

    def pools(self) -> tuple[Pool, ...]:
        return tuple(
            replace(pool, nodes=pool.nodes - len(self._down[pool.name])) if self._down[pool.name] else pool
            for pool in self._pools.values()
        )

    def launch(self, spec: LaunchSpec) -> None:
        """See `Engine.launch`.

        Raises: SiteTrouble `no_devices`, `no_pool`.
        """
        now_s = self._advance()
        if spec.run in self._held or spec.run in self._ended:
            return
        pool = self._pools.get(spec.pool)
        if pool is None:
            known = ", ".join(self._pools)
            raise SiteTrouble("no_pool", f"this site has no pool {spec.pool!r}", hint=f"it has: {known}")
        devices = self._devices[spec.pool].take(spec.nodes, spec.devices_per_node)
        takes_s = max(1, round((spec.duration_s or 1) / pool.speed_ratio))
        held = _Held(spec=spec, devices=devices, started_at_s=now_s, ends_at_s=now_s + takes_s)
        limit_s = spec.max_duration_s
        if limit_s is not None and limit_s < takes_s:
            held.ends_at_s = now_s + limit_s
            held.cause, held.exit_code = EndCause.STOPPED, _SIGTERM
            held.detail = f"ran for longer than {limit_s} s"
        self._held[spec.run] = held
        self._changed[spec.run] = None
        heapq.heappush(self._due, (held.ends_at_s, spec.run))

    def stop(self, run: str, grace_s: int) -> None:
        now_s = self._advance()
        held = self._held.get(run)
        if held is not None and not held.stopping:
            held.stopping = True
            self._changed[run] = None
            self._end_by(run, now_s + min(grace_s, self._stopping_s), EndCause.STOPPED, _SIGTERM)
            self._advance()

    def runs(self) -> tuple[EngineRun, ...]:
        self._advance()
        names = sorted([*self._held, *self._ended])
        return tuple(self._ended.get(run) or self._going_on(run) for run in names)

    def log(self, run: str, offset: int, limit: int) -> bytes:
        """Simulated runs say nothing."""
        return b""

    def forget(self, run: str) -> None:
        self._advance()
        self._ended.pop(run, None)

    def renew_lease(self, seconds: int) -> None:
        self._lease_ends_s = self._advance() + seconds

    # ---------------------------------------------------------------- for the site and its faults

    def run(self, run: str) -> EngineRun | None:
        """One run as `runs` would show it, None when it is not known."""
        self._advance()
        return self._ended.get(run) or (self._going_on(run) if run in self._held else None)

    def going_on(self) -> tuple[str, ...]:
        """The runs that hold devices, in the order of their launch."""
        self._advance()
        return tuple(self._held)

    def spec(self, run: str) -> LaunchSpec:
        """What a run that is going on was launched with."""
        return self._held[run].spec

    def next_s(self) -> int | None:
        """When the next run ends, or the lease does while runs are going on; None when neither will."""
        if not self._held:
            return None
        while not self._is_live(self._due[0]):
            heapq.heappop(self._due)
        next_s = self._due[0][0]
        return next_s if self._lease_ends_s is None else min(next_s, self._lease_ends_s)

    @property
    def has_changed(self) -> bool:
        """Whether anything has changed since the last `take_changed`, as far as time was looked at."""
        return bool(self._changed)

    def take_changed(self) -> tuple[str, ...]:
        """The runs that changed since the last call, in the order of their first change."""
        self._advance()
        changed, self._changed = tuple(self._changed), {}
        return changed

    def crash(self, run: str, exit_code: int = 1) -> None:
        """The run's own process fails now."""
        self._end_by(run, self._advance(), EndCause.EXITED, exit_code)
        self._advance()

    def lose(self, run: str) -> None:
        """The run's node is gone, and the engine knows it."""
        self._held[run].detail = "its node was lost"
        self._end_by(run, self._advance(), EndCause.LOST, None)
        self._advance()

    def fail_node(self, pool: str, node: int) -> bool:
        """The node is gone with every run on it, and the engine knows it. False when it was gone already."""
        if node in self._down[pool]:
            return False
        self._advance()
        indices = self._indices(pool, node)
        for run, held in list(self._held.items()):
            if held.spec.pool == pool and not set(indices).isdisjoint(held.devices):
                self.lose(run)
        self._devices[pool].withdraw(indices)
        self._down[pool][node] = None
        return True

    def mend_node(self, pool: str, node: int) -> None:
        """The node is back, empty."""
        if node in self._down[pool]:
            del self._down[pool][node]
            self._devices[pool].give_back(self._indices(pool, node))

    def _indices(self, pool: str, node: int) -> range:
        width = self._pools[pool].devices_per_node
        return range(node * width, (node + 1) * width)

    # ---------------------------------------------------------------- time

    def _is_live(self, entry: tuple[int, str]) -> bool:
        held = self._held.get(entry[1])
        return held is not None and held.ends_at_s == entry[0]

    def _end_by(self, run: str, at_s: int, cause: EndCause, exit_code: int | None) -> None:
        held = self._held[run]
        if at_s <= held.ends_at_s:
            held.ends_at_s, held.cause, held.exit_code = at_s, cause, exit_code
            heapq.heappush(self._due, (at_s, run))

    def _advance(self) -> int:
        now_s = self._clock.now_s()
        lease_s = self._lease_ends_s
        fenced = lease_s is not None and lease_s <= now_s
        horizon_s = lease_s if fenced and lease_s is not None else now_s
        while self._due and self._due[0][0] <= horizon_s:
            entry = heapq.heappop(self._due)
            if self._is_live(entry):
                self._end(entry[1])
        if fenced:
            for run in list(self._held):
                self._held[run].detail = "the site's lease ended"
                self._end_by(run, horizon_s, EndCause.FENCED, _SIGTERM)
                self._end(run)
        return now_s

    def _end(self, run: str) -> None:
        held = self._held.pop(run)
        spec = held.spec
        self._devices[spec.pool].give_back(held.devices)
        span_s = held.ends_at_s - held.started_at_s
        energy_kwh = power_w(self._pools[spec.pool], len(held.devices)) * span_s / 1000 / HOUR_S
        self._ended[run] = EngineRun(
            run=run,
            phase=RunPhase.ENDED,
            started_at_s=held.started_at_s,
            ended_at_s=held.ends_at_s,
            exit_code=held.exit_code,
            cause=held.cause,
            detail=held.detail,
            usage=Usage(device_s=len(held.devices) * span_s, energy_kwh=energy_kwh),
            devices=held.devices,
        )
        self._changed[run] = None
        self.stretches.append(
            Stretch(
                run=run,
                job=spec.job,
                pool=spec.pool,
                devices=len(held.devices),
                started_at_s=held.started_at_s,
                ended_at_s=held.ends_at_s,
                cause=held.cause,
                exit_code=held.exit_code,
            )
        )

    def _going_on(self, run: str) -> EngineRun:
        held = self._held[run]
        return EngineRun(
            run=run,
            phase=RunPhase.STOPPING if held.stopping else RunPhase.RUNNING,
            started_at_s=held.started_at_s,
            devices=held.devices,
        )
