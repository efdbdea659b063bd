"""The loop: steps, reports, validations, checkpoints, a stop when the site asks, and the model at the end.

Data are a function of the step, so a resumed run sees what the unbroken one would have seen.
"""

import os
import time
from typing import Any

from suan.recipes.checkpoint import Checkpoints
from suan.recipes.model_folder import describe, export
from suan.recipes.pretrain.args import Args, lr_ratio
from suan.recipes.pretrain.layout import start_processes
from suan.recipes.pretrain.trainer import Trainer
from suan.recipes.runtime import EXIT_STOPPED, Context

REPORT_EVERY_S = 2.0


def train(trainer: Trainer) -> bool:
    """Runs the remaining steps; False when the site asked to stop first.

    The last checkpoint is then complete.
    """
    context, args, numbers = trainer.context, trainer.args, trainer.numbers
    checkpoints = Checkpoints(context.checkpoint) if context.checkpoint else None
    report = Report(trainer)
    if checkpoints and (restored := checkpoints.load(trainer.model, trainer.optimizer, numbers)):
        numbers |= restored
        report.write("resumed", val_loss=numbers["val_loss"])
    else:
        numbers["val_loss"] = numbers["first_val_loss"] = trainer.validate()
        report.write("train", val_loss=numbers["val_loss"])
    report.begin()
    saved_s, stop = time.monotonic(), False
    while numbers["step"] < args.steps and not stop:
        due = time.monotonic() - saved_s >= args.checkpoint_every_s
        loss, norm, (stop, due) = trainer.step(context.stopping, due)
        step, last = numbers["step"], numbers["step"] == args.steps
        if args.checkpoint_every_steps:
            due = due or step % args.checkpoint_every_steps == 0
        evaluated = step % args.eval_every == 0 or last
        if evaluated:
            numbers["val_loss"] = trainer.validate()
        if evaluated or report.due:
            report.step(loss, norm)
        if checkpoints and (due or stop or last):
            checkpoints.save(trainer.model, trainer.optimizer, numbers)
            saved_s = time.monotonic()
        elif checkpoints:
            checkpoints.settle()
    if checkpoints:
        checkpoints.close()
    return numbers["step"] == args.steps


class Report:
    """What the run says of itself: where it is, what it learns, how fast, and how well it uses devices."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.begin()

    def begin(self) -> None:
        """Pace counts from here."""
        self._since_s, self._since_step = time.monotonic(), self._trainer.numbers["step"]

    @property
    def due(self) -> bool:
        return time.monotonic() - self._since_s > REPORT_EVERY_S

    def write(self, phase: str, **numbers: float) -> None:
        trainer = self._trainer
        step, total = trainer.numbers["step"], trainer.args.steps
        trainer.context.progress.write(step=step, total=total, phase=phase, **numbers)

    def step(self, loss: float, norm: float) -> None:
        """A line after a step; pace since the line before."""
        trainer, args, numbers = self._trainer, self._trainer.args, self._trainer.numbers
        tokens = (numbers["step"] - self._since_step) * args.batch_rows * args.seq_len
        pace = tokens / max(1e-9, time.monotonic() - self._since_s)
        shown: dict[str, float] = {
            "loss": loss,
            "val_loss": numbers["val_loss"],
            "tokens_per_s": round(pace),
            "gradient_norm": norm,
            "learning_rate": args.learning_rate * lr_ratio(numbers["step"] - 1, args),
            "skipped": numbers["skipped"],
        }
        if trainer.peak_flops:
            shown["mfu_ratio"] = pace * trainer.flops_per_token / trainer.peak_flops
        self.write("train", **shown)
        self.begin()


def finish(trainer: Trainer, seconds: float) -> None:
    """Writes the model folder and the final numbers. Every rank calls it; the first one writes."""
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from transformers import AutoModelForCausalLM

    context, args, numbers = trainer.context, trainer.args, trainer.numbers
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(trainer.model, options=options)
    if context.rank:
        return
    results = {
        "val_loss": numbers["val_loss"],
        "first_val_loss": numbers["first_val_loss"],
        "val_bits_per_byte": numbers["val_loss"] * trainer.nats_to_bits_per_byte,
        "tokens": args.steps * args.batch_rows * args.seq_len,
        "skipped_batches": numbers["skipped"],
        "parameters": trainer.parameters,
    }
    config = trainer.model.config
    config.distributed_config = None
    with torch.device("meta"):  # the weights are put in whole: none need be drawn first
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    folder = context.output("model")
    export(folder, plain, trainer.tokenizer)
    kind = "mixture of experts" if hasattr(config, "num_experts_per_tok") else "dense decoder"
    begun = "random weights" if trainer.base is None else "the weights of another model"
    describe(
        folder,
        recipe="pretrain",
        args=args,
        inputs=context.inputs,
        results=results,
        about=f"A {kind} ({config.model_type}, {trainer.parameters / 1e6:.2f} M), trained from {begun}.",
    )
    context.metrics(**results, last_run_s=seconds)


def body(context: Context[Args]) -> int:
    """The stage, from its folders to its folder."""
    # Threads that wait by spinning take the cores from whoever they wait for, when a node is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start_processes(context.args)
    import torch

    started_s = time.monotonic()
    context.progress.write(phase="load")
    try:
        trainer: Any = Trainer(context)
        if not train(trainer):
            return EXIT_STOPPED
        finish(trainer, time.monotonic() - started_s)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
