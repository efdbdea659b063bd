"""Estimates for people, and as exact JSON. Knows tables; computes nothing but shares of what it was given."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from suan.doors.estimates.answers import (
    PlanAnswer,
    PlansAnswer,
    PoolsAnswer,
    ServingAnswer,
    TrainingAnswer,
)

_BAR_WIDTH = 30
_PIPED_WIDTH = 160
_LEAST_SHARE = 0.005


def _json(answer: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())


def _console() -> Console:
    """Rich where people look; as wide as it takes where a program reads."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def _notes(console: Console, notes: list[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", style="yellow")


def _layout(plan: PlanAnswer) -> str:
    """`tp 8 pp 12 dp 43`, and what else is not 1."""
    parts = [f"{name} {getattr(plan, name)}" for name in ("tp", "pp", "dp")]
    parts += [f"{name} {getattr(plan, name)}" for name in ("cp", "ep", "vpp") if getattr(plan, name) > 1]
    return " ".join(parts)


def _recompute(plan: PlanAnswer) -> str:
    partly = plan.recompute == "full" and plan.recompute_ratio < 1
    return f"{plan.recompute} {plan.recompute_ratio:.0%}" if partly else plan.recompute


def _rest(plan: PlanAnswer) -> str:
    sharding = "FSDP" if plan.zero_stage == 3 else f"ZeRO {plan.zero_stage}" if plan.zero_stage else "no ZeRO"
    return f"micro-batch {plan.micro_batch}, {sharding}, recompute {_recompute(plan)}"


