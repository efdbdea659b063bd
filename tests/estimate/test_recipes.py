"""Recipes as questions to the performance model: what their arguments mean, and what is answered."""

from typing import Any

import msgspec
import pytest

from suan.estimate.answers import estimated
from suan.estimate.cases import Shapes
from suan.estimate.recipes import work_of
from suan.estimate.shapes import active
from suan.grid.work import Estimate, Work
from suan.recipes import recipe_args, recipe_task
from suan.recipes.pretrain.args import Args, active_parameters

LARGE: dict[str, Any] = {
    "hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate_size": 14336,
    "seq_len": 2048, "batch_rows": 256, "steps": 1000, "dtype": "bfloat16", "sharding": "fsdp",
}  # fmt: skip


def work(recipe: str, trained: dict[str, Any] | None = None, **args: Any) -> Work:
    """Of a task as the recipe writes it."""
    own = recipe_task(recipe, args).args
    model = own if trained is None else recipe_task("pretrain", trained).args
    found = work_of(recipe, own, model, {"vocab_size": 32_000})
    assert found is not None
    return found


def answer(asked: Work, kind: str = "H100-SXM", devices: int = 8, nodes: int = 1) -> Estimate:
    found = estimated(asked, kind, devices, nodes)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"hidden_size": 1024, "layers": 8, "heads": 16, "kv_heads": 16},
        {"hidden_size": 512, "heads": 8, "family": "qwen3_moe", "experts": 16, "experts_per_token": 4},
    ],
)
def test_the_shape_of_a_pretraining_is_that_of_the_model_it_builds(given: dict[str, Any]) -> None:
    args = msgspec.to_builtins(recipe_args("pretrain", given))
    asked = work_of("pretrain", args, args, None)
    assert asked is not None
    shape = Shapes.filled(1, **asked.shape)
    assert float(active(shape)[0]) == pytest.approx(active_parameters(msgspec.convert(args, Args)), rel=0.01)


def test_a_faster_kind_and_more_nodes_take_less_time() -> None:
    asked = work("pretrain", **LARGE)
    slow, fast = (answer(asked, kind, nodes=8) for kind in ("A100-80GB-SXM", "H100-SXM"))
    assert fast.run_s < 0.7 * slow.run_s
    assert answer(asked, nodes=16).run_s < 0.7 * fast.run_s
    assert fast.low_s < fast.run_s < fast.high_s
    assert fast.bound_by == "compute" and fast.why.startswith("compute-bound")


def test_the_plan_is_what_the_recipe_can_run() -> None:
    said = answer(work("pretrain", **LARGE), nodes=8)
    assert (said.plan["tp"], said.plan["pp"], said.plan["dp"], said.plan["zero_stage"]) == (1, 1, 64, 3)
    assert said.plan["micro_batch"] == 256 // 64
    free = answer(work("pretrain", **LARGE | {"sharding": "plan"}), nodes=8)
    assert free.plan["pp"] == free.plan["cp"] == 1
    assert free.run_s <= said.run_s


def test_a_model_that_does_not_fit_is_told_with_numbers() -> None:
    said = answer(work("pretrain", **LARGE | {"sharding": "ddp"}), nodes=8)
    assert not said.fits and said.least_gib > said.capacity_gib > 60
    assert answer(work("pretrain", **LARGE), kind="H200", nodes=32).fits


def test_adapters_fit_where_all_weights_do_not() -> None:
    tuning = {"steps": 100, "batch_rows": 8, "max_length": 1024, "dtype": "bfloat16"}
    whole, lora = (answer(work("sft", LARGE, **tuning, lora_rank=rank), devices=1) for rank in (0, 16))
    assert not whole.fits and lora.least_gib < 0.5 * whole.least_gib


def test_an_evaluation_takes_longer_with_more_documents() -> None:
    few, many = (answer(work("evaluate", LARGE, documents=count), devices=1) for count in (100, 1000))
    assert 20 < few.run_s < many.run_s


def test_a_service_has_a_rate_and_no_end() -> None:
    said = answer(work("serve", LARGE), devices=1)
    assert said.run_s == 0 and said.fits and "tokens/s" in said.why
    assert not answer(work("serve", LARGE), kind="T4", devices=1).fits


