"""Stages besides pretraining: how they compare with the steps and servers that they are made of."""

from dataclasses import replace

import numpy as np
import pytest
from known_shapes import llama_8b

from suan.estimate.cases import Cases, Machines, Plans
from suan.estimate.outcome import estimate_training
from suan.estimate.rates import kind_index
from suan.estimate.serving import estimate_serving
from suan.estimate.serving_cases import ServingCases, serving_cases
from suan.estimate.stages import (
    Rollouts,
    adapters,
    corpus,
    corpus_passes,
    evaluation,
    fine_tuning,
    forward_s,
    generation_s,
    preference,
    quantising,
    reinforcement,
)

TOKENS = np.array([1e9])
ONE = np.array([1.0])


def training(batch: int = 128) -> Cases:
    machine = Machines.filled(1, kind=kind_index("H100-SXM"), devices=8)
    plan = Plans.filled(1, dp=8, zero_stage=3, recompute=2)
    return Cases(llama_8b(), plan, machine, np.array([4096]), np.array([batch]))


def served(**changes: object) -> ServingCases:
    columns = {
        "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256,
        "params_b": 8.03, "accel": "H100-SXM", "n_accel": 8, "tp": 1, "precision": "bf16",
        "isl": 512, "osl": 1024,
    } | changes  # fmt: skip
    return serving_cases({name: [value] for name, value in columns.items()})


def rollouts(**changes: object) -> Rollouts:
    usual = Rollouts(serving=served(), prompts=ONE * 128, samples=ONE * 8, longest_ratio=ONE * 2.0)
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_fine_tuning_is_its_steps() -> None:
    cases = training()
    got = fine_tuning(cases, TOKENS)
    steps = np.ceil(1e9 / (4096 * 128))
    assert got.seconds[0] == pytest.approx(steps * estimate_training(cases).step_time_s[0])
    assert got.device_hours[0] == pytest.approx(got.seconds[0] * 8 / 3600)
    # Half-empty sequences take as many steps again.
    assert fine_tuning(cases, TOKENS, filled_ratio=0.5).seconds[0] == pytest.approx(
        2 * got.seconds[0], rel=1e-3
    )


def test_adapters_skip_the_gradients_and_states_of_frozen_weights() -> None:
    whole, light = fine_tuning(training(), TOKENS), adapters(training(), TOKENS)
    assert 0.5 * whole.seconds[0] < light.seconds[0] < 0.9 * whole.seconds[0]
    assert light.memory_gib[0] < whole.memory_gib[0]


def test_preference_adds_a_forward_pass_and_the_reference_beside_the_policy() -> None:
    cases = training()
    step = estimate_training(cases).parts
    got, before = preference(cases, ONE * 6400), preference(cases, ONE * 6400, reference_before=True)
    assert got.seconds[0] == pytest.approx(100 * (step.total_s[0] + forward_s(step)[0]))
    # 16 bits of 8 B over eight devices.
    assert got.memory_gib[0] - before.memory_gib[0] == pytest.approx(8.03e9 * 2 / 8 / 2**30, rel=0.02)


def test_generation_takes_what_the_server_takes_and_the_longest_answers_more() -> None:
    even, uneven = generation_s(rollouts(longest_ratio=ONE)), generation_s(rollouts())
    per_s = estimate_serving(served()).requests_per_s
    assert even[0] == pytest.approx(1024 / per_s[0])
    assert uneven[0] > even[0]


def test_a_policy_step_generates_scores_and_trains_one_after_the_other() -> None:
    cases = training()
    got = reinforcement(cases, rollouts(), ONE * 10, scorers=(cases,))
    assert set(got.parts_s) == {"train", "score", "generate", "move weights"}
    assert got.seconds[0] == pytest.approx(sum(part[0] for part in got.parts_s.values()))
    assert got.kwh[0] > 0


def test_a_critic_costs_time_and_memory() -> None:
    cases = training()
    grpo = reinforcement(cases, rollouts(), ONE, scorers=(cases,))
    ppo = reinforcement(cases, rollouts(), ONE, scorers=(cases,), critic=cases)
    assert ppo.seconds[0] > grpo.seconds[0]
    assert ppo.memory_gib[0] > grpo.memory_gib[0]


def test_apart_the_slower_side_is_the_pace_on_both_sides_devices() -> None:
    cases = training()
    together = reinforcement(cases, rollouts(), ONE)
    apart = reinforcement(cases, rollouts(apart=True), ONE)
    assert 0.5 * together.seconds[0] <= apart.seconds[0] < together.seconds[0]
    assert apart.devices[0] == 16


def test_reading_choices_is_cheaper_than_writing_answers() -> None:
    cases = served(osl=512)
    written = evaluation(cases, ONE * 10_000)
    read = evaluation(cases, ONE * 10_000, choices=4.0)
    assert 0 < read.seconds[0] < written.seconds[0]
    assert written.kwh[0] > 0


def test_corpus_passes_add_up_and_share_out_over_cores() -> None:
    megabytes = ONE * 1e6
    one = corpus(megabytes, ("clean", "near_duplicates"), ONE)
    many = corpus(megabytes, ("clean", "near_duplicates"), ONE * 64)
    assert one.seconds[0] == pytest.approx((1e6 / 50 + 1e6 / 22) / 0.9)
    assert many.seconds[0] == pytest.approx(one.seconds[0] / 64)
    assert many.device_hours[0] == pytest.approx(one.device_hours[0])
    assert {"clean", "filter", "language"} <= set(corpus_passes())


def test_rounding_is_as_quick_as_the_disk_and_calibrating_is_not() -> None:
    params = ONE * 70e9
    chip = {"peak_tflops": ONE * 312.0, "tdp_w": ONE * 400.0}
    rounded = quantising(params, bits=4, **chip, calibrated=False, disk_gb_per_s=2.0)
    solved = quantising(params, bits=4, **chip, disk_gb_per_s=2.0)
    assert rounded.seconds[0] == pytest.approx(70e9 * 2.5 / 2e9)
    assert solved.seconds[0] > 10 * rounded.seconds[0]
    assert solved.kwh[0] > 10 * rounded.kwh[0]
