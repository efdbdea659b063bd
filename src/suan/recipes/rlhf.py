"""rlhf: a fine-tuned model and prompts in, a model whose answers earn more reward out, measured against it.

Knows TRL's GRPO and RLOO with a learnt reward and verifiable ones by weight, the price of moving away from
the model it began with (KL), and the watch over what the reward does not see (`watching.py`). PPO runs in an
environment of its own (`ppo.py`). Does not know what an answer is about: rewards do.
"""

import random
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field, structs

from suan.grid.error import Refused
from suan.grid.job import Task
from suan.recipes.compare import Panel, Sampling, compare
from suan.recipes.rewards import LEARNT, Row, Scorer, scorers
from suan.recipes.rewards.learnt import learnt_scorer
from suan.recipes.runtime import EXIT_STOPPED, Context, run_stage, write_json
from suan.recipes.trl_export import describe, write_model
from suan.recipes.trl_run import (
    Run,
    Training,
    callback,
    dataset,
    load_model,
    lora,
    prepare,
    read_rows,
    trained,
    trainer_args,
    training_task,
)
from suan.recipes.watching import Watch, Watching, take_back

JUDGE, VARIETY = "judge", "variety"
PPO_PYTHON = "SUAN_PPO_PYTHON"


class Args(Training, frozen=True, kw_only=True):
    """Arguments of rlhf."""

    algorithm: Annotated[
        Literal["grpo", "rloo", "ppo"],
        Meta(description="ppo takes the reward model alone, and the Python of SUAN_PPO_PYTHON (envs)."),
    ] = "grpo"
    rewards: Annotated[
        dict[str, float],
        Meta(
            description="Weight of each reward: model (learnt), form, rhyme, tones (of verse), distinct, "
            "answer, pattern (of any text).",
        ),
    ] = field(default_factory=lambda: {LEARNT: 1.0})
    kl: Annotated[float, Meta(ge=0, description="Price of moving away from the model it began with.")] = 0.04
    group: Annotated[
        int, Meta(ge=2, description="Answers to one prompt that are compared with each other.")
    ] = 8
    batch_rows: Annotated[int, Meta(ge=2, description="Answers a step, over all ranks together.")] = 64
    learning_rate: Annotated[float, Meta(gt=0, description="Peak learning rate.")] = 3e-4
    temperature: Annotated[float, Meta(gt=0, description="Of sampling, in training and in measuring.")] = 1.0
    max_new_tokens: Annotated[int, Meta(ge=1, description="Longest answer, in tokens.")] = 64
    watch: Annotated[
        dict[str, float],
        Meta(
            description="Weight of each held-out quality that is watched and not trained on: variety, judge "
            "(a second reward model), or a reward that has no weight above."
        ),
    ] = field(default_factory=lambda: {VARIETY: 1.0})
    watch_tolerance: Annotated[
        float, Meta(gt=0, description="Part of the quality that may be lost while the reward rises.")
    ] = 0.2
    measure_rows: Annotated[
        int, Meta(ge=2, description="Held-out prompts for the final comparison, at most.")
    ] = 256


def task(args: Args) -> Task:
    """Cores or accelerators as the task file says; resumes from its checkpoints."""
    inputs = {"model": "model:sft", "prompts": "dataset:prompts"}
    if LEARNT in args.rewards or LEARNT in args.watch:
        inputs["reward_model"] = "model:reward"
    if JUDGE in args.watch:
        inputs["judge"] = "model:judge"
    made = training_task(
        "rlhf",
        args,
        inputs=inputs,
        outputs={"model": "model:rlhf"},
        duration_s=30 + round(1.2 * args.steps * args.batch_rows / 64),
    )
    if args.algorithm == "ppo":
        python = f'"${{{PPO_PYTHON}:?PPO needs a Python with trl 1.12; see docs/tutorial/rlhf.md}}"'
        made = structs.replace(made, run=f"{python} -m suan.recipes.rlhf")
    return made


def panel_of(context: Context[Args], device: str) -> Panel:
    """What answers are scored by: the rewards, and the qualities that are only watched.

    Raises: Refused from `scorers`, `bad_recipe_args` when something is both trained on and watched.
    """
    args, prompts = context.args, context.input("prompts")
    if both := sorted(set(args.rewards) & set(args.watch)):
        raise Refused(
            "bad_recipe_args",
            f"{', '.join(both)} cannot be trained on and watched: the watch is over what the reward misses",
            hint="take it out of watch or rewards",
            recipe="rlhf",
        )
    names = [name for name in (*args.rewards, *args.watch) if name not in (JUDGE, VARIETY)]
    learnt = _learnt(context, "reward_model", device) if LEARNT in names else None
    found = scorers(names, prompts, learnt)
    if JUDGE in args.watch:
        found[JUDGE] = _learnt(context, JUDGE, device)
    return Panel(found, args.rewards, Sampling(args.max_new_tokens, args.temperature, seed=args.seed))


def _learnt(context: Context[Args], name: str, device: str) -> Scorer:
    if name not in context.inputs:
        raise Refused("no_reward_model", f"there is no input {name}", hint=f"give --input {name}=DIR")
    return learnt_scorer(context.inputs[name], device)


