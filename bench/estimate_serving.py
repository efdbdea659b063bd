"""How far serving estimates are from published measurements, by stratum, on rows left out of the fit.

    python bench/estimate_serving.py            # a table; exits 1 when a goal is missed
    python bench/estimate_serving.py --write    # and docs/reference/estimate-accuracy-serving.md

Goals: throughput within 20 % (mean absolute), first token and time between tokens within 25 %, intervals of
nine in ten that hold 85 to 95 of 100. Five folds, grouped by model x chip x devices, then whole sources left
out. The rows' offered rates are inputs; what was measured never is.
"""

import sys
from dataclasses import replace

import numpy as np
from estimate_plots import Panel, draw
from fit_serving import ROOT, Rows, fit_mechanics, fit_residual, predicted, read_rows
from report import Result, show

from suan.estimate.serving import estimate_serving, with_best_plan
from suan.estimate.serving_rates import ServingRates, families
from suan.estimate.serving_residual import ServingResidual

PAGE = ROOT / "docs/reference/estimate-accuracy-serving.md"
FOLDS = 5
GOAL = {"throughput": 0.20, "ttft": 0.25, "itl": 0.25}
NAMES = {
    "throughput": "throughput",
    "ttft": "first token",
    "itl": "between tokens",
    "offered": "offered load",
}
NINE_TENTHS = 0.9
LEAST_WIDTH = 0.02  # no estimate is surer than this

Fitted = list[tuple[np.ndarray, ServingRates, ServingResidual]]  # rows left out, and what the others gave


def folds(groups: np.ndarray, count: int = FOLDS) -> np.ndarray:
    """Fold of every row: groups by falling size, each to the fold that is emptiest. Deterministic."""
    names, sizes = np.unique(groups, return_counts=True)
    filled, where = np.zeros(count), {}
    for i in np.lexsort((names, -sizes)):
        where[names[i]] = int(np.argmin(filled))
        filled[where[names[i]]] += sizes[i]
    return np.array([where[g] for g in groups])


def left_out(rows: Rows, parts: np.ndarray | None = None) -> Fitted:
    """Fits without each part in turn."""
    parts = folds(rows.groups) if parts is None else parts
    fitted = []
    for part in np.unique(parts):
        inside = rows.take(np.flatnonzero(parts != part))
        rates = fit_mechanics(inside, passes=2, evaluations=6)
        fitted.append((np.flatnonzero(parts == part), rates, fit_residual(inside, rates)))
    return fitted


def errors(rows: Rows, fitted: Fitted, *, with_residual: bool) -> dict[str, np.ndarray]:
    """log(predicted / measured) of every row by the fit that had not seen it; nan where not measured."""
    found = {name: np.full(len(rows.cases), np.nan) for name in NAMES}
    for index, rates, residual in fitted:
        part = rows.take(index)
        table = residual if with_residual else ServingResidual.none()
        got = estimate_serving(part.cases, residual=table, rates=rates)
        with np.errstate(invalid="ignore", divide="ignore"):
            said = {
                "throughput": np.log(got.tokens_per_s),
                "ttft": np.log(got.ttft_ms),
                "itl": np.log(got.itl_ms),
            }
        said["offered"] = said["throughput"]
        for name, values in said.items():
            found[name][index] = values - part.measured[name]
    return found


def capacity_errors(rows: Rows, fitted: Fitted) -> np.ndarray:
    """The same for what tuned servers took, predicted without being told the rate."""
    found = np.full(len(rows.cases), np.nan)
    for index, rates, residual in fitted:
        part = rows.take(index)
        blind = replace(part.cases, rate_per_s=np.zeros(len(index)))
        got = predicted(with_best_plan(blind, rates), rates)["throughput"]
        factor = np.log(residual.of(part.cases)[0]["throughput"])
        tuned = np.where(part.cases.requests > 0, np.nan, part.measured["offered"])
        found[index] = got + factor - tuned
    return found


