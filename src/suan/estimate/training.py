"""Seconds of a training step, by what they are spent on, from mechanics alone.

Knows pipelines, recompute, what collectives hide behind and what a step does once. Does not know what was
measured: coefficients are rates.toml's, corrections residual.py's.
"""

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np

from suan.estimate.cases import Attention, Bools, Cases, Floats, Ints, Plans, Precision
from suan.estimate.collectives import (
    Fabric,
    all_reduce_s,
    dispatch_s,
    fabric_of,
    gather_s,
    group_of,
    send_s,
)
from suan.estimate.compute import Coefficients, Layers, Pass, layers_of
from suan.estimate.rates import Rates, coefficients, rates
from suan.estimate.shapes import parameters


class Bound(IntEnum):
    """What bounds a step: where the largest part of it goes."""

    COMPUTE = 0
    MEMORY = 1
    LAUNCH = 2
    NETWORK = 3
    BUBBLE = 4
    DATA = 5


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step. The parts add up to the total."""

    total_s: Floats
    gemm_s: Floats
    attention_s: Floats
    memory_bound_s: Floats
    recompute_s: Floats
    launch_s: Floats  # the device waits for its host
    tp_comm_s: Floats
    ep_comm_s: Floats
    cp_comm_s: Floats
    pp_comm_s: Floats
    bubble_s: Floats
    dp_comm_s: Floats  # what computing does not hide
    optimizer_s: Floats
    straggler_s: Floats
    data_s: Floats  # what a step does once: reading, logging, host work
    bound_by: Ints  # Bound

    def parts(self) -> dict[str, Floats]:
        """The parts by name, as they add up."""
        names = [f.name for f in fields(self) if f.name not in ("total_s", "bound_by")]
        return {name: getattr(self, name) for name in names}


BOUND_OF = {
    Bound.COMPUTE: ("gemm_s", "attention_s", "recompute_s"),
    Bound.MEMORY: ("memory_bound_s", "optimizer_s"),
    Bound.LAUNCH: ("launch_s",),
    Bound.NETWORK: ("tp_comm_s", "ep_comm_s", "cp_comm_s", "pp_comm_s", "dp_comm_s", "straggler_s"),
    Bound.BUBBLE: ("bubble_s",),
    Bound.DATA: ("data_s",),
}


# How well a host's launches hide behind the device's work: exponents of the norm that joins the two. A host
# that routes waits in every layer for how many tokens each expert gets, and does not run ahead.
# Source: chosen among 1.2, 1.5, 2 and 4 on measured runs left out of the fit, by groups and by sources.
AHEAD, ROUTED_AHEAD = 4.0, 2.0


@dataclass(frozen=True, slots=True)
class _Between:
    """Seconds of exposed communication of one layer of one micro-batch, all passes."""

    tp_s: Floats
    ep_s: Floats
    cp_s: Floats


def _narrow(plans: Plans) -> Bools:
    """Whether matrices are multiplied in floats of 8 bits or fewer."""
    return np.isin(plans.precision, (Precision.FP8, Precision.MXFP8, Precision.NVFP4))


def _smooth_max(left: Floats, right: Floats, power: Floats | float = 4.0) -> Floats:
    """The larger, a little more where both are alike: neither hides behind the other perfectly."""
    top = np.maximum(np.maximum(left, right), 1e-30)
    return top * ((left / top) ** power + (right / top) ** power) ** (1.0 / power)


def _between(cases: Cases, fabric: Fabric, layers: Layers, tuning: Coefficients) -> _Between:
    """Exposed communication inside layers."""
    shapes, plans = cases.shapes, cases.plans
    tokens = plans.micro_batch * cases.seq_len / plans.cp.astype(np.float64)
    hidden = shapes.hidden.astype(np.float64)
    again = np.where(layers.again.gemm_s > 0, plans.recompute_ratio, 0.0)
    passes = 2.0 + again  # forward, backward, forward again
    message = 2.0 * tokens * hidden
    tensors = group_of(fabric, plans.tp, 1)
    shown = np.where(plans.attention == Attention.UNFUSED, tuning["tp_exposed_unfused"], tuning["tp_exposed"])
    tp_s = 2.0 * passes * all_reduce_s(fabric, tensors, message) * shown
    routed = parameters(shapes).moe_layers / np.maximum(shapes.layers, 1)
    spread = np.where(plans.ep > 1, plans.tp, 1)
    # Of four ways a token goes, the two to its experts are in 8 bits where these compute so.
    # Source: DeepSeek-V3, arXiv 2412.19437, 3.3.3.
    sent = message / spread * np.where(_narrow(plans), 0.75, 1.0)
    experts = group_of(fabric, plans.ep, 1)
    ep_s = (
        2.0
        * passes
        * routed
        * dispatch_s(fabric, experts, sent, np.maximum(shapes.top_k, 1))
        * tuning["ep_exposed"]
    )
    ring = group_of(fabric, plans.cp, plans.tp)
    heads = np.minimum(shapes.kv_heads, shapes.heads).astype(np.float64)
    kept = 2.0 * tokens * heads * (shapes.head_dim + shapes.value_head_dim) / plans.tp
    ring_s = (passes + 1.0) * gather_s(fabric, ring, kept * plans.cp)
    attention = layers.forward.attention_s + layers.backward.attention_s + layers.again.attention_s
    cp_s = _smooth_max(attention, ring_s) - attention + tuning["cp_exposed"] * ring_s
    return _Between(tp_s, ep_s, cp_s)


def _weights_a_device(cases: Cases) -> tuple[Floats, Floats]:
    """(dense, expert) parameters one device holds before ZeRO splits them, its embedding counted."""
    shapes, plans = cases.shapes, cases.plans
    parts = parameters(shapes)
    experts = parts.expert_params
    dense = parts.body - experts + parts.tower
    embeddings = np.maximum(parts.input_embedding, parts.output_embedding)
    both = parts.input_embedding + parts.output_embedding
    embedding = np.where(plans.pp > 1, embeddings, both)
    spread = np.where(plans.ep > 1, plans.ep, plans.tp)
    return dense / (plans.tp * plans.pp) + embedding / plans.tp, experts / (plans.pp * spread)


def _replicas(cases: Cases, fabric: Fabric, covered_s: Floats, tuning: Coefficients) -> tuple[Floats, Floats]:
    """(exposed seconds of data-parallel collectives, seconds of the optimizer) a step."""
    plans = cases.plans
    dense, experts = _weights_a_device(cases)
    ranks = (plans.dp * plans.cp).astype(np.float64)
    stride = plans.tp
    replicas = group_of(fabric, ranks, stride)
    # Experts are replicated over what expert parallelism leaves of the data-parallel ranks.
    spread = np.where(plans.ep > 1, np.maximum(ranks * plans.tp / plans.ep, 1.0), ranks)
    apart = group_of(fabric, spread, np.where(plans.ep > 1, plans.ep, stride))
    narrow = _narrow(plans)
    weight = np.where(plans.precision == Precision.FP32, 4.0, np.where(narrow, 1.0, 2.0))
    # Gradients in bf16 are summed in fp32 and sent so, unless sharded; beside 8-bit matrices in bf16.
    halved = (plans.precision == Precision.FP16) | (plans.zero_stage >= 2)
    gradient = np.where(narrow, 2.0, np.where(halved, weight, 4.0))
    trained = np.where(plans.adapters > 0, 0.01, 1.0)

    def once(bytes_each: Floats) -> Floats:
        return gather_s(fabric, replicas, dense * bytes_each) + gather_s(fabric, apart, experts * bytes_each)

    reduced, gathered = once(gradient * trained), once(weight)
    plain = reduced + np.where(plans.zero_stage >= 1, gathered * trained, reduced)
    micro = cases.micro_batches
    sharded = micro * (2.0 * gathered + reduced)
    full_shard = plans.zero_stage >= 3
    hidden_s = np.where(full_shard, covered_s, covered_s / np.maximum(micro, 1.0) * 0.6)
    total = np.where(full_shard, sharded, plain)
    once_a_step = np.where(
        plans.attention == Attention.UNFUSED, tuning["dp_exposed_unfused"], tuning["dp_exposed"]
    )
    late = np.where(full_shard, tuning["fsdp_exposed"], once_a_step)
    behind = _smooth_max(hidden_s, total) - hidden_s
    exposed = late * total + (1.0 - late) * behind
    share = np.where(plans.zero_stage >= 1, 1.0 / ranks, 1.0)
    share_apart = np.where(plans.zero_stage >= 1, 1.0 / np.maximum(spread, 1.0), 1.0)
    states = (dense * share + experts * share_apart) * trained
    return exposed, states * tuning["optimizer_bytes"]


def step_time(cases: Cases, *, tuning: Coefficients | None = None, table: Rates | None = None) -> StepTime:
    """Seconds of a step of each case, by part."""
    tuning = coefficients() if tuning is None else tuning
    table = rates() if table is None else table
    shapes, plans = cases.shapes, cases.plans
    layers, device = layers_of(cases, table, tuning)
    fabric = fabric_of(cases.machines, table, network_ratio=tuning["network_ratio"])
    between = _between(cases, fabric, layers, tuning)
    micro = cases.micro_batches
    stages, chunks = plans.pp.astype(np.float64), plans.vpp.astype(np.float64)
    deepest = np.ceil(shapes.layers / (stages * chunks)) * chunks
    deepest = np.where(stages * chunks > shapes.layers, shapes.layers / stages, deepest)
    work = _added(layers)
    wire = between.tp_s + between.ep_s + between.cp_s
    host = layers.forward.launch_s + layers.backward.launch_s + layers.again.launch_s
    busy = work.device_s + wire
    waited = _smooth_max(busy, host, np.where(shapes.experts > 0, ROUTED_AHEAD, AHEAD)) - busy
    layer_s = busy + waited
    head_s = layers.head.device_s
    # The last stage has the logits too; schedulers even that out in part by giving it fewer layers.
    stage_s = deepest * layer_s + head_s * np.where(stages > 1, tuning["head_on_last"], 1.0)
    even_s = shapes.layers / stages * layer_s + head_s / stages
    stage_s = np.maximum(stage_s, even_s)
    sent = 2.0 * plans.micro_batch * cases.seq_len / plans.cp * shapes.hidden.astype(np.float64)
    sent = sent / np.where(plans.sequence_parallel > 0, plans.tp, 1)
    distance = np.maximum(cases.machines.devices // np.maximum(plans.pp, 1), 1)
    hop = send_s(fabric, distance, sent)
    pp_comm = np.where(stages > 1, 2.0 * (micro * chunks + stages - 1.0) * hop * tuning["pp_exposed"], 0.0)
    filled = micro * even_s
    bubble = (stages - 1.0) / chunks * stage_s + micro * (stage_s - even_s)
    dp_comm, states_bytes = _replicas(cases, fabric, filled, tuning)
    optimizer = states_bytes / device.memory_bytes_per_s
    even = micro * shapes.layers / stages
    parts = {
        "gemm_s": even * (layers.forward.gemm_s + layers.backward.gemm_s)
        + micro / stages * layers.head.gemm_s,
        "attention_s": even * (layers.forward.attention_s + layers.backward.attention_s),
        "memory_bound_s": even * (layers.forward.memory_s + layers.backward.memory_s)
        + micro / stages * layers.head.memory_s,
        "recompute_s": even * layers.again.device_s,
        "launch_s": even * waited,
        "tp_comm_s": even * between.tp_s,
        "ep_comm_s": even * between.ep_s,
        "cp_comm_s": even * between.cp_s,
        "pp_comm_s": pp_comm,
        "bubble_s": bubble,
        "dp_comm_s": dp_comm,
        "optimizer_s": optimizer,
        "data_s": np.full(len(cases), tuning["step_s"]),
    }
    worked = sum(parts.values())
    nodes = np.maximum(cases.machines.devices / cases.machines.devices_per_node, 1.0)
    parts["straggler_s"] = worked * tuning["straggler_ratio"] * np.log2(nodes)
    total = worked + parts["straggler_s"]
    sums = np.stack([sum(parts[name] for name in names) for names in BOUND_OF.values()])
    return StepTime(total_s=total, bound_by=np.argmax(sums, axis=0).astype(np.int64), **parts)


def _added(layers: Layers) -> Pass:
    """All passes of a layer together."""
    passes = (layers.forward, layers.backward, layers.again)
    return Pass(*(sum(getattr(each, f.name) for each in passes) for f in fields(Pass)))
