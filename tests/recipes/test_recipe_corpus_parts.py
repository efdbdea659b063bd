"""The corpus stage as a whole: parts, resuming, evaluation sets, personal data, formats."""

import importlib.util
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny_stages import EXAMPLES, environment, stage_command

from suan.recipes.corpus.contamination import Examined
from suan.recipes.corpus.engines import pairs
from suan.recipes.corpus.personal import luhn, mask
from suan.recipes.corpus.reading import plan, read

PAGES = f"pages={EXAMPLES}/data/raw-pages"
SMALL_PARTS = {"part_mb": 0.004}


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path, run_stage: Any) -> None:
    whole = run_stage("corpus", "--input", PAGES, "--output", tmp_path / "whole", **SMALL_PARTS)
    assert whole.returncode == 0, whole.stderr
    options = ["--input", PAGES, "--output", str(tmp_path / "killed")]
    run = subprocess.Popen(
        stage_command("corpus", options, **SMALL_PARTS), env=environment(), stdout=subprocess.DEVNULL
    )
    parts = tmp_path / "killed" / ".parts"
    deadline_s = time.monotonic() + 100
    while len(list(parts.glob("*.json"))) < 2 and run.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.002)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    done_before = len(list(parts.glob("*.json")))
    assert done_before, "the run ended before it was killed"
    again = run_stage("corpus", *options, **SMALL_PARTS)
    assert again.returncode == 0, again.stderr
    assert f"parts_resumed {done_before}" in again.stdout
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert not parts.exists()


def test_evaluation_sets_are_looked_for_and_parquet_is_written(tmp_path: Path, run_stage: Any) -> None:
    (tmp_path / "exam").mkdir()
    question = {
        "question": "山里的月亮是安静的，它从松树之间落到石头上，连泉水的声音也变得分明。",
        "answer": "对",
    }
    (tmp_path / "exam" / "test.jsonl").write_text(json.dumps(question, ensure_ascii=False), "utf-8")
    out = tmp_path / "out"
    done = run_stage(
        "corpus",
        "--input",
        PAGES,
        "--input",
        f"evaluation={tmp_path}/exam",
        "--output",
        f"corpus={out}",
        format="parquet",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["dropped"]["document: in an evaluation set"] == 1
    table = pl.concat([pl.read_parquet(file) for file in out.glob("*.parquet")])
    assert {"text", "source", "lang", "score", "reasons"} <= set(table.columns)
    assert not table["source"].str.contains("moon").any()
    assert "<svg" in (out / "report.html").read_text("utf-8")
    assert json.loads((out / "suan.json").read_text("utf-8"))["inputs"]["pages"]["digest"].startswith(
        "blake3:"
    )


def test_half_an_item_is_contamination_and_a_phrase_is_not() -> None:
    item = "运河是一张早期的调度网络，货物有轻重缓急，道路有宽有窄，价钱随季节涨落。"
    items = Examined(
        [item, "太短了", "The planner has to say which one of them waits and what all the waiting costs."],
        10,
        0.5,
    )
    assert items.too_short == 1
    found = items.found_in(
        [
            "他说：" + item[:30],
            "货物有轻重缓急，今天先发这一批。",
            "we know the planner has to say which one of them waits and what all",
        ]
    )
    assert set(found) == {0, 2}


def test_files_cut_into_parts_lose_no_line(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": f"第{number}行" + "字" * (number % 17)}, ensure_ascii=False)
        for number in range(500)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    parts = plan({"in": tmp_path}, 997)
    assert len(parts) > 10
    assert [record["text"] for part in parts for record in read(part)] == [
        json.loads(line)["text"] for line in lines
    ]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("电话13812345678，请打。", "电话<phone>，请打。"),
        ("传真 010-62345678 转", "传真 <phone> 转"),
        ("写信到 li.lei+a@mail.example.com。", "写信到 <email>。"),
        ("身份证11010519491231002X丢了", "身份证<id>丢了"),
        ("卡号 4111 1111 1111 1111 已挂失", "卡号 <card> 已挂失"),
        ("服务器 192.168.1.20 停机", "服务器 <ip> 停机"),
        ("call +1 415-555-2671 now", "call <phone> now"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert mask(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "身份证110105194912310021",
        "订单 4111111111111112",
        "1998年12月31日",
        "圆周率3.14159265358979",
        "人口13800000000000",
    ],
)
def test_figures_that_are_nobody_s_stay(text: str) -> None:
    assert mask(text)[0] == text


def test_luhn() -> None:
    assert luhn("4111111111111111") and not luhn("4111111111111112")


def test_daft_finds_the_pairs_that_one_process_finds(tmp_path: Path) -> None:
    pytest.importorskip("daft")
    import numpy as np

    from suan.recipes.corpus.duplicates import band_hashes, groups, sketches

    texts = [f"第{number}篇文章，" + "内容各不相同" * 3 + str(number**7) * 6 for number in range(60)]
    bands = band_hashes(sketches([*texts, texts[3] + "尾", texts[7]], 4))
    local, daft = pairs("local", bands), pairs("daft", bands)
    assert groups(daft.tolist()) == groups(local.tolist())
    assert np.array_equal(np.unique(daft, axis=0), np.unique(local, axis=0))


@pytest.mark.slow
def test_all_cores_make_what_one_process_makes(tmp_path: Path, run_stage: Any) -> None:
    pytest.importorskip("daft")
    for engine in ("local", "daft"):
        options = ("--input", PAGES, "--output", tmp_path / engine)
        done = run_stage("corpus", *options, engine=engine, part_mb=0.01)
        assert done.returncode == 0, done.stderr
    local, daft = files(tmp_path / "local"), files(tmp_path / "daft")
    assert local.pop("suan.json") != daft.pop("suan.json")  # the manifest names the engine
    assert local == daft


@pytest.mark.slow
def test_a_ray_cluster_makes_what_one_process_makes(tmp_path: Path, run_stage: Any) -> None:
    pytest.importorskip("daft")
    pytest.importorskip("ray", reason="engine=ray needs Ray: pip install 'suan[data-cluster]'")
    for engine in ("local", "ray"):
        done = run_stage(
            "corpus", "--input", PAGES, "--output", tmp_path / engine, engine=engine, part_mb=0.01
        )
        assert done.returncode == 0, done.stderr
    local, ray = files(tmp_path / "local"), files(tmp_path / "ray")
    assert local.pop("suan.json") != ray.pop("suan.json")
    assert local == ray


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is here")
def test_without_ray_the_stage_says_what_to_install(tmp_path: Path, run_stage: Any) -> None:
    done = run_stage("corpus", "--input", PAGES, "--output", tmp_path, engine="ray")
    assert done.returncode and "suan[data-cluster]" in done.stderr + done.stdout
