"""What the judges' answers say: can they tell, can they not, or is it not known yet?

Knows answers; not where the texts are from. Answers are not independent: one judge gives many, and one item
is judged by many. So beside the plain binomial there is a standard error that allows for both.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any

from suan.recipes.blind.sheet import Answer

CHANCE = 0.5


def accuracy(answers: list[Answer]) -> float:
    """Mean of the part right among people's and among the model's texts: 0.5 for whoever always says one."""
    return sum(weight * right for weight, right in _weighted(answers))


def _weighted(answers: list[Answer]) -> list[tuple[float, bool]]:
    counts = {kind: sum(answer.was_machine == kind for answer in answers) for kind in (False, True)}
    kinds = sum(count > 0 for count in counts.values())
    return [
        (1 / kinds / counts[answer.was_machine], answer.said_machine == answer.was_machine)
        for answer in answers
    ]


def clustered_stderr(answers: list[Answer]) -> float:
    """Standard error of `accuracy` with judges and items both drawn from larger populations.

    Source: Cameron, Gelbach and Miller, Journal of Business and Economic Statistics 29 (2011), two-way
    clusters: by judge, plus by item, minus by answer. Never less than one of the parts, nor than
    independent guesses would have.
    """
    weighted = _weighted(answers)
    parts: defaultdict[bool, list[bool]] = defaultdict(list)
    for answer, (_, right) in zip(answers, weighted, strict=True):
        parts[answer.was_machine].append(right)
    means = {kind: sum(rights) / len(rights) for kind, rights in parts.items()}
    influence = [
        weight * (right - means[answer.was_machine])
        for answer, (weight, right) in zip(answers, weighted, strict=True)
    ]

    def variance(of: Callable[[Answer], Hashable]) -> float:
        sums: defaultdict[Hashable, float] = defaultdict(float)
        for answer, part in zip(answers, influence, strict=True):
            sums[of(answer)] += part
        count = len(sums)
        return sum(total * total for total in sums.values()) * (count / (count - 1) if count > 1 else 0.0)

    by_judge, by_item = variance(lambda answer: answer.judge), variance(lambda answer: answer.item)
    by_answer = variance(lambda answer: (answer.judge, answer.item))
    # Who says the same of every text varies nowhere: that is ignorance, not precision.
    guesses = sum((weight * CHANCE) ** 2 for weight, _ in weighted)
    return math.sqrt(max(by_judge + by_item - by_answer, by_judge, by_item, guesses))


def judge_table(answers: list[Answer], confidence: float) -> list[dict[str, Any]]:
    """A row a judge: answers, right, accuracy with Wilson's interval, two-sided binomial p, how often
    "machine" was said of the model's and of people's texts."""
    by_judge: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_judge[answer.judge].append(answer)
    return [
        {"judge": judge, **_binomial(given, confidence)} | _said_machine(given)
        for judge, given in sorted(by_judge.items())
    ]


def summary(answers: list[Answer], margin: float, confidence: float) -> dict[str, Any]:
    """All answers together, with both kinds of interval and p, and the verdict.

    "Cannot tell" needs more than a p above 0.05, which a handful of answers gives to anybody: accuracy has
    to be shown within `margin` of 0.5, by two one-sided tests.
    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).
    """
    from scipy.stats import t

    value, stderr = accuracy(answers), clustered_stderr(answers)
    judges, items = len({a.judge for a in answers}), len({a.item for a in answers})
    freedom = max(1, (min(judges, items) if judges > 1 else items) - 1)
    reach = float(t.ppf((1 + confidence) / 2, freedom)) * stderr
    tell_p = float(2 * t.sf(abs(value - CHANCE) / stderr, freedom))
    nearest = margin - abs(value - CHANCE)
    cannot_p = float(t.sf(nearest / stderr, freedom))
    alpha = 1 - confidence
    verdict = "people can tell" if tell_p < alpha and value > CHANCE else "not known yet"
    if cannot_p < alpha:
        verdict = f"people cannot tell: accuracy is within {margin:g} of chance"
    return {
        "verdict": verdict,
        "judges": judges,
        "items": items,
        "accuracy": value,
        "stderr": stderr,
        "low": max(0.0, value - reach),
        "high": min(1.0, value + reach),
        "p_can_tell": tell_p,
        "p_cannot_tell": cannot_p,
        "margin": margin,
        "binomial": _binomial(answers, confidence),
        **_said_machine(answers),
        "answers_needed": answers_needed(margin, confidence),
    }


def answers_needed(margin: float, confidence: float, power: float = 0.8) -> int:
    """Independent answers that would show a model that nobody can tell to be so, `power` of the time.

    Source: Chow, Shao and Wang, Sample Size Calculations in Clinical Research: equivalence of a proportion.
    """
    from scipy.stats import norm

    reach = float(norm.ppf(confidence) + norm.ppf((1 + power) / 2))
    return math.ceil((reach / margin) ** 2 * CHANCE * (1 - CHANCE))


def _binomial(answers: list[Answer], confidence: float) -> dict[str, Any]:
    from scipy.stats import binomtest

    right = sum(answer.said_machine == answer.was_machine for answer in answers)
    test = binomtest(right, len(answers), CHANCE)
    interval = test.proportion_ci(confidence, method="wilson")
    return {
        "answers": len(answers),
        "right": right,
        "accuracy": right / len(answers),
        "low": float(interval.low),
        "high": float(interval.high),
        "p": float(test.pvalue),
    }


def _said_machine(answers: list[Answer]) -> dict[str, float | None]:
    def part(kind: bool) -> float | None:
        said = [answer.said_machine for answer in answers if answer.was_machine == kind]
        return sum(said) / len(said) if said else None

    return {"machine_of_machine": part(True), "machine_of_human": part(False)}
