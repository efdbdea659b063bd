"""sft: a model and conversations in, a model that answers like their assistant out.

Knows TRL's SFTTrainer: loss on what the assistant says alone, packing, all weights or LoRA. Does not know
what the conversations are about.
"""

import sys
from typing import Annotated, Any

from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Task
from suan.recipes.runtime import Context, run_stage
from suan.recipes.trl_run import (
    Run,
    Training,
    dataset,
    load_model,
    looks,
    lora,
    read_rows,
    trainer_args,
    training_task,
)
from suan.recipes.trl_stage import train_stage

SHOWN = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "eval_loss": "val_loss"}


class Args(Training, frozen=True, kw_only=True):
    """Arguments of sft."""

    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 1e-3
    packing: Annotated[
        bool,
        Meta(
            description="Put several conversations into one row; no token sees another conversation. "
            "Saves padding where lengths differ much, and wants FlashAttention."
        ),
    ] = False
    train_rows: Annotated[
        int, Meta(ge=0, description="Conversations to learn from, the first ones; 0: all there are.")
    ] = 0


def task(args: Args) -> Task:
    """Cores or accelerators as the task file says; resumes from its checkpoints."""
    return training_task(
        "sft",
        args,
        inputs={"model": "model:model", "dataset": "dataset:conversations"},
        outputs={"model": "model:sft"},
        duration_s=20 + round(0.25 * args.steps * args.batch_rows / 16),
    )


def _check_template(tokenizer: Any) -> None:
    """Raises: Refused `no_generation_marks`: without them nobody knows which tokens the assistant said."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template and has_generation_markers(tokenizer.chat_template):
        return
    try:
        get_training_chat_template(tokenizer)
    except ValueError as error:
        raise Refused(
            "no_generation_marks",
            f"the chat template does not mark what the assistant says: {error}",
            hint="put {% generation %} and {% endgeneration %} around it in chat_template.jinja",
        ) from None


def make_trainer(context: Context[Args], tokenizer: Any) -> Any:
    """TRL's trainer over the inputs `model` and `dataset`.

    Raises: Refused from reading the rows and from `_check_template`.
    """
    from trl import SFTConfig, SFTTrainer

    args, folder = context.args, context.input("dataset")
    _check_template(tokenizer)
    keys = ("messages",)
    return SFTTrainer(
        model=load_model(context, context.input("model")),
        args=trainer_args(
            context,
            SFTConfig,
            max_length=args.max_length,
            packing=args.packing,
            eval_packing=False,
            assistant_only_loss=True,
            **looks(args),
        ),
        train_dataset=dataset(read_rows(folder, "train", keys, args.train_rows), keys),
        eval_dataset=dataset(read_rows(folder, "held-out", keys, args.eval_rows), keys),
        processing_class=tokenizer,
        peft_config=lora(args, "CAUSAL_LM"),
    )


def _results(run: Run, trainer: Any) -> dict[str, float]:
    return {
        "val_loss": trainer.evaluate()["eval_loss"],
        "first_val_loss": run.numbers["first_val_loss"],
        "steps": trainer.args.max_steps,
    }


def _body(context: Context[Args]) -> int:
    rank = context.args.lora_rank
    about = f"Fine-tuned on conversations ({f'LoRA of rank {rank}' if rank else 'all weights'}) by `suan`."
    return train_stage(context, make_trainer, _results, shown=SHOWN, about=about)


def main() -> int:
    return run_stage("sft", _body)


if __name__ == "__main__":
    sys.exit(main())
