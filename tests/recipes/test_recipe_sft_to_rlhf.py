"""Fine-tuning, reward model, DPO and RLHF of a tiny model, as processes that are killed and go on."""

import gzip
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import call, run, start
from opencc import OpenCC
from safetensors.numpy import load_file
from tiny_stages import EXAMPLES

RESUMED_TOLERANCE = 1e-6  # of any weight: the same threads, the same data, the same state
SHARDED_TOLERANCE = 1e-4  # nats a token: shards are summed in another order
PAGES = ("fine-tuning", "reward-model", "rlhf")
COMMON = {"batch_rows": 8, "eval_every": 4, "eval_rows": 8, "max_length": 96}
RULES = {"form": 1.0, "rhyme": 1.0, "tones": 1.0, "distinct": 0.5}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"steps": 24, "learning_rate": 5e-3},
    "reward": {"steps": 16},
    "dpo": {"steps": 12},
    "rlhf": {
        "steps": 8,
        "learning_rate": 1e-2,
        "group": 4,
        "max_new_tokens": 24,
        "measure_rows": 16,
        "rewards": RULES,
    },
}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def poems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus folder of three hundred quatrains of fives, with chats, as the corpus stage writes it."""
    folder = tmp_path_factory.mktemp("poems")
    documents = []
    to_simplified = OpenCC("t2s").convert
    with gzip.open(EXAMPLES / "data" / "tang-poems" / "tang_regulated.jsonl.gz", "rt", "utf-8") as records:
        for record in map(json.loads, map(to_simplified, records)):
            if all(re.fullmatch(r"\w{5}，\w{5}。", line) for line in record["lines"][:3]):
                answer = "\n".join(record["lines"][:2])
                asked = f"写一首五言绝句：{record['title']}"
                messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
                documents.append(json.dumps({"text": answer, "messages": messages}, ensure_ascii=False))
            if len(documents) == 300:
                break
    (folder / "train-00000.jsonl").write_text("\n".join(documents[:260]) + "\n")
    (folder / "valid.jsonl").write_text("\n".join(documents[260:]) + "\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, poems: Path) -> Path:
    """The data sets of the poet's example."""
    folder = tmp_path_factory.mktemp("data")
    script = EXAMPLES / "poet" / "make_alignment.py"
    options = ["--corpus", poems, "--poems", EXAMPLES / "data" / "tang-poems", "--output", folder]
    subprocess.run([sys.executable, script, *options, "--preferences", "300"], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, poems: Path) -> Path:
    """A model folder with random weights."""
    folder = tmp_path_factory.mktemp("model")
    run("tokenizer", folder / "made", ["--input", str(poems), "--output", str(folder)], {"vocab_size": 1024})
    call(write_random_model, str(folder))
    return folder


def write_random_model(folder: str) -> None:
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    marks = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(vocab_size=len(tokenizer), max_position_embeddings=256, **small, **heads, **marks)
    Qwen3ForCausalLM(config).save_pretrained(folder)


def options(stage: str, model: Path, data: Path, output: Path) -> list[str]:
    name, kind = {
        "sft": ("dataset", "conversations"),
        "rlhf": ("prompts", "prompts"),
    }.get(stage, ("dataset", "preferences"))
    return [f"--input=model={model}", f"--input={name}={data / kind}", f"--output=model={output}"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path) -> Path:
    """A folder for each stage, with `model`, metrics and progress."""
    folder = tmp_path_factory.mktemp("unbroken")
    for stage, args in STAGES.items():
        run(stage, folder / stage, options(stage, model, data, folder / stage / "model"), COMMON | args)
    return folder


