"""The blind test: a fair sheet, a key apart from it, and statistics that claim no more than was seen."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from suan.grid.error import Refused
from suan.recipes.blind.sheet import (
    MACHINE,
    Answer,
    Item,
    arrange,
    read_answers,
    sheet_id,
    write_key,
    write_sheet,
)
from suan.recipes.blind.statistics import accuracy, answers_needed, clustered_stderr, summary

PAIRS = [(f"题目{number}", f"原文{number}。") for number in range(60)]


def judged(skill: float, judges: int, items: int, seed: int) -> list[Answer]:
    """Answers of judges who see who wrote a text in `skill` of the cases and guess in the others."""
    draw = random.Random(seed)
    return [
        Answer(
            f"judge{judge}", item, (item % 2 == 0) == (draw.random() < (1 + skill) / 2), item % 2 == 0, False
        )
        for judge in range(judges)
        for item in range(items)
    ]


def test_half_the_sheet_is_the_models_and_the_order_says_nothing() -> None:
    chosen, sources = arrange(PAIRS, 40, seed=1)
    assert len({prompt for prompt, _ in chosen}) == 40 and sources.count(MACHINE) == 20
    assert (chosen, sources) == arrange(PAIRS, 40, seed=1) and sources != arrange(PAIRS, 40, seed=2)[1]
    with pytest.raises(Refused, match="60"):
        arrange(PAIRS, 80, seed=1)


def test_answers_come_back_with_their_key(tmp_path: Path) -> None:
    items = [Item("春", "<b>春眠</b>", "human"), Item("秋", "秋风", "machine"), Item("冬", "雪", "machine")]
    for name in ("sheet", "key", "answers"):
        (tmp_path / name).mkdir()
    write_sheet(tmp_path / "sheet", items)
    write_key(tmp_path / "key", items)
    page = (tmp_path / "sheet" / "items.html").read_text()
    assert "&lt;b&gt;春眠" in page and "http" not in page, (
        "texts are shown as they are, and nothing is fetched"
    )
    for file in (tmp_path / "sheet").iterdir():
        assert "human,秋" not in file.read_text() and sheet_id(items) in file.read_text()
    with (tmp_path / "sheet" / "items.csv").open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    rows[0] |= {"answer": "machine", "known": "yes"}
    rows[1] |= {"answer": " Machine "}

    def save() -> None:
        with (tmp_path / "answers" / "li.csv").open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    save()
    assert read_answers(tmp_path / "key", tmp_path / "answers") == [
        Answer("li", 1, True, False, True),
        Answer("li", 2, True, True, False),
    ]
    rows[2]["answer"] = "perhaps"
    save()
    with pytest.raises(Refused, match="perhaps"):
        read_answers(tmp_path / "key", tmp_path / "answers")
    rows[2] |= {"answer": "human", "sheet": "another"}
    save()
    with pytest.raises(Refused) as refused:
        read_answers(tmp_path / "key", tmp_path / "answers")
    assert refused.value.code == "wrong_sheet"


def test_who_can_tell_is_found_out_and_who_only_guesses_is_not() -> None:
    sharp = summary(judged(0.5, judges=8, items=40, seed=1), margin=0.1, confidence=0.95)
    assert sharp["verdict"] == "people can tell" and sharp["low"] > 0.5
    verdicts = [
        summary(judged(0.0, judges=6, items=40, seed=seed), margin=0.1, confidence=0.95)["verdict"]
        for seed in range(200)
    ]
    assert verdicts.count("people can tell") / len(verdicts) < 0.08


def test_that_people_cannot_tell_takes_more_than_few_answers() -> None:
    few = summary(judged(0.0, judges=1, items=10, seed=3), margin=0.1, confidence=0.95)
    assert few["verdict"] == "not known yet"
    many = summary(judged(0.0, judges=30, items=60, seed=3), margin=0.1, confidence=0.95)
    assert many["verdict"].startswith("people cannot tell")
    assert 200 < answers_needed(0.1, 0.95) < 230 and answers_needed(0.05, 0.95) > 800


def test_saying_machine_to_everything_is_chance_even_on_an_uneven_sheet() -> None:
    answers = [Answer("a", item, True, item < 30, False) for item in range(40)]
    assert accuracy(answers) == pytest.approx(0.5)


def test_judges_who_agree_are_no_more_evidence_than_one() -> None:
    one = judged(0.2, judges=1, items=40, seed=5)
    copies = [answer._replace(judge=f"copy{number}") for number in range(20) for answer in one]
    assert clustered_stderr(copies) == pytest.approx(clustered_stderr(one), rel=0.05)


@pytest.mark.slow
def test_a_sheet_is_prepared_from_a_model(
    tmp_path: Path, trained: Path, corpus: Path, run_stage: Any
) -> None:
    done = run_stage(
        "blind",
        f"--input=model={trained / 'model'}",
        f"--input=corpus={corpus}",
        f"--output=sheet={tmp_path / 'sheet'}",
        f"--output=key={tmp_path / 'key'}",
        items=8,
        max_new_tokens=16,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "a.csv").write_text(
        (tmp_path / "sheet" / "items.csv").read_text("utf-8-sig").replace(",,\n", ",machine,\n"), "utf-8"
    )
    scored = run_stage(
        "blind",
        f"--input=key={tmp_path / 'key'}",
        f"--input=answers={tmp_path / 'answers'}",
        f"--output={tmp_path / 'report'}",
        step="score",
    )
    assert scored.returncode == 0, scored.stderr
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["all"]["accuracy"] == 0.5 and found["all"]["machine_of_human"] == 1.0
    assert "not known yet" in (tmp_path / "report" / "report.md").read_text()
