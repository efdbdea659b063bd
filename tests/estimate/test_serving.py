"""Serving estimates: measured rows they must come near, and what must hold for any model, chip and load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suan.estimate.serving import BOUND_BY, ServingEstimate, estimate_serving, replicas_needed
from suan.estimate.serving_cases import WEIGHT_BYTES, ServingCases, served_on, serving_cases
from suan.estimate.serving_residual import serving_residual
from suan.grid.error import Refused

GROUPED = {"heads": 32, "kv_heads": 8, "ffn": 14336, "layers": 32, "hidden": 4096}
LLAMA_8B = GROUPED | {"vocab": 128256, "params_b": 8.03}
MIXTRAL = GROUPED | {"vocab": 32000, "params_b": 46.7, "active_params_b": 12.9, "n_experts": 8, "topk": 2}
LLAMA_70B = GROUPED | {
    "layers": 80, "hidden": 8192, "heads": 64, "ffn": 28672, "vocab": 128256, "params_b": 70.55,
}  # fmt: skip
LLAMA_405B = GROUPED | {
    "layers": 126, "hidden": 16384, "heads": 128, "ffn": 53248, "vocab": 128256, "params_b": 405.85,
}  # fmt: skip
DEEPSEEK = {
    "layers": 61, "hidden": 7168, "heads": 128, "kv_heads": 128, "ffn": 18432, "vocab": 129280,
    "params_b": 671, "active_params_b": 37, "n_experts": 256, "topk": 8,
}  # fmt: skip


def case(model: dict[str, object], accel: str, **rest: object) -> ServingCases:
    return serving_cases({name: [value] for name, value in (model | {"accel": accel} | rest).items()})


def estimate(model: dict[str, object], accel: str, **rest: object) -> ServingEstimate:
    return estimate_serving(case(model, accel, **rest), residual=serving_residual())


# Source: NVIDIA/TensorRT-LLM performance pages (Apache-2.0): 0.17, 0.6.1 and 1.2. Output tokens a second.
PUBLISHED = [
    (
        LLAMA_70B,
        "H100-SXM-80",
        {"n_accel": 2, "tp": 2, "precision": "fp8", "isl": 1000, "osl": 1000},
        4390.53,
    ),
    (LLAMA_70B, "A100-SXM-80", {"n_accel": 4, "tp": 4, "precision": "fp16", "isl": 128, "osl": 128}, 2733.48),
    (LLAMA_8B, "L40S", {"n_accel": 1, "tp": 1, "precision": "fp8", "isl": 500, "osl": 2000}, 4273.75),
    (
        LLAMA_405B,
        "H200-SXM-141",
        {"n_accel": 8, "tp": 8, "precision": "fp8", "isl": 1000, "osl": 1000},
        3399.69,
    ),
    (MIXTRAL, "H100-SXM-80", {"n_accel": 2, "tp": 2, "precision": "fp8", "isl": 500, "osl": 2000}, 17036.04),
    (LLAMA_70B, "B200", {"n_accel": 1, "tp": 1, "precision": "fp4", "isl": 1000, "osl": 1000}, 6920.0),
]


@pytest.mark.parametrize(("model", "accel", "rest", "tokens_per_s"), PUBLISHED)
def test_published_throughput_is_inside_the_interval(
    model: dict[str, object], accel: str, rest: dict[str, object], tokens_per_s: float
) -> None:
    got = estimate(model, accel, scenario="offline", **rest)
    assert got.tokens_per_s_low[0] < tokens_per_s < got.tokens_per_s_high[0]
    assert got.tokens_per_s[0] == pytest.approx(tokens_per_s, rel=0.3)
    assert got.tokens_per_s_per_accel[0] == pytest.approx(got.tokens_per_s[0] / float(str(rest["n_accel"])))


# Source: TensorRT-LLM 0.14 online tables and 0.5 first-token tables (Apache-2.0): (first token, between), ms.
TIMED = [
    (LLAMA_8B, "H200-SXM-141", {"tp": 1, "isl": 467, "osl": 256, "req_rate": 8}, 24.0, 7.0),
    (LLAMA_70B, "H200-SXM-141", {"n_accel": 4, "tp": 4, "isl": 202, "osl": 214, "req_rate": 4}, 46.0, 18.0),
]


@pytest.mark.parametrize(("model", "accel", "rest", "ttft_ms", "itl_ms"), TIMED)
def test_published_latencies_under_a_light_load(
    model: dict[str, object], accel: str, rest: dict[str, object], ttft_ms: float, itl_ms: float
) -> None:
    got = estimate(model, accel, precision="bf16", scenario="online-poisson", **rest)
    assert got.ttft_ms[0] == pytest.approx(ttft_ms, rel=0.4)
    assert got.itl_ms[0] == pytest.approx(itl_ms, rel=0.3)
    assert got.ttft_p99_ms[0] > got.ttft_ms[0]


def test_what_does_not_fit_is_said_and_has_no_throughput() -> None:
    got = estimate(LLAMA_405B, "A100-80GB", n_accel=1, tp=1, precision="fp16", isl=128, osl=128)
    assert not got.fits[0]
    assert got.tokens_per_s[0] == 0.0
    assert np.isnan(estimate(LLAMA_405B, "L4", scenario="server", req_rate=1.0).itl_ms[0])


def test_a_missing_layout_is_chosen_so_that_the_weights_fit() -> None:
    got = estimate(LLAMA_405B, "H200-SXM-141", n_accel=8, precision="fp8", isl=1000, osl=1000)
    assert got.fits[0]
    assert got.tensor_parallel[0] >= 4
    small = estimate(LLAMA_8B, "H200-SXM-141", n_accel=8, precision="fp8", isl=1000, osl=1000)
    assert (small.tensor_parallel[0], small.replicas[0]) == (1, 8)


def test_keys_and_values_of_grouped_heads_in_eight_bits() -> None:
    # 80 layers x 2 x 8 heads x 128 x 1 byte = 163,840 bytes a token.
    got = estimate(LLAMA_70B, "H200-SXM-141", tp=1, precision="fp8", isl=128, osl=128)
    free_gib = 141 * 0.97 - 70.55e9 * 1.0 / 2**30
    assert got.kv_capacity_tokens[0] == pytest.approx(free_gib * 2**30 / 163840, rel=0.15)


def test_latent_attention_is_told_from_the_columns_and_keeps_little() -> None:
    cases = case(DEEPSEEK, "B200", n_accel=8, tp=8, precision="fp4", isl=1000, osl=1000)
    assert cases.kv_values[0] == 576
    assert cases.expert_params[0] == pytest.approx(654e9, rel=0.01)


def test_heads_wider_than_hidden_over_heads_are_told_from_the_parameters() -> None:
    # Qwen3 30B-A3B: hidden 2048, 32 heads of 128.
    qwen = {
        "layers": 48, "hidden": 2048, "heads": 32, "kv_heads": 4, "ffn": 768, "vocab": 151936,
        "params_b": 30.5, "active_params_b": 3.3, "n_experts": 128, "topk": 8,
    }  # fmt: skip
    assert case(qwen, "B200").head_dim[0] == 128


def test_sparse_models_serve_faster_than_dense_ones_of_their_size() -> None:
    load = {"n_accel": 2, "tp": 2, "precision": "fp8", "isl": 500, "osl": 500}
    dense = LLAMA_70B | {"params_b": 46.7}
    assert (
        estimate(MIXTRAL, "H100-SXM", **load).tokens_per_s[0]
        > 1.5 * estimate(dense, "H100-SXM", **load).tokens_per_s[0]
    )


@pytest.mark.parametrize(
    ("isl", "osl", "bound"), [(20000, 10, ("compute", "attention")), (16, 2000, ("memory",))]
)
def test_long_prompts_are_bound_by_arithmetic_and_long_answers_by_memory(
    isl: int, osl: int, bound: tuple[str, ...]
) -> None:
    got = estimate(LLAMA_70B, "H100-SXM", n_accel=4, tp=4, precision="bf16", isl=isl, osl=osl)
    assert BOUND_BY[int(got.bound_by[0])] in bound


def test_a_stream_below_capacity_is_served_as_it_comes_and_above_it_is_not() -> None:
    load = {"n_accel": 1, "tp": 1, "precision": "bf16", "isl": 500, "osl": 200, "scenario": "server"}
    light, heavy = (estimate(LLAMA_8B, "H100-SXM", req_rate=rate, **load) for rate in (2.0, 2000.0))
    assert light.requests_per_s[0] == pytest.approx(2.0)
    assert heavy.requests_per_s[0] < 2000.0
    assert heavy.utilisation[0] > 1.0 > light.utilisation[0]
    assert heavy.ttft_ms[0] > light.ttft_ms[0]


def test_more_arrivals_need_more_replicas_and_no_limit_is_met_by_a_chip_too_slow() -> None:
    cases = case(LLAMA_8B, "H100-SXM", n_accel=1, tp=1, precision="bf16", isl=500, osl=200, scenario="server")
    few, many = (
        replicas_needed(cases, np.array([rate]), ttft_slo_ms=1000, itl_slo_ms=50)[0] for rate in (5.0, 200.0)
    )
    assert 1 <= few < many
    assert replicas_needed(cases, np.array([5.0]), ttft_slo_ms=1000, itl_slo_ms=1.0)[0] == 0


def test_uneven_lengths_leave_less_room_and_make_prompts_wait() -> None:
    load = {"tp": 1, "precision": "bf16", "isl": 2000, "osl": 500, "scenario": "server", "req_rate": 3}
    even, uneven = (estimate(LLAMA_8B, "H100-SXM", **load, isl_cv=cv, osl_cv=cv) for cv in (0.0, 1.5))
    assert uneven.most_sequences[0] < even.most_sequences[0]
    assert uneven.ttft_ms[0] > even.ttft_ms[0]


def test_replicas_found_are_enough_and_one_less_is_not() -> None:
    load = {"tp": 1, "precision": "bf16", "isl": 500, "osl": 200, "scenario": "server"}
    need = replicas_needed(
        case(LLAMA_8B, "H100-SXM", n_accel=1, **load), np.array([100.0]), ttft_slo_ms=500, itl_slo_ms=30
    )[0]

    def within(count: int) -> bool:
        got = estimate_serving(case(LLAMA_8B, "H100-SXM", n_accel=count, req_rate=100.0, **load))
        return bool(got.ttft_p99_ms[0] <= 500 and got.itl_p99_ms[0] <= 30 and got.utilisation[0] <= 0.85)

    assert within(int(need))
    assert not within(int(need) - 1)


def test_measured_columns_and_names_change_nothing() -> None:
    load = {
        "n_accel": 4,
        "tp": 4,
        "precision": "fp8",
        "isl": 294,
        "osl": 294,
        "scenario": "server",
        "req_rate": 20,
    }
    plain = estimate(LLAMA_70B, "H100-SXM", **load)
    measured = {
        "req_per_s": 1.0, "out_tokens_per_s": 2.0, "ttft_ms_mean": 3.0, "tpot_ms_mean": 4.0,
        "latency_s_mean": 5.0, "power_w": 6.0, "source": "x", "model": "y", "row_id": "z", "notes": "w",
    }  # fmt: skip
    told = estimate(LLAMA_70B | measured, "H100-SXM", **load)
    assert plain.tokens_per_s[0] == told.tokens_per_s[0]
    assert plain.ttft_ms[0] == told.ttft_ms[0]


def test_the_residual_can_be_switched_off_and_only_scales() -> None:
    load = {"n_accel": 4, "tp": 4, "precision": "fp8", "isl": 294, "osl": 294, "engine": "vLLM 0.9"}
    cases = case(LLAMA_70B, "MI300X", scenario="server", req_rate=10, **load)
    plain, corrected = estimate_serving(cases), estimate_serving(cases, residual=serving_residual())
    assert corrected.ttft_ms[0] > plain.ttft_ms[0]
    assert (corrected.sequences[0], corrected.fits[0]) == (plain.sequences[0], plain.fits[0])
    unknown = case(LLAMA_70B, "Ascend910B", n_accel=4, tp=4, precision="bf16", isl=294, osl=294)
    assert estimate_serving(unknown, residual=serving_residual()).tokens_per_s[0] == pytest.approx(
        estimate_serving(unknown).tokens_per_s[0]
    )


def test_how_an_engine_queues_is_not_held_against_it_where_latency_is_demanded() -> None:
    load = {"n_accel": 8, "precision": "fp8", "engine": "vLLM", "isl": 294, "osl": 294, "req_rate": 10}
    factor = {}
    for scenario in ("server", "interactive"):
        cases = case(LLAMA_70B, "MI300X", scenario=scenario, **load)
        corrected = estimate_serving(cases, residual=serving_residual())
        factor[scenario] = corrected.ttft_ms[0] / estimate_serving(cases).ttft_ms[0]
    assert factor["server"] > 1.2 and factor["interactive"] == pytest.approx(1)


def test_an_offline_wish_for_a_rate_is_not_looked_at() -> None:
    load = {"n_accel": 8, "precision": "fp8", "isl": 294, "osl": 294, "scenario": "offline"}
    wished = estimate(LLAMA_70B, "H100-SXM", req_rate=1.0, **load)
    assert wished.tokens_per_s[0] == estimate(LLAMA_70B, "H100-SXM", **load).tokens_per_s[0]


def test_a_name_with_its_memory_is_the_chip_with_that_memory() -> None:
    chip, memory_gib = served_on("GH200-96")
    assert (chip.name, memory_gib) == ("GH200", 96.0)
    assert served_on("A100-SXM-80")[0].name == "A100-80GB-SXM"


@pytest.mark.parametrize("wrong", [{"precision": "fp7"}, {"scenario": "sometimes"}, {"accel": "Abacus-9000"}])
def test_words_nobody_knows_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(Refused):
        serving_cases({name: [value] for name, value in (LLAMA_8B | {"accel": "H100-SXM"} | wrong).items()})


@pytest.mark.parametrize(
    ("word", "like"),
    [
        ("Offline", "offline"),
        ("offline-max-throughput", ""),
        ("SingleStream", "static-batch"),
        ("online-poisson?", "online"),
    ],
)
def test_ways_to_serve_are_told_by_how_their_words_begin(word: str, like: str) -> None:
    said, same = (case(LLAMA_8B, "H100-SXM", scenario=s, req_rate=2.0) for s in (word, like))
    assert said.scenario[0] == same.scenario[0]
    assert said.requests[0] == same.requests[0]


@pytest.mark.parametrize(
    ("word", "weight_bytes"), [("w4a16", 0.5625), ("FP8_BLOCK", 1.0), ("nvfp4", 0.5625), ("BF16", 2.0)]
)
def test_formats_of_weights_are_told_from_usual_spellings(word: str, weight_bytes: float) -> None:
    assert WEIGHT_BYTES[case(LLAMA_8B, "H100-SXM", precision=word).precision[0]] == weight_bytes


def test_a_thousand_cases_are_no_slower_than_a_few_and_the_same() -> None:
    columns = {
        name: [value] * 1000
        for name, value in (LLAMA_8B | {"accel": "H100-SXM", "isl": 500, "osl": 500}).items()
    }
    many = estimate_serving(serving_cases(columns))
    assert np.ptp(many.tokens_per_s) == 0.0
    assert (
        many.tokens_per_s[0] == estimate_serving(case(LLAMA_8B, "H100-SXM", isl=500, osl=500)).tokens_per_s[0]
    )


MODELS = st.sampled_from([LLAMA_8B, LLAMA_70B, MIXTRAL, DEEPSEEK])
CHIPS = st.sampled_from(["H100-SXM", "A100-80GB", "L40S", "MI300X", "B200", "Ascend910B", "H20"])


@settings(max_examples=60, deadline=None)
@given(
    model=MODELS,
    accel=CHIPS,
    devices=st.sampled_from([1, 2, 4, 8, 64]),
    precision=st.sampled_from(["", "bf16", "fp8", "int4"]),
    scenario=st.sampled_from(["offline", "server", "interactive", "static-batch", "online-inf"]),
    isl=st.integers(1, 32000),
    osl=st.integers(1, 8000),
    rate=st.floats(0.01, 1e4),
)
def test_anything_is_answered_with_finite_numbers_in_order(
    model: dict[str, object],
    accel: str,
    devices: int,
    precision: str,
    scenario: str,
    isl: int,
    osl: int,
    rate: float,
) -> None:
    got = estimate(
        model, accel, n_accel=devices, precision=precision, scenario=scenario, isl=isl, osl=osl, req_rate=rate
    )
    if not got.fits[0]:
        assert got.tokens_per_s[0] == 0.0 or scenario in ("server", "interactive")
        return
    assert np.isfinite(got.tokens_per_s[0]) and got.tokens_per_s[0] > 0
    assert got.tokens_per_s_low[0] <= got.tokens_per_s[0] <= got.tokens_per_s_high[0]
    if scenario != "offline":
        assert 0 < got.itl_ms[0] <= got.itl_p99_ms[0] * (1 + 1e-9)
        assert 0 < got.ttft_ms_low[0] <= got.ttft_ms[0] <= got.ttft_ms_high[0] < np.inf


@settings(max_examples=30, deadline=None)
@given(model=MODELS, isl=st.integers(16, 8000), osl=st.integers(16, 2000))
def test_faster_memory_and_more_of_it_never_serves_less(model: dict[str, object], isl: int, osl: int) -> None:
    load = {"n_accel": 8, "tp": 8, "precision": "fp8", "isl": isl, "osl": osl}
    h100, h200 = (estimate(model, accel, **load).tokens_per_s[0] for accel in ("H100-SXM", "H200"))
    assert h200 >= h100 * (1 - 1e-9)


def test_a_model_given_by_its_size_alone_is_served_like_a_usual_one() -> None:
    columns = {"accel": ["H200"], "n_accel": ["8"], "isl": ["500"], "osl": ["500"]}
    dims = {"layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672, "vocab": 128256}
    known = {name: [str(number)] for name, number in dims.items()}
    sized, whole = (
        estimate_serving(serving_cases(columns | {"params_b": ["70.6"]} | shape)) for shape in ({}, known)
    )
    assert 0.5 < float(sized.tokens_per_s[0] / whole.tokens_per_s[0]) < 1.1
    larger = estimate_serving(serving_cases(columns | {"params_b": ["405"]}))
    assert float(larger.tokens_per_s[0]) < 0.5 * float(sized.tokens_per_s[0])
