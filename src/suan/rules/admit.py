"""May this tenant submit this? Validation against the grid, quota, and what each input stands for.

Gives facts or raises Refused; never anything in between. Whether it can start now is `decide`'s question.
"""

import difflib
import itertools
from collections.abc import Sequence

from suan.grid.artifact import Artifact, ArtifactName, artifact_name
from suan.grid.error import NotNow, Refused
from suan.grid.fact import JobSubmitted
from suan.grid.job import InputBinding, Reason, Task
from suan.grid.state import State
from suan.grid.work import Estimates
from suan.rules.estimates import unfit
from suan.rules.fit import fit

MAX_NODES = 100_000
MAX_TEXT_BYTES = 1 << 20
MAX_NEAR_NAMES = 1000

_Pipeline = tuple[
    tuple[str, ...], tuple[Task, ...], dict[str, tuple[int, str]]
]  # ids, tasks, who writes what


def admit(
    state: State,
    tenant: str,
    tasks: tuple[Task, ...],
    *,
    now_s: int,
    pipeline: str = "",
    idempotency_key: str = "",
    works: Sequence[tuple[str, Estimates | None]] = (),
) -> tuple[JobSubmitted, ...]:
    """One fact a task; job ids follow the journal's sequence. `works`: of each task the name of its work, and
    its estimates where the performance model knows it.

    Raises: Refused (`empty`, `unknown_artifact`, `cycle`, `two_writers`, `impossible`,
    `out_of_range`, `too_large` …), NotNow `queue_full`.
    """
    if not tasks:
        raise Refused("empty", "there is no task to submit", hint="see docs/reference/task.md")
    waiting = (
        sum(1 for job in state.waiting if state.jobs[job].tenant == tenant) if _limited(state, tenant) else 0
    )
    if waiting + len(tasks) > _limit(state, tenant):
        raise NotNow(
            "queue_full",
            f"tenant {tenant} has {waiting} waiting jobs, at most {_limit(state, tenant)} are allowed",
            hint="wait for some to start: suan jobs",
            status=429,
            retry_after_s=30,
        )
    ids = tuple(f"j{state.sequence + 1 + index}" for index in range(len(tasks)))
    outputs = _outputs(tasks)
    facts = []
    for index, task in enumerate(tasks):
        work, known = works[index] if works else ("", None)
        _check(task)
        _possible(state, task, known)
        facts.append(
            JobSubmitted(
                at_s=now_s,
                job=ids[index],
                tenant=tenant,
                task=task,
                pipeline=pipeline,
                inputs=_inputs(state, tenant, index, (ids, tasks, outputs)),
                idempotency_key=idempotency_key,
                work=work,
            )
        )
    return tuple(facts)


def _limit(state: State, tenant: str) -> int:
    return state.tenants[tenant].quota.max_waiting_jobs if tenant in state.tenants else 100_000


def _limited(state: State, tenant: str) -> bool:
    """Counting is only worth it when the queue could be full."""
    return len(state.waiting) + 100 >= _limit(state, tenant)


def _outputs(tasks: tuple[Task, ...]) -> dict[str, tuple[int, str]]:
    """kind:name -> (index of the task that writes it, its name for it)."""
    found: dict[str, tuple[int, str]] = {}
    for index, task in enumerate(tasks):
        for name, text in task.outputs.items():
            parts = artifact_name(text)
            if parts.version:
                raise Refused(
                    "bad_output",
                    f"{task.name} writes {text}",
                    hint=f"leave @{parts.version} out: versions count up",
                )
            if parts.series in found:
                raise Refused(
                    "two_writers",
                    f"{tasks[found[parts.series][0]].name} and {task.name} both write {parts.series}",
                    hint="give one of the outputs another name",
                )
            found[parts.series] = (index, name)
    return found


def _inputs(state: State, tenant: str, index: int, pipeline: _Pipeline) -> dict[str, InputBinding]:
    """What the task waits for: its inputs, artifacts that it mounts by name, tasks it comes after."""
    ids, tasks, _ = pipeline
    task = tasks[index]
    mounts = {f"mount:{path}": name for path, name in task.file_mounts.items() if name not in task.inputs}
    bound = {
        name: _bind(state, tenant, index, pipeline, text) for name, text in {**task.inputs, **mounts}.items()
    }
    return bound | {
        f"after:{name}": InputBinding(from_job=ids[_earlier(tasks, index, name)]) for name in task.after
    }


def _bind(state: State, tenant: str, index: int, pipeline: _Pipeline, text: str) -> InputBinding:
    """What an input stands for: an earlier task's output, else a version that exists, else what a job is
    writing.
    """
    ids, tasks, outputs = pipeline
    parts = artifact_name(text)
    if not parts.version and parts.series in outputs:
        writer, output = outputs[parts.series]
        if writer >= index:
            _refuse_cycle(tasks, writer, index, parts)
        return InputBinding(from_job=ids[writer], from_output=output)
    artifact = state.artifact(parts.kind, parts.name, parts.version)
    if artifact is not None and may_read(tenant, artifact):
        return InputBinding(artifact=artifact.id)
    for job_id, output in state.writers.get(parts.series, {}).items():
        if state.jobs[job_id].tenant == tenant and not parts.version:
            return InputBinding(from_job=job_id, from_output=output)
    near = difflib.get_close_matches(parts.series, [*_readable_names(state, tenant), *outputs], n=1)
    raise Refused(
        "unknown_artifact",
        f"{tasks[index].name} needs {text}, which does not exist and nothing writes",
        hint=f"did you mean {near[0]}?" if near else f"put it there first: suan put FOLDER {parts.series}",
    )


