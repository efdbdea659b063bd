"""dpo: a fine-tuned model and preferences in, a model that prefers as they do out, without a reward model.

Knows TRL's DPOTrainer and what to measure: on held-out pairs how often, and by how much, the model has come
to prefer the chosen answer. Does not know what makes an answer better.
"""

import sys
from typing import Annotated, Any, Literal

from msgspec import Meta

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

SHOWN = {
    "loss": "loss",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "eval_loss": "val_loss",
    "eval_rewards/accuracies": "val_accuracy",
}
KEYS = ("prompt", "chosen", "rejected")


class Args(Training, frozen=True, kw_only=True):
    """Arguments of dpo."""

    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 1e-4
    beta: Annotated[
        float, Meta(gt=0, description="Price of moving away from the model it began with; less moves more.")
    ] = 0.1
    loss: Annotated[
        Literal["sigmoid", "ipo", "hinge"], Meta(description="Of a pair; sigmoid is DPO as published.")
    ] = "sigmoid"


def task(args: Args) -> Task:
    """Cores or accelerators as the task file says; resumes from its checkpoints."""
    return training_task(
        "dpo",
        args,
        inputs={"model": "model:sft", "dataset": "dataset:preferences"},
        outputs={"model": "model:dpo"},
        duration_s=25 + round(0.9 * args.steps * args.batch_rows / 16),
    )


def make_trainer(context: Context[Args], tokenizer: Any) -> Any:
    """TRL's trainer over the inputs `model` and `dataset`; what it began with is the reference."""
    from trl import DPOConfig, DPOTrainer

    args, folder = context.args, context.input("dataset")
    return DPOTrainer(
        model=load_model(context, context.input("model")),
        args=trainer_args(
            context,
            DPOConfig,
            beta=args.beta,
            loss_type=[args.loss],
            max_length=args.max_length,
            **looks(args),
        ),
        train_dataset=dataset(read_rows(folder, "train", KEYS), KEYS),
        eval_dataset=dataset(read_rows(folder, "held-out", KEYS, args.eval_rows), KEYS),
        processing_class=tokenizer,
        peft_config=lora(args, "CAUSAL_LM"),
    )


def _results(run: Run, trainer: Any) -> dict[str, float]:
    found = trainer.evaluate()
    return {
        "val_loss": found["eval_loss"],
        "accuracy": found["eval_rewards/accuracies"],
        "margin": found["eval_rewards/margins"],
    }


def _body(context: Context[Args]) -> int:
    about = "Trained by DPO on preferences by `suan`."
    return train_stage(context, make_trainer, _results, shown=SHOWN, about=about)


def main() -> int:
    return run_stage("dpo", _body)


if __name__ == "__main__":
    sys.exit(main())
