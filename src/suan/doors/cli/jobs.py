"""Verbs on jobs that exist: jobs, job, logs, stop.

Knows how a job is shown. Imports nothing that `suan jobs` does not need.
"""

import json
import sys
import time
from typing import Any

import click

from suan.doors.cli import render
from suan.doors.cli.session import Session, grid_verb
from suan.grid.units import duration_text

Json = dict[str, Any]
PHASES = ("waiting", "placed", "succeeded", "failed", "stopped")


@click.command()
@click.option("--phase", type=click.Choice(PHASES), help="Only jobs in this phase.")
@click.option("--pipeline", metavar="NAME", help="Only jobs of this pipeline.")
@click.option("--tenant", metavar="NAME", help="Only this tenant's (operators).")
@click.option("--limit", default=30, show_default=True, type=click.IntRange(1, 500), help="At most so many.")
@click.option("--cursor", metavar="CURSOR", help="Go on where a page ended (`next_cursor`).")
@grid_verb
def jobs(session: Session, **filters: Any) -> None:
    """Jobs, newest first."""
    page = session.client.jobs(**filters)
    session.answer(page, lambda: _print_jobs(page))


def _print_jobs(page: Json) -> None:
    if not page["items"]:
        print("no jobs; submit one: suan run FILE")
        return
    rows = [
        (
            job["id"],
            job["task"]["name"],
            job["phase"],
            job.get("pipeline"),
            last_run(job).get("site"),
            f"{duration_text(time.time() - job['submitted_at_s'])} ago",
            span_text(job),
        )
        for job in page["items"]
    ]
    print(render.table(("job", "name", "phase", "pipeline", "site", "submitted", "ran"), rows, right="ran"))
    if page.get("next_cursor"):
        print(f"more: suan jobs --cursor {page['next_cursor']}")


def last_run(job: Json) -> Json:
    """Its newest run, as listings have it; empty before it has one."""
    runs = job.get("runs") or [{}]
    return dict(runs[-1])


def span_text(job: Json) -> str:
    """How long a job has run or ran, from its first run on."""
    if job.get("started_at_s") is None:
        return ""
    return duration_text((job.get("ended_at_s") or time.time()) - job["started_at_s"])


@click.command()
@click.argument("job_id", metavar="JOB")
@grid_verb
def job(session: Session, job_id: str) -> None:
    """One job in full: task, runs, outputs, metrics."""
    found = session.client.job(job_id)
    runs = session.client.runs(job_id)
    session.answer(found | {"run_details": runs}, lambda: _print_job(found, runs))


def _print_job(found: Json, runs: list[Json]) -> None:
    task = found["task"]
    print(f"{found['id']}  {render.paint(task['name'], render.BOLD)}  {found['phase']}")
    facts = {
        "outcome": found.get("outcome"),
        "pipeline": found.get("pipeline"),
        "submitted": render.moment(found["submitted_at_s"]),
        "started": render.moment(found.get("started_at_s")),
        "ran": span_text(found),
        "waits": _reason(found),
        "inputs": ", ".join(f"{name} = {_bound(bound)}" for name, bound in found.get("inputs", {}).items()),
        "outputs": ", ".join((found.get("outputs") or task.get("outputs") or {}).values()),
        "metrics": metrics_text(found.get("metrics") or {}),
        "progress": progress_text(found.get("progress") or {}),
        "notes": "; ".join(task.get("notes") or ()),
    }
    for name, value in facts.items():
        if value and value != "–":
            print(f"  {name:<10}{render.clean(str(value))}")
    if runs:
        rows = [
            (r["id"], r["site"], r["pool"], r["devices"], r["phase"], r["cause"], r["exit_code"],
             render.moment(r["started_at_s"]), r["endpoint"])
            for r in (detail["run"] for detail in runs)
        ]  # fmt: skip
        headings = ("run", "site", "pool", "devices", "phase", "cause", "exit", "started", "endpoint")
        print(render.table(headings, rows, right="devices exit"))
    print(f"next: suan why {found['id']} · suan logs -f {found['id']} · suan bill --job {found['id']}")


