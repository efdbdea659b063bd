"""Seconds one layer of one micro-batch takes on one device: multiplications, attention, memory traffic,
launches.

Knows the kernels of a transformer layer and how their shapes meet a chip's tiles. Does not know the schedule
of micro-batches, nor what runs between devices.
"""

from dataclasses import dataclass

import numpy as np

from suan.estimate.cases import Attention, Cases, Floats, Precision, Recompute
from suan.estimate.rates import Rates
from suan.estimate.shapes import Parameters, attention_widths, context_seen, parameters

Coefficients = dict[str, float]

# Rows and columns of the result one core makes at a time, and what of its rate such a tile reaches: a narrow
# tile reads more for each multiply-add. Source: cuBLAS and CUTLASS default tiles; the ratios are arithmetic
# intensity against that of 256 x 128.
TILES = ((256.0, 128.0, 1.0), (128.0, 128.0, 0.94), (128.0, 64.0, 0.78), (64.0, 64.0, 0.6))
# Rate against power below the design power. Source: measured clocks of capped A100s and H100s lie between
# the square root (voltage and clock fall together) and straight proportion (recalled).
POWER_EXPONENT = 0.6
UNEVEN = (
    0.85  # of the rate where a side is no multiple of 64. Source: NVIDIA, Matrix Multiplication Background
)


@dataclass(frozen=True, slots=True)
class Device:
    """What each case's device reaches, FLOP/s and byte/s."""

    flops: Floats  # multiplications of the plan's precision
    flops_16: Floats  # those kept in 16 bits: attention, logits
    narrow: Floats
    flash_flops: Floats
    units: Floats
    memory_bytes_per_s: Floats
    launch_s: Floats
    peak_flops: Floats  # of the plan's precision


@dataclass(frozen=True, slots=True)
class Pass:
    """Seconds of one layer of one micro-batch, by what they are spent on."""

    gemm_s: Floats
    attention_s: Floats
    memory_s: Floats
    launch_s: Floats  # the host's, all kernels; covered where the device is slower

    @property
    def device_s(self) -> Floats:
        """Seconds the device works."""
        return self.gemm_s + self.attention_s + self.memory_s


@dataclass(frozen=True, slots=True)
class Layers:
    """One layer of one micro-batch forward, backward and again; and the logits with their loss."""

    forward: Pass
    backward: Pass
    again: Pass
    head: Pass  # logits, forward and backward


def devices_of(cases: Cases, rates: Rates, tuning: Coefficients) -> Device:
    """What each case's device reaches in a training loop."""
    kind, precision = cases.machines.kind, cases.plans.precision
    sixteen = np.where(
        precision == Precision.FP32,
        Precision.FP32,
        np.where(precision == Precision.FP16, Precision.FP16, Precision.BF16),
    )
    cap = cases.machines.power_cap_w
    capped = np.where(cap > 0, np.minimum(cap / rates.tdp_w[kind], 1.0), 1.0) ** POWER_EXPONENT
    sustained = rates.sustained_ratio[kind] * capped
    narrow = rates.narrow[kind, precision]
    held = np.select(
        [precision == Precision.NVFP4, precision == Precision.MXFP8],
        [tuning["nvfp4_ratio"], tuning["mxfp8_ratio"]],
        tuning["fp8_ratio"],
    )
    flops_16 = rates.gemm_flops[kind, sixteen] * sustained
    flops = rates.gemm_flops[kind, precision] * sustained * np.where(narrow > 0, held, 1.0)
    return Device(
        flops=flops,
        flops_16=flops_16,
        narrow=narrow,
        flash_flops=flops_16
        * np.where(
            cases.plans.attention == Attention.FLASH_TUNED, rates.tuned_ratio[kind], rates.flash_ratio[kind]
        ),
        units=rates.units[kind],
        memory_bytes_per_s=rates.memory_bytes_per_s[kind],
        launch_s=rates.launch_s[kind],
        peak_flops=rates.peak_flops[kind, precision],
    )


def gemm_s(
    rows: Floats, columns: Floats, depth: Floats, *, device: Device, flops: Floats, half: float
) -> Floats:
    """Seconds of a (rows x depth) by (depth x columns) multiplication; `half` is the depth that reaches half
    of it.
    """
    best = np.zeros(len(rows))
    for high, wide, reached in TILES:
        down, across = np.ceil(rows / high), np.ceil(columns / wide)
        tiles = down * across
        waves = np.ceil(tiles / device.units)
        filled = rows * columns / (waves * device.units * (high * wide))
        best = np.maximum(best, reached * filled)
    # Rows of memory that do not end on 128 bytes (64 numbers) are read in more pieces.
    uneven = (np.floor(columns) % 64 > 0) | (np.floor(depth) % 64 > 0)
    rate = flops * np.maximum(best, 1e-6) * np.where(uneven, UNEVEN, 1.0)
    return 2.0 * rows * columns * (depth + half) / rate


