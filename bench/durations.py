"""How well are lengths foretold that nobody stated, from the jobs that have ended before?

Two traces of real clusters in their order of time: each job is foretold at its submission from those that
have ended by then (as if none had to wait), then told. Beside: the median of all so far; the mean of the
tenant so far; and the rolling estimate of Helios' QSSF (Hu et al., SC 2021, section 4.2), a decaying mean of
the user's jobs of the same size, of the user's, or of the size: without its gradient-boosted half, and
without names, which these files do not have.

Limits: the error of the best of those three, in the same run; and nine in ten below the p90, within five in a
hundred. `--fit` tries other numbers for rules/durations.py; `--jobs FILE` takes another trace.
"""

import csv
import gzip
import heapq
import itertools
import math
import os
import sys
import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from report import Result, show
from scipy.stats import spearmanr

from suan.grid.history import History
from suan.grid.job import Job, Resources, Task
from suan.rules import durations
from suan.rules.policy import Policy

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SUAN_DATA", ROOT.parent / "shared" / "data"))
TRACES = ("jobs/philly_a.csv.gz", "jobs/helios_venus_a.csv.gz")
DECAY = 0.9  # of QSSF's rolling mean
_POLICY = Policy()


class Row(NamedTuple):
    submit_s: float
    job: Job
    length_s: float

    @property
    def size(self) -> int:
        return self.job.task.resources[0].devices


class Scores(NamedTuple):
    log_error: float  # median of |ln(foretold / true)|
    rank: float  # Spearman's
    covered: float  # part below the p90; nan where there is none


def read(path: Path) -> list[Row]:
    """The jobs of a trace by time of submission, as the simulator would submit them, lengths left out."""
    rows = []
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="") as lines:
        for number, line in enumerate(csv.DictReader(lines)):
            need = Resources(accelerator="A100", accelerators=int(float(line["gpus"])))
            task = Task(name=line["job_id"], resources=(need,))
            tenant = line.get("tenant") or "default"
            job = Job(id=line["job_id"], tenant=tenant, task=task, submitted_at_s=0, sequence=number)
            rows.append(Row(float(line["submit_s"]), job, max(1.0, float(line["duration_s"]))))
    return sorted(rows, key=lambda row: row.submit_s)


def told(rows: list[Row], foretell: Callable[[Row], Any], tell: Callable[[Row], None]) -> list[Any]:
    """What was foretold of each job, with those that had ended by its submission told before."""
    ends: list[tuple[float, int]] = []
    answers = []
    for number, row in enumerate(rows):
        while ends and ends[0][0] <= row.submit_s:
            tell(rows[heapq.heappop(ends)[1]])
        answers.append(foretell(row))
        heapq.heappush(ends, (row.submit_s + row.length_s, number))
    return answers


