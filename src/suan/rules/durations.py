"""How long jobs take that nobody knows the length of: learnt from those that have ended.

Knows whose past says something about whose future, from the same name on the same devices up to everybody.
Knows no pools: all seconds are at speed 1. Services are left out: they end when somebody ends them.
"""

import functools
import math
import re
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from suan.grid.history import BINS_PER_DOUBLING, History, Name, Tally, add
from suan.grid.job import EndCause, Job, Run, RunPhase, Task
from suan.grid.state import State
from suan.rules.estimates import unit_s
from suan.rules.forecast import Forecast, exactly, in_bins
from suan.rules.policy import Policy
from suan.rules.progress import run_speed

# Spread of ln(seconds) of a job of which nothing is known. Microsoft's Philly (2017) has 2.0, SenseTime's
# Helios Venus (2020) 2.6: measured by bench/durations.py, whose --fit the numbers below were chosen by.
PRIOR_SIGMA = 2.3
PRIOR_JOBS = 2.0  # so many that have ended weigh as much as that guess
# So many of a group weigh as much as all that is known of the wider group around it.
BACK_OFF_JOBS = 4.0
# Beyond so many, what is old counts half: for the newest of the most alike (sweeps and retries come in a
# row), for narrow groups, for wide ones.
RECENT_LIMIT, NARROW_LIMIT, WIDE_LIMIT = 8.0, 128.0, 512.0
DEADLINES_NEEDED = 8.0  # jobs with a deadline that must have ended before theirs say anything of others
RATIO_BACK_OFF_JOBS = 3.0  # of jobs with an estimate: until then it is believed

_BINS = 23 * BINS_PER_DOUBLING  # up to 97 days
_EDGES_S = np.concatenate(((0.0,), 2.0 ** (np.arange(1, _BINS + 1) / BINS_PER_DOUBLING)))
_EDGES_LIST_S = tuple(_EDGES_S.tolist())
_RATIO_DOUBLINGS = 10
_BLUR = np.array((0.15, 0.7, 0.15))  # what took 300 s may take 290 or 320 the next time, in another bin
_RECENT = "newest"
T = TypeVar("T")
_MEMO = 10_000  # forecasts kept, some 8 kB each; all are dropped beyond

_HASH = re.compile(r"(?=[a-z]*\d)[0-9a-f]{6,}|\d+|v\d+", re.IGNORECASE)
_PARTS = re.compile(r"[-_.:/ ]+")


@functools.lru_cache(maxsize=65_536)
def stem(name: str) -> str:
    """The name without what tells repetitions apart: numbers, versions and hashes at its end."""
    parts = [part for part in _PARTS.split(name) if part]
    while len(parts) > 1 and _HASH.fullmatch(parts[-1]):
        parts.pop()
    return "-".join([*parts[:-1], parts[-1].rstrip("0123456789")]) if parts else ""


def groups(tenant: str, task: Task) -> tuple[Name, ...]:
    """Whom the job is like, the most like first, and the newest of those before them. The last is
    everybody.
    """
    devices = task.resources[0].devices * task.num_nodes
    wide: tuple[Name, ...] = ((tenant, devices), (tenant,), (devices,), ())
    if task.recipe:
        wide = ((tenant, f"recipe {task.recipe}", devices), *wide)
    alike = (tenant, stem(task.name), devices)
    return ((*alike, _RECENT), alike, *wide)


def _limit(name: Name) -> float:
    if name and name[-1] == _RECENT:
        return RECENT_LIMIT
    return NARROW_LIMIT if len(name) > 1 else WIDE_LIMIT


# ---------------------------------------------------------------- what has ended


def learn(state: State, run: Run) -> None:
    """Counts a run that has just ended, when its job ended it by itself. Runs that the performance model
    foretold teach their site's factor instead (`estimates`).
    """
    job = state.jobs[run.job]
    length_s = true_length_s(state, run)
    if length_s is None or job.task.replicas is not None or unit_s(state, job) is not None:
        return
    count(state.history, job, length_s)


def count(history: History, job: Job, length_s: float) -> None:
    """One more job that took so long at speed 1."""
    bin = min(_BINS - 1, int(BINS_PER_DOUBLING * math.log2(max(1.0, length_s))))
    names = groups(job.tenant, job.task)
    for name in names:
        add(history.lengths, name, bin, _limit(name))
    if estimate_s := job.task.duration_s:
        for name in (names[1], (job.tenant,)):
            add(history.ratios, name, _ratio_bin(length_s, estimate_s), _limit(name))
    elif deadline_s := job.task.deadline_s:
        for name in ((), (job.tenant,)):
            add(history.deadlines, name, _ratio_bin(length_s, deadline_s), _limit(name))


