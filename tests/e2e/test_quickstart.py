"""The quickstart as a person starts it, with the tiny pipeline: interrupted, resumed, killed at, finished.

Real processes, a real model. Slow: a model is trained and served.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suan.doors.cli import process as processes

ROOT = Path(__file__).parents[2]
PATIENCE_S = 420.0  # two cores, shared with the rest of the suite
NAMES = ("grid", "east", "west")
BATCH = ("corpus", "tokenizer", "pretrain", "alignment", "sft", "reward", "rlhf", "evaluate", "quantise")


class Driver:
    """One start of the quickstart, its output in a file."""

    def __init__(self, state: Path, log: Path, *options: str) -> None:
        self._log = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SUAN_")}
        environment |= {"OMP_NUM_THREADS": "1", "HOME": str(state.parent)}
        pipeline = ("--pipeline", "examples/poet/tiny-life.yaml")
        command = [sys.executable, "-m", "suan.doors.cli.quickstart", *pipeline]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [*command, "--state", str(state), *options],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def until(self, pattern: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.said):
            assert self.process.poll() is None, f"it ended without {pattern!r}:\n{self.said}"
            assert time.monotonic() < deadline_s, f"waited in vain for {pattern!r}:\n{self.said}"
            time.sleep(0.05)

    def end(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "quickstart"
    yield folder
    for process in running(folder):  # only after a failed test
        process.signal(signal.SIGKILL)


def running(state: Path) -> list[processes.Process]:
    """Everything of this quickstart that runs: grid, agents, and whatever runs at the sites."""
    noted = [processes.load(state / f"{name}.process.json") for name in NAMES]
    return [process for process in noted if process is not None and process.alive] + processes.left_in(state)


def kill(state: Path, name: str) -> None:
    process = processes.load(state / f"{name}.process.json")
    assert process is not None and process.alive
    process.signal(signal.SIGKILL)


def check(summary: dict[str, Any]) -> None:
    stages = {stage["stage"]: stage for stage in summary["stages"]}
    assert list(stages) == [*BATCH, "serve"]
    for name, stage in stages.items():
        assert stage["phase"] == ("stopped" if name == "serve" else "succeeded")
        assert stage["site"] in ("east", "west") and stage["seconds"] >= 0
    for total, value in summary["totals"].items():
        assert value == pytest.approx(sum(stage[total] for stage in summary["stages"])), total
    assert summary["totals"]["cost_microyuan"] > 0 and summary["totals"]["kwh"] > 0
    trained = stages["pretrain"]["metrics"]
    assert trained["val_loss"] < trained["first_val_loss"]
    assert all(output.endswith("@1") for stage in stages.values() for output in stage["outputs"].values())
    assert summary["poem"]


@pytest.mark.slow
def test_a_models_life_survives_ctrl_c_and_kills_and_ends_with_a_bill(state: Path, tmp_path: Path) -> None:
    first = Driver(state, tmp_path / "first.log")
    first.until(r"pretrain at \w+: train")
    first.process.send_signal(signal.SIGINT)
    assert first.end() == 130, first.said
    assert "nothing is left running" in first.said and "Traceback" not in first.said
    assert running(state) == []
    assert not (state / "summary.json").exists()

    second = Driver(state, tmp_path / "second.log", "--resume")
    second.until(r"pretrain: placed at")
    for name in NAMES:
        kill(state, name)
        second.until("the grid has died" if name == "grid" else f"the agent of {name} has died")
    assert second.end() == 0, second.said
    assert running(state) == []
    summary = json.loads((state / "summary.json").read_text())
    check(summary)
    assert summary["restarts"] == len(NAMES)
    said = first.said + second.said
    for stage in (*BATCH, "serve"):
        assert f"{stage}: considered bids" in said
        assert said.index(f"{stage}: considered bids") < said.index(
            f"{stage}: succeeded" if stage != "serve" else "serve: answers"
        )
    for word in (
        "total CNY",
        "val_loss",
        "tokens/s",
        "ETA",
        "the lines add up",
        "modelled",
        "moved",
        "served: ",
        "next",
    ):
        assert word in said, word
    assert summary["poem"] in second.said

    before = (state / "logs" / "grid.log").stat().st_size
    third = Driver(state, tmp_path / "third.log", "--resume")
    assert third.end() == 0
    assert "finished before" in third.said
    assert (state / "logs" / "grid.log").stat().st_size == before, "a grid was started for nothing"
    assert json.loads((state / "summary.json").read_text()) == summary


def test_a_folder_of_somebody_else_is_left_alone(state: Path, tmp_path: Path) -> None:
    state.mkdir()
    (state / "thesis.txt").write_text("mine")
    driver = Driver(state, tmp_path / "log", "--fresh")
    assert driver.end() == 2
    assert "is not the quickstart's" in driver.said
    assert (state / "thesis.txt").read_text() == "mine"
    assert running(state) == []


def test_a_wrong_pipeline_is_refused_before_anything_starts(state: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nrecipe: pretrian\n")
    driver = Driver(state, tmp_path / "log", "--pipeline", str(wrong))
    assert driver.end() == 2
    assert "did you mean pretrain" in driver.said
    assert not (state / "logs").exists()
