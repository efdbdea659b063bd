"""One clearing in the grid's words: who waits and what will be free -> a question; the answer -> prices.

Lengths are forecasts, so are prices. How a question is answered is `clearing/clear.py`.
"""

import math

import numpy as np

from suan.grid.action import EndJob, PlaceRun
from suan.grid.job import Job, Reason
from suan.grid.market import Clearing, Step
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.bids import offers_for
from suan.rules.clearing.clear import clear
from suan.rules.clearing.question import Limit, Question
from suan.rules.clearing.slots import Floats, Slots, make_slots
from suan.rules.cycle import Cycle, Offer
from suan.rules.move import bound_artifacts
from suan.rules.policy import Policy
from suan.rules.quote import electricity_of_starts, power_w
from suan.rules.scarcity import curve
from suan.rules.supply import Supply
from suan.rules.turns import turn_of

_LENGTHS_PER_DOUBLING = 2  # known lengths that differ by less than a factor of 1.4 count as equal


def is_due(state: State, policy: Policy, now_s: int) -> bool:
    """Whether the market should be cleared again now."""
    last = state.clearing
    if not policy.market:
        return False
    if not state.waiting:
        return last is not None and bool(last.prices)
    return last is None or now_s - last.at_s >= policy.clear_every_s


def cleared(cycle: Cycle) -> Clearing:
    """New prices, from those who wait after this plan's placements."""
    slots = make_slots(cycle.now_s)
    rows = _rows(cycle, slots)
    if not rows:
        return Clearing(at_s=cycle.now_s, until_s=slots.end_s)
    question = _question(cycle, slots, rows)
    limit = Limit(rounds=cycle.policy.clear_rounds)
    keys = [(turn_of(cycle, row.job), k) for k, row in enumerate(rows)]
    order = np.array([k for _, k in sorted(keys)], np.int64)
    answer = clear(question, prices=_warm(cycle, slots), order=order, limit=limit)
    return Clearing(
        at_s=cycle.now_s,
        until_s=slots.end_s,
        prices=_prices(cycle, slots, np.where(_is_scarce(question), answer.prices, 0.0)),
        jobs=int(question.counts.sum()),
        cost_microyuan=round(answer.cost_microyuan),
        bound_microyuan=math.floor(answer.bound_microyuan),
        rounds=answer.rounds,
        complete=answer.complete,
        method=answer.method,
    )


# ---------------------------------------------------------------- who waits


class _Row:
    """Jobs that are alike: one demand, nearly one length, one slot of their deadline."""

    __slots__ = ("count", "due_s", "job", "length_s", "offers")

    def __init__(self, job: Job, offers: list[Offer], length_s: float, due_s: float) -> None:
        self.job, self.offers, self.length_s, self.due_s, self.count = job, offers, length_s, due_s, 0

    @property
    def work_device_s(self) -> float:
        return self.count * self.length_s * self.offers[0].devices


def _rows(cycle: Cycle, slots: Slots) -> list[_Row]:
    state = cycle.state
    placed = {action.job for action in cycle.actions if isinstance(action, PlaceRun | EndJob)}
    found: list[_Row] = []
    for queue in state.queues.values():
        alike: dict[tuple[int, int], _Row] = {}
        offers: list[Offer] | None = None
        for job in (state.jobs[name] for name in queue):
            if job.id in placed or job.id in state.stop_requested:
                continue
            if offers is None:
                artifacts = bound_artifacts(state, job)
                offers = [] if isinstance(artifacts, Reason) else offers_for(cycle, job, artifacts)[0]
            if not offers:
                break
            task = job.task
            length_s, due_s, bucket, slot = cycle.length_s(job), math.inf, 0, 0
            if task.duration_s is not None or task.deadline_s is not None:
                bucket = round(_LENGTHS_PER_DOUBLING * math.log2(max(1.0, length_s)))
            if task.deadline_s is not None:
                due_s = float(job.submitted_at_s + task.deadline_s)
                slot = int(np.searchsorted(slots.edges_s, due_s))
            row = alike.get((bucket, slot))
            if row is None:
                row = alike[bucket, slot] = _Row(job, offers, length_s, due_s)
            row.count += 1
        found.extend(alike.values())
    found.sort(key=lambda row: (-row.work_device_s, row.job.sequence))
    return found[: cycle.policy.clear_classes]


# ---------------------------------------------------------------- the question


