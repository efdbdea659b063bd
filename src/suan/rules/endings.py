"""Jobs that end without another run: somebody stopped them, or they can never run any more."""

from collections.abc import Iterator

from suan.grid.action import Action, EndJob, StopRun
from suan.grid.job import Job, JobPhase
from suan.grid.state import State
from suan.rules.policy import Policy

# The engine's word for free devices that lie on the wrong nodes: no fault of the job.
_NO_DEVICES = "no_devices"


def requested_stops(state: State) -> Iterator[Action]:
    """Jobs that somebody stopped: their runs stop, and those without a run end at once."""
    for job_id in state.stop_requested:
        job = state.jobs[job_id]
        if job.phase == JobPhase.WAITING:
            yield EndJob(job=job_id, phase=JobPhase.STOPPED, outcome="stopped on request")
        elif not state.runs[job.runs[-1]].stop_reason:
            yield StopRun(run=job.runs[-1], why="its job was stopped")


def hopeless(state: State, policy: Policy, job: Job) -> str:
    """Why the job can never run any more; "" while it still may."""
    why = state.runs[job.runs[-1]].stop_reason if job.refusals else ""
    if job.refusals > policy.refusals_limit and not why.startswith(_NO_DEVICES):
        return f"{job.refusals} times in a row no engine could start it: {why}"
    for binding in job.inputs.values():
        writer = state.jobs.get(binding.from_job)
        if writer is None or writer.ended_at_s is None:
            continue
        wanting = binding.from_output not in writer.outputs if binding.from_output else True
        if wanting and writer.phase != JobPhase.SUCCEEDED:
            return f"its input will not come: job {writer.id} ({writer.task.name}) {writer.phase}"
    return ""
