"""The examples as somebody with a fresh clone and a grid of this one machine runs them.

The lines that stand at the top of an example's file are typed as they are, and its file is run unchanged, by
real processes at a real site. The poet's are left to test_quickstart.py, which runs them so.
"""

import importlib.util
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shell import Shell
from suan.doors.taskfile import read_tasks

EXAMPLES = Path(__file__).parents[2] / "examples"
TASKS = ("encoder", "vit", "pytorch", "jax")
PIPELINES = ("moe", "assistant", "poet")
COMMAND_S = 400.0


def file_of(name: str) -> Path:
    return EXAMPLES / name / ("task.yaml" if name in TASKS else "pipeline.yaml")


def lines_of(name: str) -> list[str]:
    """What the example's file says to type."""
    return re.findall(r"^#   ((?:suan|python) .+)$", file_of(name).read_text("utf-8"), re.MULTILINE)


class Somebody(Shell):
    """Types at a grid with one site of two small nodes, in a folder where the examples are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.checkpoints: set[str] = set()  # names of files seen in a job's checkpoint while it ran
        (folder / "examples").symlink_to(EXAMPLES)

    def arrive(self) -> None:
        """Starts the grid and the site; both are ready then."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.type(f"suan up --detach --state grid --port {port}")
        self.type("suan join-token here > token")
        join = f"suan join http://127.0.0.1:{port} --site here --state site --pool cpu:CPU:2x2"
        agent_log = self.open_terminal(f"{join} --token $(cat token)")
        deadline_s = time.monotonic() + 60
        while "CPU-" not in self.type("suan sites"):  # it has said what it has
            assert time.monotonic() < deadline_s, agent_log.read_text()
            time.sleep(0.2)

    def type(self, line: str) -> str:
        """What it printed.

        Raises: AssertionError when it did not exit with 0.
        """
        typed = self.begin(line, "typed.log")
        deadline_s = time.monotonic() + COMMAND_S
        while typed.poll() is None and time.monotonic() < deadline_s:
            self.checkpoints |= {path.name for path in self.folder.glob("site/agent/checkpoints/*/*")}
            time.sleep(0.05)
        typed.kill()
        said = (self.folder / "typed.log").read_text("utf-8", "replace")
        assert typed.wait() == 0, f"$ {line}\n{said[-6000:]}"
        return said

    def run_example(self, name: str) -> None:
        for line in lines_of(name):
            self.type(line)

    def fetched(self, artifact: str) -> Path:
        folder = self.folder / re.sub(r"\W", "-", artifact)
        self.type(f"suan get {artifact} {folder}")
        return folder

    def report(self, artifact: str) -> Any:
        return json.loads((self.fetched(artifact) / "report.json").read_text("utf-8"))

    def leave(self) -> None:
        """Ctrl-C at the site, which stops its runs; then the grid."""
        killed = self.close_terminals(60)
        if (self.folder / "grid" / "grid.json").exists():
            self.type("suan down --state grid")
        assert not killed, "the agent went on after Ctrl-C"


@pytest.fixture(scope="module")
def somebody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Somebody]:
    found = Somebody(tmp_path_factory.mktemp("clone"))
    try:
        found.arrive()
        yield found
    finally:
        found.leave()


# ---------------------------------------------------------------- the files


@pytest.mark.parametrize("name", [*TASKS, *PIPELINES])
def test_each_says_how_it_is_run_and_all_of_its_tasks_can_be_read(name: str) -> None:
    assert lines_of(name)[-1] == f"suan run {file_of(name).relative_to(EXAMPLES.parent)}"
    tasks = read_tasks(file_of(name).read_text("utf-8"), source=name, now_s=0).tasks
    assert all(task.run and (task.outputs or task.replicas) for task in tasks)


@pytest.mark.parametrize("name", TASKS)
def test_programs_of_their_own_know_nothing_of_suan(name: str) -> None:
    program = (EXAMPLES / name / "train.py").read_text("utf-8")
    assert "import suan" not in program and "from suan" not in program and "SUAN_" not in program


# ---------------------------------------------------------------- the runs


@pytest.mark.slow
def test_the_encoder_learns_to_fill_in(somebody: Somebody) -> None:
    somebody.checkpoints.clear()
    somebody.run_example("encoder")
    report = somebody.report("model:encoder")
    assert report["held_out_loss"] < report["held_out_loss_before"] - 0.5
    assert any(name.startswith("checkpoint-") for name in somebody.checkpoints)


@pytest.mark.slow
def test_the_vision_transformer_paints_better_than_the_median(somebody: Somebody) -> None:
    somebody.run_example("vit")
    report = somebody.report("model:vit")
    assert report["held_out_error"] < 0.9 * report["held_out_error_of_the_median"]


@pytest.mark.slow
def test_plain_pytorch_on_one_node_and_on_two(somebody: Somebody) -> None:
    somebody.checkpoints.clear()
    somebody.run_example("pytorch")
    one = somebody.report("model:pytorch@1")
    assert one["loss"] < one["first_loss"] - 1.0
    assert "state.pt" in somebody.checkpoints

    text = file_of("pytorch").read_text("utf-8").replace("num_nodes: 1", "num_nodes: 2")
    text = text.replace("workdir: .", "workdir: examples/pytorch")
    (somebody.folder / "two-nodes.yaml").write_text(text, "utf-8")
    somebody.type("suan run two-nodes.yaml")
    two = somebody.report("model:pytorch@2")
    assert two["loss"] < two["first_loss"] - 1.0
    assert two["first_loss"] != one["first_loss"], "half of the rows were another node's"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None,
    reason="JAX is not installed, and its setup would download it: "
    ".venv/bin/pip install jax && .venv/bin/pytest tests/e2e/test_examples.py -k jax",
)
def test_plain_jax(somebody: Somebody) -> None:
    somebody.run_example("jax")
    report = somebody.report("model:jax")
    assert report["loss"] < report["first_loss"] - 1.0


@pytest.mark.slow
def test_a_mixture_of_experts_learns_and_becomes_an_assistant(somebody: Somebody) -> None:
    """The assistant's base is the mixture, too small to get much right; its page has a better one's marks."""
    somebody.run_example("moe")
    mixture = somebody.fetched("model:moe")
    assert improvement(mixture) > 2.0
    config = json.loads((mixture / "config.json").read_text("utf-8"))
    assert config["model_type"] == "qwen3_moe"
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (8, 2)

    somebody.type(f"suan put {mixture} model:poet")
    somebody.run_example("assistant")
    for name in ("before", "after"):
        rows = somebody.report(f"report:lift-{name}")["rows"]
        (row,) = [row for row in rows if row["metric"] == "acc"]
        assert (row["task"], row["documents"], row["chance"]) == ("triage", 64, 0.25)
    assert improvement(somebody.fetched("model:lift-assistant")) > 2.0
    index = json.loads((somebody.fetched("dataset:lift-index") / "suan.json").read_text("utf-8"))
    assert index["results"]["passages"] == 6


def improvement(model: Path) -> float:
    """By how much its loss on held-out text fell."""
    results = json.loads((model / "suan.json").read_text("utf-8"))["results"]
    return float(results["first_val_loss"] - results["val_loss"])