def spreads(rows: Rows, fitted: Fitted) -> dict[str, dict[str, list[float]]]:
    """Half-widths that hold nine tenths of the errors of rows left out, dense and mixture."""
    mixture = rows.cases.experts > 0
    widths: dict[str, dict[str, list[float]]] = {}
    for kind, switch in (("mechanics", False), ("residual", True)):
        found = errors(rows, fitted, with_residual=switch)
        widths[kind] = {
            name: [_width(values, ~mixture), _width(values, mixture)] for name, values in found.items()
        }
    return widths


def _width(values: np.ndarray, where: np.ndarray) -> float:
    there = values[where & ~np.isnan(values)]
    return max(float(np.quantile(np.abs(there), NINE_TENTHS)), LEAST_WIDTH)


def coverage(rows: Rows, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of left-out rows inside intervals whose width came from the other folds' rows."""
    parts, mixture = folds(rows.groups), rows.cases.experts > 0
    inside: dict[str, float] = {}
    for name, values in found.items():
        hits = np.full(len(values), np.nan)
        for part in range(FOLDS):
            for kind in (mixture, ~mixture):
                here = (parts == part) & kind & ~np.isnan(values)
                if here.any():
                    hits[here] = np.abs(values[here]) <= _width(values, (parts != part) & kind)
        inside[name] = float(np.nanmean(hits))
    return inside


def mape(values: np.ndarray) -> float:
    return float(np.mean(np.abs(np.expm1(values[~np.isnan(values)]))))


def strata(rows: Rows) -> list[tuple[str, np.ndarray]]:
    """(name, mask) of every stratum: by source, by family and kind, by devices, by way of serving."""
    c, mixture = rows.columns, rows.cases.experts > 0
    found = [(f"source {s}", c["source"] == s) for s in np.unique(c["source"].astype(str))]
    for code, family in enumerate(families()):
        for word, kind in (("dense", ~mixture), ("mixture", mixture)):
            found.append((f"{family}, {word}", (rows.cases.family == code) & kind))
    devices = rows.cases.devices
    found += [("1 device", devices == 1), ("2 to 8", (devices > 1) & (devices <= 8)), ("over 8", devices > 8)]
    found += [(f"scenario {s}", c["scenario"] == s) for s in np.unique(c["scenario"].astype(str))]
    return found


def table(rows: Rows, plain: dict[str, np.ndarray], corrected: dict[str, np.ndarray]) -> list[str]:
    """Markdown rows of every stratum and measure that has any."""
    lines = [
        "| stratum | measure | rows | MAPE, mechanics | MAPE | median | bias |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stratum, mask in [*strata(rows), ("**all**", np.ones(len(rows.cases), dtype=bool))]:
        for name in NAMES:
            here = mask & ~np.isnan(corrected[name])
            if not here.any():
                continue
            with_, without = np.expm1(corrected[name][here]), np.expm1(plain[name][here])
            lines.append(
                f"| {stratum} | {NAMES[name]} | {here.sum()} | {np.mean(np.abs(without)):.1%} "
                f"| {np.mean(np.abs(with_)):.1%} | {np.median(np.abs(with_)):.1%} | {np.median(with_):+.1%} |"
            )
    return lines


def main() -> None:
    rows = read_rows()
    sources = rows.columns["source"].astype(str)
    by_fold, by_source = left_out(rows), left_out(rows, sources)
    plain, corrected = (errors(rows, by_fold, with_residual=switch) for switch in (False, True))
    far_plain, far = (errors(rows, by_source, with_residual=switch) for switch in (False, True))
    held = coverage(rows, corrected)
    blind = capacity_errors(rows, by_fold)
    parts = {"folds": table(rows, plain, corrected), "sources": table(rows, far_plain, far)}
    inside = ", ".join(f"{NAMES[name]} {share:.1%}" for name, share in held.items())
    apart = ", ".join(f"{NAMES[name]} {away:.1%}" for name, away in repeated(rows).items())
    blind_line = f"What tuned servers took, not told the rate: {mape(blind):.1%}."
    blind_line += f" Rows that repeat each other are apart from their median: {apart}."
    if "--write" in sys.argv:
        PAGE.write_text(page(parts, inside, blind_line, residual_plot(rows, corrected)), encoding="utf-8")
    print(
        "\n".join(
            ["left out: groups", *parts["folds"], "", "left out: sources", *parts["sources"], "", inside]
        )
    )
    print(blind_line)
    results = []
    for name, goal in GOAL.items():
        ratio = mape(plain[name]) / mape(corrected[name])
        results.append(
            Result(NAMES[name], mape(corrected[name]), "MAPE", goal, "the goal", ratio, "mechanics alone")
        )
        share = held[name]
        results.append(
            Result(f"{NAMES[name]}, off 90 %", abs(share - 0.9), "share", 0.05, "85 to 95 %", share, "inside")
        )
    show("estimate-serving", results)


PREFACE = """\
# Accuracy of serving estimates

Made by `python bench/estimate_serving.py --write`. Rows are TensorRT-LLM's published performance tables
and MLPerf Inference results (not verified by MLCommons). A row is predicted by a fit that had not seen its
model x chip x devices, then by one that had not seen its source. *Offered load* is the throughput of streams
whose arrival rate is an input; the other measures are not told it.
"""
MISSED = """\
The goal of 25 % for first tokens is missed. Nearly all of it is MLPerf's *server* scenario, whose rate each
submitter tunes to just below what its server takes. There a first token hangs on how near that is: an error
of 10 % in throughput, half of the goal for it, moves it by about a third, and a submitter's own batching
delay, queue order and limits by more, which no column has. Where the load is given and light, or one
batch runs alone, first tokens are within the goal. Queue settings and one curve of first token against rate
a configuration would settle it: the knee would then be measured, not inferred.
"""
WEAK = """\
- First tokens of busy servers: one configuration measured by several submitters differs up to tenfold (Llama
  3.1 8B on eight B200, 60 to 600 ms at one rate). Their queue settings would settle it.
- Mixtures with many small experts split over devices: the tables do not say whether by tensor or by expert
  parallelism, nor which layers look back only part of the way.
- Prompts of unknown length count as 256 tokens: wrong for reasoning models, whose first token is then early.
- What a server takes within its limits, when nobody says the rate: the limits are assumed ones.
"""


def repeated(rows: Rows) -> dict[str, float]:
    """How far rows that differ in nothing a user could say are from their own median: no model gets below."""
    asked = ("model", "accel", "n_accel", "tp", "pp", "precision", "scenario", "isl", "req_rate")
    answers = [f"{tokens:.2g}" for tokens in rows.cases.output_tokens]
    columns = [*(rows.columns[name] for name in asked), answers]
    keys = np.array(["|".join(row) for row in zip(*columns, strict=True)])
    _, where = np.unique(keys, return_inverse=True)
    found: dict[str, float] = {}
    for name in GOAL:
        away = np.full(len(keys), np.nan)
        for key in range(where.max() + 1):
            here = (where == key) & ~np.isnan(rows.measured[name])
            if here.sum() > 1:
                away[here] = rows.measured[name][here] - np.median(rows.measured[name][here])
        found[name] = mape(away)
    return found


def residual_plot(rows: Rows, corrected: dict[str, np.ndarray]) -> str:
    """Errors of every row with its group left out, by measure, source and way of serving."""
    source, scenario = (rows.columns[name].astype(str) for name in ("source", "scenario"))
    names = np.array([f"{one}, {way}" for one, way in zip(source, scenario, strict=True)])
    panels = []
    for measure, goal in GOAL.items():
        there = ~np.isnan(corrected[measure])
        of = {name: np.expm1(corrected[measure][there & (names == name)]) for name in np.unique(names[there])}
        panels.append(Panel(title=NAMES[measure], errors=of, goal_percent=100.0 * goal))
    return draw("estimate-accuracy-serving", panels)


def page(parts: dict[str, list[str]], inside: str, blind: str, plot: str) -> str:
    """The reference page."""
    held = f"Inside the interval of nine in ten: {inside}. {blind}"
    by_fold, by_source = "\n".join(parts["folds"]), "\n".join(parts["sources"])
    return (
        f"{PREFACE}\n## Groups left out\n\n{by_fold}\n\n{held}\n\n"
        f"## Whole sources left out\n\n{by_source}\n\n## What is missed, and what would settle it\n\n"
        f"{MISSED}\n{plot}\n\n{WEAK}"
    )


if __name__ == "__main__":
    main()