def learnt(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(p50, p90, shortness index) of each job by rules/durations.py."""
    history = History()

    def foretell(row: Row) -> tuple[float, float, float]:
        known = durations.forecast(history, row.job.tenant, row.job.task, _POLICY)
        return known.p50_s, known.p90_s, known.mean_s

    found = told(rows, foretell, lambda row: durations.count(history, row.job, row.length_s))
    columns = np.array(found).T
    return columns[0], columns[1], columns[2]


def global_median(rows: list[Row]) -> np.ndarray:
    seen: list[float] = []

    def foretell(row: Row) -> float:
        return seen[len(seen) // 2] if seen else float(_POLICY.default_duration_s)

    return np.array(told(rows, foretell, lambda row: insort(seen, row.length_s)))


def tenant_mean(rows: list[Row]) -> np.ndarray:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def tell(row: Row) -> None:
        for name in ("", row.job.tenant):
            sums[name][0] += row.length_s
            sums[name][1] += 1

    def foretell(row: Row) -> float:
        total, count = sums[row.job.tenant] if sums[row.job.tenant][1] else sums[""]
        return total / count if count else float(_POLICY.default_duration_s)

    return np.array(told(rows, foretell, tell))


def rolling(rows: list[Row]) -> np.ndarray:
    means: dict[tuple[str, int], float] = {}

    def names(row: Row) -> Iterator[tuple[str, int]]:
        yield from ((row.job.tenant, row.size), (row.job.tenant, 0), ("", row.size), ("", 0))

    def tell(row: Row) -> None:
        for name in names(row):
            before = means.get(name, row.length_s)
            means[name] = DECAY * before + (1 - DECAY) * row.length_s

    def foretell(row: Row) -> float:
        known = (means[name] for name in names(row) if name in means)
        return next(known, float(_POLICY.default_duration_s))

    return np.array(told(rows, foretell, tell))


def scores(rows: list[Row], middle: np.ndarray, p90: np.ndarray | None = None) -> Scores:
    truth = np.array([row.length_s for row in rows])
    covered = float((truth <= p90).mean()) if p90 is not None else math.nan
    error = float(np.median(np.abs(np.log(np.maximum(middle, 1) / truth))))
    return Scores(error, float(spearmanr(middle, truth).statistic), covered)


def fit(traces: dict[str, list[Row]]) -> None:
    """Other numbers for rules/durations.py, each with what it comes to on every trace."""
    for back_off, recent, narrow in itertools.product((1.0, 2.0, 4.0), (4.0, 8.0, 16.0), (32.0, 128.0)):
        durations.BACK_OFF_JOBS = back_off
        durations.RECENT_LIMIT, durations.NARROW_LIMIT = recent, narrow
        said = []
        for rows in traces.values():
            p50, p90, mean = learnt(rows)
            one, other = scores(rows, p50, p90), scores(rows, mean)
            said.append(f"{one.log_error:.3f} {one.rank:.3f} {other.rank:.3f} {one.covered:.3f}")
        print(f"back off {back_off:g} limits {recent:g} {narrow:g}: {'   '.join(said)}", flush=True)


def main() -> None:
    given = [Path(value) for name, value in itertools.pairwise(sys.argv) if name == "--jobs"]
    paths = given or [DATA / name for name in TRACES]
    traces = {path.name.partition(".")[0]: read(path) for path in paths if path.exists()}
    if "--fit" in sys.argv:
        fit({name: rows[:12_000] for name, rows in traces.items()})
        return
    results: list[Result] = []
    if not traces:
        print("no traces: SUAN_DATA names the folder that they are in", file=sys.stderr)
    for name, rows in traces.items():
        started = time.process_time()
        p50, p90, mean = learnt(rows)
        took_us = (time.process_time() - started) / len(rows) * 1e6
        ours = scores(rows, p50, p90)
        peers = {
            "the median so far": scores(rows, global_median(rows)),
            "the tenant's mean": scores(rows, tenant_mean(rows)),
            "QSSF's rolling mean": scores(rows, rolling(rows)),
        }
        spread = float(np.log([row.length_s for row in rows]).std())
        if "--json" not in sys.argv:
            print(f"{name}: {len(rows):,} jobs, spread of ln(seconds) {spread:.2f}, {took_us:.0f} us a job")
            for who, score in {"ours, p50": ours, "ours, mean": scores(rows, mean), **peers}.items():
                print(f"  {who}: |ln error| {score.log_error:.2f}, rank {score.rank:.3f}, "
                      f"below p90 {score.covered:.1%}")  # fmt: skip
        best = min(peers, key=lambda who: peers[who].log_error)
        ranked = max(peers, key=lambda who: peers[who].rank)
        results += [
            Result(f"{name}: median |ln(p50 / true)|", ours.log_error, "", peers[best].log_error, best,
                   ours.log_error / peers[best].log_error, best),
            Result(f"{name}: rank correlation of p50", ours.rank, "", peers[ranked].rank, ranked,
                   ours.rank / peers[ranked].rank, ranked, higher_is_better=True),
            Result(f"{name}: part below p90, off 90 %", abs(ours.covered - 0.9), "", 0.05,
                   "five in a hundred", ours.covered / 0.9, "nine in ten"),
        ]  # fmt: skip
    show("durations", results)


if __name__ == "__main__":
    main()