def _question(cycle: Cycle, slots: Slots, rows: list[_Row]) -> Question:
    policy, pools = cycle.policy, cycle.supplies
    place = {supply.name: index for index, supply in enumerate(pools)}
    shape = (len(rows), len(pools))
    devices, run_s = np.zeros(shape, np.int64), np.ones(shape, np.int64)
    ready_s, fixed = np.full(shape, slots.start_s, np.int64), np.zeros(shape)
    waiting, late, lost = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
    for k, row in enumerate(rows):
        task = row.job.task
        for offer in row.offers:
            p = place[offer.supply.name]
            devices[k, p] = offer.devices
            run_s[k, p] = max(1, round(row.length_s / cycle.pace(row.job, offer.supply, offer.nodes)))
            ready_s[k, p] = cycle.now_s + offer.setting.move_s
            fixed[k, p] = offer.setting.move_microyuan
        ratio = policy.waiting_ratio.get(task.priority, 1.0)
        waiting[k] = row.offers[0].setting.waiting_microyuan_per_h * ratio / HOUR_S
        if task.deadline_s is not None:
            lost[k] = task.value_microyuan or 0
            late[k] = policy.late_microyuan_per_h / HOUR_S if task.value_microyuan is None else 0.0
        if policy.waits_free(task):  # until its deadline
            late[k] += waiting[k]
            waiting[k] = 0.0
    energy = np.stack([_energy(cycle, supply, slots) for supply in pools])
    tail_s = slots.edges_s[-1] - slots.edges_s[-25]
    return Question(
        slots=slots,
        counts=np.array([row.count for row in rows], np.int64),
        devices=devices,
        run_s=run_s,
        ready_s=ready_s,
        waiting_microyuan_per_s=waiting,
        due_s=np.array([row.due_s for row in rows]),
        late_microyuan_per_s=late,
        late_fixed_microyuan=lost,
        fixed_microyuan=fixed,
        machine_microyuan_per_device_s=np.array(
            [supply.pool.machine_microyuan_per_device_h / HOUR_S for supply in pools]
        ),
        energy_microyuan_per_device=energy,
        energy_microyuan_per_device_s_after=(energy[:, -1] - energy[:, -25]) / tail_s,
        free=np.stack([_free(supply, slots) for supply in pools]),
    )


def _energy(cycle: Cycle, supply: Supply, slots: Slots) -> Floats:
    """Micro-yuan of one busy device from the first edge to each: electricity, PUE and carbon."""
    tariff = cycle.state.tariff(supply.site.name, cycle.now_s)
    if tariff is None:
        return np.zeros(len(slots.edges_s))
    first = np.full(len(slots.edges_s), float(slots.start_s))
    spans = (slots.edges_s - slots.start_s).astype(float)
    kw = power_w(supply.pool, 1) / 1000 * tariff.pue
    money, gco2 = electricity_of_starts(tariff, first, spans)
    return kw * (money + gco2 / 1000 * cycle.policy.weighed_microyuan_per_kg)


def _free(supply: Supply, slots: Slots) -> np.ndarray:
    """Devices free in each slot, by the expected ends of what runs: as at the slot's beginning."""
    free = np.full(slots.count, supply.free, np.int64)
    if supply.ends:
        ends_s, held = (np.array(part) for part in zip(*supply.ends, strict=True))
        given_back = np.concatenate(([0], np.cumsum(held)))
        free += given_back[np.searchsorted(ends_s, slots.edges_s[:-1], side="right")]
    return np.maximum(0, free)


# ---------------------------------------------------------------- prices


def _warm(cycle: Cycle, slots: Slots) -> Floats | None:
    """The last prices, on these slots."""
    last = cycle.state.clearing
    if last is None or not last.prices:
        return None
    starts_s = slots.edges_s[:-1].astype(float)
    lengths_s = slots.lengths_s.astype(float)
    prices = np.zeros((len(cycle.supplies), slots.count))
    for p, supply in enumerate(cycle.supplies):
        known = curve(last, supply.name)
        if known is not None:
            ends = known.spans(np.full(slots.count, starts_s[0]), starts_s + lengths_s - starts_s[0])
            prices[p] = np.diff(ends, prepend=0.0) / lengths_s
    return prices


def _is_scarce(question: Question) -> np.ndarray:
    """(P, 1): whether all that could go to a pool is more than is free there at all times. Old prices may do
    well enough for the bound where it is not, and would still keep jobs away.
    """
    wanted = (question.counts[:, None] * question.devices).sum(axis=0)
    return np.asarray(wanted > question.free.min(axis=1))[:, None]


def _prices(cycle: Cycle, slots: Slots, prices: Floats) -> dict[str, tuple[Step, ...]]:
    found: dict[str, tuple[Step, ...]] = {}
    per_h = np.rint(prices * HOUR_S).astype(np.int64)
    for supply, row in zip(cycle.supplies, per_h, strict=True):
        if row.any():
            changes = np.flatnonzero(np.diff(row, prepend=-1))
            found[supply.name] = tuple(Step(int(slots.edges_s[at]), int(row[at])) for at in changes)
    return found
