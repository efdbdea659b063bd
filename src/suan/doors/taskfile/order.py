"""Order between a SkyPilot pipeline's documents: each task starts when the one before has succeeded.

A file that names data of ours is ordered by that data alone.
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from suan.grid.job import Task


def in_file_order(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks, each after the one before, unless the file orders them by inputs and outputs."""
    if len(tasks) < 2 or any(task.inputs or task.outputs or task.recipe for task in tasks):
        return tuple(tasks)
    ordered = [tasks[0]]
    for before, task in pairwise(tasks):
        note = f"starts when {before.name} has succeeded, as in SkyPilot; inputs: and outputs: order by data"
        ordered.append(msgspec.structs.replace(task, after=(before.name,), notes=(*task.notes, note)))
    return tuple(ordered)
