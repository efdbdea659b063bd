"""The stage's run: `python -m suan.recipes.evaluate`."""

import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.evaluate import Args, suites
from suan.recipes.evaluate.harness import Row, ask, device, load_model, offline
from suan.recipes.evaluate.questions import couplets, write_tasks
from suan.recipes.evaluate.report import table, write_report
from suan.recipes.evaluate.written import asked_for, form_rows, form_scores, write_answers
from suan.recipes.model_folder import versions
from suan.recipes.parts import Parts, fingerprint
from suan.recipes.runtime import EXIT_STOPPED, Context, arguments, run_stage
from suan.recipes.tokenizer import read_documents

EXAMPLES = 64  # worked examples to draw from, of the training text


def _corpus_documents(corpus: Path, args: Args) -> tuple[list[Row], list[Row]]:
    """(held-out documents, documents for worked examples)

    Raises: Refused `corpus_too_small`.
    """
    held_out = list(read_documents(corpus, "valid.jsonl"))
    if not held_out:
        raise Refused(
            "corpus_too_small", f"{corpus}/valid.jsonl is empty", hint="raise the corpus's valid_ratio"
        )
    random.Random(args.seed).shuffle(held_out)
    seen = [
        document for document, _ in zip(read_documents(corpus, "train-*.jsonl"), range(4000), strict=False)
    ]
    worked = [document for document in seen if couplets(document)] or seen
    return held_out[: args.documents or None], worked[:EXAMPLES]


def _questions(context: Context[Args], report: Path, documents: list[Row], worked: list[Row]) -> Any:
    """The tasks to run. The report keeps those made of the corpus, and the definitions of the others."""
    args = context.args
    found: list[suites.Question] = []
    if documents:
        write_tasks(report / "tasks", documents, worked, args.seed)
        found += suites.of_folder((report / "tasks",), report / "tasks")
    if "data" in context.inputs:
        data = context.inputs["data"].resolve()
        found += suites.of_folder((suites.DEFINITIONS, data), data)
    return suites.choose(found, args.tasks)


def _body(context: Context[Args]) -> int:
    args = context.args
    offline(context.scratch)
    started_s = time.monotonic()
    model_folder, report = context.input("model").resolve(), context.output("report").resolve()
    documents, worked = [], []
    if "corpus" in context.inputs or "data" not in context.inputs:
        documents, worked = _corpus_documents(context.input("corpus").resolve(), args)
    asked = asked_for(documents, args.generations)
    questions = _questions(context, report, documents, worked)
    runs = [
        (question, shots)
        for shots in sorted(set(args.shots))
        for question in questions
        if question.shots or not shots
    ]
    total = len(runs) + bool(asked)
    parts = Parts(context.checkpoint, fingerprint(args, model_folder, *context.inputs.values()))
    context.progress.write(step=0, total=total, phase="tasks written", documents=len(documents))
    rows: list[Row] = []
    scores: list[Row] = []
    model: Any = None
    for index, (question, shots) in enumerate(runs, 1):
        if context.stopping:
            return EXIT_STOPPED
        name = f"{question.name}-{shots}"
        if (done := parts.get(name)) is None:
            model = model or load_model(model_folder, args.batch_rows)
            done = ask(model, question, shots, args, context.scratch / "harness.log")
            parts.put(name, done)
        rows += done[0]
        scores += done[1]
        context.progress.write(step=index, total=total, phase=f"{question.name}, {shots} shots")
    samples = []
    if asked:
        if (answers := parts.get("written")) is None:
            answers = write_answers(model_folder, asked, args, device())
            parts.put("written", answers)
        form = form_scores(asked, answers)
        rows += form_rows(form, args.confidence, args.seed)
        samples = [
            {"prompt": messages[0]["content"], "answer": answer, "right": bool(right)}
            for messages, answer, right in zip(asked, answers, form["form_correct"], strict=True)
        ]
    return _finish(context, report, {"rows": rows, "written": samples}, (scores, started_s))


def _finish(context: Context[Args], report: Path, found: Row, rest: tuple[list[Row], float]) -> int:
    scores, started_s = rest
    shutil.copytree(suites.DEFINITIONS, report / "definitions", dirs_exist_ok=True, ignore=_no_cache)
    manifest = {
        "recipe": "evaluate",
        "args": arguments(context.args),
        "inputs": {name: str(folder) for name, folder in context.inputs.items()},
        "versions": versions("suan", "lm_eval", "transformers", "torch", "datasets"),
    }
    write_report(report, found | manifest, scores, context.args.confidence)
    rows = found["rows"]
    context.progress.write(phase="done", tasks=len({row["task"] for row in rows}))
    print(table(rows, context.args.confidence), flush=True)
    numbers = {f"{row['task']}_{row['metric']}_{row['shots']}shot": row["value"] for row in rows}
    context.metrics(**numbers, seconds=time.monotonic() - started_s)
    return 0


def _no_cache(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


def main() -> int:
    return run_stage("evaluate", _body)


if __name__ == "__main__":
    sys.exit(main())
