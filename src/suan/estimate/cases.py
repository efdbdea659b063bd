"""Cases: what is estimated, many at once, as arrays of equal length.

A case is one model on one machine under one plan. Everything here is a column of n numbers; one is n = 1.
Knows how cases are held, cut and joined. Does not know what any of them costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Kind(IntEnum):
    """What family of transformer a shape is."""

    DENSE = 0  # a decoder, every parameter used for every token
    MOE = 1  # a decoder with routed experts
    ENCODER = 2  # bidirectional text encoder
    VISION = 3  # vision transformer
    VISION_LANGUAGE = 4  # a decoder behind a vision tower


class Precision(IntEnum):
    """Number format of the matrix multiplications."""

    FP32 = 0
    TF32 = 1
    FP16 = 2
    BF16 = 3
    FP8 = 4  # one scale a tensor, a row or a block of 128
    MXFP8 = 5  # one scale for 32 numbers
    NVFP4 = 6
    INT8 = 7
    INT4 = 8


class Recompute(IntEnum):
    """What of the forward pass is done again in the backward pass."""

    NONE = 0
    SELECTIVE = 1  # the core of attention: scores, softmax, dropout
    FULL = 2  # every layer from its input


class Attention(IntEnum):
    """How the core of attention is computed."""

    UNFUSED = 0  # scores and probabilities go through memory
    FLASH = 1  # fused, one kernel for many generations of chips (Triton, FlashAttention-2, SDPA)
    FLASH_TUNED = 2  # fused, made for the very chip (cuDNN, Transformer Engine, FlashAttention-3)


class Columns:
    """n cases of one thing, a column a field. Columns are numpy arrays of one length."""

    DEFAULTS: ClassVar[dict[str, float]] = {}
    INTEGERS: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def filled(cls, size: int, **columns: Any) -> Self:
        """`size` cases from `columns` (numbers or arrays); a column not given has its default."""
        unknown = columns.keys() - {field.name for field in fields(cls)}  # type: ignore[arg-type]
        assert not unknown, f"{cls.__name__} has no {sorted(unknown)}"
        whole: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            value = columns.get(field.name, cls.DEFAULTS.get(field.name, 0))
            kind = np.int64 if field.name in cls.INTEGERS else np.float64
            whole[field.name] = np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=kind), (size,)))
        return cls(**whole)

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def take(self, index: Any) -> Self:
        """The cases at `index` (positions, a mask or a slice), in that order."""
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})  # type: ignore[arg-type]

    def repeat(self, times: int) -> Self:
        """Each case `times` times, the copies of one case beside each other."""
        return self.take(np.repeat(np.arange(len(self)), times))

    def with_columns(self, **columns: Any) -> Self:
        """The same cases with these columns in place of theirs."""
        whole = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self).filled(len(self), **{**whole, **columns})

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """All cases of `parts`, in order."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, slots=True)
class Shapes(Columns):
    """Shapes of models. Counts as the model's config has them; what a model has not is 0."""

    layers: Ints
    hidden: Ints
    heads: Ints
    kv_heads: Ints
    head_dim: Ints  # of queries and keys
    value_head_dim: Ints
    query_rank: Ints  # latent attention: rank queries are projected through; 0 is directly
    kv_rank: Ints  # latent attention: width of the latent; 0 is ordinary attention
    rope_dim: Ints  # latent attention: part of head_dim that carries the position
    ffn: Ints  # width of the dense feed-forward
    gated: Ints  # 1: three matrices a feed-forward (SwiGLU, GeGLU); 0: two
    tied: Ints  # 1: input and output embeddings are one matrix
    vocab: Ints
    experts: Ints  # routed experts a layer; 0 is dense
    top_k: Ints
    expert_ffn: Ints
    shared_ffn: Ints  # width of the experts every token passes, together
    dense_layers: Ints  # layers of a mixture that have a dense feed-forward
    causal: Ints  # 1: a token sees those before it
    window: Ints  # tokens a token sees at most; 0 is all
    window_layers: Ints  # layers the window is in force in
    kind_code: Ints  # Kind
    tower_params: Floats  # a vision tower in front of the decoder
    tower_tokens: Ints  # patches the tower reads a sequence
    params: Floats  # all
    active_params: Floats  # those a token passes

    INTEGERS: ClassVar[frozenset[str]] = frozenset(
        [
            "layers",
            "hidden",
            "heads",
            "kv_heads",
            "head_dim",
            "value_head_dim",
            "query_rank",
            "kv_rank",
            "rope_dim",
            "ffn",
            "gated",
            "tied",
            "vocab",
            "experts",
            "top_k",
            "expert_ffn",
            "shared_ffn",
            "dense_layers",
            "causal",
            "window",
            "window_layers",
            "kind_code",
            "tower_tokens",
        ]
    )
    DEFAULTS: ClassVar[dict[str, float]] = {"causal": 1, "gated": 1}


