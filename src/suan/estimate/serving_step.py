"""How long one step of a replica takes, and how many sequences it can hold.

Knows the roofline of a step that carries decoding sequences and pieces of prompts together, what tensor,
pipeline and expert parallelism add to it, and the memory that keys and values need. Does not know arrivals.
"""

from dataclasses import dataclass

import numpy as np

from suan.estimate.cases import Floats, Precision
from suan.estimate.serving_cases import WEIGHT_BYTES, ServingCases
from suan.estimate.serving_rates import ServingRates

GIB = 2.0**30
TERA, GIGA = 1e12, 1e9
# A link slower than this a direction is a bus through the host, whose all-reduce starts later.
# Source: PCIe 5.0 x 16 has 63 GB/s; the slowest fabric of the accelerator table, 90.
BUS_GB_PER_S = 64.0
# Engines stop adding sequences here. Source: the largest `max_batch_size` of TensorRT-LLM's published
# throughput tables, 4,096 (docs/source/performance, 0.17 to 1.2).
MOST_SEQUENCES = 8192.0
# Prompts are read in pieces of about this many tokens.
# Source: max_num_tokens of TensorRT-LLM, max_num_batched_tokens of vLLM: 8,192.
CHUNK_TOKENS = 8192.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingStep:
    """Seconds of one step of one pipeline stage, by what takes them."""

    compute_s: Floats
    weights_s: Floats
    gemm_s: Floats  # compute and weights, as far as they overlap
    activations_s: Floats  # read and written between products
    attention_s: Floats  # of prompts
    kv_s: Floats
    link_s: Floats
    floor_s: Floats  # launches and the host
    total_s: Floats


def tensor_ranks(cases: ServingCases) -> Floats:
    """Devices that one layer is split over, in either way."""
    return np.maximum(np.maximum(cases.tensor_parallel, cases.attention_data_parallel), 1.0)


def replica_devices(cases: ServingCases) -> Floats:
    """Devices of one replica."""
    return tensor_ranks(cases) * np.maximum(cases.pipeline_parallel, 1.0)


def replicas(cases: ServingCases) -> Floats:
    """Replicas that the devices make, at least one."""
    return np.maximum(np.floor(cases.devices / replica_devices(cases)), 1.0)


def weight_bytes(cases: ServingCases) -> Floats:
    """Bytes of all weights; embeddings stay in 16 bits."""
    held: Floats = WEIGHT_BYTES[cases.precision]
    return (cases.params - cases.embedding_params) * held + cases.embedding_params * 2.0


def mean_context(cases: ServingCases) -> Floats:
    """Tokens behind a decoding sequence, on the average over those in flight.

    Long answers are in flight for longer, so of unequal lengths more is behind: half of E[L^2] / E[L].
    """
    return cases.prompt_tokens + 0.5 * cases.output_tokens * (1.0 + cases.output_spread**2)


def kv_bytes_per_token(cases: ServingCases) -> Floats:
    """Bytes of keys and values of one token, all layers, one copy."""
    return cases.layers * cases.kv_values * cases.kv_bytes


def _kv_copies(cases: ServingCases) -> Floats:
    """Times that a replica's devices hold the same keys and values: devices over heads, where more."""
    ranks = np.where(cases.attention_data_parallel > 1, 1.0, np.maximum(cases.tensor_parallel, 1.0))
    return np.maximum(ranks / np.maximum(cases.kv_shards, 1.0), 1.0)


def kv_capacity_tokens(cases: ServingCases, rates: ServingRates) -> Floats:
    """Tokens whose keys and values one replica can hold; 0 = the weights do not fit."""
    devices = replica_devices(cases)
    free = devices * (cases.memory_gib * rates.memory_share - rates.reserve_gib) * GIB - held_bytes(cases)
    return np.maximum(free / (kv_bytes_per_token(cases) * _kv_copies(cases)), 0.0)


def held_bytes(cases: ServingCases) -> Floats:
    """Bytes of weights on all devices of a replica: attention is whole on each under data parallelism."""
    whole = weight_bytes(cases)
    routed: Floats = cases.expert_params * WEIGHT_BYTES[cases.precision]
    return routed + (whole - routed) * np.maximum(cases.attention_data_parallel, 1.0)


def most_sequences(cases: ServingCases, rates: ServingRates) -> Floats:
    """Sequences one replica decodes at once: by memory, by the engine's limit, by the given cap."""
    # A sequence holds its prompt and, on the average of its life, part of its output.
    reserved = cases.prompt_tokens + rates.growth_share * cases.output_tokens
    room = kv_capacity_tokens(cases, rates) / np.maximum(reserved, mean_context(cases))
    limit = MOST_SEQUENCES * np.maximum(cases.attention_data_parallel, 1.0)
    cap = np.where(cases.concurrency > 0, np.ceil(cases.concurrency / replicas(cases)), limit)
    return np.minimum(np.minimum(room, limit), cap)


def experts_touched(cases: ServingCases, tokens: Floats) -> Floats:
    """Share of the routed experts that so many tokens touch, each choosing for itself."""
    resting = 1.0 - cases.top_k / np.maximum(cases.experts, 1.0)
    return np.where(cases.experts > 0, 1.0 - resting ** np.maximum(tokens, 1.0), 0.0)


