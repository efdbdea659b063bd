"""A tiny corpus, tokenizer and model, made once a test process by the stages themselves."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_stages import EXAMPLES, TINY_MODEL, environment, stage_command

Stage = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_stage() -> Stage:
    def run(stage: str, *options: str, env: dict[str, str] | None = None, **args: Any) -> Any:
        return subprocess.run(
            stage_command(stage, [str(option) for option in options], **args),
            env=environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=400,
        )

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage) -> Path:
    """Six hundred quatrains of fives and the pages, cleaned."""
    folder = tmp_path_factory.mktemp("corpus")
    done = run_stage(
        "corpus",
        "--input",
        f"poems={EXAMPLES}/data/tang-poems",
        "--input",
        f"pages={EXAMPLES}/data/raw-pages",
        "--output",
        f"corpus={folder}",
        where={"form": ["五言绝句"]},
        max_records=600,
        valid_ratio=0.1,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    done = run_stage("tokenizer", "--input", corpus, "--output", folder, vocab_size=1024)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, run_stage: Stage, corpus: Path, tokenizer: Path
) -> Path:
    """A folder with `model`, `progress.jsonl` and `metrics.json` of one unbroken run."""
    folder = tmp_path_factory.mktemp("trained")
    env = {"SUAN_PROGRESS": str(folder / "progress.jsonl"), "SUAN_METRICS": str(folder / "metrics.json")}
    done = run_stage(
        "pretrain",
        "--input",
        f"corpus={corpus}",
        "--input",
        f"tokenizer={tokenizer}",
        "--output",
        folder / "model",
        env=env,
        **TINY_MODEL,
    )
    assert done.returncode == 0, done.stderr
    return folder
