"""A corpus becomes tasks for lm-eval: perplexity, cloze, which couplet follows, which word order is real.

Knows documents as the corpus stage writes them. What is written here is plain YAML and JSON lines, so that
`lm_eval run` asks the same questions.
"""

import json
import random
import re
from pathlib import Path
from typing import Any

from suan.recipes.runtime import write_json

CHOICES = 4
CLOZE_CHARACTERS = 2
_BEFORE_LAST = re.compile(rf"(?s)(?P<context>.*\w)(?P<end>\w{{{CLOZE_CHARACTERS}}})\W*\Z")


def couplets(document: dict[str, Any]) -> list[str]:
    """The lines of a document's answer, two at least, or nothing."""
    messages = document.get("messages") or ()
    lines = messages[-1]["content"].split("\n") if messages else []
    return lines if len(lines) >= 2 else []


def cloze(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Questions: the last characters of each text, punctuation after them left out."""
    found = (_BEFORE_LAST.match(document["text"]) for document in documents)
    return [{"context": match["context"], "end": match["end"]} for match in found if match]


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
            questions.append(_question(_before_last(document, lines), lines[-1], others, draw))
    return questions


def word_order(documents: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Questions: which last couplet has its characters in the order in which they were written."""
    draw = random.Random(seed)
    questions = []
    for document in documents:
        lines = couplets(document)
        mixed = {_shuffled(lines[-1], draw) for _ in range(3 * CHOICES)} - {lines[-1]} if lines else set()
        if len(mixed) >= CHOICES - 1:
            questions.append(_question(_before_last(document, lines), lines[-1], sorted(mixed), draw))
    return questions


def _before_last(document: dict[str, Any], lines: list[str]) -> str:
    heading = document["text"].removesuffix("\n".join(lines))
    return str(heading + "\n".join(lines[:-1]) + "\n")


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
    """Names of the tasks written into `folder`; those without a question in the documents are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [{"text": document["text"]} for document in documents]
    _write_task(
        folder,
        "held_out",
        {"test": texts},
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": metric} for metric in ("byte_perplexity", "bits_per_byte")],
    )
    names = ["held_out"]
    asked = {"doc_to_text": "{{context}}", "target_delimiter": "", "fewshot_delimiter": "\n\n"}
    accuracy = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    if gaps := cloze(documents):
        shape = {"output_type": "loglikelihood", "doc_to_target": "{{end}}", "metric_list": accuracy}
        _write_task(folder, "cloze", {"test": gaps, "train": cloze(examples) or gaps}, **asked, **shape)
        names.append("cloze")
    choice = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"}
    for name, make in {"next_couplet": next_couplet, "word_order": word_order}.items():
        questions, worked = make(documents, seed), make(examples, seed)
        if questions and worked:
            sets = {"test": questions, "train": worked}
            _write_task(folder, name, sets, **asked, **choice, metric_list=accuracy)
            names.append(name)
    return names


def _write_task(folder: Path, name: str, sets: dict[str, list[dict[str, Any]]], **keys: Any) -> None:
    files = {"test": f"{name}.jsonl"} | ({"train": f"{name}.examples.jsonl"} if "train" in sets else {})
    for split, file in files.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in sets[split])
        (folder / file).write_text("".join(lines), encoding="utf-8")
    worked = {"fewshot_split": "train"} if "train" in files else {}
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        **worked,
        "metadata": {"version": 1},
        **keys,
    }
    write_json(folder / f"{name}.yaml", config)  # JSON is YAML