def _reason(found: Json) -> str:
    from suan.doors.cli.bids import reason_text

    return reason_text(found.get("reason"))


def _bound(bound: Json) -> str:
    return bound.get("artifact") or f"{bound.get('from_output')} of {bound.get('from_job')}"


def metrics_text(metrics: Json) -> str:
    """`loss 3.21  tokens 120000`."""
    return "  ".join(f"{name} {_number(value)}" for name, value in metrics.items())


def progress_text(progress: Json) -> str:
    """`train  120/400  ETA 1m05s  loss 3.2  val_loss 3.4  812 tokens/s`, from what is there."""
    said = [render.clean(str(progress["phase"]))] if progress.get("phase") else []
    if "step" in progress:
        said.append(f"{_number(progress['step'])}/{_number(progress.get('total', '?'))}")
    if isinstance(progress.get("eta_s"), int | float):
        said.append(f"ETA {duration_text(progress['eta_s'])}")
    for name in ("loss", "val_loss"):
        if name in progress:
            said.append(f"{name} {_number(progress[name])}")
    if "tokens_per_s" in progress:
        said.append(f"{_number(progress['tokens_per_s'])} tokens/s")
    known = {"phase", "step", "total", "loss", "val_loss", "tokens_per_s", "eta_s", "port"}
    said += [
        f"{name} {_number(value)}"
        for name, value in progress.items()
        if name not in known and not isinstance(value, str)
    ]
    return "  ".join(said)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return render.clean(str(value))


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--run", default="", metavar="RUN", help="Another run than the newest.")
@click.option("--offset", default=0, type=click.IntRange(min=0), help="Leave out so many bytes.")
@grid_verb
def logs(session: Session, job_id: str, follow: bool, run: str, offset: int) -> None:
    """What a job printed. With --json one object, or with -f one a line."""
    if follow:
        if run or offset:
            raise click.UsageError("--follow goes with neither --run nor --offset")
        for piece in session.client.logs(job_id, follow=True):
            _print_piece(session, piece)
        return
    pieces = []
    while True:
        part = session.client.log(job_id, offset=offset, run=run)
        offset, run = offset + len(part.data), part.run
        pieces.append(part.data)
        if not session.as_json:
            _print_piece(session, part.data)
        if not part.data or offset >= part.size:
            break
    if session.as_json:
        text = b"".join(pieces).decode("utf-8", "replace")
        session.answer(
            {"job": job_id, "run": run, "size": part.size, "ended": part.ended, "text": text}, lambda: None
        )


def _print_piece(session: Session, piece: bytes) -> None:
    if session.as_json:
        print(json.dumps({"text": piece.decode("utf-8", "replace")}, ensure_ascii=False), flush=True)
    else:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@click.command()
@click.argument("job_ids", metavar="JOB…", nargs=-1)
@click.option("--pipeline", metavar="NAME", help="Every unfinished job of this pipeline.")
@click.option("--wait", is_flag=True, help="Return when they have ended.")
@grid_verb
def stop(session: Session, job_ids: tuple[str, ...], pipeline: str | None, wait: bool) -> None:
    """Stop jobs. What they hold is free when their exit is confirmed."""
    if not job_ids and not pipeline:
        raise click.UsageError("name a job, or --pipeline NAME")
    client, names = session.client, list(job_ids)
    if pipeline:
        for phase in ("waiting", "placed"):
            names += [job["id"] for job in client.jobs(pipeline=pipeline, phase=phase, limit=500)["items"]]
    stopped = [client.stop(name) for name in names]
    while wait and any(job.get("ended_at_s") is None for job in stopped):
        time.sleep(0.3)
        stopped = [client.job(job["id"]) for job in stopped]

    def say() -> None:
        for job in stopped:
            said = job["phase"] if job.get("ended_at_s") is not None else "stopping"
            print(f"{job['id']}  {job['task']['name']}  {said}")

    session.answer({"jobs": stopped}, say)
