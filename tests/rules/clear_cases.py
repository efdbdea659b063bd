"""Random questions for the clearing: small ones on a half-hour grid that an integer programme can solve, and
queues of any size.

On the grid everything (edges, runs, ready times, deadlines) is a multiple of `GRID_S`, so some best schedule
starts every job on it: between such moments every cost is linear and no run ends.
"""

import numpy as np

from suan.rules.clearing.classes import Jobs
from suan.rules.clearing.question import Question, Supply
from suan.rules.clearing.slots import Slots, make_slots

GRID_S = 1800
HOUR_S = 3600
YUAN_PER_H = 1e6 / HOUR_S  # micro-yuan a second


def small(seed: int) -> Question:
    """2 to 4 pools, 5 to 40 jobs over a day: gangs, soft and hard deadlines, changing electricity, other
    people's runs, closed hours; work from a quarter of what the first half day has to nearly twice that.
    """
    draw = np.random.default_rng(seed)
    pools, jobs, slots = int(draw.integers(2, 5)), int(draw.integers(5, 41)), 24
    free = np.stack([_free(draw, slots) for _ in range(pools)])
    speed = draw.choice([1, 1, 2], size=pools)
    devices = draw.choice([1, 2, 4, 8, 3, 5], p=[0.35, 0.2, 0.2, 0.15, 0.05, 0.05], size=jobs)
    run = np.clip(np.round(np.exp(draw.normal(np.log(2 * HOUR_S), 1.0, jobs)) / GRID_S), 1, 16) * GRID_S
    run_s = np.maximum(1, np.round(run[:, None] / speed / GRID_S)).astype(np.int64) * GRID_S
    wanted = draw.choice([0.25, 0.6, 1.0, 1.6]) * free[:, :12].sum() * HOUR_S
    jobs = min(jobs, max(5, int(np.searchsorted(np.cumsum(devices * run_s.mean(axis=1)), wanted))))
    devices, run_s = devices[:jobs], run_s[:jobs]
    able = np.where(_fit(draw, jobs, pools), devices[:, None], 0)
    stuck = ~((able > 0) & (able <= free[:, -1])).any(axis=1)
    able[stuck] = 0
    able[stuck, int(free[:, -1].argmax())] = np.minimum(devices[stuck], free[:, -1].max())
    machine = draw.uniform(4, 12, pools) * YUAN_PER_H * speed
    energy, after = _energy(draw, pools, np.arange(slots + 1) * HOUR_S)
    cost = devices * run_s.mean(axis=1) * machine.mean()
    due, late, late_fixed = _deadlines(draw, run_s, devices, cost)
    some = draw.random((jobs, pools))
    return Question(
        slots=Slots(edges_s=np.arange(slots + 1, dtype=np.int64) * HOUR_S),
        counts=np.ones(jobs, dtype=np.int64),
        devices=able.astype(np.int64),
        run_s=run_s,
        ready_s=np.where(some < 0.2, GRID_S * draw.integers(0, 8, (jobs, pools)), 0),
        waiting_microyuan_per_s=devices * draw.choice([0.1, 0.5, 1.0, 2.0], size=jobs) * YUAN_PER_H
        * draw.uniform(0.5, 1.5, jobs),
        due_s=due,
        late_microyuan_per_s=late,
        late_fixed_microyuan=late_fixed,
        fixed_microyuan=np.where(some > 0.7, draw.uniform(0, 0.2, (jobs, pools)) * cost[:, None], 0.0),
        machine_microyuan_per_device_s=machine,
        energy_microyuan_per_device=energy,
        energy_microyuan_per_device_s_after=after,
        free=free,
    )  # fmt: skip