def reward_function(name: str, scorer: Scorer) -> Any:
    """The scorer as TRL calls a reward, under the name that TRL logs."""

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        lists = {key: values for key, values in columns.items() if isinstance(values, list)}
        rows: list[Row] = [
            {**{key: values[place] for key, values in lists.items()}, "prompt": prompt}
            for place, prompt in enumerate(prompts)
        ]
        return scorer(rows, [completion[-1]["content"] for completion in completions])

    reward.__name__ = name
    return reward


def in_order(rows: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` prompts, epoch after epoch in new orders: step N asks what seed and N say, even resumed."""
    found: list[dict[str, Any]] = []
    epoch = 0
    while len(found) < count:
        order = list(range(len(rows)))
        random.Random(f"{seed} {epoch}").shuffle(order)
        found += [rows[place] for place in order]
        epoch += 1
    return found[:count]


def asked(context: Context[Args], group: int = 1) -> list[dict[str, Any]]:
    """The prompts of the whole training in the order in which they are asked, `group` answers to each."""
    rows = read_rows(context.input("prompts"), "train", ("prompt",))
    return in_order(rows, context.args.steps * context.args.batch_rows // group, context.args.seed)


def make_trainer(context: Context[Args], tokenizer: Any, panel: Panel) -> Any:
    """TRL's trainer over the inputs `model` and `prompts`."""
    import trl

    args = context.args
    kind, config = {
        "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
        "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
    }[args.algorithm]
    rows = asked(context, args.group)
    return kind(
        model=load_model(context, context.input("model")),
        reward_funcs=[reward_function(name, panel.scorers[name]) for name in args.rewards],
        args=trainer_args(
            context,
            config,
            beta=args.kl,
            num_generations=args.group,
            max_completion_length=args.max_new_tokens,
            temperature=args.temperature,
            reward_weights=list(args.rewards.values()),
            shuffle_dataset=False,
        ),
        train_dataset=dataset(rows, tuple(rows[0])),
        processing_class=tokenizer,
        peft_config=lora(args, "CAUSAL_LM"),
    )


def _check(args: Args) -> None:
    if args.algorithm != "ppo" and args.batch_rows % args.group:
        raise Refused(
            "bad_recipe_args",
            f"group {args.group} does not divide batch_rows {args.batch_rows}",
            hint="change one of the two",
            recipe="rlhf",
        )


def shown(args: Args) -> dict[str, str]:
    """What TRL logs, by the names in the progress."""
    names = {f"rewards/{name}/mean": name for name in args.rewards}
    return {"reward": "reward", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length"} | names


def train(context: Context[Args], rows: list[dict[str, Any]], panel: Panel) -> dict[str, Any] | None:
    """What `watching` found, the model written; None when the site asked to stop first."""
    from transformers import AutoTokenizer

    args = context.args
    run = Run(context, shown(args))
    tokenizer = AutoTokenizer.from_pretrained(context.input("model"))
    trainer = run.watch(make_trainer(context, tokenizer, panel))
    watch = Watch(rows[: args.eval_rows], panel, args.watch, args.watch_tolerance)
    good = Path(trainer.args.output_dir) / "good"
    trainer.add_callback(callback(Watching, context, watch, tokenizer, run.numbers, good))
    if not run.train(trainer):
        return None
    if run.numbers["best_step"] != trainer.state.global_step:
        take_back(good, trained(trainer), context.rank)
    write_model(context, trained(trainer), tokenizer)
    return run.numbers


def _body(context: Context[Args]) -> int:
    started_s = time.monotonic()
    args = context.args
    _check(args)
    device = prepare(context)
    context.progress.write(phase="load")
    panel = panel_of(context, device)
    rows = read_rows(context.input("prompts"), "held-out", ("prompt",), args.eval_rows + args.measure_rows)
    if args.algorithm == "ppo":
        from suan.recipes import ppo

        numbers = ppo.train(context, asked(context), rows, panel)
    else:
        numbers = train(context, rows, panel)
    if numbers is None:
        return EXIT_STOPPED
    if context.rank == 0:
        # Others than the training looked at, for it chose its best weights by those.
        results = measure(context, rows[args.eval_rows :] or rows, panel, numbers)
        describe(context, f"Trained by {args.algorithm.upper()} on rewards by `suan`.", results)
        context.metrics(**results, seconds=time.monotonic() - started_s)
    return 0


def measure(
    context: Context[Args], rows: list[dict[str, Any]], panel: Panel, numbers: dict[str, Any]
) -> dict[str, float]:
    """The result against the model it began with, on held-out prompts; `comparison.json` has it with samples
    and with the looks of the training.
    """
    folder = context.output("model")
    context.progress.write(phase="measure")
    results, samples = compare(folder, context.input("model"), rows, panel)
    looks = numbers["looks"]
    report = {"numbers": results, "looks": looks, "samples": samples}
    write_json(folder / "comparison.json", report)
    return results | {
        "quality": next(look["quality"] for look in looks if look["step"] == numbers["best_step"]),
        "before_quality": looks[0]["quality"],
        "best_step": numbers["best_step"],
        "parted_at_step": numbers.get("parted_at_step", 0),
        "tokens_per_s": numbers.get("tokens_per_s", 0.0),
        "prompts": len(rows),
    }


def main() -> int:
    return run_stage("rlhf", _body)


if __name__ == "__main__":
    sys.exit(main())
