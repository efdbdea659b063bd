"""Stages as processes of their own, forked from one that has imported torch and TRL once: a stage then starts
in a fraction of a second, and can still be killed by its pid.
"""

import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tiny_stages import environment

# Read once, when the libraries are imported.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
PRELOAD = ["torch", "trl.trainer.sft_trainer", "trl.trainer.grpo_trainer", "trl.trainer.dpo_trainer"]
PRELOAD += ["trl.trainer.reward_trainer", "trl.trainer.rloo_trainer", "peft", "datasets"]

_forks = multiprocessing.get_context("forkserver")


def start(stage: str, folder: Path, options: list[str], args: dict[str, Any], **env: str) -> BaseProcess:
    """The running stage, at work in `folder`, which gets `progress.jsonl`, `metrics.json` and `log`."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"SUAN_PROGRESS": str(folder / "progress.jsonl"), "SUAN_METRICS": str(folder / "metrics.json")}
    whole = environment(**OFFLINE, SUAN_ARGS=json.dumps(args), **own, **env)
    os.environ |= OFFLINE  # the server is started by the first call
    _forks.set_forkserver_preload(PRELOAD)
    process = _forks.Process(target=_run, args=(stage, options, whole, str(folder)))
    process.start()
    return process


def run(stage: str, folder: Path, options: list[str], args: dict[str, Any], **env: str) -> dict[str, float]:
    """The metrics of a stage that succeeds."""
    process = start(stage, folder, options, args, **env)
    process.join(300)  # many times what it takes: the cores may be anyone's
    process.kill()
    assert process.exitcode == 0, (folder / "log").read_text()[-4000:]
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return metrics


def call(function: Callable[[str], None], argument: str) -> None:
    """Runs a function of a test module there, so that its caller need not import what it imports."""
    process = _forks.Process(target=function, args=(argument,))
    process.start()
    process.join(300)
    process.kill()
    assert process.exitcode == 0


def _run(stage: str, options: list[str], env: dict[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = [stage, *options]
    descriptor = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(importlib.import_module(f"suan.recipes.{stage}").main())
