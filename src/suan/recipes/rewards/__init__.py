"""Rewards that training and comparison share: rows and answers in, one number an answer out.

Knows the names of the rewards that can be verified, and how a weighted sum of rewards is made. What each
checks is in `verse.py` and `text.py`; the reward that was learnt is in `learnt.py`. Does not know who trains.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.rewards import text, verse

Row = Mapping[str, Any]
Scorer = Callable[[Sequence[Row], Sequence[str]], list[float]]
"""Scores answers to rows; a row has `prompt`, its messages, and whatever else the data set gives."""

LEARNT = "model"
VERIFIABLE = ("form", "rhyme", "tones", "distinct", "answer", "pattern")


def scorer(name: str, prompts: Path) -> Scorer:
    """The verifiable reward of that name; those of verse read `verse.json` beside the prompts.

    Raises: Refused `unknown_reward`, `no_verse_lexicon`.
    """
    if name in ("rhyme", "tones"):
        lexicon = verse.read_lexicon(prompts)
        check = {"rhyme": verse.rhyme, "tones": verse.tones}[name]
        return lambda rows, answers: [
            check(answer, row["shape"], lexicon) for row, answer in zip(rows, answers, strict=True)
        ]
    by_row: dict[str, Callable[[str, Row], float]] = {
        "form": lambda answer, row: verse.form(answer, row["shape"]),
        "distinct": lambda answer, row: text.distinct(answer),
        "answer": lambda answer, row: text.equals(answer, row["answer"]),
        "pattern": lambda answer, row: text.matches(answer, row["pattern"]),
    }
    if name not in by_row:
        raise Refused(
            "unknown_reward",
            f"no reward is called {name!r}",
            hint=f"there are {', '.join((LEARNT, *VERIFIABLE))}",
        )
    found = by_row[name]
    return lambda rows, answers: [found(answer, row) for row, answer in zip(rows, answers, strict=True)]


def scorers(names: Sequence[str], prompts: Path, learnt: Scorer | None = None) -> dict[str, Scorer]:
    """Scorers by name, in the order of `names`.

    Raises: Refused `no_reward_model` when `model` is among the names and none was given, and what `scorer`
    raises.
    """
    made: dict[str, Scorer] = {}
    for name in names:
        if name == LEARNT and learnt is None:
            raise Refused(
                "no_reward_model",
                "a weight is given to the reward `model`, and there is no reward model",
                hint="give an input called reward_model, or leave `model` out of rewards",
            )
        made[name] = learnt if name == LEARNT and learnt else scorer(name, prompts)
    return made


def weighted(scores: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> list[float]:
    """The sum of the scores by weight, answer by answer."""
    columns = [[weights[name] * value for value in scores[name]] for name in weights]
    return [sum(values) for values in zip(*columns, strict=True)]
