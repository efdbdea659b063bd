"""Order between a SkyPilot pipeline's documents: each task starts when the one before has succeeded.

The grid orders jobs by data alone. A pipeline that names no data of ours gets an empty artifact from
each task to the next, so its order holds without a second mechanism.
"""

import re
from collections.abc import Sequence

import msgspec

from suan.grid.job import Task

OUTPUT = "finished"
INPUT = "after"


def in_file_order(tasks: Sequence[Task], pipeline: str) -> tuple[Task, ...]:
    """The tasks, each waiting for the one before, unless the file orders them by inputs and outputs."""
    if len(tasks) < 2 or any(task.inputs or task.outputs or task.recipe for task in tasks):
        return tuple(tasks)
    ordered: list[Task] = []
    for index, task in enumerate(tasks):
        changed = task
        if index > 0:
            before = tasks[index - 1]
            note = (
                f"starts when {before.name} has succeeded, as in SkyPilot; inputs: and outputs: order by data"
            )
            changed = msgspec.structs.replace(
                changed, inputs={INPUT: _token(pipeline, index, before)}, notes=(*task.notes, note)
            )
        if index + 1 < len(tasks):
            changed = msgspec.structs.replace(changed, outputs={OUTPUT: _token(pipeline, index + 1, task)})
        ordered.append(changed)
    return tuple(ordered)


def _token(pipeline: str, number: int, task: Task) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{pipeline[:40]}-{number}-{task.name[:40]}").strip("-")
    return f"report:{name}-finished"
