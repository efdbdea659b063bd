"""What the market benchmarks share: where traces are, windows of them, runs of policies, tables and plots.

The traces are public and too large to keep here: Microsoft's Philly (msr-fiddle/philly-traces, CC-BY-4.0, as
adaptdl's osdi21-artifact branch prepared it), SenseTime's Helios (HeliosData, CC-BY-4.0) and Chronus's mix
(S-Lab ChronusArtifact, MIT), as CSV with the columns of docs/reference/simulate.md.
"""

import argparse
import os
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from suan.grid.units import DAY_S, HOUR_S
from suan.sim.compare import prepared
from suan.sim.policies import named_policy
from suan.sim.report import report
from suan.sim.run import Simulation
from suan.sim.trace import JobRow, make_trace, read_jobs
from suan.sim.world import World, make_world

ROOT = Path(__file__).parents[1]
WORLDS = ROOT / "examples" / "worlds"
PAGES = ROOT / "docs" / "bench"
STEADY_DAY = 20  # Philly's cut begins with the few jobs that were still running: load is steady from here on


def arguments(what: str, *, days: float, policies: Sequence[str]) -> argparse.Namespace:
    """The command line of every market benchmark."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUAN_DATA"), help="folder with jobs/")
    parser.add_argument("--days", type=float, default=days, help="length of the window")
    parser.add_argument("--first-day", type=float, default=None, help="where the window begins")
    parser.add_argument("--policy", action="append", help="repeat; default: " + " ".join(policies))
    parser.add_argument("--write", action="store_true", help="put a table and a plot under docs/bench/")
    chosen = parser.parse_args()
    chosen.policy = chosen.policy or list(policies)
    if chosen.data is None or not (Path(chosen.data) / "jobs").is_dir():
        print("no traces: say --data FOLDER or set SUAN_DATA; nothing measured")
        sys.exit(0)
    chosen.data = Path(chosen.data)
    return chosen


def window(data: Path, trace: str, first_day: float, days: float) -> list[JobRow]:
    """The jobs submitted in those days, moved so that the window begins at second 0."""
    first_s, last_s = first_day * DAY_S, (first_day + days) * DAY_S
    rows = read_jobs(data / "jobs" / f"{trace}.csv.gz")
    return [replace(row, submit_s=row.submit_s - first_s) for row in rows if first_s <= row.submit_s < last_s]


def draw(row: JobRow, what: str) -> float:
    """A number in [0, 1) that is the same for this job in every run."""
    return int.from_bytes(blake2b(f"{what}/{row.job_id}".encode(), digest_size=6).digest(), "big") / 2**48


def world(name: str, change: Callable[[dict[str, Any]], None] | None = None) -> World:
    """One of `examples/worlds`, changed."""
    table = tomllib.loads((WORLDS / f"{name}.toml").read_text("utf-8"))
    if change is not None:
        change(table)
    return make_world(table, WORLDS, name=name)


def offered_device_s(rows: Sequence[JobRow], days: float) -> float:
    """Device-seconds that would run in the window if every job started when it was submitted."""
    return sum(min(row.duration_s, days * DAY_S - row.submit_s) * row.gpus for row in rows)


def load_ratio(rows: Sequence[JobRow], place: World, days: float) -> float:
    """What the jobs offer over what the world has in the window."""
    devices = sum(pool.devices for site in place.sites for pool in site.pools)
    return offered_device_s(rows, days) / (devices * days * DAY_S)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One policy over one world and trace."""

    simulation: Simulation
    figures: dict[str, Any]
    wall_s: float


def run(place: World, rows: list[JobRow], policy: str) -> Run:
    """The policy's run, and its figures."""
    began_s = time.perf_counter()
    chosen = named_policy(policy, place.policies)
    trace = make_trace(rows, place, oracle=chosen.oracle)
    simulation = prepared(place, trace, chosen)
    simulation.run()
    figures = report(simulation, trace.impossible)
    return Run(simulation=simulation, figures=figures, wall_s=time.perf_counter() - began_s)


@dataclass(kw_only=True)
class Table:
    """Rows of text under a heading; printed as they come, and kept for the page."""

    heading: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def begin(self) -> None:
        print(f"\n{self.heading}\n" + "  ".join(f"{name:>13}" for name in self.columns), flush=True)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)
        print("  ".join(f"{cell:>13}" for cell in cells), flush=True)

    def markdown(self) -> str:
        lines = ["| " + " | ".join(self.columns) + " |", "| --- " + "| ---: " * (len(self.columns) - 1) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.rows]
        return f"## {self.heading}\n\n" + "\n".join(lines) + "\n"


def write(
    name: str,
    title: str,
    text: str,
    tables: Sequence[Table],
    plots: Sequence["Bars"],
    *,
    of_traces: bool = True,
) -> None:
    """docs/bench/NAME.md and NAME.svg, with the command that repeats them."""
    PAGES.mkdir(exist_ok=True)
    words = _kept(sys.argv[1:]) if of_traces else sys.argv[1:]
    command = "python " + " ".join(["bench/" + Path(sys.argv[0]).name, *words])
    body = "\n".join(table.markdown() for table in tables)
    picture = f"![{title}]({name}.svg)\n\n" if plots else ""
    page = f"# {title}\n\n{text}\n\n```\n{command}\n```\n\n{picture}{body}"
    (PAGES / f"{name}.md").write_text(page, "utf-8")
    if plots:
        _draw(PAGES / f"{name}.svg", plots)
    print(f"\nwrote docs/bench/{name}.md")


def _kept(words: list[str]) -> list[str]:
    """The arguments without the folder of this machine."""
    kept = []
    for place, word in enumerate(words):
        if word == "--data" or (place and words[place - 1] == "--data"):
            continue
        kept.append(word)
    return ["--data", "FOLDER", *kept]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """One plot: a bar a policy in each group."""

    title: str
    groups: tuple[str, ...]
    values: dict[str, tuple[float, ...]]  # policy -> one a group
    goal: float | None = None


def _draw(path: Path, plots: Sequence[Bars]) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no plot: it needs matplotlib")
        return
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "suan", "font.size": 9, "axes.spines.top": False})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(plots), 1, figsize=(8.5, 2.9 * len(plots)), squeeze=False)
    for axis, plot in zip(axes[:, 0], plots, strict=True):
        count = len(plot.values)
        for number, (policy, values) in enumerate(plot.values.items()):
            places = [group + (number - (count - 1) / 2) * 0.8 / count for group in range(len(plot.groups))]
            axis.bar(places, values, 0.76 / count, label=policy, color=f"C{number % 10}")
        axis.set_xticks(range(len(plot.groups)), plot.groups)
        axis.set_title(plot.title, loc="left", fontsize=10)
        axis.spines["right"].set_visible(False)
        if plot.goal is not None:
            axis.axhline(plot.goal, color="black", linewidth=0.8, linestyle="--", label="goal")
    axes[0, 0].legend(fontsize=7, ncols=6, loc="upper left", bbox_to_anchor=(0, 1.32), frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def hours(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / HOUR_S:,.2f} h"


def percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:,.2f} %"


def million(microyuan: float | None) -> str:
    return "-" if microyuan is None else f"{microyuan / 1e12:,.4f} M"
