"""How well step times are predicted on measured runs nobody fitted: by stratum, with and without correction.

    python bench/estimate_training.py            goals, each with its limit; --json for machines
    python bench/estimate_training.py --write    and docs/reference/estimate-accuracy-training.md

Everything is fitted anew without the rows it is judged on: five folds by model x chip x devices, then each
source left out whole, then by extrapolation. Rows come from SUAN_DATA, or ../shared/data. About three
minutes of one core.
"""

import sys
import textwrap
import time
from dataclasses import dataclass

import numpy as np
from estimate_plots import Panel, draw
from fit_estimate import Fit, fit, stored
from fit_residual import folds, left_out, references, spread_of
from report import Result, show
from training_rows import ROOT, TINY, Measured, measured, scale_of

from suan.estimate.outcome import estimate_training
from suan.estimate.residual import correction, interval

PAGE = ROOT / "docs/reference/estimate-accuracy-training.md"
# Public predictors on such rows: llm-analysis 19.8 % mapped by hand, one efficiency a chip 25 %, calculon
PEER = 22.7


@dataclass(frozen=True)
class Judged:
    """Errors of rows by what had not seen them: logarithms of predicted over measured."""

    mechanics: np.ndarray
    corrected: np.ndarray
    covered: np.ndarray  # whether the 90 % interval held the measured time
    covered_mechanics: np.ndarray


def mape(missed: np.ndarray) -> float:
    """Mean of |predicted / measured - 1|, percent."""
    return float(np.mean(np.abs(np.exp(missed) - 1.0))) * 100.0 if len(missed) else float("nan")


def bias(missed: np.ndarray) -> float:
    """Median of predicted / measured - 1, percent."""
    return float(np.median(np.exp(missed) - 1.0)) * 100.0


def judged(rows: Measured, fold: np.ndarray, start: Fit) -> Judged:
    """Every row judged by a fit without its fold; widths of intervals come from the other folds too."""
    mechanics, corrected, doubt = left_out(rows, fold, start)
    weight = np.array([1.0 / np.sqrt((rows.source == name).sum()) for name in rows.source])
    held = {}
    for name, missed in (("corrected", corrected), ("mechanics", mechanics)):
        inside = np.empty(len(rows), dtype=bool)
        for each in np.unique(fold):
            test, train = fold == each, fold != each
            width = spread_of(missed[train], doubt[train], weight[train])
            low, high = interval(rows.step_s[test] * np.exp(missed[test]), doubt[test], width)
            inside[test] = (low <= rows.step_s[test]) & (rows.step_s[test] <= high)
        held[name] = inside
    return Judged(mechanics, corrected, held["corrected"], held["mechanics"])


