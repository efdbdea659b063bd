"""Residual plots of the accuracy pages: every measured run as a point, by stratum, beside its goal.

Knows how errors are drawn. Does not know what was estimated, or why it is missed: the pages say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PAGES = Path(__file__).parents[1] / "docs" / "reference"
FURTHEST = 100.0  # percent; what is further off stands at the edge
MOST_POINTS = 60  # a stratum; of more, evenly spaced quantiles stand for all


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure: relative errors (predicted over measured, less one) by stratum, and the goal."""

    title: str
    errors: Mapping[str, np.ndarray]
    goal_percent: float


def draw(name: str, panels: Sequence[Panel]) -> str:
    """docs/reference/NAME.svg, and the Markdown that shows it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "suan", "font.size": 8, "axes.spines.top": False})
    from matplotlib import pyplot

    rows = [len(panel.errors) for panel in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(8.5, 0.9 * len(panels) + 0.19 * sum(rows)), squeeze=False,
        height_ratios=[count + 2 for count in rows],
    )  # fmt: skip
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _strip(axis, panel)
    figure.tight_layout()
    figure.savefig(PAGES / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)
    return f"![{'; '.join(panel.title for panel in panels)}]({name}.svg)"


def _strip(axis, panel: Panel) -> None:
    """A line of points a stratum; a bar at its median; the goal as a band."""
    axis.axvspan(-panel.goal_percent, panel.goal_percent, color="C2", alpha=0.15, linewidth=0)
    axis.axvline(0.0, color="black", linewidth=0.6)
    for place, errors in enumerate(panel.errors.values()):
        percent = np.clip(_thinned(np.asarray(errors)) * 100.0, -FURTHEST, FURTHEST)
        apart = 0.5 * ((np.arange(len(percent)) * 0.618) % 1.0 - 0.5)  # so that equal ones are seen
        axis.plot(percent, place + apart, ".", markersize=3.5, alpha=0.5, color="C0", markeredgewidth=0)
        axis.plot([np.median(errors) * 100.0] * 2, [place - 0.4, place + 0.4], color="C3", linewidth=1.4)
    axis.set_yticks(range(len(panel.errors)), [f"{n} ({len(e)})" for n, e in panel.errors.items()])
    axis.set_ylim(len(panel.errors) - 0.4, -0.6)
    axis.set_xlim(-FURTHEST * 1.03, FURTHEST * 1.03)
    axis.set_title(f"{panel.title}; red: median, band: goal", loc="left", fontsize=9)
    axis.set_xlabel("predicted over measured, less one, %")
    axis.spines["right"].set_visible(False)


def _thinned(errors: np.ndarray) -> np.ndarray:
    if len(errors) <= MOST_POINTS:
        return errors
    return np.quantile(errors, (np.arange(MOST_POINTS) + 0.5) / MOST_POINTS)
