"""Fits what rates.toml calls fitted: the coefficients physics leaves open, and what each family sustains.

    python bench/fit_estimate.py            prints the fitted values
    python bench/fit_estimate.py --write    and stores them in src/suan/estimate/rates.toml

The error is that of log(predicted / measured), made robust (soft L1); every source counts the same however
many rows it has up to a square root, and every coefficient is held near the value physics suggests.
Deterministic.
"""

import argparse
import re
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import least_squares
from training_rows import ROOT, Measured, measured

from suan.estimate.rates import Rates, coefficients, rates, table
from suan.estimate.training import step_time

TOML = ROOT / "src/suan/estimate/rates.toml"
# What each coefficient is thought to be before any row is seen (log-normal: middle, spread).
PRIOR: dict[str, tuple[float, float]] = {
    "fp8_ratio": (0.9, 0.15),
    "mxfp8_ratio": (0.9, 0.15),
    "nvfp4_ratio": (0.6, 0.25),
    "score_bytes": (13.0, 0.3),
    "traffic_ratio": (1.2, 0.3),
    "routed_passes": (6.0, 0.4),
    "expert_ratio": (0.9, 0.15),
    "expert_half_rows": (256.0, 0.7),
    "cast_bytes": (4.0, 0.3),
    "logit_bytes": (20.0, 0.3),
    # fp32 read and written is 8, in a fused multiplication half hidden behind it; not fused is a kernel of
    # its own, which reads the 16-bit gradient that the multiplication has written: 12.
    "accumulate_bytes": (4.0, 0.4),
    "accumulate_bytes_unfused": (12.0, 0.03),
    "attention_half_length": (512.0, 0.6),
    "gemm_half_depth": (128.0, 0.4),
    "kernels_flash": (60.0, 0.6),
    "kernels_unfused": (150.0, 0.4),
    "kernels_routed": (100.0, 0.6),
    "kernels_expert": (5.0, 0.6),
    "kernels_split": (10.0, 0.6),
    "odd_head_ratio": (0.5, 0.4),
    "tp_exposed": (0.8, 0.4),
    "tp_exposed_unfused": (0.8, 0.4),
    "ep_exposed": (0.8, 0.4),
    "cp_exposed": (0.1, 0.5),
    "pp_exposed": (0.7, 0.5),
    "dp_exposed": (0.4, 0.5),
    "dp_exposed_unfused": (0.4, 0.5),
    "fsdp_exposed": (0.1, 0.5),
    "network_ratio": (0.9, 0.25),
    "optimizer_bytes": (36.0, 0.3),
    "head_on_last": (0.6, 0.4),
    "straggler_ratio": (0.005, 0.5),
    "step_s": (0.01, 0.6),
}
FAMILY_PRIOR = {
    "sustained_ratio": dict.fromkeys(("ampere", "hopper", "blackwell", "cdna", "ascend"), (0.85, 0.12)),
    "flash_ratio": {"ampere": (0.65, 0.15), "hopper": (0.42, 0.15), "ascend": (0.5, 0.3)},
    "tuned_ratio": {"hopper": (0.7, 0.15), "blackwell": (0.7, 0.15), "cdna": (0.6, 0.3)},
    "link_ratio": {"ascend": (0.75, 0.3)},  # nobody published a curve; others' are measured
}
# Numbers whose mean over the fitted families is taken for a family that nothing is known of.
SHARED = ("sustained_ratio", "flash_ratio", "tuned_ratio")
# Which column of Rates a family's number scales.
COLUMN_OF = {
    "sustained_ratio": "sustained_ratio",
    "flash_ratio": "flash_ratio",
    "tuned_ratio": "tuned_ratio",
    "link_ratio": "link_bytes_per_s",
}
# No coefficient may say what cannot be: more than a whole, or more than the line rate (families: 0.75 of it).
CEILING = {
    **dict.fromkeys(
        (
            "tp_exposed",
            "tp_exposed_unfused",
            "ep_exposed",
            "cp_exposed",
            "pp_exposed",
            "dp_exposed",
            "dp_exposed_unfused",
            "fsdp_exposed",
        ),
        1.0,
    ),
    **dict.fromkeys(
        ("fp8_ratio", "mxfp8_ratio"), 1.1
    ),  # the rates they are of were measured on random numbers
    "nvfp4_ratio": 0.9,
    "link_ratio": 1.0,
    "network_ratio": 1.3,
}
STEPS = 8  # of the search, here and on folds: from where 20 had led, left-out rows came out worse
SPREAD = 0.08  # of log(predicted / measured) that is nobody's fault


@dataclass(frozen=True)
class Fit:
    """Fitted values: coefficients, and numbers by (key, family)."""

    coefficients: dict[str, float]
    families: dict[tuple[str, str], float]

    def rates(self) -> Rates:
        """The rates with the fitted families' numbers; a family without one has the mean of those that
        have.
        """
        base = rates()
        columns = {}
        for key in FAMILY_PRIOR:
            column = getattr(base, COLUMN_OF[key]).copy()
            own = {name: value for (what, name), value in self.families.items() if what == key}
            usual = float(np.exp(np.mean(np.log(list(own.values()))))) if own else None
            for position, name in enumerate(base.families):
                known = table()["families"].get(name, {}).get(key)
                value = own.get(name, usual if known is None and key in SHARED else None)
                if value is not None:
                    column[base.family == position] *= value / (known or table()["otherwise"][key])
            columns[COLUMN_OF[key]] = column
        return replace(base, **columns)

    def step_s(self, rows: Measured) -> np.ndarray:
        """Predicted seconds."""
        return step_time(rows.cases, tuning=self.coefficients, table=self.rates()).total_s


