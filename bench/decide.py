"""How long does one plan take with 10,000 queued jobs and 100 pools?

Limit: 5 CPU-seconds, a sixth of the sites' lease, so that reports are answered in time between plans. Beside
it the bound that no scheduler written in Python can beat: touching every queued job once.
"""

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "rules"))

from report import Result, show
from scenario import Scenario, task

from suan.grid.hardware import accelerator
from suan.grid.job import Priority
from suan.rules.decide import decide

LIMIT_S = 5.0
JOBS, POOLS = 10_000, 100


def queued(seed: int, *, busy: bool) -> Scenario:
    """A grid of 100 pools in 20 sites; `busy` means that jobs hold nearly all of it already."""
    draw = random.Random(seed)
    grid = Scenario()
    kinds = tuple(accelerator(name).name for name in ("H100", "A100-80GB", "910B", "MI300X", "L40S"))
    for site in range(POOLS // len(kinds)):
        grid.site(
            f"s{site:02}",
            *(f"{kind} 8x8 {draw.randint(1, 20)}" for kind in kinds),
            yuan_per_kwh=draw.uniform(0.2, 1),
        )
    for tenant in range(20):
        grid.tenant(f"t{tenant}")
    if busy:
        fill = [
            task("fill", devices=8, nodes=7, accelerator=kind, duration_s=86_400)
            for kind in kinds
            for _ in range(20)
        ]
        grid.submit(*fill)
        grid.plan()
    for number in range(JOBS):
        made = task(
            f"j{number}",
            devices=draw.choice((1, 1, 1, 2, 4, 8)),
            nodes=draw.choice((1, 1, 1, 1, 2, 4)),
            accelerator=draw.choice(kinds),
            duration_s=draw.randint(60, 86_400),
            priority=draw.choice((Priority.STANDARD, Priority.STANDARD, Priority.VALLEY)),
        )
        grid.submit(made, tenant=f"t{draw.randrange(20)}")
    return grid


def main() -> None:
    results = []
    for busy in (True, False):
        grid = queued(1, busy=busy)
        started = time.process_time()
        for job in grid.state.waiting:
            grid.state.jobs[job].task.resources  # noqa: B018
        bound_s = time.process_time() - started
        started = time.process_time()
        plan = decide(grid.state, grid.policy, grid.now_s)
        took_s = time.process_time() - started
        placed = f"{'full' if busy else 'empty'} grid, {len(plan.actions):,} placed"
        what = f"decide, {JOBS:,} queued x {POOLS} pools, {placed}"
        results.append(
            Result(
                what,
                took_s,
                "CPU-s",
                LIMIT_S,
                "a sixth of the lease",
                took_s / bound_s,
                "touching each job once",
            )
        )
    show("decide", results)


if __name__ == "__main__":
    main()
