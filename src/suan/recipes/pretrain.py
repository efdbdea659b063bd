"""pretrain: a corpus and a tokenizer in, a decoder trained from random weights out.

Knows the loop: packed rows, AdamW with warm-up and decay, clipping, validation, checkpoints that survive
`kill -9`. Runs as one process, or as many with DDP or FSDP2. Data are a function of the step, so a resumed
run sees what the unbroken one would have seen.
"""

import hashlib
import json
import math
import os
import sys
import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Checkpoint, Resources, Task
from suan.recipes import checkpoint
from suan.recipes.model_folder import build_model, export, versions
from suan.recipes.packing import Documents, Rows
from suan.recipes.runtime import EXIT_STOPPED, Context, arguments, command, run_stage
from suan.recipes.tokenizer import read_documents

# What one x86 core did in float32 with a model of a few million parameters; for the estimate before
# anything runs.
FLOPS_PER_CORE = 40e9
ASSUMED_VOCAB = 4096
REPORT_EVERY_S = 2.0


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of pretrain."""

    family: Annotated[Literal["qwen3", "llama"], Meta(description="Which architecture of transformers.")] = (
        "qwen3"
    )
    hidden_size: Annotated[int, Meta(ge=8, description="Width of the residual stream.")] = 192
    layers: Annotated[int, Meta(ge=1, description="Decoder blocks.")] = 4
    heads: Annotated[int, Meta(ge=1, description="Attention heads; they divide hidden_size.")] = 4
    kv_heads: Annotated[int, Meta(ge=1, description="Key and value heads; they divide heads.")] = 2
    intermediate_size: Annotated[
        int, Meta(ge=0, description="Width of the MLP; 0 means three times hidden_size.")
    ] = 0
    seq_len: Annotated[int, Meta(ge=8, description="Tokens a row.")] = 128
    batch_rows: Annotated[int, Meta(ge=1, description="Rows a step, over all ranks together.")] = 16
    steps: Annotated[int, Meta(ge=1, description="Optimiser steps.")] = 400
    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 3e-3
    schedule: Annotated[
        Literal["cosine", "wsd"],
        Meta(description="After warm-up: a cosine, or stable and then a linear fall."),
    ] = "cosine"
    warmup_ratio: Annotated[float, Meta(ge=0, lt=1, description="Part of the steps that warm up.")] = 0.05
    min_lr_ratio: Annotated[float, Meta(ge=0, le=1, description="Learning rate at the end, of the peak.")] = (
        0.05
    )
    weight_decay: Annotated[float, Meta(ge=0, description="Of matrices; norms have none.")] = 0.1
    clip_norm: Annotated[float, Meta(gt=0, description="Largest norm of the gradient.")] = 1.0
    chat_ratio: Annotated[
        float, Meta(ge=0, le=1, description="Part of the documents with messages that are shown as chats.")
    ] = 0.8
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Meta(description="Of matrix products; weights and moments stay float32."),
    ] = "float32"
    eval_every: Annotated[int, Meta(ge=1, description="Steps between validations.")] = 50
    eval_rows: Annotated[int, Meta(ge=1, description="Rows of held-out text in a validation, at most.")] = 64
    checkpoint_every_s: Annotated[float, Meta(gt=0, description="Seconds between checkpoints.")] = 20.0
    checkpoint_every_steps: Annotated[
        int, Meta(ge=0, description="Steps between checkpoints; 0: by time alone.")
    ] = 0
    sharding: Annotated[
        Literal["ddp", "fsdp"], Meta(description="With several ranks: copies of the model, or FSDP2 shards.")
    ] = "ddp"
    cpus: Annotated[int, Meta(ge=1, description="CPU cores to ask for when no accelerator is.")] = 2
    seed: Annotated[int, Meta(ge=0, description="Of weights and order.")] = 1


def parameters(args: Args, vocab_size: int = ASSUMED_VOCAB) -> int:
    """Weights of the model, tied embeddings counted once."""
    head = args.hidden_size // args.heads
    attention = args.hidden_size * head * 2 * (args.heads + args.kv_heads)
    mlp = 3 * args.hidden_size * (args.intermediate_size or 3 * args.hidden_size)
    return vocab_size * args.hidden_size + args.layers * (attention + mlp)


def task(args: Args) -> Task:
    """Cores or accelerators as the task file says; resumes from its checkpoints."""
    tokens = args.steps * args.batch_rows * args.seq_len
    return Task(
        name="pretrain",
        recipe="pretrain",
        run=command("pretrain"),
        args=arguments(args),
        inputs={"corpus": "dataset:corpus", "tokenizer": "tokenizer:tokenizer"},
        outputs={"model": "model:model"},
        resources=(Resources(cpus=args.cpus),),
        checkpoint=Checkpoint(every_s=max(1, round(args.checkpoint_every_s))),
        duration_s=20 + round(6 * parameters(args) * tokens / (FLOPS_PER_CORE * args.cpus)),
    )


def lr_ratio(step: int, args: Args) -> float:
    """Learning rate of a step, of the peak."""
    warmup = max(1, round(args.warmup_ratio * args.steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, args.steps - warmup)
    if args.schedule == "wsd":  # the last fifth falls
        return 1.0 if done < 0.8 else 1.0 - (1.0 - args.min_lr_ratio) * (done - 0.8) / 0.2
    return args.min_lr_ratio + (1.0 - args.min_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * done))


class Trainer:
    """Model, optimiser and data of one run on one rank."""

    def __init__(self, context: Context[Args]) -> None:
        import torch
        from transformers import AutoTokenizer

        self.context, self.args = context, context.args
        _check_shape(self.args, context.world_size)
        self.device = (
            torch.device("cuda", context.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        )
        if self.device.type == "cpu":
            torch.set_num_threads(context.threads)
        if context.world_size > 1:
            torch.distributed.init_process_group(
                "cuda:nccl,cpu:gloo" if self.device.type == "cuda" else "gloo"
            )
        self.tokenizer = AutoTokenizer.from_pretrained(context.input("tokenizer"))
        corpus = context.input("corpus")
        train = Documents(read_documents(corpus, "train-*.jsonl"), self.tokenizer, self.args.chat_ratio)
        self.valid = Documents(read_documents(corpus, "valid.jsonl"), self.tokenizer, self.args.chat_ratio)
        self.rows = Rows(train, length=self.args.seq_len, seed=self.args.seed)
        self.valid_rows = Rows(self.valid, length=self.args.seq_len, seed=self.args.seed)
        if not self.rows.per_epoch or not self.valid_rows.per_epoch:
            raise Refused(
                "corpus_too_small",
                f"{corpus} fills no row of {self.args.seq_len} tokens",
                hint="lower seq_len",
            )
        torch.manual_seed(self.args.seed)
        model = build_model(self.args, len(self.tokenizer), self.tokenizer).to(self.device)
        self.parameters = sum(weight.numel() for weight in model.parameters())
        self.model = _spread(model, self.args.sharding, context.world_size)
        matrices = [weight for weight in self.model.parameters() if weight.ndim >= 2]
        vectors = [weight for weight in self.model.parameters() if weight.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.args.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate, betas=(0.9, 0.95))
        settings = arguments(self.args) | {"data": train.digest, "vocab": len(self.tokenizer)}
        for free in (
            "checkpoint_every_s",
            "checkpoint_every_steps",
            "eval_every",
            "eval_rows",
            "cpus",
            "sharding",
        ):
            del settings[free]  # changing these does not change what is learnt
        fingerprint = hashlib.blake2b(
            json.dumps(settings, sort_keys=True).encode(), digest_size=16
        ).hexdigest()
        self.numbers: dict[str, Any] = {
            "step": 0,
            "val_loss": float("nan"),
            "first_val_loss": float("nan"),
            "fingerprint": fingerprint,
        }

    def loss(self, rows: Any) -> Any:
        """Mean loss of rows x (length + 1) tokens, in nats a token."""
        import torch

        tokens = torch.from_numpy(rows).to(self.device, torch.long)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.dtype == "bfloat16"):
            logits = self.model(input_ids=tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    def train_step(self, step: int) -> Any:
        """The loss of this rank's rows before the step was taken."""
        import torch

        ratio = lr_ratio(step, self.args)
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.learning_rate * ratio
        mine = self.rows.batch(step, self.args.batch_rows)[self.context.rank :: self.context.world_size]
        loss = self.loss(mine)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def validate(self) -> float:
        """Loss on held-out text in nats a token.

        Every rank does all of it: it is little, and FSDP needs them together.
        """
        import torch

        count = min(self.args.eval_rows, self.valid_rows.per_epoch)
        chunk = min(count, 16)
        with torch.no_grad():
            # Whole chunks, so that each weighs the same.
            losses = [
                float(self.loss(self.valid_rows.batch(index, chunk))) for index in range(count // chunk)
            ]
        return sum(losses) / len(losses)

    @property
    def nats_to_bits_per_byte(self) -> float:
        return len(self.valid.tokens) / self.valid.bytes / math.log(2)


def _check_shape(args: Args, world_size: int) -> None:
    for small, large, why in (
        (args.heads, args.hidden_size, "heads must divide hidden_size"),
        (2 * args.heads, args.hidden_size, "hidden_size / heads must be even"),
        (args.kv_heads, args.heads, "kv_heads must divide heads"),
        (world_size, args.batch_rows, "the number of ranks must divide batch_rows"),
    ):
        if large % small:
            raise Refused(
                "bad_recipe_args",
                f"{why}: {large} / {small}",
                hint="change one of the two",
                recipe="pretrain",
            )


def _spread(model: Any, sharding: str, world_size: int) -> Any:
    """The model as the ranks hold it. FSDP2 shards block by block; the rest goes with the root."""
    if world_size == 1:
        return model
    if sharding == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    for block in model.model.layers:
        fully_shard(block)
    return fully_shard(model)


def _agreed(context: Context[Args], *flags: bool) -> list[bool]:
    """Each flag, true when it is on any rank: ranks must checkpoint and stop at the same step."""
    if context.world_size == 1:
        return list(flags)
    import torch

    votes = torch.tensor([int(flag) for flag in flags])
    torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
    return [bool(vote) for vote in votes]


def train(trainer: Trainer) -> bool:
    """Runs the remaining steps; False when the site asked to stop first.

    The last checkpoint is then complete.
    """
    context, args, numbers = trainer.context, trainer.args, trainer.numbers
    folder = context.checkpoint
    if folder and (restored := checkpoint.load(folder, trainer.model, trainer.optimizer, numbers)):
        numbers |= restored
        context.progress.write(
            step=numbers["step"], total=args.steps, phase="resumed", val_loss=numbers["val_loss"]
        )
    else:
        numbers["val_loss"] = numbers["first_val_loss"] = trainer.validate()
        context.progress.write(step=0, total=args.steps, phase="train", val_loss=numbers["val_loss"])
    saved_s = reported_s = time.monotonic()
    reported_step = numbers["step"]
    while numbers["step"] < args.steps:
        loss = trainer.train_step(numbers["step"])
        numbers["step"] += 1
        step, now_s = numbers["step"], time.monotonic()
        last = step == args.steps
        if step % args.eval_every == 0 or last:
            numbers["val_loss"] = trainer.validate()
        if last or step % args.eval_every == 0 or now_s - reported_s > REPORT_EVERY_S:
            pace = (step - reported_step) * args.batch_rows * args.seq_len / max(1e-9, now_s - reported_s)
            context.progress.write(
                step=step,
                total=args.steps,
                phase="train",
                loss=float(loss),
                val_loss=numbers["val_loss"],
                tokens_per_s=round(pace),
                learning_rate=args.learning_rate * lr_ratio(step - 1, args),
            )
            reported_s, reported_step = time.monotonic(), step
        due = now_s - saved_s >= args.checkpoint_every_s
        if args.checkpoint_every_steps:
            due = due or step % args.checkpoint_every_steps == 0
        stop, due = _agreed(context, context.stopping, due)
        if folder and (due or stop or last):
            checkpoint.save(folder, trainer.model, trainer.optimizer, numbers)
            saved_s = time.monotonic()
        if stop and not last:
            return False
    return True


def finish(trainer: Trainer, seconds: float) -> None:
    """Writes the model folder and the final numbers."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    context, args, numbers = trainer.context, trainer.args, trainer.numbers
    weights = get_model_state_dict(
        trainer.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if context.rank:
        return
    results = {
        "val_loss": numbers["val_loss"],
        "first_val_loss": numbers["first_val_loss"],
        "val_bits_per_byte": numbers["val_loss"] * trainer.nats_to_bits_per_byte,
        "tokens": args.steps * args.batch_rows * args.seq_len,
        "parameters": trainer.parameters,
        "last_run_s": seconds,
    }
    plain = build_model(args, len(trainer.tokenizer), trainer.tokenizer)
    plain.load_state_dict(weights)
    manifest = {
        "name": os.environ.get("SUAN_JOB_ID") or context.output("model").name,
        "recipe": "pretrain",
        "args": arguments(args),
        "parameters": trainer.parameters,
        "inputs": {"training_tokens_digest": trainer.rows.digest, "documents": trainer.rows.documents},
        "results": {key: value for key, value in results.items() if key != "last_run_s"},
        "versions": versions("suan", "torch", "transformers", "tokenizers"),
    }
    export(context.output("model"), plain, trainer.tokenizer, manifest)
    context.metrics(**results)


def _body(context: Context[Args]) -> int:
    # Threads that wait by spinning take the cores from whoever they wait for, when a node is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    started_s = time.monotonic()
    context.progress.write(phase="load")
    trainer = Trainer(context)
    try:
        if not train(trainer):
            return EXIT_STOPPED
        finish(trainer, time.monotonic() - started_s)
    finally:
        if context.world_size > 1:
            torch.distributed.destroy_process_group()
    return 0


def main() -> int:
    return run_stage("pretrain", _body)


if __name__ == "__main__":
    sys.exit(main())