def _ratio_bin(length_s: float, said_s: int) -> int:
    doublings = math.log2(max(0.5, length_s) / said_s)
    limit = _RATIO_DOUBLINGS * BINS_PER_DOUBLING
    return max(-limit, min(limit, round(BINS_PER_DOUBLING * doublings)))


def true_length_s(state: State, run: Run) -> float | None:
    """Seconds at speed 1 that an ended run's job took, with what earlier runs had saved for it; None when
    somebody or something else ended it.
    """
    if run.cause != EndCause.EXITED or run.started_at_s is None or run.ended_at_s is None:
        return None
    checkpoint, saved_s = state.jobs[run.job].task.checkpoint, 0.0
    if checkpoint is not None:
        for earlier in (state.runs[name] for name in state.jobs[run.job].runs):
            if earlier.id == run.id:
                break
            if earlier.site != run.site:  # checkpoints stay where they were written
                continue
            reached_s = saved_s + _worked_s(state, earlier)
            if earlier.cause != EndCause.STOPPED:  # who is told to stop saves all, who is not keeps the last
                reached_s = reached_s // checkpoint.every_s * checkpoint.every_s
            saved_s = max(saved_s, reached_s)
    return max(1.0, saved_s + _worked_s(state, run))


def _worked_s(state: State, run: Run) -> float:
    """Seconds of work, at speed 1 on the task's own number of nodes, between a run's start and its end."""
    if run.phase != RunPhase.ENDED or run.started_at_s is None or run.ended_at_s is None:
        return 0.0
    return max(0, run.ended_at_s - run.started_at_s) * run_speed(state, run)


# ---------------------------------------------------------------- what is to be expected


def expected(state: State, job: Job, policy: Policy) -> Forecast:
    """How long the job takes in all, at speed 1: by its estimate, set right by the record of its tenant's
    estimates; without one by its like.
    """
    known_s = unit_s(state, job)
    if known_s is not None:
        return exactly(known_s, basis="the performance model")
    return forecast(state.history, job.tenant, job.task, policy)


def forecast(history: History, tenant: str, task: Task, policy: Policy) -> Forecast:
    """`expected` for a task that nobody has submitted yet."""
    names = groups(tenant, task)
    if task.duration_s is not None:
        tallies = [history.ratios.get(name) for name in ((tenant,), names[1])]
        if not any(tallies):
            return _as_estimated(float(task.duration_s))
        key = (names[1], task.duration_s, *(tally.shown_at if tally else 0 for tally in tallies))
        found = history.memo.get(key)
        return found or _remember(history, key, _by_estimate(tallies, float(task.duration_s)))
    tallies = [history.lengths.get(name) for name in names]
    key = (names, policy.default_duration_s, *(tally.shown_at if tally else 0 for tally in tallies))
    found = history.memo.get(key) or _remember(
        history, key, _by_groups(history, names, tallies, policy.default_duration_s)
    )
    if task.deadline_s is not None:
        by_deadline = _by_deadline(history, tenant, rounded_deadline_s(task.deadline_s))
        if by_deadline is not None and _spread(by_deadline) < _spread(found):
            return by_deadline
    return found


def rounded_deadline_s(deadline_s: int) -> int:
    """The deadline within two per cent: jobs whose deadlines are as near as that share a forecast."""
    return int(2.0 ** (round(16 * math.log2(max(1, deadline_s))) / 16))


def _spread(forecast: Forecast) -> float:
    """How little is known: nine in ten against one in ten."""
    return forecast.p90_s / max(1.0, forecast.p10_s)


def _by_deadline(history: History, tenant: str, deadline_s: int) -> Forecast | None:
    """The time until the deadline times what such times turned out to be: who sets a deadline knows what he
    submits. None where too few have ended.
    """
    tallies = [history.deadlines.get(name) for name in ((), (tenant,))]
    if tallies[0] is None or tallies[0].shown_weight < DEADLINES_NEEDED:
        return None
    key = ("deadline", tenant, deadline_s, *(tally.shown_at if tally else 0 for tally in tallies))
    found: Forecast | None = history.memo.get(key)
    if found is None:
        parts = np.zeros(2 * _RATIO_DOUBLINGS * BINS_PER_DOUBLING + 1)
        for tally in tallies:
            if tally is not None:
                parts *= BACK_OFF_JOBS / max(1e-9, parts.sum()) if parts.any() else 0.0
                for bin, counted in tally.shown.items():
                    parts[bin + _RATIO_DOUBLINGS * BINS_PER_DOUBLING] += counted
        edges = deadline_s * 2.0 ** ((np.arange(len(parts) + 1) - 0.5) / BINS_PER_DOUBLING - _RATIO_DOUBLINGS)
        basis = f"its deadline, and what came of {tallies[0].shown_at:,} others with one"
        made = in_bins(edges.tolist(), parts, basis=basis, weight=tallies[0].shown_weight)
        found = _remember(history, key, made)
    return found


