"""Jobs: submit, quote, list, explain, stop, and their runs."""

import json
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from suan.control.commands import stop_jobs, submit, unknown
from suan.control.works import think_ahead
from suan.doors.rest.access import Here, Member, Viewer, sees, tenant_for
from suan.doors.rest.answer import Json, Raw, answers, cursor_number, page, takes
from suan.doors.rest.parts import Parts
from suan.doors.rest.quotes import quotes_of
from suan.doors.schema import JobPage, JobView, Quotes, Submitted, TasksBody, Why, job_view, tasks_in
from suan.doors.taskfile import read_tasks
from suan.grid.account import Key
from suan.grid.error import Refused
from suan.grid.job import Job, JobPhase
from suan.grid.state import State
from suan.rules.explain import explain

router = APIRouter(prefix="/v1", tags=["jobs"])
_YAML = ("text/yaml", "application/yaml", "application/x-yaml", "text/x-yaml")


@router.post(
    "/jobs", status_code=201, responses=answers(Submitted, 201), openapi_extra=takes(TasksBody, *_YAML)
)
def submit_jobs(
    request: Request,
    here: Here,
    key: Member,
    body: Raw,
    *,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
    tenant: str | None = None,
) -> Response:
    """Submits tasks, as JSON or as a task file. The same Idempotency-Key gives the same jobs again."""
    owner = tenant_for(key, tenant)
    if owner not in here.grid.state.tenants:
        raise unknown("tenant", owner, "suan tenant")
    tasks = _tasks(request, body, here.grid.now_s())
    think_ahead(here.grid.read, owner, tasks.tasks)
    ids = here.grid.do(submit(owner, tasks.tasks, tasks.pipeline, idempotency_key))
    return Json(
        {"jobs": here.grid.read(lambda state: [_view(here, state, state.jobs[job]) for job in ids])}, 201
    )


@router.post("/quotes", responses=answers(Quotes), openapi_extra=takes(TasksBody, *_YAML))
def quote(request: Request, here: Here, key: Viewer, body: Raw, tenant: str | None = None) -> Response:
    """What the tasks would cost, wherever they could run. Nothing is stored."""
    owner = tenant_for(key, tenant)
    tasks = _tasks(request, body, here.grid.now_s())
    think_ahead(here.grid.read, owner, tasks.tasks)
    now_s, policy = here.grid.now_s(), here.grid.policy
    found = here.grid.read(lambda state: quotes_of(state, policy, owner, tasks.tasks, now_s))
    return Json(Quotes(quotes=found))


@router.get("/jobs", responses=answers(JobPage))
def list_jobs(
    here: Here,
    key: Viewer,
    *,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    phase: JobPhase | None = None,
    pipeline: str | None = None,
    tenant: str | None = None,
) -> Response:
    """Jobs, newest first."""
    before = cursor_number(cursor)
    if tenant is not None:
        tenant_for(key, tenant)

    def wanted(job: Job) -> bool:
        return (
            (phase is None or job.phase == phase)
            and (pipeline is None or job.pipeline == pipeline)
            and (job.tenant == tenant if tenant is not None else sees(key, job.tenant))
        )

    def view(state: State) -> dict[str, Any]:
        numbered = (
            (job.sequence, job)
            for job in reversed(state.jobs.values())
            if before is None or job.sequence < before
        )
        jobs, next_cursor = page(numbered, limit, wanted)
        return {"items": [_view(here, state, job) for job in jobs], "next_cursor": next_cursor}

    return Json(here.grid.read(view))


@router.get("/jobs/{job}", responses=answers(JobView))
def get_job(here: Here, key: Viewer, job: str) -> Response:
    """One job."""
    return Json(here.grid.read(lambda state: _view(here, state, job_of(state, key, job))))


@router.get("/jobs/{job}/why", responses=answers(Why))
def explain_job(here: Here, key: Viewer, job: str) -> Response:
    """Why it waits, what it waits for and what would help; every bid that was weighed."""
    policy, now_s = here.grid.policy, here.grid.now_s()

    def view(state: State) -> Why:
        found = job_of(state, key, job)
        said = explain(state, policy, found, here.grid.reason(found.id), now_s)
        return Why(job=found.id, phase=found.phase, **msgspec.structs.asdict(said))

    return Json(here.grid.read(view))


@router.post("/jobs/{job}/stop", responses=answers(JobView))
def stop_job(here: Here, key: Member, job: str) -> Response:
    """Asks for the job's end. A job that has ended is left as it is."""
    found = here.grid.read(lambda state: job_of(state, key, job))
    here.grid.do(stop_jobs((found.id,), by=key.id))
    return Json(here.grid.read(lambda state: _view(here, state, state.jobs[found.id])))


@router.get("/runs")
def list_runs(
    here: Here, key: Viewer, job: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 200
) -> Response:
    """Runs with what they used and what was settled for them: of one job, or the newest."""

    def view(state: State) -> dict[str, Any]:
        if job is not None:
            runs = [state.runs[run] for run in job_of(state, key, job).runs]
        else:
            numbered = ((0, run) for run in reversed(state.runs.values()))
            runs, _ = page(numbered, limit, lambda run: sees(key, run.tenant))
        return {
            "items": [
                {
                    "run": run,
                    "usage": state.usage.get(run.id),
                    "tokens": state.tokens.get(run.id, (0, 0, 0)),
                    "progress": here.grid.live.progress.get(run.id, {}),
                }
                for run in runs
            ]
        }

    return Json(here.grid.read(view))


def job_of(state: State, key: Key, job: str) -> Job:
    """Raises: Refused `unknown_job`, for a job of another tenant too."""
    found = state.jobs.get(job)
    if found is None or not sees(key, found.tenant):
        raise unknown("job", job, "suan jobs")
    return found


def _view(here: Parts, state: State, job: Job) -> dict[str, Any]:
    reason = here.grid.reason(job.id) if job.phase == JobPhase.WAITING else None
    progress = here.grid.live.progress.get(job.runs[-1]) if job.runs else None
    return job_view(job, state.runs, reason=reason, progress=progress)


def _tasks(request: Request, body: bytes, now_s: int) -> TasksBody:
    """The tasks in a body of JSON or YAML.

    Raises: Refused, with the path of what is wrong.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json":
        return tasks_in(body)
    if kind not in _YAML:
        raise Refused(
            "bad_media_type",
            f"{kind[:80]} is not understood",
            hint="send application/json or text/yaml",
            status=415,
        )
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Refused("bad_yaml", f"the task file is not UTF-8: {error}", hint="save it as UTF-8") from error
    file = read_tasks(text, envs=_envs(request), now_s=now_s)
    if any(local.workdir or local.mounts for local in file.local):
        raise Refused(
            "local_files",
            "the task file names folders that lie on your machine",
            hint="suan run uploads them; over REST, put them first and name the artifacts",
        )
    return TasksBody(tasks=file.tasks, pipeline=request.query_params.get("pipeline") or file.name)


def _envs(request: Request) -> dict[str, str]:
    """Variables set over those in the file: a JSON object in `?envs=`."""
    text = request.query_params.get("envs", "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Refused("bad_value", "envs is not a JSON object of strings", hint='?envs={"NAME":"value"}')
    return found
