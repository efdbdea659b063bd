"""What do DPO, GRPO and RLOO make of the same fine-tuned model, and what does each cost?

    suan get model:poet-sft sft; suan get model:poet-reward reward
    suan get dataset:poet-preferences preferences; suan get dataset:poet-prompts prompts
    python bench/alignment.py --model sft --reward reward --preferences preferences --prompts prompts

Four ways: GRPO and RLOO on the rewards, DPO on the pairs that rules made, DPO on pairs of the model's own
answers, the best and the worst by the same rewards. All begin with the same weights and answer, at the end,
the same held-out prompts with the same draws; none saw those. Intervals are bootstraps over the prompts.
Prints a Markdown table.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from suan.recipes.compare import Panel, Sampling, compare, score, write_answers
from suan.recipes.rewards import scorers
from suan.recipes.rewards.learnt import learnt_scorer

WEIGHTS = {"form": 1.0, "rhyme": 1.0, "tones": 1.0, "model": 0.1}
TOKENS = 38
ANSWERS = 8  # to a prompt, as many as a group of GRPO's


def rows_of(file: Path, count: int) -> list[dict[str, Any]]:
    """The last `count` rows: the stages look at the first ones of a held-out file on the way."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()[-count:]]


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def own_pairs(model_folder: Path, prompts: list[dict[str, Any]], panel: Panel) -> list[dict[str, Any]]:
    """The best and the worst of `ANSWERS` answers of the model to each prompt, by reward."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    asked = [prompt for prompt in prompts for _ in range(ANSWERS)]
    answers = write_answers(model, tokenizer, asked, panel.sampling)
    rewards = score(asked, answers, panel)["reward"]
    pairs = []
    for place, prompt in enumerate(prompts):
        group = range(place * ANSWERS, (place + 1) * ANSWERS)
        best, worst = max(group, key=rewards.__getitem__), min(group, key=rewards.__getitem__)
        if rewards[best] > rewards[worst]:
            said = {"chosen": answers[best], "rejected": answers[worst]}
            pairs.append(
                {"prompt": prompt["prompt"]}
                | {key: [{"role": "assistant", "content": text}] for key, text in said.items()}
            )
    return pairs


def run_stage(stage: str, inputs: dict[str, Path], output: Path, values: dict[str, Any]) -> Path:
    """The folder of the model that a stage made."""
    command = [sys.executable, "-m", f"suan.recipes.{stage}", "--output", f"model={output}"]
    command += [word for name, folder in inputs.items() for word in ("--input", f"{name}={folder}")]
    command += [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def cpu_s() -> float:
    """CPU-seconds of this process and of all that it waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


def by_rewards(algorithm: str, args: argparse.Namespace, work: Path) -> Path:
    inputs = {"model": args.model, "prompts": args.prompts, "reward_model": args.reward}
    values = {
        "algorithm": algorithm,
        "steps": args.steps,
        "batch_rows": 32,
        "learning_rate": 7e-4,
        "kl": 0.02,
    }
    values |= {"max_new_tokens": TOKENS, "rewards": WEIGHTS, "eval_every": args.steps}
    values |= {"eval_rows": 32}
    return run_stage("rlhf", inputs, work / algorithm, values | {"measure_rows": 2, "cpus": 1})


def by_pairs(name: str, pairs: Path, args: argparse.Namespace, work: Path) -> Path:
    values = {"steps": args.pair_steps, "batch_rows": 32, "max_length": 96, "eval_every": args.pair_steps}
    values |= {"learning_rate": args.pair_learning_rate, "cpus": 1}
    return run_stage("dpo", {"model": args.model, "dataset": pairs}, work / name, values)


def by_own_pairs(args: argparse.Namespace, work: Path, panel: Panel) -> Path:
    count = args.pair_steps * 32
    prompts = rows_of(args.prompts / "train.jsonl", count + 64)
    pairs = own_pairs(args.model, prompts, panel)
    write_rows(work / "pairs" / "train.jsonl", pairs[:-64])
    write_rows(work / "pairs" / "held-out.jsonl", pairs[-64:])
    return by_pairs("dpo-own", work / "pairs", args, work)


def cell(numbers: dict[str, float], name: str) -> str:
    return f"{numbers[name]:.3f} ({numbers[f'{name}_low']:.3f} to {numbers[f'{name}_high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("model", "reward", "preferences", "prompts"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"the folder of the {name}")
    parser.add_argument("--steps", type=int, default=60, help="of GRPO and RLOO, 32 answers each")
    parser.add_argument("--pair-steps", type=int, default=60, help="of DPO, 32 pairs each")
    parser.add_argument("--pair-learning-rate", type=float, default=3e-4)
    parser.add_argument("--test", type=int, default=160, help="held-out prompts to measure on")
    args = parser.parse_args()
    learnt = learnt_scorer(args.reward, "cpu")
    panel = Panel(scorers(list(WEIGHTS), args.prompts, learnt), WEIGHTS, Sampling(TOKENS))
    test = rows_of(args.prompts / "held-out.jsonl", args.test)
    ways = {
        "DPO, pairs made by rules": lambda work: by_pairs("dpo", args.preferences, args, work),
        "DPO, pairs of its own answers": lambda work: by_own_pairs(args, work, panel),
        "GRPO": lambda work: by_rewards("grpo", args, work),
        "RLOO": lambda work: by_rewards("rloo", args, work),
    }
    print("| | form correct | reward | wins against fine-tuned | variety | CPU-s |")
    print("| --- | --- | --- | --- | ---: | ---: |")
    before: dict[str, float] = {}
    for name, make in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            before_s = cpu_s()
            made = make(Path(folder))
            spent_s = cpu_s() - before_s
            numbers, _ = compare(made, args.model, test, panel)
        if not before:
            known = (key for key in numbers if key.startswith("before_"))
            before = {key.removeprefix("before_"): numbers[key] for key in known}
            told = f"{cell(before, 'form_correct')} | {cell(before, 'reward')} | | {before['variety']:.3f}"
            print(f"| fine-tuned | {told} | |")
        print(
            f"| {name} | {cell(numbers, 'form_correct')} | {cell(numbers, 'reward')} "
            f"| {cell(numbers, 'win_reward')} | {numbers['variety']:.3f} | {spent_s:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
