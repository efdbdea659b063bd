"""Policies by name: how a simulated grid decides, and what its jobs and tariffs tell it."""

import difflib
from typing import Any

import msgspec

from suan.control.loop import Decide
from suan.grid.error import Refused
from suan.rules.decide import decide
from suan.rules.policy import Policy
from suan.sim.baselines import (
    Baseline,
    SuspendResume,
    by_length,
    cheapest_now,
    cleanest_now,
)
from suan.sim.baselines.pausing import carbon, price_and_carbon


class NamedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a grid.

    `oracle`: jobs say how long they really take, else they say nothing; and it sees prices that are not
    published yet.
    """

    name: str
    policy: Policy
    decider: Decide
    oracle: bool = False


def _baseline(name: str, decider: Decide, *, oracle: bool = False) -> NamedPolicy:
    return NamedPolicy(name=name, policy=Policy(name=name), decider=decider, oracle=oracle)


# The greenest hours before the deadline, of nearly equal ones the cheapest: at 1,000 yuan a kilogram
# carbon counts for hundreds of times the power that it comes from.
_GREEN = Policy(
    name="market-green",
    carbon_weight_microyuan_per_kg=1_000_000_000,
    pause_margin_ratio=0.0,
    free_until_deadline=True,
)

BUILT_IN: dict[str, NamedPolicy] = {
    row.name: row
    for row in (
        NamedPolicy(name="market", policy=Policy(name="market"), decider=decide),
        NamedPolicy(name="market-oracle", policy=Policy(name="market"), decider=decide, oracle=True),
        NamedPolicy(name="market-green", policy=_GREEN, decider=decide),
        NamedPolicy(name="market-green-oracle", policy=_GREEN, decider=decide, oracle=True),
        NamedPolicy(name="greedy", policy=Policy(name="greedy", market=False), decider=decide),
        NamedPolicy(
            name="greedy-oracle", policy=Policy(name="greedy", market=False), decider=decide, oracle=True
        ),
        _baseline("fifo", Baseline(homes=True)),
        _baseline("fifo-any", Baseline()),
        _baseline("sjf", Baseline(key=by_length, overtaking=True, reserve=True), oracle=True),
        _baseline("sjf-strict", Baseline(key=by_length), oracle=True),
        _baseline("backfill", Baseline(overtaking=True, reserve=True)),
        _baseline("backfill-oracle", Baseline(overtaking=True, reserve=True), oracle=True),
        _baseline("cheapest-now", Baseline(choose=cheapest_now, overtaking=True)),
        _baseline("greenest-now", Baseline(choose=cleanest_now, overtaking=True)),
        _baseline("least-loaded", Baseline(overtaking=True)),
        _baseline("suspend-resume", SuspendResume(rate=price_and_carbon)),
        _baseline(
            "suspend-resume-oracle",
            SuspendResume(rate=carbon, foresight=True, choose=cleanest_now),
            oracle=True,
        ),
    )
}
DEFAULT = "market"


def named_policy(name: str, overrides: dict[str, dict[str, Any]]) -> NamedPolicy:
    """The policy of that name: one of the world's `[policy.NAME]`, over the built-in one it is `like`, or
    built in.

    Raises: Refused `unknown_policy` with the nearest.
    """
    if name not in overrides and name not in BUILT_IN:
        known = sorted({*overrides, *BUILT_IN})
        near = difflib.get_close_matches(name, known, n=1)
        raise Refused(
            "unknown_policy",
            f"no policy is called {name!r}",
            hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}",
        )
    changes = dict(overrides.get(name, {}))
    like = str(changes.pop("like", name if name in BUILT_IN else DEFAULT))
    if like not in BUILT_IN:
        raise Refused(
            "unknown_policy",
            f"policy.{name}.like is {like!r}, which is not built in",
            hint=f"there are {', '.join(BUILT_IN)}",
        )
    base = BUILT_IN[like]
    oracle = bool(changes.pop("oracle", base.oracle))
    fields = msgspec.to_builtins(base.policy) | changes | {"name": name}
    return NamedPolicy(name=name, policy=msgspec.convert(fields, Policy), decider=base.decider, oracle=oracle)