def _three_ways(
    rows: Floats, columns: Floats, depth: Floats, *, device: Device, flops: Floats, half: float
) -> tuple[Floats, Floats, Floats]:
    """Seconds forward, of the gradient of the input, of the gradient of the weight."""
    forward = gemm_s(rows, columns, depth, device=device, flops=flops, half=half)
    of_input = gemm_s(rows, depth, columns, device=device, flops=flops, half=half)
    of_weight = gemm_s(depth, columns, rows, device=device, flops=flops, half=half)
    return forward, of_input, of_weight


def _matrices(cases: Cases, parts: Parameters, device: Device, tuning: Coefficients) -> tuple[Floats, Floats]:
    """Seconds of a layer's multiplications, forward and backward, dense and routed layers averaged."""
    shapes, plans = cases.shapes, cases.plans
    tp = plans.tp.astype(np.float64)
    tokens = _tokens(cases)
    hidden = shapes.hidden.astype(np.float64)
    value_width = attention_widths(shapes)[2]
    in_width = (parts.attention_layer - value_width * hidden) / hidden
    ffn, gate = shapes.ffn.astype(np.float64), 1.0 + shapes.gated
    dense_part = parts.dense_layers / np.maximum(shapes.layers, 1)
    routed_part = 1.0 - dense_part
    shared = shapes.shared_ffn.astype(np.float64)
    whole = np.ones(len(tokens))
    uses = [
        (whole, tokens, in_width / tp, hidden, whole),
        (whole, tokens, hidden, value_width / tp, whole),
        (dense_part, tokens, gate * ffn / tp, hidden, whole),
        (dense_part, tokens, hidden, ffn / tp, whole),
    ]
    if shapes.experts.any():
        ep = plans.ep.astype(np.float64)
        split = np.where(ep > 1, 1.0, tp)  # experts' own tensor parallelism, where they are not spread
        experts = np.maximum(shapes.experts, 1)
        width = shapes.expert_ffn.astype(np.float64)
        each = np.maximum(tokens / np.where(ep > 1, tp, 1.0) * shapes.top_k * ep / experts, 1.0)
        reached = tuning["expert_ratio"] * each / (each + tuning["expert_half_rows"])
        local = routed_part * experts / ep
        uses += [
            (local, each, gate * width / split, hidden, reached),
            (local, each, hidden, width / split, reached),
            (routed_part * (shared > 0), tokens, gate * shared / tp, hidden, whole),
            (routed_part * (shared > 0), tokens, hidden, shared / tp, whole),
        ]
    forward, backward = np.zeros(len(tokens)), np.zeros(len(tokens))
    for times, rows, columns, depth, reached in uses:
        if not times.any():
            continue
        once, of_input, of_weight = _three_ways(
            np.maximum(rows, 1.0),
            np.maximum(columns, 1.0),
            np.maximum(depth, 1.0),
            device=_spread(device, times),
            flops=device.flops,
            half=tuning["gemm_half_depth"],
        )
        forward += times * once / reached
        backward += times * (of_input + np.where(plans.adapters > 0, 0.0, of_weight)) / reached
    return forward, backward


def _spread(device: Device, times: Floats) -> Device:
    """The device as each of `times` multiplications run side by side sees it."""
    from dataclasses import replace

    return replace(device, units=np.maximum(device.units / np.maximum(times, 1.0), 1.0))


def _tokens(cases: Cases) -> Floats:
    """Tokens of a micro-batch on one device."""
    return cases.plans.micro_batch * cases.seq_len / cases.plans.cp.astype(np.float64)


def _attention(cases: Cases, device: Device, tuning: Coefficients) -> tuple[Floats, Floats]:
    """Seconds of the core of a layer's attention, forward and backward."""
    shapes, plans = cases.shapes, cases.plans
    tokens, tp = _tokens(cases), plans.tp.astype(np.float64)
    _, scored, summed = attention_widths(shapes)
    length = cases.seq_len.astype(np.float64)
    flash = plans.attention != Attention.UNFUSED
    seen = np.where(flash, context_seen(shapes, cases.seq_len), length)
    flops = 2.0 * tokens * seen * (scored + summed) / tp
    # Narrow heads and short sequences leave the tensor cores waiting.
    heads = (
        np.minimum(shapes.head_dim / 128.0, 1.0) ** 0.4 * length / (length + tuning["attention_half_length"])
    )
    fused = flops / (device.flash_flops * heads)
    scores = tokens * length * shapes.heads / tp
    through = tuning["score_bytes"] * scores / device.memory_bytes_per_s
    odd = np.where(shapes.head_dim % 8 > 0, tuning["odd_head_ratio"], 1.0)
    plain = flops / (device.flops_16 * 0.5 * odd) + through / odd
    forward = np.where(flash, fused, plain)
    return forward, np.where(flash, 2.5 / 0.85, 2.0) * forward


