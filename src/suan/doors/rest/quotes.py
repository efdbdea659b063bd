"""What tasks would cost if it were their turn now. Inputs that do not exist yet count as here already."""

import dataclasses

from msgspec.structs import replace

from suan.control.works import estimates_of
from suan.doors.schema import TaskQuote, shown_task
from suan.grid.artifact import artifact_name
from suan.grid.error import SuanError
from suan.grid.job import InputBinding, Job, Task
from suan.grid.state import State
from suan.rules.admit import admit
from suan.rules.decide import considered
from suan.rules.policy import Policy

# A quote is still an answer when nothing fits, when the queue is full today, or with nothing to run yet.
_NO_OBSTACLE = frozenset({"impossible", "unknown_artifact", "queue_full", "nothing_to_run"})


def quotes_of(
    state: State, policy: Policy, tenant: str, tasks: tuple[Task, ...], now_s: int
) -> list[TaskQuote]:
    """One quote a task, in order.

    Raises: Refused for what could never be submitted.
    """
    works = estimates_of(state, tenant, tasks)
    known = {name: said for name, said in works if said is not None}
    state = dataclasses.replace(state, works={**state.works, **known})  # a copy: nothing is stored
    _check(state, tenant, tasks, now_s)
    return [
        _quote(state, policy, tenant, task, (name, now_s))
        for task, (name, _) in zip(tasks, works, strict=True)
    ]


def _quote(state: State, policy: Policy, tenant: str, task: Task, about: tuple[str, int]) -> TaskQuote:
    work, now_s = about
    inputs, notes = {}, list(task.notes)
    for name, text in task.inputs.items():
        parts = artifact_name(text)
        artifact = state.artifact(parts.kind, parts.name, parts.version)
        if artifact is None:
            notes.append(f"inputs.{name}: {text} does not exist yet; quoted as if it were at every site")
        else:
            inputs[name] = InputBinding(artifact=artifact.id)
    bare = {name: text for name, text in task.inputs.items() if name in inputs}
    _check(state, tenant, (replace(task, inputs=bare, after=()),), now_s)
    job = Job(
        id="quote",
        tenant=tenant,
        task=task,
        submitted_at_s=now_s,
        sequence=state.sequence + 1,
        inputs=inputs,
        work=work,
    )
    weighed = considered(state, policy, job, now_s)
    if work and any(bid.estimate is None for bid in weighed.bids):
        notes.append(
            "the performance model knows nothing of some pools: there the task's own duration stands"
        )
    elif task.recipe and not work:
        notes.append(
            f"recipe {task.recipe}: no estimate by the performance model; the task's own duration stands"
        )
    return TaskQuote(task=shown_task(task), considered=weighed, notes=tuple(notes))


def _check(state: State, tenant: str, tasks: tuple[Task, ...], now_s: int) -> None:
    try:
        admit(state, tenant, tasks, now_s=now_s)
    except SuanError as error:
        if error.code not in _NO_OBSTACLE:
            raise
