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
_ALWAYS = ("machine", "electricity", "carbon")  # shown even where they are nought
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
        lines.extend(_estimates([bids[index] for index in shown], bids[chosen]))
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
    """What stands behind the chosen bid's money: each term as rate times quantity."""
    quote = bid["quote"]
    run_h, kwh = quote.get("run_s", 0) / 3600, quote.get("energy_kwh", 0.0)
    pue, kg = quote.get("pue", 1.0), quote.get("carbon_gco2", 0.0) / 1000
    guess = "; mean over how long it may run" if quote.get("is_length_guessed") else ""
    behind = {
        "machine": f"{bid['devices']} device{'s' if bid['devices'] > 1 else ''} × {run_h:.4g} h"
        f" × {render.cny(quote.get('machine_microyuan_per_device_h', 0))} CNY",
        "electricity": f"{kwh:.6f} kWh × PUE {pue:g}"
        f" × {quote.get('microyuan_per_kwh', 0) / 1e6:.4f} CNY, {quote.get('tariff_source', '')}{guess}",
        "carbon": f"{kg:.6f} kg CO2 × {render.cny(quote.get('carbon_microyuan_per_kg', 0))} CNY",
        "move": f"{bytes_text(quote.get('move_bytes', 0))} in {duration_text(quote.get('move_s', 0))}",
        "wait": _by_the_hour(quote, "wait"),
        "late": _by_the_hour(quote, "late"),
        "preemption": "risk of losing work, and of starting again",
    }
    rows = [
        (term, render.cny(quote.get(f"{term}_microyuan", 0)), render.clean(said))
        for term, said in behind.items()
        if quote.get(f"{term}_microyuan", 0) or quote.get(f"{term}_bytes", 0) or term in _ALWAYS
    ]
    if scarcity := bid.get("scarcity_microyuan"):
        rows.append(
            ("scarcity", render.cny(scarcity), "by the clearing prices of these hours; nobody pays it")
        )
    lines = [f"chosen: {bid['site']}/{bid['pool']}"]
    return "\n".join([*lines, render.table(("term", "CNY", "is"), rows, right="CNY")])


def _estimates(bids: list[Json], chosen: Json) -> list[str]:
    """What the performance model says of the pools and numbers of nodes, and what bounds the chosen one."""
    by_place = {(bid["site"], bid["pool"], bid["devices"]): bid for bid in reversed(bids)}
    rows = [
        (f"{site}/{pool}", devices, *_estimate(said), said["bound_by"])
        for (site, pool, devices), bid in reversed(by_place.items())
        if (said := bid.get("estimate"))
    ]
    if not rows:
        return []
    headings = ("pool", "devices", "takes", "nine in ten", "plan", "GiB a device", "kWh", "bound by")
    lines = ["by the performance model:", render.table(headings, rows, right="devices kWh")]
    if said := chosen.get("estimate"):
        lines.append(
            f"the chosen one is {said['why']}" if said["why"].startswith(said["bound_by"]) else said["why"]
        )
        if said["site_runs"]:
            runs = f"{said['site_runs']} run{'s' if said['site_runs'] > 1 else ''}"
            lines.append(f"{runs} at {chosen['site']} took × {said['site_factor']:.2f} what the model says")
    return lines


def _estimate(said: Json) -> tuple[str, ...]:
    takes = duration_text(said["run_s"]) if said["run_s"] else "until stopped"
    nine = f"{duration_text(said['low_s'])} … {duration_text(said['high_s'])}" if said["run_s"] else ""
    gib = f"{said['memory_gib']:.1f} of {said['capacity_gib']:.1f}"
    return takes, nine, plan_text(said["plan"]), gib, f"{said['kwh']:.4g}" if said["kwh"] else ""


def plan_text(plan: Json) -> str:
    """`tp 8 dp 8, micro-batch 2, FSDP, recompute full`: what of a parallel plan is not the simplest."""
    parts = [
        " ".join(f"{name} {plan[name]}" for name in ("tp", "pp", "cp", "ep", "dp") if plan.get(name, 1) > 1)
    ]
    if "micro_batch" in plan:
        parts.append(f"micro-batch {plan['micro_batch']}")
    if stage := plan.get("zero_stage"):
        parts.append("FSDP" if stage == 3 else f"ZeRO {stage}")
    if plan.get("recompute", "none") != "none":
        parts.append(f"recompute {plan['recompute']}")
    return ", ".join(part for part in parts if part) or "one device"


def _by_the_hour(quote: Json, term: str) -> str:
    seconds, amount = quote.get(f"{term}_s", 0), quote.get(f"{term}_microyuan", 0)
    per_h = f" × {render.cny(amount * 3600 / seconds)} CNY an hour" if seconds else ""
    return f"{duration_text(seconds)}{per_h}"


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
