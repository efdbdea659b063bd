"""The verb prices: hours by pools as a heat map, in the terminal or as an image, and what a device costs, all
in.

Knows what is printed beside the map. The prices are the grid's, PUE included.
"""

from pathlib import Path
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.error import Refused

Json = dict[str, Any]


@click.command()
@click.option("--hours", default=24, show_default=True, type=click.IntRange(1, 336), help="How far to look.")
@click.option("--site", metavar="SITE", help="Only this site.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="The map as an image, too.")
@click.option(
    "--png", type=click.Path(dir_okay=False, path_type=Path), help="The same as PNG (needs suan[plot])."
)
@grid_verb
def prices(session: Session, hours: int, site: str | None, svg: Path | None, png: Path | None) -> None:
    """What a kWh and a busy device-hour cost, hour by hour, and what devices are worth beyond that.

    A clearing price is above nought where more is asked for than there is: who starts there is worth that
    much more. Dots mean that nothing is scarce.
    """
    found = session.client.prices(hours, site)
    for path, save in ((svg, _save_svg), (png, _save_png)):
        if path is not None:
            _check(found)
            save(found, path)
            session.note(f"the map is in {path}")
    session.answer(found, lambda: _print_prices(found))


def _check(found: Json) -> None:
    if not found["sites"]:
        raise Refused("no_prices", "no site has pools yet", hint="suan sites")


def _save_png(found: Json, path: Path) -> None:
    from suan.doors.cli.heat_picture import draw

    draw(found, path)


def _save_svg(found: Json, path: Path) -> None:
    from suan.doors.cli.heat import svg

    try:
        path.write_text(svg(found), "utf-8")
    except OSError as error:
        raise Refused("cannot_write", f"{path}: {error}", hint="name a file that you may write") from error


def _print_prices(found: Json) -> None:
    if not found["sites"]:
        print("no site has pools yet: suan sites")
        return
    from rich.console import Console

    from suan.doors.cli.heat import caption, terminal_lines

    console = Console(highlight=False)
    print("CNY, PUE included; local hours")
    for line in terminal_lines(found, console.width):
        console.print(line, soft_wrap=True)
    print(caption(found))
    rows = [
        (site["site"], pool["pool"], pool["accelerator"], pool["devices"] - pool["used_devices"],
         pool["devices"],
         *_span(pool["microyuan_per_device_h"]), render.cny(pool["clearing_microyuan_per_device_h"][0]),
         f"{site['pue']:g}")
        for site in found["sites"]
        for pool in site["pools"]
    ]  # fmt: skip
    headings = ("site", "pool", "accelerator", "free", "of", "now", "least", "most", "clearing", "PUE")
    print("\nCNY a busy device-hour: machine, electricity and carbon; clearing: beyond that, now")
    print(render.table(headings, rows, right="free of now least most clearing PUE"))
    for site in found["sites"]:
        print(f"{site['site']}: {render.clean(site['source'])}")


def _span(amounts: list[int]) -> tuple[str, str, str]:
    return render.cny(amounts[0]), render.cny(min(amounts)), render.cny(max(amounts))
