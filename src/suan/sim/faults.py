"""Which fault strikes where and when: what a world declares, spread over time by the seed.

Knows moments and draws. What a fault does is the simulation's and the network's matter. The same seed and
world give the same faults.
"""

import heapq
import random
from collections.abc import Sequence

import msgspec

from suan.grid.units import DAY_S
from suan.sim.keys import FaultTable


class Strike(msgspec.Struct, frozen=True, kw_only=True):
    """One fault at one site at one moment. `draw` in [0, 1) chooses its victim."""

    kind: str
    site: str
    at_s: int
    for_s: int
    draw: float


class Schedule:
    """Strikes whose moments are known, in the order of time."""

    def __init__(self, strikes: Sequence[Strike]) -> None:
        self._due = sorted(strikes, key=lambda strike: strike.at_s, reverse=True)

    def next_s(self) -> int | None:
        """As `Faults.next_s`."""
        return self._due[-1].at_s if self._due else None

    def take(self, now_s: int) -> list[Strike]:
        """As `Faults.take`."""
        strikes = []
        while self._due and self._due[-1].at_s <= now_s:
            strikes.append(self._due.pop())
        return strikes


class Faults:
    """The strikes of a simulation in the order of time."""

    def __init__(self, faults: Sequence[FaultTable], sites: Sequence[str], seed: int, start_s: int) -> None:
        self._faults, self._sites, self._start_s = faults, tuple(sites), start_s
        self._random = [random.Random(f"{seed}/{number}/{fault.kind}") for number, fault in enumerate(faults)]
        self._due: list[tuple[int, int]] = []  # (moment, number of the fault)
        for number, fault in enumerate(faults):
            if fault.at_s is not None:
                heapq.heappush(self._due, (start_s + fault.at_s, number))
            else:
                self._draw_next(number, start_s)

    def next_s(self) -> int | None:
        """When the next fault strikes; None when none will."""
        return self._due[0][0] if self._due else None

    def take(self, now_s: int) -> list[Strike]:
        """The strikes that are due, once."""
        strikes = []
        while self._due and self._due[0][0] <= now_s:
            at_s, number = heapq.heappop(self._due)
            fault, chance = self._faults[number], self._random[number]
            strikes.append(
                Strike(
                    kind=fault.kind,
                    site=fault.site or chance.choice(self._sites),
                    at_s=at_s,
                    for_s=fault.for_s,
                    draw=chance.random(),
                )
            )
            if fault.at_s is None:
                self._draw_next(number, at_s)
        return strikes

    def _draw_next(self, number: int, after_s: int) -> None:
        fault = self._faults[number]
        assert fault.per_day is not None
        at_s = after_s + max(1, round(self._random[number].expovariate(fault.per_day / DAY_S)))
        if fault.until_s is None or at_s <= self._start_s + fault.until_s:
            heapq.heappush(self._due, (at_s, number))
