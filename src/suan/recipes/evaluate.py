"""evaluate: a model and held-out documents in, a table of measured abilities with their standard errors out.

Knows how to make tasks for lm-eval out of a corpus (perplexity; which couplet follows; which word order is
real) and one check of its own: whether what the model writes has the form that was asked for. Nothing is
fetched.
"""

import contextlib
import json
import math
import os
import random
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Resources, Task
from suan.recipes.runtime import Context, arguments, command, run_stage, write_json
from suan.recipes.tokenizer import read_documents

CHOICES = 4
_SHOWN_METRICS = ("acc", "bits_per_byte", "byte_perplexity")  # per word means nothing where no spaces are


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of evaluate."""

    documents: Annotated[int, Meta(ge=2, description="Held-out documents a task, at most.")] = 120
    shots: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=16)], ...],
        Meta(description="Worked examples before each question; one run each."),
    ] = (0, 2)
    generations: Annotated[
        int, Meta(ge=0, description="Answers written to check their form; 0 for none.")
    ] = 48
    max_new_tokens: Annotated[int, Meta(ge=1, description="Longest answer, in tokens.")] = 96
    batch_rows: Annotated[int, Meta(ge=1, description="Requests in one forward pass.")] = 32
    seed: Annotated[int, Meta(ge=0, description="Of distractors and of sampling.")] = 1


def task(args: Args) -> Task:
    """One core for less than a minute with a small model."""
    return Task(
        name="evaluate",
        recipe="evaluate",
        run=command("evaluate"),
        args=arguments(args),
        inputs={"model": "model:model", "corpus": "dataset:corpus"},
        outputs={"report": "report:report"},
        resources=(Resources(cpus=1),),
        duration_s=45,
    )


# ---------------------------------------------------------------- questions


def couplets(document: dict[str, Any]) -> list[str]:
    """The lines of a document's answer, two at least, or nothing."""
    messages = document.get("messages") or ()
    lines = messages[-1]["content"].split("\n") if messages else []
    return lines if len(lines) >= 2 else []


