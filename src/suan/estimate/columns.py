"""Cases from columns of text, as tables of training runs have them.

Knows how rows spell a precision, an attention or a recompute policy, and what stands in for what a row
leaves out. Does not read files, and never looks at what was measured.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from suan.estimate.cases import (
    Attention,
    Bools,
    Cases,
    Floats,
    Kind,
    Machines,
    Plans,
    Precision,
    Recompute,
    Shapes,
)
from suan.estimate.rates import kind_index, rates, usual_scaleout_gbps
from suan.estimate.shapes import completed, parameters
from suan.grid.error import Refused

Text = Sequence[str]

PRECISIONS = {
    "fp32": Precision.TF32,  # who trains in fp32 lets matrices use the tensor cores
    "float32": Precision.TF32,
    "tf32": Precision.TF32,
    "fp16": Precision.FP16,
    "float16": Precision.FP16,
    "half": Precision.FP16,
    "amp": Precision.BF16,
    "bf16": Precision.BF16,
    "bfloat16": Precision.BF16,
    "fp8": Precision.FP8,
    "float8": Precision.FP8,
    "mxfp8": Precision.MXFP8,
    "nvfp4": Precision.NVFP4,
    "fp4": Precision.NVFP4,
    "mxfp4": Precision.NVFP4,
    "int8": Precision.INT8,
    "int4": Precision.INT4,
}
# A model of this size is not trained whole on so few tokens a step: at the critical batch (a million tokens
# and more, Kaplan et al. 2020) it takes as long and far fewer steps.
LARGE_PARAMS, SMALL_STEP_TOKENS = 30e9, 1.1e6
SHORT_TOKENS = 8192.0  # of a micro-batch nobody states
UNKNOWN = -1  # a recompute policy or a ZeRO stage a row does not state


@dataclass(frozen=True, slots=True)
class Rows:
    """Cases of a table, and which parts of their plans the table left open."""

    cases: Cases
    layout_given: Bools  # dp, tp and pp are the row's own
    micro_batch_given: Bools
    zero_given: Bools
    recompute_given: Bools
    batch_given: Bools


def served_columns(shapes: Shapes, accelerator: str, devices: int) -> dict[str, str]:
    """One shape on some devices as a row of a table of serving runs."""
    named = {
        "layers": "layers", "hidden": "hidden", "heads": "heads", "kv_heads": "kv_heads", "ffn": "ffn",
        "vocab": "vocab", "n_experts": "experts", "topk": "top_k",
    }  # fmt: skip
    return {column: str(int(getattr(shapes, field)[0])) for column, field in named.items()} | {
        "params_b": str(float(shapes.params[0]) / 1e9),
        "active_params_b": str(float(shapes.active_params[0]) / 1e9),
        "kind": "moe" if int(shapes.experts[0]) else "dense",
        "accel": accelerator,
        "n_accel": str(devices),
    }


def numbers(text: Text, otherwise: float = 0.0) -> Floats:
    """A column of numbers; empty or unreadable is `otherwise`."""
    out = np.full(len(text), otherwise)
    for i, word in enumerate(text):
        if word:
            try:
                out[i] = float(word)
            except ValueError:
                continue
    return out


def precision_of(word: str) -> Precision:
    """The number format of the matrix multiplications `word` speaks of; the narrowest where it names
    several, bf16 where it is empty.

    Raises: Refused `unknown_precision`.
    """
    named = [PRECISIONS[part] for part in re.findall(r"[a-z]+\d*", word.lower()) if part in PRECISIONS]
    if word and not named:
        hint = f"one of {', '.join(PRECISIONS)}; or leave it empty, for bf16"
        raise Refused("unknown_precision", f"{word[:40]!r} is no precision", hint=hint, status=422)
    return max(named, default=Precision.BF16)


def recompute_of(word: str, layers: float) -> tuple[int, float]:
    """(policy, part of the layers it is in force in); `full-block-10` is ten layers of each stage."""
    word = word.lower()
    if not word:
        return UNKNOWN, 1.0
    if word.startswith("full"):
        count = re.search(r"(\d+)$", word)
        return Recompute.FULL, 1.0 if count is None or not layers else min(int(count[1]) / layers, 1.0)
    if word.startswith(("selective(layer", "selective(op")):
        return Recompute.FULL, 0.5  # every other layer, or every other matrix: torchtitan's
    return (Recompute.SELECTIVE if word.startswith("selective") else Recompute.NONE), 1.0


def power_cap_w_of(kind: str) -> float:
    """Watts a device is limited to, where its name says so (`H100-SXM-96-500W`); else 0."""
    watts = re.search(r"[-_ ](\d{2,4})W\b", kind)
    return float(watts[1]) if watts else 0.0


def attention_of(word: str) -> Attention:
    """How attention is computed: tuned to the chip where the row leaves it open, as frameworks choose
    today.
    """
    word = word.lower()
    if word in ("unfused", "eager", "math", "naive"):
        return Attention.UNFUSED
    tuned = not word or any(name in word for name in ("cudnn", "te", "flash3", "fa3", "tuned"))
    return Attention.FLASH_TUNED if tuned and "triton" not in word else Attention.FLASH


def read_rows(table: Mapping[str, Text]) -> Rows:
    """Cases of a table with the columns of published training runs; missing columns are as if empty."""
    size = len(next(iter(table.values()))) if table else 0
    blank = [""] * size

    def column(name: str) -> Text:
        return table.get(name, blank)

    def number(name: str, otherwise: float = 0.0) -> Floats:
        return numbers(column(name), otherwise)

    shapes = shapes_of(column, size)
    seq_len = np.where(number("seq_len") > 0, number("seq_len"), 4096.0)
    machines = _machines(column, size)
    given = (number("dp") > 0) & (number("tp") > 0) & (number("pp") > 0)
    plans, recompute = _plans(column, shapes, machines)
    batch = number("global_batch")
    plans = plans.with_columns(
        adapters=_adapters(column, shapes, plans, machines, tokens=batch * seq_len, layout_given=given)
    )
    # Four million tokens, as large runs have them, in whole micro-batches of the data-parallel ranks.
    ranks = np.maximum(plans.dp * plans.micro_batch, 1)
    usual = np.ceil(np.maximum(4.2e6 / seq_len, machines.devices) / ranks) * ranks
    plans = _whole_sequences(plans, batch)
    cases = Cases(
        shapes=shapes,
        plans=plans,
        machines=machines,
        seq_len=seq_len.astype(np.int64),
        global_batch=np.where(batch > 0, batch, usual).astype(np.int64),
    )
    return Rows(
        cases=cases,
        layout_given=given,
        micro_batch_given=number("micro_batch") > 0,
        zero_given=number("zero_stage", UNKNOWN) >= 0,
        recompute_given=recompute,
        batch_given=batch > 0,
    )


def shapes_of(column: Callable[[str], Text], size: int) -> Shapes:
    """Shapes of so many rows, what they lack filled in."""

    def number(name: str, otherwise: float = 0.0) -> Floats:
        return numbers(column(name), otherwise)

    routed = (number("n_experts") > 0) | np.array(
        [word.lower() == "moe" for word in column("kind")], dtype=bool
    )
    return completed(
        Shapes.filled(
            size,
            layers=number("layers"),
            hidden=number("hidden"),
            heads=number("heads"),
            kv_heads=number("kv_heads"),
            head_dim=number("head_dim"),
            ffn=number("ffn"),
            gated=number("gated_mlp", -1),
            tied=number("tied_emb"),
            vocab=number("vocab"),
            experts=number("n_experts"),
            top_k=number("topk"),
            expert_ffn=number("moe_ffn"),
            shared_ffn=np.where(routed, number("shared_ffn", -1), 0),
            kind_code=np.where(routed, Kind.MOE, Kind.DENSE),
            params=number("params_b") * 1e9,
            active_params=number("active_params_b") * 1e9,
        )
    )


def _machines(column: Callable[[str], Text], size: int) -> Machines:
    """Machines of the rows; a node nobody described is the usual one of its kind."""
    kind = np.array([kind_index(name) for name in column("accel")], dtype=np.int64)
    devices = np.maximum(numbers(column("n_accel"), 1), 1)
    per_node = numbers(column("accel_per_node"))
    per_node = np.where(per_node > 0, per_node, np.minimum(devices, 8))
    network = numbers(column("scaleout_gbps_per_node"))
    network = np.where(network > 0, network, usual_scaleout_gbps(kind, per_node))
    return Machines.filled(
        size,
        kind=kind,
        devices=devices,
        devices_per_node=per_node,
        scaleout_gbps_per_node=network,
        power_cap_w=[power_cap_w_of(name) for name in column("accel")],
    )


def _plans(column: Callable[[str], Text], shapes: Shapes, machines: Machines) -> tuple[Plans, Bools]:
    """Plans of the rows, and which of them state a recompute policy. An unknown split counts as 1."""

    def number(name: str) -> Floats:
        return np.maximum(numbers(column(name), 1), 1)

    tp, pp, cp = number("tp"), number("pp"), number("cp")
    whole = numbers(column("dp"))
    rest = np.maximum(np.floor(machines.devices / (tp * pp * cp)), 1)
    policies = [
        recompute_of(word, depth) for word, depth in zip(column("recompute"), shapes.layers, strict=True)
    ]
    recompute = np.array([policy for policy, _ in policies], dtype=np.int64)
    attention = np.array([attention_of(word) for word in column("attn_impl")], dtype=np.int64)
    stated = recompute != UNKNOWN
    # Not stated: on wherever tensors are split, in software of fused attention; both came in 2022.
    split = numbers(column("seq_parallel"), UNKNOWN)
    split = np.where(split < 0, attention != Attention.UNFUSED, split)
    plans = Plans.filled(
        len(shapes),
        dp=np.where(whole > 0, whole, rest),
        tp=tp,
        pp=pp,
        vpp=number("vpp"),
        ep=number("ep"),
        cp=cp,
        zero_stage=np.maximum(numbers(column("zero_stage"), 1), 0),
        sequence_parallel=np.where(tp > 1, split, 0),
        micro_batch=_micro_batch(column, pp),
        recompute=np.where(stated, recompute, Recompute.SELECTIVE),
        recompute_ratio=np.array([ratio for _, ratio in policies]),
        precision=np.array([precision_of(word) for word in column("precision")], dtype=np.int64),
        attention=attention,
    )
    return plans, stated


def _whole_sequences(plans: Plans, batch: Floats) -> Plans:
    """Ranks there are no sequences for share those there are: what a row calls data parallelism is context
    then.
    """
    beyond = (batch > 0) & (plans.dp > batch) & (plans.dp % np.maximum(batch, 1) == 0)
    share = np.where(beyond, plans.dp / np.maximum(batch, 1), 1)
    return plans.with_columns(dp=plans.dp / share, cp=plans.cp * share)


def _micro_batch(column: Callable[[str], Text], stages: Floats) -> Floats:
    """Sequences of a micro-batch. A pipeline is never fed its whole batch at once: a row that says so counts
    the batch of a rank, which is cut into single sequences."""
    micro = numbers(column("micro_batch"))
    dp = np.maximum(numbers(column("dp")), 1)
    rank_batch = numbers(column("global_batch")) / dp
    # Not stated: as many as keep a pipeline filled, of not more than SHORT_TOKENS.
    fills = np.where(stages > 1, rank_batch / (4.0 * stages), rank_batch)
    few = np.minimum(fills, SHORT_TOKENS / np.maximum(numbers(column("seq_len"), 2048), 1))
    usual = 2.0 ** np.floor(np.log2(np.maximum(few, 1.0)))
    usual = np.where(rank_batch % usual == 0, usual, 1.0)
    micro = np.where(micro > 0, micro, usual)
    whole = (stages > 1) & (micro > 1) & (rank_batch > 0) & (micro >= rank_batch)
    return np.where(whole, 1.0, micro)


def _adapters(
    column: Callable[[str], Text],
    shapes: Shapes,
    plans: Plans,
    machines: Machines,
    *,
    tokens: Floats,
    layout_given: Bools,
) -> Floats:
    """1 where only adapters are trained: the row says so (`adapters`, or a stage called lora), or nothing
    else can be.

    What else says so: weights, gradients and optimizer states that no device of the plan can hold; or a
    large model's step of few tokens whose row speaks of no optimizer sharding at all.
    """
    said = numbers(column("adapters"), UNKNOWN)
    said = np.where([word.lower() in ("lora", "qlora", "peft") for word in column("stage")], 1.0, said)
    parts = parameters(shapes)
    split = plans.tp * plans.pp
    experts = parts.expert_params / (plans.pp * np.where(plans.ep > 1, plans.ep, plans.tp))
    weights = (parts.total - parts.expert_params) / split + experts
    ranks = np.maximum(plans.dp * plans.cp, 1)
    held = np.where(
        plans.zero_stage >= 3, 16.0 / ranks, 4.0 + 12.0 / np.where(plans.zero_stage >= 1, ranks, 1)
    )
    too_large = layout_given & (weights * held > 1.2 * rates().memory_bytes[machines.kind])
    unstated = numbers(column("zero_stage"), UNKNOWN) < 0
    small_step = (tokens > 0) & (tokens < SMALL_STEP_TOKENS) & (shapes.params > LARGE_PARAMS)
    return np.where(said >= 0, said, too_large | (unstated & small_step))
