"""lm-eval, run task by task. Knows its answers question by question; makes rows with intervals of them."""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from suan.recipes.evaluate import Args, intervals
from suan.recipes.evaluate.calibration import calibrated_scores
from suan.recipes.evaluate.suites import Question, drawn

Row = dict[str, Any]


def device() -> str:
    """The accelerator when there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(folder: Path, batch_rows: int) -> Any:
    """The model as lm-eval drives it, its documents starting as they did in training."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return HFLM(
        pretrained=str(folder),
        tokenizer=tokenizer,
        device=device(),
        batch_size=batch_rows,
        prefix_token_id=tokenizer.pad_token_id,
    )


def ask(model: Any, question: Question, shots: int, args: Args, log: Path) -> tuple[list[Row], list[Row]]:
    """(rows of the table, scores of every question) of one task with so many worked examples."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    include = [str(folder) for folder in question.include]
    # Its progress bars would fill the run's log; what it raises still comes out.
    with (
        log.open("a", encoding="utf-8") as out,
        contextlib.redirect_stderr(out),
        contextlib.redirect_stdout(out),
        contextlib.chdir(question.root),
    ):
        # `simple_evaluate` would read its 14,000 own definitions and list every installed package first.
        loaded = TaskManager(include_path=include, include_defaults=False).load([question.name])
        task = loaded["tasks"][question.name]
        task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=args.seed)
        numbers = drawn(question, args.documents, args.seed)
        samples_of = {question.name: numbers} if numbers else None
        found = evaluate(lm=model, task_dict=loaded, samples=samples_of, bootstrap_iters=0, log_samples=True)
        samples = sorted(found["samples"][question.name], key=lambda sample: sample["doc_id"])
        columns = _columns(task, samples)
        if columns.keys() & {"acc"} and task.config.output_type == "multiple_choice":
            calibrated = calibrated_scores(model, task, samples, args.content_free)
            columns |= {"acc_calibrated": [(score, 1.0) for score in calibrated]} if calibrated else {}
    heads = {"task": question.name, "shots": shots}
    rows = [heads | _row(metric, pairs, args) | {"chance": None} for metric, pairs in columns.items()]
    for row in rows:
        if row["metric"].startswith("acc") and task.config.output_type == "multiple_choice":
            row["chance"] = sum(1 / len(sample["arguments"]) for sample in samples) / len(samples)
    scores = [
        heads | {"metric": metric, "question": sample["doc_hash"], "score": top, "weight": bottom}
        for metric, pairs in columns.items()
        for sample, (top, bottom) in zip(samples, pairs, strict=True)
    ]
    return rows, scores


def _columns(task: Any, samples: list[Row]) -> dict[str, list[tuple[float, float]]]:
    """(score, weight) of every question by metric; nats and bytes for the perplexities."""
    columns: dict[str, list[tuple[float, float]]] = {}
    for metric in samples[0]["metrics"]:
        values = [sample[metric] for sample in samples]
        if metric in ("bits_per_byte", "byte_perplexity"):
            columns[metric] = [(-float(nats), float(size)) for nats, size in values]
        elif all(isinstance(value, int | float) for value in values) and metric != "perplexity":
            columns[metric] = [(float(value), 1.0) for value in values]
    return columns


def _row(metric: str, pairs: list[tuple[float, float]], args: Args) -> Row:
    tops, bottoms = [top for top, _ in pairs], [bottom for _, bottom in pairs]
    if metric not in ("bits_per_byte", "byte_perplexity"):
        found = intervals.mean(tops, args.confidence, args.seed)
    else:
        nats = intervals.ratio(tops, bottoms, args.confidence, args.seed)
        if metric == "bits_per_byte":
            found = intervals.Estimate(*(number / math.log(2) for number in nats))
        else:
            value, low, high = (math.exp(number) for number in nats[:3])
            found = intervals.Estimate(value, low, high, value * nats.stderr)
    return {"metric": metric, **found._asdict(), "documents": len(pairs)}


def offline(scratch: Path) -> None:
    """Nothing is fetched, and caches stay inside the run. Before anything imports a hub client."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch / "hub")}
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
