"""The examples that are programs of their own, run as their task files say, in the environment of a run."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_stages import EXAMPLES, environment

from suan.doors.taskfile import read_tasks

NAMES = ("encoder", "vit", "pytorch", "jax")


def run_example(name: str, folder: Path, nodes: int = 1) -> dict[str, Any]:
    """Runs the example's `run` on so many nodes; the report that it wrote beside its model."""
    (task,) = read_tasks((EXAMPLES / name / "task.yaml").read_text("utf-8"), source=name, now_s=0).tasks
    work, output = folder / "work", folder / "model"
    shutil.copytree(EXAMPLES / name, work)
    output.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(nodes):
        env = environment(
            SUAN_PYTHON=sys.executable,
            SUAN_INPUT_POEMS=str(EXAMPLES / "data" / "tang-poems"),
            SUAN_OUTPUT_MODEL=str(output),
            SUAN_CHECKPOINT=str(folder / "checkpoint"),
            RANK=str(rank),
            WORLD_SIZE=str(nodes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        with (folder / f"{rank}.log").open("w") as log:
            ranks.append(
                subprocess.Popen(["bash", "-c", task.run], cwd=work, env=env, stdout=log, stderr=log)
            )
    try:
        codes = [process.wait(240) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert codes == [0] * nodes, (folder / "0.log").read_text()[-3000:]
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


@pytest.mark.parametrize("name", [*NAMES, "moe", "assistant"])
def test_task_files_are_read(name: str) -> None:
    file = EXAMPLES / name / ("task.yaml" if name in NAMES else "pipeline.yaml")
    tasks = read_tasks(file.read_text("utf-8"), source=str(file), now_s=0).tasks
    assert all(task.run and task.outputs for task in tasks)


@pytest.mark.parametrize("name", ["pytorch", "jax", "encoder", "vit"])
def test_programs_of_their_own_know_nothing_of_suan(name: str) -> None:
    program = (EXAMPLES / name / "train.py").read_text("utf-8")
    assert "import suan" not in program and "from suan" not in program and "SUAN_" not in program


@pytest.mark.slow
def test_the_encoder_learns_to_fill_in(tmp_path: Path) -> None:
    report = run_example("encoder", tmp_path)
    assert report["held_out_loss"] < report["held_out_loss_before"] - 0.5
    assert any((tmp_path / "checkpoint").glob("checkpoint-*"))


@pytest.mark.slow
def test_the_vision_transformer_paints_better_than_the_median(tmp_path: Path) -> None:
    report = run_example("vit", tmp_path)
    assert report["held_out_error"] < 0.9 * report["held_out_error_of_the_median"]


@pytest.mark.slow
def test_plain_pytorch_on_two_nodes(tmp_path: Path) -> None:
    report = run_example("pytorch", tmp_path, nodes=2)
    assert report["loss"] < report["first_loss"] - 1.0
    assert (tmp_path / "checkpoint" / "state.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="JAX is not installed: pip install jax to run examples/jax (it is no dependency of suan)",
)
def test_plain_jax(tmp_path: Path) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    report = run_example("jax", tmp_path)
    assert report["loss"] < report["first_loss"] - 1.0


@pytest.mark.slow
def test_an_assistant_from_few_samples(tmp_path: Path, trained: Path, run_stage: Any) -> None:
    """The stages of its pipeline at a small size; how well it does is on its page."""
    maker = [sys.executable, EXAMPLES / "assistant" / "make_data.py", "--output", tmp_path / "data"]
    subprocess.run([*maker, "--examples", "32"], check=True, timeout=60)
    tuned, report = tmp_path / "tuned", tmp_path / "report"
    done = run_stage(
        "sft",
        f"--input=model={trained / 'model'}",
        f"--input=dataset={tmp_path / 'data' / 'conversations'}",
        f"--output={tuned}",
        lora_rank=4,
        steps=8,
        batch_rows=8,
    )
    assert done.returncode == 0, done.stderr
    done = run_stage(
        "evaluate",
        f"--input=model={tuned}",
        f"--input=data={tmp_path / 'data' / 'exam'}",
        f"--output={report}",
        tasks=["triage"],
        shots=[0],
        documents=0,
        generations=0,
    )
    assert done.returncode == 0, done.stderr
    (row,) = [
        row for row in json.loads((report / "report.json").read_text())["rows"] if row["metric"] == "acc"
    ]
    assert (row["documents"], row["chance"]) == (64, 0.25)
