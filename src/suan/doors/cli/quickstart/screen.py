"""What is shown while the jobs run: a live table on a terminal, plain lines everywhere else.

Knows how to show jobs as REST gives them. Asks nothing and decides nothing.
"""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from suan.doors.cli import render
from suan.doors.cli.bids import reason_text
from suan.doors.cli.jobs import last_run, metrics_text, progress_text, span_text

Json = dict[str, Any]
_LINE_EVERY_S = 5.0  # plain progress of one job
_BAR = 12  # columns
_SHORT = 60  # characters of a reason in the live table


class Screen:
    """Plain lines on a stream. `show` may be called as often as one likes: it says only what is news."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._phases: dict[str, str] = {}
        self._lines: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def write(self, piece: str) -> None:
        """Part of a line, at once."""
        print(piece, end="", file=self._out, flush=True)

    def show(self, jobs: list[Json]) -> None:
        for job in jobs:
            name, phase = job["task"]["name"], _phase(job)
            if self._phases.get(job["id"]) != phase:
                self._phases[job["id"]] = phase
                self.say(f"{name}: {phase}{_where(job)}{_after(job)}")
            progress = progress_text(job["progress"]) if phase == "placed" else ""
            shown_s, shown = self._lines.get(job["id"], (0.0, ""))
            if progress and progress != shown and time.monotonic() - shown_s >= _LINE_EVERY_S:
                self._lines[job["id"]] = (time.monotonic(), progress)
                self.say(f"{name}{_where(job)}: {progress}")

    def close(self) -> None:
        """The last word has been shown."""


class LiveScreen(Screen):
    """The same on a terminal: what is said scrolls by above a table that stays."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=out, highlight=False), refresh_per_second=4, transient=True)
        self._jobs: list[Json] = []

    def say(self, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text.from_ansi(text), soft_wrap=True)

    def write(self, piece: str) -> None:
        self.close()
        super().write(piece)

    def show(self, jobs: list[Json]) -> None:
        if not self._live.is_started:
            self._live.start()
        for job in jobs:
            phase = _phase(job)
            before = self._phases.get(job["id"])
            self._phases[job["id"]] = phase
            if before not in (None, phase) and phase in ("succeeded", "failed", "stopped"):
                self.say(f"{job['task']['name']}: {phase}{_where(job)}{_after(job)}")
        self._live.update(_table(jobs))

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()


def open_screen(out: TextIO) -> Screen:
    """Live where there is a terminal to redraw."""
    return LiveScreen(out) if out.isatty() else Screen(out)


def _table(jobs: list[Json]) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    colours = {
        "succeeded": "green",
        "placed": "cyan",
        "answers": "green",
        "failed": "red",
        "stopped": "yellow",
    }
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("stage", "site", "phase", "ran"):
        table.add_column(heading, justify="right" if heading == "ran" else "left", no_wrap=True)
    table.add_column("", width=_BAR)
    table.add_column("", no_wrap=True, ratio=1)  # the one that gives way where the terminal is narrow
    for job in jobs:
        phase, progress = _phase(job), job["progress"]
        bar: Any = ""
        if phase == "placed" and isinstance(progress.get("total"), int | float):
            bar = ProgressBar(
                total=float(progress["total"]), completed=float(progress.get("step", 0)), width=20
            )
        said = progress_text(progress) if phase == "placed" else metrics_text(_few(job["metrics"]))
        if phase == "waiting":
            said = reason_text(job["reason"])[:_SHORT]
        table.add_row(
            job["task"]["name"],
            last_run(job).get("site", ""),
            Text(phase, colours.get(phase, "dim")),
            span_text(job),
            bar,
            Text(said),
        )
    return table


def _few(metrics: Json) -> Json:
    """The metrics that fit into a line; val_loss first where there is one."""
    chosen: Json = {name: metrics[name] for name in ("first_val_loss", "val_loss") if name in metrics}
    return chosen or dict(list(metrics.items())[:3])


def _phase(job: Json) -> str:
    """A service that answers has a word of its own."""
    answers = job["phase"] == "placed" and bool(last_run(job).get("endpoint"))
    return "answers" if answers else str(job["phase"])


def _where(job: Json) -> str:
    site = last_run(job).get("site")
    return f" at {site}" if site else ""


def _after(job: Json) -> str:
    """What is to be said of a change of phase."""
    if job["phase"] == "waiting":
        reason = reason_text(job["reason"])
        return f" ({reason})" if reason else ""
    if job["ended_at_s"] is None:
        return ""
    ran, metrics = span_text(job), metrics_text(_few(job["metrics"]))
    return "".join((f" after {ran}" if ran else "", f": {metrics}" if metrics else f": {job['outcome']}"))


def terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def heading(text: str) -> str:
    return f"\n{render.paint(text, render.BOLD)}"
