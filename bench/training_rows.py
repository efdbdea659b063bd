"""Measured training runs as cases and seconds: what the estimate of training is fitted on and judged by.

Rows come from `perf/training_dev.csv.gz` under SUAN_DATA, or ../shared/data. A row's measured step time is
its own, or follows from its tokens a second. Rows of trust X are left out everywhere.
"""

import csv
import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suan.estimate.cases import Cases
from suan.estimate.columns import Rows, numbers, read_rows
from suan.estimate.plans import complete, stated
from suan.estimate.rates import rates

ROOT = Path(__file__).resolve().parent.parent
TINY = "vtrain-single"  # 0.2 to 1.3 B models on 2 to 8 devices, bound by launches: judged apart


@dataclass(frozen=True)
class Measured:
    """Rows with a measured step time and a plan of their own."""

    rows: list[dict[str, str]]
    cases: Cases
    step_s: np.ndarray
    source: np.ndarray
    family: np.ndarray
    group: np.ndarray  # model x chip x devices
    trust: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> "Measured":
        """The rows at `index`."""
        where = np.arange(len(self))[index]
        return Measured(
            rows=[self.rows[i] for i in where],
            cases=self.cases.take(where),
            step_s=self.step_s[where],
            source=self.source[where],
            family=self.family[where],
            group=self.group[where],
            trust=self.trust[where],
        )


def data_folder() -> Path:
    """Where the shared data lie."""
    return Path(os.environ.get("SUAN_DATA", ROOT.parent / "shared" / "data"))


def read_table(path: Path | None = None) -> list[dict[str, str]]:
    """All rows, those of trust X left out."""
    path = path or data_folder() / "perf" / "training_dev.csv.gz"
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [row for row in csv.DictReader(lines) if row.get("trust") != "X"]


def parsed(table: list[dict[str, str]]) -> Rows:
    """The table's cases."""
    return read_rows({name: [row[name] for row in table] for name in table[0]})


def measured(table: list[dict[str, str]] | None = None, *, laid_out: bool = True) -> Measured:
    """Rows whose step was timed, and whose dp, tp and pp are their own unless `laid_out` is False. What a
    row leaves open of its plan is chosen as for everybody."""
    table = read_table() if table is None else table
    rows = parsed(table)
    columns = {name: [row[name] for row in table] for name in table[0]}
    cases = complete(rows.cases, stated(columns, len(table)))
    step_s = numbers([row["step_time_s"] for row in table])
    speed = numbers([row["tokens_per_s_per_accel"] for row in table])
    from_speed = rows.cases.tokens / np.maximum(speed, 1e-12) / rows.cases.machines.devices
    step_s = np.where(step_s > 0, step_s, np.where(speed > 0, from_speed, np.nan))
    names, families = rates().names, rates().families
    kind = rows.cases.machines.kind
    known = np.array(
        [not row["accel"].startswith(("nvidia", "Ascend(")) for row in table]
    )  # a chip nobody named tells nothing about any
    whole = Measured(
        rows=table,
        cases=cases,
        step_s=step_s,
        source=np.array([row["source"] for row in table]),
        family=np.array([families[i] for i in rates().family[kind]]),
        group=np.array(
            [f"{row['model']}|{names[k]}|{row['n_accel']}" for row, k in zip(table, kind, strict=True)]
        ),
        trust=np.array([row["trust"] for row in table]),
    )
    usable = np.isfinite(step_s) & known & (rows.layout_given if laid_out else True)
    return whole.take(np.flatnonzero(usable))


def scale_of(devices: np.ndarray) -> np.ndarray:
    """A word for how large a run is."""
    edges = np.array([9, 65, 513, 2048])
    words = np.array(["1-8", "9-64", "65-512", "513-2047", "2048+"])
    return words[np.searchsorted(edges, devices, side="right")]
