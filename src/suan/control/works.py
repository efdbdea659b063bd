"""What recipe tasks compute, and the facts that say what the performance model makes of it on the pools.

Knows where the shape of a task's model comes from: the arguments of the task that trained it, up the line of
inputs. Asks `estimate/`, which answers in tens of milliseconds and remembers. Decides nothing.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from suan.estimate.answers import estimated
from suan.estimate.recipes import work_of
from suan.grid.artifact import artifact_name
from suan.grid.error import Refused
from suan.grid.fact import WorkEstimated
from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator
from suan.grid.job import Job, Resources, Task
from suan.grid.site import Pool
from suan.grid.state import State
from suan.grid.work import Estimate, Estimates, Work, place_name
from suan.rules.admit import may_read
from suan.rules.estimates import merged
from suan.rules.scaling import allowed_nodes

_LONGEST_LINE = 32  # of models made from models
MODEL, CONFIG, TOKENIZER = "model", "config", "tokenizer"  # what recipes call these inputs

Source = Job | tuple[Sequence[Task], int]  # a job, or one of the tasks that are submitted together
Place = tuple[str, int, int]  # accelerator, devices a node, nodes
Named = tuple[str, Estimates | None]  # the name of a task's work, "" for none, and what is known of it


Read = Callable[[Callable[[State], list[tuple[Work, Place]]]], list[tuple[Work, Place]]]


def think_ahead(read: Read, tenant: str, tasks: Sequence[Task]) -> None:
    """Has the performance model answer what it will be asked when these tasks are quoted or submitted. Does
    not hold the grid up: `read` looks at the state, and only the caller waits for the answers.
    """

    def questions(state: State) -> list[tuple[Work, Place]]:
        works = [(_work(state, tenant, tasks, index), task) for index, task in enumerate(tasks)]
        pools = tuple(_pools(state))
        return [(work, place) for work, task in works if work is not None for place in _places(task, pools)]

    for work, place in read(questions):
        estimated(work, *place)


def estimates_of(state: State, tenant: str, tasks: Sequence[Task]) -> list[Named]:
    """What the performance model says of each task on every kind of node that it could take in the grid."""
    found: list[Named] = []
    pools = tuple(_pools(state))
    for index, task in enumerate(tasks):
        work = _work(state, tenant, tasks, index)
        if work is None:
            found.append(("", None))
            continue
        name = work_name(work)
        known = state.works.get(name)
        found.append((name, merged(known, work, _on(work, task, pools, known))))
    return found


def new_facts(state: State, found: Iterable[Named], now_s: int) -> list[WorkEstimated]:
    """The facts that make `found` known; none for what is known already."""
    facts: dict[str, WorkEstimated] = {}
    for name, said in found:
        known = state.works.get(name)
        if said is not None and (known is None or known.on != said.on):
            on = {place: one for place, one in said.on.items() if known is None or place not in known.on}
            before = facts[name].on if name in facts else {}
            facts[name] = WorkEstimated(at_s=now_s, name=name, work=said.work, on={**before, **on})
    return list(facts.values())


def of_new_pools(state: State, pools: Sequence[Pool], now_s: int) -> list[WorkEstimated]:
    """What is to be said of waiting jobs when a site has `pools` that it had not before."""
    if not pools:
        return []
    there = (*_pools(state), *pools)
    found: list[Named] = []
    seen: set[tuple[object, ...]] = set()
    for queue in state.queues.values():
        job = state.jobs[next(iter(queue))]  # all of one queue ask for the same nodes and have one work
        known = state.works.get(job.work)
        if (
            known is not None
            and (asked := (job.work, job.task.resources, allowed_nodes(job.task))) not in seen
        ):
            seen.add(asked)
            on = _on(known.work, job.task, there, known)
            found.append((job.work, merged(known, known.work, on)))
    return new_facts(state, found, now_s)


def work_name(work: Work) -> str:
    """The same for the same work, whoever asks."""
    return "w" + hashlib.blake2b(msgspec.json.encode(work), digest_size=8).hexdigest()


# ---------------------------------------------------------------- on what


def _pools(state: State) -> Iterator[Pool]:
    for site in state.sites.values():
        yield from site.pools.values()


def _on(work: Work, task: Task, pools: Iterable[Pool], known: Estimates | None) -> dict[str, Estimate]:
    """What is not known yet, by `place_name`."""
    found = {}
    for place in _places(task, pools):
        name = place_name(*place)
        if known is not None and name in known.on:
            continue
        said = estimated(work, *place)
        if said is not None:
            found[name] = said
    return found


def _places(task: Task, pools: Iterable[Pool]) -> Iterator[Place]:
    """The kinds of nodes that the task names, in the numbers that it may take of each."""
    most: dict[tuple[str, int], int] = {}
    for pool in pools:
        kind = accelerator(pool.accelerator).name
        for resources in task.resources:
            if _asks_for(resources, kind) and resources.devices <= pool.devices_per_node:
                key = (kind, resources.devices)
                most[key] = max(most.get(key, 0), pool.nodes)
    for (kind, devices), nodes in most.items():
        yield from ((kind, devices, count) for count in allowed_nodes(task) if count <= nodes)


def _asks_for(resources: Resources, kind: str) -> bool:
    """Whether it names the kind, or asks for cores and the kind is one of CPUs."""
    if resources.accelerator:
        return resources.accelerator == kind
    return accelerator(kind).device_class == CPU_DEVICE_CLASS


# ---------------------------------------------------------------- which work


def _work(state: State, tenant: str, tasks: Sequence[Task], index: int) -> Work | None:
    task = tasks[index]
    if not task.recipe:
        return None
    try:
        trained = _trained(state, tenant, (tasks, index))
        tokenizer = None if trained is None else _writer(state, tenant, trained, TOKENIZER)
        args = [None if source is None else _task(source).args for source in (trained, tokenizer)]
        return work_of(task.recipe, task.args, *args, read_bytes=_read_bytes(state, tenant, task))
    except (KeyError, TypeError, ValueError, Refused):  # what the recipe or `admit` will refuse
        return None


def _read_bytes(state: State, tenant: str, task: Task) -> int:
    """Bytes of the task's inputs; 0 where one of them is not there yet."""
    parts = [artifact_name(text) for text in task.inputs.values()]
    found = [state.artifact(part.kind, part.name, part.version) for part in parts]
    there = [artifact.bytes for artifact in found if artifact is not None and may_read(tenant, artifact)]
    return sum(there) if len(there) == len(parts) else 0


