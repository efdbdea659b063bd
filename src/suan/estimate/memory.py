"""What a training run holds on its fullest device: GiB by part, and whether that fits.

Knows weights, gradients and optimizer states under ZeRO, activations under recompute and pipelines, logits,
and the allocator's slack. Counts every pipeline stage that can be the fullest: the first (most micro-batches
in flight), a middle one (most layers) and the last (logits). Does not know time.

Source of the activation counts: Korthikanti et al., Reducing Activation Recomputation in Large Transformer
Models (2022), generalised from 4h feed-forwards and multi-head attention to any shape. Source of in-flight
micro-batches: Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters (2021),
interleaved 1F1B.
"""

from dataclasses import dataclass, fields
from functools import cache

import msgspec
import numpy as np

from suan.estimate.cases import Attention, Bools, Cases, Floats, Plans, Precision, Recompute, Shapes
from suan.estimate.rates import rates
from suan.estimate.shapes import parameters

GIB = float(1 << 30)
_FOUR_BIT_BYTES = 0.5625  # a scale byte for each 16 values
_FULL_WIDTH = (Precision.FP32, Precision.TF32)
_MASTER_AND_MOMENTS = 12.0  # fp32 master weight and Adam's two moments
_VOCABULARY_MULTIPLE = 128  # rows an embedding is padded to, for each tensor-parallel rank
_ADAPTER_RATIO = 0.005  # parameters of rank-16 adapters on every matrix, of the frozen ones


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """How a generation of training software handles memory."""

    activation_slack_ratio: float
    sharding_slack_ratio: float
    step_bytes: float
    second_gradient_bytes: float


class Coefficients(msgspec.Struct, frozen=True, kw_only=True):
    """What arithmetic leaves open; memory.toml says what each is."""

    context_gib: float
    logit_bytes: float
    fused_logit_bytes: float
    backward_ratio: float
    usable_ratio: float
    planned_ratio: float
    transposing_families: tuple[str, ...]
    unfused: Stack
    fused: Stack


