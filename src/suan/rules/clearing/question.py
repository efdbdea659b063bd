"""What a clearing is asked and what it answers, as arrays: K classes of equal jobs, P pools, S slots.

Knows shapes and units. How the answer is found is `clear.py`; how jobs become classes is `classes.py`.
"""

import msgspec
import numpy as np
import numpy.typing as npt

from suan.rules.clearing.slots import Floats, Seconds, Slots

Counts = npt.NDArray[np.int64]
NEVER = -1  # a start that the plan does not have


class Question(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Which jobs want which devices, for how long, at which cost; and what there is.

    A job of class k that starts at t in pool p costs
        fixed[k, p] + devices * (machine[p] * run + energy[p](t + run) - energy[p](t))
        + waiting[k] * (t - edges_s[0]) + late[k] * max(0, t + run - due[k])
        + late_fixed[k] if t + run > due[k].
    Waiting until now is the same in every plan and left out. Energy is linear between edges and goes on with
    `energy_microyuan_per_device_s_after` behind the last; what is free in the last slot stays free for ever.
    Waiting and lateness cost nothing or something, never less than nothing.
    """

    slots: Slots
    counts: Counts  # (K,)
    devices: Counts  # (K, P); 0 where it cannot run
    run_s: Seconds  # (K, P), at least 1
    ready_s: Seconds  # (K,) or (K, P): no start before
    waiting_microyuan_per_s: Floats  # (K,)
    due_s: Floats  # (K,); inf without a deadline
    late_microyuan_per_s: Floats  # (K,): soft
    late_fixed_microyuan: Floats  # (K,): hard, lost at once when the finish is after `due_s`
    fixed_microyuan: Floats  # (K, P): moving data, preference, expected preemptions
    machine_microyuan_per_device_s: Floats  # (P,)
    energy_microyuan_per_device: Floats  # (P, S + 1): running integral at the edges, may fall
    energy_microyuan_per_device_s_after: Floats  # (P,)
    free: Counts  # (P, S): devices

    @property
    def ready_by_pool_s(self) -> Seconds:
        """(K, P), not before the first edge."""
        ready = self.ready_s if self.ready_s.ndim == 2 else self.ready_s[:, None]
        return np.broadcast_to(np.maximum(ready, self.slots.start_s), self.devices.shape)


class Supply(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What the pools have and cost; see `Question`."""

    slots: Slots
    machine_microyuan_per_device_s: Floats  # (P,)
    energy_microyuan_per_device: Floats  # (P, S + 1)
    energy_microyuan_per_device_s_after: Floats  # (P,)
    free: Counts  # (P, S)
    speed_ratio: Floats  # (P,): a job takes its `run_s` over this


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """When to stop looking for something better."""

    rounds: int = 200  # of prices
    gap_ratio: float = 0.002  # between plan and bound, as a part of the plan
    orders: int = 8  # in which the plan is tried, where no order is given
    improvements: int = 400  # jobs taken out of the plan and put back elsewhere


class Placements(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Rows: so many jobs of a class start in a pool at a moment."""

    classes: Counts  # (N,)
    pools: Counts  # (N,)
    start_s: Seconds  # (N,)
    counts: Counts  # (N,)


class Answer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Prices, a plan, and how far the plan can be from the best."""

    prices: Floats  # (P, S): micro-yuan a device-second, beyond cost
    bound_microyuan: float  # no plan for the jobs that are placed costs less
    plan: Placements
    cost_microyuan: float  # of the plan
    unplaced: Counts  # (K,): jobs for which no pool ever has so much free at once
    first_start_s: Seconds  # (K,); NEVER where nothing is placed
    mean_start_s: Floats  # (K,); NEVER likewise
    rounds: int
    complete: bool  # False: cut off, the best until then
    method: str

    @property
    def gap_ratio(self) -> float:
        """How far the plan can be from the best one, as a part of its own cost."""
        if self.cost_microyuan <= 0:
            return 0.0
        return min(1.0, max(0.0, 1 - self.bound_microyuan / self.cost_microyuan))


def cost_of(question: Question, plan: Placements) -> Floats:
    """(N,): micro-yuan of each row of a plan, all its jobs together."""
    k, p = plan.classes, plan.pools
    edges = question.slots.edges_s
    start = plan.start_s.astype(np.float64)
    run = question.run_s[k, p].astype(np.float64)
    finish = start + run
    energy = np.empty(len(k))
    for pool in np.unique(p):
        mine = p == pool
        energy[mine] = energy_at(question, pool, finish[mine]) - energy_at(question, pool, start[mine])
    late = np.maximum(0.0, finish - question.due_s[k])
    each = (
        question.fixed_microyuan[k, p]
        + question.devices[k, p] * (question.machine_microyuan_per_device_s[p] * run + energy)
        + question.waiting_microyuan_per_s[k] * (start - edges[0])
        + question.late_microyuan_per_s[k] * late
        + question.late_fixed_microyuan[k] * (late > 0)
    )
    return np.asarray(plan.counts * each, dtype=np.float64)


def energy_at(question: Question | Supply, pool: int, at_s: Floats) -> Floats:
    """Micro-yuan that one busy device of a pool costs from the first edge until each moment."""
    edges = question.slots.edges_s
    inside = np.interp(at_s, edges, question.energy_microyuan_per_device[pool])
    after = np.maximum(0.0, at_s - edges[-1]) * question.energy_microyuan_per_device_s_after[pool]
    return np.asarray(inside + after, dtype=np.float64)
