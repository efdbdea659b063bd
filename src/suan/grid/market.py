"""What one clearing of the market came to: a price for every pool and hour, and how far the plan can be from
the best.

Knows the shape and the price at a moment. How prices are found is `rules/clearing/clear.py`.
"""

from bisect import bisect_right

import msgspec


class Step(msgspec.Struct, frozen=True, array_like=True):
    """The price from this second on."""

    from_s: int
    microyuan_per_device_h: int


Steps = tuple[Step, ...]  # by time


class Clearing(msgspec.Struct, frozen=True, kw_only=True):
    """Prices are what a device-hour is worth beyond its cost: nought wherever there is more than is asked
    for.
    """

    at_s: int
    until_s: int  # where the horizon ends: nothing is known beyond
    prices: dict[str, Steps] = {}  # "site/pool" -> steps; a pool that is not named is nowhere scarce
    jobs: int = 0  # that took part
    cost_microyuan: int = 0  # of the plan for them, all terms of their quotes
    bound_microyuan: int = 0  # no plan for them can cost less
    rounds: int = 0
    complete: bool = True  # False: cut off at its limit, the best until then
    method: str = ""

    @property
    def gap_ratio(self) -> float:
        """How far the plan can be from the best one, as a part of its own cost."""
        if self.cost_microyuan <= 0:
            return 0.0
        return max(0.0, 1 - self.bound_microyuan / self.cost_microyuan)


def price_at(clearing: Clearing | None, pool: str, at_s: int) -> int:
    """Micro-yuan that one device-hour of "site/pool" is worth at a moment, beyond its cost."""
    steps = clearing.prices.get(pool, ()) if clearing else ()
    index = bisect_right(steps, at_s, key=lambda step: step.from_s) - 1
    if clearing is None or index < 0 or at_s >= clearing.until_s:
        return 0
    return steps[index].microyuan_per_device_h
