"""Metered usage times prices -> balanced entries; bills from entries.

Every movement's entries sum to zero. A run that was lost (its site fenced, its node gone) costs its tenant
nothing: the site's `lost` account carries it.
"""

import msgspec

from suan.grid.account import Entry
from suan.grid.artifact import Transfer
from suan.grid.fact import RunEnded
from suan.grid.job import EndCause, Run
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB, HOUR_S
from suan.rules.quote import electricity


def settle_run(state: State, run: Run, end: RunEnded) -> tuple[Entry, ...]:
    """The entries of one ended run, at the prices it was placed at; empty when it took nothing."""
    usage, quote = end.usage, run.quote
    started_s = run.started_at_s
    ended_s = end.ended_at_s or end.at_s
    if not usage.device_s or started_s is None:
        return ()
    lost = end.cause in (EndCause.FENCED, EndCause.LOST)
    payer = f"site:{run.site}:lost" if lost else f"tenant:{run.tenant}"
    tariff = state.tariff(run.site, run.placed_at_s)
    span_s = max(1, ended_s - started_s)
    money, gco2 = electricity(tariff, started_s, started_s + span_s) if tariff else (0.0, 0.0)
    pue = tariff.pue if tariff else 1.0
    socket_kwh = usage.energy_kwh * pue
    per_kwh, gco2_per_kwh = money * HOUR_S / span_s, gco2 * HOUR_S / span_s
    carbon_kg = socket_kwh * gco2_per_kwh / 1000
    meter = f" by {usage.energy_meter}" if usage.energy_meter else ""
    power = f"electricity, {usage.energy_source}{meter}, PUE {pue:g}"
    carbon = f"carbon at {gco2_per_kwh:.0f} g/kWh"
    per_device_h, per_kg = quote.machine_microyuan_per_device_h, quote.carbon_microyuan_per_kg
    lines = (
        (f"site:{run.site}:machine", "machine", usage.device_s / HOUR_S, "device-hours", float(per_device_h)),
        (f"site:{run.site}:electricity", power, socket_kwh, "kWh", per_kwh),
        ("carbon", carbon, carbon_kg, "kg CO2", float(per_kg)),
    )
    return _balanced(run.id, payer, lines, at_s=ended_s, job=run.job, site=run.site)


def settle_transfer(state: State, transfer: Transfer, moved_bytes: int, at_s: int) -> tuple[Entry, ...]:
    """The entries of one finished transfer: only bytes that crossed the link are paid for, at the price of
    the order.
    """
    job = state.jobs.get(transfer.job)
    if (transfer.source, transfer.destination) not in state.links or job is None or not moved_bytes:
        return ()
    account = f"link:{transfer.source}>{transfer.destination}"
    line = (
        account,
        f"moving {transfer.artifact}",
        moved_bytes / BYTES_PER_GB,
        "GB",
        float(transfer.microyuan_per_gb),
    )
    movement = f"{transfer.id}-{transfer.attempts}"
    return _balanced(
        movement, f"tenant:{job.tenant}", (line,), at_s=at_s, job=job.id, site=transfer.destination
    )


def _balanced(
    movement: str,
    payer: str,
    lines: tuple[tuple[str, str, float, str, float], ...],
    *,
    at_s: int,
    job: str,
    site: str,
) -> tuple[Entry, ...]:
    """One entry a line for who receives, and one for who pays the sum."""
    entries = [
        Entry(
            movement=movement,
            account=account,
            amount_microyuan=round(quantity * unit_price),
            what=what,
            quantity=quantity,
            unit=unit,
            unit_price_microyuan=round(unit_price, 3),
            at_s=at_s,
            job=job,
            site=site,
        )
        for account, what, quantity, unit, unit_price in lines
    ]
    total = sum(entry.amount_microyuan for entry in entries)
    paid = Entry(
        movement=movement, account=payer, amount_microyuan=-total, what="pays", at_s=at_s, job=job, site=site
    )
    return (*entries, paid)


class BillLine(msgspec.Struct, frozen=True, kw_only=True):
    job: str
    job_name: str
    run: str
    site: str
    what: str
    quantity: float
    unit: str
    unit_price_microyuan: float
    amount_microyuan: int


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant owes: the lines add up to the total, and the total is the balance of its account."""

    tenant: str
    lines: tuple[BillLine, ...]
    total_microyuan: int
    device_s: float
    energy_kwh: float  # IT energy; PUE is in the lines
    energy_measured_ratio: float  # of that energy, the part a meter saw
    moved_bytes: int
    requests: int
    tokens_in: int
    tokens_out: int


def bill(state: State, tenant: str, *, since_s: int = 0, jobs: tuple[str, ...] = ()) -> Bill:
    """The tenant's bill for runs and transfers that ended since `since_s`, of the named jobs or of all."""
    lines, movements = [], {}
    paid = {
        entry.movement
        for entry in state.entries
        if entry.account == f"tenant:{tenant}" and entry.at_s >= since_s and (not jobs or entry.job in jobs)
    }
    for entry in state.entries:
        if entry.movement in paid and entry.amount_microyuan >= 0 and entry.what != "pays":
            movements[entry.movement] = entry.job
            lines.append(
                BillLine(
                    job=entry.job,
                    job_name=state.jobs[entry.job].task.name if entry.job in state.jobs else "",
                    run=entry.movement,
                    site=entry.site,
                    what=entry.what,
                    quantity=entry.quantity,
                    unit=entry.unit,
                    unit_price_microyuan=entry.unit_price_microyuan,
                    amount_microyuan=entry.amount_microyuan,
                )
            )
    usages = [state.usage[movement] for movement in movements if movement in state.usage]
    energy = sum(usage.energy_kwh for usage in usages)
    measured = sum(usage.energy_kwh for usage in usages if usage.energy_source == "measured")
    tokens = [state.tokens[movement] for movement in movements if movement in state.tokens]
    return Bill(
        tenant=tenant,
        lines=tuple(lines),
        total_microyuan=sum(line.amount_microyuan for line in lines),
        device_s=sum(usage.device_s for usage in usages),
        energy_kwh=energy,
        energy_measured_ratio=measured / energy if energy else 0.0,
        moved_bytes=round(sum(line.quantity for line in lines if line.unit == "GB") * BYTES_PER_GB),
        requests=sum(count for count, _, _ in tokens),
        tokens_in=sum(count for _, count, _ in tokens),
        tokens_out=sum(count for _, _, count in tokens),
    )
