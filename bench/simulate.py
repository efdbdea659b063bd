"""How long does a month of a real cluster's jobs take to simulate, and on what is the time spent?

The grid's own policy over eight sites in the computing hubs' tariffs, 640 devices, and the busiest days of
SenseTime's Helios "Venus" trace (Hu et al., Characterization and Prediction of Deep Learning Workloads in
Large-Scale GPU Datacenters, SC'21; HeliosData, CC-BY-4.0): 23,027 jobs in 30 days, from a cluster with more
devices, so that here jobs have to wait. Rows are read from the folder that SUAN_DATA names, or from
../shared/data; without them the example's three days of Philly stand in.

Limit: 60 CPU-seconds for 30 days, a minute being what somebody who compares policies waits for one more
column; for `--days N` in proportion. Beside it, in the same run, the bound that no simulator over this
journal beats: folding the facts once.
"""

import argparse
import csv
import datetime
import gzip
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from report import Result, show

from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.evolve import fold
from suan.sim.policies import DEFAULT, named_policy
from suan.sim.run import Simulation
from suan.sim.trace import JobRow, make_trace, read_jobs
from suan.sim.world import World, make_world

ROOT = Path(__file__).parents[1]
WORLDS = ROOT / "examples" / "worlds"
TRACE = "jobs/helios_venus_a.csv.gz"
LIMIT_S, MONTH_DAYS, DAY_S = 60.0, 30, 24 * HOUR_S
NODES = {  # of eight devices, in each grid
    "Shanghai": 20,
    "Guizhou": 16,
    "Beijing": 12,
    "Jiangsu": 10,
    "Anhui": 8,
    "Gansu": 6,
    "Ningxia": 4,
    "Zhejiang": 4,
}


def eight_sites() -> World:
    """A world whose larger sites are the dearer ones, each under its own grid's bands."""
    sites = [
        {
            "name": grid.lower(),
            "pool": [
                {
                    "accelerator": "V100-32GB",
                    "devices_per_node": 8,
                    "nodes": nodes,
                    "machine_microyuan_per_device_h": 2_000_000 + 50_000 * nodes,
                    "host_w_per_node": 1000,
                }
            ],
            "tariff": {
                "csv": "tariffs/china_tou_hubs_2026.csv",
                "grid": grid,
                "grids_csv": "tariffs/china_grids.csv",
                "pue": 1.2,
            },
        }
        for grid, nodes in NODES.items()
    ]
    start = datetime.datetime.fromisoformat("2026-03-02T00:00:00+08:00")
    return make_world({"start": start, "site": sites}, WORLDS)


def busiest(days: int) -> tuple[str, int, list[JobRow]]:
    """(whose rows, how many days, the rows): the days in a row with the most jobs, moved to second 0."""
    path = Path(os.environ.get("SUAN_DATA", ROOT.parent / "shared" / "data")) / TRACE
    if not path.exists():
        return "Philly", 3, read_jobs(WORLDS / "trace-small.csv.gz")
    with gzip.open(path, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    a_day = Counter(int(float(row["submit_s"])) // DAY_S for row in rows)
    first = max(range(max(a_day) - days + 2), key=lambda day: sum(a_day[day + n] for n in range(days)))
    low_s, high_s = first * DAY_S, (first + days) * DAY_S
    kept = [
        JobRow(
            job_id=row["job_id"],
            submit_s=float(row["submit_s"]) - low_s,
            duration_s=float(row["duration_s"]),
            gpus=int(row["gpus"]),
        )
        for row in rows
        if low_s <= float(row["submit_s"]) < high_s
    ]
    return "Helios Venus", days, kept


def clocked(plain: Callable[..., Any], spent_s: Counter[str], part: str) -> Callable[..., Any]:
    """The same, its CPU time counted under `part`."""

    def timed(*given: Any, **named: Any) -> Any:
        began_s = time.process_time()
        try:
            return plain(*given, **named)
        finally:
            spent_s[part] += time.process_time() - began_s

    return timed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=MONTH_DAYS)
    parser.add_argument("--policy", default=DEFAULT)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    whose, days, rows = busiest(given.days)
    world = eight_sites()
    policy = named_policy(given.policy, world.policies)
    spent_s: Counter[str] = Counter()
    decider = clocked(policy.decider, spent_s, "decide")
    trace = make_trace(rows, world, oracle=policy.oracle)
    simulation = Simulation(world, trace.arrivals, replace(policy, decider=decider))
    grid: Any = simulation.grid
    for name in ("tick", "do", "orders"):
        setattr(grid, name, clocked(getattr(grid, name), spent_s, name))
    began_s = time.process_time()
    simulation.run()
    took_s = time.process_time() - began_s
    facts = list(simulation.facts())
    began_s = time.process_time()
    fold(State(), facts)
    fold_s = time.process_time() - began_s
    if not given.json:
        parts = {
            "deciding": spent_s["decide"],
            "auditing and writing plans": spent_s["tick"] - spent_s["decide"],
            "reports and submissions": spent_s["do"],
            "orders": spent_s["orders"],
            "sites, clock, messages": took_s - spent_s["tick"] - spent_s["do"] - spent_s["orders"],
        }
        shares = ", ".join(f"{part} {seconds / took_s:.0%}" for part, seconds in parts.items())
        plans = len(simulation.decide_s)
        print(f"{len(facts) / took_s:,.0f} facts a CPU-second, {plans:,} plans; {shares}")
    show(
        "simulate",
        [
            Result(
                f"{days} days of {whose}, {len(rows):,} jobs, 8 sites, policy {policy.name}",
                took_s,
                "CPU-s",
                LIMIT_S * days / MONTH_DAYS,
                "a minute a month",
                took_s / fold_s,
                "folding the facts once",
            )
        ],
    )


if __name__ == "__main__":
    main()
