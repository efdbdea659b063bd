"""Evaluation: intervals, calibration, FewCLUE's own files, going on after a kill, versions compared."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from suan.grid.error import Refused
from suan.recipes.evaluate import intervals, suites
from suan.recipes.evaluate.calibration import calibrated_choice
from suan.recipes.evaluate.questions import cloze

FEWCLUE: dict[str, list[dict[str, Any]]] = {
    "eprstmt": [
        {"id": 1, "sentence": "磨损了，试听后感觉不错", "label": "Positive"},
        {"id": 2, "sentence": "用了一天就坏了", "label": "Negative"},
    ],
    "tnews": [
        {"label": "102", "label_desc": "news_entertainment", "sentence": "新电影上映", "keywords": ""},
        {"label": "103", "label_desc": "news_sports", "sentence": "球队赢了决赛", "keywords": ""},
    ],
    "csldcp": [
        {"content": "研究一类插值函数的可微性", "label": "数学", "id": 1},
        {"content": "总结了浅孔爆破的设计原则", "label": "矿业工程", "id": 2},
    ],
    "iflytek": [
        {"label": "110", "label_des": "社区超市", "sentence": "即时配送的超市"},
        {"label": "0", "label_des": "打车", "sentence": "一键叫车"},
    ],
    "ocnli": [
        {"sentence1": "身上裹一件棉大衣", "sentence2": "身上至少一件衣服", "label": "entailment", "id": 0},
        {"sentence1": "他在家", "sentence2": "他在办公室", "label": "contradiction", "id": 1},
    ],
    "bustm": [
        {"id": 5, "sentence1": "你是女孩子吗", "sentence2": "你不是女孩子吗", "label": "1"},
        {"id": 18, "sentence1": "说话慢了", "sentence2": "那你说慢一点", "label": "0"},
    ],
    "csl": [
        {"id": 1, "abst": "提出分区域波束形成算法", "keyword": ["水声学", "波束形成"], "label": "1"},
        {"id": 2, "abst": "讨论了知耻教育", "keyword": ["波束形成", "声呐"], "label": "0"},
    ],
    "cluewsc": [
        {
            "target": {"span2_index": 14, "span1_index": 5, "span1_text": "手机", "span2_text": "它"},
            "idx": 1,
            "label": label,
            "text": "放在床上的手机响了，我觉得它奇怪。",
        }
        for label in ("true", "false")
    ],
    "chid": [
        {"id": 1, "candidates": ["无中生有", "一帆风顺"], "content": "祝你#idiom#，万事如意。", "answer": 1},
        {"id": 2, "candidates": ["画蛇添足", "井井有条"], "content": "房间收拾得#idiom#。", "answer": 1},
    ],
}


@pytest.fixture(scope="session")
def fewclue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fewclue")
    for name, rows in FEWCLUE.items():
        (root / name).mkdir()
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for file in ("test_public.json", "train_few_all.json"):
            (root / name / file).write_text(text, "utf-8")
    return root


# ---------------------------------------------------------------- numbers


def test_intervals_cover_what_they_should() -> None:
    draw = random.Random(1)
    found = [intervals.proportion(sum(draw.random() < 0.9 for _ in range(60)), 60, 0.95) for _ in range(300)]
    assert sum(one.low <= 0.9 <= one.high for one in found) / len(found) == pytest.approx(0.95, abs=0.03)
    perfect = intervals.proportion(12, 12, 0.95)
    assert perfect.high == 1.0 and perfect.low < 0.8, "twelve of twelve is no proof of perfection"
    sizes = [draw.uniform(10, 300) for _ in range(80)]
    nats = [size * draw.gauss(1.5, 0.3) for size in sizes]
    ratio = intervals.ratio(nats, sizes, 0.95, 1)
    assert ratio.low < 1.5 < ratio.high and 0.01 < ratio.stderr < 0.1


def test_pairs_show_what_intervals_hide() -> None:
    first = [float(index % 10 < 5) for index in range(200)]
    second = [1.0 if index % 20 == 19 else score for index, score in enumerate(first)]
    apart = [intervals.mean(scores, 0.95, 1) for scores in (first, second)]
    assert apart[0].high > apart[1].low, "the intervals overlap"
    assert intervals.paired_p(first, second, 1) < 0.01
    assert intervals.paired_p(first, first, 1) == 1.0
    draw = random.Random(2)
    noise = [draw.gauss(2.0, 1.0) for _ in range(100)]
    assert intervals.paired_p(noise, [value + 0.05 for value in noise], 1) < 0.001
    assert intervals.paired_p(noise, [value + draw.gauss(0, 0.1) for value in noise], 1) > 0.01


def test_calibration_takes_off_what_the_label_gets_for_nothing() -> None:
    # The model says 好评 to everything, a little less so to a complaint.
    assert calibrated_choice([-1.0, -3.0], [-1.0, -3.5]) == 1
    assert calibrated_choice([-0.5, -3.5], [-1.0, -3.5]) == 0


def test_a_cloze_leaves_out_the_last_characters_and_not_the_full_stop() -> None:
    assert cloze([{"text": "举头望明月，低头思故乡。\n"}, {"text": "a"}]) == [
        {"context": "举头望明月，低头思", "end": "故乡"}
    ]


# ---------------------------------------------------------------- definitions


def test_definitions_run_where_their_data_are(fewclue: Path, tmp_path: Path) -> None:
    found = list(suites.of_folder((suites.DEFINITIONS, fewclue), fewclue))
    assert {question.name for question in found} == set(FEWCLUE)
    assert list(suites.of_folder((suites.DEFINITIONS,), tmp_path)) == []
    with pytest.raises(Refused, match="tnewz") as refused:
        suites.choose(found, ("tnewz",))
    assert "tnews" in str(refused.value)


def test_questions_are_drawn_from_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "sorted.jsonl").write_text("{}\n" * 1000)
    question = suites.Question("sorted", (), tmp_path, ("sorted.jsonl",))
    drawn = suites.drawn(question, 50, 1)
    assert drawn and len(drawn) == 50 and max(drawn) > 800 and drawn == suites.drawn(question, 50, 1)
    assert suites.drawn(question, 0, 1) is None


def test_examinations_are_read_as_they_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-Eval explains its worked examples and not its questions; CMMLU names its columns otherwise."""
    from lm_eval.tasks import TaskManager

    tables = {
        "ceval/val/physics_val.csv": "id,question,A,B,C,D,answer\n"
        '0,"一年有几季，\n在温带",一,二,三,四,D\n1,水,1,2,3,4,A\n',
        "ceval/dev/physics_dev.csv": "id,question,A,B,C,D,answer,explanation\n0,日出于,东,西,南,北,A,自转\n",
        "cmmlu/test/sums.csv": ",Question,A,B,C,D,Answer\n0,一加一,一,二,三,四,B\n",
        "cmmlu/dev/sums.csv": ",Question,A,B,C,D,Answer\n0,一加二,一,二,三,四,C\n",
    }
    for name, text in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    found = {question.name: question for question in suites.of_folder((suites.DEFINITIONS,), tmp_path)}
    assert set(found) == {"ceval", "cmmlu"}
    assert suites.drawn(found["ceval"], 1, 1) in ([0], [1]), "two records, one of them on two lines"
    monkeypatch.chdir(tmp_path)
    for name, answer in (("ceval", "D"), ("cmmlu", "B")):
        manager = TaskManager(include_path=[str(suites.DEFINITIONS)], include_defaults=False)
        task = manager.load([name])["tasks"][name]
        task.set_config(key="num_fewshot", value=1)
        task.set_fewshot_seed(seed=1)
        asked = next(iter(task.test_docs()))
        shown = task.fewshot_context(asked, 1)
        assert shown.count("答案：") == 2 and shown.endswith("D. 四\n答案：")
        assert task.doc_to_target(asked) == answer


