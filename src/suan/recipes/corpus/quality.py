"""How much a line reads like part of an article: a logistic regression over hashed character n-grams.

Knows the features and the shipped weights (`quality.npz`). How they were learned is in `train_quality.py`,
from `seeds/`. Does not decide what is kept.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus.codes import Texts

if TYPE_CHECKING:
    import numpy as np

MODEL = Path(__file__).with_name("quality.npz")
BUCKETS = 1 << 15
WIDTHS = (1, 2, 3)


def features(lines: Texts) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """(line, bucket, value) of every n-gram: values are such that a line's squares sum to about one."""
    import numpy as np

    folded = lines.folded.edged()
    rows, buckets = [], []
    for width in WIDTHS:
        hashes, offsets = folded.windows(width)
        rows.append(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)))
        buckets.append((hashes % np.uint64(BUCKETS)).astype(np.int64))
    row, bucket = np.concatenate(rows), np.concatenate(buckets)
    many = np.bincount(row, minlength=len(lines.offsets) - 1)
    return row, bucket, 1 / np.sqrt(np.maximum(1, many))[row]


@cache
def stored(name: str) -> "np.ndarray[Any, Any]":
    """What was learned: `weights` and `bias` of the line classifier, or `evidence`."""
    import numpy as np

    with np.load(MODEL) as learned:
        return learned[name].astype(np.float64)


def log_odds(lines: Texts) -> "np.ndarray[Any, Any]":
    """For every line, the log odds that it belongs to an article; 0 is even."""
    import numpy as np

    weights, bias = stored("weights"), float(stored("bias"))
    row, bucket, value = features(lines)
    return np.bincount(row, weights[bucket] * value, minlength=len(lines.offsets) - 1) + bias
