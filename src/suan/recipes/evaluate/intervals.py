"""Confidence intervals of measured abilities. Knows numbers per document; not where they are from."""

import math
from collections.abc import Sequence
from typing import NamedTuple

RESAMPLES = 1000


class Estimate(NamedTuple):
    """A measured value with its interval; `stderr` is half of what the interval would be at one sigma."""

    value: float
    low: float
    high: float
    stderr: float


def proportion(hits: int, count: int, confidence: float) -> Estimate:
    """Part of `count` that are hits, with Wilson's interval: honest near 0 and 1, and for small counts.

    Source: Wilson, JASA 22 (1927); Brown, Cai and DasGupta, Statistical Science 16 (2001).
    """
    from scipy.stats import binomtest

    value = hits / count
    interval = binomtest(hits, count).proportion_ci(confidence, method="wilson")
    stderr = math.sqrt(value * (1 - value) / max(1, count - 1))
    return Estimate(value, float(interval.low), float(interval.high), stderr)


def ratio(tops: Sequence[float], bottoms: Sequence[float], confidence: float, seed: int) -> Estimate:
    """Sum of `tops` over sum of `bottoms`, with the percentile bootstrap over documents.

    Documents are what was sampled, so they are what is resampled: long ones weigh more in every resample,
    as they do in the ratio.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    import numpy as np

    above, below = np.asarray(tops, float), np.asarray(bottoms, float)
    count = len(above)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    resampled = (draws @ above) / (draws @ below)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), float(resampled.std(ddof=1)))


def mean(scores: Sequence[float], confidence: float, seed: int) -> Estimate:
    """Mean of the scores: Wilson's interval when all are 0 or 1, else the bootstrap's."""
    if all(score in (0, 1) for score in scores):
        return proportion(round(sum(scores)), len(scores), confidence)
    return ratio(scores, [1.0] * len(scores), confidence, seed)


def paired_p(first: Sequence[float], second: Sequence[float], seed: int) -> float:
    """Two-sided p that two models score alike on the same documents.

    McNemar's exact test for right and wrong; else a test that flips the signs of the differences.
    Source: Dietterich, Neural Computation 10 (1998); Fisher's randomisation, with one added to both counts.
    """
    import numpy as np
    from scipy.stats import binomtest

    differences = np.asarray(first, float) - np.asarray(second, float)
    if set(np.unique(differences)) <= {-1.0, 0.0, 1.0}:
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (9_999, len(differences)))
    flipped = np.abs(signs @ differences)
    return float((1 + (flipped >= abs(differences.sum()) - 1e-12).sum()) / (1 + len(flipped)))
