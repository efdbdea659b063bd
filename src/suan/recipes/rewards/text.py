"""Rewards for any text: does it say the expected thing, has it the expected shape, does it repeat itself.

Knows strings. Does not know verse.
"""

import re

PAIR = 2


def pairs(answer: str) -> list[str]:
    """Neighbouring characters, punctuation and space left out."""
    letters = re.sub(r"[\W_]+", "", answer)
    return [letters[start : start + PAIR] for start in range(len(letters) - PAIR + 1)]


def distinct(answer: str) -> float:
    """How many of the pairs of characters are new, of all: 1 repeats nothing, an empty answer has 0."""
    found = pairs(answer)
    return len(set(found)) / len(found) if found else 0.0


def variety(answers: list[str]) -> float:
    """How many pairs of characters in all answers together are new, of all: falls when a model says the same
    thing whatever it is asked."""
    found = [pair for answer in answers for pair in pairs(answer)]
    return len(set(found)) / len(found) if found else 0.0


def equals(answer: str, expected: str) -> float:
    """1 when the answer is the expected one, but for the space around it."""
    return float(answer.strip() == expected.strip())


def matches(answer: str, pattern: str) -> float:
    """1 when the whole answer, but for the space around it, matches the regular expression."""
    return float(re.fullmatch(pattern, answer.strip(), re.DOTALL) is not None)
