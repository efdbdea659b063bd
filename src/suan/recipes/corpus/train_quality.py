"""Learns the line classifier's weights from the seeds, and says how well it does on seeds it did not see.

    python -m suan.recipes.corpus.train_quality [MODEL.npz]

Knows the seeds: lines written by hand (`good.txt`, `bad.txt`) and stuffed lines strung together from lists
of words (`words.txt`). The same seeds give the same weights.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus.codes import Texts
from suan.recipes.corpus.quality import BUCKETS, MODEL, features

if TYPE_CHECKING:
    import numpy as np

SEEDS = Path(__file__).with_name("seeds")
STUFFED_LINES = 500
STEPS, LEARNING_RATE, L2 = 300, 1.0, 3e-5
_SEPARATORS = (" ", "_", "-", "|", ",", "，", "、", " I ", "")


def seed_lines(file: str) -> list[str]:
    lines = (SEEDS / file).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


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


def examples(draw: random.Random) -> tuple[list[str], "np.ndarray[Any, Any]"]:
    """(lines, labels), shuffled."""
    import numpy as np

    good, bad = clauses(seed_lines("good.txt")), seed_lines("bad.txt")
    labelled = [(line, 1.0) for line in good] + [(line, 0.0) for line in bad]
    labelled += [(line, 0.0) for line in stuffed_lines(draw, STUFFED_LINES)]
    draw.shuffle(labelled)
    return [line for line, _ in labelled], np.array([label for _, label in labelled])


def held_out_accuracy(lines: list[str], labels: "np.ndarray[Any, Any]", folds: int = 5) -> float:
    """Part of the lines judged rightly by weights that were learned without them."""
    import numpy as np

    fold, right = np.arange(len(lines)) % folds, 0
    for number in range(folds):
        known, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        weights, bias = train([lines[i] for i in known], labels[known])
        row, bucket, value = features(Texts([lines[i] for i in unseen]))
        margin = np.bincount(row, weights[bucket] * value, minlength=len(unseen)) + bias
        right += int(((margin > 0) == (labels[unseen] == 1)).sum())
    return right / len(lines)


def main() -> int:
    import numpy as np

    lines, labels = examples(random.Random(7))
    print(
        f"{len(lines)} lines, {labels.mean():.0%} good; "
        f"held-out accuracy {held_out_accuracy(lines, labels):.3f}"
    )
    weights, bias = train(lines, labels)
    np.savez_compressed(
        sys.argv[1] if len(sys.argv) > 1 else MODEL, weights=weights.astype(np.float16), bias=bias
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