def may_read(tenant: str, artifact: Artifact) -> bool:
    """What a tenant may not read does not exist for it."""
    return artifact.tenant == tenant or bool({"*", tenant} & set(artifact.rights.readers))


def _readable_names(state: State, tenant: str) -> list[str]:
    """The newest names that the tenant may know of, not more than a spelling is worth looking through."""
    newest = itertools.islice(reversed(state.latest.items()), MAX_NEAR_NAMES)
    return [name for name, version in newest if may_read(tenant, state.artifacts[f"{name}@{version}"])]


def _earlier(tasks: tuple[Task, ...], index: int, name: str) -> int:
    """The nearest task of that name before this one."""
    for before in range(index - 1, -1, -1):
        if tasks[before].name == name:
            return before
    raise Refused(
        "cycle",
        f"{tasks[index].name} comes after {name}, which is no earlier task",
        hint="put it before this one",
    )


def _refuse_cycle(tasks: tuple[Task, ...], writer: int, reader: int, parts: ArtifactName) -> None:
    if writer == reader:
        what = f"{tasks[reader].name} needs {parts.series}, which it writes itself"
    else:
        what = f"{tasks[reader].name} needs {parts.series}, which the later task {tasks[writer].name} writes"
    raise Refused(
        "cycle", what, hint="put the writer first; a task cannot wait for itself or for a later one"
    )


def _check(task: Task) -> None:
    """What no grid could run."""
    if not task.run.strip() and not task.setup.strip():
        raise Refused(
            "nothing_to_run", f"{task.name} has neither run nor recipe", hint="add `run:` or `recipe:`"
        )
    numbers: dict[str, tuple[float | None, int, int | None]] = {
        "num_nodes": (task.num_nodes, 1, MAX_NODES),
        "deadline_s": (task.deadline_s, 1, None),
        "duration_s": (task.duration_s, 1, None),
        "max_duration_s": (task.max_duration_s, 1, None),
        "max_cost_microyuan": (task.max_cost_microyuan, 0, None),
        "max_restarts": (task.max_restarts, 0, 1000),
    }
    if task.elastic is not None:
        numbers |= {
            "elastic.min_nodes": (task.elastic.min_nodes, 1, task.num_nodes),
            "elastic.max_nodes": (task.elastic.max_nodes, task.num_nodes, MAX_NODES),
            "elastic.speed nodes": (min(task.elastic.speed, default=None), 1, None),
        }
        if not all(0 < speed < 1e12 for speed in task.elastic.speed.values()):
            raise Refused(
                "out_of_range", f"{task.name}: elastic.speed holds no speed", hint="make each above 0"
            )
    for resources in task.resources:
        numbers |= {
            "accelerators": (resources.accelerators, 1 if resources.accelerator else 0, 100_000),
            "cpus": (resources.cpus, 0, 100_000),
            "memory_gib": (resources.memory_gib, 0, 1_000_000),
        }
        for name, (value, low, high) in numbers.items():
            if value is not None and not (low <= value and (high is None or value <= high)):
                bound = f"at least {low}" if value < low else f"at most {high}"
                raise Refused("out_of_range", f"{task.name}: {name} is {value}", hint=f"make it {bound}")
    if not task.resources:
        raise Refused(
            "out_of_range", f"{task.name} names no resources", hint="leave `resources:` out for one CPU core"
        )
    if len(task.run) + len(task.setup) > MAX_TEXT_BYTES:
        raise Refused(
            "too_large", f"{task.name}: run and setup exceed 1 MiB", hint="put the script into workdir"
        )


def _possible(state: State, task: Task, known: Estimates | None) -> None:
    """Refuses what no pool of the grid as it is could ever run. An empty grid refuses nothing: sites may yet
    join.
    """
    misses: dict[str, Reason] = {}
    for site in state.sites.values():
        for pool in site.pools.values():
            found = unfit(known, task, pool) or fit(task, site, pool)
            if isinstance(found, int) or found.code in ("site_silent", "site_draining"):
                return
            misses[f"{site.name}/{pool.name}"] = found
    if misses:
        where, reason = min(
            misses.items(), key=lambda item: (item[1].code in ("accelerator", "place"), item[0])
        )
        raise Refused(
            "impossible",
            f"no pool of this grid can run {task.name}; nearest is {where}: {reason.text}",
            hint=reason.help or "see what there is: suan sites",
            reasons={name: miss.text for name, miss in misses.items()},
        )
