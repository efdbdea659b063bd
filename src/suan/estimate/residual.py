"""What mechanics miss, learned from measured runs: a correction near runs like these, and how sure that is.

residuals.toml lists reference runs, each with how much longer than mechanics such runs were measured to
take. The correction of a case blends those most like it and fades to none away from them (a Gaussian process
with a squared exponential kernel). It can always be left out. Knows nothing of single rows, models' names or
sources.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from suan.estimate.cases import Attention, Cases, Floats, Ints, Precision, Recompute
from suan.estimate.rates import kinds, rates

# What makes runs alike, and what distance 1 is in each: octaves over the number, or a whole step for a yes
# and no.
SCALES = {
    "log2_active_params": 2.0,
    "log2_devices": 4.0,
    "log2_micro_batch_tokens": 2.0,
    "log2_seq_len": 1.0,
    "log2_tp": 2.0,
    "log2_pp": 2.0,
    "log2_ep": 2.0,
    "log2_cp": 2.0,
    "full_recompute": 1.0,
    "attention": 1.0,
    "adapters": 0.5,
    "weights_sharded": 1.0,
    "bits_narrowed": 1.0,
    "routed": 0.5,
}
OTHER_KIND, OTHER_FAMILY = (
    1.0,
    2.0,
)  # distance between runs on another kind of chip, and on another family of them


@dataclass(frozen=True, slots=True)
class Reference:
    """Reference runs: where they are, what was measured there."""

    at: Floats  # [run, feature], in distances
    kind: Ints
    log_ratio: Floats  # log of measured over mechanics, mean of the rows this run stands for
    rows: Floats
    noise: float  # of a single row, against how much two unlike runs differ


@dataclass(frozen=True, slots=True)
class Correction:
    """Of each case: what to multiply mechanics by, and how much of it is not explained by runs alike."""

    factor: Floats
    doubt: Floats  # 0 beside measured runs, 1 far from all


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of log(measured / predicted), in units of the root of what is doubted."""

    low: float
    high: float
    floor: float  # what is never explained: software, clocks, the weather of a network


def features(cases: Cases) -> Floats:
    """Where each case is among runs, in distances: [case, feature], in the order of SCALES."""
    shapes, plans = cases.shapes, cases.plans
    narrowed = rates().narrow[cases.machines.kind, plans.precision]
    bits = np.where(narrowed > 0, np.where(plans.precision == Precision.NVFP4, 2.0, 1.0), 0.0)
    columns = {
        "log2_active_params": np.log2(np.maximum(shapes.active_params, 1.0)),
        "log2_devices": np.log2(np.maximum(cases.machines.devices, 1)),
        "log2_micro_batch_tokens": np.log2(plans.micro_batch * cases.seq_len / plans.cp),
        "log2_seq_len": np.log2(np.maximum(cases.seq_len, 1)),
        "log2_tp": np.log2(plans.tp),
        "log2_pp": np.log2(plans.pp),
        "log2_ep": np.log2(plans.ep),
        "log2_cp": np.log2(plans.cp),
        "full_recompute": plans.recompute == Recompute.FULL,
        "attention": np.where(plans.attention == Attention.UNFUSED, 0.0, plans.attention),
        "adapters": plans.adapters,
        "weights_sharded": plans.zero_stage >= 3,
        "bits_narrowed": bits,
        "routed": shapes.experts > 0,
    }
    return np.stack([np.asarray(columns[name]) / scale for name, scale in SCALES.items()], axis=1)


def alike(left: Floats, left_kind: Ints, right: Floats, right_kind: Ints) -> Floats:
    """How alike runs are, 1 for the same and 0 for nothing in common: [left, right]."""
    square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2.0 * left @ right.T
    family = rates().family
    square += OTHER_KIND**2 * (left_kind[:, None] != right_kind[None])
    square += OTHER_FAMILY**2 * (family[left_kind][:, None] != family[right_kind][None])
    return np.asarray(np.exp(-0.5 * np.maximum(square, 0.0)), dtype=np.float64)


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("suan.estimate").joinpath("residuals.toml").read_text("utf-8"))


@cache
def reference() -> Reference:
    """The reference runs of residuals.toml."""
    table = _table()
    runs = table["runs"]
    return Reference(
        at=np.array([run["at"] for run in runs], dtype=np.float64).reshape(len(runs), len(SCALES))
        / np.array(list(SCALES.values())),
        kind=np.array([kinds().index(run["chip"]) for run in runs], dtype=np.int64),
        log_ratio=np.array([run["log_ratio"] for run in runs], dtype=np.float64),
        rows=np.array([run["rows"] for run in runs], dtype=np.float64),
        noise=float(table["noise"]),
    )


def spread(*, corrected: bool) -> Spread:
    """Quantiles of what is missed, with the correction or without."""
    return Spread(**_table()["spread"]["corrected" if corrected else "mechanics"])


def solved(known: Reference) -> tuple[Floats, Floats]:
    """(weights of the runs, inverse of their covariance): what a correction needs of them."""
    covariance = alike(known.at, known.kind, known.at, known.kind)
    covariance += np.diag(known.noise / np.sqrt(known.rows))
    inverse = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
    return inverse @ known.log_ratio, inverse


@cache
def _solved() -> tuple[Floats, Floats]:
    return solved(reference())


def correction(
    cases: Cases, known: Reference | None = None, solution: tuple[Floats, Floats] | None = None
) -> Correction:
    """The correction of each case by the reference runs (those of residuals.toml unless given)."""
    if known is None:
        known, solution = reference(), _solved()
    weights, inverse = solved(known) if solution is None else solution
    factor, doubt = np.empty(len(cases)), np.empty(len(cases))
    at, kind = features(cases), cases.machines.kind
    for start in range(0, len(cases), 4096):  # a block at a time: the table of likeness stays small
        part = slice(start, start + 4096)
        near = alike(at[part], kind[part], known.at, known.kind)
        factor[part] = np.exp(near @ weights)
        doubt[part] = np.clip(1.0 - np.einsum("ij,ij->i", near @ inverse, near), 0.0, 1.0)
    return Correction(factor=factor, doubt=doubt)


def interval(step_s: Floats, doubt: Floats, width: Spread) -> tuple[Floats, Floats]:
    """(low, high) that 90 % of measured times lie between."""
    unit = np.sqrt(width.floor**2 + doubt)
    return step_s * np.exp(width.low * unit), step_s * np.exp(width.high * unit)