def _free(draw: np.random.Generator, slots: int) -> np.ndarray:
    """One pool's free devices by slot: other runs end, some hours are half closed."""
    size = int(draw.choice([8, 8, 16, 32]))
    free = np.full(slots, size, dtype=np.int64)
    for _ in range(int(draw.integers(0, 4))):
        free[: int(draw.integers(1, slots // 2))] -= int(draw.integers(1, size // 2 + 1))
    free = np.maximum(free, 0)
    if draw.random() < 0.3:
        first = int(draw.integers(0, slots - 4))
        free[first : first + int(draw.integers(1, 5))] //= 2
    return free


def _fit(draw: np.random.Generator, jobs: int, pools: int) -> np.ndarray:
    fit = draw.random((jobs, pools)) < 0.8
    fit[np.arange(jobs), draw.integers(0, pools, jobs)] = True
    return fit


def _energy(draw: np.random.Generator, pools: int, edges_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A price that goes up and down by the day, in some pools below nought for hours."""
    hours = np.arange(int(edges_s[-1] // HOUR_S) + 1)
    energy, after = np.zeros((pools, len(edges_s))), np.zeros(pools)
    for pool in range(pools):
        yuan = 0.6 + 0.5 * np.sin((hours + draw.uniform(0, 24)) / 24 * 2 * np.pi)
        yuan = yuan + draw.normal(0, 0.15, len(hours)) - (0.6 if draw.random() < 0.2 else 0.0)
        rate = yuan * draw.uniform(0.4, 1.2) * 1.3 * YUAN_PER_H
        total = np.concatenate([[0.0], np.cumsum(rate * HOUR_S)])
        energy[pool] = np.interp(edges_s - edges_s[0], np.arange(len(total)) * HOUR_S, total)
        after[pool] = max(float(rate.mean()), 0.0)
    return energy, after


def _deadlines(
    draw: np.random.Generator, run_s: np.ndarray, devices: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    jobs = len(devices)
    due, late, fixed = np.full(jobs, np.inf), np.zeros(jobs), np.zeros(jobs)
    kind = draw.random(jobs)
    has = kind < 0.4
    due[has] = (run_s.max(axis=1) + GRID_S * draw.integers(0, 24, jobs))[has]
    soft, hard = kind < 0.2, has & (kind >= 0.2)
    late[soft] = (devices * draw.choice([2.0, 5.0, 10.0], jobs) * YUAN_PER_H)[soft]
    fixed[hard] = (cost * draw.uniform(0.5, 3, jobs))[hard]
    return due, late, fixed


def supply(seed: int, pools: int, *, kinds: int = 5, slots: Slots | None = None) -> Supply:
    """Pools of 32 to 320 devices, partly busy, in places with tariffs of their own."""
    draw = np.random.default_rng(seed)
    cut = slots or make_slots(0, fine_s=HOUR_S)
    size = draw.integers(4, 40, pools) * 8
    free = np.repeat(size[:, None], cut.count, axis=1)
    for pool in range(pools):
        for _ in range(10):
            ends_s = float(np.exp(draw.normal(np.log(6 * HOUR_S), 1.2)))
            free[pool, cut.edges_s[:-1] < ends_s] -= int(draw.integers(0, size[pool] // 10 + 1))
    energy, after = _energy(draw, pools, cut.edges_s)
    speed = draw.choice([1.0, 0.5, 1.5], pools, p=[0.6, 0.2, 0.2])
    return Supply(
        slots=cut,
        machine_microyuan_per_device_s=draw.uniform(4, 10, pools) * YUAN_PER_H * speed,
        energy_microyuan_per_device=energy,
        energy_microyuan_per_device_s_after=after,
        free=np.maximum(free, 0).astype(np.int64),
        speed_ratio=speed,
    )


def queue(seed: int, jobs: int, pools: Supply, *, load: float, kind: str = "mixed") -> Jobs:
    """A queue that would fill the pools for `load` of a week. `alike`: a few sizes, lengths and rates, as
    sweeps and batches make them; `mixed`: everything is drawn for each job; `urgent`: mixed, and most have
    deadlines.
    """
    draw = np.random.default_rng(seed)
    count = pools.free.shape[0]
    kinds = np.arange(count) % 5
    able = draw.random((16, 5)) < 0.5
    able[np.arange(16), draw.integers(0, 5, 16)] = True
    devices = draw.choice([1, 2, 4, 8, 16, 32], size=jobs, p=[0.4, 0.12, 0.13, 0.25, 0.06, 0.04])
    run = np.exp(draw.normal(0, 1.3, jobs))
    value = np.exp(draw.normal(np.log(0.3), 1.0, jobs))
    if kind == "alike":
        run, value = 3.0 ** np.round(np.log(run) / np.log(3)), draw.choice([0.1, 0.4, 1.0], jobs)
    week = int(np.searchsorted(pools.slots.edges_s - pools.slots.start_s, 7 * 24 * HOUR_S))
    room = float((pools.free * pools.slots.lengths_s)[:, :week].sum())
    run = np.clip(run * load * room / float((devices * run).sum()), 60, 5 * 24 * HOUR_S)
    has = draw.random(jobs) < {"alike": 0.1, "mixed": 0.3, "urgent": 0.9}[kind]
    slack = np.round(run * draw.uniform(1, 5, jobs) + HOUR_S * draw.integers(0, 72, jobs))
    slack = np.ceil(slack / (12 * HOUR_S)) * 12 * HOUR_S if kind == "alike" else slack
    soft = draw.random(jobs) < 0.5
    cost = devices * run * 8 * YUAN_PER_H
    return Jobs(
        devices=devices.astype(np.int64),
        run_s=np.maximum(1, np.round(run)).astype(np.int64),
        ready_s=np.zeros(jobs, dtype=np.int64),
        waiting_microyuan_per_s=devices * value * YUAN_PER_H,
        due_s=np.where(has, pools.slots.start_s + slack, np.inf),
        late_microyuan_per_s=np.where(has & soft, devices * 2.0 * YUAN_PER_H, 0.0),
        late_fixed_microyuan=np.where(has & ~soft, cost, 0.0),
        fit=draw.integers(0, 16, jobs),
        able=able[:, kinds].astype(np.int64),
        fixed_microyuan=np.zeros((16, count)),
    )
