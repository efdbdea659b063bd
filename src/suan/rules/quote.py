"""The money terms of one bid: machine, electricity over the very hours it would run, carbon, moving the data,
waiting, lateness, and the work that a preemption is expected to lose.

Knows prices. Does not know what is free (`decide`) or whether the pool can run the job at all (`fit`).
"""

from array import array
from bisect import bisect_right
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from suan.grid.account import Quote
from suan.grid.hardware import accelerator
from suan.grid.job import Job, Task
from suan.grid.site import Pool, Tariff, hour_rates
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy

_WINDOW_H = 24 * 62  # hours of a tariff that are summed at once
_WINDOW_S = _WINDOW_H * HOUR_S


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a bid's price depends on besides the task: where it would run and what would have to be moved
    there.
    """

    pool: Pool
    tariff: Tariff | None
    move_bytes: int = 0
    move_s: int = 0
    move_microyuan: int = 0
    waiting_microyuan_per_h: int = 0


class _Sums:
    """Running sums of one tariff's hourly rates, so that any span costs two look-ups. Kept for the newest
    tariffs.
    """

    __slots__ = ("arrays", "carbon", "drops", "first_hour", "money", "rises", "tariff")

    def __init__(self, tariff: Tariff, first_hour: int) -> None:
        rates = [np.array(part) for part in hour_rates(tariff, first_hour - 1, _WINDOW_H + 1)]
        turns = [np.diff(part) for part in rates]
        hours = first_hour + np.arange(_WINDOW_H)
        self.drops = (hours[(turns[0] < 0) | (turns[1] < 0)] * HOUR_S).tolist()
        self.rises = (hours[(turns[0] > 0) | (turns[1] > 0)] * HOUR_S).tolist()
        self.tariff = tariff
        self.first_hour = first_hour
        money, carbon = (np.concatenate(([0], np.cumsum(part[1:]))) for part in rates)
        # Plain arrays: one number is read quicker than from NumPy's, in a quarter of a list's memory.
        self.money, self.carbon = array("q", money), array("d", carbon)
        self.arrays = money.astype(float), carbon.astype(float)


# A memo: (id of tariff, hour) -> the tariff, kept alive, and its rates from that hour on.
_ahead: dict[tuple[int, int], tuple[Tariff, NDArray[np.float64]]] = {}
_sums: dict[tuple[int, int], _Sums] = {}  # a memo: (id of tariff, window) -> its sums; holds the tariff alive


def _window(tariff: Tariff, window: int) -> _Sums:
    key = (id(tariff), window)
    sums = _sums.get(key)
    if sums is None or sums.tariff is not tariff:
        if len(_sums) > 4096:
            _sums.clear()
        sums = _sums[key] = _Sums(tariff, window * _WINDOW_H)
    return sums


def _integral(tariff: Tariff, at_s: int) -> tuple[float, float]:
    """(micro-yuan, gCO2) a kW drawn since the start of at_s's window."""
    hour = at_s // HOUR_S
    sums = _window(tariff, hour // _WINDOW_H)
    index = hour - sums.first_hour
    part = (at_s - hour * HOUR_S) / HOUR_S
    money = sums.money[index] + (sums.money[index + 1] - sums.money[index]) * part
    return money, sums.carbon[index] + (sums.carbon[index + 1] - sums.carbon[index]) * part


def electricity(tariff: Tariff, start_s: int, end_s: int) -> tuple[float, float]:
    """(micro-yuan, gCO2) of one kW drawn at the socket from `start_s` to `end_s`, PUE not included."""
    window_s = _WINDOW_S
    money = carbon = 0.0
    at_s = start_s
    while at_s < end_s:
        boundary_s = (at_s // window_s + 1) * window_s
        upto_s = min(end_s, boundary_s)
        if upto_s == boundary_s:  # the last hour of a window is summed to its very end
            sums = _window(tariff, at_s // window_s)
            upper = float(sums.money[-1]), sums.carbon[-1]
        else:
            upper = _integral(tariff, upto_s)
        lower = _integral(tariff, at_s)
        money, carbon = money + upper[0] - lower[0], carbon + upper[1] - lower[1]
        at_s = upto_s
    return money, carbon


def electricity_of_hours(tariff: Tariff, start_s: int, spent_h: NDArray[np.float64]) -> tuple[float, float]:
    """(micro-yuan, gCO2) of one kW drawn for so much of each hour of the clock, from the one of `start_s` on;
    the last of `spent_h` is for all hours after those, at their mean. PUE is not included.
    """
    key = (id(tariff), start_s // HOUR_S)
    found = _ahead.get(key)
    if found is None or found[0] is not tariff or len(found[1][0]) != len(spent_h):
        if len(_ahead) > 4096:
            _ahead.clear()
        rates = np.array(hour_rates(tariff, start_s // HOUR_S, len(spent_h) - 1))
        found = _ahead[key] = tariff, np.column_stack((rates, rates.mean(axis=1)))
    money, gco2 = found[1] @ spent_h
    return float(money), float(gco2)


def power_w(pool: Pool, devices: int) -> float:
    """IT power of so many busy devices and their part of the host."""
    device_w = pool.device_w if pool.device_w is not None else (accelerator(pool.accelerator).tdp_w or 0.0)
    return devices * (device_w + pool.host_w_per_node / max(1, pool.devices_per_node))


def duration_s(task: Task, pool: Pool, policy: Policy) -> int:
    """How long the task should run there: its estimate, or the policy's prior, at the pool's speed."""
    known = task.duration_s if task.duration_s is not None else policy.default_duration_s
    return max(1, round(known / pool.speed_ratio))


class Terms(NamedTuple):
    """What a bid comes to, before it is written out as a quote."""

    machine: int
    electricity: int
    carbon: int
    move: int
    wait: int
    late: int
    preemption: int
    late_s: int
    gco2: float
    money_per_kw: float
    kw: float

    @property
    def total_microyuan(self) -> int:
        return sum(self[:7])


def terms(
    job: Job,
    setting: Setting,
    devices: int,
    span: tuple[int, int],
    policy: Policy,
    *,
    spent_h: NDArray[np.float64] | None = None,
) -> Terms:
    """The terms of running the job on `devices` of the setting's pool in the seconds of `span`. `spent_h`, of
    a length that is a guess: how much of each hour it is expected to run in (`electricity_of_hours`).
    """
    task, pool, tariff = job.task, setting.pool, setting.tariff
    start_s, end_s = span
    run_s = end_s - start_s
    machine = round(devices * pool.machine_microyuan_per_device_h * run_s / HOUR_S)
    kw = power_w(pool, devices) / 1000
    money_per_kw = carbon_per_kw = 0.0
    if tariff is not None and spent_h is not None:
        money_per_kw, carbon_per_kw = electricity_of_hours(tariff, start_s, spent_h)
    elif tariff is not None:
        money_per_kw, carbon_per_kw = electricity(tariff, start_s, end_s)
    pue = tariff.pue if tariff else 1.0
    gco2 = carbon_per_kw * kw * pue
    paid = round(money_per_kw * kw * pue)
    late_s, late = 0, 0.0
    if task.deadline_s is not None:
        late_s = max(0, end_s - (job.submitted_at_s + task.deadline_s))
        late = late_s / HOUR_S * policy.late_microyuan_per_h
        if task.value_microyuan is not None:  # lost as a whole, and no more than that
            late = float(task.value_microyuan) if late_s else 0.0
    every_s = task.checkpoint.every_s if task.checkpoint else run_s
    lost_s = min(run_s, every_s) / 2 + policy.restore_s
    risk = pool.preemption_per_h * run_s / HOUR_S * lost_s / run_s
    return Terms(
        machine=machine,
        electricity=paid,
        carbon=round(gco2 / 1000 * policy.carbon_microyuan_per_kg),
        move=setting.move_microyuan,
        wait=waiting(job, setting, start_s, policy, late_s=late_s),
        late=round(late),
        preemption=round(risk * (machine + paid)),
        late_s=late_s,
        gco2=gco2,
        money_per_kw=money_per_kw,
        kw=kw,
    )


def waiting(job: Job, setting: Setting, start_s: int, policy: Policy, *, late_s: int = 0) -> int:
    """Micro-yuan that the job's tenant counts for the time until its start; where waiting is free, for what
    it would be late.
    """
    wait_s = max(0, start_s - job.submitted_at_s)
    felt_s = min(wait_s, late_s) if policy.waits_free(job.task) else wait_s
    ratio = policy.waiting_ratio.get(job.task.priority, 1.0)
    return round(felt_s / HOUR_S * setting.waiting_microyuan_per_h * ratio)


def quote(
    job: Job,
    setting: Setting,
    devices: int,
    start_s: int,
    policy: Policy,
    *,
    run_s: int | None = None,
    spent_h: NDArray[np.float64] | None = None,
) -> Quote:
    """The itemised price of running the job on `devices` of the setting's pool from `start_s` on, for `run_s`
    or, where nobody learned better, for as long as its task says. `spent_h`: as of `terms`.
    """
    pool, tariff = setting.pool, setting.tariff
    run_s = duration_s(job.task, pool, policy) if run_s is None else run_s
    found = terms(job, setting, devices, (start_s, start_s + run_s), policy, spent_h=spent_h)
    return Quote(
        machine_microyuan=found.machine,
        electricity_microyuan=found.electricity,
        carbon_microyuan=found.carbon,
        move_microyuan=found.move,
        wait_microyuan=found.wait,
        late_microyuan=found.late,
        preemption_microyuan=found.preemption,
        wait_s=max(0, start_s - job.submitted_at_s),
        move_s=setting.move_s,
        run_s=run_s,
        is_length_guessed=spent_h is not None,
        late_s=found.late_s,
        move_bytes=setting.move_bytes,
        energy_kwh=found.kw * run_s / HOUR_S,
        carbon_gco2=found.gco2,
        microyuan_per_kwh=round(found.money_per_kw * HOUR_S / run_s),
        pue=tariff.pue if tariff else 1.0,
        power_w=found.kw * 1000,
        machine_microyuan_per_device_h=pool.machine_microyuan_per_device_h,
        carbon_microyuan_per_kg=policy.carbon_microyuan_per_kg,
        tariff_source=tariff.source if tariff else "no tariff: electricity counts as free",
    )


def turning_points(tariff: Tariff | None, from_s: int, until_s: int, run_s: int) -> list[int]:
    """Moments in (from_s, until_s] at which a run of `run_s` may be cheapest: where electricity becomes
    cheaper or cleaner as it begins, or dearer or dirtier as it ends.
    """
    if tariff is None or until_s <= from_s:
        return []
    found: list[int] = []
    for shift_s, rising in ((0, False), (run_s, True)):
        low_s, high_s = from_s + shift_s, until_s + shift_s
        for window in range(low_s // _WINDOW_S, high_s // _WINDOW_S + 1):
            sums = _window(tariff, window)
            known = sums.rises if rising else sums.drops
            found.extend(
                at_s - shift_s for at_s in known[bisect_right(known, low_s) : bisect_right(known, high_s)]
            )
    return sorted(set(found))


def electricity_of_starts(
    tariff: Tariff, starts_s: NDArray[np.float64], run_s: float | NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(micro-yuan, gCO2) of one kW from each start for `run_s`, PUE not included; as `electricity`, of many
    at once.
    """
    first = int(starts_s.min()) // _WINDOW_S
    last = int((starts_s + run_s).max()) // _WINDOW_S
    parts = [_window(tariff, window) for window in range(first, last + 1)]
    edges_s = (np.arange(len(parts) * _WINDOW_H + 1) + first * _WINDOW_H) * HOUR_S
    money, carbon = (_joined([part.arrays[term] for part in parts]) for term in (0, 1))
    ends_s = starts_s + run_s
    return (
        np.interp(ends_s, edges_s, money) - np.interp(starts_s, edges_s, money),
        np.interp(ends_s, edges_s, carbon) - np.interp(starts_s, edges_s, carbon),
    )


def _joined(sums: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Running sums of windows in a row as one."""
    joined = sums[0]
    for part in sums[1:]:
        joined = np.concatenate([joined, joined[-1] + part[1:]])
    return joined
