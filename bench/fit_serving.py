"""Fits the coefficients of the serving model to published rows, and writes them into serving.toml.

    python bench/fit_serving.py            # says what it would write
    python bench/fit_serving.py --write

Deterministic: the same rows give the same numbers. The mechanics come first, by least squares on logarithms
with each coefficient held near what hardware makes plausible; the residual table is the shrunken mean of what
is left, by engine, chip family and precision; the spreads are quantiles of errors on rows left out.
Rows are read from the folder SUAN_DATA names, or from ../shared/data.
"""

import csv
import gzip
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from suan.estimate.serving import _load, most_per_s, with_best_plan
from suan.estimate.serving_cases import Engine, Scenario, ServingCases, serving_cases
from suan.estimate.serving_rates import ServingRates, families, serving_table
from suan.estimate.serving_residual import COMPUTED, MEASURES, ServingResidual, bits_of, queues_freely

ROOT = Path(__file__).parents[1]
TOML = ROOT / "src/suan/estimate/serving.toml"
BY_FAMILY = ("compute_ratio", "memory_ratio", "layer_s")
SCALARS = tuple(f.name for f in fields(ServingRates) if f.name not in BY_FAMILY)

# Where each coefficient is believed to be, and how far (in its logarithm) it may be from there.
PRIOR = {
    "compute_ratio": (0.72, 0.15),
    "memory_ratio": (0.82, 0.1),
    "layer_s": (2.5e-05, 0.5),
    "step_s": (0.001, 0.7),
    "sequence_s": (4e-06, 0.7),
    "attention_ratio": (0.5, 0.3),
    "expert_ratio": (0.7, 0.3),
    "width_half": (200, 0.7),
    "tile_rows": (32, 0.5),
    "passes": (20, 0.4),
    "routed_passes": (8, 0.5),
    "power_exponent": (0.8, 0.3),
    "stage_bubble": (0.05, 0.7),
    "narrow_ratio": (0.95, 0.15),
    "narrowest_ratio": (0.75, 0.3),
    "link_latency_s": (8e-06, 0.25),
    "bus_latency_s": (2e-05, 0.4),
    "link_ratio": (0.7, 0.2),
    "overlap": (1.3, 0.2),
    "memory_share": (0.95, 0.03),
    "reserve_gib": (3, 0.4),
    "growth_share": (0.85, 0.15),
    "capacity_spread": (0.1, 0.15),
    "waiting_steps": (1, 0.5),
    "queue_weight": (0.5, 0.1),  # Pollaczek-Khinchine: half, of arrivals without memory
    "itl_p99_ratio": (1.19, 0.05),
    "ttft_p99_ratio": (2.4, 0.1),
}
FAMILY_PRIOR = {("compute_ratio", "cdna"): 0.52}  # measured_matmul_tflops over peak of the accelerator table
AT_MOST = {
    "compute_ratio": 0.95, "memory_ratio": 0.95, "attention_ratio": 0.9, "expert_ratio": 1.0,
    "narrow_ratio": 1.0, "narrowest_ratio": 1.0, "link_ratio": 0.95, "memory_share": 0.97,
    "growth_share": 1.0, "overlap": 10.0,
}  # fmt: skip
AT_LEAST = {"overlap": 1.0}
NOISE = {"throughput": 0.12, "itl": 0.2, "ttft": 0.45}
# Groups of rows in one cell of the residual that weigh as much as no correction.
SHRINKAGE = {"throughput": 4.0, "itl": 4.0, "ttft": 1.0}


@dataclass(frozen=True)
class Rows:
    """Published rows: what is asked, and what was measured (natural logarithm; nan = not)."""

    cases: ServingCases
    columns: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]

    def take(self, index: np.ndarray) -> "Rows":
        return Rows(
            self.cases.take(index),
            {k: v[index] for k, v in self.columns.items()},
            {k: v[index] for k, v in self.measured.items()},
        )

    @property
    def groups(self) -> np.ndarray:
        """model x chip x devices: what is left out together."""
        c = self.columns
        return np.array(
            [f"{m}|{a}|{n}" for m, a, n in zip(c["model"], c["accel"], c["n_accel"], strict=True)]
        )


def data_folder() -> Path:
    return Path(os.environ.get("SUAN_DATA", ROOT.parent / "shared" / "data"))


