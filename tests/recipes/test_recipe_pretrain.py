"""Pretraining on one rank and on two: every family and layout; checkpoints that go from one to another."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_stages import environment

from suan.grid.error import Refused
from suan.recipes.pretrain.args import Args, active_parameters, lr_ratio
from suan.recipes.pretrain.layout import layout_of
from suan.recipes.pretrain.trainer import Trainer

DENSE = {
    "hidden_size": 32,
    "layers": 2,
    "heads": 2,
    "kv_heads": 2,
    "seq_len": 64,
    "batch_rows": 8,
    "steps": 6,
    "eval_rows": 16,
    "warmup_ratio": 0.2,
}
MIXTURE = DENSE | {"family": "qwen3_moe", "experts": 4, "experts_per_token": 2, "expert_size": 32}
LAYOUTS = {
    "fsdp": {"fsdp_size": 2},
    "copies": {"sharding": "ddp"},
    "tp": {"tp_size": 2},
    "ep": {"ep_size": 2},
    "tp_ep": {"tp_size": 2, "ep_size": 2},
    "hsdp": {"fsdp_size": 2, "dp_replicate_size": 2},
}
MESHES = {
    "fsdp": {"fsdp"},
    "copies": {"dp_replicate+fsdp"},
    "tp": {"tp", "whole"},
    "ep": {"fsdp", "efsdp+ep"},
    "tp_ep": {"tp", "ep", "whole"},
    "hsdp": {"dp_replicate+fsdp"},
}
# Nats a token after a handful of steps. Only the order of sums differs; but for the loss that spreads tokens
# over experts, which is a product of means over the rows that a rank sees.
DENSE_TOLERANCE, MIXTURE_TOLERANCE = 2e-5, 5e-4


class Runs:
    """Plans run in one group of ranks each; what each saw, by name."""

    def __init__(self, folder: Path, corpus: Path, tokenizer: Path) -> None:
        self.folder = folder
        self._inputs = {"corpus": str(corpus), "tokenizer": str(tokenizer)}

    def plan(self, name: str, args: dict[str, Any], **more: Any) -> dict[str, Any]:
        inputs = self._inputs | more.pop("inputs", {})
        if "checkpoint" in more:
            more["checkpoint"] = str(self.folder / more["checkpoint"])
            Path(more["checkpoint"]).mkdir(exist_ok=True)
        return {"name": name, "args": args, "inputs": inputs, **more}

    def run(self, ranks: int, *plans: dict[str, Any]) -> None:
        file = self.folder / "plans.json"
        file.write_text(json.dumps(plans))
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        script = [str(Path(__file__).with_name("pretrain_ranks.py")), str(file)]
        command = [sys.executable, *(torchrun if ranks > 1 else []), *script]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr[-4000:]

    def __getitem__(self, name: str) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return seen


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path, tokenizer: Path) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"), corpus, tokenizer)
    plan, short = runs.plan, {"steps": 2}
    families = ("llama", "mixtral", "olmoe", "deepseek_v3")
    runs.run(
        1,
        plan("dense", DENSE),
        plan("mixture", MIXTURE),
        plan("frugal", DENSE | {"loss": "plain", "activation_checkpointing": True, "micro_rows": 2}),
        plan("apart", DENSE | short | {"document_mask": True}),
        plan("compiled", DENSE | short | {"compile": True}),
        plan("bfloat16", DENSE | {"dtype": "bfloat16"}),
        plan("broken", DENSE, broken_at=2),
        plan("half", DENSE, until=3, checkpoint="from-1"),
        plan("mixture half", MIXTURE, until=3, checkpoint="mixture-from-1"),
        plan("llama", DENSE | short | {"family": "llama"}, export=True),
        *(plan(name, MIXTURE | short | {"family": name}, export=True) for name in families[1:]),
        plan("continued", DENSE | short | {"family": "llama"}, inputs={"model": str(runs.folder / "llama")}),
        plan("configured", DENSE | short, inputs={"config": str(runs.folder / "olmoe")}),
    )
    runs.run(
        2,
        *(plan(f"dense-{name}", DENSE | LAYOUTS[name]) for name in ("fsdp", "copies", "tp")),
        *(plan(f"mixture-{name}", MIXTURE | LAYOUTS[name]) for name in ("fsdp", "ep", "tp", "tp_ep")),
        plan("deepseek-ep", MIXTURE | short | LAYOUTS["ep"] | {"family": "deepseek_v3"}),
        plan("from 1 to tp", DENSE | LAYOUTS["tp"], checkpoint="from-1"),
        plan("from 1 to ep", MIXTURE | LAYOUTS["ep"], checkpoint="mixture-from-1"),
        plan("fsdp half", DENSE, until=3, checkpoint="from-fsdp"),
        plan("ep third", MIXTURE | LAYOUTS["ep"], until=2, checkpoint="from-ep"),
        plan("ep whole", MIXTURE | short | LAYOUTS["ep"], export=True),
    )
    runs.run(4, plan("dense-hsdp", DENSE | LAYOUTS["hsdp"]))
    runs.run(
        1,
        plan("from fsdp to 1", DENSE, checkpoint="from-fsdp"),
        plan("from ep to 1", MIXTURE, checkpoint="from-ep"),
    )
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense-fsdp", "dense-copies", "dense-tp", "dense-hsdp"])
def test_several_ranks_learn_what_one_learns(runs: Runs, name: str) -> None:
    assert runs[name]["losses"] == pytest.approx(runs["dense"]["losses"], abs=DENSE_TOLERANCE)
    assert runs[name]["norms"] == pytest.approx(runs["dense"]["norms"], rel=1e-4)
    assert runs[name]["val_loss"] == pytest.approx(runs["dense"]["val_loss"], abs=DENSE_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixture-fsdp", "mixture-ep", "mixture-tp", "mixture-tp_ep"])
def test_two_ranks_spread_experts_and_learn_the_same(runs: Runs, name: str) -> None:
    assert runs[name]["losses"] == pytest.approx(runs["mixture"]["losses"], abs=MIXTURE_TOLERANCE)
    assert runs[name]["norms"] == pytest.approx(runs["mixture"]["norms"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(f"dense-{name}" for name in ("fsdp", "copies", "tp", "hsdp")),
        *(f"mixture-{name}" for name in ("fsdp", "ep", "tp_ep")),
    ],
)
def test_weights_are_really_spread(runs: Runs, name: str) -> None:
    seen, layout = runs[name], name.partition("-")[2]
    assert set(seen["meshes"]) == MESHES[layout]
    part = 1.0 if layout == "copies" else 0.5
    assert seen["local"] == pytest.approx(part * seen["parameters"], rel=0.04)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "whole", "begun_at", "tolerance"),
    [
        ("from 1 to tp", "dense", 3, DENSE_TOLERANCE),
        ("from fsdp to 1", "dense", 3, DENSE_TOLERANCE),
        ("from ep to 1", "mixture", 2, MIXTURE_TOLERANCE),
        ("from 1 to ep", "mixture", 3, MIXTURE_TOLERANCE),
    ],
)
def test_a_checkpoint_goes_on_in_another_layout(
    runs: Runs, name: str, whole: str, begun_at: int, tolerance: float
) -> None:
    seen = runs[name]
    assert seen["begun_at"] == begun_at
    expected = runs[whole]["losses"][begun_at : begun_at + len(seen["losses"])]
    assert seen["losses"] == pytest.approx(expected, abs=tolerance)


@pytest.mark.slow
def test_what_saves_memory_changes_nothing_that_is_learnt(runs: Runs) -> None:
    assert runs["frugal"]["losses"] == pytest.approx(runs["dense"]["losses"], abs=DENSE_TOLERANCE)
    assert runs["bfloat16"]["val_loss"] == pytest.approx(runs["dense"]["val_loss"], abs=0.05)
    assert runs["apart"]["losses"] != pytest.approx(runs["dense"]["losses"][:2], abs=1e-4)


@pytest.mark.slow
def test_compiled_blocks_learn_what_others_learn(runs: Runs) -> None:
    assert runs["compiled"]["losses"] == pytest.approx(runs["dense"]["losses"][:2], abs=DENSE_TOLERANCE)


@pytest.mark.slow
def test_a_batch_that_breaks_is_left_out_and_counted(runs: Runs) -> None:
    assert runs["broken"]["moved"] is False and runs["broken"]["skipped"] == 1
    assert len(runs["broken"]["losses"]) == 5 and all(map(math.isfinite, runs["broken"]["losses"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "mixtral", "olmoe", "deepseek_v3", "ep whole"])
def test_every_family_is_saved_as_transformers_reads_it(runs: Runs, name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(runs.folder / name, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.num_parameters() == runs[name]["parameters"]
    with torch.no_grad():
        loss = model(input_ids=torch.arange(40)[None], labels=torch.arange(40)[None]).loss
    assert math.isfinite(float(loss))
    assert "pretrain" in (runs.folder / name / "README.md").read_text()


@pytest.mark.slow
def test_training_goes_on_from_a_model_and_begins_from_a_config(runs: Runs) -> None:
    assert runs["continued"]["losses"][0] < runs["llama"]["losses"][0]
    assert runs["configured"]["losses"] == pytest.approx(runs["olmoe"]["losses"], abs=DENSE_TOLERANCE)


# ---------------------------------------------------------------- decisions


def test_a_plan_of_the_grid_becomes_a_layout() -> None:
    plan = {
        "tp": 2,
        "ep": 4,
        "dp": 4,
        "pp": 1,
        "cp": 1,
        "zero_stage": 3,
        "micro_batch": 2,
        "recompute": "full",
    }
    layout = layout_of(Args(batch_rows=16), 8, plan)
    assert (layout.tp, layout.ep, layout.fsdp, layout.dp_replicate) == (2, 4, 4, 1)
    assert layout.micro_rows == 2 and layout.recompute
    assert layout_of(Args(batch_rows=16, tp_size=1, sharding="fsdp"), 8, plan).fsdp == 8
    assert layout_of(Args(batch_rows=16), 8, {"zero_stage": 0}).dp_replicate == 8
    assert layout_of(Args(batch_rows=16, dp_replicate_size=2), 8, {}).fsdp == 4


@pytest.mark.parametrize(
    ("args", "ranks", "what"),
    [
        ({"tp_size": 3}, 4, "is not the 4 ranks"),
        ({"fsdp_size": 8}, 4, "is not the 4 ranks"),
        ({"ep_size": 3}, 4, "ep 3"),
        ({"batch_rows": 6}, 4, "batch_rows 6"),
    ],
)
def test_layouts_that_cannot_be_are_refused(args: dict[str, int], ranks: int, what: str) -> None:
    with pytest.raises(Refused, match=what):
        layout_of(Args(**args), ranks, {})


def test_pipelines_are_refused_and_not_ignored() -> None:
    with pytest.raises(Refused, match="pp 2"):
        layout_of(Args(), 4, {"pp": 2})


def test_schedules_warm_up_stay_and_fall() -> None:
    stable = Args(schedule="wsd", steps=100, warmup_ratio=0.1, decay_ratio=0.5, min_lr_ratio=0.1)
    ratios = [lr_ratio(step, stable) for step in range(101)]
    assert ratios[0] == 0.1 and ratios[10:55] == [1.0] * 45
    assert ratios[78] == pytest.approx(0.5, abs=0.05) and ratios[100] == pytest.approx(0.1)
    cosine = [lr_ratio(step, Args(steps=100)) for step in range(101)]
    assert max(cosine) == 1.0 and cosine[100] == pytest.approx(0.05) and cosine[60] < cosine[40]


def test_a_leap_of_the_loss_is_seen_and_a_lasting_change_is_followed() -> None:
    watch: Any = SimpleNamespace(
        args=Args(spike_sigma=6.0), numbers={"step": 0, "loss_mean": 0.0, "loss_variance": 0.0}
    )

    def leaps(loss: float) -> bool:
        seen = Trainer._leaps(watch, loss)
        watch.numbers["step"] += 1
        return seen

    assert not any(leaps(4.0 - step / 100 + 0.05 * (-1) ** step) for step in range(100))
    assert leaps(9.0) and leaps(math.nan) and not leaps(3.0)
    assert not all(leaps(6.0) for _ in range(60))


def test_of_a_mixture_only_the_experts_that_are_used_count() -> None:
    dense = active_parameters(Args(intermediate_size=256))
    args = Args(family="qwen3_moe", experts=8, experts_per_token=2, expert_size=128)
    assert active_parameters(args) == dense
