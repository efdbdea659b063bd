"""Verbs that explain: why a job is where it is, and how well lengths are foretold.

Knows how reasons, prices and help are laid out. The grid has thought of them.
"""

import math
import time
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.units import duration_text

Json = dict[str, Any]


@click.command()
@click.argument("job_id", metavar="JOB")
@grid_verb
def why(session: Session, job_id: str) -> None:
    """Why a job waits, for which price, until when, and what would start it sooner; or why it runs where it
    does. Every bid that was considered, term by term.
    """
    found = session.client.why(job_id)
    session.answer(found, lambda: _print_why(found))


def _print_why(found: Json) -> None:
    from suan.doors.cli.bids import considered_text, reason_text

    print(f"{found['job']} is {found['phase']}")
    if said := reason_text(found.get("reason")):
        print(f"because: {said}")
    for name, text in _forecast(found).items():
        print(f"{name}: {render.clean(text)}")
    for help in found["sooner"]:
        change = "; ".join(f"{key}: {value}" for key, value in help["change"].items() if value)
        print(f"sooner: {render.clean(help['text'])}" + (f"  [{render.clean(change)}]" if change else ""))
    if found.get("considered"):
        print(
            considered_text({**found["considered"], "unfit": {}} if found["pools"] else found["considered"])
        )
    if found["pools"]:
        print(render.table(_POOL_HEADINGS, [_pool(view) for view in found["pools"]], right=_POOL_RIGHT))


_POOL_HEADINGS = ("pool", "accelerator", "free", "of", "clearing", "total CNY", "start", "or why not")
_POOL_RIGHT = "free of clearing total CNY"


def _pool(view: Json) -> tuple[object, ...]:
    return (
        view["pool"],
        view["accelerator"],
        view["free_devices"],
        view["devices"],
        render.cny(view["clearing_microyuan_per_device_h"]),
        render.cny(view["total_microyuan"]),
        render.moment(view["start_s"]) if view["start_s"] is not None else "",
        view["reason"]["text"] if view["reason"] else "",
    )


def _forecast(found: Json) -> dict[str, str]:
    """When it should start and end, for how long that makes it run, and the price it waits for."""
    said, length, price = {}, found["length"], found["price"]
    if found["phase"] == "waiting":
        start_s = found["start_s"]
        away_s = start_s - time.time() if start_s is not None else 0
        said["forecast"] = (
            "none: as things are, it does not start"
            if start_s is None
            else f"starts {render.moment(start_s)}"
            + (f", in {duration_text(away_s)}" if away_s > 0 else "")
            + f", ends {render.moment(found['finish_s'])}"
        )
        said["length"] = (
            f"{duration_text(length['mean_s'])} on average, half within {duration_text(length['p50_s'])},"
            f" nine in ten within {duration_text(length['p90_s'])} ({length['basis']})"
        )
    if price is not None:
        said["price"] = (
            f"{price['pool']}: electricity {price['microyuan_per_kwh'] / 1e6:.4f} CNY a kWh,"
            f" now {price['now_microyuan_per_kwh'] / 1e6:.4f}; clearing"
            f" {render.cny(price['clearing_microyuan_per_device_h'])} CNY a device-hour,"
            f" now {render.cny(price['clearing_now_microyuan_per_device_h'])}"
        )
    return said


_BY = ("all", "tenant", "recipe", "size", "estimate")


@click.command()
@click.option("--by", default="tenant", show_default=True, type=click.Choice(_BY), help="One line for each.")
@click.option("--tenant", metavar="NAME", help="Only this tenant's (operators).")
@click.option(
    "--newest", default=2000, show_default=True, type=click.IntRange(1, 20_000), help="Of so many runs."
)
@grid_verb
def durations(session: Session, **wanted: Any) -> None:
    """How well the lengths of runs were foretold, by those that had ended before each was placed.

    Ratios are true over foretold. Below p90 should be nine in ten.
    """
    found = session.client.durations(**wanted)
    session.answer(found, lambda: _print_durations(found))


def _print_durations(found: Json) -> None:
    if not found["items"]:
        print("no run has ended by itself yet: suan jobs")
        return
    rows = [
        (
            line["group"],
            line["runs"],
            f"{line['ratio_p50']:.2f}",
            f"{line['ratio_p90']:.2f}",
            f"× {math.exp(line['log_error_p50']):.2f}",
            f"{line['covered_ratio']:.0%}",
        )
        for line in found["items"]
    ]
    headings = (found["by"], "runs", "median ratio", "p90 ratio", "typically off", "below p90")
    print(render.table(headings, rows, right="runs median ratio p90 ratio typically off below p90"))
