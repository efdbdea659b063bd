"""The map of prices as a picture: hours by pools, drawn with matplotlib.

Knows where things stand in the picture. Which cell has which colour is in heat.py.
"""

import time
from pathlib import Path
from typing import Any

from suan.doors.cli import render
from suan.doors.cli.heat import caption, rows_of
from suan.doors.estimates.picture import new_figure, save

Json = dict[str, Any]

_CELL_IN, _LINE_IN, _LABELS_IN, _REST_IN = 0.17, 0.24, 5.2, 1.1  # inches
_MARKED_HOURS = 6  # every so many hours the clock is written


def draw(found: Json, path: Path) -> None:
    """Draws the map; the file's name says in which format.

    Raises: Refused `no_plot`, `bad_value`, `cannot_write`.
    """
    rows, hours = rows_of(found), found["hours"]
    figure = new_figure(_LABELS_IN + hours * _CELL_IN, _REST_IN + len(rows) * _LINE_IN)
    axes = figure.add_subplot()
    shades = [[_rgb(row.shade(amount)) for amount in row.amounts] for row in rows]
    axes.imshow(shades, aspect="auto", interpolation="nearest", extent=(0, hours, len(rows), 0))
    axes.set_yticks([number + 0.5 for number in range(len(rows))], [render.clean(row.label) for row in rows])
    beside = axes.secondary_yaxis("right")
    beside.set_yticks([number + 0.5 for number in range(len(rows))], [row.span for row in rows])
    starts = [time.localtime(found["from_s"] + hour * 3600) for hour in range(hours)]
    marked = [hour for hour, at in enumerate(starts) if hour == 0 or at.tm_hour % _MARKED_HOURS == 0]
    axes.set_xticks(
        marked,
        [time.strftime("%H:%M\n%a" if hour in (0, marked[-1]) else "%H:%M", starts[hour]) for hour in marked],
    )
    axes.xaxis.remove_overlapping_locs = False  # the lines between cells go through marked hours, too
    axes.set_xticks(range(hours + 1), minor=True)
    axes.set_yticks(range(len(rows) + 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    for axis in (axes, beside):
        axis.tick_params(which="both", length=0, labelsize=8)
    for side in axes.spines.values():
        side.set_visible(False)
    beside.spines["right"].set_visible(False)
    axes.set_title("CNY by site, pool and hour", loc="left", fontsize=11)
    axes.set_xlabel(caption(found), loc="left", fontsize=8)
    save(figure, path)


def _rgb(shade: str) -> tuple[float, float, float]:
    """`#1a9850` as parts of one."""
    red, green, blue = (int(shade[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
