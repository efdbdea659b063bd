"""How close to the best is a clearing, how fast, and by which method?

    bench/clear.py correct [--instances 1000] [--first 0]   against the integer optimum found by HiGHS
    bench/clear.py speed                                    100,000 queued jobs x 100 pools x 168 slots
    bench/clear.py methods                                  ways to move prices, at equal rounds

`correct` needs highspy and scipy. Limits: the bound never exceeds and the plan never beats the optimum, gap
(plan over bound) at most 3 % in the median and 10 % at p99; one clearing of the large queue in 2 CPU-seconds.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "rules"))

from clear_cases import GRID_S, HOUR_S, queue, small, supply
from clear_methods import METHODS, climb_by
from report import Result, show

from suan.rules.clearing.classes import classes_of
from suan.rules.clearing.clear import clear
from suan.rules.clearing.question import Limit, Placements, Question, cost_of
from suan.rules.clearing.queue import clear_queue
from suan.rules.clearing.slots import make_slots

MEDIAN_GAP, P99_GAP, SPEED_LIMIT_S = 0.03, 0.10, 2.0
BEHIND_H = 24  # hours after the horizon in which the optimum may still start jobs
SCALE = 1e-4  # HiGHS' tolerances are absolute


def optimum(question: Question, limit_s: float = 60.0) -> tuple[float, float]:
    """(best plan found, proven least cost) over all schedules on the grid."""
    import highspy
    from scipy import sparse

    edges = question.slots.edges_s
    end_s = int(edges[-1]) + BEHIND_H * HOUR_S
    columns = _columns(question, end_s)
    k, p = columns.classes, columns.pools
    first, steps = columns.start_s // GRID_S, question.run_s[k, p] // GRID_S
    moments = (end_s + int(question.run_s.max())) // GRID_S + 1
    at = np.clip(
        np.searchsorted(edges, np.arange(moments) * GRID_S, side="right") - 1, 0, question.slots.count - 1
    )
    column = np.repeat(np.arange(len(k)), steps)
    moment = first[column] + np.arange(len(column)) - np.repeat(np.cumsum(steps) - steps, steps)
    size = (question.free.shape[0] * moments, len(k))
    held = question.devices[k, p][column].astype(float)
    use = sparse.csr_matrix((held, (p[column] * moments + moment, column)), shape=size)
    rows = np.flatnonzero(np.diff(use.indptr))
    once = sparse.csr_matrix((np.ones(len(k)), (k, np.arange(len(k)))), shape=(len(question.counts), len(k)))
    matrix = sparse.vstack([use[rows], once]).tocsr()
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(k), matrix.shape[0]
    model.col_cost_ = cost_of(question, columns) * SCALE
    model.col_lower_, model.col_upper_ = np.zeros(len(k)), np.ones(len(k))
    ones = np.ones(len(question.counts))
    model.row_lower_ = np.concatenate([np.full(len(rows), -np.inf), ones])
    model.row_upper_ = np.concatenate([question.free[:, at].reshape(-1)[rows].astype(float), ones])
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_ = matrix.indptr, matrix.indices
    model.a_matrix_.value_ = matrix.data
    model.integrality_ = [highspy.HighsVarType.kInteger] * len(k)
    solver = highspy.Highs()
    for name, value in (
        ("output_flag", False),
        ("time_limit", limit_s),
        ("threads", 1),
        ("mip_rel_gap", 1e-6),
    ):
        solver.setOptionValue(name, value)
    solver.passModel(model)
    solver.run()
    info = solver.getInfo()
    return info.objective_function_value / SCALE, info.mip_dual_bound / SCALE


def _columns(question: Question, end_s: int) -> Placements:
    """Every start on the grid of every job in every pool that can run it."""
    ready = question.ready_by_pool_s
    able = (question.devices > 0) & (question.devices <= question.free.max(axis=1))
    pairs = [(k, p, np.arange(ready[k, p], end_s, GRID_S)) for k, p in zip(*np.nonzero(able), strict=True)]
    starts = np.concatenate([start for *_, start in pairs])
    return Placements(
        classes=np.concatenate([np.full(len(start), k) for k, _, start in pairs]),
        pools=np.concatenate([np.full(len(start), p) for _, p, start in pairs]),
        start_s=starts,
        counts=np.ones(len(starts), dtype=np.int64),
    )


def correct(first: int, instances: int) -> None:
    """Seeds first ... first + instances - 1, one line each that is out of line, then the quantiles."""
    gaps, over, under, took, wrong = [], [], [], [], 0
    for seed in range(first, first + instances):
        question = small(seed)
        started = time.process_time()
        answer = clear(question)
        took.append(time.process_time() - started)
        best, least = optimum(question)
        gaps.append(answer.cost_microyuan / answer.bound_microyuan - 1)
        over.append(answer.cost_microyuan / best - 1)
        under.append(1 - answer.bound_microyuan / best)
        if answer.bound_microyuan > best * (1 + 1e-6) or answer.cost_microyuan < least * (1 - 1e-6):
            wrong += 1
            print(f"seed {seed}: {answer.bound_microyuan} {answer.cost_microyuan}, HiGHS {best} {least}")
        if len(gaps) % 20 == 0 or seed == first + instances - 1:
            _quantiles(gaps, over, under)
    print(f"{instances} instances, {wrong} wrong, {np.median(took):.2f} CPU-s a clearing")
    assert not wrong
    print(f"median gap {'within' if np.median(gaps) <= MEDIAN_GAP else 'ABOVE'} {MEDIAN_GAP:.0%},"
          f" p99 {'within' if np.quantile(gaps, 0.99) <= P99_GAP else 'ABOVE'} {P99_GAP:.0%}")  # fmt: skip


def _quantiles(gaps: list[float], over: list[float], under: list[float]) -> None:
    print(f"after {len(gaps)}:")
    for name, values in (("plan/bound", gaps), ("plan/optimum", over), ("1 - bound/optimum", under)):
        cut = np.quantile(values, [0.5, 0.9, 0.99, 1])
        print(
            f"{name:18} median {cut[0]:.2%}  p90 {cut[1]:.2%}  p99 {cut[2]:.2%}  most {cut[3]:.2%}",
            flush=True,
        )


def speed() -> None:
    """One cycle, cold and then warm, for three kinds of queues."""
    results = []
    for kind in ("alike", "mixed", "urgent"):
        pools = supply(1, 100, slots=make_slots(0, fine_s=HOUR_S, tail_s=0))
        jobs = queue(1, 100_000, pools, load=0.7, kind=kind)
        prices = None
        for start in ("cold", "warm"):
            started = time.process_time()
            answer = clear_queue(jobs, pools, prices)
            took = time.process_time() - started
            prices = answer.prices
            print(f"{kind}, {start}: {answer.rounds} rounds, gap {answer.gap_ratio:.1%}")
            source = "what a cycle may take"
            results.append(Result(f"{kind}, {start}", took, "CPU-s", SPEED_LIMIT_S, source, 1.0, "itself"))
    show("clear", results)


def methods() -> None:
    """Bound after so many rounds, below the best that any method found, from nought."""
    cases = {f"small {seed}": small(seed) for seed in (1, 2, 4, 7, 9)}
    for load in (0.7, 1.5):
        pools = supply(2, 6, slots=make_slots(0, fine_s=HOUR_S))
        jobs = queue(2, 4_000, pools, load=load, kind="alike")
        cases[f"4,000 jobs, load {load}"] = classes_of(jobs, pools, most=60).question
    rounds = (20, 60, 200)
    for name, question in cases.items():
        ceiling = clear(question, limit=Limit(rounds=1)).cost_microyuan
        traces = {method: climb_by(method, question, ceiling, rounds[-1]) for method in METHODS}
        top = max(trace[-1] for trace in traces.values())
        print(f"{name} {question.devices.shape}")
        for method, trace in traces.items():
            below = [f"{(top - trace[r - 1]) / abs(top):8.2%}" for r in rounds]
            print(f"    {method:34} {' '.join(below)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="speed", choices=("correct", "speed", "methods"))
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    if asked.what == "correct":
        correct(asked.first, asked.instances)
    elif asked.what == "speed":
        speed()
    else:
        methods()


if __name__ == "__main__":
    main()
