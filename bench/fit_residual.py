"""Makes residuals.toml: reference runs, what mechanics missed at them, and how wide intervals must be.

    python bench/fit_residual.py            says what it would store
    python bench/fit_residual.py --write

Run it after fit_estimate.py. Rows alike are one reference run. Interval widths are quantiles of errors on
rows that neither mechanics nor correction were fitted on (five folds by model x chip x devices).
Deterministic.
"""

import argparse
import hashlib

import numpy as np
from fit_estimate import Fit, fit, stored
from training_rows import ROOT, Measured, measured

from suan.estimate.rates import kinds
from suan.estimate.residual import SCALES, Reference, Spread, correction, features
from suan.estimate.training import step_time

TOML = ROOT / "src/suan/estimate/residuals.toml"
RADIUS = 0.7  # rows nearer than this to a reference run are counted to it
NOISE = (
    0.25  # of one row, in units of what two unlike runs differ by; chosen by leaving groups and sources out
)
MOST = 0.4  # log: a row further off says that something else was wrong with it
LOW, HIGH = 0.05, 0.95


def references(rows: Measured, missed: np.ndarray) -> Reference:
    """Reference runs for rows whose log(measured / mechanics) is `missed`."""
    at, kind = features(rows.cases), rows.cases.machines.kind
    leaders: list[int] = []
    member = np.empty(len(rows), dtype=np.int64)
    for i in range(len(rows)):
        found = -1
        if leaders:
            away = ((at[leaders] - at[i]) ** 2).sum(1) + 100.0 * (kind[leaders] != kind[i])
            nearest = int(np.argmin(away))
            found = nearest if away[nearest] < RADIUS**2 else -1
        if found < 0:
            leaders.append(i)
            found = len(leaders) - 1
        member[i] = found
    count = np.bincount(member)
    clipped = np.clip(missed, -MOST, MOST)
    return Reference(
        at=np.stack([np.bincount(member, at[:, j]) / count for j in range(at.shape[1])], axis=1),
        kind=kind[leaders],
        log_ratio=np.bincount(member, clipped) / count,
        rows=count.astype(np.float64),
        noise=NOISE,
    )


def folds(group: np.ndarray, count: int = 5) -> np.ndarray:
    """The fold of each row; rows of one group share it."""
    return np.array([int(hashlib.sha256(str(name).encode()).hexdigest(), 16) % count for name in group])


def left_out(rows: Measured, fold: np.ndarray, start: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row, by what was fitted without its fold: (log of mechanics over measured, the same corrected,
    doubt).
    """
    mechanics, corrected, doubt = np.empty(len(rows)), np.empty(len(rows)), np.empty(len(rows))
    for name in np.unique(fold):
        train, test = np.flatnonzero(fold != name), np.flatnonzero(fold == name)
        usable = train[rows.trust[train] != "C"]
        fitted = fit(rows.take(usable), start=start)
        known = references(rows.take(usable), np.log(rows.step_s[usable] / fitted.step_s(rows.take(usable))))
        here = rows.take(test)
        found = correction(here.cases, known)
        mechanics[test] = np.log(fitted.step_s(here) / here.step_s)
        corrected[test] = mechanics[test] + np.log(found.factor)
        doubt[test] = found.doubt
    return mechanics, corrected, doubt


def spread_of(missed: np.ndarray, doubt: np.ndarray, weight: np.ndarray) -> Spread:
    """Quantiles of log(measured / predicted) = -missed, in units of the root of doubt, rows weighted."""
    best = None
    for floor in (0.3, 0.5, 0.7, 1.0, 2.0):
        unit = np.sqrt(floor**2 + doubt)
        scaled = -missed / unit
        order = np.argsort(scaled)
        at = np.cumsum(weight[order]) / weight.sum()
        low, high = (float(scaled[order][np.searchsorted(at, q)]) for q in (LOW, HIGH))
        width = float(np.average((high - low) * unit, weights=weight))
        if best is None or width < best[0]:
            best = (width, Spread(low=low, high=high, floor=floor))
    assert best is not None
    return best[1]


def _written(known: Reference, corrected: Spread, mechanics: Spread) -> str:
    scale = np.array(list(SCALES.values()))
    lines = [
        "# What mechanics miss at runs like these: fitted by bench/fit_residual.py on published runs.",
        "# log_ratio is log(measured / mechanics), the mean of `rows` rows; `at` is, in this order:",
        *[f"#   {name}" for name in SCALES],
        f"noise = {known.noise}",
        "runs = [",
    ]
    for at, kind, ratio, rows in zip(known.at * scale, known.kind, known.log_ratio, known.rows, strict=True):
        where = ", ".join(f"{number:.2f}".rstrip("0").rstrip(".") for number in at)
        chip = kinds()[kind]
        lines.append(
            f'    {{ chip = "{chip}", at = [{where}], log_ratio = {ratio:.3f}, rows = {int(rows)} }},'
        )
    lines += [
        "]",
        "",
        "# 5 % and 95 % quantiles of log(measured / predicted) on rows left out, a unit of doubt.",
    ]
    for name, width in (("corrected", corrected), ("mechanics", mechanics)):
        lines += [
            f"[spread.{name}]",
            f"low = {width.low:.4f}",
            f"high = {width.high:.4f}",
            f"floor = {width.floor}",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store them in residuals.toml")
    args = parser.parse_args()
    rows = measured()
    mechanics, corrected, doubt = left_out(rows, folds(rows.group), stored())
    # Tiny rows are many and easy: each source counts as the root of its rows.
    weight = np.array([1.0 / np.sqrt((rows.source == name).sum()) for name in rows.source])
    wide, wider = spread_of(corrected, doubt, weight), spread_of(mechanics, doubt, weight)
    usable = np.flatnonzero(rows.trust != "C")
    fitted = rows.take(usable)
    known = references(fitted, np.log(fitted.step_s / step_time(fitted.cases).total_s))
    text = _written(known, wide, wider)
    print(f"{len(known.rows)} reference runs for {len(usable)} rows, {len(text) / 1024:.0f} KiB")
    print(f"corrected: {wide}\nmechanics: {wider}")
    if args.write:
        TOML.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
