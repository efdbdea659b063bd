"""One run of pretraining on one rank: model, optimiser, data, and what a step does with them.

Does not know when to report, validate, save or stop: that is `loop.py`.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.packing import Documents, Rows, write_tokens
from suan.recipes.pretrain import layout as ranks
from suan.recipes.pretrain.args import FREE, Args, lr_ratio
from suan.recipes.pretrain.model import (
    Loss,
    RouterBias,
    config_of,
    load_sharded,
    prepare,
    write_first_weights,
)
from suan.recipes.pretrain.speed import flops_per_token, peak_flops
from suan.recipes.runtime import Context, arguments
from suan.recipes.tokenizer import read_documents

SPIKES_AFTER = 50  # steps that make a running mean worth comparing with
MEMORY = 0.98  # of the running mean and variance of the loss: about fifty steps


class Trainer:
    """Everything that steps need. Making one is collective: all ranks do it at the same time."""

    def __init__(self, context: Context[Args]) -> None:
        import torch
        from transformers import AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.context, self.args = context, context.args
        self.layout = ranks.layout_of(self.args, context.world_size, ranks.planned())
        self.device = ranks.open_group(context)
        self.base = context.inputs.get("model")  # to go on training, else None
        self.tokenizer = AutoTokenizer.from_pretrained(
            context.inputs.get("tokenizer") or context.input("model")
        )
        config = config_of(self.args, self.base or context.inputs.get("config"), self.tokenizer)
        described = config.to_json_string()  # before transformers writes its own into it, on some ranks only
        shared = ranks.node_folder(context)
        self._prepare_node(config, shared)
        self._open_data(shared)
        model = load_sharded(self.base or shared / "first", config, self.layout, self.device)
        self.parameters = model.num_parameters()
        self.flops_per_token = flops_per_token(model, self.args.seq_len)
        self.peak_flops = context.world_size * peak_flops(self.device, self.args.dtype)
        self.router_bias = RouterBias(model, self.args.router_bias_rate)
        prepare(model, self.args, self.layout)
        self.model, self.loss = model, Loss(model, self.args, self.layout, self.tokenizer.pad_token_id)
        matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
        vectors = [weight for weight in model.parameters() if weight.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.args.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate, betas=(0.9, 0.95))
        self.numbers: dict[str, Any] = {
            "step": 0,
            "val_loss": float("nan"),
            "first_val_loss": float("nan"),
            "loss_mean": 0.0,
            "loss_variance": 0.0,
            "skipped": 0,
            "fingerprint": self._fingerprint(described),
        }

    def _prepare_node(self, config: Any, folder: Path) -> None:
        """Tokens and first weights, written once a node by its first rank and read by all."""
        import torch.distributed as dist

        if self.context.world_size == 1 or self.context.local_rank == 0:
            corpus = self.context.input("corpus")
            for name, pattern in (("train", "train-*.jsonl"), ("valid", "valid.jsonl")):
                documents = read_documents(corpus, pattern)
                write_tokens(folder / name, documents, self.tokenizer, self.args.chat_ratio)
            if self.base is None:
                write_first_weights(config, self.args.seed, folder / "first")
        if self.context.world_size > 1:
            dist.barrier()

    def _open_data(self, folder: Path) -> None:
        length, seed = self.args.seq_len, self.args.seed
        self.valid = Documents(folder / "valid")
        self.rows = Rows(Documents(folder / "train"), length=length, seed=seed)
        self.valid_rows = Rows(self.valid, length=length, seed=seed)
        if not self.rows.per_epoch or not self.valid_rows.per_epoch:
            raise Refused(
                "corpus_too_small", f"the corpus fills no row of {length} tokens", hint="lower seq_len"
            )

    def _fingerprint(self, config: str) -> str:
        """Names what is learnt: data, model and settings, but not how the machine does it."""
        settings = {key: value for key, value in arguments(self.args).items() if key not in FREE}
        text = json.dumps([settings, config, self.rows.digest, self.base is not None], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def nats_to_bits_per_byte(self) -> float:
        return len(self.valid.tokens) / self.valid.bytes / math.log(2)

    def step(self, *flags: bool) -> tuple[float, float, list[bool]]:
        """Learns from the next batch: (its loss, the gradient's norm, each flag if it is on at any rank).

        A batch whose loss leaps, or is no number, is counted and left: the weights stay as they were.
        """
        import torch

        step, args = self.numbers["step"], self.args
        for group in self.optimizer.param_groups:
            group["lr"] = args.learning_rate * lr_ratio(step, args)
        rows = self.rows.batch(step, args.batch_rows)
        mine = self._tensor(rows[self.context.rank // self.layout.tp :: self.layout.dp])
        parts = mine.split(self.layout.micro_rows or len(mine))
        own = torch.zeros((), device=self.device)
        for part in parts:
            loss, language = self.loss(part)
            (loss * (len(part) / len(mine))).backward()
            own += language * (len(part) / len(mine))
        norm = ranks.clip_gradients(self.model, args.clip_norm)
        # One collective and one wait for the device a step; the next batch is not begun before it is known
        # whether this one counts.
        votes = torch.tensor([float(flag) for flag in flags], device=self.device)
        mean, *agreed = ranks.summed(torch.cat([own[None] / self.context.world_size, votes])).tolist()
        if self._leaps(mean) or not math.isfinite(float(norm)):
            self.numbers["skipped"] += 1
        else:
            self.optimizer.step()
            self.router_bias.step(ranks.summed)
        self.optimizer.zero_grad(set_to_none=True)
        self.numbers["step"] += 1
        return mean, float(norm), [bool(vote) for vote in agreed]

    def _leaps(self, loss: float) -> bool:
        """Whether a loss is far above the running mean, which then takes it in.

        A leap is taken in as no more than the limit: a lasting change of the data is followed in the end.
        """
        numbers, limit = self.numbers, math.inf
        if not math.isfinite(loss):
            return True
        if self.args.spike_sigma and numbers["step"] >= SPIKES_AFTER:
            limit = numbers["loss_mean"] + self.args.spike_sigma * math.sqrt(numbers["loss_variance"])
        weight = max(1.0 - MEMORY, 1.0 / (numbers["step"] + 1))
        off = min(loss, limit) - numbers["loss_mean"]
        numbers["loss_mean"] += weight * off
        numbers["loss_variance"] = (1.0 - weight) * (numbers["loss_variance"] + weight * off * off)
        return loss > limit

    def validate(self) -> float:
        """Loss on held-out text in nats a token.

        Every rank does all of it: it is little, and shards need them together.
        """
        import torch

        count = min(self.args.eval_rows, self.valid_rows.per_epoch)
        chunk = min(count, 16)
        self.model.eval()
        with torch.no_grad():
            # Whole chunks, so that each weighs the same.
            batches = (self._tensor(self.valid_rows.batch(index, chunk)) for index in range(count // chunk))
            losses = [float(self.loss(rows)[1]) for rows in batches]
        self.model.train()
        ranks.reshard(self.model)
        return sum(losses) / len(losses)

    def _tensor(self, rows: Any) -> Any:
        import torch

        return torch.from_numpy(rows).to(self.device, torch.long)
