"""PPO for the rlhf stage, on TRL 1.12, the last release that has it: run by a Python of its own.

Knows TRL's PPOTrainer: policy, reference, value model and the reward model, its only reward.
That trainer keeps no checkpoints: a run that ends early begins again.

Source: huggingface/trl pull request 7020 (2026-09-02) removed it.
"""

from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.compare import Panel
from suan.recipes.rewards import LEARNT
from suan.recipes.runtime import Context
from suan.recipes.trl_export import write_model
from suan.recipes.trl_run import Run, callback, dataset, load_model, trained, trainer_args
from suan.recipes.watching import Watch, Watching, take_back

MINI_BATCHES = 2
PASSES = 2  # over the answers of a step
NO_END_PENALTY = 1.0  # for an answer that does not end
SHOWN = {"objective/scores": "model", "objective/kl": "kl", "policy/entropy_avg": "entropy"}


class _Ended(Exception):
    """Raised out of TRL's loop, which looks at no stop signal."""


class _Ending:
    def __init__(self, context: Context[Any]) -> None:
        self._context = context

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._context.stopping or control.should_training_stop:
            raise _Ended


def make_trainer(context: Context[Any], tokenizer: Any, rows: list[dict[str, Any]]) -> Any:
    """TRL's trainer over the inputs `model`, `prompts` and `reward_model`.

    Raises: Refused `no_ppo` when TRL here has none, `bad_recipe_args` for other rewards than `model`.
    """
    args = context.args
    if set(args.rewards) != {LEARNT} or args.lora_rank:
        raise Refused(
            "bad_recipe_args",
            "ppo trains all weights on the reward `model` alone",
            hint='set rewards={"model": 1.0} and lora_rank=0, or take grpo or rloo',
            recipe="rlhf",
        )
    try:
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    except ImportError:
        raise Refused(
            "no_ppo",
            "TRL of this Python has no PPO; 1.12 was the last that had it",
            hint="make an environment with trl 1.12 and set SUAN_PPO_PYTHON; see docs/tutorial/rlhf.md",
        ) from None
    reward, value = (
        load_model(context, context.input("reward_model"), "AutoModelForSequenceClassification")
        for _ in range(2)
    )
    policy, reference = (load_model(context, context.input("model")) for _ in range(2))
    tokens = [
        {
            "input_ids": tokenizer.apply_chat_template(
                row["prompt"], tokenize=True, add_generation_prompt=True, return_dict=False
            )
        }
        for row in rows
    ]
    prompts = dataset(tokens, ("input_ids",))
    config = trainer_args(
        context,
        PPOConfig,
        total_episodes=args.steps * args.batch_rows,
        num_mini_batches=MINI_BATCHES,
        num_ppo_epochs=PASSES,
        num_sample_generations=0,
        response_length=args.max_new_tokens,
        stop_token_id=tokenizer.eos_token_id,
        missing_eos_penalty=NO_END_PENALTY,
        temperature=args.temperature,
        kl_coef=args.kl,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=prompts,
        eval_dataset=prompts.select(range(min(len(prompts), args.eval_rows))),
    )


def train(
    context: Context[Any], asked: list[dict[str, Any]], rows: list[dict[str, Any]], panel: Panel
) -> dict[str, Any] | None:
    """What `watching` found, the model written; None when the site asked to stop first."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(context.input("model"), padding_side="left")
    trainer = make_trainer(context, tokenizer, asked)
    run = Run(context, SHOWN)
    args = context.args
    watch = Watch(rows[: args.eval_rows], panel, args.watch, args.watch_tolerance)
    good = Path(trainer.args.output_dir) / "good"
    run.watch(trainer)
    trainer.add_callback(callback(_PolicyWatching, context, watch, tokenizer, run.numbers, good))
    trainer.add_callback(callback(_Ending, context))
    try:
        trainer.train()
    except _Ended:
        if context.stopping:
            return None
    policy = trained(trainer).policy
    if run.numbers["best_step"] != trainer.state.global_step:
        take_back(good, policy, context.rank)
    write_model(context, policy, tokenizer)
    return run.numbers


class _PolicyWatching(Watching):
    """PPO trains policy and value in one module; the policy alone writes."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        super().on_train_begin(args, state, control, model=model.policy, **rest)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        super().on_step_end(args, state, control, model=model.policy, **rest)
