"""Policies to compare with: what people do without a market, each as strong as its idea allows.

Each is a `decide` of the same type as `rules.decide` and is judged by the same audit. What they choose is
quoted by the same rules, so that the money they spend is counted alike. Where tenants have nominal quotas,
these are hard partitions (virtual clusters): every tenant its own queue and never a device more. Knows
nothing of clearing prices, preemption for others and elastic sizes.
"""

from suan.sim.baselines.pausing import PAUSE_QUANTILE, SuspendResume
from suan.sim.baselines.placing import (
    Baseline,
    by_arrival,
    by_length,
    cheapest_now,
    cleanest_now,
    least_loaded,
)

__all__ = [
    "PAUSE_QUANTILE",
    "Baseline",
    "SuspendResume",
    "by_arrival",
    "by_length",
    "cheapest_now",
    "cleanest_now",
    "least_loaded",
]
