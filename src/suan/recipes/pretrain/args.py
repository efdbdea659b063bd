"""What pretraining can be told, and what those numbers amount to.

Knows arguments, sizes of a model and the learning rate of a step. Pure: imports nothing heavy, runs nothing.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

ASSUMED_VOCAB = 4096
MIXTURES = ("qwen3_moe", "mixtral", "olmoe", "deepseek_v3")


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of pretrain."""

    # ---- the model, unless an input `config` or `model` brings its config.json
    family: Annotated[
        Literal["qwen3", "llama", "qwen3_moe", "mixtral", "olmoe", "deepseek_v3"],
        Meta(description="Which architecture of transformers; an input `config` or `model` goes before."),
    ] = "qwen3"
    hidden_size: Annotated[int, Meta(ge=8, description="Width of the residual stream.")] = 192
    layers: Annotated[int, Meta(ge=1, description="Decoder blocks.")] = 4
    heads: Annotated[int, Meta(ge=1, description="Attention heads; they divide hidden_size.")] = 4
    kv_heads: Annotated[int, Meta(ge=1, description="Key and value heads; they divide heads.")] = 2
    intermediate_size: Annotated[
        int, Meta(ge=0, description="Width of a dense MLP; 0 means three times hidden_size.")
    ] = 0
    experts: Annotated[
        int, Meta(ge=0, description="Experts of a layer, in a mixture; 0 in a dense model.")
    ] = 0
    experts_per_token: Annotated[int, Meta(ge=1, description="Experts that each token goes through.")] = 2
    expert_size: Annotated[int, Meta(ge=0, description="Width of an expert; 0 means hidden_size.")] = 0
    shared_expert_size: Annotated[
        int, Meta(ge=0, description="Width of the expert that all tokens go through, in deepseek_v3.")
    ] = 0
    tied_embeddings: Annotated[bool, Meta(description="One matrix for tokens in and tokens out.")] = True
    # ---- what is learnt, and how
    seq_len: Annotated[int, Meta(ge=8, description="Tokens a row.")] = 128
    batch_rows: Annotated[int, Meta(ge=1, description="Rows a step, over all ranks together.")] = 16
    steps: Annotated[int, Meta(ge=1, description="Optimiser steps.")] = 400
    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 3e-3
    schedule: Annotated[
        Literal["cosine", "wsd"],
        Meta(description="After warm-up: a cosine, or stable and then a linear fall."),
    ] = "cosine"
    warmup_ratio: Annotated[float, Meta(ge=0, lt=1, description="Part of the steps that warm up.")] = 0.05
    decay_ratio: Annotated[
        float, Meta(gt=0, le=1, description="Part of the steps after warm-up that fall, in wsd.")
    ] = 0.2
    min_lr_ratio: Annotated[float, Meta(ge=0, le=1, description="Learning rate at the end, of the peak.")] = (
        0.05
    )
    weight_decay: Annotated[float, Meta(ge=0, description="Of matrices; norms have none.")] = 0.1
    clip_norm: Annotated[float, Meta(gt=0, description="Largest norm of the gradient.")] = 1.0
    spike_sigma: Annotated[
        float,
        Meta(
            ge=0,
            description="A batch whose loss is so many deviations above the running mean is not learnt "
            "from; 0: only one that is no number.",
        ),
    ] = 6.0
    router_aux_loss: Annotated[
        float, Meta(ge=0, description="Weight of the loss that spreads tokens over experts.")
    ] = 0.001
    router_bias_rate: Annotated[
        float, Meta(ge=0, description="Step of the bias that does so in deepseek_v3, which has no such loss.")
    ] = 0.001
    chat_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Part of the documents with messages that are shown as chats.")
    ] = 0.8
    document_mask: Annotated[
        bool, Meta(description="Whether a document sees none of those before it in its row.")
    ] = False
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="Of matrix products; weights and moments stay float32."),
    ] = "float32"
    # ---- how the machine does it; none of these changes what is learnt
    sharding: Annotated[
        Literal["plan", "fsdp", "ddp"],
        Meta(
            description="What ranks beside the sizes below do: as the grid plans (else as fsdp), shards "
            "of the weights, or copies."
        ),
    ] = "plan"
    tp_size: Annotated[int, Meta(ge=0, description="Ranks that split each matrix; 0: as planned.")] = 0
    ep_size: Annotated[
        int, Meta(ge=0, description="Ranks that split the experts, out of fsdp x tp; 0: as planned.")
    ] = 0
    fsdp_size: Annotated[int, Meta(ge=0, description="Ranks that shard the weights; 0: as planned.")] = 0
    dp_replicate_size: Annotated[
        int, Meta(ge=0, description="Copies of such a group of ranks; 0: as planned.")
    ] = 0
    processes_per_node: Annotated[
        int, Meta(ge=0, description="Ranks on a node; 0: one an accelerator, or one where there is none.")
    ] = 0
    micro_rows: Annotated[
        int, Meta(ge=0, description="Rows of a rank that go through at once; 0: as planned, or all.")
    ] = 0
    activation_checkpointing: Annotated[
        bool, Meta(description="Whether blocks run forward twice to hold less memory.")
    ] = False
    compile: Annotated[bool, Meta(description="Whether torch.compile makes kernels of each block.")] = False
    loss: Annotated[
        Literal["chunked", "plain"],
        Meta(description="Whether the output head and the loss are one step that never holds all logits."),
    ] = "chunked"
    eval_every: Annotated[int, Meta(ge=1, description="Steps between validations.")] = 50
    eval_rows: Annotated[int, Meta(ge=1, description="Rows of held-out text in a validation, at most.")] = 64
    checkpoint_every_s: Annotated[float, Meta(gt=0, description="Seconds between checkpoints.")] = 20.0
    checkpoint_every_steps: Annotated[
        int, Meta(ge=0, description="Steps between checkpoints; 0: by time alone.")
    ] = 0
    cpus: Annotated[int, Meta(ge=1, description="CPU cores to ask for when no accelerator is.")] = 2
    seed: Annotated[int, Meta(ge=0, description="Of weights and order.")] = 1


# What may differ between a run and the run that goes on from its checkpoint.
FREE = frozenset(
    {"sharding", "tp_size", "ep_size", "fsdp_size", "dp_replicate_size", "processes_per_node", "micro_rows"}
    | {"activation_checkpointing", "compile", "loss", "eval_every", "eval_rows", "cpus"}
    | {"checkpoint_every_s", "checkpoint_every_steps"}
)


def expert_width(args: Args) -> int:
    return args.expert_size or args.hidden_size


def active_parameters(args: Args, vocab_size: int = ASSUMED_VOCAB) -> int:
    """Weights that one token goes through, by the arguments alone; the embedding counts once, as output."""
    head = args.hidden_size // args.heads
    attention = args.hidden_size * head * 2 * (args.heads + args.kv_heads)
    if args.family in MIXTURES:
        mlp_width = args.experts_per_token * expert_width(args) + args.shared_expert_size
    else:
        mlp_width = args.intermediate_size or 3 * args.hidden_size
    return vocab_size * args.hidden_size + args.layers * (attention + 3 * args.hidden_size * mlp_width)


def lr_ratio(step: int, args: Args) -> float:
    """Learning rate of a step, of the peak."""
    warmup = max(1, round(args.warmup_ratio * args.steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, args.steps - warmup)
    if args.schedule == "wsd":
        falling = max(0.0, done - (1.0 - args.decay_ratio)) / args.decay_ratio
        return 1.0 - (1.0 - args.min_lr_ratio) * falling
    return args.min_lr_ratio + (1.0 - args.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))
