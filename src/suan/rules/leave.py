"""When runs leave: the hours ahead cost so much that going on later is cheaper, the restart included.

A run whose job has a deadline follows the cheapest hours until then (`rest.py`). A valley run without one
may pause once: from some moment on, until some later one. Of all such pauses (they begin where the price
rises and end where it falls) the cheapest is weighed against going on. If it begins now, the run stops, but
only just after it has written a checkpoint. Prices are those of electricity, carbon and machine, and what the
devices are worth beyond them by the last clearing. Knows nothing of who would take the devices.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suan.grid.action import StopRun
from suan.grid.job import Priority, Run, RunPhase
from suan.grid.market import price_at
from suan.grid.site import Pool, Site, SitePhase, hour_rate
from suan.grid.state import State
from suan.grid.units import HOUR_S, duration_text, yuan_text
from suan.rules.policy import Policy
from suan.rules.progress import after_checkpoint_s, left_s, since_checkpoint_s
from suan.rules.quote import power_w
from suan.rules.rest import rest
from suan.rules.stops import PAUSED, stop_reason

_LONGEST_S = 14 * 24 * HOUR_S  # prices are looked at no further ahead

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leaving:
    """The runs that should stop now, and when to ask again; None when nothing is to be expected."""

    stops: tuple[StopRun, ...] = ()
    wake_at_s: int | None = None


@dataclass(frozen=True, slots=True)
class _Prices:
    """What one device of a pool costs from now on: a rate for each span of time."""

    starts_s: Floats  # of the spans, from now
    rates: Floats  # micro-yuan a device-second
    sums: Floats  # micro-yuan of a device from now to each start

    def until(self, seconds: Floats) -> Floats:
        """Micro-yuan of one device from now until so many seconds later; beyond the last start as there."""
        beyond = np.maximum(0.0, seconds - self.starts_s[-1]) * self.rates[-1]
        found: Floats = np.interp(seconds, self.starts_s, self.sums) + beyond
        return found


def leaving(state: State, policy: Policy, now_s: int, *, planned: frozenset[str] = frozenset()) -> Leaving:
    """Runs that should stop now because going on later costs less; `planned` ones stop anyway."""
    stops: list[StopRun] = []
    wakes: list[int] = []
    for site in state.sites.values():
        by_pool: dict[str, list[Run]] = {}
        for run in (state.runs[name] for name in state.open_runs.get(site.name, {})):
            if site.phase != SitePhase.READY or run.id in planned or not _may_leave(state, policy, run):
                continue
            old_s = (run.started_at_s or now_s) + policy.min_run_s
            if old_s > now_s:
                wakes.append(old_s)
            elif policy.waits_free(state.jobs[run.job].task):
                stop, wake_at_s = rest(state, policy, now_s, run)
                stops.extend([stop] if stop is not None else ())
                wakes.extend([wake_at_s] if wake_at_s is not None else ())
            else:
                by_pool.setdefault(run.pool, []).append(run)
        for pool, runs in by_pool.items():
            found = _of_pool(state, policy, now_s, (site, site.pools[pool], runs))
            stops.extend(found.stops)
            if found.wake_at_s is not None:
                wakes.append(found.wake_at_s)
    return Leaving(stops=tuple(stops), wake_at_s=min(wakes, default=None))


def _may_leave(state: State, policy: Policy, run: Run) -> bool:
    task = state.jobs[run.job].task
    if task.replicas is not None or task.checkpoint is None or not task.checkpoint.every_s:
        return False
    if run.phase != RunPhase.RUNNING or run.stop_reason or run.started_at_s is None:
        return False
    return task.priority == Priority.VALLEY or policy.waits_free(task)


def _of_pool(state: State, policy: Policy, now_s: int, about: tuple[Site, Pool, list[Run]]) -> Leaving:
    site, pool, runs = about
    left = np.array([left_s(run, now_s) for run in runs], dtype=np.float64)
    horizon_s = int(min(_LONGEST_S, policy.shift_horizon_s + left.max() + policy.restore_s))
    prices = _prices(state, policy, now_s, (site, pool, horizon_s))
    starts, rates = prices.starts_s, prices.rates
    begins = np.concatenate(([0.0], starts[1:][rates[1:] > rates[:-1]]))
    ends = starts[1:][(rates[1:] < rates[:-1]) & (starts[1:] <= policy.shift_horizon_s)]
    if not len(ends):
        return Leaving()
    again_at_s = now_s + int(starts[1])
    stay, pauses = _costs(state, policy, now_s, (prices, runs, left, begins, ends))
    stops, wakes = [], []
    for number, run in enumerate(runs):
        place = np.unravel_index(int(np.argmin(pauses[number])), pauses[number].shape)
        saved = float(stay[number] - pauses[number][place])
        machine = run.devices * left[number] * pool.machine_microyuan_per_device_h / HOUR_S
        if saved <= policy.pause_margin_ratio * max(0.0, stay[number] - machine):
            wakes.append(again_at_s)
        elif begins[place[0]] > 0:
            wakes.append(now_s + int(begins[place[0]]))
        elif (due_s := after_checkpoint_s(state.jobs[run.job], run, now_s)) > now_s:
            wakes.append(due_s)
        else:
            job = state.jobs[run.job]
            until_s = int(ends[place[1]])
            text = (
                f"to go on would cost {yuan_text(round(float(stay[number])))}, to go on in"
                f" {duration_text(until_s)} {yuan_text(round(float(pauses[number][place])))};"
                f" {duration_text(since_checkpoint_s(job, run, now_s))} of its work is done again"
            )
            stops.append(StopRun(run=run.id, why=stop_reason(PAUSED, job, text)))
    return Leaving(stops=tuple(stops), wake_at_s=min(wakes, default=None))


def _prices(state: State, policy: Policy, now_s: int, about: tuple[Site, Pool, int]) -> _Prices:
    """The pool's prices by the hour, and by the steps of the clearing."""
    site, pool, horizon_s = about
    name = f"{site.name}/{pool.name}"
    moments = {now_s: None}
    moments |= dict.fromkeys(range(now_s - now_s % HOUR_S + HOUR_S, now_s + horizon_s, HOUR_S))
    if state.clearing is not None:
        steps = [step.from_s for step in state.clearing.prices.get(name, ())]
        moments |= dict.fromkeys(at_s for at_s in steps if now_s < at_s < now_s + horizon_s)
    at = sorted(moments)
    tariff = state.tariff(site.name, now_s)
    kw = power_w(pool, 1) / 1000
    rates = []
    for at_s in at:
        rate = float(pool.machine_microyuan_per_device_h + price_at(state.clearing, name, at_s))
        if tariff is not None:
            money, gco2 = hour_rate(tariff, at_s // HOUR_S)
            rate += kw * tariff.pue * (money + gco2 / 1000 * policy.weighed_microyuan_per_kg)
        rates.append(rate / HOUR_S)
    starts = np.array(at, dtype=np.float64) - now_s
    by_rate = np.array(rates)
    sums = np.concatenate(([0.0], np.cumsum(by_rate[:-1] * np.diff(starts))))
    return _Prices(starts, by_rate, sums)


def _costs(
    state: State, policy: Policy, now_s: int, about: tuple[_Prices, list[Run], Floats, Floats, Floats]
) -> tuple[Floats, Floats]:
    """(what going on costs each run, what every pause would: by run, beginning and end)."""
    prices, runs, run_left, begins, ends = about
    devices = np.array([run.devices for run in runs], dtype=np.float64)
    stay = prices.until(run_left) * devices
    left = run_left[:, None, None]
    begin, end = begins[None, :, None], ends[None, None, :]
    rest = left - begin + policy.restore_s
    delay = end - begin + policy.restore_s
    cost = prices.until(begin) + prices.until(end + rest) - prices.until(end)
    cost = cost * devices[:, None, None] + _delays(state, policy, now_s, (runs, left, delay))
    possible = (end > begin) & (begin < left)
    return stay, np.where(possible, cost, np.inf)


def _delays(state: State, policy: Policy, now_s: int, about: tuple[list[Run], Floats, Floats]) -> Floats:
    """What the tenants lose by each delay: waiting, and lateness of those that have a deadline."""
    runs, left, delay = about
    waits, dues = [], []
    for run in runs:
        job, tenant = state.jobs[run.job], state.tenants.get(run.tenant)
        per_h = tenant.waiting_microyuan_per_h if tenant is not None else 0
        waits.append(per_h * policy.waiting_ratio.get(job.task.priority, 1.0) / HOUR_S)
        due_s = job.task.deadline_s
        dues.append(np.inf if due_s is None else float(job.submitted_at_s + due_s - now_s))
    due = np.array(dues)[:, None, None]
    late = np.maximum(0.0, left + delay - due) - np.maximum(0.0, left - due)
    found: Floats = np.array(waits)[:, None, None] * delay + late * policy.late_microyuan_per_h / HOUR_S
    return found
