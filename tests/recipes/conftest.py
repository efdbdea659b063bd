"""A tiny corpus, tokenizer and model, made once a test process by the stages themselves."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_MODEL = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "seq_len": 64,
    "batch_rows": 8,
    "steps": 40,
    "eval_every": 20,
    "eval_rows": 16,
}

Stage = Callable[..., subprocess.CompletedProcess[str]]


def stage_command(stage: str, options: list[str], **args: Any) -> list[str]:
    sets = [text for key, value in args.items() for text in ("--set", f"{key}={json.dumps(value)}")]
    return [sys.executable, "-m", f"suan.recipes.{stage}", *options, *sets]


def environment(**extra: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SUAN_")}
    return kept | {"OMP_NUM_THREADS": "1", **extra}


@pytest.fixture(scope="session")
def run_stage() -> Stage:
    def run(stage: str, *options: str, env: dict[str, str] | None = None, **args: Any) -> Any:
        return subprocess.run(
            stage_command(stage, [str(option) for option in options], **args),
            env=environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage) -> Path:
    """Six hundred quatrains of fives and the pages, cleaned."""
    folder = tmp_path_factory.mktemp("corpus")
    done = run_stage(
        "corpus", "--input", f"poems={EXAMPLES}/data/tang-poems", "--input", f"pages={EXAMPLES}/data/raw-pages",
        "--output", f"corpus={folder}", where={"form": ["五言绝句"]}, max_records=600, valid_ratio=0.1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    done = run_stage("tokenizer", "--input", corpus, "--output", folder, vocab_size=1024)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage, corpus: Path, tokenizer: Path) -> Path:
    """A folder with `model`, `progress.jsonl` and `metrics.json` of one unbroken run."""
    folder = tmp_path_factory.mktemp("trained")
    env = {"SUAN_PROGRESS": str(folder / "progress.jsonl"), "SUAN_METRICS": str(folder / "metrics.json")}
    done = run_stage(
        "pretrain", "--input", f"corpus={corpus}", "--input", f"tokenizer={tokenizer}",
        "--output", folder / "model", env=env, **TINY_MODEL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder
