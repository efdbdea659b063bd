"""Opens simulated engines for the conformance suite: one a folder, all on a clock that the suite moves."""

from pathlib import Path

from engine_site import POOL

from suan.sim.clock import VirtualClock
from suan.sim.engine import SimulatedEngine

_LEAST_STEP_S = 0.25  # waiting in smaller steps than this would only cost real time


class SimulatedOpener:
    """What is opened again is the same engine: a simulated one lives as long as its process."""

    def __init__(self) -> None:
        self.clock = VirtualClock(1_700_000_000)
        self._engines: dict[Path, SimulatedEngine] = {}

    def __call__(self, folder: Path) -> SimulatedEngine:
        return self._engines.setdefault(folder, SimulatedEngine(self.clock, (POOL,)))

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(max(seconds, _LEAST_STEP_S))
