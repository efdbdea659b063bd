"""leaderboard: evaluation reports of several model versions in, one table with paired comparisons out.

An artifact and not a command, because a comparison needs what every model scored on every question: models
asked the same questions differ by less than their intervals overlap. Knows the report's files, not models.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Resources, Task
from suan.recipes.evaluate.intervals import paired_p
from suan.recipes.runtime import Context, arguments, command, run_stage, write_json

LOWER_IS_BETTER = ("bits_per_byte", "byte_perplexity")
Column = tuple[str, int, str]  # task, shots, metric


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of leaderboard. The inputs' names are the models' names in the table."""

    baseline: Annotated[
        str, Meta(description="The input that the others are compared with; empty: the first by name.")
    ] = ""
    confidence: Annotated[float, Meta(gt=0.5, lt=1, description="A difference is marked beyond it.")] = 0.95
    seed: Annotated[int, Meta(ge=0, description="Of the randomisation tests.")] = 1


def task(args: Args) -> Task:
    """One core for seconds; the task file names as many reports as there are versions."""
    return Task(
        name="leaderboard",
        recipe="leaderboard",
        run=command("leaderboard"),
        args=arguments(args),
        outputs={"leaderboard": "report:leaderboard"},
        resources=(Resources(cpus=1),),
        duration_s=10,
    )


class Model(msgspec.Struct):
    """One report: its rows and its scores a question, by column."""

    name: str
    rows: dict[Column, dict[str, Any]]
    scores: dict[Column, dict[str, float]]


def read_report(name: str, folder: Path) -> Model:
    """Raises: Refused `no_report`."""
    if not (folder / "report.json").exists() or not (folder / "scores.jsonl").exists():
        raise Refused(
            "no_report", f"{folder} is no evaluation report", hint="give folders that `evaluate` wrote"
        )
    rows = json.loads((folder / "report.json").read_text("utf-8"))["rows"]
    model = Model(name, {(row["task"], row["shots"], row["metric"]): row for row in rows}, {})
    with (folder / "scores.jsonl").open(encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            column = model.scores.setdefault((line["task"], line["shots"], line["metric"]), {})
            column[line["question"]] = line["score"] / line["weight"]
    return model


def compare(model: Model, baseline: Model, seed: int) -> dict[Column, float]:
    """p that the two score alike, for each column with questions that both were asked.

    Holm's correction over the columns: with twenty columns one is "significant" by chance.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    raw = {}
    for column, ours in model.scores.items():
        theirs = baseline.scores.get(column, {})
        shared = sorted(ours.keys() & theirs.keys())
        if shared:
            raw[column] = paired_p([ours[q] for q in shared], [theirs[q] for q in shared], seed)
    adjusted, highest = {}, 0.0
    for rank, column in enumerate(sorted(raw, key=lambda column: (raw[column], column))):
        highest = max(highest, min(1.0, raw[column] * (len(raw) - rank)))
        adjusted[column] = highest
    return adjusted


def table(models: list[Model], baseline: Model, p: dict[str, dict[Column, float]], alpha: float) -> str:
    """Models are columns, tasks are rows; ▲ and ▼ mark what is better and worse than the baseline."""
    lines = [
        "| task | shots | metric | " + " | ".join(model.name for model in models) + " |",
        "| --- | ---: | --- | " + " | ".join("---:" for _ in models) + " |",
    ]
    for column in dict.fromkeys(column for model in models for column in model.rows):
        cells = []
        for model in models:
            row = model.rows.get(column)
            mark = _mark(column, model, baseline, p[model.name].get(column, 1.0) < alpha)
            cells.append(f"{row['value']:.4f} ({row['low']:.3f} to {row['high']:.3f}){mark}" if row else "")
        lines.append(f"| {column[0]} | {column[1]} | {column[2]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mark(column: Column, model: Model, baseline: Model, differs: bool) -> str:
    if not differs or column not in model.rows or column not in baseline.rows:
        return ""
    higher = model.rows[column]["value"] > baseline.rows[column]["value"]
    return " ▲" if higher != (column[2] in LOWER_IS_BETTER) else " ▼"


def _body(context: Context[Args]) -> int:
    args, folder = context.args, context.output("leaderboard")
    models = [read_report(name, path) for name, path in context.inputs.items()]
    by_name = {model.name: model for model in models}
    if not models or (args.baseline and args.baseline not in by_name):
        raise Refused(
            "missing_input", f"no report is called {args.baseline!r}", hint=f"there are {', '.join(by_name)}"
        )
    baseline = by_name[args.baseline] if args.baseline else models[0]
    p = {model.name: compare(model, baseline, args.seed) for model in models}
    text = table(models, baseline, p, 1 - args.confidence)
    level = f"p < {1 - args.confidence:.2g} (Holm)"
    note = f"▲ better and ▼ worse than {baseline.name} on the same questions, {level}."
    (folder / "leaderboard.md").write_text(f"# Leaderboard\n\n{text}\n{note}\n", encoding="utf-8")
    rows = [
        row | {"model": model.name, "p": p[model.name].get(column)}
        for model in models
        for column, row in model.rows.items()
    ]
    write_json(
        folder / "leaderboard.json", {"baseline": baseline.name, "rows": rows, "args": arguments(args)}
    )
    print(text, flush=True)
    context.metrics(models=len(models), columns=len({column for model in models for column in model.rows}))
    return 0


def main() -> int:
    return run_stage("leaderboard", _body)


if __name__ == "__main__":
    sys.exit(main())
