"""Pictures of estimates: what a step is spent on, and plans by time and memory. SVG or PNG by the file's
name.

Needs matplotlib (`pip install 'suan[plot]'`). Text stays text in SVG, and nothing is fetched when it is
shown.
"""

from pathlib import Path
from typing import Any

from suan.doors.estimates.answers import PlanAnswer, PlansAnswer
from suan.grid.error import Refused

_LEAST_SHARE = 0.004
_FORMATS = (".svg", ".png", ".pdf")


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches.

    Raises: Refused `no_plot`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Refused("no_plot", "pictures need matplotlib", hint="pip install 'suan[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:
    """Writes the figure in the format of the file's name, the same bytes every time.

    Raises: Refused `bad_value`, `cannot_write`.
    """
    if path.suffix.lower() not in _FORMATS:
        raise Refused("bad_value", f"{path.name}: a picture ends in {', '.join(_FORMATS)}")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "suan"}):
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            figure.savefig(path, metadata=metadata, dpi=150)
        except OSError as error:
            raise Refused("cannot_write", f"{path} cannot be written: {error.strerror}") from error


def _label(plan: PlanAnswer) -> str:
    others = "".join(
        f" {name}{getattr(plan, name)}" for name in ("cp", "ep", "vpp") if getattr(plan, name) > 1
    )
    return f"tp{plan.tp} pp{plan.pp} dp{plan.dp}{others}"


def _step_bars(axes: Any, plans: list[PlanAnswer]) -> None:
    """A bar a plan, a segment a part, seconds to the right."""
    shown = {
        name
        for plan in plans
        for name, seconds in plan.seconds_by_part.items()
        if seconds > _LEAST_SHARE * plan.step_time_s
    }
    names = [name for name in plans[0].seconds_by_part if name in shown]
    places = list(range(len(plans)))
    left = [0.0] * len(plans)
    for number, name in enumerate(names):
        widths = [plan.seconds_by_part[name] for plan in plans]
        label = name.removesuffix("_s").replace("_", " ")
        axes.barh(
            places, widths, left=left, label=label, color=f"C{number % 10}", alpha=1.0 if number < 10 else 0.5
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [_label(plan) for plan in plans])
    axes.invert_yaxis()
    axes.set_xlabel("seconds a step")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)


def draw_step(plans: list[PlanAnswer], path: Path, *, title: str) -> None:
    """Draws what a step of each plan is spent on.

    Raises: Refused `no_plot`, `bad_value`, `cannot_write`.
    """
    figure = new_figure(9.0, 1.6 + 0.45 * len(plans))
    axes = figure.add_subplot()
    _step_bars(axes, plans)
    axes.set_title(title, loc="left")
    save(figure, path)


def draw_plans(answer: PlansAnswer, path: Path) -> None:
    """Draws the plans twice: time against memory, with the frontier no plan betters in both; and by what a
    step is spent on.

    Raises: Refused `no_plot`, `bad_value`, `cannot_write`.
    """
    plans = answer.plans
    figure = new_figure(9.0, 4.6 + 0.45 * len(plans))
    above, below = figure.subplots(2, 1, height_ratios=[3.2, 1.0 + 0.45 * len(plans)])
    above.scatter(
        [plan.memory_gib for plan in plans], [plan.step_time_s for plan in plans], color="C0", zorder=3
    )
    edge = frontier(plans)
    above.step(
        [p.memory_gib for p in edge], [p.step_time_s for p in edge], where="post", color="C0", alpha=0.5
    )
    for plan in plans:
        above.annotate(
            _label(plan),
            (plan.memory_gib, plan.step_time_s),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize="small",
        )
    above.axvline(plans[0].capacity_gib, color="C3", linestyle=":", label="a device's memory")
    above.set_xlabel("GiB a device")
    above.set_ylabel("seconds a step")
    above.legend(frameon=False, fontsize="small")
    above.set_title(f"{answer.model} on {answer.devices:,} {answer.accelerator}", loc="left")
    _step_bars(below, plans)
    save(figure, path)


def frontier(plans: list[PlanAnswer]) -> list[PlanAnswer]:
    """The plans that no other betters in both time and memory, least memory first."""
    edge: list[PlanAnswer] = []
    for plan in sorted(plans, key=lambda plan: (plan.memory_gib, plan.step_time_s)):
        if not edge or plan.step_time_s < edge[-1].step_time_s:
            edge.append(plan)
    return edge
