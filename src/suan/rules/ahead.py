"""The hours ahead of a job that may pause: what they cost in a pool, and by when it must have ended.

For jobs with checkpoints and a deadline, until which their tenants' time is free. A length that is not known
for certain keeps slack: what nineteen in twenty such jobs need must still fit before the deadline. Knows
electricity, carbon as the policy weighs it, clearing prices and restarts; which hours are best is `hours.py`.
"""

import numpy as np

from suan.grid.job import Run, Task
from suan.grid.market import Steps
from suan.grid.site import Pool, Site, Tariff
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.durations import expected
from suan.rules.forecast import Forecast
from suan.rules.hours import Floats, Hours, unit_for
from suan.rules.policy import Policy
from suan.rules.progress import WRITTEN_AFTER_S, pace, saved_s
from suan.rules.quote import electricity_of_starts, power_w
from suan.rules.scarcity import curve

_EXACT_RATIO = 0.01  # of a length: what is known so well counts as known
_MEMO_BYTES = 256 * 2**20  # of tables kept, some 200 kB each; all are dropped beyond
_memo: dict[tuple[object, ...], tuple[Tariff | None, Steps, Hours]] = {}  # holds what the keys have ids of
_held = [0]  # bytes put into the memo since it was empty


def may_pause(policy: Policy, task: Task) -> bool:
    """Whether a run of the task may stop at a checkpoint, to go on in better hours before its deadline."""
    return policy.waits_free(task) and task.checkpoint is not None and task.checkpoint.every_s > 0


def spread_s(known: Forecast, policy: Policy, done_s: float) -> float:
    """Seconds of work by which a job may exceed what is expected of it, after so many are done."""
    spread = known.rest_s(done_s, policy.deadline_quantile) - known.remaining_s(done_s)
    return spread if spread > _EXACT_RATIO * known.mean_s else 0.0


def run_left_s(state: State, policy: Policy, run: Run, now_s: int) -> tuple[float, float]:
    """(seconds that a run has to go where it is, by which it may exceed them)."""
    job, pool = state.jobs[run.job], state.sites[run.site].pools[run.pool]
    speed = pace(state, job, (run.site, pool), run.nodes)
    begun_s = saved_s(state, job).get(run.site, 0.0) if len(job.runs) > 1 else 0.0
    gone_s = max(0, now_s - (run.started_at_s or now_s) - (policy.restore_s if begun_s else 0))
    done_s = begun_s + gone_s * speed
    known = expected(state, job, policy)
    return known.remaining_s(done_s) / speed, spread_s(known, policy, done_s) / speed


def hours_ahead(
    state: State, policy: Policy, where: tuple[Site, Pool], at_s: int, *, left_s: float, due_s: float
) -> Hours | None:
    """The hours of a pool from a moment on, for so much work that must have ended by another; None where that
    leaves nothing to choose.
    """
    site, pool = where
    again_s = policy.restore_s + WRITTEN_AFTER_S
    if left_s < 2 * policy.min_run_s or due_s - at_s < left_s + again_s:
        return None
    tariff = state.tariff(site.name, at_s)
    clearing = state.clearing if policy.market else None
    name = f"{site.name}/{pool.name}"
    steps = clearing.prices.get(name, ()) if clearing is not None else ()
    unit_s = unit_for(left_s, due_s - at_s)
    last = int(due_s // unit_s)
    carbon = policy.weighed_microyuan_per_kg
    key = (id(tariff), id(steps), pool, carbon, again_s, last, unit_s)
    known = _memo.get(key)
    if known is not None and known[0] is tariff and known[1] is steps and known[2].holds(at_s, left_s):
        return known[2]
    edges_s = np.arange(at_s // unit_s, last + 1, dtype=float) * unit_s
    if len(edges_s) < 3 or edges_s[-1] < at_s + left_s + again_s:
        return None
    cost = np.zeros(len(edges_s) - 1)
    if tariff is not None:
        cost += _power(tariff, pool, carbon, edges_s[:-1], unit_s)
    scarce = curve(clearing, name)
    if scarce is not None:
        cost += scarce.spans(edges_s[:-1], float(unit_s))
    begin = again_s * (pool.machine_microyuan_per_device_h / HOUR_S + cost / unit_s)
    spare = int((edges_s[-1] - at_s - left_s) // unit_s) + 2
    made = Hours(int(edges_s[0]), unit_s, cost, begin, spare=spare, again_s=again_s)
    _held[0] += made.bytes
    if _held[0] > _MEMO_BYTES:
        _memo.clear()
        _held[0] = made.bytes
    _memo[key] = (tariff, steps, made)
    return made


def _power(tariff: Tariff, pool: Pool, carbon: int, starts_s: Floats, unit_s: int) -> Floats:
    """Micro-yuan of one device in each slot: electricity, and carbon as it is weighed."""
    money, gco2 = electricity_of_starts(tariff, starts_s, float(unit_s))
    kw = power_w(pool, 1) / 1000 * tariff.pue
    return np.asarray(kw * (money + gco2 / 1000 * carbon))
