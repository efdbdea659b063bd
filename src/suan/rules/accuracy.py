"""How well lengths were foretold: each run that ended by itself, against what was to be expected when it was
placed.

Foretells again from the runs that had ended by then; nothing of it is kept in the state.
"""

import heapq
import math
from collections.abc import Callable, Iterable

import msgspec

from suan.grid.history import History
from suan.grid.job import Job
from suan.grid.state import State
from suan.rules.durations import count, forecast, true_length_s
from suan.rules.policy import Policy


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """One run that ended by itself, and how long its job took at speed 1."""

    job: Job
    placed_at_s: int
    ended_at_s: int
    length_s: float


class Foretold(msgspec.Struct, frozen=True, kw_only=True):
    """What was foretold of one such run."""

    job: Job
    length_s: float
    p50_s: float
    p90_s: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Of a group of runs. Ratios are true over foretold: 1 is as foretold, 2 twice as long."""

    group: str
    runs: int
    ratio_p50: float  # half of them were below this many times their p50
    ratio_p90: float
    log_error_p50: float  # median of |ln(true / p50)|: 0.7 is off by a factor of two
    covered_ratio: float  # the part that took no longer than its p90; 0.9 is right
    pinball_s: float  # mean pinball loss of the p90, the one to compare two ways of foretelling by


def ended_runs(state: State) -> list[Ended]:
    """Every run that ended by itself, in the order of their ends; services left out."""
    found = []
    for run in state.runs.values():
        job = state.jobs[run.job]
        length_s = None if job.task.replicas is not None else true_length_s(state, run)
        if length_s is not None and run.ended_at_s is not None:
            found.append(
                Ended(job=job, placed_at_s=run.placed_at_s, ended_at_s=run.ended_at_s, length_s=length_s)
            )
    return sorted(found, key=lambda ended: ended.ended_at_s)


def foretold(
    ended: Iterable[Ended], policy: Policy, *, newest: int = 2_000, tenant: str = ""
) -> list[Foretold]:
    """What was foretold of the `newest` of them, by those that had ended before each was placed; of one
    tenant's, by everybody's.
    """
    rows = sorted(ended, key=lambda row: row.placed_at_s)
    asked = [number for number, row in enumerate(rows) if tenant in ("", row.job.tenant)][-newest:]
    wanted = dict.fromkeys(asked)
    history, open_ends = History(), list[tuple[int, int]]()
    answers = []
    for number, row in enumerate(rows):
        while open_ends and open_ends[0][0] <= row.placed_at_s:
            before = rows[heapq.heappop(open_ends)[1]]
            count(history, before.job, before.length_s)
        if number in wanted:
            known = forecast(history, row.job.tenant, row.job.task, policy)
            answers.append(Foretold(job=row.job, length_s=row.length_s, p50_s=known.p50_s, p90_s=known.p90_s))
        heapq.heappush(open_ends, (row.ended_at_s, number))
    return answers


GROUPS: dict[str, Callable[[Job], str]] = {
    "all": lambda job: "all",
    "tenant": lambda job: job.tenant,
    "recipe": lambda job: job.task.recipe or "none",
    "size": lambda job: str(job.task.resources[0].devices * job.task.num_nodes),
    "estimate": lambda job: "estimated" if job.task.duration_s is not None else "not estimated",
}


def accuracy(rows: Iterable[Foretold], by: str) -> list[Accuracy]:
    """One line for each group of `GROUPS[by]`, the largest first."""
    groups: dict[str, list[Foretold]] = {}
    for row in rows:
        groups.setdefault(GROUPS[by](row.job), []).append(row)
    found = [_of(group, members) for group, members in groups.items()]
    return sorted(found, key=lambda line: (-line.runs, line.group))


def _of(group: str, rows: list[Foretold]) -> Accuracy:
    ratios = sorted(row.length_s / row.p50_s for row in rows)
    errors = sorted(abs(math.log(ratio)) for ratio in ratios)
    pinball = [max(0.9 * (row.length_s - row.p90_s), 0.1 * (row.p90_s - row.length_s)) for row in rows]
    return Accuracy(
        group=group,
        runs=len(rows),
        ratio_p50=_quantile(ratios, 0.5),
        ratio_p90=_quantile(ratios, 0.9),
        log_error_p50=_quantile(errors, 0.5),
        covered_ratio=sum(row.length_s <= row.p90_s for row in rows) / len(rows),
        pinball_s=sum(pinball) / len(pinball),
    )


def _quantile(values: list[float], part: float) -> float:
    """Of sorted values, the smallest that at least this part of them does not exceed."""
    return values[max(0, math.ceil(part * len(values)) - 1)]
