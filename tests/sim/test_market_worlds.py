"""A market in random small worlds: whatever the world, the trace and the faults, nothing happens that
must not, every job ends once the faults do, and a seed says it all."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from market_checks import KIND
from market_worlds import Case, case, stopped_runs
from msgspec.structs import replace
from small_worlds import FAULT_KINDS, small_arrivals, small_world

from suan.grid import fact as f
from suan.grid.account import Quota
from suan.sim.report import digest

SEEDS = range(200, 224)
HASH_SEEDS, DIGESTS = ("1", "2"), (300, 301, 302)


def random_case(seed: int) -> Case:
    """A world, arrivals in five hours or crowded into one, with quotas in half of the worlds."""
    chance = random.Random(f"market/{seed}")
    crowd = chance.choice([1, 5])
    arrivals = [
        replace(one, at_s=one.at_s // crowd, task=replace(one.task, max_restarts=1000))
        for one in small_arrivals(seed)
    ]
    tenants: dict[str, dict[str, Any]] = {}
    if chance.random() < 0.5:
        tenants["above"] = {}
        for name in "xy":
            nominal = chance.randint(2, 6)
            quota = Quota(
                nominal_devices={KIND: nominal},
                borrow_devices={KIND: chance.randint(0, 4)},
                lend_devices={KIND: chance.randint(0, nominal)},
            )
            waiting = chance.choice([0, 1_000_000, 50_000_000])
            tenants[name] = {"parent": "above", "quota": quota, "waiting_microyuan_per_h": waiting}
    policy = {"starvation_s": chance.choice([3600, 86_400]), "clear_every_s": chance.choice([60, 900])}
    return case(f"seed {seed}", small_world(seed), arrivals, seed=seed, tenants=tenants, **policy)


@pytest.mark.parametrize("first", SEEDS[::8])
def test_nothing_breaks_and_every_job_ends(first: int) -> None:
    fired: Counter[str] = Counter()
    cleared = stopped = 0
    for seed in range(first, first + 8):
        made = random_case(seed)
        assert list(made.complaints()) == [], f"seed {seed}"
        fired += made.simulation.fired
        stopped += len(stopped_runs(made.simulation, "preempted"))
        facts = made.simulation.facts()
        cleared += sum(bool(fact.clearing.prices) for fact in facts if isinstance(fact, f.MarketCleared))
    assert cleared > 10, "nothing was ever scarce"
    assert stopped > 0, "nobody ever made room for another"
    assert set(FAULT_KINDS) - {"failed_transfer"} <= set(fired), fired


def test_the_same_seed_gives_the_same_journal_whatever_hashes_are() -> None:
    """Two processes with different PYTHONHASHSEED, the same digests; and a digest for each seed."""
    program = (
        "from test_market_worlds import *\n"
        "for seed in DIGESTS:\n"
        "    made = random_case(seed)\n"
        "    assert not list(made.complaints())\n"
        "    print(digest(made.simulation.facts()))\n"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hashed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout.split()
        for hashed in HASH_SEEDS
    ]  # fmt: skip
    made = random_case(DIGESTS[0])
    assert not list(made.complaints())
    assert answers[0] == answers[1]
    assert answers[0][0] == digest(made.simulation.facts())
    assert len(set(answers[0])) == len(DIGESTS)
