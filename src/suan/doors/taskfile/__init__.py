"""Task files: YAML with SkyPilot's keys and ours, read into Tasks. Pure: no file, no network, no clock.

Knows how a task is spelt. Does not know whether it may run (`rules/admit.py`) or how folders are uploaded.
Modules: `document` (YAML with places), `keys` (typed reading), `task` (one document), one a block.
"""

import posixpath
import re
from collections.abc import Mapping as Values

import msgspec

from suan.doors.taskfile.document import Mapping, Scalar, Spot, documents
from suan.doors.taskfile.keys import Keys, refuse
from suan.doors.taskfile.mounts import Local
from suan.doors.taskfile.order import in_file_order
from suan.doors.taskfile.task import MAX_NAME_CHARACTERS, Given, read_task
from suan.grid.error import Refused
from suan.grid.job import Task

__all__ = ["Local", "TaskFile", "read_tasks"]

MAX_TASKS = 500
_HEADER_KEYS = {"name", "execution", "primary_tasks", "termination_delay"}


class TaskFile(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks of one file and, task by task, what must be uploaded before they are submitted.

    Task.workdir is "" and Task.file_mounts holds artifacts only; the caller adds digests of `local`.
    """

    name: str  # of the pipeline, "" where the file does not name one
    tasks: tuple[Task, ...]
    local: tuple[Local, ...]  # as many as tasks


def read_tasks(
    text: str, *, source: str = "", envs: Values[str, str] | None = None, now_s: int | None = None
) -> TaskFile:
    """The tasks written in `text`: one, or a pipeline of documents parted by `---`.

    `source` is the file's name: it names tasks that have no name. `envs` are set over `envs:` and `secrets:`
    of every task. `now_s` is needed for deadlines that are dates.
    Raises: Refused, with `path`, `line` and `column` where one key is at fault: `bad_yaml`, `too_big`,
    `duplicate_key`, `empty_task_file`, `bad_key`, `bad_type`, `bad_value`, `conflicting_keys`, `missing_env`,
    `unknown_accelerator`, `bad_artifact_name`, `bad_duration`, `bad_deadline`, `bad_money`, a recipe's.
    """
    found = [spot for spot in documents(text) if not (isinstance(spot, Scalar) and spot.value is None)]
    if not found:
        raise Refused(
            "empty_task_file", "there is no task in the file", hint="write at least run: echo hello"
        )
    if len(found) > MAX_TASKS:
        raise Refused(
            "too_big", f"{len(found)} tasks are more than {MAX_TASKS} in one file", hint="split the file"
        )
    for spot in found:
        if isinstance(spot, Mapping) and not any(_has_value(value) for value in spot.items.values()):
            refuse(
                spot,
                "document",
                "empty_task_file",
                "has no keys with a value",
                "write at least run: echo hello",
            )
    name, parallel = "", False
    header = _header(found[0])
    if header is not None and len(found) > 1:
        name, parallel = header
        found = found[1:]
    stem = _stem(source)
    names = [stem if len(found) == 1 else f"{stem}-{number}" for number in range(1, len(found) + 1)]
    read = [
        read_task(spot, Given(default_name=default, envs=envs or {}, now_s=now_s))
        for spot, default in zip(found, names, strict=True)
    ]
    tasks = tuple(task for task, _ in read)
    if not parallel:
        tasks = in_file_order(tasks)
    return TaskFile(name=name, tasks=tasks, local=tuple(local for _, local in read))


def _header(spot: Spot) -> tuple[str, bool] | None:
    """(the pipeline's name, whether its tasks may run side by side) where a document is only a header."""
    if not isinstance(spot, Mapping) or "name" not in spot.items or not set(spot.items) <= _HEADER_KEYS:
        return None
    keys = Keys(spot, "", [])
    name = keys.text("name")
    execution = keys.text("execution", "serial")
    if execution not in ("serial", "parallel"):
        what = f"{execution[:40]!r} is no way to run a pipeline"
        refuse(spot.items["execution"], "execution", "bad_value", what, "write serial or parallel")
    return name, execution == "parallel"


def _has_value(spot: Spot) -> bool:
    return not (isinstance(spot, Scalar) and spot.value is None)


def _stem(source: str) -> str:
    """A task's name made from the file's: letters, digits and single dashes."""
    stem = posixpath.basename(source.replace("\\", "/")).removesuffix(".yaml").removesuffix(".yml")
    return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[: MAX_NAME_CHARACTERS - 8].strip("-") or "task"