def _task(source: Source) -> Task:
    return source.task if isinstance(source, Job) else source[0][source[1]]


def _trained(state: State, tenant: str, source: Source) -> Source | None:
    """The pretrain task that a task's model comes from, itself included; None where that is not known."""
    found: Source | None = source
    for _ in range(_LONGEST_LINE):
        if found is None or CONFIG in _task(found).inputs:
            return None
        if _task(found).recipe == "pretrain" and MODEL not in _task(found).inputs:
            return found
        found = _writer(state, tenant, found, MODEL)
    return None


def _writer(state: State, tenant: str, source: Source, name: str) -> Source | None:
    """What writes, or wrote, the input of that name; None for what somebody put there.

    Raises: Refused `bad_artifact_name`.
    """
    if isinstance(source, Job):
        bound = source.inputs.get(name)
        if bound is None:
            return None
        written = state.artifacts.get(bound.artifact)
        return state.jobs.get(bound.from_job or (written.job if written is not None else ""))
    tasks, index = source
    if not (text := tasks[index].inputs.get(name)):
        return None
    parts = artifact_name(text)
    for earlier in range(index - 1, -1, -1):
        if not parts.version and parts.series in tasks[earlier].outputs.values():
            return tasks, earlier
    artifact = state.artifact(parts.kind, parts.name, parts.version)
    if artifact is not None and may_read(tenant, artifact):
        return state.jobs.get(artifact.job)
    writers = (state.jobs[job] for job in state.writers.get(parts.series, {}))
    return next((job for job in writers if job.tenant == tenant), None)
