"""A simulation's outcomes as one HTML page: figures and plots, everything it needs inside.

Knows what is shown and how it is laid out; the figures are `report`'s and `timeline`'s. Plots are uPlot's
(vendored in `assets/uplot`, MIT), so the page opens without a network.
"""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import msgspec

from suan.sim.compare import Outcome
from suan.sim.report import rows

_VENDOR = files("suan.sim").joinpath("assets", "uplot")


def page(outcomes: Sequence[Outcome], *, world: str, jobs: str) -> str:
    """The whole page."""
    data = json.dumps(
        [
            {"policy": outcome.report["policy"], **msgspec.to_builtins(outcome.timeline)}
            for outcome in outcomes
            if outcome.timeline is not None
        ]
    ).replace("</", "<\\/")
    title = f"{escape(jobs)} in {escape(world)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_VENDOR.joinpath("uPlot.min.css").read_text("utf-8")}{_text("page.css")}</style>
</head>
<body>
<header><h1>{title}</h1><p>{len(outcomes)} policies over the same jobs. Times are UTC.</p></header>
<main>
<section><h2>Figures</h2><div class="wide">{_table([outcome.report for outcome in outcomes])}</div></section>
<div id="plots"></div>
</main>
<script>{_VENDOR.joinpath("uPlot.iife.min.js").read_text("utf-8")}</script>
<script type="application/json" id="data">{data}</script>
<script>{_text("page.js")}</script>
</body>
</html>
"""


def _text(name: str) -> str:
    return files("suan.sim").joinpath("assets", name).read_text("utf-8")


def _table(reports: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(report['policy'])}</th>" for report in reports)
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(cell)}</td>".replace("\n", "<br>") for cell in cells)
        + "</tr>"
        for name, cells in rows(reports)
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
