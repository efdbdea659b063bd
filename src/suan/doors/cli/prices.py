"""The verb prices: electricity by site and hour as a heat map, and what a device costs, all in.

Knows colours. The prices are the grid's, PUE included.
"""

import time
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb

Json = dict[str, Any]

# from cheap to dear: green to red, readable on light and on dark ground
_SHADES = ("#1a9850", "#66bd63", "#a6d96a", "#fee08b", "#fdae61", "#f46d43", "#d73027")


@click.command()
@click.option("--hours", default=24, show_default=True, type=click.IntRange(1, 336), help="How far to look.")
@grid_verb
def prices(session: Session, hours: int) -> None:
    """What a kWh costs at each site hour by hour, PUE included, and what a busy device costs an hour."""
    found = session.client.prices(hours)
    session.answer(found, lambda: _print_prices(found))


def _print_prices(found: Json) -> None:
    if not found["sites"]:
        print("no site has pools yet: suan sites")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    everything = [hour["microyuan_per_kwh"] for site in found["sites"] for hour in site["hours"]]
    low, high = min(everything), max(everything)
    console = Console(highlight=False)
    names = [site["site"] for site in found["sites"]]
    heat = Table(title="CNY a kWh at the devices, PUE included; local hours", box=None, pad_edge=False)
    for heading in ("hour", *names):
        heat.add_column(heading, justify="right")
    for index, hour in enumerate(found["sites"][0]["hours"]):
        cells = [
            Text(f"{amount / 1e6:.4f} ", style=f"black on {_shade(amount, low, high)}")
            for amount in (site["hours"][index]["microyuan_per_kwh"] for site in found["sites"])
        ]
        heat.add_row(time.strftime("%a %H:%M", time.localtime(hour["at_s"])), *cells)
    console.print(heat)
    rows = [
        (site["site"], pool["pool"], pool["accelerator"], pool["devices"] - pool["used_devices"],
         pool["devices"],
         *_span(pool["microyuan_per_device_h"]), f"{site['pue']:g}")
        for site in found["sites"]
        for pool in site["pools"]
    ]  # fmt: skip
    headings = ("site", "pool", "accelerator", "free", "of", "now", "least", "most", "PUE")
    print("\nCNY a busy device-hour: machine, electricity and carbon")
    print(render.table(headings, rows, right="free of now least most PUE"))
    for site in found["sites"]:
        print(f"{site['site']}: {render.clean(site['source'])}")


def _span(amounts: list[int]) -> tuple[str, str, str]:
    return render.cny(amounts[0]), render.cny(min(amounts)), render.cny(max(amounts))


def _shade(amount: int, low: int, high: int) -> str:
    if high == low:
        return _SHADES[len(_SHADES) // 2]
    return _SHADES[round((amount - low) / (high - low) * (len(_SHADES) - 1))]
