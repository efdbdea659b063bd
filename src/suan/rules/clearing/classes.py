"""Jobs of a large queue as classes: alike enough to be cleared together, with how far they may differ.

A class stands for its jobs twice: by its lower edges, so that the bound stays one for the jobs themselves,
and by its upper edges, so that there is room for each job where the plan looks for room for its class. Knows
neither prices nor plans.
"""

import msgspec
import numpy as np

from suan.rules.clearing.layout import distinct
from suan.rules.clearing.question import Counts, Question, Supply
from suan.rules.clearing.slots import Floats, Seconds


class Jobs(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """N jobs, one entry each, and F kinds of fit: where a job can run and what going there costs."""

    devices: Counts  # (N,)
    run_s: Seconds  # (N,) where speed is 1
    ready_s: Seconds  # (N,)
    waiting_microyuan_per_s: Floats  # (N,)
    due_s: Floats  # (N,); inf without a deadline
    late_microyuan_per_s: Floats  # (N,)
    late_fixed_microyuan: Floats  # (N,)
    fit: Counts  # (N,): a row of the next two
    able: Counts  # (F, P): 0 or 1
    fixed_microyuan: Floats  # (F, P)


class Classes(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """K classes as two questions, and which class each job is of."""

    question: Question  # upper edges: where one fits, each job of the class does
    floor: Question  # lower edges: the bound is one for the jobs
    member: Counts  # (N,)


def classes_of(jobs: Jobs, supply: Supply, *, most: int = 600) -> Classes:
    """At most so many classes, or as many as jobs differ in devices and fit alone.

    Groups are split in halves where that costs most to leave: money at stake times how far members differ.
    """
    picked, member = distinct([jobs.fit.astype(np.float64), jobs.devices.astype(np.float64)])
    columns, stakes = _stakes(jobs, supply)
    while len(picked) < most:
        order = np.argsort(member, kind="stable")
        counts = np.bincount(member)
        first = np.cumsum(counts) - counts
        low = [np.minimum.reduceat(column[order], first) for column in columns]
        high = [np.maximum.reduceat(column[order], first) for column in columns]
        loss = np.stack(
            [
                np.add.reduceat(stake[order], first) * (1 - (a + 1e-9) / (b + 1e-9))
                for stake, a, b in zip(stakes, low, high, strict=True)
            ]
        )
        worst = loss.argmax(axis=0)
        size = loss.max(axis=0)
        room = min(most - len(picked), max(1, len(picked) // 3))
        chosen = np.argsort(-size, kind="stable")[:room]
        chosen = chosen[size[chosen] > 0]
        if not len(chosen):
            break
        member = _split(member, columns, (low, high), (chosen, worst))
        _, picked, member = np.unique(member, return_index=True, return_inverse=True)
    counts = np.bincount(member, minlength=len(picked))
    groups = picked, member, counts
    return Classes(
        question=_edge(jobs, supply, groups, lower=False),
        floor=_edge(jobs, supply, groups, lower=True),
        member=member,
    )


def _stakes(jobs: Jobs, supply: Supply) -> tuple[list[Floats], list[Floats]]:
    """What jobs of a group may differ in, each at least nought; and the money that hangs on it."""
    start_s = supply.slots.start_s
    run = jobs.run_s.astype(np.float64)
    work = jobs.devices * run
    late = jobs.late_microyuan_per_s
    has = np.isfinite(jobs.due_s) & ((late > 0) | (jobs.late_fixed_microyuan > 0))
    # how long jobs wait, more or less: until half of the work there is can be done
    delay_s = float(work.sum()) / max(1.0, float(supply.free.mean(axis=1).sum())) / 2
    delay_s = min(delay_s, float(supply.slots.end_s - start_s))
    rate = float(supply.machine_microyuan_per_device_s.mean())
    at_stake = np.where(has, late * delay_s + jobs.late_fixed_microyuan, 0.0)
    due = np.where(has, np.maximum(jobs.due_s - start_s, 1.0), 0.0)
    waiting = jobs.waiting_microyuan_per_s
    columns = [run, waiting, due, np.where(has, late, 0.0), np.where(has, jobs.late_fixed_microyuan, 0.0)]
    stakes = [work * rate, waiting * delay_s, at_stake, at_stake, at_stake]
    ready = np.maximum(jobs.ready_s - start_s, 0).astype(np.float64)
    return [*columns, ready], [*stakes, waiting * ready]


def _split(
    member: Counts,
    columns: list[Floats],
    edges: tuple[list[Floats], list[Floats]],
    what: tuple[Counts, Counts],
) -> Counts:
    """Members of the chosen groups, above the middle of what they differ in most, in groups of their own."""
    chosen, worst = what
    low, high = edges
    groups = len(low[0])
    upper = np.zeros(len(member), dtype=bool)
    for index, column in enumerate(columns):
        some = chosen[worst[chosen] == index]
        if len(some):
            middle = np.full(groups, np.inf)
            middle[some] = np.sqrt(np.maximum(low[index][some], 1e-9) * high[index][some])
            upper |= column > middle[member]
    return np.where(upper, member + groups, member)


def _edge(jobs: Jobs, supply: Supply, groups: tuple[Counts, Counts, Counts], *, lower: bool) -> Question:
    picked, member, counts = groups
    order = np.argsort(member, kind="stable")
    first = np.cumsum(counts) - counts

    def edge(values: Floats | Seconds, *, least: bool) -> Floats:
        reduce = np.minimum if least == lower else np.maximum
        return np.asarray(reduce.reduceat(values[order], first), dtype=np.float64)

    run = edge(jobs.run_s, least=True)
    devices = jobs.able[jobs.fit[picked]] * jobs.devices[picked][:, None]
    fixed = jobs.fixed_microyuan[jobs.fit[picked]].astype(np.float64)
    pace = run[:, None] / supply.speed_ratio
    if lower:
        # what the part of a run beyond the lower edge costs at the very least, anywhere and at any time
        rate = np.where(devices > 0, cheapest_rate(supply) / supply.speed_ratio, np.inf).min(axis=1)
        beyond = (_mean(jobs.run_s, member, counts) - run) * jobs.devices[picked]
        fixed = fixed + (beyond * np.where(np.isfinite(rate), rate, 0.0))[:, None]
    return Question(
        slots=supply.slots,
        counts=counts.astype(np.int64),
        devices=devices,
        run_s=np.maximum(1, np.floor(pace) if lower else np.ceil(pace)).astype(np.int64),
        ready_s=edge(jobs.ready_s, least=True).astype(np.int64),
        waiting_microyuan_per_s=edge(jobs.waiting_microyuan_per_s, least=True),
        due_s=edge(jobs.due_s, least=False),
        late_microyuan_per_s=edge(jobs.late_microyuan_per_s, least=True),
        late_fixed_microyuan=edge(jobs.late_fixed_microyuan, least=True),
        fixed_microyuan=fixed,
        machine_microyuan_per_device_s=supply.machine_microyuan_per_device_s,
        energy_microyuan_per_device=supply.energy_microyuan_per_device,
        energy_microyuan_per_device_s_after=supply.energy_microyuan_per_device_s_after,
        free=supply.free,
    )


def _mean(values: Floats | Seconds, member: Counts, counts: Counts) -> Floats:
    with_end = np.bincount(member, weights=values, minlength=len(counts))
    return np.asarray(with_end / counts, dtype=np.float64)


def cheapest_rate(supply: Supply) -> Floats:
    """(P,): the least that a busy device costs a second, machine and energy, at any time."""
    slope = np.diff(supply.energy_microyuan_per_device, axis=1) / supply.slots.lengths_s
    slope = np.minimum(slope.min(axis=1), supply.energy_microyuan_per_device_s_after)
    return np.asarray(supply.machine_microyuan_per_device_s + slope)
