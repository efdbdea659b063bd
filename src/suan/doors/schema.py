"""What goes in and out over REST: bodies that are checked, and views of the nouns that may be shown.

Knows which fields are secret. Small bodies are pydantic models, the grid's own nouns are msgspec structs.
"""

import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from suan.grid.account import Budget, Key, Role
from suan.grid.error import Refused
from suan.grid.job import Checkpoint, Considered, Elastic, Job, Place, Reason, Replicas, Resources, Run, Task
from suan.rules.accuracy import Accuracy
from suan.rules.explain import Explanation

MASK = "***"
MAX_TASKS = 10_000

_NESTED: dict[str, type] = {
    "resources": Resources,
    "checkpoint": Checkpoint,
    "elastic": Elastic,
    "place": Place,
    "replicas": Replicas,
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JoinTokenBody(Body):
    site: str
    expires_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 3600


class JoinBody(Body):
    token: str
    site: str
    region: Annotated[str, Field(max_length=100)] = ""
    engine: Annotated[str, Field(max_length=40)] = "local"
    labels: Annotated[dict[str, str], Field(max_length=64)] = {}


class DrainBody(Body):
    draining: bool = True


class LinkBody(Body):
    source: str
    destination: str
    mbit_per_s: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
    rtt_ms: Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False)] = 0.0
    microyuan_per_gb: Annotated[int, Field(ge=0, le=10**15)] = 0


class KeyBody(Body):
    role: Role
    tenant: str = ""
    label: Annotated[str, Field(max_length=200)] = ""
    expires_s: Annotated[int, Field(ge=1, le=3650 * 86_400)] | None = None


class MissingBody(Body):
    chunks: Annotated[list[str], Field(max_length=20_000)]


class QuotaBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each table replaces the one before it; what is left out keeps its value."""

    nominal_devices: dict[str, int] | None = None
    borrow_devices: dict[str, int] | None = None
    lend_devices: dict[str, int] | None = None
    max_waiting_jobs: int | None = None


class TenantBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out keeps its value."""

    parent: str | None = None  # "" takes it out of the tree
    weight: float | None = None
    quota: QuotaBody | None = None
    budget: Budget | None = None
    waiting_microyuan_per_h: int | None = None


class TasksBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tasks: tuple[Task, ...]
    pipeline: str = ""


# ---------------------------------------------------------------- in


def tasks_in(body: bytes) -> TasksBody:
    """The tasks in a JSON body.

    Raises: Refused `unknown_key` with path and nearest key, `bad_value`, `too_many`; msgspec.DecodeError.
    """
    found = msgspec.json.decode(body)
    tasks = found.get("tasks") if isinstance(found, dict) else None
    if isinstance(tasks, list):
        if len(tasks) > MAX_TASKS:
            raise Refused(
                "too_many", f"{len(tasks)} tasks are too many at once", hint=f"send at most {MAX_TASKS}"
            )
        for index, task in enumerate(tasks):
            _check_keys(task, Task, f"tasks[{index}]")
    read = msgspec.convert(found, TasksBody)
    for index, task in enumerate(read.tasks):
        _check_task(task, f"tasks[{index}]")
    _check_label(read.pipeline, "pipeline")
    return read


def _check_keys(value: Any, kind: type, path: str) -> None:
    """A key that a struct does not have is a spelling mistake, not something to leave out."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_keys(item, kind, f"{path}[{index}]")
    elif isinstance(value, dict):
        known = kind.__struct_fields__  # type: ignore[attr-defined]
        for key, inner in value.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise Refused(
                    "unknown_key",
                    f"{path}.{key[:80]} is no key of a {kind.__name__.lower()}",
                    hint=f"did you mean {near[0]}?" if near else "see docs/reference/rest.md",
                    status=422,
                    path=f"{path}.{key[:80]}",
                )
            if kind is Task and key in _NESTED:
                _check_keys(inner, _NESTED[key], f"{path}.{key}")


def _check_task(task: Task, path: str) -> None:
    _check_label(task.name, f"{path}.name")
    if not task.name:
        raise Refused(
            "bad_value", f"{path}.name is empty", hint="name the task", status=422, path=f"{path}.name"
        )
    numbers = [n for r in task.resources for n in (r.cpus, r.memory_gib, r.disk_gib)]
    if not all(math.isfinite(number) for number in numbers):
        raise Refused("bad_value", f"{path}.resources: a number is not finite", status=422, path=path)


def _check_label(text: str, path: str) -> None:
    if len(text) > 200 or not text.isprintable():
        raise Refused(
            "bad_value",
            f"{path} is longer than 200 letters or not printable",
            hint="use a short name of printable letters",
            status=422,
            path=path,
        )


# ---------------------------------------------------------------- out


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    role: Role
    tenant: str
    site: str
    label: str
    one_time: bool
    expires_at_s: int | None


class RunBrief(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands in a listing of jobs."""

    id: str
    site: str
    pool: str
    phase: str
    devices: int
    accelerator: str
    placed_at_s: int
    expected_end_s: int
    started_at_s: int | None
    ended_at_s: int | None
    endpoint: str


def key_view(key: Key) -> KeyView:
    return KeyView(**{name: getattr(key, name) for name in KeyView.__struct_fields__})


def run_brief(run: Run) -> RunBrief:
    return RunBrief(**{name: getattr(run, name) for name in RunBrief.__struct_fields__})


def shown_task(task: Task) -> Task:
    """The task without the values of its secrets."""
    if not task.secrets:
        return task
    return msgspec.structs.replace(task, secrets=dict.fromkeys(task.secrets, MASK))


def job_view(
    job: Job,
    runs: Mapping[str, Run],
    *,
    reason: Reason | None = None,
    progress: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The job's fields with its runs spelt out; `considered` is left to `/why`."""
    view = msgspec.structs.asdict(job)
    del view["considered"]
    view["task"] = shown_task(job.task)
    view["runs"] = [run_brief(runs[run]) for run in job.runs]
    view["reason"] = reason
    view["progress"] = dict(progress or {})
    return view


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of `job_view`, for the schema."""

    id: str
    tenant: str
    task: Task
    submitted_at_s: int
    sequence: int
    pipeline: str
    inputs: dict[str, Any]
    phase: str
    runs: list[RunBrief]
    restarts: int
    refusals: int
    not_before_s: int
    stop_requested_at_s: int | None
    started_at_s: int | None
    ended_at_s: int | None
    outcome: str
    outputs: dict[str, str]
    metrics: dict[str, float]
    reason: Reason | None
    progress: dict[str, float | str]


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[JobView]
    next_cursor: str | None


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    jobs: list[JobView]


class Why(Explanation, frozen=True, kw_only=True):
    """Why a job is where it is."""

    job: str
    phase: str


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How well lengths were foretold, by group."""

    by: str
    items: list[Accuracy]


class TaskQuote(msgspec.Struct, frozen=True, kw_only=True):
    """Every bid there would be now. `notes`: what was assumed, and keys that were set aside."""

    task: Task
    considered: Considered
    notes: tuple[str, ...]


class Quotes(msgspec.Struct, frozen=True, kw_only=True):
    quotes: list[TaskQuote]