def read_rows(path: Path | None = None) -> Rows:
    """All rows of the serving table."""
    path = path or data_folder() / "perf" / "serving_dev.csv.gz"
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    table = list(csv.DictReader(text.decode().splitlines()))
    columns = {name: np.array([row[name] for row in table], dtype=object) for name in table[0]}

    def number(name: str) -> np.ndarray:
        return np.array([float(word) if word else np.nan for word in columns[name]])

    cases = serving_cases(columns)
    arrives = cases.rate_per_s > 0
    one_token = cases.scenario == Scenario.FIRST_TOKEN
    throughput = np.where(one_token, np.nan, number("out_tokens_per_s"))
    measured = {
        "throughput": np.log(np.where(arrives, np.nan, throughput)),
        "offered": np.log(np.where(arrives, throughput, np.nan)),
        "ttft": np.log(number("ttft_ms_mean")),
        "itl": np.log(number("tpot_ms_mean")),
    }
    return Rows(cases, columns, measured)


def pack(rates: ServingRates) -> np.ndarray:
    parts = [getattr(rates, name) for name in BY_FAMILY]
    return np.log(np.concatenate([*parts, [getattr(rates, name) for name in SCALARS]]))


def unpack(vector: np.ndarray) -> ServingRates:
    values, k = np.exp(vector), len(families())
    by_family = {name: values[i * k : (i + 1) * k] for i, name in enumerate(BY_FAMILY)}
    rest = values[len(BY_FAMILY) * k :]
    return ServingRates(**by_family, **{name: float(v) for name, v in zip(SCALARS, rest, strict=True)})


def prior() -> tuple[np.ndarray, np.ndarray]:
    """(centre, width) of every coefficient's logarithm."""
    centre = [FAMILY_PRIOR.get((name, f), PRIOR[name][0]) for name in BY_FAMILY for f in families()]
    width = [PRIOR[name][1] for name in BY_FAMILY for _ in families()]
    centre += [PRIOR[name][0] for name in SCALARS]
    width += [PRIOR[name][1] for name in SCALARS]
    return np.log(centre), np.array(width)


def bounds() -> tuple[np.ndarray, np.ndarray]:
    names = [name for name in BY_FAMILY for _ in families()] + list(SCALARS)
    least = [np.log(AT_LEAST[name]) if name in AT_LEAST else -np.inf for name in names]
    most = [np.log(AT_MOST[name]) if name in AT_MOST else np.inf for name in names]
    return np.array(least) - 1e-9, np.array(most) + 1e-9


def predicted(cases: ServingCases, rates: ServingRates) -> dict[str, np.ndarray]:
    """Logarithms of what the mechanics say, by measure."""
    capacity = np.maximum(most_per_s(cases, rates), 1e-9)
    said = {name: np.full(len(cases), np.nan) for name in MEASURES}
    said["throughput"] = np.log(capacity * cases.output_tokens)
    timed = np.flatnonzero(cases.scenario != Scenario.OFFLINE)
    load = _load(cases.take(timed), capacity[timed], rates)
    with np.errstate(invalid="ignore"):
        said["ttft"][timed] = np.log(load.ttft_s * 1e3)
        said["itl"][timed] = np.log(load.itl_s * 1e3)
    return said


