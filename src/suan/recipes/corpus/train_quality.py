"""Learns the weights of lines and of what stands around them from the seeds, and says how well they do.

    python -m suan.recipes.corpus.train_quality [MODEL.npz]

Knows the seeds: lines written by hand (`good.txt`, `bad.txt`; 〔a|b〕 is one of the two), verse (`verse.txt`)
and stuffed lines strung together from lists of words (`words.txt`). The same seeds give the same weights.
"""

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus import evidence
from suan.recipes.corpus.codes import Texts
from suan.recipes.corpus.lines import Judged
from suan.recipes.corpus.quality import BUCKETS, MODEL, features
from suan.recipes.corpus.train_pages import Source, page, sentences

if TYPE_CHECKING:
    import numpy as np

SEEDS = Path(__file__).with_name("seeds")
STUFFED_LINES, VERSE_LINES = 500, 60
DRAWN_LINES = 12  # of each seed that has alternatives
FOLDS, PAGES = 4, 150  # pages of each language in each fold
RIDGE = 1.0
COST = 1.5  # rubbish kept weighs as much as so many lines of an article lost
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


def _margins(lines: Texts, weights: "np.ndarray[Any, Any]", bias: float) -> "np.ndarray[Any, Any]":
    import numpy as np

    row, bucket, value = features(lines)
    return np.bincount(row, weights[bucket] * value, minlength=len(lines.offsets) - 1) + bias


def _plain(seed: str) -> str:
    return seed.replace("〔", "").replace("〕", "")


def _is_neutral(seed: str) -> bool:
    """Whether pages in either language hold such lines: code, numbers, and what mixes both."""
    return _plain(seed).isascii() or not any("一" <= character <= "鿿" for character in seed)


def folds(seeds: list[str], number: int) -> tuple[list[str], list[str]]:
    """(seeds to learn from, seeds kept apart): what is drawn from one seed is all on one side."""
    apart = [here % FOLDS == number for here in range(len(seeds))]
    return (
        [seed for seed, is_apart in zip(seeds, apart, strict=True) if not is_apart],
        [seed for seed, is_apart in zip(seeds, apart, strict=True) if is_apart],
    )


def sources(draw: random.Random, good: list[str], bad: list[str]) -> list[Source]:
    """What pages in Chinese and pages in English are strung together from."""
    found = []
    for is_english in (False, True):
        chosen = [seed for seed in good if _plain(seed).isascii() == is_english or _is_neutral(seed)]
        lists = [list(drawn(draw, [seed])) for seed in chosen if "〔" in seed]
        lists += [] if is_english else [list(lines) for lines in verse()]
        furniture = [list(drawn(draw, [seed])) for seed in bad if _plain(seed).isascii() == is_english]
        stuffed = [line for line in stuffed_lines(draw, 60) if line.isascii() == is_english]
        found.append(Source(sentences(list(drawn(draw, chosen))), lists, furniture, stuffed, is_english))
    return found


def train_evidence(good: list[str], bad: list[str]) -> tuple["np.ndarray[Any, Any]", float]:
    """(weights of `evidence.FEATURES`, part of lines that the classifier judges rightly without their seed).

    Pages are strung together from seeds that the classifier which reads them was trained without: read by
    one that knows them, every line would look sure, and nothing else would count.
    """
    import numpy as np

    rows, labels, right = [], [], []
    for number in range(FOLDS):
        draw = random.Random(number)
        (good_known, good_apart), (bad_known, bad_apart) = folds(good, number), folds(bad, number)
        model = train(*examples(draw, good_known, bad_known))
        lines, truth = examples(draw, good_apart, bad_apart)
        right.append(float(((_margins(Texts(lines), *model) > 0) == (truth == 1)).mean()))
        pages = [page(draw, source) for source in sources(draw, good_apart, bad_apart) for _ in range(PAGES)]
        every = [line for one in pages for line in one.lines]
        stops = np.cumsum([len(one.lines) for one in pages]).tolist()
        judged = Judged(every, stops, _margins(Texts([line.text for line in every]), *model))
        unsure = ~judged.hard & (judged.said > 0)
        rows.append(evidence.features(judged)[unsure])
        labels.append(np.array([label for one in pages for label in one.is_article], float)[unsure])
    return _logistic(np.concatenate(rows), np.concatenate(labels)), float(np.mean(right))


def _logistic(rows: "np.ndarray[Any, Any]", labels: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Weights by Newton's method."""
    import numpy as np

    weights, cost = np.zeros(rows.shape[1]), np.where(labels == 1, 1.0, COST)
    for _ in range(20):
        odds = 1 / (1 + np.exp(-rows @ weights))
        curvature = (rows * (cost * odds * (1 - odds))[:, None]).T @ rows + RIDGE * np.eye(len(weights))
        weights += np.linalg.solve(curvature, rows.T @ (cost * (labels - odds)) - RIDGE * weights)
    return weights


def main() -> int:
    import numpy as np

    good, bad = seed_lines("good.txt"), seed_lines("bad.txt")
    around, accuracy = train_evidence(good, bad)
    lines, labels = examples(random.Random(7), good, bad)
    print(f"{len(lines)} lines, {labels.mean():.0%} good; {accuracy:.3f} of lines right without their seed")
    for name, weight in zip(evidence.FEATURES, around, strict=True):
        print(f"  {name:24} {weight:6.2f}")
    weights, bias = train(lines, labels)
    np.savez_compressed(
        sys.argv[1] if len(sys.argv) > 1 else MODEL,
        weights=weights.astype(np.float16),
        bias=bias,
        evidence=around.astype(np.float32),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