def _remember(history: History, key: Name | tuple[object, ...], made: T) -> T:
    if len(history.memo) >= _MEMO:
        history.memo.clear()
    history.memo[key] = made
    return made


def _by_groups(
    history: History, names: tuple[Name, ...], tallies: list[Tally | None], default_s: int
) -> Forecast:
    """Each group's counts over those of the wider group as a Dirichlet prior, from everybody down."""
    parts, strength = prior(default_s), PRIOR_JOBS
    basis = f"nobody's past: {default_s} s on average is assumed"
    weight = 0.0
    shown_at = tuple(tally.shown_at if tally else 0 for tally in tallies)
    for index in reversed(range(len(names))):
        name, tally = names[index], tallies[index]
        if tally is not None and tally.shown_weight:
            key = ("parts", default_s, names[index:], shown_at[index:])
            known: NDArray[np.float64] | None = history.memo.get(key)  # of a wider group: many are within it
            if known is None:
                known = _narrowed(parts, strength, tally)
                if index:
                    _remember(history, key, known)
            parts = known
            if _RECENT not in name:
                basis, weight = _basis(name, tally), tally.shown_weight
        strength = BACK_OFF_JOBS
    return in_bins(_EDGES_LIST_S, parts, basis=basis, weight=weight)


def _narrowed(parts: NDArray[np.float64], strength: float, tally: Tally) -> NDArray[np.float64]:
    counts = np.zeros(_BINS)
    counts[list(tally.shown)] = list(tally.shown.values())
    narrowed = parts * strength + np.convolve(counts, _BLUR, "same")
    return np.asarray(narrowed / narrowed.sum())


@functools.lru_cache(maxsize=65_536)
def _as_estimated(estimate_s: float) -> Forecast:
    return exactly(estimate_s, basis="its estimate")


def _by_estimate(tallies: list[Tally | None], estimate_s: float) -> Forecast:
    """The estimate times what estimates of this tenant, then of this name, turned out to be."""
    parts: dict[int, float] = {0: 1.0}
    seen = 0.0
    for tally in tallies:
        if tally is not None and tally.shown_weight:
            seen = tally.shown_weight
            whole = RATIO_BACK_OFF_JOBS + seen
            parts = {bin: part * RATIO_BACK_OFF_JOBS / whole for bin, part in parts.items()}
            for bin, counted in tally.shown.items():
                parts[bin] = parts.get(bin, 0.0) + counted / whole
    if len(parts) == 1:
        return _as_estimated(estimate_s)
    knots: list[float] = []
    cdf = [0.0]
    for bin in sorted(parts):
        half = 0.5 / BINS_PER_DOUBLING
        low, high = 2.0 ** (bin / BINS_PER_DOUBLING - half), 2.0 ** (bin / BINS_PER_DOUBLING + half)
        if bin == 0:  # as estimated
            low, high = 0.99, 1.01
        if knots and low - knots[-1] > 1e-9:
            knots.append(low)
            cdf.append(cdf[-1])
        elif not knots:
            knots.append(low)
        knots.append(high)
        cdf.append(cdf[-1] + parts[bin])
    basis = f"its estimate, and what became of {seen:.0f} other{'s' if seen > 1.5 else ''}"
    knots_s = [knot * estimate_s for knot in knots]
    return Forecast(knots_s, [part / cdf[-1] for part in cdf], basis=basis, weight=seen)


def _basis(name: Name, tally: Tally) -> str:
    """`14 jobs of nlp called bert on 8 devices`."""
    said = f"{tally.shown_at:,} job{'s' if tally.shown_at != 1 else ''}"
    texts = [part for part in name if isinstance(part, str)]
    if texts:
        said += f" of {texts[0]}"
    if len(texts) > 1:
        said += f" called {texts[1]}" if not texts[1].startswith("recipe ") else f" with {texts[1]}"
    if name and isinstance(name[-1], int):
        said += f" on {name[-1]} device{'s' if name[-1] != 1 else ''}"
    return said


@functools.lru_cache(maxsize=64)
def _prior(default_s: int) -> NDArray[np.float64]:
    median_s = default_s / math.exp(PRIOR_SIGMA**2 / 2)
    for _ in range(20):  # cut off at both ends: moved until the mean is what was said
        spread = (np.log(np.maximum(_EDGES_S, 1e-9)) - math.log(median_s)) / (PRIOR_SIGMA * math.sqrt(2))
        cdf = np.array([0.5 * (1 + math.erf(value)) for value in spread])
        parts: NDArray[np.float64] = np.diff(cdf) / (cdf[-1] - cdf[0])
        mean_s = float((parts * (_EDGES_S[1:] + _EDGES_S[:-1]) / 2).sum())
        median_s *= default_s / mean_s
    return parts


def prior(default_s: int) -> NDArray[np.float64]:
    """Parts by bin for a job without any past: lognormal, `default_s` on average."""
    return _prior(default_s).copy()