def compute_rate(cases: ServingCases, rates: ServingRates) -> Floats:
    """FLOP/s that large products reach on one device."""
    kept = np.ones(len(cases))
    kept[np.isin(cases.precision, (Precision.FP8, Precision.MXFP8, Precision.INT8))] = rates.narrow_ratio
    kept[cases.precision == Precision.NVFP4] = rates.narrowest_ratio
    # A card with fewer watts for its peak than its family's largest clocks down under large products.
    powered = np.minimum(cases.power_headroom, 1.0) ** rates.power_exponent
    return cases.peak_tflops * TERA * rates.compute_ratio[cases.family] * kept * powered


def step(
    cases: ServingCases, sequences: Floats, prompt_tokens: Floats, context: Floats, rates: ServingRates
) -> ServingStep:
    """One step of one stage: `sequences` decode one token each, at `context` tokens behind them, while
    `prompt_tokens` of prompts are read. All per replica; a stage sees its part of them.
    """
    stages = np.maximum(cases.pipeline_parallel, 1.0)
    ranks, layers = tensor_ranks(cases), cases.layers / stages
    decoding, reading = sequences / stages, prompt_tokens / stages
    tokens = np.maximum(decoding + reading, 1.0)
    bandwidth = cases.memory_gb_per_s * GIGA * rates.memory_ratio[cases.family]

    routed_active = cases.expert_params * cases.top_k / np.maximum(cases.experts, 1.0)
    plain = cases.active_params - routed_active - 0.5 * cases.embedding_params
    touched = experts_touched(cases, tokens)
    # Each expert's rows are padded to whole tiles.
    padded = tokens + rates.tile_rows * cases.experts * touched / np.maximum(cases.top_k, 1.0)
    # A device's share of a matrix fills it less well the narrower it is.
    filled = cases.hidden / (cases.hidden + rates.width_half * ranks)
    rows = plain * tokens / filled + routed_active * padded / rates.expert_ratio
    compute_s = 2.0 * rows / stages / ranks / compute_rate(cases, rates)

    held = WEIGHT_BYTES[cases.precision]
    outside = cases.params - cases.expert_params - cases.embedding_params
    shared = outside * held + cases.embedding_params  # the head alone is read: half of them, two bytes each
    routed = cases.expert_params * held * touched
    copies = np.maximum(cases.attention_data_parallel, 1.0)
    weights_s = (shared * copies + routed) / stages / ranks / bandwidth
    moved = 2.0 * tokens * cases.hidden * layers * (rates.passes + rates.routed_passes * cases.top_k)
    activations_s = moved / ranks / bandwidth
    gemm_s = (compute_s**rates.overlap + weights_s**rates.overlap) ** (1.0 / rates.overlap)

    held_kv = decoding * context * kv_bytes_per_token(cases) / stages * _kv_copies(cases)
    kv_s = held_kv / ranks / bandwidth
    seen = 0.5 * cases.prompt_tokens  # causal: half of the prompt lies behind a token of it
    attention_flops = reading * seen * 4.0 * cases.heads * cases.head_dim * layers
    attention_s = attention_flops / ranks / (cases.attention_tflops * TERA * rates.attention_ratio)

    link_s = _link_s(cases, tokens, layers, rates)
    floor_s = layers * rates.layer_s[cases.family] + rates.step_s + rates.sequence_s * decoding / copies
    bubble = 1.0 + rates.stage_bubble * (stages - 1.0)
    total_s = (gemm_s + activations_s + attention_s + kv_s + link_s + floor_s) * bubble
    return ServingStep(
        compute_s=compute_s,
        weights_s=weights_s,
        gemm_s=gemm_s,
        activations_s=activations_s,
        attention_s=attention_s,
        kv_s=kv_s,
        link_s=link_s,
        floor_s=floor_s,
        total_s=total_s,
    )


def batch_prefill_s(cases: ServingCases, rates: ServingRates) -> Floats:
    """Seconds that one prompt takes of all replicas, read in large batches and followed by nothing."""
    stages = np.maximum(cases.pipeline_parallel, 1.0)
    at_once = np.maximum(CHUNK_TOKENS * stages / np.maximum(cases.prompt_tokens, 1.0), 1.0)
    zero = np.zeros(len(cases))
    took = step(cases, zero, at_once * cases.prompt_tokens, cases.prompt_tokens, rates).total_s * stages
    return took / at_once / replicas(cases)


def _link_s(cases: ServingCases, tokens: Floats, layers: Floats, rates: ServingRates) -> Floats:
    """Two all-reduces a layer, or with whole attention the tokens' way to their experts and back."""
    tp, dp = np.maximum(cases.tensor_parallel, 1.0), np.maximum(cases.attention_data_parallel, 1.0)
    bus = cases.link_gb_per_s < BUS_GB_PER_S
    latency = np.where(bus, rates.bus_latency_s, rates.link_latency_s)
    bandwidth = np.maximum(cases.link_gb_per_s, 1.0) * GIGA * rates.link_ratio
    state = tokens * cases.hidden * 2.0
    reduce_s = np.where(
        tp > 1, latency * np.log2(np.maximum(tp, 2.0)) + 2.0 * (tp - 1.0) / tp * state / bandwidth, 0.0
    )
    sent: Floats = state / dp * np.minimum(np.maximum(cases.top_k, 1.0), dp) * (dp - 1.0) / dp
    exchange_s = np.where(dp > 1, latency * np.log2(np.maximum(dp, 2.0)) + sent / bandwidth, 0.0)
    return np.asarray(2.0 * layers * (reduce_s + exchange_s), dtype=np.float64)
