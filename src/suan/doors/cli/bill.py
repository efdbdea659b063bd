"""The verb bill: what was used, what it cost, line by line, and whether the lines add up.

Knows how a bill is shown; `quickstart` shows its own with the same function.
"""

from collections.abc import Iterator
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.units import bytes_text, duration_text

Json = dict[str, Any]


@click.command()
@click.option("--job", metavar="JOB", help="Only this job's.")
@click.option("--tenant", metavar="NAME", help="Another tenant's (operators).")
@grid_verb
def bill(session: Session, job: str | None, tenant: str | None) -> None:
    """What was used and what it cost."""
    found = session.client.bill(tenant=tenant, job=job)
    session.answer(found, lambda: print(bill_text(found)))


def bill_text(found: Json) -> str:
    """The lines, their sum beside the total, and what was used."""
    if not found["lines"]:
        return f"tenant {found['tenant']} owes nothing yet"
    rows = [
        (line["job_name"] or line["job"], line["site"], line["what"], f"{line['quantity']:.6g}", line["unit"],
         f"{line['unit_price_microyuan'] / 1e6:.6g}", f"{line['amount_microyuan'] / 1e6:.6f}")
        for line in found["lines"]
    ]  # fmt: skip
    headings = ("job", "site", "what", "quantity", "unit", "CNY a unit", "CNY")
    return "\n".join((render.table(headings, rows, right="quantity CNY CNY a unit"), *_sums(found)))


def _sums(found: Json) -> Iterator[str]:
    added = sum(line["amount_microyuan"] for line in found["lines"])
    total = found["total_microyuan"]
    agrees = (
        "the lines add up" if added == total else f"the lines add up to {added / 1e6:.6f}: tell the operator"
    )
    yield render.paint(f"total {total / 1e6:.6f} CNY ({agrees})", render.BOLD)
    yield (
        f"used: {duration_text(found['device_s'])} of devices ({found['device_s']:g} device-seconds), "
        f"{energy_text(found)}, {bytes_text(found['moved_bytes'])} moved"
    )
    if found["requests"]:
        tokens = f"{found['tokens_in']} tokens in, {found['tokens_out']} out"
        yield f"served: {found['requests']} requests, {tokens}"


def energy_text(found: Json) -> str:
    """`0.0123 kWh (modelled)`: a figure that no meter saw says so."""
    measured = found["energy_measured_ratio"]
    how = (
        "measured"
        if measured >= 1
        else "modelled"
        if measured <= 0
        else f"{measured:.0%} measured, the rest modelled"
    )
    return f"{found['energy_kwh']:.6f} kWh ({how})"