def plans(answer: PlansAnswer, *, as_json: bool) -> None:
    """The best plans, a row each, and what the first spends its step on."""
    if as_json:
        _json(answer)
        return
    console = _console()
    console.print(
        f"{answer.model}, {answer.params_b:,.1f} B parameters on {answer.devices:,} {answer.accelerator}: "
        f"{answer.legal:,} legal plans, {answer.fitting:,} fit ({answer.seconds_spent:.2f} s)"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "plan", "micro", "ZeRO", "recompute"):
        table.add_column(heading, no_wrap=True)
    for heading in ("step s", "tokens/s", "MFU", "GiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for plan in answer.plans:
        table.add_row(
            str(plan.rank),
            _layout(plan),
            str(plan.micro_batch),
            str(plan.zero_stage),
            _recompute(plan),
            f"{plan.step_time_s:.3g}",
            f"{plan.tokens_per_s_per_accel:,.0f}",
            f"{plan.mfu:.1%}",
            f"{plan.memory_gib:.1f}",
            style="bold" if plan.rank == 1 else "",
        )
    console.print(table)
    for plan in answer.plans:
        console.print(f"{plan.rank}  {plan.reason}", soft_wrap=True, style="bold" if plan.rank == 1 else "")
    _breakdown(console, answer.plans[0])
    _notes(console, answer.notes)


def pools(answer: PoolsAnswer, *, as_json: bool) -> None:
    """Who takes how much of a step, beside each alone, and how often they have to meet to gain."""
    if as_json:
        _json(answer)
        return
    console = _console()
    tokens = answer.global_batch * answer.seq_len
    console.print(
        f"{answer.model}, {answer.params_b:,.1f} B parameters, {answer.global_batch:,} sequences a step; "
        f"{answer.gbps_between:g} Gbit/s and {answer.rtt_ms:g} ms between pools"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("pool", "plan"):
        table.add_column(heading, no_wrap=True)
    for heading in ("sequences", "step s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for share in answer.shares:
        layout = " ".join(f"{name} {share.plan[name]}" for name in ("tp", "pp", "dp"))
        name = f"{share.accelerator} x {share.devices}"
        table.add_row(name, layout, f"{share.sequences:,}", f"{share.step_time_s:.3g}", style="bold")
    for name, seconds in answer.alone_s.items():
        told = f"{seconds:.3g}" if seconds else "does not fit"
        table.add_row(f"{name} alone", "", f"{answer.global_batch:,}" if seconds else "", told)
    console.print(table)
    alone_s = min(seconds for seconds in answer.alone_s.values() if seconds)
    verb = "together" if len(answer.shares) > 1 else "alone is quicker"
    gain = alone_s / answer.step_time_s
    console.print(f"{verb}: {tokens / answer.step_time_s:,.0f} tokens/s, {gain:.2f} x the quickest alone")
    every = answer.meet_every_steps
    rarely = f"once in {every:,} steps or more rarely" if every > 1 else "every step"
    pays = f"pays {rarely}" if every else "never pays"
    console.print(f"an exchange over the link takes {answer.exchange_s:.3g} s; it {pays}")


def _breakdown(console: Console, plan: PlanAnswer) -> None:
    """What a step and a device's memory are spent on, as bars."""
    for title, parts in (("a step", plan.seconds_by_part), ("a device's memory", plan.gib_by_part)):
        whole = sum(parts.values())
        bars = Table(
            box=None, pad_edge=False, show_header=False, title=title, title_justify="left", title_style="dim"
        )
        bars.add_column(no_wrap=True)
        bars.add_column(justify="right", no_wrap=True)
        bars.add_column(no_wrap=True)
        for name, value in sorted(parts.items(), key=lambda item: -item[1]):
            if value > _LEAST_SHARE * whole:
                share = value / whole
                bar = Text("█" * max(round(share * _BAR_WIDTH), 1), style="cyan")
                bars.add_row(name.removesuffix("_s").replace("_", " "), f"{share:.1%}", bar)
        console.print(bars)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _unless(fits: bool) -> str:
    return "" if fits else ": does not fit"


def training(answer: TrainingAnswer, *, as_json: bool) -> None:
    """What a run takes in all."""
    if as_json:
        _json(answer)
        return
    console, plan = _console(), answer.plan
    between = f"{_hours(answer.hours_low)} to {_hours(answer.hours_high)}"
    console.print(
        f"{answer.model}, {answer.params_b:,.1f} B parameters, {answer.tokens / 1e9:,.4g} B tokens "
        f"on {answer.devices:,} {answer.accelerator}"
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        (
            "time",
            f"{_hours(answer.hours)} h ({between}), {answer.steps:,} steps",
        ),
        ("devices", f"{answer.device_hours:,.0f} device-hours"),
        (
            "memory",
            f"{answer.gib:.1f} GiB of {plan.capacity_gib:.0f} a device{_unless(plan.fits)}",
        ),
        ("electricity", f"{answer.kwh:,.0f} kWh, before PUE"),
        ("rate", f"{plan.tokens_per_s_per_accel:,.0f} tokens/s a device, MFU {plan.mfu:.1%}"),
        ("plan", f"{_layout(plan)}, {_rest(plan)}"),
        ("why", plan.reason),
    ]
    if answer.cny is not None:
        rows.insert(4, ("money", f"{answer.cny:,.0f} CNY"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    _breakdown(console, plan)
    _notes(console, answer.notes)


def serving(answer: ServingAnswer, *, as_json: bool) -> None:
    """What a model serves."""
    if as_json:
        _json(answer)
        return
    console = _console()
    console.print(f"{answer.model} on {answer.devices:,} {answer.accelerator}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    low, high = answer.output_tokens_per_s_low, answer.output_tokens_per_s_high
    rows = [
        (
            "replicas",
            f"{answer.replicas} of {answer.tensor_parallel} devices{_unless(answer.fits)}",
        ),
        ("throughput", f"{answer.output_tokens_per_s:,.0f} tokens/s ({low:,.0f} to {high:,.0f})"),
        ("requests", f"{answer.requests_per_s:,.3g} a second, {answer.utilisation:.0%} of what it can take"),
        ("room", f"{answer.kv_capacity_tokens:,} tokens of keys and values a replica"),
        ("bound by", answer.bound_by),
    ]
    for name, mean, worst in (
        ("first token", answer.ttft_ms, answer.ttft_p99_ms),
        ("between tokens", answer.itl_ms, answer.itl_p99_ms),
    ):
        if mean is not None:
            tail = "" if worst is None else f", 99 of 100 within {worst:,.1f} ms"
            rows.append((name, f"{mean:,.1f} ms{tail}"))
    if answer.replicas_needed:
        rows.append(("needed", f"{answer.replicas_needed:,} replicas, {answer.devices_needed:,} devices"))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    _notes(console, answer.notes)


def written(path: Path, found: dict[str, list[Any]], *, as_json: bool) -> None:
    """That a table was written."""
    size, spent_s = len(found["row_id"]), sum(found["seconds_spent"])
    unfit = sum(1 for fits in found["fits"] if not fits)
    if as_json:
        _json({"rows": size, "do_not_fit": unfit, "out": str(path), "seconds_spent": spent_s})
        return
    click.echo(f"{size:,} rows to {path} in {spent_s:.2f} s; {unfit:,} do not fit")
