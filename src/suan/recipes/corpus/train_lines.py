"""Learns how much a line reads like part of an article, from the seeds.

Knows the seeds: lines written by hand (`good.txt`, `bad.txt`; 〔a|b〕 is one of the two), verse
(`verse.txt`), programs (`code.txt`) and stuffed lines strung together from lists of words (`words.txt`). Does
not know pages.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus.codes import Texts
from suan.recipes.corpus.quality import BUCKETS, features

if TYPE_CHECKING:
    import numpy as np

SEEDS = Path(__file__).with_name("seeds")
STUFFED_LINES, VERSE_LINES = 500, 60
DRAWN_LINES = 12  # of each seed that has alternatives
STEPS, LEARNING_RATE, L2 = 300, 1.0, 3e-5
_CHOICE = re.compile("〔([^〔〕]*)〕")
_BAR = re.compile(r"(?<!\\)\|")
_SEPARATORS = (" ", "_", "-", "|", ",", "，", "、", " I ", "")


def seed_lines(file: str) -> list[str]:
    lines = (SEEDS / file).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def drawn(draw: random.Random, seeds: list[str]) -> Iterator[str]:
    """The seeds; those with alternatives several times, each time drawn anew."""
    for seed in seeds:
        for _ in range(DRAWN_LINES if "〔" in seed else 1):
            yield _CHOICE.sub(lambda match: draw.choice(_BAR.split(match[1])), seed).replace("\\|", "|")


def stuffed_lines(draw: random.Random, many: int) -> Iterator[str]:
    """Lines as keyword spam and menus write them: two to forty groups of one to five words."""
    lists = [line.split("\t")[1].split(" ") for line in seed_lines("words.txt")]
    for _ in range(many):
        words, separator = draw.choice(lists), draw.choice(_SEPARATORS)
        inside = " " if words[0].isascii() else ""
        groups = [inside.join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(draw.randint(2, 14))]
        yield separator.join(groups) + draw.choice(("", "", "", "。", "！"))


def scrambled_lines(draw: random.Random, lines: list[str], many: int) -> Iterator[str]:
    """Stuffed lines of Chinese words that no list has: pieces of `lines`, the same few again and again."""
    pieces = re.findall("[一-鿿]+", "，".join(lines))
    for _ in range(many if pieces else 0):
        words = [piece[: draw.randint(2, 4)] for piece in draw.choices(pieces, k=draw.randint(6, 24))]
        groups = ["".join(draw.choices(words, k=draw.randint(1, 4))) for _ in range(draw.randint(4, 24))]
        yield draw.choice(_SEPARATORS[1:-1]).join(groups)  # with spaces alone between, words may be a table


def clauses(lines: list[str]) -> list[str]:
    """The lines, and the parts of those that have several: prose is cut anywhere by line breaks."""
    parts = [part + "，" for line in lines for part in line.rstrip("。").split("，") if len(part) > 5]
    return lines + parts


def train(lines: list[str], labels: "np.ndarray[Any, Any]") -> tuple["np.ndarray[Any, Any]", float]:
    """(weights, bias) by Adagrad on the whole set; good and bad weigh the same together."""
    import numpy as np

    row, bucket, value = features(Texts(lines))
    share = np.where(labels == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    weights, bias = np.zeros(BUCKETS), 0.0
    squares, bias_square = np.full(BUCKETS, 1e-8), 1e-8
    for _ in range(STEPS):
        margin = np.bincount(row, weights[bucket] * value, minlength=len(lines)) + bias
        error = (1 / (1 + np.exp(-margin)) - labels) * share
        gradient = np.bincount(bucket, error[row] * value, minlength=BUCKETS) + L2 * weights
        squares += gradient**2
        weights -= LEARNING_RATE * 0.1 * gradient / np.sqrt(squares)
        bias_square += error.sum() ** 2
        bias -= LEARNING_RATE * 0.1 * error.sum() / np.sqrt(bias_square)
    return weights, bias


def verse() -> list[list[str]]:
    """Verse as it is printed: couplets, and half lines, of one length each."""
    couplets = seed_lines("verse.txt")
    groups: dict[int, list[str]] = {}
    for couplet in couplets:
        for line in (couplet, *re.split("[，。？！]", couplet)[:2]):
            groups.setdefault(len(line), []).append(line)
    return [lines for lines in groups.values() if len(lines) > 8]


def examples(
    draw: random.Random, good_seeds: list[str], bad_seeds: list[str]
) -> tuple[list[str], "np.ndarray[Any, Any]"]:
    """(lines, labels), shuffled."""
    import numpy as np

    good, bad = clauses(list(drawn(draw, good_seeds))), list(drawn(draw, bad_seeds))
    good += draw.sample([line for lines in verse() for line in lines], VERSE_LINES)
    labelled = [(line, 1.0) for line in good] + [(line, 0.0) for line in bad]
    labelled += [(line, 0.0) for line in stuffed_lines(draw, STUFFED_LINES)]
    draw.shuffle(labelled)
    return [line for line, _ in labelled], np.array([label for _, label in labelled])


def margins(lines: Texts, weights: "np.ndarray[Any, Any]", bias: float) -> "np.ndarray[Any, Any]":
    """For every line, the log odds that these weights give."""
    import numpy as np

    row, bucket, value = features(lines)
    return np.bincount(row, weights[bucket] * value, minlength=len(lines.offsets) - 1) + bias


def code() -> list[list[str]]:
    """Programs, each as its lines without those that are empty."""
    blocks = (SEEDS / "code.txt").read_text("utf-8").split("\n\n")
    return [[line for line in block.split("\n") if not line.startswith("## ")] for block in blocks]
