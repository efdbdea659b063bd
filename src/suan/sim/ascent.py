"""Prices of pool-hours under which the floor of a schedule's cost is high: subgradient steps.

Works on classes of similar jobs, so that a step takes milliseconds whatever their number. Any prices that are
not negative make a true floor; how high it is, the caller sums over the true jobs.

Source: Held, Wolfe and Crowder, "Validation of subgradient optimization", Mathematical Programming 6 (1974).
"""

from collections.abc import Sequence

import msgspec
import numpy as np

Floats = np.ndarray

STEPS = 80
_FIRST_STEP_RATIO = 0.15  # of the spread of rates, for a pool that is asked for twice as much as it has
_KEPT = 0.95  # of each step's length, the next has
_MOST_EXCESS = 3.0  # how many times its size a pool counts as asked for, at most


class Classes(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of one length that fit into the same pools: devices asked for, by the hour of submission."""

    pools: Floats
    hours: float
    devices: Floats


def ascend(classes: Sequence[Classes], rates: Floats, capacity: Floats) -> Floats:
    """The prices, by pool and hour, of the step whose floor for the classes was the highest."""
    spread = float(np.quantile(rates, 0.95) - np.quantile(rates, 0.05)) or float(np.abs(rates).mean()) * 0.1
    prices = np.zeros_like(rates)
    best, best_value = prices, -np.inf
    length = _FIRST_STEP_RATIO * spread
    for _ in range(STEPS):
        cost, usage = _respond(classes, rates + prices)
        value = cost - float((prices * capacity[:, None]).sum())
        if value > best_value:
            best, best_value = prices, value
        excess = np.minimum(usage / capacity[:, None] - 1, _MOST_EXCESS)
        prices = np.maximum(0.0, prices + length * excess)
        length *= _KEPT
    return best


def _respond(classes: Sequence[Classes], rates: Floats) -> tuple[float, Floats]:
    """What all jobs cost if each takes its cheapest stretch, and the devices in use by pool and hour then."""
    pools, hours = rates.shape
    sums = np.concatenate([np.zeros((pools, 1)), np.cumsum(rates, axis=1)], axis=1)
    change = np.zeros((pools, hours + 2))
    total = 0.0
    places = np.arange(hours)
    for one in classes:
        whole = int(one.hours)
        part = one.hours - whole
        last = hours - whole - (part > 0)  # the last start, in full hours, that ends in time
        if last < 0:
            continue
        starts = places[: last + 1] if last < hours else places
        cost = sums[one.pools][:, starts + whole] - sums[one.pools][:, starts]
        if part > 0:
            cost = cost + part * rates[one.pools][:, starts + whole]
        least = np.minimum.accumulate(cost[:, ::-1], axis=1)[:, ::-1]
        asked = np.flatnonzero(one.devices)
        since = np.minimum(asked, starts[-1])
        pool = least[:, since].argmin(axis=0)
        first = np.where(cost <= least, starts, hours)
        first = np.minimum.accumulate(first[:, ::-1], axis=1)[:, ::-1]
        begin = first[pool, since]
        weight = one.devices[asked]
        total += float((least[pool, since] * weight).sum())
        row = one.pools[pool]
        np.add.at(change, (row, begin), weight)
        np.add.at(change, (row, begin + whole), -weight * (1 - part))
        np.add.at(change, (row, begin + whole + 1), -weight * part)
    return total, np.cumsum(change, axis=1)[:, :hours]
