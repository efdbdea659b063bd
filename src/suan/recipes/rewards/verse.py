"""Rewards for regulated verse: the number of lines and characters, rhyme, and the tone pattern (平仄).

Knows the rules of a regulated poem. Which tone a character has and what it rhymes with comes from a data set,
as `verse.json`: `{"tones": {"春": "平"}, "rhymes": {"春": 4}}`.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from suan.grid.error import Refused

LEVEL, OBLIQUE = "平", "仄"
LEXICON = "verse.json"
UNKNOWN = 0.5  # a rule whose characters have both tones or none that is known: nothing to win by it


class Lexicon(NamedTuple):
    """What is known about characters: their tone, where they have one, and the class they rhyme in."""

    tones: dict[str, str]
    rhymes: dict[str, int]


def read_lexicon(folder: Path) -> Lexicon:
    """The lexicon beside a data set.

    Raises: Refused `no_verse_lexicon`.
    """
    file = folder / LEXICON
    if not file.exists():
        raise Refused(
            "no_verse_lexicon",
            f"{folder} has no {LEXICON}",
            hint="make the prompts with examples/poet/make_alignment.py, or weigh neither rhyme nor tones",
        )
    return Lexicon(**json.loads(file.read_text("utf-8")))


def verses(answer: str) -> list[str]:
    """The lines between punctuation."""
    return [part for part in re.split(r"[\W_]+", answer.strip()) if part]


def form(answer: str, shape: Sequence[int]) -> float:
    """Lines of the right length in the right place, of as many as there are or should be.

    1 exactly when the poem has the shape.
    """
    lengths = [len(verse) for verse in verses(answer)]
    right = sum(got == asked for got, asked in zip(lengths, shape, strict=False))
    return right / max(len(lengths), len(shape), 1)


def rhyme(answer: str, shape: Sequence[int], lexicon: Lexicon) -> float:
    """The part of the even lines, from the second on, that rhyme with the one before; an echo is no rhyme."""
    ends = [verse[-1] for verse in verses(answer)[: len(shape)][1::2]]
    known = lexicon.rhymes
    good = sum(
        first != second and first in known and known[first] == known.get(second)
        for first, second in itertools.pairwise(ends)
    )
    return good / max(1, len(shape) // 2 - 1)


def tones(answer: str, shape: Sequence[int], lexicon: Lexicon) -> float:
    """The part of the rules of tone that hold.

    The second, fourth and sixth character of a line alternate; the two lines of a couplet are opposed (对)
    and neighbouring couplets agree (粘) at the second character; even lines end level and odd ones but the
    first end oblique. A line that is missing or too short holds none.
    """
    lines = verses(answer)
    held: list[float] = []
    for number, length in enumerate(shape):
        line = lines[number] if number < len(lines) and len(lines[number]) == length else ""
        before = lines[number - 1] if 0 < number <= len(lines) else ""
        for place in range(1, length - 3, 2):
            held.append(_rule(line, place, line, place + 2, lexicon, opposed=True))
        if number:
            held.append(_rule(before, 1, line, 1, lexicon, opposed=number % 2 == 1))
            held.append(_ends(line, LEVEL if number % 2 else OBLIQUE, lexicon))
    return sum(held) / len(held) if held else 0.0


def _rule(first: str, place: int, second: str, other: int, lexicon: Lexicon, *, opposed: bool) -> float:
    if place >= len(first) or other >= len(second):
        return 0.0
    one, two = lexicon.tones.get(first[place]), lexicon.tones.get(second[other])
    if one is None or two is None:
        return UNKNOWN
    return float((one != two) == opposed)


def _ends(line: str, tone: str, lexicon: Lexicon) -> float:
    if not line:
        return 0.0
    found = lexicon.tones.get(line[-1])
    return UNKNOWN if found is None else float(found == tone)
