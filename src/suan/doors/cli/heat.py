"""Prices as rows of coloured cells, for a terminal and as a self-contained SVG.

Knows colours, cells and captions. The prices are the grid's.
"""

import time
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from suan.doors.cli import render
from suan.grid.units import duration_text, yuan_text

if TYPE_CHECKING:
    from rich.text import Text

Json = dict[str, Any]

# from cheap to dear: green to red, readable on light and on dark ground
_SHADES = ("#1a9850", "#66bd63", "#a6d96a", "#fee08b", "#fdae61", "#f46d43", "#d73027")
_HEIGHTS = "▁▂▃▄▅▆▇█"  # the same without colours
_NOTHING = "#e8e8e8"  # a clearing price of nought: nothing is scarce
_FEWEST_HOURS = 12  # side by side

_CELL, _LINE, _LEFT, _RIGHT, _TOP = 16, 22, 330, 170, 62  # pixels


class Row(NamedTuple):
    """One price by the hour, and how it is written."""

    name: str
    what: str  # kWh | device-h | clearing
    amounts: list[int]  # micro-yuan
    low: float
    high: float

    @property
    def label(self) -> str:
        said = {"kWh": "a kWh", "device-h": "a device-hour", "clearing": "clearing, a device-hour"}
        return f"{self.name}  {said[self.what]}"

    def level(self, amount: int) -> float:
        """From 0, the cheapest that is compared with it, to 1."""
        return (amount - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def shade(self, amount: int) -> str:
        if self.what == "clearing" and not amount:
            return _NOTHING
        return _SHADES[round(self.level(amount) * (len(_SHADES) - 1))]

    def height(self, amount: int) -> str:
        if self.what == "clearing" and not amount:
            return "·"
        return _HEIGHTS[round(self.level(amount) * (len(_HEIGHTS) - 1))]

    @property
    def span(self) -> str:
        least, most = render.cny(min(self.amounts)), render.cny(max(self.amounts))
        return least if least == most else f"{least} … {most}"


def rows_of(found: Json) -> list[Row]:
    """A row for each site's electricity, and two for each pool: what a device costs, and what it is worth
    beyond that. Electricity is compared between sites, and so are clearing prices; a pool with itself.
    """
    kwh = [hour["microyuan_per_kwh"] for site in found["sites"] for hour in site["hours"]]
    pools = [(site["site"], pool) for site in found["sites"] for pool in site["pools"]]
    dearest = max((max(pool["clearing_microyuan_per_device_h"]) for _, pool in pools), default=0)
    rows = []
    for site in found["sites"]:
        amounts = [hour["microyuan_per_kwh"] for hour in site["hours"]]
        rows.append(Row(site["site"], "kWh", amounts, min(kwh), max(kwh)))
        for pool in site["pools"]:
            name, costs = f"{site['site']}/{pool['pool']}", pool["microyuan_per_device_h"]
            rows.append(Row(name, "device-h", costs, min(costs), max(costs)))
            if found["clearing"] is not None:
                scarce = pool["clearing_microyuan_per_device_h"]
                rows.append(Row(name, "clearing", scarce, 0, dearest))
    return rows


def caption(found: Json) -> str:
    """How good the plan is that the clearing prices come from."""
    clearing = found["clearing"]
    if clearing is None:
        return "no clearing prices yet: nobody has had to wait"
    ago = duration_text(max(0.0, time.time() - clearing["at_s"]))
    said = f"cleared {ago} ago over {clearing['jobs']:,} jobs"
    if clearing["cost_microyuan"] > 0:
        said += (
            f": plan {yuan_text(clearing['cost_microyuan'])}, no plan below"
            f" {yuan_text(clearing['bound_microyuan'])}, gap {clearing['gap_ratio']:.1%}"
        )
    return said + ("" if clearing["complete"] else "; cut off at its limit")


def terminal_lines(found: Json, width: int) -> list["Text"]:
    """Coloured lines, as many hours side by side as the width has room for."""
    from rich.text import Text

    rows = rows_of(found)
    left = max(render.width(row.label) for row in rows)
    right = max(render.width(row.span) for row in rows)
    hours = found["hours"]
    beside = min(hours, max(_FEWEST_HOURS, (width - left - right - 4) // 2))
    lines = []
    for first in range(0, hours, beside):
        shown = range(first, min(hours, first + beside))
        lines.append(Text(" " * (left + 2) + _clock(found["from_s"], shown), style="dim"))
        for row in rows:
            line = Text(row.label + " " * (left + 2 - render.width(row.label)))
            for hour in shown:
                line.append(row.height(row.amounts[hour]) * 2, style=row.shade(row.amounts[hour]))
            line.append(f"  {row.span}" if first == 0 else "")
            lines.append(line)
    return lines


def _clock(from_s: int, hours: range) -> str:
    """The local hour above every third cell, and the weekday above midnight."""
    cells = []
    for hour in hours:
        at = time.localtime(from_s + hour * 3600)
        cells.append(
            time.strftime("%a" if at.tm_hour == 0 else "%H", at)[:2] if at.tm_hour % 3 == 0 else "  "
        )
    return "".join(cells)


def svg(found: Json) -> str:
    """The same as one SVG that needs nothing else; each cell says its price when it is pointed at."""
    rows, hours = rows_of(found), found["hours"]
    wide, high = _LEFT + hours * _CELL + _RIGHT, _TOP + len(rows) * _LINE + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
        ' font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{wide}" height="{high}" fill="#fff"/>',
        '<text x="12" y="24" font-size="15" font-weight="600">CNY by site, pool and hour</text>',
    ]
    for hour in range(hours):
        at = time.localtime(found["from_s"] + hour * 3600)
        if at.tm_hour % 6 == 0 or hour == 0:
            said = time.strftime("%a %H" if at.tm_hour == 0 or hour == 0 else "%H", at)
            parts.append(f'<text x="{_LEFT + hour * _CELL}" y="{_TOP - 8}" fill="#666">{said}</text>')
    for number, row in enumerate(rows):
        y = _TOP + number * _LINE
        parts.append(f'<text x="12" y="{y + 15}">{escape(render.clean(row.label))}</text>')
        for hour, amount in enumerate(row.amounts):
            at = time.strftime("%a %H:%M", time.localtime(found["from_s"] + hour * 3600))
            parts.append(
                f'<rect x="{_LEFT + hour * _CELL}" y="{y}" width="{_CELL - 1}" height="{_LINE - 3}"'
                f' fill="{row.shade(amount)}"><title>{at}: {render.cny(amount)}</title></rect>'
            )
        x = _LEFT + hours * _CELL + 10
        parts.append(f'<text x="{x}" y="{y + 15}" fill="#666">{escape(row.span)}</text>')
    parts.append(f'<text x="12" y="{high - 16}" fill="#666">{escape(caption(found))}</text></svg>')
    return "\n".join(parts) + "\n"
