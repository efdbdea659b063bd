"""Tokenizer, training, evaluation and serving of a tiny model, by the very commands that a site runs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pytest
from tiny_stages import TINY_MODEL, environment, stage_command
from transformers import AutoModelForCausalLM, AutoTokenizer

from suan.recipes.evaluate import OF_THE_CORPUS
from suan.recipes.tokenizer import measure

RESUMED_LOSS_TOLERANCE = (
    1e-5  # nats a token; same threads, same data, same state: only the order of sums may differ
)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def until(true, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, "nothing happened in time"
        time.sleep(0.05)


# ---------------------------------------------------------------- tokenizer


def test_the_tokenizer_gives_every_text_back(tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    for text in (
        "床前明月光\uff0c疑是地上霜。",
        "GPU 8×H100, 3.14!\n\n  tab\there",
        "😀𬭭\u200b",
        "",
        " a  b ",
    ):
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_one_common_character_is_one_token_and_no_token_spans_two(tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert len(loaded("春山夜月")["input_ids"]) == 4
    words = [loaded.decode([index]) for index in range(len(loaded))]
    assert not [word for word in words if sum("一" <= letter <= "鿿" for letter in word) > 1]


def test_the_report_says_how_many_bytes_a_token_holds_in_each_script(tokenizer: Path) -> None:
    report = json.loads((tokenizer / "report.json").read_text())
    assert report["round_trip_exact_ratio"] == 1.0
    assert 1.0 < report["chinese_bytes_per_token"] <= 3.0  # one character at most: three bytes
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert measure(loaded, ["the cat sat", "春眠不觉晓"])["english_bytes_per_token"] >= 1.0
    assert "english_bytes_per_token" not in measure(loaded, ["春眠不觉晓"])


def test_the_chat_template_is_chatml(tokenizer: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    text = loaded.apply_chat_template(
        [{"role": "user", "content": "问"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\n问<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.convert_ids_to_tokens(loaded("<|im_start|>")["input_ids"]) == ["<|im_start|>"]


# ---------------------------------------------------------------- pretrain


@pytest.mark.slow
def test_training_lowers_the_loss_and_says_how_far_it_is(trained: Path) -> None:
    progress = [line for line in lines(trained / "progress.jsonl") if "step" in line]
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["val_loss"] < metrics["first_val_loss"] - 0.5
    assert progress[-1]["step"] == progress[-1]["total"] == TINY_MODEL["steps"]
    assert progress[-1]["val_loss"] == pytest.approx(metrics["val_loss"], abs=1e-4)
    assert {"eta_s", "loss", "tokens_per_s"} <= progress[-1].keys()


@pytest.mark.slow
def test_the_model_folder_is_whole(trained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained / "model")
    manifest = json.loads((trained / "model" / "suan.json").read_text())
    assert sum(weight.numel() for weight in model.parameters()) == manifest["results"]["parameters"]
    assert manifest["versions"]["torch"] and manifest["args"]["steps"] == TINY_MODEL["steps"]
    assert manifest["inputs"]["corpus"]["train-00000.jsonl"] > 0
    names = {file.name for file in (trained / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_to_the_same_loss(
    kill: signal.Signals, tmp_path: Path, corpus: Path, tokenizer: Path, trained: Path
) -> None:
    env = environment(
        SUAN_INPUT_CORPUS=str(corpus),
        SUAN_INPUT_TOKENIZER=str(tokenizer),
        SUAN_OUTPUT_MODEL=str(tmp_path / "model"),
        SUAN_CHECKPOINT=str(tmp_path / "checkpoint"),
        SUAN_PROGRESS=str(tmp_path / "progress.jsonl"),
        SUAN_METRICS=str(tmp_path / "metrics.json"),
        SUAN_ARGS=json.dumps({**TINY_MODEL, "checkpoint_every_steps": 5}),
    )
    (tmp_path / "checkpoint").mkdir()
    command = stage_command("pretrain", [])
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: any((tmp_path / "checkpoint").glob("step-*[0-9]/.metadata")), 60)  # named: not .tmp
        first.send_signal(kill)
        code = first.wait(30)
    finally:
        first.kill()
        first.wait()
    assert code == (-signal.SIGKILL if kill == signal.SIGKILL else 143)
    assert not (tmp_path / "metrics.json").exists()
    (tmp_path / "checkpoint" / "step-9999.tmp").mkdir()  # what a kill in the middle of a save leaves
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    resumed = [line for line in lines(tmp_path / "progress.jsonl") if line.get("phase") == "resumed"]
    assert resumed and resumed[0]["step"] >= 5
    unbroken = json.loads((trained / "metrics.json").read_text())
    assert json.loads((tmp_path / "metrics.json").read_text())["val_loss"] == pytest.approx(
        unbroken["val_loss"], abs=RESUMED_LOSS_TOLERANCE
    )


@pytest.mark.slow
def test_one_node_becomes_two_ranks(
    tmp_path: Path, corpus: Path, tokenizer: Path, trained: Path, run_stage
) -> None:
    inputs = [f"--input=corpus={corpus}", f"--input=tokenizer={tokenizer}"]
    env = {"SUAN_METRICS": str(tmp_path / "metrics.json")}
    settings = TINY_MODEL | {"processes_per_node": 2, "steps": 20}
    done = run_stage("pretrain", *inputs, f"--output={tmp_path / 'model'}", env=env, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "metrics.json").read_text())["tokens"] == 20 * 8 * 64
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").num_parameters() > 0


@pytest.mark.slow
def test_two_nodes_learn_what_one_learns(
    tmp_path: Path, corpus: Path, tokenizer: Path, trained: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in (0, 1):
        env = environment(
            SUAN_CHECKPOINT=str(tmp_path),
            SUAN_METRICS=str(tmp_path / "metrics.json"),
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        options = [
            f"--input=corpus={corpus}",
            f"--input=tokenizer={tokenizer}",
            f"--output={tmp_path / 'model'}",
        ]
        log = (tmp_path / f"rank{rank}.log").open("w")
        command = stage_command("pretrain", options, **TINY_MODEL)
        ranks.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(120) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert codes == [0, 0], (tmp_path / "rank0.log").read_text()[-2000:]
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (trained, tmp_path))
    assert two["val_loss"] == pytest.approx(one["val_loss"], abs=2e-3)


def test_shapes_that_cannot_be_are_refused(tmp_path: Path, corpus: Path, tokenizer: Path, run_stage) -> None:
    done = run_stage(
        "pretrain",
        "--input",
        f"corpus={corpus}",
        "--input",
        f"tokenizer={tokenizer}",
        "--output",
        tmp_path,
        hidden_size=30,
    )
    assert done.returncode == 2 and "heads must divide hidden_size" in done.stderr


# ---------------------------------------------------------------- evaluate


@pytest.mark.slow
def test_evaluation_makes_a_table_with_errors(tmp_path: Path, corpus: Path, trained: Path, run_stage) -> None:
    done = run_stage(
        "evaluate",
        "--input",
        f"corpus={corpus}",
        "--input",
        f"model={trained / 'model'}",
        "--output",
        tmp_path,
        documents=12,
        shots=[0, 1],
        generations=4,
        max_new_tokens=24,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {(row["task"], row["shots"]) for row in rows} == {
        ("held_out", 0),
        ("cloze", 0),
        ("cloze", 1),
        ("next_couplet", 0),
        ("next_couplet", 1),
        ("word_order", 0),
        ("word_order", 1),
        ("written", 0),
    }
    assert {row["task"] for row in rows} == {*OF_THE_CORPUS, "written"}  # which ask for a corpus
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows if row["metric"] == "acc")
    assert next(row["value"] for row in rows if row["metric"] == "bits_per_byte") < 8
    assert "| word_order | 0 | acc |" in (tmp_path / "report.md").read_text()


# ---------------------------------------------------------------- serve


@pytest.fixture
def endless(tmp_path: Path, trained: Path) -> Path:
    """The trained model, writing until it is cut off: one this small may have nothing to say."""
    folder = shutil.copytree(trained / "model", tmp_path / "endless")
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    return folder


@pytest.mark.slow
def test_the_served_model_streams_through_the_openai_client(tmp_path: Path, endless: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = environment(
        SUAN_INPUT_MODEL=str(endless),
        SUAN_PORT=str(port),
        SUAN_RUN_ID="run",
        SUAN_PROGRESS=str(tmp_path / "progress.jsonl"),
        SUAN_ARGS="{}",
    )
    server = subprocess.Popen(
        stage_command("serve", []),
        env=env,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until(lambda: any(line["phase"] == "ready" for line in lines(tmp_path / "progress.jsonl")), 60)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            assert reply.status == 200
        name = lines(tmp_path / "progress.jsonl")[-1]["served_model"]
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        messages = [{"role": "user", "content": "写一首五言绝句\uff1a春夜"}]
        chunks = list(
            client.chat.completions.create(model=name, messages=messages, max_tokens=16, stream=True)
        )
        assert len(chunks) > 2 and chunks[-1].choices[0].finish_reason == "length"
        whole = client.completions.create(model=name, prompt="床前明月光\uff0c", max_tokens=8)
        assert whole.choices[0].text is not None
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) is not None
        # Nobody of its session is left: the child that watched for readiness is gone too.
        with pytest.raises(ProcessLookupError):
            os.killpg(server.pid, 0)
    finally:
        server.kill()
        server.wait()