@cache
def _names() -> list[tuple[str, str]]:
    singles = [("", name) for name in PRIOR]
    return singles + [(key, family) for key, entry in FAMILY_PRIOR.items() for family in entry]


def _prior() -> tuple[np.ndarray, np.ndarray]:
    pairs = [FAMILY_PRIOR[key][name] if key else PRIOR[name] for key, name in _names()]
    middle, spread = np.array(pairs).T
    return np.log(middle), spread


def _unpacked(vector: np.ndarray) -> Fit:
    values = dict(zip(_names(), np.exp(vector), strict=True))
    found = {**coefficients(), **{name: float(v) for (key, name), v in values.items() if not key}}
    return Fit(found, {pair: float(v) for pair, v in values.items() if pair[0]})


def weights(rows: Measured) -> np.ndarray:
    """Of each row: groups of one setting share the weight of its square root, sources that of theirs."""
    out = np.empty(len(rows))
    for source in np.unique(rows.source):
        mine = rows.source == source
        out[mine] = np.sqrt(mine.sum()) / mine.sum()
    return out * len(rows) / out.sum() * 0.5


def fit(rows: Measured, *, start: Fit | None = None, steps: int = STEPS) -> Fit:
    """Coefficients fitted on `rows`. What the rows say nothing about stays at its prior."""
    middle, spread = _prior()
    present = set(np.unique(rows.family))
    weight = np.sqrt(weights(rows))
    begin = middle.copy()
    if start is not None:
        both = {**{("", k): v for k, v in start.coefficients.items()}, **start.families}
        begin = np.array([np.log(max(both[name], 1e-6)) for name in _names()])
    free = np.array([not key or family in present for key, family in _names()])

    def misses(vector: np.ndarray) -> np.ndarray:
        whole = middle.copy()
        whole[free] = vector
        fitted = _unpacked(whole)
        miss = np.log(fitted.step_s(rows) / rows.step_s) / SPREAD
        robust = np.sign(miss) * np.sqrt(2.0 * (np.sqrt(1.0 + miss**2) - 1.0))
        return np.concatenate([robust * weight, (whole - middle)[free] / spread[free]])

    most = np.log([CEILING.get(key or name, np.inf) for key, name in _names()])
    begin = np.minimum(begin, most - 1e-3)
    found = least_squares(
        misses, begin[free], bounds=(-np.inf, most[free]), max_nfev=steps, x_scale=spread[free]
    )
    whole = middle.copy()
    whole[free] = found.x
    return _unpacked(whole)


def written(text: str, fitted: Fit) -> str:
    """rates.toml with the fitted numbers in place."""
    for name, value in fitted.coefficients.items():
        text = re.sub(rf"^({name} = {{ value = )[-\d.e]+", rf"\g<1>{value:.4g}", text, flags=re.M)
    for (key, family), value in fitted.families.items():
        head, _, rest = text.partition(f"[families.{family}]\n")
        body, mark, tail = rest.partition("\n[")
        line = f"{key} = {value:.3f}"
        if re.search(rf"^{key} = ", body, flags=re.M):
            body = re.sub(rf"^{key} = [\d.]+", line, body, flags=re.M)
        else:
            body = body.rstrip("\n") + f"\n{line}\n"
        text = f"{head}[families.{family}]\n{body}{mark}{tail}"
    for key in SHARED:
        own = [value for (what, _), value in fitted.families.items() if what == key]
        mean = float(np.exp(np.mean(np.log(own))))
        head, _, rest = text.partition("[otherwise]\n")
        rest = re.sub(rf"^{key} = [\d.]+", f"{key} = {mean:.3f}", rest, count=1, flags=re.M)
        text = f"{head}[otherwise]\n{rest}"
    return text


def stored() -> Fit:
    """What rates.toml holds."""
    families = {
        (key, name): float(table()["families"][name].get(key, table()["otherwise"][key]))
        for key, of_family in FAMILY_PRIOR.items()
        for name in of_family
    }
    return Fit(coefficients(), families)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store the values in rates.toml")
    args = parser.parse_args()
    rows = measured()
    rows = rows.take(np.flatnonzero(rows.trust != "C"))
    fitted = fit(rows, start=stored(), steps=STEPS)
    for name, value in fitted.coefficients.items():
        print(f"{name:20s} {value:10.4g}   was {table()['coefficients'][name]['value']}")
    for (key, family), value in fitted.families.items():
        print(f"{key:20s} {family:10s} {value:.3f}")
    miss = np.abs(fitted.step_s(rows) / rows.step_s - 1.0)
    print(f"{len(rows)} rows, mean error {miss.mean():.1%}, median {np.median(miss):.1%}")
    if args.write:
        TOML.write_text(written(TOML.read_text("utf-8"), fitted), "utf-8")


if __name__ == "__main__":
    main()
