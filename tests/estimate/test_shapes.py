"""Shapes: parameter counts of published configs, FLOPs by convention, and rows that leave things out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suan.estimate.cases import Kind, Shapes
from suan.estimate.columns import attention_of, power_cap_w_of, precision_of, read_rows, recompute_of
from suan.estimate.config import shape_of_config
from suan.estimate.shapes import CONVENTIONS, context_seen, counted, forward_flops_per_token, parameters
from suan.grid.error import Refused

# Published configs, and the size their model cards give (billions, all and active).
CONFIGS = {
    "Llama-3.1-8B": (
        {
            "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
            "tie_word_embeddings": False,
        },
        8.03, 8.03,
    ),
    "GPT-2": (
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}, 0.124, 0.124,
    ),
    "Mixtral-8x7B": (
        {
            "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
            "num_experts_per_tok": 2, "tie_word_embeddings": False,
        },
        46.7, 12.9,
    ),
    "Qwen3-30B-A3B": (
        {
            "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "vocab_size": 151936,
            "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            "tie_word_embeddings": False,
        },
        30.5, 3.3,
    ),
    "DeepSeek-V3": (
        {
            "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "num_key_value_heads": 128, "intermediate_size": 18432, "vocab_size": 129280,
            "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
            "moe_intermediate_size": 2048, "first_k_dense_replace": 3, "q_lora_rank": 1536,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "tie_word_embeddings": False,
        },
        671.0, 37.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_has_the_size_its_card_says(name: str) -> None:
    config, total, active = CONFIGS[name]
    shape = shape_of_config(config)
    assert shape.params[0] / 1e9 == pytest.approx(total, rel=0.02)
    assert shape.active_params[0] / 1e9 == pytest.approx(active, rel=0.03)


def test_a_config_without_numbers_is_refused_and_says_which() -> None:
    with pytest.raises(Refused) as refused:
        shape_of_config({"model_type": "llama", "num_hidden_layers": 4})
    assert "hidden" in str(refused.value)


def test_a_vision_language_model_counts_its_tower() -> None:
    text = CONFIGS["Llama-3.1-8B"][0]
    vision = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    whole = shape_of_config(
        {"text_config": text, "vision_config": {**vision, "image_size": 336, "patch_size": 14}}
    )
    assert whole.kind_code[0] == Kind.VISION_LANGUAGE
    assert whole.tower_tokens[0] == 576
    assert whole.params[0] - shape_of_config(text).params[0] == pytest.approx(0.302e9, rel=0.02)


def test_an_encoder_sees_both_ways() -> None:
    bert = shape_of_config(
        {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072, "vocab_size": 30522}
    )  # fmt: skip
    assert context_seen(bert, np.array([512]))[0] == 512


def test_a_window_bounds_what_is_seen() -> None:
    config = {**CONFIGS["Llama-3.1-8B"][0], "sliding_window": 4096}
    seen = context_seen(shape_of_config(config), np.array([32768]))[0]
    assert 3000 < seen < 4096


def test_conventions_differ_by_attention_only() -> None:
    shape, length = shape_of_config(CONFIGS["Llama-3.1-8B"][0]), np.array([8192])
    flops = {name: forward_flops_per_token(shape, length, convention=name)[0] for name in CONVENTIONS}
    causal, whole = flops["causal"], flops["full_attention"]
    assert whole - causal == pytest.approx(2 * 2 * 32 * 4096 * 8192 / 2, rel=0.01)
    assert flops["six_n"] == pytest.approx(2 * shape.params[0])


# What rows of a table leave out is decided by the size they give.
OPEN_ROWS = {
    "n_experts": ["128", "128", "256", ""],
    "topk": ["8", "4", "8", ""],
    "moe_ffn": ["1536", "2880", "2048", ""],
    "shared_ffn": ["0", "0", "2048", ""],
    "layers": ["94", "36", "61", "32"],
    "hidden": ["4096", "2880", "7168", "4096"],
    "heads": ["64", "64", "128", "32"],
    "kv_heads": ["4", "8", "128", "8"],
    "ffn": ["12288", "2880", "18432", ""],
    "gated_mlp": ["1", "1", "1", ""],
    "tied_emb": ["0", "0", "0", "0"],
    "vocab": ["151936", "201088", "129280", "128256"],
    "params_b": ["235.1", "116.8", "671", ""],
    "accel": ["H100"] * 4,
    "n_accel": ["8"] * 4,
}


def test_rows_get_head_widths_dense_layers_and_feed_forwards_from_their_size() -> None:
    shapes = read_rows(OPEN_ROWS).cases.shapes
    assert list(shapes.head_dim) == [128, 64, 192, 128]
    assert list(shapes.dense_layers) == [0, 0, 3, 0]
    assert shapes.kv_rank[2] == 512
    assert shapes.ffn[3] == 14336
    assert parameters(shapes).total[:3] / 1e9 == pytest.approx([235.1, 116.8, 671], rel=0.005)


@settings(deadline=None)
@given(params=st.floats(0.1, 2000), active=st.floats(0.02, 1))
def test_a_model_known_by_its_size_alone_has_about_that_size(params: float, active: float) -> None:
    row = {
        "params_b": [str(params)],
        "active_params_b": [str(params * active)],
        "kind": ["moe"],
        "accel": ["A100"],
    }
    shape = read_rows(row).cases.shapes
    assert shape.params[0] == pytest.approx(params * 1e9)
    assert shape.layers[0] >= 1 and shape.hidden[0] >= 128


def test_words_of_tables() -> None:
    assert precision_of("fp8(typical; see submission)").name == "FP8"
    assert precision_of("bf16+fp8").name == "FP8"
    assert precision_of("").name == precision_of("bf16-mixed").name == "BF16"
    assert recompute_of("full-block-10", 40) == (2, 0.25)
    assert recompute_of("selective(op)", 32) == recompute_of("selective(layer)", 32) == (2, 0.5)
    assert attention_of("flash(cudnn)") != attention_of("flash(triton)") != attention_of("unfused")
    assert power_cap_w_of("H100-SXM-96-500W") == 500 and power_cap_w_of("A100-SXM-80") == 0


def test_experts_of_a_mixture_whose_size_nobody_says_are_as_wide_as_its_feed_forward() -> None:
    row = {"accel": ["A100"], "layers": ["28"], "hidden": ["3584"], "heads": ["28"], "kv_heads": ["4"]}
    row |= {"ffn": ["2560"], "n_experts": ["64"], "topk": ["8"], "kind": ["moe"], "vocab": ["151936"]}
    shape = read_rows(row).cases.shapes
    assert shape.expert_ffn[0] == 2560
    assert shape.params[0] == pytest.approx(57e9, rel=0.1)  # Qwen2 57B-A14B
    nothing_said = read_rows({"accel": ["A100"], "kind": ["moe"]}).cases.shapes
    assert nothing_said.params[0] < 57e9


def test_activations_are_split_too_where_nobody_says_and_the_software_can() -> None:
    table = {"accel": ["A100-80GB"] * 3, "n_accel": ["8"] * 3, "params_b": ["7"] * 3, "tp": ["8"] * 3}
    columns = {**table, "attn_impl": ["flash", "unfused", "unfused"], "seq_parallel": ["", "", "1"]}
    assert read_rows(columns).cases.plans.sequence_parallel.tolist() == [1, 0, 1]


def test_counting_leaves_given_sizes_alone() -> None:
    shape = Shapes.filled(1, layers=2, hidden=64, heads=2, head_dim=32, params=7.0)
    assert counted(shape).params[0] == 7.0
