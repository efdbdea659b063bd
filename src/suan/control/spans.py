"""The spans of a job that has ended, from what the state knows of it: every plane finds the same.

One trace a job: the job; below it, for each run, how long the job waited, the moment it was placed, data on
their way, the run itself, what came between its exit and the commit of its outputs, and the settling. Moments
are the journal's, in whole seconds. What a run traces itself hangs below the span `run` (its TRACEPARENT).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from suan.control.trace_ids import span_id
from suan.grid.account import Entry
from suan.grid.artifact import Transfer
from suan.grid.job import EndCause, Job, JobPhase, Run
from suan.grid.state import State

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class JobSpan:
    """One span. `parent` is 0 for the job's own, under which all others are."""

    name: str
    id: int
    parent: int
    began_s: int
    ended_s: int
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str = ""  # why it failed, "" when it did not


@dataclass(slots=True)
class Beside:
    """What the state does not keep by job: collected from facts while the job lives."""

    transfers: list[str] = field(default_factory=list)
    ended_at_s: dict[str, int] = field(default_factory=dict)  # run -> when its end was written down
    entries: list[Entry] = field(default_factory=list)


def spans_of(state: State, job: Job, beside: Beside) -> list[JobSpan]:
    """The job's span first, then those below it in order of time."""
    ended_s = job.ended_at_s if job.ended_at_s is not None else state.at_s
    failed = job.phase is JobPhase.FAILED
    root = JobSpan(
        "job",
        span_id(job, "job"),
        0,
        job.submitted_at_s,
        ended_s,
        {
            "suan.job": job.id,
            "suan.job_name": job.task.name,
            "suan.tenant": job.tenant,
            "suan.priority": job.task.priority.value,
            "suan.phase": job.phase.value,
            "suan.runs": len(job.runs),
        },
        job.outcome or job.phase.value if failed else "",
    )
    below: list[JobSpan] = []
    waits_since_s = job.submitted_at_s
    for run in (state.runs[run_id] for run_id in job.runs):
        below += _run_spans(job, run, beside, waits_since_s)
        waits_since_s = beside.ended_at_s.get(run.id, run.ended_at_s or ended_s)
    if not job.runs:
        below.append(_below(job, "wait", job.id, job.submitted_at_s, ended_s))
    below += _transfer_spans(job, (state.transfers[name] for name in beside.transfers), ended_s)
    return [root, *sorted(below, key=lambda span: (span.began_s, span.ended_s))]


def _below(job: Job, name: str, of: str, began_s: int, ended_s: int, **details: Value) -> JobSpan:
    """A span under the job's; never one that ends before it begins, whatever a site's clock said."""
    attributes = {f"suan.{key}": value for key, value in details.items()}
    id = span_id(job, of if name == "run" else f"{name}/{of}")
    return JobSpan(name, id, span_id(job, "job"), began_s, max(began_s, ended_s), attributes)


def _run_spans(job: Job, run: Run, beside: Beside, waits_since_s: int) -> list[JobSpan]:
    where: dict[str, Value] = {"run": run.id, "site": run.site, "pool": run.pool}
    spans = [
        _below(job, "wait", run.id, waits_since_s, run.placed_at_s, run=run.id),
        _below(
            job,
            "place",
            run.id,
            run.placed_at_s,
            run.placed_at_s,
            **where,
            devices=run.devices,
            nodes=run.nodes,
            accelerator=run.accelerator,
            quote_yuan=run.quote.total_microyuan / 1e6,
        ),
    ]
    written_s = beside.ended_at_s.get(run.id, run.ended_at_s or run.placed_at_s)
    exited_s = min(run.ended_at_s or written_s, written_s)
    if run.started_at_s is None:
        return [*spans, _below(job, "stage data", run.id, run.placed_at_s, written_s, **where)]
    spans.append(_below(job, "stage data", run.id, run.placed_at_s, run.started_at_s, **where))
    ran = _below(
        job,
        "run",
        run.id,
        run.started_at_s,
        exited_s,
        **where,
        cause=run.cause.value if run.cause else "",
        exit_code=run.exit_code if run.exit_code is not None else -1,
    )
    spans.append(ran if _went_well(run) else _failed(ran, _why(run)))
    spans.append(_below(job, "commit output", run.id, exited_s, written_s, **where, outputs=len(job.outputs)))
    if costs := _costs(beside.entries, run.id):
        spans.append(_below(job, "settle", run.id, written_s, written_s, run=run.id, **costs))
    return spans


def _transfer_spans(job: Job, transfers: Iterable[Transfer], ended_s: int) -> list[JobSpan]:
    spans = []
    for moved in transfers:
        until_s = moved.ended_at_s if moved.ended_at_s is not None else ended_s
        spans.append(
            _below(
                job,
                "transfer",
                moved.id,
                moved.ordered_at_s,
                until_s,
                artifact=moved.artifact,
                source=moved.source,
                destination=moved.destination,
                moved_bytes=moved.moved_bytes,
            )
        )
    return spans


def _costs(entries: Sequence[Entry], run: str) -> dict[str, Value]:
    """Yuan by what was paid for, for the run's own movement."""
    return {
        f"yuan.{entry.unit.replace(' ', '_')}": entry.amount_microyuan / 1e6
        for entry in entries
        if entry.movement == run and entry.what != "pays"
    }


def _went_well(run: Run) -> bool:
    return run.cause is EndCause.STOPPED or (run.cause is EndCause.EXITED and not run.exit_code)


def _why(run: Run) -> str:
    return f"exit code {run.exit_code}" if run.cause is EndCause.EXITED else str(run.cause or "unknown")


def _failed(span: JobSpan, why: str) -> JobSpan:
    return JobSpan(span.name, span.id, span.parent, span.began_s, span.ended_s, span.attributes, why)
