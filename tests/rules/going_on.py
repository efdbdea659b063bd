"""Runs that are going on, put there by facts alone: what tests of preemption and resizing begin with."""

from typing import Any

from scenario import Scenario, task

from suan.grid import fact as f
from suan.grid.account import Quote
from suan.grid.job import Bid, Checkpoint, Considered
from suan.grid.units import HOUR_S

EVERY = Checkpoint(every_s=600)


def place(grid: Scenario, job: str, site: str = "a", pool: str = "p0", nodes: int | None = None) -> str:
    """A run of the job starts now: on its own devices, at the pool's machine price."""
    asked = grid.state.jobs[job].task
    count = asked.num_nodes if nodes is None else nodes
    devices = asked.resources[0].devices * count
    run_s = asked.duration_s or HOUR_S
    per_h = grid.state.sites[site].pools[pool].machine_microyuan_per_device_h
    quote = Quote(
        machine_microyuan=devices * per_h * run_s // HOUR_S,
        run_s=run_s,
        machine_microyuan_per_device_h=per_h,
    )
    bid = Bid(
        site=site, pool=pool, devices=devices, nodes=count, start_s=grid.now_s, finish_s=grid.now_s + run_s,
        quote=quote,
    )  # fmt: skip
    run = f"{job}-r{len(grid.state.jobs[job].runs) + 1}"
    grid.tell(f.RunPlaced(at_s=grid.now_s, run=run, job=job, bid=bid, considered=Considered()))
    grid.started(run)
    return run


def running(
    grid: Scenario, *sizes: int, for_s: int = 3000, tenant: str = "default", site: str = "a", **about: Any
) -> list[str]:
    """Runs of so many devices that started `for_s` ago; the clock is where it was."""
    about = {"duration_s": 36_000, "checkpoint": EVERY, **about}
    grid.now_s -= for_s
    tasks = (task(f"r{number}", devices=size, **about) for number, size in enumerate(sizes))
    runs = [place(grid, job, site) for job in grid.submit(*tasks, tenant=tenant)]
    grid.now_s += for_s
    return runs