def _traffic(cases: Cases, parts: Parameters, device: Device, tuning: Coefficients) -> Floats:
    """Seconds a forward pass of a layer spends on what only moves memory: norms, residuals, activations,
    casts.
    """
    shapes, plans = cases.shapes, cases.plans
    tokens, tp = _tokens(cases), plans.tp.astype(np.float64)
    whole = np.where(plans.sequence_parallel > 0, tp, 1.0)
    hidden = shapes.hidden.astype(np.float64)
    query, _, value = attention_widths(shapes)
    dense_part = parts.dense_layers / np.maximum(shapes.layers, 1)
    inner = shapes.ffn * dense_part + (1.0 - dense_part) * (
        shapes.top_k * shapes.expert_ffn + shapes.shared_ffn
    )
    # Two norms read and write, two residuals read twice and write: ten passes over hidden, in 2 bytes.
    across = 2.0 * 10.0 * hidden / whole
    within = 2.0 * ((2.0 + shapes.gated) * inner + 2.0 * (query + value)) / tp
    routed = 2.0 * tuning["routed_passes"] * (1.0 - dense_part) * shapes.top_k * hidden / tp
    casts = device.narrow * tuning["cast_bytes"] * (2.0 * hidden / whole + (value + inner) / tp)
    moved = tuning["traffic_ratio"] * (across + within) + routed + casts
    return tokens * moved / device.memory_bytes_per_s


def _accumulated(cases: Cases, device: Device, tuning: Coefficients, weights: Floats) -> Floats:
    """Seconds a micro-batch spends on adding the gradients of so many `weights` to those of earlier ones."""
    fused = cases.plans.attention != Attention.UNFUSED
    moved = np.where(fused, tuning["accumulate_bytes"], tuning["accumulate_bytes_unfused"])
    trained = np.where(cases.plans.adapters > 0, 0.0, weights)
    return np.asarray(trained * moved / device.memory_bytes_per_s)


def _layer_weights(cases: Cases, parts: Parameters) -> Floats:
    """Weights of a layer on one device, dense and routed layers averaged."""
    plans, layers = cases.plans, np.maximum(cases.shapes.layers, 1)
    experts = parts.expert_params / np.where(plans.ep > 1, plans.ep, plans.tp)
    return np.asarray(((parts.body - parts.expert_params) / plans.tp + experts) / layers)


def layers_of(cases: Cases, rates: Rates, tuning: Coefficients) -> tuple[Layers, Device]:
    """Seconds of the layers of each case, a micro-batch each."""
    shapes, plans = cases.shapes, cases.plans
    parts = parameters(shapes)
    device = devices_of(cases, rates, tuning)
    gemm_forward, gemm_backward = _matrices(cases, parts, device, tuning)
    core_forward, core_backward = _attention(cases, device, tuning)
    traffic = _traffic(cases, parts, device, tuning)
    routed_part = parts.moe_layers / np.maximum(shapes.layers, 1)
    flash = plans.attention != Attention.UNFUSED
    kernels = np.where(flash, tuning["kernels_flash"], tuning["kernels_unfused"])
    kernels = kernels + np.where(plans.tp > 1, tuning["kernels_split"], 0.0)
    local = shapes.experts / plans.ep
    routed = tuning["kernels_routed"] + tuning["kernels_expert"] * local
    host = device.launch_s * (kernels + routed_part * routed)
    forward = Pass(gemm_forward, core_forward, traffic, host)
    added = _accumulated(cases, device, tuning, _layer_weights(cases, parts))
    backward = Pass(gemm_backward, core_backward, 2.0 * traffic + added, 2.0 * host)
    full = np.where(plans.recompute == Recompute.FULL, plans.recompute_ratio, 0.0)
    core = np.where((plans.recompute == Recompute.SELECTIVE) & ~flash, 1.0, full)
    again = Pass(full * gemm_forward, core * core_forward, full * traffic, full * host)
    return Layers(forward, backward, again, _head(cases, device, tuning)), device


def _head(cases: Cases, device: Device, tuning: Coefficients) -> Pass:
    """Seconds of logits and loss of a micro-batch, forward and backward."""
    shapes, plans = cases.shapes, cases.plans
    tokens, tp = _tokens(cases), plans.tp.astype(np.float64)
    columns = shapes.vocab / tp
    ways = _three_ways(
        tokens,
        columns,
        shapes.hidden.astype(np.float64),
        device=device,
        flops=device.flops_16,
        half=tuning["gemm_half_depth"],
    )
    moved = tokens * columns * tuning["logit_bytes"] / device.memory_bytes_per_s
    moved = moved + _accumulated(cases, device, tuning, columns * shapes.hidden)
    none = np.zeros(len(tokens))
    weight = np.where(plans.adapters > 0, 0.0, ways[2])
    return Pass(ways[0] + ways[1] + weight, none, moved, none + 20.0 * device.launch_s)
