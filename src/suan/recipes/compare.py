"""What a model writes to held-out prompts, scored, and compared with what another model writes to the same.

Knows sampling from a model, scores by rewards, paired win rates and bootstrap intervals. Does not train.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from suan.recipes.rewards import Row, Scorer, weighted
from suan.recipes.rewards.text import variety

BOOTSTRAPS = 1000
CONFIDENCE = 0.95


class Sampling(NamedTuple):
    """How answers are written: one a prompt, the same draws for the same seed."""

    max_new_tokens: int
    temperature: float = 1.0
    batch_rows: int = 64
    seed: int = 1


@contextmanager
def _own_draws(seed: int) -> Any:
    """Random numbers that leave those of the training as they were."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def write_answers(model: Any, tokenizer: Any, rows: Sequence[Row], sampling: Sampling) -> list[str]:
    """An answer to the prompt of each row."""
    import torch

    texts = [
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    answers: list[str] = []
    training = model.training
    model.eval()
    with _own_draws(sampling.seed), torch.no_grad():
        for start in range(0, len(texts), sampling.batch_rows):
            batch = tokenizer(
                texts[start : start + sampling.batch_rows],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_token_type_ids=False,
            ).to(model.device)
            made = model.generate(
                **batch,
                max_new_tokens=sampling.max_new_tokens,
                do_sample=sampling.temperature > 0,
                temperature=sampling.temperature or None,
                top_p=1.0,
                top_k=0,
            )
            answers += tokenizer.batch_decode(
                made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
            )
    model.train(training)
    return answers


class Panel(NamedTuple):
    """What answers are scored by and how they are written; `reward` is the sum of the scores by `weights`."""

    scorers: Mapping[str, Scorer]
    weights: Mapping[str, float]
    sampling: Sampling


def score(rows: Sequence[Row], answers: Sequence[str], panel: Panel) -> dict[str, list[float]]:
    """The scores of each answer by scorer, and its `reward`."""
    found = {name: scorer(rows, answers) for name, scorer in panel.scorers.items()}
    return found | {"reward": weighted(found, panel.weights)}


def interval(
    values: Sequence[Any], statistic: Callable[[Sequence[Any]], float] = fmean, *, seed: int = 1
) -> tuple[float, float]:
    """The bounds of the 95 % interval of a statistic, by the percentiles of a bootstrap over its rows.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    draw = random.Random(seed)
    found = sorted(statistic(draw.choices(values, k=len(values))) for _ in range(BOOTSTRAPS))
    cut = round((1 - CONFIDENCE) / 2 * BOOTSTRAPS)
    return found[cut], found[-1 - cut]


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 for each prompt that we answer better, 0.5 for a draw."""
    return [1.0 if one > two else 0.5 if one == two else 0.0 for one, two in zip(ours, theirs, strict=True)]


def summary(answers: Sequence[str], scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each score with its interval, how many have the form exactly, and the variety."""
    columns = {**scores}
    if "form" in scores:
        columns["form_correct"] = [float(value == 1.0) for value in scores["form"]]
    numbers = {"variety": variety(list(answers))}
    for name, values in columns.items():
        low, high = interval(values)
        numbers |= {name: fmean(values), f"{name}_low": low, f"{name}_high": high}
    return numbers


def win_rates(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """For each score how often ours is the better one, prompt by prompt, with its interval."""
    numbers = {}
    for name in ours:
        won = wins(ours[name], theirs[name])
        low, high = interval(won)
        numbers |= {f"win_{name}": fmean(won), f"win_{name}_low": low, f"win_{name}_high": high}
    return numbers


def compare(
    ours: Path, theirs: Path, rows: Sequence[Row], panel: Panel
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(numbers, samples) of two model folders that answer the same prompts with the same draws.

    The numbers are the summary of ours, that of theirs as `before_`, and the win rates of ours.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for folder in (ours, theirs):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
        answers = write_answers(model, tokenizer, rows, panel.sampling)
        found.append((answers, score(rows, answers, panel)))
    (our_answers, our_scores), (their_answers, their_scores) = found
    before = {f"before_{name}": value for name, value in summary(their_answers, their_scores).items()}
    numbers = summary(our_answers, our_scores) | before | win_rates(our_scores, their_scores)
    return numbers, samples(rows, our_answers, their_answers)


def samples(
    rows: Sequence[Row], ours: Sequence[str], theirs: Sequence[str], count: int = 16
) -> list[dict[str, Any]]:
    """The first answers side by side, to read."""
    return [
        {"prompt": row["prompt"][-1]["content"], "answer": one, "before": two}
        for row, one, two in list(zip(rows, ours, theirs, strict=True))[:count]
    ]