@pytest.mark.slow
def test_fewclue_zero_and_one_shot_goes_on_after_a_kill_and_is_compared(
    tmp_path: Path, trained: Path, corpus: Path, fewclue: Path, run_stage: Any
) -> None:
    def evaluate(name: str, *options: str) -> Any:
        return run_stage(
            "evaluate",
            f"--input=model={trained / 'model'}",
            f"--input=corpus={corpus}",
            f"--input=data={fewclue}",
            f"--output={tmp_path / name}",
            f"--checkpoint={tmp_path / 'checkpoint'}",
            *options,
            documents=20,
            shots=[0, 1],
            tasks=["held_out", *FEWCLUE],
            generations=0,
        )

    done = evaluate("whole")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "whole" / "report.json").read_text())["rows"]
    found = {(row["task"], row["shots"], row["metric"]): row for row in rows}
    for name in FEWCLUE:
        for shots in (0, 1):
            assert found[name, shots, "acc"]["documents"] == 2
            assert ((name, shots, "acc_calibrated") in found) == (name != "chid")
    assert found["tnews", 0, "acc"]["chance"] == pytest.approx(1 / 15)
    assert found["csldcp", 0, "acc"]["chance"] == 0.5, "labels are those of the training file"
    # The last parts are lost, as in a kill; what goes on finds the same numbers.
    parts = sorted((tmp_path / "checkpoint").glob("parts-*/*.json"))
    for part in parts[: len(parts) // 3]:
        part.unlink()
    kept = {part: part.stat().st_mtime_ns for part in parts if part.exists()}
    again = evaluate("again")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "again" / "report.json").read_text())["rows"] == rows
    assert {part: part.stat().st_mtime_ns for part in kept} == kept, "finished parts are not run again"
    compared(tmp_path, run_stage)


def compared(tmp_path: Path, run_stage: Any) -> None:
    """A version that is worse on every held-out text is marked so; a copy is not."""
    worse = tmp_path / "worse"
    shutil.copytree(tmp_path / "whole", worse)
    report = json.loads((worse / "report.json").read_text())
    lines = [json.loads(line) for line in (worse / "scores.jsonl").read_text().splitlines()]
    for line in lines:
        if line["task"] == "held_out":
            line["score"] *= 1.2
    for row in report["rows"]:
        if row["task"] == "held_out":
            row["value"] *= 1.2
    (worse / "report.json").write_text(json.dumps(report))
    (worse / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_stage(
        "leaderboard",
        f"--input=poet_1={tmp_path / 'whole'}",
        f"--input=poet_2={tmp_path / 'again'}",
        f"--input=poet_3={worse}",
        f"--output={tmp_path / 'board'}",
    )
    assert done.returncode == 0, done.stderr
    board = (tmp_path / "board" / "leaderboard.md").read_text()
    held_out = next(line for line in board.splitlines() if "bits_per_byte" in line)
    first, second, third = held_out.split("|")[4:7]
    assert "▼" in third and "▼" not in first + second
    assert "▲" not in board.split("▲ better")[0]
