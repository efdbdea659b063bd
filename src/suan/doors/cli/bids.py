"""How the bids that were considered for a job are shown: every term, the one chosen, and who could not bid.

Knows the JSON of Considered. Every sum is the grid's; nothing is computed here but the total of a quote's
terms.
"""

import time
from typing import Any

from suan.doors.cli import render
from suan.grid.units import bytes_text, duration_text

Json = dict[str, Any]

_TERMS = ("machine", "electricity", "carbon", "move", "wait", "late", "preemption")
_HEADINGS = (
    "", "site", "pool", "devices", "start", "wait", "move", "run",
    "energy", "carbon", "machine", "total CNY", "finish",
)  # fmt: skip
MOST_ROWS = 12


def total_microyuan(quote: Json) -> int:
    """The quote's total: the sum of its money terms."""
    return sum(quote.get(f"{term}_microyuan", 0) for term in _TERMS)


def considered_text(considered: Json | None) -> str:
    """The table of bids, the sentence that says why, and the pools that are unfit with their reason."""
    if not considered:
        return "no bids yet"
    lines = []
    bids, chosen = considered.get("bids") or [], considered.get("chosen", 0)
    if bids:
        shown = sorted({*range(min(MOST_ROWS, len(bids))), chosen})
        rows = [_row(bids[index], index == chosen) for index in shown]
        lines.append(render.table(_HEADINGS, rows, right=" ".join(_HEADINGS[3:]), marked=shown.index(chosen)))
        if len(bids) > len(shown):
            lines.append(f"… and {len(bids) - len(shown)} more bids (--json has all)")
        lines.append(_terms(bids[chosen]))
    if considered.get("why"):
        lines.append(f"why: {render.clean(considered['why'])}")
    for pool, reason in (considered.get("unfit") or {}).items():
        lines.append(f"unfit: {pool}: {reason_text(reason)}")
    return "\n".join(lines)


def _row(bid: Json, chosen: bool) -> tuple[object, ...]:
    quote = bid["quote"]
    return (
        "➤" if chosen else " ",
        bid["site"],
        bid["pool"],
        bid["devices"],
        render.moment(bid["start_s"]),
        _time_and_money(quote.get("wait_s", 0), quote.get("wait_microyuan", 0)),
        _time_and_money(quote.get("move_s", 0), quote.get("move_microyuan", 0)),
        duration_text(quote.get("run_s", 0)),
        render.cny(quote.get("electricity_microyuan", 0)),
        render.cny(quote.get("carbon_microyuan", 0)),
        render.cny(quote.get("machine_microyuan", 0)),
        render.cny(total_microyuan(quote)),
        render.moment(bid["finish_s"]),
    )


def _time_and_money(seconds: int, amount_microyuan: int) -> str:
    if not seconds and not amount_microyuan:
        return "0"
    return f"{duration_text(seconds)} {render.cny(amount_microyuan)}"


def _terms(bid: Json) -> str:
    """What stands behind the chosen bid's money."""
    quote = bid["quote"]
    price = f"{quote.get('microyuan_per_kwh', 0) / 1e6:.4f} CNY × PUE {quote.get('pue', 1.0):g}"
    parts = [
        f"{quote.get('energy_kwh', 0.0):.6f} kWh at {price}",
        f"{quote.get('carbon_gco2', 0.0):.3f} g CO2",
        f"{bytes_text(quote.get('move_bytes', 0))} to move",
    ]
    for term in ("late", "preemption"):
        if amount := quote.get(f"{term}_microyuan", 0):
            parts.append(f"{term} {render.cny(amount)} CNY")
    return f"chosen: {bid['site']}/{bid['pool']}: " + ", ".join(parts)


def reason_text(reason: Json | None) -> str:
    """`text (need 8 devices, have 2); help; expected start 12:04:05`."""
    if not reason:
        return ""
    said = render.clean(reason.get("text") or reason.get("code", ""))
    need, have, unit = reason.get("need"), reason.get("have"), reason.get("unit") or ""
    if need is not None and have is not None and unit != "inputs" and f"{need:g}" not in said:
        said += f" (needs {need:g}, has {have:g} {unit})".replace(" )", ")")
    if reason.get("help"):
        said += f"; {render.clean(reason['help'])}"
    if reason.get("expected_start_s"):
        away_s = reason["expected_start_s"] - time.time()
        said += f"; expected to start {render.moment(reason['expected_start_s'])}"
        said += f", in {duration_text(away_s)}" if away_s > 0 else ""
    return said