@dataclass(frozen=True, slots=True)
class Plans(Columns):
    """How a training run is laid over devices: dp x tp x pp x cp = devices; ep divides dp x cp (x tp)."""

    dp: Ints
    tp: Ints
    pp: Ints
    vpp: Ints  # model chunks a pipeline stage; 1 is plain 1F1B
    ep: Ints
    cp: Ints
    zero_stage: Ints  # 0 none, 1 optimizer, 2 and gradients, 3 and weights (FSDP)
    sequence_parallel: Ints  # 1: activations outside tensor-parallel regions are split too
    micro_batch: Ints  # sequences
    recompute: Ints  # Recompute
    recompute_ratio: Floats  # part of the layers that full recompute is in force in
    precision: Ints  # Precision
    attention: Ints  # Attention
    adapters: Ints  # 1: weights are frozen, only adapters are trained (LoRA)

    INTEGERS: ClassVar[frozenset[str]] = frozenset(
        [
            "dp",
            "tp",
            "pp",
            "vpp",
            "ep",
            "cp",
            "zero_stage",
            "sequence_parallel",
            "micro_batch",
            "recompute",
            "precision",
            "attention",
            "adapters",
        ]
    )
    DEFAULTS: ClassVar[dict[str, float]] = {
        **dict.fromkeys(["dp", "tp", "pp", "vpp", "ep", "cp", "micro_batch", "recompute_ratio"], 1),
        "precision": Precision.BF16,
        "attention": Attention.FLASH,
    }


@dataclass(frozen=True, slots=True)
class Machines(Columns):
    """Devices of one kind in nodes."""

    kind: Ints  # position in rates.kinds()
    devices: Ints
    devices_per_node: Ints
    scaleout_gbps_per_node: Floats  # gigabit a second, one direction, all network cards of a node
    power_cap_w: Floats  # limit set on a device; 0 is its design power

    INTEGERS: ClassVar[frozenset[str]] = frozenset(["kind", "devices", "devices_per_node"])
    DEFAULTS: ClassVar[dict[str, float]] = {
        "devices": 1,
        "devices_per_node": 8,
        "scaleout_gbps_per_node": 800,
    }


@dataclass(frozen=True, slots=True)
class Cases:
    """Training runs to estimate: a shape under a plan on a machine, and the batch of a step."""

    shapes: Shapes
    plans: Plans
    machines: Machines
    seq_len: Ints
    global_batch: Ints  # sequences a step

    def __post_init__(self) -> None:
        sizes = {len(getattr(self, field.name)) for field in fields(self)}
        assert len(sizes) == 1, f"columns of {sorted(sizes)} cases"

    def __len__(self) -> int:
        return len(self.seq_len)

    def take(self, index: Any) -> "Cases":
        """The cases at `index` (positions, a mask or a slice), in that order."""
        return Cases(
            shapes=self.shapes.take(index),
            plans=self.plans.take(index),
            machines=self.machines.take(index),
            seq_len=self.seq_len[index],
            global_batch=self.global_batch[index],
        )

    def with_plans(self, plans: Plans) -> "Cases":
        """The same cases under other plans."""
        return Cases(self.shapes, plans, self.machines, self.seq_len, self.global_batch)

    @classmethod
    def concat(cls, parts: Sequence["Cases"]) -> "Cases":
        """All cases of `parts`, in order."""
        return cls(
            shapes=Shapes.concat([part.shapes for part in parts]),
            plans=Plans.concat([part.plans for part in parts]),
            machines=Machines.concat([part.machines for part in parts]),
            seq_len=np.concatenate([part.seq_len for part in parts]),
            global_batch=np.concatenate([part.global_batch for part in parts]),
        )

    @property
    def tokens(self) -> Floats:
        """Tokens a step."""
        return self.seq_len.astype(np.float64) * self.global_batch

    @property
    def micro_batches(self) -> Floats:
        """Micro-batches a step and data-parallel rank; at least one."""
        per_rank = self.global_batch / (self.plans.dp * self.plans.micro_batch)
        return np.maximum(np.ceil(per_rank - 1e-9), 1.0)
