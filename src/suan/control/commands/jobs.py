"""Submitting and stopping jobs, and use of services that is counted while they run."""

from collections.abc import Sequence

import msgspec

from suan.control.commands.artifacts import own_series
from suan.control.commands.command import Command, unknown
from suan.control.works import estimates_of, new_facts
from suan.grid import fact as f
from suan.grid.error import Refused
from suan.grid.job import TERMINAL_PHASES, Task
from suan.grid.state import State
from suan.rules.admit import admit


def submit(
    tenant: str, tasks: tuple[Task, ...], pipeline: str = "", idempotency_key: str = ""
) -> Command[tuple[str, ...]]:
    """The ids of the new jobs. The same idempotency key again: the same ids, nothing stored.

    Raises: what `admit` refuses; Refused `name_taken`, `key_reused` (other tasks under a used key).
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], tuple[str, ...]]:
        before = state.submissions.get((tenant, idempotency_key)) if idempotency_key else None
        if before is not None:
            if tuple(state.jobs[job].task for job in before) != tasks:
                raise Refused(
                    "key_reused",
                    "this idempotency key was used for other tasks",
                    hint="send a new Idempotency-Key",
                    status=422,
                )
            return (), before
        works = estimates_of(state, tenant, tasks)
        facts = admit(
            state,
            tenant,
            tasks,
            now_s=now_s,
            pipeline=pipeline,
            idempotency_key=idempotency_key,
            works=works,
        )
        for task in tasks:
            for series in task.outputs.values():
                own_series(state, tenant, series)
        return (*facts, *new_facts(state, works, now_s)), tuple(fact.job for fact in facts)

    return command


def stop_jobs(jobs: tuple[str, ...], by: str = "") -> Command[None]:
    """Asks for the end of jobs; those that have ended, or were asked before, are left as they are.

    Raises: Refused `unknown_job`.
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        facts = []
        for job_id in jobs:
            job = state.jobs.get(job_id)
            if job is None:
                raise unknown("job", job_id, "suan jobs")
            if job.phase not in TERMINAL_PHASES and job.stop_requested_at_s is None:
                facts.append(f.JobStopRequested(at_s=now_s, job=job_id, by=by))
        return facts, None

    return command


class Metering(msgspec.Struct, frozen=True):
    """Use of one service's run by one tenant since it was last written down."""

    run: str
    tenant: str
    requests: int
    tokens_in: int
    tokens_out: int


def meter(used: Sequence[Metering]) -> Command[None]:
    """Writes use down. Not safe to give twice: whoever counts forgets what was given."""

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        return [f.Metered(at_s=now_s, **msgspec.structs.asdict(line)) for line in used], None

    return command