def distinct(rows: Rows) -> Rows:
    """One row for rows that ask the same, with the mean of what they measured."""
    asked = [c for c in rows.columns if c in ASKED]
    keys = np.array(["|".join(map(str, row)) for row in zip(*(rows.columns[c] for c in asked), strict=True)])
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    merged = rows.take(first)
    for name, values in rows.measured.items():
        there = ~np.isnan(values)
        total = np.bincount(inverse[there], values[there], len(first))
        count = np.bincount(inverse[there], minlength=len(first))
        merged.measured[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return merged


ASKED = (
    "model", "accel", "n_accel", "tp", "pp", "ep_or_dp_attn", "precision", "scenario", "isl",
    "batch_or_concurrency", "req_rate", "engine", "source",
)  # fmt: skip


def fit_mechanics(rows: Rows, *, passes: int = 2, evaluations: int = 10) -> ServingRates:
    """The coefficients that fit these rows best; layouts nobody gave are chosen anew in every pass."""
    rows = distinct(rows)
    centre, width = prior()
    _, inverse, sizes = np.unique(rows.groups, return_inverse=True, return_counts=True)
    weight = sizes[inverse] ** -0.25
    vector = centre
    for _ in range(passes):
        cases = with_best_plan(rows.cases, unpack(vector))

        def misfit(trial: np.ndarray, cases: ServingCases = cases) -> np.ndarray:
            got = predicted(cases, unpack(trial))
            parts = [(trial - centre) / width]
            for name, noise in NOISE.items():
                there = ~np.isnan(rows.measured[name])
                if name == "ttft":  # how vLLM queues is in the residual
                    there &= (cases.engine != Engine.VLLM) | ~queues_freely(cases)
                error = got[name][there] - rows.measured[name][there]
                parts.append(np.clip(error, -2.0, 2.0) * weight[there] / noise)
            return np.concatenate(parts)

        vector = least_squares(misfit, vector, bounds=bounds(), loss="soft_l1", max_nfev=evaluations).x
    return unpack(vector)


def fit_residual(rows: Rows, rates: ServingRates) -> ServingResidual:
    """Shrunken mean errors by engine, chip family and precision; every group of rows counts alike.

    First tokens hang on how an engine queues more than on its chip: by engine alone, and only for the engine
    that the mechanics of first tokens are not fitted to.
    """
    rows = distinct(rows)
    cases = with_best_plan(rows.cases, rates)
    got = predicted(cases, rates)
    none = ServingResidual.none()
    factors = {name: values.copy() for name, values in none.factors.items()}
    cells = np.stack([cases.engine, cases.family, bits_of(cases)], axis=1)
    for name in MEASURES:
        error = rows.measured[name] - got[name]
        of_cell = cells[:, :1] if name == "ttft" else cells
        if name == "ttft":
            error = np.where((cases.engine == Engine.VLLM) & queues_freely(cases), error, np.nan)
        for cell in np.unique(of_cell, axis=0):
            here = np.all(of_cell == cell, axis=1) & ~np.isnan(error)
            means = [np.median(error[here & (rows.groups == g)]) for g in np.unique(rows.groups[here])]
            if means:
                factors[name][tuple(cell)] = np.sum(means) / (len(means) + SHRINKAGE[name])
    return ServingResidual(factors, none.spreads)


def main() -> None:
    from estimate_serving import left_out, spreads

    rows = read_rows()
    rates = fit_mechanics(rows)
    residual = fit_residual(rows, rates)
    text = as_toml(rates, residual, spreads(rows, left_out(rows)))
    print(text)
    if "--write" in sys.argv:
        TOML.write_text(text, encoding="utf-8")


HEAD = """\
# Coefficients of the serving model, by chip family and for all; what each means is in serving_rates.py.
# Ratios are of a chip's peaks in the accelerator table. Fitted by bench/fit_serving.py on published rows:
# TensorRT-LLM's performance pages 0.5 to 1.2 (Apache-2.0) and MLPerf Inference 4.1 and 5.1 results
# (Apache-2.0, not verified by MLCommons). A family without rows (other) has what the fit started from.
# To add a chip of a family, add its name to `members`.
"""


def as_toml(rates: ServingRates, residual: ServingResidual, spreads: dict | None = None) -> str:
    """serving.toml with these coefficients; members, peaks and spreads stay as they are unless given."""
    table = serving_table()
    spreads = spreads or table["spread"]
    lines = [*HEAD.splitlines(), "", "[rates]"]
    lines += [f"{name} = {getattr(rates, name):.4g}" for name in SCALARS]
    for code, name in enumerate(families()):
        members = ", ".join(f'"{chip}"' for chip in table["family"][name]["members"])
        lines += ["", f"[family.{name}]", f"members = [{members}]"]
        lines += [f"{field} = {getattr(rates, field)[code]:.4g}" for field in BY_FAMILY]
    lines += ["", "# Peaks that the accelerator table has not."]
    for chip, peaks in table["peak_tflops"].items():
        lines += [f"[peak_tflops.{chip}]"]
        lines += [f'{k} = "{v}"' if isinstance(v, str) else f"{k} = {v}" for k, v in peaks.items()]
    lines += [
        "",
        "# Half-width of nine tenths of errors on rows left out: of the logarithm; [dense, mixture].",
    ]
    for kind, values in spreads.items():
        lines += [f"[spread.{kind}]"]
        lines += [f"{m} = [{pair[0]:.3f}, {pair[1]:.3f}]" for m, pair in values.items()]
    lines += ["", "# What was left over: measured over mechanics, shrunk towards 1."]
    lines += [
        "# First tokens of streams, by engine alone; TensorRT-LLM's are in the mechanics.",
        "[residual_ttft]",
    ]
    for engine in Engine:
        factor = float(np.exp(residual.factors["ttft"][engine, 0, 0]))
        lines += [f"{engine.name.lower()} = {factor:.3f}"] if factor != 1.0 else []
    for engine in Engine:
        for code, family in enumerate(families()):
            for bits, word in enumerate(COMPUTED):
                at = (engine, code, bits)
                cell = {m: float(np.exp(residual.factors[m][at])) for m in ("throughput", "itl")}
                if any(abs(v - 1.0) > 0.005 for v in cell.values()):
                    lines += ["", "[[residual]]", f'engine = "{engine.name.lower()}"']
                    lines += [f'family = "{family}"', f'bits = "{word}"']
                    lines += [f"{m} = {v:.3f}" for m, v in cell.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