def test_nothing_is_said_of_what_the_model_does_not_know() -> None:
    asked = work("pretrain")
    assert estimated(asked, "CPU-x86", 8, 1) is None
    assert work_of("corpus", {}, LARGE, None) is None
    assert work_of("serve", {}, None, None) is None, "a model that nobody trained here has no known shape"


TUNING: dict[str, Any] = {"steps": 100, "batch_rows": 16, "max_length": 1024, "dtype": "bfloat16"}


def test_preferences_cost_two_answers_a_pair_and_a_reference_beside_the_policy() -> None:
    tuned = answer(work("sft", LARGE, **TUNING | {"batch_rows": 32}, sharding="fsdp"))
    scored = answer(work("reward", LARGE, **TUNING, sharding="fsdp"))
    preferred = answer(work("dpo", LARGE, **TUNING, sharding="fsdp"))
    assert scored.run_s == pytest.approx(tuned.run_s)
    assert 1.15 * tuned.run_s < preferred.run_s < 1.5 * tuned.run_s
    # 16 bits of 7.1 B weights over eight devices.
    assert preferred.least_gib - tuned.least_gib == pytest.approx(7.1e9 * 2 / 8 / 2**30, rel=0.02)
    assert "reference" in preferred.why


def test_under_adapters_the_reference_takes_time_and_no_memory() -> None:
    tuned = answer(work("sft", LARGE, **TUNING | {"batch_rows": 32}, lora_rank=16))
    preferred = answer(work("dpo", LARGE, **TUNING, lora_rank=16))
    assert preferred.run_s > 1.15 * tuned.run_s
    assert preferred.memory_gib == pytest.approx(tuned.memory_gib)


def test_reinforcement_is_mostly_writing_answers_and_ppo_trains_a_critic_too() -> None:
    given = TUNING | {"batch_rows": 64, "max_new_tokens": 256, "sharding": "fsdp"}
    grpo = answer(work("rlhf", LARGE, **given))
    longer = answer(work("rlhf", LARGE, **given | {"max_new_tokens": 512}))
    ppo = answer(work("rlhf", LARGE, **given, algorithm="ppo"))
    # `generate` cannot write a token of 32 layers in less than about 30 ms of the host.
    assert grpo.run_s > 100 * 256 * 0.03
    assert longer.run_s > 1.7 * grpo.run_s
    assert ppo.run_s > grpo.run_s and ppo.least_gib > grpo.least_gib
    assert "generate" in grpo.why and grpo.low_s < grpo.run_s < grpo.high_s and grpo.kwh > 0


def test_rewards_that_no_model_gives_need_no_judge() -> None:
    given = TUNING | {"batch_rows": 64, "max_new_tokens": 64}
    learnt, ruled = (
        answer(work("rlhf", LARGE, **given, rewards={name: 1.0}), devices=8) for name in ("model", "distinct")
    )
    assert ruled.run_s < learnt.run_s and ruled.least_gib < learnt.least_gib


def test_quantising_takes_the_disk_and_then_the_comparison() -> None:
    few, many = (answer(work("quantise", LARGE, documents=count), devices=1) for count in (16, 4096))
    # 7.1 B weights read in 16 bits and written in 8, at a gigabyte a second.
    assert few.run_s > 7.1e9 * 3 / 1e9
    assert many.run_s > few.run_s
    assert not answer(work("quantise", LARGE), kind="T4", devices=1).fits


def test_cleaning_goes_by_bytes_and_by_the_cores_its_engine_uses() -> None:
    def cleaned(megabytes: int, cores: int, **args: Any) -> Estimate:
        own = recipe_task("corpus", args).args
        asked = work_of("corpus", own, None, None, read_bytes=megabytes * 1_000_000)
        assert asked is not None
        return answer(asked, kind="CPU-x86", devices=cores)

    small, large = cleaned(100, 1), cleaned(1000, 1)
    assert 100 / 2 < small.run_s < 100 * 4
    assert large.run_s == pytest.approx(10 * small.run_s, rel=0.1)
    assert cleaned(1000, 8).run_s == pytest.approx(large.run_s), "one process is no faster on eight cores"
    assert cleaned(1000, 8, engine="daft").run_s < 0.2 * large.run_s
    assert work_of("corpus", {}, None, None) is None, "an input that is not there yet has no size"
