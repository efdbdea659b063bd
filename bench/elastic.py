"""How much slower a node gets beside others: fits `SERIAL_PART` of rules/scaling.py on published runs.

    SUAN_DATA=../shared/data .venv/bin/python bench/elastic.py

Takes pairs of runs of the same source, model, batch, sequence length, precision and device on different
numbers of whole nodes, the fastest plan of each; a pair gives the part of Amdahl's law that explains its
loss. Prints the median part, its quarters, and how far the speed-ups that the rule foretells lie from the
measured ones. Rows of trust A and B only. Limits: the fitted part within 0.02 of the rule's (it is a median
of few dozens), the median error of the foretold speed-ups at most 15 %. Measured when the rule was made, 33
pairs: 0.038 (quarters 0.014 and 0.078) and 11.4 %.
"""

import csv
import gzip
import os
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np

from suan.rules.scaling import SERIAL_PART, prior_speed

DATA = Path(os.environ.get("SUAN_DATA", Path(__file__).parents[2] / "shared" / "data"))
SAME = ("source", "model", "accel", "seq_len", "precision", "global_batch", "scaleout_gbps_per_node")
MOST_OFF, MOST_ERROR_RATIO = 0.02, 0.15


def pairs(rows: list[dict[str, str]]) -> list[tuple[int, int, float]]:
    """(fewer nodes, more nodes, throughput a device with more over that with fewer) of runs of equal work."""
    best: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for row in rows:
        if (
            row["trust"] not in "AB"
            or row["oom"].lower() in ("1", "true")
            or not row["tokens_per_s_per_accel"]
        ):
            continue
        if not row["n_accel"] or not row["global_batch"]:
            continue
        devices, per_node = int(float(row["n_accel"])), int(float(row["accel_per_node"] or 8))
        if devices % per_node:
            continue
        speeds = best[tuple(row[name] for name in SAME)]
        nodes, rate = devices // per_node, float(row["tokens_per_s_per_accel"])
        speeds[nodes] = max(speeds.get(nodes, 0.0), rate)
    return [
        (few, many, speeds[many] / speeds[few])
        for speeds in best.values()
        for few, many in combinations(sorted(speeds), 2)
    ]


def serial_part(few: int, many: int, efficiency: float) -> float:
    """The part of Amdahl's law with which a node among `many` is `efficiency` times one among `few`."""
    rest = efficiency * (many - 1) - (few - 1)
    return (1 - efficiency) / rest if rest > 0 else np.nan


def main() -> int:
    table = DATA / "perf" / "training_dev.csv.gz"
    if not table.exists():
        print(f"skipped: no {table}; name its folder in SUAN_DATA")
        return 0
    with gzip.open(table, "rt", encoding="utf-8") as file:
        found = pairs(list(csv.DictReader(file)))
    parts = np.array([serial_part(*pair) for pair in found])
    good = np.isfinite(parts)
    fitted = float(np.median(parts[good]))
    measured = np.array([many / few * ratio for few, many, ratio in found])
    foretold = np.array([prior_speed(many) / prior_speed(few) for few, many, _ in found])
    error = float(np.median(np.abs(foretold / measured - 1)))
    quarters = np.quantile(parts[good], (0.25, 0.75))
    print(f"{len(found)} pairs: serial part {fitted:.3f} (quarters {quarters[0]:.3f} to {quarters[1]:.3f}),")
    print(f"the rule has {SERIAL_PART}; its speed-ups are off by {error:.1%} (median)")
    ok = abs(fitted - SERIAL_PART) <= MOST_OFF and error <= MOST_ERROR_RATIO
    print("ok" if ok else "outside its limits")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
