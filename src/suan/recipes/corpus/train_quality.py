"""Learns the weights of lines and of what stands around them from the seeds, and says how well they do.

    python -m suan.recipes.corpus.train_quality [MODEL.npz]

The same seeds give the same weights. What is learned is in `train_lines.py` and `train_evidence.py`.
"""

import random
import sys

from suan.recipes.corpus import evidence
from suan.recipes.corpus.quality import MODEL
from suan.recipes.corpus.train_evidence import train_evidence
from suan.recipes.corpus.train_lines import examples, seed_lines, train


def main() -> int:
    import numpy as np

    good, bad = seed_lines("good.txt"), seed_lines("bad.txt")
    network, accuracy, worth = train_evidence(good, bad)
    lines, labels = examples(random.Random(7), good, bad)
    print(f"{len(lines)} lines, {labels.mean():.0%} good; {accuracy:.3f} of lines right without their seed")
    for name, lost in zip(evidence.FEATURES, worth, strict=True):
        print(f"  {name:24} {lost:7.4f}")
    weights, bias = train(lines, labels)
    np.savez_compressed(
        sys.argv[1] if len(sys.argv) > 1 else MODEL,
        weights=weights.astype(np.float16),
        bias=bias,
        hidden=network.hidden.astype(np.float32),
        hidden_bias=network.hidden_bias.astype(np.float32),
        out=network.out.astype(np.float32),
        out_bias=network.out_bias,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
