"""Which service a model's name means: the newest that answers, among those the caller may use.

Knows names. A service answers to its task's name, and to the names of the model artifacts that it serves.
"""

from typing import NamedTuple

import msgspec

from suan.doors.rest.access import sees
from suan.grid.account import Key
from suan.grid.artifact import artifact_name
from suan.grid.job import Job, JobPhase, Run
from suan.grid.state import State


class Service(NamedTuple):
    """A service's job, with its run when it has one."""

    job: Job
    run: Run | None

    @property
    def ready(self) -> bool:
        return self.run is not None and bool(self.run.endpoint) and not self.run.stop_reason


class NoService(msgspec.Struct, frozen=True):
    """Nothing answers to the name now. `starting` is the service that will, when there is one."""

    available: tuple[str, ...]
    starting: Service | None = None


def services(state: State, key: Key) -> list[Service]:
    """Services the key may use, oldest first: those that run, then those that wait."""
    found = []
    for runs in state.open_runs.values():
        for run_id in runs:
            run = state.runs[run_id]
            job = state.jobs[run.job]
            if job.task.replicas is not None and sees(key, job.tenant):
                found.append(Service(job, run))
    found.sort(key=lambda service: service.job.sequence)
    for job_id in state.waiting:
        job = state.jobs[job_id]
        if job.task.replicas is not None and sees(key, job.tenant) and job.phase == JobPhase.WAITING:
            found.append(Service(job, None))
    return found


def names_of(service: Service) -> tuple[str, ...]:
    """What it answers to, the most usual first: `poet`, `poet@3`, `model:poet`, `model:poet@3`, its task."""
    given = (
        service.run.inputs
        if service.run
        else {
            name: bound.artifact or service.job.task.inputs.get(name, "")
            for name, bound in service.job.inputs.items()
        }
    )
    names: list[str] = []
    for text in given.values():
        if text.startswith("model:"):
            parts = artifact_name(text)
            names += [
                parts.name,
                f"{parts.name}@{parts.version}",
                parts.series,
                f"{parts.series}@{parts.version}",
            ]
    return tuple(dict.fromkeys([*(name for name in names if not name.endswith("@0")), service.job.task.name]))


def find_service(state: State, key: Key, model: str) -> Service | NoService:
    """The newest ready service of that name; the caller's own tenant first."""
    known = services(state, key)
    named = [service for service in known if model in names_of(service)]
    own = [service for service in named if service.job.tenant == key.tenant] or named
    ready = [service for service in own if service.ready]
    if ready:
        return ready[-1]
    available = dict.fromkeys(names_of(service)[0] for service in known if service.ready)
    return NoService(tuple(available), own[-1] if own else None)