def extrapolated(rows: Measured, train: np.ndarray, test: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """(rows, log of mechanics over measured, the same corrected) of `test` by a fit on `train` alone."""
    known, here = rows.take(np.flatnonzero(train & (rows.trust != "C"))), rows.take(np.flatnonzero(test))
    fitted = fit(known, steps=15)
    runs = references(known, np.log(known.step_s / fitted.step_s(known)))
    missed = np.log(fitted.step_s(here) / here.step_s)
    return len(here), missed, missed + np.log(correction(here.cases, runs).factor)


def extrapolations(rows: Measured) -> list[tuple[str, int, np.ndarray, np.ndarray]]:
    """What was asked of the model that it had seen nothing like."""
    devices = rows.cases.machines.devices
    routed = rows.cases.shapes.experts > 0
    seen = np.isin(rows.family, ("ampere", "hopper"))
    asked = [
        (f"A100 and H100 rows predict {name}", seen, rows.family == family)
        for name, family in (("Ascend", "ascend"), ("AMD Instinct", "cdna"), ("Blackwell", "blackwell"))
    ]
    asked += [
        ("512 devices and fewer predict 2,048 and more", devices <= 512, devices >= 2048),
        ("dense predicts mixtures", ~routed, routed),
    ]
    return [(name, *extrapolated(rows, train, test)) for name, train, test in asked]


def median(missed: np.ndarray) -> float:
    """Median of |predicted / measured - 1|, percent."""
    return float(np.median(np.abs(np.exp(missed) - 1.0))) * 100.0


def _line(name: str, missed: Judged, mask: np.ndarray) -> str:
    cells = [name, f"{mask.sum()}"]
    for errors in (missed.mechanics[mask], missed.corrected[mask]):
        cells += [f"{mape(errors):.1f}", f"{median(errors):.1f}", f"{bias(errors):+.1f}"]
    return "| " + " | ".join([*cells, f"{missed.covered[mask].mean() * 100:.0f}"]) + " |"


HEAD = """\
| | rows | mechanics: MAPE % | median % | bias % | corrected: MAPE % | median % | bias % | inside % |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""
ABOUT = """\
Made by `python bench/estimate_training.py --write`. Each row is a published, measured training run
whose layout (dp, tp, pp) is known; what else it leaves open of its plan is chosen as for any user. It
is judged by coefficients and a correction fitted without it. *Mechanics* is the model without the
correction (`--no-residual`). Error is |predicted / measured - 1| of the step time; bias is the median
of predicted / measured - 1; *inside* is how many measured times lay in the 90 % interval. MLPerf rows
are derived, not verified by MLCommons. Coefficients never saw the row they are judged on; which terms
the model has was chosen with these rows in view."""
SEEN = """\
Fitted on the one, judged on the other. A family of chips that no row speaks of has the numbers of
measured micro-benchmarks and what training loops usually sustain of them."""


def strata(rows: Measured) -> dict[str, np.ndarray]:
    """Rows by source, family of chips, dense or mixture, and scale."""
    kind = np.where(rows.cases.shapes.experts > 0, "mixture", "dense")
    scale = scale_of(rows.cases.machines.devices)
    names = np.array(
        [" · ".join(each) for each in zip(rows.source, rows.family, kind, scale, strict=True)], dtype=object
    )
    return {name: names == name for name in sorted(set(names))}


def page(
    rows: Measured, by_group: Judged, by_source: Judged, far: list[tuple[str, int, np.ndarray, np.ndarray]]
) -> str:
    """The reference page."""
    tiny, everything = rows.source == TINY, np.ones(len(rows), dtype=bool)
    summary = [("all but the tiny models", ~tiny), ("tiny models (vtrain-single)", tiny), ("all", everything)]
    sources = [(str(name), rows.source == name) for name in sorted(set(rows.source))]
    blocks = [
        "# Accuracy of training estimates",
        ABOUT,
        "## Left out: model x chip x devices, five folds",
        "\n".join([HEAD, *[_line(name, by_group, mask) for name, mask in summary]]),
        "\n".join([HEAD, *[_line(name, by_group, mask) for name, mask in sources]]),
        "## Left out: whole sources",
        "\n".join([HEAD, *[_line(name, by_source, mask) for name, mask in (*summary, *sources)]]),
        "## Extrapolation",
        SEEN,
        "\n".join(
            [
                "| | rows | mechanics: MAPE % | median bias % | corrected: MAPE % |",
                "| --- | ---: | ---: | ---: | ---: |",
                *[f"| {n} | {c} | {mape(m):.1f} | {bias(m):+.1f} | {mape(k):.1f} |" for n, c, m, k in far],
            ]
        ),
        "## What is missed, and what would settle it",
        MISSED_GOALS,
        residual_plot(rows, by_group, by_source),
        twins(rows, by_group),
        MISSED,
        "## Every stratum (five folds)",
        "\n".join([HEAD, *[_line(name, by_group, mask) for name, mask in strata(rows).items()]]),
    ]
    return "\n\n".join(blocks) + "\n"


def residual_plot(rows: Measured, by_group: Judged, by_source: Judged) -> str:
    """Errors of every row, by source and kind of model, both ways of leaving out."""
    routed = rows.cases.shapes.experts > 0

    def of(missed: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for source in sorted(set(rows.source)):
            for word, kind in (("", ~routed), (", mixtures", routed)):
                here = (rows.source == source) & kind
                if here.any():
                    found[f"{source}{word}"] = np.expm1(missed[here])
        return found

    panels = [
        Panel(title="corrected, groups left out", errors=of(by_group.corrected), goal_percent=8.0),
        Panel(title="mechanics, sources left out", errors=of(by_source.mechanics), goal_percent=15.0),
    ]
    return draw("estimate-accuracy-training", panels)


def told_by_others(missed: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Errors less the median error of the other rows of their group; rows alone in theirs are left out."""
    found = []
    for name in np.unique(group):
        own = missed[group == name]
        found += [own[i] - np.median(np.delete(own, i)) for i in range(len(own)) if len(own) > 1]
    return np.array(found)


def twins(rows: Measured, by_group: Judged) -> str:
    """How far rows alike in every column that an estimate may read are from their median, and what the rest
    of the error is made of.
    """
    measured_only = ("row_id", "source_detail", "derived", "notes", "trust", "holdout")
    answers = ("tokens_per_s_per_accel", "tflops_per_accel", "mfu", "hfu", "step_time_s", "memory_gib", "oom")
    asked = [name for name in rows.rows[0] if name not in measured_only + answers]
    keys = np.array(["|".join(row[name] for name in asked) for row in rows.rows])
    _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
    paired = (count[group] > 1) & (rows.source != TINY)
    logs = np.log(rows.step_s)
    apart = logs - np.array([np.median(logs[group == number]) for number in range(len(count))])[group]
    routed = rows.cases.shapes.experts > 0
    large = rows.source != TINY
    told = told_by_others(by_group.corrected[large], rows.group[large])
    errors = np.sort(np.abs(np.expm1(by_group.corrected[large])))[::-1]
    worst = errors[: max(1, len(errors) // 20)].sum() / errors.sum()
    share = np.abs(np.expm1(by_group.corrected[large & routed])).sum() / errors.sum()
    text = (
        f"{paired.sum()} rows have a twin: a row that is alike in every column an estimate may read. They "
        f"lie {mape(apart[paired]):.1f} % (mean) around their twins' median, mixtures "
        f"{mape(apart[paired & routed]):.1f} %, the furthest {np.expm1(np.abs(apart[paired]).max()):.0%}: "
        f"no estimate of these columns gets below that. Where other runs of a row's group (model x chip x "
        f"devices) set it right by the median of their errors, {mape(told):.1f} % is left: what a site's own "
        f"factor can win once it has runs of its own. The 5 % worst rows are {worst:.0%} of all error, "
        f"mixtures, {np.mean(routed[large]):.0%} of the rows, {share:.0%} of it."
    )
    return textwrap.fill(text, 110)


MISSED_GOALS = """\
Two goals are missed: 8 % with correction, and, just, 15 % for sources left out. Each point is a run; what is
more than 100 % off stands at the edge."""
MISSED = """\
- **Hardly anything more is in the columns.** 150 trees (extremely randomised, at least 3 rows a leaf) given
  every column, every part of an estimate and the release's date came to 10.9 % on groups left out and to
  18.0 % on sources left out, where this model had 11.3 and 15.5 %. What is left is between runs of other
  models on other machines, and is not said by what a table says.
- **Versions of software** are part of it: Qwen3 30B on 8 GB200 was published at 11.0 s a step and, some
  releases later, at 6.4 s. Yet the date of a release, given to the correction, won nothing on groups left
  out (11.2 to 11.3 %): newer is sooner for some models and not for others. A column that says whether
  graphs are captured would settle it.
- **Mixtures** are near a third of it. What a host pays to launch a layer of experts, and whether a captured
  graph hides it, was not published with the rows: runs on GB200 are predicted up to 80 % too slow, the
  same model on H100 and B300 up to a quarter too fast. A launch cost of each family, fitted, made groups
  left out worse. Kernel traces of one such layer on each host would settle it.
- **Layers nobody describes.** Sliding windows (Mistral 7B at 32,768 tokens), state-space layers
  (Nemotron 3) and sparse attention are not among the columns of such tables. A `config.json` tells of
  windows; of the others there is no mechanics here yet.
- **ZeRO-3 of 2021** at one sequence a device took four times what today's takes; its rows stay
  outliers.
- **Adapters that are not declared.** Fine-tuning by adapters is recognised only where training whole
  could not be.
- **One cluster's network.** Eight-way tensor parallelism took about 20 % longer in one centre than in
  others with the same nodes. A site's own factor (`rules/estimates.py`) learns this from its first runs;
  no table can.
- **Small models on unfused software** are told of by one source alone (vtrain-single). Left out, what a
  launch and a step cost stay at their priors, and its rows are predicted 70 % too slow. Any other table of
  models below 1 B parameters would settle it.
- **Sources left out** gain nothing by the correction: it knows software and clusters more than physics,
  and fades where it knows neither. Mechanics alone then is as good."""


def results(rows: Measured, by_group: Judged, by_source: Judged) -> list[Result]:
    """The goals, with what was reached."""
    tiny = rows.source == TINY
    began = time.process_time()
    estimate_training(rows.cases)
    each_us = (time.process_time() - began) / len(rows) * 1e6
    inside = float(by_group.covered[~tiny].mean()) * 100.0
    errors = [
        ("step time, mechanics alone", mape(by_group.mechanics[~tiny]), 15.0),
        ("step time, corrected", mape(by_group.corrected[~tiny]), 8.0),
        ("step time of tiny models, corrected", mape(by_group.corrected[tiny]), 12.0),
        ("step time, source left out, mechanics", mape(by_source.mechanics[~tiny]), 15.0),
    ]
    found = [
        Result(what, value, "%", limit, "goal", value / PEER, "calculon's published error on such rows")
        for what, value, limit in errors
    ]
    found.append(
        Result(
            "in the 90 % interval", inside, "%", 85.0, "goal", inside / 90.0, "90 %", higher_is_better=True
        )
    )
    found.append(Result("in it, at most", inside, "%", 95.0, "goal", inside / 90.0, "90 %"))
    found.append(
        Result("one estimate of many", each_us, "us", 50.0, "goal", each_us / 4000.0, "a peer's 4 ms a plan")
    )
    return found


def main() -> None:
    rows = measured()
    start = stored()
    by_group = judged(rows, folds(rows.group), start)
    by_source = judged(rows, rows.source, start)
    if "--write" in sys.argv:
        PAGE.write_text(page(rows, by_group, by_source, extrapolations(rows)), "utf-8")
    show("estimate_training", results(rows, by_group, by_source))


if __name__ == "__main__":
    main()