def next_couplet(documents: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Questions: which couplet ends this poem, among last couplets of other poems with lines as long."""
    draw = random.Random(seed)
    by_length: dict[int, list[str]] = {}
    for document in documents:
        if lines := couplets(document):
            by_length.setdefault(len(lines[-1]), []).append(lines[-1])
    questions = []
    for document in documents:
        lines = couplets(document)
        others = sorted(set(by_length.get(len(lines[-1]), ())) - {lines[-1]}) if lines else []
        if len(others) >= CHOICES - 1:
            heading = document["text"].removesuffix("\n".join(lines))
            questions.append(_question(heading + "\n".join(lines[:-1]) + "\n", lines[-1], others, draw))
    return questions


def word_order(documents: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Questions: which last couplet has its characters in the order in which they were written."""
    draw = random.Random(seed)
    questions = []
    for document in documents:
        lines = couplets(document)
        mixed = {_shuffled(lines[-1], draw) for _ in range(3 * CHOICES)} - {lines[-1]} if lines else set()
        if len(mixed) >= CHOICES - 1:
            heading = document["text"].removesuffix("\n".join(lines))
            questions.append(
                _question(heading + "\n".join(lines[:-1]) + "\n", lines[-1], sorted(mixed), draw)
            )
    return questions


def _shuffled(line: str, draw: random.Random) -> str:
    """The same characters within each half, in another order; punctuation stays."""
    parts = re.split(r"(\W)", line)
    return "".join("".join(draw.sample(part, len(part))) for part in parts)


def _question(context: str, right: str, wrong: list[str], draw: random.Random) -> dict[str, Any]:
    answer = draw.randrange(CHOICES)
    choices = draw.sample(wrong, CHOICES - 1)
    choices.insert(answer, right)
    return {"context": context, "choices": choices, "answer": answer}


def write_tasks(
    folder: Path, documents: list[dict[str, Any]], examples: list[dict[str, Any]], seed: int
) -> list[str]:
    """Names of the lm-eval tasks written into `folder`, as YAML and JSON lines for `lm_eval run` too."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"next_couplet": next_couplet, "word_order": word_order}
    sets = {name: (make(documents, seed), make(examples, seed)) for name, make in makers.items()}
    names = ["held_out"]
    _write_lines(folder / "held_out.jsonl", [{"text": document["text"]} for document in documents])
    config: dict[str, Any] = _config(
        "held_out", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}"
    )
    config["metric_list"] = [{"metric": metric} for metric in ("byte_perplexity", "bits_per_byte")]
    write_json(folder / "held_out.yaml", config)
    for name, (questions, worked) in sets.items():
        if not questions or not worked:
            continue
        _write_lines(folder / f"{name}.jsonl", questions)
        _write_lines(folder / f"{name}.examples.jsonl", worked)
        config = _config(
            name,
            output_type="multiple_choice",
            doc_to_text="{{context}}",
            doc_to_choice="{{choices}}",
            doc_to_target="{{answer}}",
            target_delimiter="",
            fewshot_delimiter="\n\n",
            fewshot_split="train",
        )
        config["dataset_kwargs"]["data_files"]["train"] = f"{name}.examples.jsonl"
        config["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
        write_json(folder / f"{name}.yaml", config)  # JSON is YAML
        names.append(name)
    return names


def _config(name: str, **keys: Any) -> dict[str, Any]:
    files = {"test": f"{name}.jsonl"}
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "metadata": {"version": 1},
        **keys,
    }


def _write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# ---------------------------------------------------------------- answers


def harness_rows(
    model_folder: Path, tasks: Path, names: list[str], context: Context[Args]
) -> list[dict[str, Any]]:
    """Rows of the table from lm-eval: task, shots, metric, value, standard error, documents."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    args = context.args
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = HFLM(
        pretrained=str(model_folder),
        tokenizer=tokenizer,
        device=_device(),
        batch_size=args.batch_rows,
        prefix_token_id=tokenizer.pad_token_id,  # what stood before every document in training
    )
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    rows = []
    for index, shots in enumerate(sorted(set(args.shots)), 1):
        wanted = [name for name in names if name != "held_out" or shots == 0]
        if not wanted:
            continue
        # Its progress bars would fill the run's log; what it raises still comes out.
        with (
            (context.scratch / "harness.log").open("a", encoding="utf-8") as log,
            contextlib.redirect_stderr(log),
        ):
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=wanted,
                num_fewshot=shots,
                task_manager=manager,
                bootstrap_iters=0,
                log_samples=False,
                fewshot_random_seed=args.seed,
                random_seed=args.seed,
            )
        for name in wanted:
            rows += _rows(name, shots, found["results"][name], found["n-samples"][name]["effective"])
        context.progress.write(step=index, total=len(set(args.shots)) + 1, phase=f"{shots} shots")
    return rows


def _rows(name: str, shots: int, results: dict[str, Any], documents: int) -> list[dict[str, Any]]:
    rows = []
    for metric in _SHOWN_METRICS:
        value, error = results.get(f"{metric},none"), results.get(f"{metric}_stderr,none")
        if not isinstance(value, int | float):
            continue
        if metric == "acc":
            error = math.sqrt(value * (1 - value) / max(1, documents - 1))
        rows.append(
            {
                "task": name,
                "shots": shots,
                "metric": metric,
                "value": value,
                "stderr": error if isinstance(error, float) else None,
                "documents": documents,
                "chance": 1 / CHOICES if metric == "acc" else None,
            }
        )
    return rows


def shape(answer: str) -> list[int]:
    """Characters between each two marks of punctuation: [5, 5, 5, 5] for a quatrain of fives."""
    return [len(part) for part in re.split(r"[\W_]+", answer.strip()) if part]


