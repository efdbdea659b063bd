"""`suan estimate`, typed: tables in and out, one run, plans, pictures, and what is said to a mistake."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from suan.doors.cli.main import EXIT_REFUSED, run

NUMBERS = "layers=32,hidden=4096,heads=32,kv_heads=8,ffn=14336,vocab=128256"
ON = ["--model", NUMBERS, "--accelerator", "H100", "--devices", "64", "--seq-len", "8192"]
TRAIN_COLUMNS = (
    "row_id", "step_time_s", "step_time_s_low", "step_time_s_high", "tokens_per_s_per_accel", "mfu",
    "memory_gib", "fits", "bound_by", "kwh_per_step", "seconds_spent",
)  # fmt: skip
HEADER = (
    "row_id,accel,n_accel,accel_per_node,layers,hidden,heads,kv_heads,ffn,gated_mlp,vocab,seq_len,global_batch,"
    "precision,dp,tp,pp,micro_batch,recompute,step_time_s,memory_gib,notes"
)
STATED = "one,A100-SXM-80,64,8,32,4096,32,32,11008,1,32000,4096,512,bf16,16,4,1,1,none,3.5,55,measured"
OPEN = "two,A100-SXM-80,64,8,32,4096,32,32,11008,1,32000,4096,512,bf16,,,,,,,,"


def table(folder: Path, *rows: str, header: str = HEADER) -> str:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return str(path)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert run(["estimate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------ tables


def test_each_row_gets_an_estimate_and_an_open_plan_the_best(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert run(["estimate", "train", "--csv", table(tmp_path, STATED, OPEN), "--out", str(out)]) == 0
    one, two = read(out)
    assert tuple(one) == TRAIN_COLUMNS
    assert (one["row_id"], two["row_id"]) == ("one", "two")
    for row in (one, two):
        assert float(row["step_time_s_low"]) < float(row["step_time_s"]) < float(row["step_time_s_high"])
        assert row["fits"] == "1" and 0 < float(row["memory_gib"]) < 80 and 0.1 < float(row["mfu"]) < 0.9
        assert float(row["kwh_per_step"]) > 0 and float(row["seconds_spent"]) > 0
        assert row["bound_by"] in ("compute", "memory", "launch", "network", "bubble", "data")
    plain = ["estimate", "train", "--csv", table(tmp_path, STATED, OPEN), "--out", str(out), "--no-residual"]
    assert run(plain) == 0
    one, two = read(out)
    assert float(two["step_time_s"]) <= float(one["step_time_s"]) * 1.001, "the best is no worse than any"


def test_what_was_measured_is_never_looked_at(tmp_path: Path) -> None:
    found = []
    for measured in ("3.5,55", "900,1", ",", "nonsense,-"):
        row = STATED.replace("3.5,55", measured)
        out = tmp_path / "out.csv.gz"
        assert run(["estimate", "train", "--csv", table(tmp_path, row), "--out", str(out)]) == 0
        with gzip.open(out, "rt", encoding="utf-8") as file:
            found.append(list(next(iter(csv.DictReader(file))).values())[:-1])
    assert all(each == found[0] for each in found)


def test_a_gzipped_table_and_rows_without_names(tmp_path: Path) -> None:
    header = HEADER.removeprefix("row_id,")
    packed = tmp_path / "rows.csv.gz"
    packed.write_bytes(gzip.compress(f"{header}\n{STATED.removeprefix('one,')}\n".encode()))
    out = tmp_path / "out.csv"
    assert run(["estimate", "train", "--csv", str(packed), "--out", str(out)]) == 0
    assert [row["row_id"] for row in read(out)] == ["1"]


def test_serving_rows(tmp_path: Path) -> None:
    shape = "layers,hidden,heads,kv_heads,ffn,vocab,params_b"
    header = f"row_id,accel,n_accel,tp,{shape},precision,scenario,isl,osl,req_rate"
    row = "s,H100-SXM-80,1,1,32,4096,32,8,14336,128256,8.03,fp8,offline,128,128,inf"
    out = tmp_path / "out.csv"
    assert run(["estimate", "serve", "--csv", table(tmp_path, row, header=header), "--out", str(out)]) == 0
    (found,) = read(out)
    assert {"row_id", "throughput", "ttft_ms", "itl_ms"} <= found.keys()
    assert 5_000 < float(found["throughput"]) < 60_000


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (STATED.replace(",64,", ",many,"), ("row 2", "n_accel", "'many'")),
        (STATED.replace(",512,bf16", ",-5,bf16"), ("row 2", "global_batch", "'-5'")),
        (STATED.replace(",4096,512", ",nan,512"), ("row 2", "seq_len", "'nan'")),
        (STATED.replace("A100-SXM-80", "H1OO"), ("row 2", "H1OO", "did you mean")),
        (STATED.replace("A100-SXM-80", ""), ("row 2", "accel", "empty")),
        (STATED.replace(",bf16,", ",bf61,"), ("row 2", "'bf61'", "one of", "mxfp8")),
        ("one,A100-SXM-80,64", ("row 2", "cells")),
    ],
)
def test_a_bad_cell_is_refused_with_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str, words: tuple[str, ...]
) -> None:
    out = tmp_path / "out.csv"
    assert run(["estimate", "train", "--csv", table(tmp_path, OPEN, row), "--out", str(out)]) == EXIT_REFUSED
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert not out.exists()


def test_a_missing_column_and_a_misspelt_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.csv")
    lacking = table(tmp_path, "1", header="layers")
    assert run(["estimate", "train", "--csv", lacking, "--out", out]) == EXIT_REFUSED
    assert "no column accel and no column n_accel" in capsys.readouterr().err
    misspelt = table(tmp_path, STATED, header=HEADER.replace("micro_batch", "microbatch"))
    assert run(["estimate", "train", "--csv", misspelt, "--out", out]) == 0
    assert "did you mean 'micro_batch'?" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"accel,n_accel\n", b"\xff\xfe\x00", b"\x1f\x8bbroken"])
def test_what_is_no_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    assert run(["estimate", "train", "--csv", str(path), "--out", str(tmp_path / "o")]) == EXIT_REFUSED
    assert capsys.readouterr().err.startswith("error: ")
    assert run(["estimate", "train", "--csv", str(tmp_path / "none.csv"), "--out", "o"]) == EXIT_REFUSED


# ------------------------------------------------------------------ one run


def test_a_run_in_hours_gib_kwh_and_money(capsys: pytest.CaptureFixture[str]) -> None:
    priced = ["--yuan-per-device-h", "10", "--yuan-per-kwh", "0.5", "--pue", "1.2"]
    found = said(capsys, "train", *ON, "--tokens", "300B", *priced)
    assert found["tokens"] == 300e9
    assert found["hours_low"] < found["hours"] < found["hours_high"]
    assert found["device_hours"] == pytest.approx(found["hours"] * 64)
    assert found["cny"] == pytest.approx(found["device_hours"] * 10 + found["kwh"] * 1.2 * 0.5)
    plan = found["plan"]
    assert plan["dp"] * plan["tp"] * plan["pp"] * plan["cp"] == 64
    assert plan["fits"] and found["gib"] < plan["capacity_gib"]
    assert sum(plan["seconds_by_part"].values()) == pytest.approx(plan["step_time_s"], rel=1e-6)
    assert sum(plan["gib_by_part"].values()) == pytest.approx(plan["memory_gib"])
    half = said(capsys, "train", *ON, "--tokens", "150B")
    assert half["cny"] is None
    assert half["hours"] == pytest.approx(found["hours"] / 2, rel=0.01)


def test_what_is_fixed_stands(capsys: pytest.CaptureFixture[str]) -> None:
    fixed = ["--tp", "8", "--pp", "2", "--micro-batch", "2", "--zero", "1", "--recompute", "full"]
    found = said(capsys, "plan", *ON, "--global-batch", "512", *fixed)
    for plan in found["plans"]:
        assert (plan["tp"], plan["pp"], plan["micro_batch"], plan["zero_stage"]) == (8, 2, 2, 1)
        assert plan["recompute"] == "full"


def test_plans_are_ranked_and_reasoned(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "plan", *ON, "--global-batch", "512", "--count", "4")
    times = [plan["step_time_s"] for plan in found["plans"]]
    assert len(times) == 4 and times == sorted(times)
    assert [plan["rank"] for plan in found["plans"]] == [1, 2, 3, 4]
    assert "-bound: " in found["plans"][0]["reason"]
    assert all("slower" in plan["reason"] for plan in found["plans"][1:])
    assert 0 < found["fitting"] <= found["legal"]


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["estimate", "plan", *ON]) == 0
    shown = capsys.readouterr().out
    assert "8.0 B parameters on 64 H100-SXM" in shown and "-bound: " in shown and "█" in shown
    assert run(["estimate", "train", *ON, "--tokens", "15T"]) == 0
    shown = capsys.readouterr().out
    assert "15,000 B tokens" in shown.replace("1.5e+04", "15,000") and "kWh" in shown


def test_serving_says_what_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["serve", *ON[:6], "--request-rate", "20", "--ttft-ms", "3000", "--itl-ms", "100"]
    found = said(capsys, *asked)
    assert found["fits"] and found["output_tokens_per_s"] > 0 and found["itl_ms"] > 0
    assert found["devices_needed"] == found["replicas_needed"] * found["tensor_parallel"]
    assert run(["estimate", *asked]) == 0
    assert "between tokens" in capsys.readouterr().out


def test_a_model_that_fits_nowhere_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    big = ["--model", "layers=96,hidden=12288,heads=96,vocab=51200", "--accelerator", "T4", "--devices", "8"]
    found = said(capsys, "plan", *big)
    assert found["fitting"] == 0 and not found["plans"][0]["fits"]
    assert "does not fit" in found["plans"][0]["reason"] and found["notes"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plans.{suffix}"
    assert run(["estimate", "plan", *ON, "--plot", str(path)]) == 0
    content = path.read_bytes()
    if suffix == "svg":
        assert b"seconds a step" in content, "text stays text"
        assert b'href="http' not in content, "self-contained"
    else:
        assert content.startswith(b"\x89PNG")
    assert run(["estimate", "train", *ON, "--tokens", "1B", "--plot", str(path)]) == 0
    assert run(["estimate", "plan", *ON, "--plot", str(tmp_path / "plans.doc")]) == EXIT_REFUSED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], "missing --model, --accelerator, --devices"),
        (["plan", *ON[:2], "--accelerator", "H1OO", "--devices", "8"], "no accelerator is called 'H1OO'"),
        (["plan", "--model", "no-such.json", *ON[2:]], "is no model"),
        (["plan", "--model", "layres=3", *ON[2:]], "'layres' is no number of a shape"),
        (["plan", "--model", "layers=x,hidden=8", *ON[2:]], "layers is 'x'"),
        (["plan", *ON, "--precision", "bf17"], "'bf17' is no precision"),
        (["plan", *ON, "--tp", "3", "--dp", "5"], "no plan divides"),
        (["train", *ON, "--tokens", "much"], "is no quantity"),
        (["train", *ON, "--tokens", "0"], "tokens is 0"),
        (["train", "--csv", "x.csv"], "belong together"),
    ],
)
def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert run(["estimate", *arguments]) == EXIT_REFUSED
    told = capsys.readouterr().err
    assert told.startswith("error: ") and words in told


def test_a_config_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("[]", "{", '{"model_type": "llama", "hidden_size": "wide"}'):
        path = tmp_path / "config.json"
        path.write_text(content, "utf-8")
        assert run(["estimate", "plan", "--model", str(tmp_path), *ON[2:]]) == EXIT_REFUSED
        assert capsys.readouterr().err.startswith("error: ")


# ------------------------------------------------------------------ several pools


def test_pools_take_a_step_together_where_the_link_allows(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["together", "--model", NUMBERS, "--pool", "H100=64", "--pool", "910B=64"]
    near, far = (said(capsys, *asked, "--gbps-between", gbps) for gbps in ("10000", "10"))
    by_kind = {share["accelerator"]: share["sequences"] for share in near["shares"]}
    assert by_kind["H100-SXM"] > 1.5 * by_kind["Ascend910B2"], "the faster kind takes more"
    assert near["step_time_s"] < far["step_time_s"] == min(far["alone_s"].values())
    assert near["meet_every_steps"] == 1 < far["meet_every_steps"]
    assert run(["estimate", *asked, "--gbps-between", "10"]) == 0
    assert "alone is quicker" in capsys.readouterr().out
    assert run(["estimate", "together", "--model", NUMBERS, "--pool", "H100"]) == EXIT_REFUSED
    assert "H100=64" in capsys.readouterr().err
