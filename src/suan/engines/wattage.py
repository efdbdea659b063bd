"""Energy of runs on NVIDIA devices as the devices report it, in place of what the engine models.

Knows how to sample and to sum. A run counts as measured when its devices were watched for most of its time;
the rest of its node keeps the draw that the pool declares. CPU packages have meters, too, but one for all
runs together: they say nothing about a single run, so CPU pools stay modelled.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from suan.engines.metering import power_share
from suan.engines.staging import RunNotes
from suan.feeds.power import nvidia_w
from suan.grid import hardware
from suan.grid.account import Usage
from suan.grid.job import RunPhase
from suan.grid.site import Pool
from suan.grid.units import HOUR_S
from suan.ports import EngineRun

SAMPLE_S = 5.0
_WATCHED_RATIO = 0.8  # of a run's time; with less, too much would be guessed from too few samples


@dataclass(slots=True)
class _Watched:
    last_s: float
    watched_s: float = 0.0
    joules: float = 0.0


class Wattage:
    """Samples in a thread while there are runs to watch."""

    def __init__(
        self, pools: Sequence[Pool], read_w: Callable[[Sequence[int]], float | None] = nvidia_w
    ) -> None:
        self._first = _first_devices(pools)
        self._pools = {pool.name: pool for pool in pools}
        self._read_w = read_w
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._sampled_s = float("-inf")

    def watches(self, notes: RunNotes) -> bool:
        """Whether the run's devices can report what they draw."""
        return notes.pool in self._first

    def look(self, runs: Sequence[tuple[EngineRun, RunNotes]]) -> None:
        """Takes a sample of the running ones when it is time. Returns at once."""
        now_s = time.monotonic()
        going = [(run, notes) for run, notes in runs if run.phase is RunPhase.RUNNING and self.watches(notes)]
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
        host_w = power_share(self._pools[notes.pool], notes.nodes, notes.devices_per_node).host_w
        device_w = watched.joules / watched.watched_s
        energy_kwh = (device_w + host_w) * wall_s / 1000 / HOUR_S
        return replace(run.usage, energy_kwh=energy_kwh, energy_source="measured")

    def _sample(self, runs: Sequence[tuple[EngineRun, RunNotes]]) -> None:
        for run, notes in runs:
            if not run.devices:  # a cluster's: which devices it has, and of which machine, is not known here
                continue
            first = self._first[notes.pool]
            watts = self._read_w([first + index for index in run.devices])
            now_s = time.monotonic()
            with self._lock:
                watched = self._watched.setdefault(run.run, _Watched(now_s))
                if watts is not None:
                    watched.watched_s += now_s - watched.last_s
                    watched.joules += watts * (now_s - watched.last_s)
                watched.last_s = now_s


def _first_devices(pools: Sequence[Pool]) -> dict[str, int]:
    """For each pool of NVIDIA devices, the machine's number of its first; counted as `devices.pin` does."""
    first: dict[str, int] = {}
    count = 0
    for pool in pools:
        kind = hardware.accelerator(pool.accelerator)
        if kind.visible_env == "CUDA_VISIBLE_DEVICES" and kind.device_class == "gpu":
            if kind.vendor == "NVIDIA":
                first[pool.name] = count
            count += pool.devices
    return first
