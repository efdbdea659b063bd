"""Judgements of people: tasks out, datasets in, and agreement as its sources compute it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import cohen_kappa_score

from suan.recipes.annotate import Judgement, cohen_kappa, judgements, krippendorff_alpha, label_task

ASK = [{"role": "user", "content": "写一首五言绝句：春雨"}]


def pair(number: int) -> dict[str, Any]:
    say = "第{}首{}".format
    return {
        "prompt": [{"role": "user", "content": f"题目{number}"}],
        "chosen": [{"role": "assistant", "content": say(number, "好")}],
        "rejected": [{"role": "assistant", "content": say(number, "差")}],
    }


def annotation(by: Any, **values: Any) -> dict[str, Any]:
    kinds = {"better": "selected", "tie": "choices", "verdict": "choices", "answer": "text"}
    result = [
        {"from_name": name, "to_name": "x", "type": "any", "value": {kinds[name]: value}}
        for name, value in values.items()
    ]
    return {"completed_by": by, "result": result, "was_cancelled": False}


def run_import(run_stage: Any, folder: Path, labelled: list[dict[str, Any]], **args: Any) -> tuple[Any, Path]:
    (folder / "in").mkdir()
    (folder / "in" / "export.json").write_text(json.dumps(labelled), "utf-8")
    args = {"rights": "CC-BY-4.0", "held_out_ratio": 0.0} | args
    return run_stage(
        "annotate", "--input", folder / "in", "--output", folder / "out", action="import", **args
    ), folder / "out"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_preferences_go_out_and_come_back(run_stage: Any, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    lines = [json.dumps(pair(number), ensure_ascii=False) + "\n" for number in range(40)]
    (tmp_path / "pairs" / "train.jsonl").write_text("".join(lines), "utf-8")
    done = run_stage("annotate", "--input", tmp_path / "pairs", "--output", tmp_path / "tasks")
    assert done.returncode == 0, done.stderr
    tasks = json.loads((tmp_path / "tasks" / "tasks.json").read_text("utf-8"))
    lefts = sum(task["data"]["left"].endswith("好") for task in tasks)
    assert len(tasks) == 40 and 8 < lefts < 32, "the better one must not always stand on one side"
    assert "$left" in (tmp_path / "tasks" / "labelling.xml").read_text("utf-8")
    for task in tasks:
        good = "left" if task["data"]["left"].endswith("好") else "right"
        task["annotations"] = [annotation(by, better=good) for by in (1, {"id": 2, "email": "b@x.org"})]
    done, out = run_import(run_stage, tmp_path, tasks, held_out_ratio=0.25)
    assert done.returncode == 0, done.stderr
    train, held_out = rows(out / "train.jsonl"), rows(out / "held-out.jsonl")
    assert len(train) + len(held_out) == 40 and held_out
    assert all(made["chosen"][0]["content"].endswith("好") and made["annotators"] == 2 for made in train)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["krippendorff_alpha"] == report["cohen_kappa"] == 1.0
    assert report["rights"] == "CC-BY-4.0"


def test_disagreement_ties_and_lonely_items_are_left_out(run_stage: Any, tmp_path: Path) -> None:
    data = label_task(pair(1), "preference", 0)["data"]
    labelled = [
        {"data": data, "annotations": [annotation(1, better="left"), annotation(2, better="right")]},
        {"data": data, "annotations": [annotation(1, tie=["tie"]), annotation(2, tie=["tie"])]},
        {"data": data, "annotations": [annotation(1, better="left")]},
        {"data": data, "annotations": [annotation(by, better="left") for by in (1, 2)]},
    ]
    done, out = run_import(run_stage, tmp_path, labelled, min_annotators=2)
    assert done.returncode == 0, done.stderr
    assert len(rows(out / "train.jsonl")) == 1
    dropped = json.loads((out / "report.json").read_text("utf-8"))["dropped"]
    assert dropped == {"no agreement": 1, "no better one": 1, "too few annotators": 1}


def test_answers_become_chats(run_stage: Any, tmp_path: Path) -> None:
    data = label_task({"messages": [*ASK, {"role": "assistant", "content": "旧稿"}]}, "sft", 0)["data"]
    assert data["draft"] == "旧稿" and data["prompt"] == ASK
    labelled = [
        {"data": data, "annotations": [annotation(1, answer=["好雨知时节"], verdict=["good"])]},
        {"data": data, "annotations": [annotation(1, verdict=["good"])]},
        {"data": data, "annotations": [annotation(1, answer=["不通"], verdict=["bad"])]},
    ]
    done, out = run_import(run_stage, tmp_path, labelled, kind="sft")
    assert done.returncode == 0, done.stderr
    answers = [made["messages"][-1]["content"] for made in rows(out / "train.jsonl")]
    assert answers == ["好雨知时节", "旧稿"]


def test_a_person_judges_once_and_skipped_tasks_do_not_count() -> None:
    item = {
        "annotations": [
            annotation(1, better="left"),
            annotation(1, better="right"),
            annotation(2, better="left") | {"was_cancelled": True},
        ]
    }
    assert judgements(item, "preference") == [Judgement("1", "right")]


def test_people_s_work_has_terms(run_stage: Any, tmp_path: Path) -> None:
    done, _ = run_import(run_stage, tmp_path, [], rights="")
    assert done.returncode == 2 and "no_rights" in done.stderr


def test_alpha_of_the_worked_example() -> None:
    """Krippendorff (2011), section C: four observers, twelve units, missing values; alpha 0.743."""
    table = {
        "a": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        "b": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        "c": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        "d": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    }
    units = [
        [Judgement(who, str(labels[unit])) for who, labels in table.items() if labels[unit] is not None]
        for unit in range(12)
    ]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_kappa_is_that_of_scikit_learn() -> None:
    draw = random.Random(1)
    first = [draw.choice("abc") for _ in range(200)]
    second = [label if draw.random() < 0.7 else draw.choice("abc") for label in first]
    units = [[Judgement("1", one), Judgement("2", two)] for one, two in zip(first, second, strict=True)]
    assert cohen_kappa(units) == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa([[Judgement("1", "a")]]) is None
