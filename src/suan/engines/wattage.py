"""Energy of runs as the machine's meters tell it, in place of what the engine models.

Knows how to sample, to sum and to share. Devices have meters of their own: NVIDIA's, AMD's and Ascend's. CPU
packages (RAPL) and the machine as a whole (Redfish) have one for all runs together: a run gets of it as its
CPU time is of all the CPU time that was used meanwhile: no joule is left out and none counted twice. A run
counts as measured when it was watched for most of its time, and says by which meter; else it stays modelled.
What the packages' meter does not see of a node keeps the draw that the pool declares.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from suan.engines.metering import power_share
from suan.engines.staging import RunNotes
from suan.feeds import power
from suan.feeds.power import DEVICE_METERS, RaplReading
from suan.grid import hardware
from suan.grid.account import Usage
from suan.grid.job import RunPhase
from suan.grid.site import Pool
from suan.grid.units import HOUR_S
from suan.ports import EngineRun

SAMPLE_S = 5.0
_WATCHED_RATIO = 0.8  # of a run's time; with less, too much would be guessed from too few samples
ReadDevices = Callable[[Sequence[int]], float | None]


@dataclass(slots=True)
class _Watched:
    last_s: float
    watched_s: float = 0.0
    joules: float = 0.0  # of its devices, or of all CPUs
    busy_s: float = 0.0  # CPU time that everybody used meanwhile


@dataclass(frozen=True, slots=True)
class _Step:
    """What the machine's common meter counted since the sample before."""

    joules: float
    busy_s: float


@dataclass(slots=True)
class CommonMeter:
    """The machine's meter for all runs together: its controller where there is one, else its CPU packages."""

    node_w: Callable[[], float | None] | None = None  # `feeds.redfish.Redfish.node_w`
    cpu_energy: Callable[[], RaplReading | None] = power.cpu_energy
    cpu_busy_s: Callable[[], float | None] = power.cpu_busy_s
    _last: tuple[float, RaplReading | None, float | None] = field(default=(0.0, None, None))

    @property
    def name(self) -> str:
        return "Redfish by CPU time" if self.node_w else "RAPL by CPU time"

    @property
    def whole_node(self) -> bool:
        """Whether it sees what a node draws besides its CPU packages."""
        return self.node_w is not None

    def step(self) -> _Step | None:
        """Since the call before; None where nothing is measured, and at the first call."""
        now_s, busy_s = time.monotonic(), self.cpu_busy_s()
        watts = self.node_w() if self.node_w else None
        packages = None if self.node_w else self.cpu_energy()
        (before_s, packages_before, busy_before_s), self._last = self._last, (now_s, packages, busy_s)
        if busy_s is None or busy_before_s is None:
            return None
        if watts is not None:
            return _Step(watts * (now_s - before_s), busy_s - busy_before_s)
        if packages is not None and packages_before is not None:
            return _Step(power.joules_between(packages_before, packages), busy_s - busy_before_s)
        return None


class Wattage:
    """Samples in a thread while there are runs to watch."""

    def __init__(
        self,
        pools: Sequence[Pool],
        read_w: ReadDevices | None = None,
        common: CommonMeter | None = None,
    ) -> None:
        """`read_w` reads every vendor's devices in place of their own meters."""
        self._first = _first_devices(pools)
        self._pools = {pool.name: pool for pool in pools}
        self._read_w = read_w
        self._common = common or CommonMeter()
        self._lock = threading.Lock()
        self._sampling = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._sampled_s = float("-inf")

    def look(self, runs: Sequence[tuple[EngineRun, RunNotes]]) -> None:
        """Takes a sample of the running ones when it is time. Returns at once."""
        now_s = time.monotonic()
        # Without devices it is a cluster's: which it has, and of which machine, is not known here.
        going = [
            (run, notes)
            for run, notes in runs
            if run.phase is RunPhase.RUNNING and run.devices and notes.pool in self._pools
        ]
        if going and now_s - self._sampled_s >= SAMPLE_S:
            self._sampled_s = now_s
            threading.Thread(target=self._sample, args=(going,), name="wattage", daemon=True).start()

    def usage(self, run: EngineRun, notes: RunNotes) -> Usage | None:
        """The run's usage; its energy is measured where it was watched long enough, else the engine's."""
        with self._lock:
            watched = self._watched.pop(run.run, None)
        if run.usage is None or watched is None or run.started_at_s is None or run.ended_at_s is None:
            return run.usage
        wall_s = max(1.0, run.ended_at_s - run.started_at_s)
        if watched.watched_s < _WATCHED_RATIO * wall_s:
            return run.usage
        pool = self._pools[notes.pool]
        host_w = power_share(pool, notes.nodes, notes.devices_per_node).host_w
        watts = watched.joules / watched.watched_s
        if notes.pool in self._first:
            meter = _meter(pool)[0]
        elif watched.busy_s > 0 and run.usage.cpu_s > 0:
            meter = self._common.name
            watts *= min(1.0, run.usage.cpu_s / wall_s / (watched.busy_s / watched.watched_s))
            host_w = 0.0 if self._common.whole_node else host_w
        else:
            return run.usage
        energy_kwh = (watts + host_w) * wall_s / 1000 / HOUR_S
        return replace(run.usage, energy_kwh=energy_kwh, energy_source="measured", energy_meter=meter)

    def _sample(self, runs: Sequence[tuple[EngineRun, RunNotes]]) -> None:
        if not self._sampling.acquire(blocking=False):
            return  # the sample before is not done: a meter is slow
        try:
            common = self._common.step()
            for run, notes in runs:
                watts = self._device_w(run, notes) if notes.pool in self._first else None
                self._add(run.run, watts, None if notes.pool in self._first else common)
        finally:
            self._sampling.release()

    def _device_w(self, run: EngineRun, notes: RunNotes) -> float | None:
        read_w = self._read_w or _meter(self._pools[notes.pool])[1]
        return read_w([self._first[notes.pool] + index for index in run.devices])

    def _add(self, run: str, watts: float | None, common: _Step | None) -> None:
        now_s = time.monotonic()
        with self._lock:
            new = run not in self._watched
            watched = self._watched.setdefault(run, _Watched(now_s))
            since_s, watched.last_s = now_s - watched.last_s, now_s
            if watts is not None:
                watched.watched_s += since_s
                watched.joules += watts * since_s
            elif common is not None and not new:  # what was counted before its first sample is not its own
                watched.watched_s += since_s
                watched.joules += common.joules
                watched.busy_s += common.busy_s


def _meter(pool: Pool) -> tuple[str, ReadDevices]:
    return DEVICE_METERS[hardware.accelerator(pool.accelerator).vendor]


def _first_devices(pools: Sequence[Pool]) -> dict[str, int]:
    """For each pool of devices with a meter, the machine's number of its first, counted as `devices.pin`
    does: pools that the same variable pins count on.
    """
    first: dict[str, int] = {}
    counts: dict[tuple[str, str], int] = {}
    for pool in pools:
        kind = hardware.accelerator(pool.accelerator)
        family = (kind.device_class, kind.visible_env)
        if kind.device_class != hardware.CPU_DEVICE_CLASS and kind.vendor in DEVICE_METERS:
            first[pool.name] = counts.get(family, 0)
        counts[family] = counts.get(family, 0) + pool.devices
    return first
