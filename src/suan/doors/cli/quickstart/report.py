"""The end of the quickstart: evaluation, stages, bill, `summary.json`, and what to try next.

Knows the shape of the summary and checks that money adds up; every figure is the grid's.
"""

import shutil
import time
from pathlib import Path
from typing import Any

from suan import __version__
from suan.doors.cli import render
from suan.doors.cli.bill import bill_text
from suan.doors.cli.jobs import last_run, metrics_text
from suan.doors.cli.quickstart.machines import write_json
from suan.doors.client import Client
from suan.grid.error import NotNow, SuanError

Json = dict[str, Any]
SUMMARY = "summary.json"
# Of each recipe: how a measured quality is called, its metric, and the metric of what the stage began with.
_QUALITIES = {
    "pretrain": (("validation loss", "val_loss", "first_val_loss"),),
    "sft": (("validation loss", "val_loss", "first_val_loss"),),
    "reward": (("pairs in the right order", "accuracy", ""),),
    "rlhf": (
        ("form correct", "form_correct", "before_form_correct"),
        ("reward", "reward", "before_reward"),
        ("wins against sft", "win_reward", ""),
    ),
    "quantise": (("perplexity", "perplexity", "base_perplexity"),),
}


def evaluation(client: Client, jobs: list[Json], folder: Path) -> str:
    """The evaluation's own table, brought here as an artifact; its metrics where it wrote no table."""
    judged = [job for job in jobs if job["task"]["recipe"] == "evaluate"]
    for job in judged:
        for name in job["outputs"].values():
            place = folder / name.replace(":", "-").replace("@", "-")
            shutil.rmtree(place, ignore_errors=True)
            try:
                client.get(name, place, wait_s=60.0)
            except NotNow:
                raise
            except SuanError as error:
                return f"{name} could not be brought here: {error}\n{metrics_text(job['metrics'])}"
            if (page := place / "report.md").is_file():
                lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("|")]
                return _aligned(lines)
        return metrics_text(job["metrics"])
    return "this pipeline evaluates nothing"


def _aligned(lines: list[str]) -> str:
    """A Markdown table as aligned columns."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    body = [row for row in cells[1:] if not set("".join(row)) <= set("-: ")]
    return render.table(cells[0], body, right=" ".join(cells[0][1:])) if cells else ""


def summarise(client: Client, jobs: list[Json], more: Json) -> Json:
    """The summary: one entry a stage, and totals that the stages add up to.

    `more`: what else is to be said (restarts, poem, seconds). Raises: AssertionError when a bill does not add
    up.
    """
    stages = []
    for job in jobs:
        bill = client.bill(job=job["id"])
        assert sum(line["amount_microyuan"] for line in bill["lines"]) == bill["total_microyuan"]
        run = last_run(job)
        stages.append(
            {
                "stage": job["task"]["name"],
                "job": job["id"],
                "phase": job["phase"],
                "site": run.get("site", ""),
                "seconds": (job["ended_at_s"] or int(time.time()))
                - (job["started_at_s"] or job["submitted_at_s"]),
                "device_s": bill["device_s"],
                "kwh": bill["energy_kwh"],
                "energy_source": "measured" if bill["energy_measured_ratio"] >= 1 else "modelled",
                "moved_bytes": bill["moved_bytes"],
                "cost_microyuan": bill["total_microyuan"],
                "tokens_per_s": ({**(job.get("progress") or {}), **job["metrics"]}).get("tokens_per_s"),
                "quality": quality(job["task"]["recipe"], job["metrics"]),
                "metrics": job["metrics"],
                "outputs": job["outputs"],
            }
        )
    counted = ("seconds", "device_s", "kwh", "moved_bytes", "cost_microyuan")
    totals = {name: sum(stage[name] for stage in stages) for name in counted}
    return {"version": __version__, "stages": stages, "totals": totals, **more}


def quality(recipe: str, metrics: Json) -> str:
    """What the stage is judged by, before and after; "" for a stage that judges nothing."""
    said = []
    for name, after, before in _QUALITIES.get(recipe, ()):
        if after in metrics:
            began = f"{metrics[before]:.3g} → " if before in metrics else ""
            said.append(f"{name} {began}{metrics[after]:.3g}")
    return ", ".join(said)


def write_summary(state: Path, summary: Json) -> Path:
    path = state / SUMMARY
    write_json(path, summary)
    return path


def summary_text(summary: Json) -> str:
    """The stages as a table, then the totals."""
    rows = [
        (s["stage"], s["site"], s["seconds"], f"{s['tokens_per_s']:,.0f}" if s["tokens_per_s"] else "",
         f"{s['kwh']:.6f}", s["energy_source"], f"{s['cost_microyuan'] / 1e6:.6f}", s["quality"])
        for s in summary["stages"]
    ]  # fmt: skip
    headings = ("stage", "site", "seconds", "tokens/s", "kWh", "kWh are", "CNY", "before → after")
    totals = summary["totals"]
    money = f"{totals['cost_microyuan'] / 1e6:.6f} CNY"
    used = f"{totals['device_s']:g} device-seconds, {totals['kwh']:.6f} kWh"
    took = f"{summary['wall_s']:.0f} s in all, {summary['restarts']} restarts"
    said = f"{used}, {totals['moved_bytes']} bytes moved, {money}; {took}"
    return (
        f"{render.table(headings, rows, right='seconds tokens/s kWh CNY')}\n{render.paint(said, render.BOLD)}"
    )


def whole_bill(client: Client, summary: Json) -> str:
    """The tenant's bill; says so if it is not what the stages add up to."""
    bill = client.bill()
    text = bill_text(bill)
    difference = bill["total_microyuan"] - summary["totals"]["cost_microyuan"]
    if difference:
        text += f"\nother jobs on this grid: {difference / 1e6:.6f} CNY"
    return text


def check_ledger(client: Client) -> None:
    """Raises: NotNow `ledger` when the books of the grid do not sum to zero, which must never be."""
    ledger = client.ledger(limit=1)
    if ledger["sum_microyuan"] != 0:
        raise NotNow(
            "ledger",
            f"the ledger sums to {ledger['sum_microyuan']} micro-yuan, not to zero",
            hint="report it",
        )


def next_commands(state: Path, config: Path, *, running: bool) -> str:
    """What to type next."""
    again = f"suan quickstart --state {state}"
    lines = (
        []
        if running
        else [f".venv/bin/{again} --resume --keep    # the same grid again, left running; then:"]
    )
    lines += [
        f"export SUAN_CONFIG={config}",
        ".venv/bin/suan jobs      .venv/bin/suan why JOB      .venv/bin/suan prices      .venv/bin/suan bill",
        ".venv/bin/suan quote examples/poet/pipeline.yaml",
        f".venv/bin/{again} --stop    # ends what --keep left running",
    ]
    return "\n".join(f"  {line}" for line in lines)