@cache
def coefficients() -> Coefficients:
    """Those of memory.toml."""
    import tomllib
    from importlib.resources import files

    text = files("suan.estimate").joinpath("memory.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), Coefficients)


@dataclass(frozen=True, slots=True)
class Memory:
    """GiB on the fullest device, by part. The parts add up to `total`."""

    weights: Floats
    gradients: Floats
    optimizer: Floats
    activations: Floats
    logits: Floats
    buffers: Floats  # weights gathered for a while under ZeRO-3, tokens between experts
    slack: Floats  # context, and what the allocator reserves over what is live
    total: Floats
    least: Floats  # the total where the loss is fused and nothing is fragmented: what no tuning gets below
    capacity: Floats  # of the device, as sold
    fits: Bools  # the least fits
    fits_usually: Bools  # the total fits
    fits_with_margin: Bools  # the total fits, with room for what an estimate misses


@dataclass(frozen=True, slots=True)
class _Stage:
    """One pipeline stage of each case: what it holds."""

    parameters: Floats  # on one device: dense, embeddings, 1/tp of them
    expert_parameters: Floats
    layers: Floats
    in_flight: Floats  # micro-batches whose activations it keeps
    has_logits: Floats  # 1 or 0
    embeddings: Floats  # of the parameters


def memory_gib(cases: Cases, coefficient: Coefficients | None = None) -> Memory:
    """What each case holds on its fullest device, and whether it fits there."""
    known = coefficient or coefficients()
    candidates = [_held(cases, stage, known) for stage in _stages(cases)]
    totals = np.stack([parts["total"] for parts in candidates])
    fullest = np.argmax(totals, axis=0)
    columns = np.arange(len(cases))
    parts = {
        name: np.stack([candidate[name] for candidate in candidates])[fullest, columns]
        for name in candidates[0]
    }
    capacity = rates().memory_bytes[cases.machines.kind] / GIB
    usable = capacity * known.usable_ratio
    return Memory(
        **parts,
        capacity=capacity,
        fits=parts["least"] <= usable,
        fits_usually=parts["total"] <= usable,
        fits_with_margin=parts["total"] <= capacity * known.planned_ratio,
    )


PARTS = tuple(field.name for field in fields(Memory))[:7]


# ------------------------------------------------------------------ stages


def _stages(cases: Cases) -> tuple[_Stage, ...]:
    """First, middle and last stage. With one stage all three are the whole model."""
    shapes, plans = cases.shapes, cases.plans
    dense, expert = _layer_parameters(shapes, plans)
    embedding = _embedding(shapes, plans)
    whole = plans.pp == 1
    fewest, most = np.floor(shapes.layers / plans.pp), np.ceil(shapes.layers / plans.pp)
    ends = np.where(whole, 2.0 - shapes.tied, 1.0) * embedding
    tower = shapes.tower_params / plans.tp
    in_flight = np.minimum(_in_flight(plans), cases.micro_batches)
    one = np.ones(len(cases))
    # where layers do not divide, embeddings count as layers: the ends have fewer
    at_ends = np.where(whole, shapes.layers, np.maximum(fewest, 1))
    between = np.where(whole, shapes.layers, most)
    inside = np.where(whole, ends + tower, 0.0)

    def stage(
        layers: Floats, others: Floats, in_flight: Floats, has_logits: Floats, embeddings: Floats
    ) -> _Stage:
        return _Stage(layers * dense + others, layers * expert, layers, in_flight, has_logits, embeddings)

    return (
        stage(at_ends, ends + tower, in_flight, one * whole, ends),
        stage(between, inside, np.where(whole, in_flight, np.maximum(in_flight - 1, 1)), one * whole, inside),
        stage(at_ends, ends + np.where(whole, tower, 0.0), one, one, ends),
    )


def _in_flight(plans: Plans) -> Floats:
    """Micro-batches the first stage keeps before the first backward, in units of all its layers."""
    chunks = np.maximum(plans.vpp, 1)
    interleaved = (2 * (plans.pp - 1) + (chunks - 1) * plans.pp + 1) / chunks
    return np.where(chunks > 1, interleaved, plans.pp).astype(np.float64)


def _layer_parameters(shapes: Shapes, plans: Plans) -> tuple[Floats, Floats]:
    """(dense parameters of a layer on a device, parameters of its routed experts on a device), on average."""
    parts = parameters(shapes)
    layers = np.maximum(shapes.layers, 1)
    dense = (parts.body - parts.expert_params) / layers
    return dense / plans.tp, parts.expert_params / layers / _expert_split(plans)


def _expert_split(plans: Plans) -> Floats:
    """Devices that the routed experts of a layer are split over: experts where ep > 1, else their width."""
    return np.where(plans.ep > 1, plans.ep, plans.tp).astype(np.float64)


def _embedding(shapes: Shapes, plans: Plans) -> Floats:
    """Parameters of one embedding on a device."""
    multiple = _VOCABULARY_MULTIPLE * plans.tp
    return np.ceil(shapes.vocab / multiple) * multiple * shapes.hidden / plans.tp


# ------------------------------------------------------------------ what a stage holds


def _held(cases: Cases, stage: _Stage, known: Coefficients) -> dict[str, Floats]:
    plans = cases.plans
    state = _states(cases, stage, known)
    kept, full = _layer_bytes(cases)
    tokens = plans.micro_batch * cases.seq_len / plans.cp
    logits = stage.has_logits * tokens * known.logit_bytes * cases.shapes.vocab / plans.tp
    # the loss is differentiated before the first layer is, so the larger of the two counts
    working = np.maximum(known.backward_ratio * full * tokens - logits, 0.0)
    activations = stage.layers * kept * tokens * stage.in_flight + working
    buffers = _gathered(cases, stage)
    states = state["weights"] + state["gradients"] + state["optimizer"]
    passing = activations + logits + buffers
    sharding = np.where(plans.zero_stage > 0, _of_stack(plans, known, "sharding_slack_ratio") - 1, 0.0)
    fragments = (_of_stack(plans, known, "activation_slack_ratio") - 1) * passing
    slack = known.context_gib * GIB + sharding * states + fragments
    total = states + passing + slack
    least = total - fragments - logits * (1 - known.fused_logit_bytes / known.logit_bytes)
    parts = {**state, "activations": activations, "logits": logits, "buffers": buffers, "slack": slack}
    return {name: value / GIB for name, value in {**parts, "total": total, "least": least}.items()}


def _of_stack(plans: Plans, known: Coefficients, name: str) -> Floats:
    """A number of each case's software generation. Fused attention tells it: both came with PyTorch 2."""
    fused = plans.attention != Attention.UNFUSED
    return np.asarray(np.where(fused, getattr(known.fused, name), getattr(known.unfused, name)))


def _states(cases: Cases, stage: _Stage, known: Coefficients) -> dict[str, Floats]:
    """Bytes of weights, gradients and optimizer states on a device."""
    plans = cases.plans
    weight, gradient = _bytes_a_parameter(cases, known)
    trained = np.where(plans.adapters > 0, _ADAPTER_RATIO, 1.0)
    ranks = np.maximum(plans.dp * plans.cp, 1)
    expert_ranks = np.maximum(ranks * plans.tp / _expert_split(plans), 1)
    zero = plans.zero_stage
    optimizer = _MASTER_AND_MOMENTS + np.where(zero > 0, _of_stack(plans, known, "step_bytes"), 0.0)
    master_is_weight = (zero >= 3) & (plans.adapters == 0)  # FSDP shards the master itself
    weight = np.where(master_is_weight, 4.0, weight)
    gradient = np.where(master_is_weight, 4.0, gradient)
    optimizer = np.where(master_is_weight, 8.0, optimizer)
    held = dict.fromkeys(("weights", "gradients", "optimizer"), np.zeros(len(cases)))
    for parameters_here, over in ((stage.parameters, ranks), (stage.expert_parameters, expert_ranks)):
        changing = parameters_here * trained
        held = {
            "weights": held["weights"] + parameters_here * weight / np.where(zero >= 3, over, 1),
            "gradients": held["gradients"] + changing * gradient / np.where(zero >= 2, over, 1),
            "optimizer": held["optimizer"] + changing * optimizer / np.where(zero >= 1, over, 1),
        }
    return held


def _bytes_a_parameter(cases: Cases, known: Coefficients) -> tuple[Floats, Floats]:
    """(bytes of a weight, bytes of its gradient) outside the optimizer.

    16-bit gradients in bf16 are summed in fp32; software without fused kernels also holds the 16-bit ones.
    Matrices of 8 bit and less are kept in that width: once more transposed where the chip multiplies in one
    layout only, or where scales run along rows; their gradients are 16-bit.
    """
    plans = cases.plans
    table = rates()
    transposing = np.isin(np.array(table.families)[table.family], known.transposing_families)
    narrow = table.narrow[cases.machines.kind, plans.precision] > 0
    copies = np.where((plans.precision == Precision.FP8) & ~transposing[cases.machines.kind], 1.0, 2.0)
    width = np.where(plans.precision == Precision.NVFP4, _FOUR_BIT_BYTES, 1.0)
    wide = np.isin(plans.precision, _FULL_WIDTH)
    weight = np.where(wide, 4.0, np.where(narrow, copies * width, 2.0))
    summed = 4.0 + _of_stack(plans, known, "second_gradient_bytes")
    sixteen = (plans.precision == Precision.FP16) | narrow
    return weight, np.where(wide, 4.0, np.where(sixteen, 2.0, summed))


def _layer_bytes(cases: Cases) -> tuple[Floats, Floats]:
    """Bytes a token of a micro-batch: (what a layer keeps for the backward pass, all its intermediate
    results).
    """
    shapes, plans = cases.shapes, cases.plans
    split = 1.0 / plans.tp
    between = np.where(plans.sequence_parallel > 0, split, 1.0)  # outside the tensor-parallel regions
    unfused = plans.attention == Attention.UNFUSED
    queries = shapes.heads * shapes.head_dim
    values = shapes.heads * np.where(shapes.value_head_dim > 0, shapes.value_head_dim, shapes.head_dim)
    keys_and_values = 2 * shapes.kv_heads * shapes.head_dim
    an_input = _input_bytes(cases)
    # two norms' inputs and outputs; where nothing is fused two dropout masks of a byte
    outside = shapes.hidden * (4.0 + 2.0 * an_input + np.where(unfused, 2.0, 0.0)) * between
    attention = (2.0 * (queries + keys_and_values) + an_input * values) * split
    scores = np.where(unfused, 5.0, 0.0) * shapes.heads * cases.seq_len / plans.cp * split
    feed_forward = _feed_forward_bytes(shapes, plans, an_input)
    whole = outside + attention + feed_forward
    of_input = 2.0 * shapes.hidden * between
    fully = plans.recompute_ratio * of_input + (1 - plans.recompute_ratio) * (whole + scores)
    # FSDP stacks mean by it that every other matrix is computed again, Megatron the core of attention alone
    selectively = np.where(plans.zero_stage >= 3, 0.5 * (of_input + whole), whole)
    kept = np.select(
        [plans.recompute == Recompute.FULL, plans.recompute == Recompute.SELECTIVE],
        [fully, selectively],
        whole + scores,
    )
    return kept, whole + scores


def _input_bytes(cases: Cases) -> Floats:
    """Bytes of a value that is kept as input of a matrix: in the width it was multiplied in.

    FSDP stacks cast on the fly and keep what they cast from.
    """
    plans = cases.plans
    narrow = rates().narrow[cases.machines.kind, plans.precision] > 0
    width = np.where(plans.precision == Precision.NVFP4, _FOUR_BIT_BYTES, 1.0)
    wide = np.isin(plans.precision, _FULL_WIDTH)
    return np.where(wide, 4.0, np.where(narrow & (plans.zero_stage < 3), width, 2.0))


def _feed_forward_bytes(shapes: Shapes, plans: Plans, an_input: Floats) -> Floats:
    """Bytes a token that the feed-forwards of a layer keep, dense and routed layers on average."""
    a_width = 2.0 * (1 + shapes.gated) + an_input  # into the activation (twice when gated) and out of it
    dense = a_width * shapes.ffn
    routed = (
        a_width * (shapes.top_k * shapes.expert_ffn + shapes.shared_ffn)
        + (an_input + 2.0) * shapes.top_k * shapes.hidden  # tokens sent to experts, and what comes back
    )
    mixture = np.where(shapes.experts > 0, 1 - shapes.dense_layers / np.maximum(shapes.layers, 1), 0.0)
    return np.asarray((dense * (1 - mixture) + routed * mixture) / plans.tp)


def _gathered(cases: Cases, stage: _Stage) -> Floats:
    """Bytes of 16-bit weights and fp32 gradients that ZeRO-3 holds whole for a while.

    Two layers, the next being fetched, and the embeddings, which belong to no layer. In a pipeline the
    stage's weights stay whole from its first micro-batch to its last.
    """
    plans = cases.plans
    whole = stage.parameters + stage.expert_parameters
    layers = np.maximum(stage.layers, 1)
    bodies = whole - stage.embeddings
    held = np.where(plans.pp > 1, whole, np.minimum(2 / layers, 1) * bodies + stage.embeddings)
    return np.where(plans.zero_stage >= 3, 6.0 * held, 0.0)