def metrics(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return found


def weights(folder: Path, name: str = "model.safetensors") -> Any:
    return load_file(folder / name)


def largest_difference(one: Path, two: Path) -> float:
    ours, theirs = weights(one / "model"), weights(two / "model")
    assert ours.keys() == theirs.keys()
    return max(float(abs(ours[name] - theirs[name]).max()) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_goes_on_to_the_same_weights(
    stage: str, tmp_path: Path, model: Path, data: Path, unbroken: Path
) -> None:
    args = COMMON | STAGES[stage] | {"checkpoint_every_steps": 3}
    words = [*options(stage, model, data, tmp_path / "model"), f"--checkpoint={tmp_path / 'checkpoint'}"]
    how = signal.SIGTERM if stage == "dpo" else signal.SIGKILL
    first = start(stage, tmp_path, words, args)
    end_s = time.monotonic() + 300
    while not any((tmp_path / "checkpoint").glob("checkpoint-*/whole.json")):
        assert first.is_alive() and time.monotonic() < end_s, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.002)
    os.kill(first.pid or 0, how)
    first.join(120)
    assert first.exitcode == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    assert not (tmp_path / "metrics.json").exists()
    # What a kill in the middle of a save leaves: the newest, and not whole.
    (tmp_path / "checkpoint" / "checkpoint-9999").mkdir()
    run(stage, tmp_path, words, args)
    resumed = [line for line in lines(tmp_path / "progress.jsonl") if line.get("phase") == "resumed"]
    assert len(resumed) == 1 and 3 <= resumed[0]["step"] < STAGES[stage]["steps"]
    assert largest_difference(tmp_path, unbroken / stage) <= RESUMED_TOLERANCE


@pytest.mark.slow
def test_other_arguments_do_not_go_on_from_a_checkpoint(tmp_path: Path, model: Path, data: Path) -> None:
    words = [*options("sft", model, data, tmp_path / "model"), f"--checkpoint={tmp_path / 'checkpoint'}"]
    run("sft", tmp_path, words, COMMON | {"steps": 3, "checkpoint_every_steps": 1})
    run("sft", tmp_path, words, COMMON | {"steps": 3, "checkpoint_every_steps": 1, "learning_rate": 1e-5})
    assert not [line for line in lines(tmp_path / "progress.jsonl") if line.get("phase") == "resumed"]


@pytest.mark.slow
def test_fine_tuning_learns_and_says_how_far_it_is(unbroken: Path) -> None:
    found, progress = metrics(unbroken / "sft"), lines(unbroken / "sft" / "progress.jsonl")
    assert found["val_loss"] < found["first_val_loss"] - 0.5
    last = [line for line in progress if "loss" in line][-1]
    assert last["step"] == last["total"] == STAGES["sft"]["steps"] and "eta_s" in last
    assert any("tokens_per_s" in line for line in progress) or len(progress) < 6


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_folder_says_what_went_in(stage: str, unbroken: Path) -> None:
    folder = unbroken / stage / "model"
    manifest = json.loads((folder / "suan.json").read_text())
    assert manifest["recipe"] == stage and manifest["args"]["steps"] == STAGES[stage]["steps"]
    assert manifest["versions"]["trl"] and manifest["inputs"]["model"]["config.json"] > 0
    assert "| " in (folder / "README.md").read_text()
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names


@pytest.mark.slow
def test_adapters_are_merged_and_kept(tmp_path: Path, model: Path, data: Path) -> None:
    args = COMMON | {"steps": 6, "lora_rank": 2, "learning_rate": 1e-2}
    run("sft", tmp_path, options("sft", model, data, tmp_path / "model"), args)
    base, merged = weights(model), weights(tmp_path / "model")
    assert base.keys() == merged.keys(), "a plain model folder"
    adapter = weights(tmp_path / "model" / "adapter", "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    low, high = (adapter[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    moved = merged[f"{name}.weight"] - base[f"{name}.weight"]
    assert abs(moved - 2.0 * high @ low).max() < 1e-5 < abs(moved).max()


@pytest.mark.slow
def test_packed_conversations_do_not_see_each_other(tmp_path: Path, model: Path, data: Path) -> None:
    """One step on the same conversations gives the same weights, packed or padded."""
    rows = (data / "conversations" / "train.jsonl").read_text().splitlines()[:4]
    few = tmp_path / "few"
    few.mkdir()
    for name in ("train", "held-out"):
        (few / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    words = [f"--input=model={model}", f"--input=dataset={few}"]
    args = COMMON | {"steps": 1, "warmup_ratio": 0.0, "max_length": 256}
    for name, own in {"padded": {"batch_rows": 4}, "packed": {"batch_rows": 1, "packing": True}}.items():
        output = f"--output=model={tmp_path / name / 'model'}"
        run("sft", tmp_path / name, [*words, output], args | own)
    assert largest_difference(tmp_path / "padded", tmp_path / "packed") < 1e-4


@pytest.mark.slow
def test_a_reward_model_knows_its_accuracy_and_its_scale(unbroken: Path) -> None:
    found = metrics(unbroken / "reward")
    assert found["accuracy_low"] <= found["accuracy"] <= found["accuracy_high"]
    assert found["pairs"] == 30 and {"margin", "accuracy_order"} <= found.keys()
    config = json.loads((unbroken / "reward" / "model" / "config.json").read_text())
    assert config["reward_deviation"] > 0 and "reward_mean" in config


@pytest.mark.slow
def test_reinforcement_raises_the_reward_at_held_out_prompts(unbroken: Path) -> None:
    report = json.loads((unbroken / "rlhf" / "model" / "comparison.json").read_text())
    assert [look["step"] for look in report["looks"]] == [0, 4, 8]
    numbers = report["numbers"]
    assert numbers["reward_low"] <= numbers["reward"] <= numbers["reward_high"]
    assert {"win_reward", "win_form", "before_form_correct", "variety"} <= numbers.keys()
    assert any(sample["answer"] != sample["before"] for sample in report["samples"])


@pytest.mark.slow
def test_a_reward_that_is_hacked_is_stopped_and_the_weights_from_before_are_handed_on(
    tmp_path: Path, model: Path, data: Path, unbroken: Path
) -> None:
    """RLOO with the learnt reward, and one for saying the same thing over and over."""
    words = [*options("rlhf", model, data, tmp_path / "model")]
    words.append(f"--input=reward_model={unbroken / 'reward' / 'model'}")
    args = COMMON | STAGES["rlhf"] | {"algorithm": "rloo", "steps": 60, "eval_every": 4, "kl": 0.0}
    args |= {"rewards": {"distinct": -5.0, "model": 0.01}, "learning_rate": 2e-2, "watch_tolerance": 0.1}
    found = run("rlhf", tmp_path, words, args)
    assert abs(found["before_model"]) < 1.5, "in deviations from the mean of held-out answers"
    assert found["best_step"] < found["parted_at_step"] < 60
    looks = json.loads((tmp_path / "model" / "comparison.json").read_text())["looks"]
    assert looks[-1]["variety"] < 0.9 * looks[0]["variety"]
    assert found["variety"] > looks[-1]["variety"] + 0.1


@pytest.mark.slow
def test_two_ranks_with_shards_learn_what_one_learns(
    tmp_path: Path, model: Path, data: Path, unbroken: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    args = COMMON | STAGES["sft"] | {"sharding": "fsdp"}
    words = options("sft", model, data, tmp_path / "model")
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        start("sft", tmp_path / rank, words, args, RANK=rank, LOCAL_RANK=rank, **meeting)
        for rank in ("0", "1")
    ]
    for rank, process in enumerate(ranks):
        process.join(300)
        process.kill()
        assert process.exitcode == 0, (tmp_path / f"{rank}" / "log").read_text()[-4000:]
    one = metrics(unbroken / "sft")["val_loss"]
    assert metrics(tmp_path / "0")["val_loss"] == pytest.approx(one, abs=SHARDED_TOLERANCE)
    folder = tmp_path / "model"
    assert weights(folder).keys() >= weights(unbroken / "sft" / "model").keys(), "whole, on one rank"
    assert "distributed" not in (folder / "config.json").read_text(), "others can read it alone"


@pytest.mark.slow
def test_the_commands_of_the_tutorials_run(tmp_path: Path, model: Path, data: Path) -> None:
    """Each as it is printed, one after another in one folder, but for sizes."""
    small = {"steps": 2, "batch_rows": 8, "eval_rows": 8}
    smaller = {"rlhf": {"group": 4, "measure_rows": 8, "max_new_tokens": 8}}
    (tmp_path / "base").symlink_to(model)
    (tmp_path / "align").symlink_to(data)
    pages = [EXAMPLES.parent / "docs" / "tutorial" / f"{name}.md" for name in PAGES]
    typed = [line for page in pages for line in page.read_text("utf-8").splitlines() if line.startswith("$ ")]
    assert len(typed) == 5
    for line in map(shlex.split, typed):
        stage = line[3].removeprefix("suan.recipes.")
        sets = small | smaller.get(stage, {})
        run(stage, tmp_path, [*line[4:], *(f"--set={key}={value}" for key, value in sets.items())], {})
    assert (tmp_path / "sft-lora" / "adapter").is_dir() and (tmp_path / "poet" / "comparison.json").exists()


def test_data_that_do_not_fit_are_refused(tmp_path: Path, model: Path, data: Path) -> None:
    process = start("sft", tmp_path, options("sft", model, tmp_path, tmp_path / "model"), {})
    process.join(120)
    assert process.exitcode == 2 and "no_dataset" in (tmp_path / "log").read_text()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.jsonl").write_text('{"text": "…"}\n')
    words = [f"--input=model={model}", f"--input=dataset={tmp_path / 'bad'}", f"--output=model={tmp_path}"]
    process = start("sft", tmp_path, words, {})
    process.join(120)
    assert process.exitcode == 2 and "has no messages" in (tmp_path / "log").read_text()
