"""reward: a model and preferences in, a model that gives answers a number out.

Knows TRL's RewardTrainer (Bradley and Terry's loss) and how to measure the result: accuracy and margin on
held-out pairs, by kind of pair, and the mean and deviation of its scores, which the folder keeps so that they
can be weighed against other rewards. Does not know what makes an answer better.
"""

import json
import sys
from statistics import fmean, pstdev
from typing import Annotated, Any

from msgspec import Meta

from suan.grid.job import Task
from suan.recipes.compare import interval
from suan.recipes.rewards.learnt import learnt_scorer
from suan.recipes.runtime import Context, run_stage, write_json
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
    "accuracy": "accuracy",
    "margin": "margin",
    "eval_loss": "val_loss",
    "eval_accuracy": "val_accuracy",
}
KEYS = ("prompt", "chosen", "rejected")


class Args(Training, frozen=True, kw_only=True):
    """Arguments of reward."""

    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 3e-4
    center: Annotated[
        float, Meta(ge=0, description="Pull of the scores towards a mean of zero; 0 for none.")
    ] = 0.01
    measure_rows: Annotated[
        int, Meta(ge=2, description="Held-out pairs for the final accuracy, at most.")
    ] = 1000


def task(args: Args) -> Task:
    """Cores or accelerators as the task file says; resumes from its checkpoints."""
    return training_task(
        "reward",
        args,
        inputs={"model": "model:sft", "dataset": "dataset:preferences"},
        outputs={"model": "model:reward"},
        duration_s=25 + round(0.5 * args.steps * args.batch_rows / 16),
    )


def make_trainer(context: Context[Args], tokenizer: Any) -> Any:
    """TRL's trainer over the inputs `model` and `dataset`."""
    from trl import RewardConfig, RewardTrainer

    args, folder = context.args, context.input("dataset")
    model = load_model(context, context.input("model"), "AutoModelForSequenceClassification", num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    return RewardTrainer(
        model=model,
        args=trainer_args(
            context,
            RewardConfig,
            max_length=args.max_length,
            center_rewards_coefficient=args.center or None,
            **looks(args),
        ),
        train_dataset=dataset(read_rows(folder, "train", KEYS), KEYS),
        eval_dataset=dataset(read_rows(folder, "held-out", KEYS, args.eval_rows), KEYS),
        processing_class=tokenizer,
        peft_config=lora(args, "SEQ_CLS"),
    )


def measure(scores: list[tuple[float, float]], kinds: list[str]) -> dict[str, float]:
    """Accuracy with its interval and margin over pairs of (chosen, rejected) scores, and by kind of pair."""
    right = [float(chosen > rejected) for chosen, rejected in scores]
    low, high = interval(right)
    numbers = {
        "accuracy": fmean(right),
        "accuracy_low": low,
        "accuracy_high": high,
        "margin": fmean(chosen - rejected for chosen, rejected in scores),
        "pairs": len(scores),
    }
    for kind in sorted({kind for kind in kinds if kind}):
        numbers[f"accuracy_{kind}"] = fmean(hit for hit, one in zip(right, kinds, strict=True) if one == kind)
    return numbers


def _calibrate(context: Context[Args], device: str) -> dict[str, float]:
    """Scores the held-out pairs by the exported folder; writes mean and deviation into its configuration."""
    folder = context.output("model")
    rows = read_rows(context.input("dataset"), "held-out", KEYS, context.args.measure_rows)
    scorer = learnt_scorer(folder, device, limit=float("inf"))
    chosen, rejected = (
        scorer(rows, [row[side][-1]["content"] for row in rows]) for side in ("chosen", "rejected")
    )
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {
        "reward_mean": fmean(chosen + rejected),
        "reward_deviation": max(1e-6, pstdev(chosen + rejected)),
    }
    write_json(folder / "config.json", config)
    return measure(list(zip(chosen, rejected, strict=True)), [row.get("kind", "") for row in rows])


def _results(run: Run, trainer: Any) -> dict[str, float]:
    return {"val_loss": trainer.evaluate()["eval_loss"]}


def _body(context: Context[Args]) -> int:
    about = "A reward model, learnt from preferences by `suan`: one number for an answer."
    return train_stage(context, make_trainer, _results, shown=SHOWN, about=about, measure=_calibrate)


def main() -> int:
    return run_stage("reward", _body)


if __name__ == "__main__":
    sys.exit(main())
