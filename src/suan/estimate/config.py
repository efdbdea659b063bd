"""Shapes from a `transformers` config.json: decoders, mixtures, encoders, vision towers and what joins them.

Knows under which names configs of each family keep their numbers. Does not read files and imports no
framework.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from suan.estimate.cases import Kind, Shapes
from suan.estimate.shapes import counted, parameters
from suan.grid.error import Refused

Config = Mapping[str, Any]

# Names one number goes by, in the order they are looked for.
NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth"),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim", "embed_dim"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels", "attention_head_dim"),
    "ffn": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "encoder_ffn_dim"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "experts": ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"),
    "top_k": ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "experts_per_token"),
    "expert_ffn": ("moe_intermediate_size", "expert_intermediate_size"),
}
ENCODERS = (
    "bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta", "deberta-v2", "albert", "camembert",
    "ernie", "modernbert",
)  # fmt: skip
VISION = ("vit", "deit", "beit", "dinov2", "vit_mae", "clip_vision_model", "siglip_vision_model")
# Families whose feed-forward has two matrices; all others' has three.
PLAIN = frozenset(ENCODERS) - {"modernbert"} | frozenset(VISION) | {
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "mpt", "phi", "codegen",
    "starcoder2", "clip", "siglip", "clip_text_model", "whisper", "nemotron",
}  # fmt: skip
# Families that share input and output embedding unless the config says otherwise. Source: transformers'
# defaults.
TIED = frozenset(ENCODERS) | {
    "gpt2", "gpt_neo", "gpt_bigcode", "opt", "bloom", "falcon", "mpt", "gemma", "gemma2", "gemma3",
    "gemma3_text", "starcoder2", "cohere", "cohere2", "t5", "codegen",
}  # fmt: skip
ALTERNATING = {"gemma2": 2, "gpt_oss": 2, "gemma3_text": 6, "cohere2": 4}  # one layer in so many sees all


def shape_of_config(config: Config) -> Shapes:
    """The one shape a config.json describes.

    Raises: Refused `bad_config` where it names no width, depth or heads.
    """
    text = config.get("text_config") or config.get("llm_config") or config.get("thinker_config")
    vision = config.get("vision_config") or config.get("vision_tower_config")
    if isinstance(text, Mapping) and text:
        merged = {"tie_word_embeddings": config.get("tie_word_embeddings"), **text}
        shape = _decoder({key: value for key, value in merged.items() if value is not None})
        if isinstance(vision, Mapping) and vision:
            return _with_tower(shape, vision)
        return shape
    if isinstance(vision, Mapping) and vision and _number(config, "hidden"):
        return _with_tower(_decoder(config), vision)
    return _decoder(config)


def _number(config: Config, name: str, otherwise: float = 0) -> float:
    for key in NAMES[name]:
        value = config.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return otherwise


def _family(config: Config) -> str:
    return str(config.get("model_type") or "").lower()


def _decoder(config: Config) -> Shapes:
    """A text model, or a vision transformer by itself."""
    family = _family(config)
    layers, hidden, heads = (_number(config, name) for name in ("layers", "hidden", "heads"))
    missing = [n for n, v in (("layers", layers), ("hidden", hidden), ("heads", heads)) if not v]
    if missing:
        raise Refused(
            "bad_config",
            f"the config names no {' and no '.join(missing)}",
            hint=f"expected among: {', '.join(key for name in missing for key in NAMES[name])}",
        )
    kv_heads = _number(config, "kv_heads", heads)
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1.0
    plain = family in PLAIN
    ffn = _number(config, "ffn", 4.0 * hidden if plain else round(8.0 * hidden / 3.0))
    tied = config.get("tie_word_embeddings")
    kind = Kind.ENCODER if family in ENCODERS else Kind.VISION if family in VISION else Kind.DENSE
    head_dim = _number(config, "head_dim", hidden // heads)
    routed = _routed(config, layers, ffn)
    labels = config.get("id2label")
    classes = len(labels) if isinstance(labels, Mapping) else 1000
    window, window_layers = _window(config, layers)
    columns: dict[str, float] = {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "value_head_dim": head_dim,
        "ffn": ffn,
        "gated": 0 if plain else 1,
        "tied": (family in TIED) if tied is None else bool(tied),
        "vocab": classes if kind == Kind.VISION else _number(config, "vocab", 32_000),
        "causal": kind not in (Kind.ENCODER, Kind.VISION),
        "window": window,
        "window_layers": window_layers,
        "kind_code": Kind.MOE if routed else kind,
        **routed,
        **_latent(config),
    }
    return counted(Shapes.filled(1, **columns))


def _latent(config: Config) -> dict[str, float]:
    """Ranks and widths of latent attention; empty where there is none."""
    rank = config.get("kv_lora_rank")
    if not rank:
        return {}
    rope = float(config.get("qk_rope_head_dim") or 64)
    return {
        "kv_rank": float(rank),
        "query_rank": float(config.get("q_lora_rank") or 0),
        "rope_dim": rope,
        "head_dim": float(config.get("qk_nope_head_dim") or 128) + rope,
        "value_head_dim": float(config.get("v_head_dim") or 128),
    }


def _routed(config: Config, layers: float, ffn: float) -> dict[str, float]:
    """Experts of a mixture; empty for a dense model."""
    experts = _number(config, "experts")
    if experts <= 1:
        return {}
    width = _number(config, "expert_ffn", ffn)
    shared = float(config.get("shared_expert_intermediate_size") or 0)
    shared = shared or float(config.get("n_shared_experts") or 0) * width
    leading = float(config.get("first_k_dense_replace") or 0)
    only = config.get("mlp_only_layers")
    leading += len(only) if isinstance(only, list) else 0
    every = float(config.get("decoder_sparse_step") or config.get("moe_layer_freq_step") or 1)
    dense = leading + (layers - leading) * (1.0 - 1.0 / every)
    return {
        "experts": experts,
        "top_k": _number(config, "top_k", 2),
        "expert_ffn": width,
        "shared_ffn": shared,
        "dense_layers": min(round(dense), layers),
    }


def _window(config: Config, layers: float) -> tuple[float, float]:
    """(tokens seen at most, layers that is in force in)."""
    window = config.get("sliding_window")
    if not isinstance(window, int | float) or isinstance(window, bool) or window <= 0:
        return 0.0, 0.0
    if config.get("use_sliding_window") is False:
        return 0.0, 0.0
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return float(window), float(sum("sliding" in str(kind) for kind in kinds))
    every = ALTERNATING.get(_family(config), 0)
    if every:
        return float(window), layers - layers // every
    full = config.get("max_window_layers")
    return float(window), max(layers - float(full), 0.0) if isinstance(full, int) and full else layers


def _with_tower(shape: Shapes, vision: Config) -> Shapes:
    """The decoder with a vision tower in front of it."""
    layers, hidden = _number(vision, "layers"), _number(vision, "hidden")
    if not layers or not hidden:
        return shape
    ffn = _number(vision, "ffn", 4.0 * hidden)
    tower = Shapes.filled(
        1,
        layers=layers,
        hidden=hidden,
        heads=_number(vision, "heads", 16),
        kv_heads=_number(vision, "heads", 16),
        head_dim=hidden // _number(vision, "heads", 16),
        value_head_dim=hidden // _number(vision, "heads", 16),
        ffn=ffn,
        gated=0 if "gelu" in str(vision.get("hidden_act", "gelu")) else 1,
    )
    patch = float(vision.get("patch_size") or 14)
    image = vision.get("image_size") or 448
    side = float(max(image) if isinstance(image, list | tuple) else image)
    return counted(
        shape.with_columns(
            kind_code=Kind.VISION_LANGUAGE,
            tower_params=parameters(tower).body,
            tower_tokens=np.floor(side / patch) ** 2,
            params=0.0,
            active_params=0.0,
        )
    )
