"""What is served, on what and under which load: struct of arrays, one entry a case.

Knows how to read the columns of a serving table, and what a missing one means. Does not know what anything
costs in time, and never looks at a measured column.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suan.estimate.cases import Floats, Ints, Precision
from suan.estimate.columns import shapes_of
from suan.estimate.rates import PEAK_FROM, kind_index, kinds
from suan.estimate.serving_rates import family_of, further_peaks, watts_per_tflops
from suan.grid.error import Refused
from suan.grid.hardware import Accelerator, accelerators

Numbers = Callable[..., Floats]  # column, default -> values


class Engine(IntEnum):
    """What serves. Only the residual looks at it."""

    UNKNOWN = 0
    TENSORRT = 1
    VLLM = 2
    SGLANG = 3


class Scenario(IntEnum):
    OFFLINE = 0  # everything is there at the start, throughput counts
    SERVER = 1  # requests arrive by themselves, at a rate
    INTERACTIVE = 2  # the same with short latencies demanded
    BATCH = 3  # one batch, together from prompt to last token
    FIRST_TOKEN = 4  # one batch until its first token
    BURST = 5  # everything arrives at once, at a server set up for arrivals


# By code of Precision. 4-bit formats carry a scale byte for each 16 values; int4 is of weights only.
WEIGHT_BYTES = np.array([4.0, 4.0, 2.0, 2.0, 1.0, 1.03125, 0.5625, 1.0, 0.5625])
KV_BYTES = np.array([4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0])
PRECISION_NAMES = (
    (r"nvfp4|mxfp4|fp4", Precision.NVFP4),
    (r"int4|w4|awq|gptq", Precision.INT4),
    (r"mxfp8", Precision.MXFP8),
    (r"fp8|e4m3|float8", Precision.FP8),
    (r"int8|w8", Precision.INT8),
    (r"bf16|bfloat16", Precision.BF16),
    (r"fp16|float16|half", Precision.FP16),
    (r"tf32", Precision.TF32),
    (r"fp32|float32", Precision.FP32),
)  # the first that a word has in it
SCENARIO_NAMES = {
    "offline": Scenario.OFFLINE,
    "server": Scenario.SERVER,
    "interactive": Scenario.INTERACTIVE,
    "static-batch": Scenario.BATCH,
    "single-stream": Scenario.BATCH,
    "first-token": Scenario.FIRST_TOKEN,
    "online-inf": Scenario.BURST,
    "burst": Scenario.BURST,
    "online": Scenario.SERVER,
}  # by how a word begins; the first that does

# A prompt nobody gave the length of. Between the means of chat (about 200) and of instructions with context
# (about 300) in the public request sets that publish theirs.
UNKNOWN_PROMPT_TOKENS = 256.0
UNKNOWN_OUTPUT_TOKENS = 256.0
# Of a model given by its size alone. Source: config.json of Llama 3 and Mistral 7B.
UNKNOWN_KV_HEADS = 8.0
# What an engine takes at once until somebody tunes it. Source: max_num_seqs of vLLM, 256 on most devices.
UNTUNED_SEQUENCES = 256.0
# A run nobody gave the size of. Source: requests of TensorRT-LLM 0.14's published online tables.
UNKNOWN_REQUESTS = 500.0
# Latent attention keeps one vector of this many values a layer and token, whatever the heads.
# Source: DeepSeek-V2, arXiv 2405.04434, kv_lora_rank 512 + qk_rope_head_dim 64; the same in V3.
LATENT_VALUES = 576.0
# A chat reads well at these. Source: MLPerf Inference 5.1, limits for Llama 2 70B, server and interactive.
ITL_LIMIT_S = {Scenario.SERVER: 0.200, Scenario.INTERACTIVE: 0.040}
HEAD_DIMS = (64.0, 80.0, 96.0, 128.0, 160.0, 192.0, 256.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCases:
    """n cases. Zero in a plan's field means: choose."""

    # the model
    layers: Floats
    hidden: Floats
    heads: Floats
    head_dim: Floats
    kv_shards: Floats  # devices that keys and values can be split over: 1 for latent attention
    kv_values: Floats  # kept a token and layer
    params: Floats
    expert_params: Floats  # of all routed experts; 0 when dense
    active_params: Floats
    embedding_params: Floats
    experts: Floats
    top_k: Floats
    precision: Ints
    kv_bytes: Floats
    # the machine, one device
    family: Ints
    peak_tflops: Floats  # at the precision computed in
    attention_tflops: Floats  # 16 bits
    memory_gib: Floats
    memory_gb_per_s: Floats
    link_gb_per_s: Floats
    link_domain: Floats
    tdp_w: Floats
    power_headroom: Floats  # watts for each TFLOP/s of the peak, over those of its family's largest card
    # the plan
    devices: Floats
    tensor_parallel: Floats
    pipeline_parallel: Floats
    attention_data_parallel: Floats  # experts split, attention whole on each device; 1 = no
    # the load
    scenario: Ints
    prompt_tokens: Floats
    output_tokens: Floats
    prompt_spread: Floats  # standard deviation over mean
    output_spread: Floats
    concurrency: Floats  # batch of BATCH and FIRST_TOKEN; a cap elsewhere; 0 = the engine's own
    rate_per_s: Floats  # requests that arrive, all replicas together; 0 = as many as it can take
    requests: Floats  # of a run that ends; 0 = it goes on
    itl_limit_s: Floats  # between tokens, for 99 of 100 requests: operators admit no more than this allows
    engine: Ints  # Engine

    def __len__(self) -> int:
        return len(self.layers)

    def take(self, index: ArrayLike) -> "ServingCases":
        """The cases at `index` (an array of integers or a mask)."""
        chosen = np.asarray(index)
        return ServingCases(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def with_plan(self, tensor_parallel: Floats) -> "ServingCases":
        """The same cases with this tensor parallelism."""
        return replace(self, tensor_parallel=tensor_parallel)


@cache
def served_on(name: str) -> tuple[Accelerator, float]:
    """The accelerator a table calls `name`, and its memory in GiB: `GH200-96` says the memory too.

    Raises: Refused `unknown_accelerator`.
    """
    found = accelerators()[kinds()[kind_index(name)]]
    said = re.search(r"-(\d+)(?:GB|G)?$", name)
    return found, float(said[1]) if said else (found.memory_gib or 0.0)


def peak_tflops(chip: Accelerator, precision: Precision) -> float:
    """The peak that a model in `precision` is computed at: in the next wider format that the chip has."""
    published = chip.peak_tflops | further_peaks(chip.name)
    for dtype, factor in PEAK_FROM[precision]:
        if dtype in published:
            return published[dtype] * factor
    return max(chip.measured_matmul_tflops.values(), default=0.0)


def serving_cases(columns: Mapping[str, ArrayLike]) -> ServingCases:
    """Cases from a table's columns (strings or numbers; empty = not given).

    Raises: Refused for an accelerator, a precision or a scenario nobody knows.
    """
    text = _texts(columns)
    n = len(next(iter(text.values())))

    lacking, assumed = _assumed_shapes(text, n)

    def numbers(name: str, default: float | Floats = 0.0) -> Floats:
        given = _numbers(text[name]) if name in text else np.full(n, np.nan)
        if name in assumed:
            given = np.where(lacking & np.isnan(given), assumed[name], given)
        return np.where(np.isnan(given), default, given)

    names = text["accel"]
    chips = [served_on(name) for name in names]
    precision = _precision(text.get("precision", [""] * n), [chip for chip, _ in chips])
    model = _model(numbers)
    machine = _machine(chips, precision)
    split = [_attention_split(word) for word in text.get("ep_or_dp_attn", [""] * n)]
    kv_bytes = numbers("kv_bytes", KV_BYTES[precision])
    scenario = [_scenario(word) for word in text.get("scenario", [""] * n)]
    untuned = np.array([_is_untuned(word) for word in text.get("scenario", [""] * n)])
    limit = np.array([ITL_LIMIT_S.get(kind, np.inf) for kind in scenario])
    limit = np.where(untuned, np.inf, limit)
    engine = [_engine(word) for word in text.get("engine", [""] * n)]
    return ServingCases(
        **model,
        **machine,
        precision=precision,
        kv_bytes=kv_bytes,
        devices=numbers("n_accel", 1.0),
        tensor_parallel=numbers("tp"),
        pipeline_parallel=numbers("pp", 1.0),
        attention_data_parallel=np.array(split, dtype=np.float64),
        scenario=np.array(scenario, dtype=np.int64),
        prompt_tokens=numbers("isl", UNKNOWN_PROMPT_TOKENS),
        output_tokens=np.maximum(numbers("osl", UNKNOWN_OUTPUT_TOKENS), 1.0),
        prompt_spread=numbers("isl_cv"),
        output_spread=numbers("osl_cv"),
        concurrency=numbers("batch_or_concurrency", np.where(untuned, UNTUNED_SEQUENCES, 0.0)),
        requests=numbers("requests", np.where(untuned, UNKNOWN_REQUESTS, 0.0)),
        rate_per_s=_rate(numbers("req_rate"), scenario),
        itl_limit_s=numbers("slo_itl_ms", limit * 1e3) / 1e3,
        engine=np.array(engine, dtype=np.int64),
    )


def _assumed_shapes(text: Mapping[str, list[str]], size: int) -> tuple[NDArray[np.bool_], dict[str, Floats]]:
    """(rows that lack depth, width or heads, columns of a shape that would be of their model's size)."""
    told = [_numbers(text.get(name, [""] * size)) for name in ("layers", "hidden", "heads")]
    lacking = ~np.all([values > 0 for values in told], axis=0)
    if not lacking.any():
        return lacking, {}
    shapes = shapes_of(lambda name: text.get(name, [""] * size), size)
    named = {"layers": "layers", "hidden": "hidden", "heads": "heads", "kv_heads": "kv_heads", "ffn": "ffn"}
    named |= {"vocab": "vocab", "n_experts": "experts", "topk": "top_k", "moe_ffn": "expert_ffn"}
    assumed = {column: getattr(shapes, field).astype(np.float64) for column, field in named.items()}
    assumed["kv_heads"] = np.minimum(assumed["kv_heads"], UNKNOWN_KV_HEADS)
    sizes = {"params_b": shapes.params / 1e9, "active_params_b": shapes.active_params / 1e9}
    return lacking, assumed | sizes


def _texts(columns: Mapping[str, ArrayLike]) -> dict[str, list[str]]:
    return {
        name: [str(v).strip() for v in np.asarray(values, dtype=object)] for name, values in columns.items()
    }


def _numbers(words: list[str]) -> Floats:
    return np.array([float(word) if word and word.lower() != "none" else np.nan for word in words])


def _precision(words: list[str], chips: list[Accelerator]) -> Ints:
    """Codes; not given = fp8 where the chip computes in it, else 16 bits.

    Raises: Refused `unknown_precision`.
    """
    codes = []
    for word, chip in zip(words, chips, strict=True):
        if not word:
            codes.append(Precision.FP8 if "fp8" in chip.peak_tflops else Precision.BF16)
            continue
        known = (code for name, code in PRECISION_NAMES if re.search(name, word.lower()))
        code = next(known, None)
        if code is None:
            hint = "one of bf16, fp16, fp8, fp4, int8, int4"
            raise Refused("unknown_precision", f"nothing is served in {word!r}", hint=hint)
        codes.append(code)
    return np.array(codes, dtype=np.int64)


def _scenario(word: str) -> Scenario:
    """Not given = offline.

    Raises: Refused `unknown_scenario`.
    """
    folded = (word or "offline").lower().replace("_", "-").replace(" ", "-")
    for name, scenario in SCENARIO_NAMES.items():
        if folded.startswith(name) or folded.replace("-", "").startswith(name.replace("-", "")):
            return scenario
    raise Refused(
        "unknown_scenario", f"no way to serve is called {word!r}", hint=f"one of {', '.join(SCENARIO_NAMES)}"
    )


def _engine(word: str) -> Engine:
    low = word.lower()
    for part, engine in (("vllm", Engine.VLLM), ("sglang", Engine.SGLANG), ("tensorrt", Engine.TENSORRT)):
        if part in low:
            return engine
    return Engine.UNKNOWN


def _is_untuned(word: str) -> bool:
    """Whether requests arrive at an engine as it comes: `online...` and `burst`, against `server`."""
    return word.lower().startswith(("online", "burst"))


def _rate(rate: Floats, scenarios: list[Scenario]) -> Floats:
    """Arrivals a second where requests arrive; elsewhere a rate is a wish, and is not looked at."""
    arrives = np.isin(np.array(scenarios), (Scenario.SERVER, Scenario.INTERACTIVE))
    return np.where(arrives & np.isfinite(rate), rate, 0.0)


def _attention_split(word: str) -> float:
    match = re.search(r"(\d+)", word)
    return float(match[1]) if match else 1.0


def _model(numbers: Numbers) -> dict[str, Any]:
    """What the model's columns say, and what follows from them where a column is missing."""
    layers, hidden, heads = numbers("layers"), numbers("hidden"), numbers("heads")
    experts, vocab, ffn = numbers("n_experts"), numbers("vocab"), numbers("ffn")
    top_k = np.where(experts > 0, np.maximum(numbers("topk"), 1.0), 0.0)
    kv_heads = numbers("kv_heads", heads)
    embedding = 2.0 * vocab * hidden
    of_shape = layers * experts * 3.0 * hidden * numbers("moe_ffn", ffn)
    plain = hidden / np.maximum(heads, 1.0)
    dense = layers * ((2.0 * heads + 2.0 * kv_heads) * plain * hidden + 3.0 * hidden * ffn) + embedding
    params = numbers("params_b", np.where(experts > 0, of_shape + dense, dense) / 1e9) * 1e9
    active = numbers("active_params_b", 0.0) * 1e9
    sparsity = 1.0 - top_k / np.maximum(experts, 1.0)
    # all - active = routed experts x the share of them that rests
    from_counts = (params - active) / np.maximum(sparsity, 1e-9)
    expert_params = np.where(experts > 0, np.where(active > 0, from_counts, of_shape), 0.0)
    expert_params = np.clip(expert_params, 0.0, params)
    active = np.where(experts > 0, params - expert_params * sparsity, params)
    outside = params - expert_params - embedding
    # Many heads, each with keys of its own, over so many experts that a plain cache could not be afforded.
    latent_rank = numbers("kv_lora_rank")
    is_latent = (latent_rank > 0) | ((experts > 0) & (kv_heads == heads) & (heads >= 64))
    inferred = _head_dim(
        plain, experts, outside / np.maximum(layers * hidden * 2.0 * (heads + kv_heads), 1.0)
    )
    head_dim = np.where(is_latent, 128.0, numbers("head_dim", inferred))
    latent = np.where(latent_rank > 0, latent_rank + 64.0, LATENT_VALUES)
    return {
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "head_dim": head_dim,
        "kv_shards": np.where(is_latent, 1.0, kv_heads),
        "kv_values": np.where(is_latent, latent, 2.0 * kv_heads * head_dim),
        "params": params,
        "expert_params": expert_params,
        "active_params": active,
        "embedding_params": np.minimum(embedding, 0.5 * params),
        "experts": experts,
        "top_k": top_k,
    }


def _head_dim(plain: Floats, experts: Floats, from_counts: Floats) -> Floats:
    """hidden / heads, unless a mixture's parameters outside its experts say that heads are wider than that.

    Outside the routed experts there is little but attention, so its parameters tell the heads' width.
    """
    known = np.array(HEAD_DIMS)
    at_least = known[np.minimum(np.searchsorted(known, plain), len(known) - 1)]
    wider = (experts >= 16) & (from_counts > 1.5 * plain) & (at_least < 128.0)
    return np.where(wider, 2.0 * at_least, np.where(experts > 0, at_least, plain))


def _machine(chips: list[tuple[Accelerator, float]], precision: Ints) -> dict[str, Any]:
    """The devices' columns."""
    peaks = [peak_tflops(chip, Precision(code)) for (chip, _), code in zip(chips, precision, strict=True)]
    return {
        "family": np.array([family_of(chip.name) for chip, _ in chips], dtype=np.int64),
        "peak_tflops": np.array(peaks, dtype=np.float64),
        "attention_tflops": np.array([peak_tflops(chip, Precision.BF16) for chip, _ in chips]),
        "memory_gib": np.array([memory for _, memory in chips], dtype=np.float64),
        "memory_gb_per_s": np.array([chip.memory_gb_per_s or 0.0 for chip, _ in chips], dtype=np.float64),
        "link_gb_per_s": np.array([chip.link_gb_per_s or 0.0 for chip, _ in chips], dtype=np.float64),
        "tdp_w": np.array([chip.tdp_w or 0.0 for chip, _ in chips], dtype=np.float64),
        "power_headroom": np.array([_power_headroom(chip) for chip, _ in chips]),
        "link_domain": np.array([float(chip.link_domain or 1) for chip, _ in chips]),
    }


def _power_headroom(chip: Accelerator) -> float:
    of_largest = watts_per_tflops(family_of(chip.name))
    peak = peak_tflops(chip, Precision.BF16)
    return chip.tdp_w / peak / of_largest if chip.tdp_w and peak and of_largest else 1.0