def form_rows(
    model_folder: Path, documents: list[dict[str, Any]], args: Args
) -> tuple[list[dict[str, Any]], list[Any]]:
    """(rows, samples): the part of written answers, and of their lines, as long as the real ones."""
    asked = [document["messages"] for document in documents if couplets(document)][: args.generations]
    if not asked:
        return [], []
    answers = _write_answers(model_folder, asked, args)
    whole, lines, line_count, samples = 0, 0, 0, []
    for messages, answer in zip(asked, answers, strict=True):
        expected, got = shape(messages[-1]["content"]), shape(answer)
        whole += expected == got
        lines += sum(a == b for a, b in zip(expected, got, strict=False))
        line_count += len(expected)
        samples.append({"prompt": messages[0]["content"], "answer": answer, "right": expected == got})
    rows = []
    for metric, hits, count in (("form_correct", whole, len(asked)), ("line_correct", lines, line_count)):
        value = hits / count
        error = math.sqrt(value * (1 - value) / max(1, count - 1))
        rows.append(
            {
                "task": "written",
                "shots": 0,
                "metric": metric,
                "value": value,
                "stderr": error,
                "documents": count,
            }
        )
    return rows, samples


def _write_answers(model_folder: Path, asked: list[Any], args: Args) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder).to(_device()).eval()
    answers = []
    for start in range(0, len(asked), args.batch_rows):
        prompts = [
            tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            for messages in asked[start : start + args.batch_rows]
        ]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(
            model.device
        )
        with torch.no_grad():
            made = model.generate(**batch, max_new_tokens=args.max_new_tokens)
        answers += tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# ---------------------------------------------------------------- report


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| task | shots | metric | value | ± | chance | documents |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        error = "" if row["stderr"] is None else f"{row['stderr']:.4f}"
        chance = "" if row.get("chance") is None else f"{row['chance']:.2f}"
        lines.append(
            f"| {row['task']} | {row['shots']} | {row['metric']} | {row['value']:.4f} | {error} | {chance} "
            f"| {row['documents']} |"
        )
    return "\n".join(lines) + "\n"


def _body(context: Context[Args]) -> int:
    args = context.args
    # Before anything imports a hub client: nothing is fetched, and caches stay inside the run.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(context.scratch / "hub")}
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    started_s = time.monotonic()
    model_folder, corpus = context.input("model").resolve(), context.input("corpus").resolve()
    report = context.output("report").resolve()
    documents = list(read_documents(corpus, "valid.jsonl"))
    if not documents:
        raise Refused(
            "corpus_too_small", f"{corpus}/valid.jsonl is empty", hint="raise the corpus's valid_ratio"
        )
    random.Random(args.seed).shuffle(documents)
    documents = documents[: args.documents]
    examples = [
        document for document, _ in zip(read_documents(corpus, "train-*.jsonl"), range(4000), strict=False)
    ]
    examples = [document for document in examples if couplets(document)][:64]
    names = write_tasks(report / "tasks", documents, examples, args.seed)
    context.progress.write(
        step=0, total=len(set(args.shots)) + 1, phase="tasks written", documents=len(documents)
    )
    os.chdir(
        report / "tasks"
    )  # the tasks name their data by relative path, so that the report can be carried anywhere
    rows = harness_rows(model_folder, report / "tasks", names, context)
    written, samples = form_rows(model_folder, documents, args)
    rows += written
    (report / "report.md").write_text(f"# Evaluation\n\n{table(rows)}", encoding="utf-8")
    write_json(report / "report.json", {"rows": rows, "written": samples, "args": arguments(args)})
    context.progress.write(step=len(set(args.shots)) + 1, total=len(set(args.shots)) + 1, phase="done")
    print(table(rows), flush=True)
    numbers = {f"{row['task']}_{row['metric']}_{row['shots']}shot": row["value"] for row in rows}
    context.metrics(**numbers, seconds=time.monotonic() - started_s)
    return 0


def main() -> int:
    return run_stage("evaluate", _body)


if __name__ == "__main__":
    sys.exit(main())
