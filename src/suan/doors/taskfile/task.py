"""One document as one Task: every key of SkyPilot's and ours, the recipe's defaults underneath.

Knows what each key means. Does not read files, submit anything or know any recipe.
"""

import re
from collections.abc import Mapping as Values
from typing import Any

import msgspec

from suan.doors.taskfile.document import Mapping, Scalar, Sequence, Spot, plain
from suan.doors.taskfile.keys import Keys, as_text, as_whole, at, first_of, kind, positive, refuse
from suan.doors.taskfile.mounts import Local, read_file_mounts, read_volumes, read_workdir
from suan.doors.taskfile.resources import read_resources
from suan.doors.taskfile.service import read_replicas
from suan.doors.taskfile.terms import deadline_s, length_s, max_cost_microyuan, node_range
from suan.grid.artifact import artifact_name
from suan.grid.job import Checkpoint, Elastic, Place, Priority, Task

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_TASK_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-]{1,2}[A-Za-z0-9]+)*")
_DATA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
MAX_NAME_CHARACTERS = 100
MAX_NODES = 100_000

_SET_ASIDE = {
    "event_callback": "follow jobs with suan logs -f, or the events of the REST API",
    "config": "it configures SkyPilot's clouds",
    "experimental": "it configures SkyPilot itself",
    "file_mounts_mapping": "it is SkyPilot's own bookkeeping",
    "api_server_access": "a run gets no key to the grid",
    "_metadata": "it is SkyPilot's own bookkeeping",
    "_user_specified_yaml": "it is SkyPilot's own bookkeeping",
    "_policy_mutated_config": "it is SkyPilot's own bookkeeping",
}


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What is known besides the document: a name for a task without one, variables from outside, the time."""

    default_name: str
    envs: Values[str, str]
    now_s: int | None = None


def read_task(spot: Spot, given: Given) -> tuple[Task, Local]:
    """The task that one document describes.

    Raises: Refused with the path, line and column of what is wrong.
    """
    notes: list[str] = []
    keys = Keys(spot, "", notes)
    fields: dict[str, Any] = {}
    base = _recipe(keys)
    if "name" in keys:
        fields["name"] = _name(keys)
    keys.take("name")
    fields |= _environment(keys, given.envs)
    fields |= _programme(keys)
    fields |= _nodes(keys, notes)
    workdir = read_workdir(keys, fields["envs"])
    artifacts, local_mounts = read_file_mounts(keys, fields["envs"])
    read_volumes(keys)
    fields["inputs"] = _data(keys, "inputs", known=base.inputs if base is not None else None)
    fields["outputs"] = _data(keys, "outputs")
    fields |= _terms(keys, given.now_s)
    replicas, port = read_replicas(keys)
    if replicas is not None:
        fields["replicas"] = replicas
    for name, why in _SET_ASIDE.items():
        keys.set_aside(name, why)
    keys.close()
    merged = _over(base, given.default_name, fields, artifacts)
    if port is not None and not any(port in choice.ports for choice in merged.resources):
        choices = tuple(msgspec.structs.replace(one, ports=(*one.ports, port)) for one in merged.resources)
        merged = msgspec.structs.replace(merged, resources=choices)
    if not merged.run and not merged.recipe:
        notes.append("there is no run: the job ends as soon as its setup has")
    merged = msgspec.structs.replace(merged, notes=(*merged.notes, *notes, *_not_yet(merged)))
    return merged, Local(workdir=workdir, mounts=local_mounts)


def _not_yet(task: Task) -> list[str]:
    """A note for each key that is kept and that nothing in the grid acts upon yet."""
    notes = []
    if task.elastic is not None:
        notes.append(f"elastic: runs on {task.num_nodes} nodes throughout; it does not grow or shrink yet")
    if task.replicas is not None and (task.replicas.min, task.replicas.max) != (1, 1):
        notes.append("replicas: one runs; their number does not follow the demand yet")
    if any(choice.use_spot for choice in task.resources):
        notes.append("resources.use_spot: sites do not sell spot nodes apart yet")
    if any(choice.disk_gib for choice in task.resources):
        notes.append("resources.disk_size: sites do not tell the size of their disks yet; it is not checked")
    return notes


def _recipe(keys: Keys) -> Task | None:
    """What the recipe writes from its arguments, None without a recipe."""
    stage_spot, with_spot = keys.take("recipe"), keys.take("with")
    if stage_spot is None:
        if with_spot is not None:
            refuse(
                keys.spot.key_spots["with"],
                "with",
                "conflicting_keys",
                "has no recipe: beside it",
                "add recipe: sft",
            )
        return None
    if "run" in keys:
        refuse(
            keys.spot.key_spots["run"],
            "run",
            "conflicting_keys",
            "cannot stand beside recipe:",
            "keep one of them",
        )
    if with_spot is not None and not isinstance(with_spot, Mapping):
        refuse(
            with_spot,
            "with",
            "bad_type",
            f"must be keys and values, not {kind(with_spot)}",
            "write KEY: VALUE",
        )
    from suan.recipes import recipe_task  # the only place that needs the stages' arguments

    stage = as_text(stage_spot, "recipe")[:100]
    with at(with_spot or stage_spot, "with" if with_spot else "recipe"):
        return recipe_task(stage, plain(with_spot) if with_spot else {})


def _over(base: Task | None, default_name: str, fields: dict[str, Any], artifacts: dict[str, str]) -> Task:
    """The file's keys over the recipe's task; maps are merged name by name, without inputs left out."""
    if base is None:
        return Task(**{"name": default_name, **fields, "file_mounts": artifacts})
    maps = {
        name: {**getattr(base, name), **fields.pop(name)} for name in ("envs", "secrets", "inputs", "outputs")
    }
    maps["inputs"] = {name: artifact for name, artifact in maps["inputs"].items() if artifact}
    return msgspec.structs.replace(base, **fields, **maps, file_mounts={**base.file_mounts, **artifacts})


def _name(keys: Keys) -> str:
    spot = keys.take("name")
    name = keys.text("name")
    if spot is not None and (len(name) > MAX_NAME_CHARACTERS or not _TASK_NAME.fullmatch(name)):
        what = f"{name[:60]!r} cannot name a task"
        refuse(
            spot,
            "name",
            "bad_value",
            what,
            "use letters, digits and single . _ -, at most 100, no other ends",
        )
    return name


def _environment(keys: Keys, outside: Values[str, str]) -> dict[str, Any]:
    """`envs` and `secrets`, values from outside over those in the file."""
    secrets = _variables(keys, "secrets", outside) | _managed_secrets(keys, outside)
    envs = _variables(keys, "envs", outside)
    envs |= {name: value for name, value in outside.items() if name not in secrets}
    return {"envs": envs, "secrets": secrets}


def _variables(keys: Keys, block: str, outside: Values[str, str]) -> dict[str, str]:
    spot = keys.take(block)
    if spot is None:
        return {}
    if block == "secrets" and isinstance(spot, Sequence):
        pairs: list[tuple[str, Spot, Spot | None]] = [
            (as_text(item, block), item, None) for item in spot.items
        ]
    else:
        inner = Keys(spot, block, keys.notes)
        pairs = [(name, inner.spot.key_spots[name], value) for name, value in inner.spot.items.items()]
    found: dict[str, str] = {}
    for written, where, value in pairs:
        name = written.removeprefix("secrets:") if block == "secrets" else written
        if not _ENV_NAME.fullmatch(name):
            what = f"{name[:60]!r} cannot name a variable"
            refuse(where, block, "bad_key", what, "use letters, digits and _, beginning with no digit")
        found[name] = _variable(name, where, value, block, outside)
    return found


def _variable(name: str, where: Spot, value: Spot | None, block: str, outside: Values[str, str]) -> str:
    path = f"{block}.{name}"
    if name in outside:
        return outside[name]
    if value is None or (isinstance(value, Scalar) and value.value is None):
        hint = f'give it: --env {name} passes yours on, or write {name}: "" for an empty one'
        refuse(where, path, "missing_env", f"{name} has no value", hint)
    if isinstance(value, Scalar) and isinstance(value.value, bool):
        return str(value.value)  # as SkyPilot: True, False
    return as_text(value, path)


def _managed_secrets(keys: Keys, outside: Values[str, str]) -> dict[str, str]:
    """SkyPilot's managed secrets by name; the grid keeps none, so their values must come from outside."""
    spot = keys.take("managed_secrets")
    if spot is None:
        return {}
    if not isinstance(spot, Sequence):
        refuse(spot, "managed_secrets", "bad_type", f"must be a list, not {kind(spot)}", "write - NAME")
    found: dict[str, str] = {}
    for item in spot.items:
        names = list(item.items) if isinstance(item, Mapping) else [as_text(item, "managed_secrets")]
        for name in names:
            found[name] = _variable(name, item, None, "managed_secrets", outside)
    return found


def _programme(keys: Keys) -> dict[str, Any]:
    return {name: keys.text(name) for name in ("run", "setup") if keys.take(name) is not None}


def _nodes(keys: Keys, notes: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    spot = keys.take("num_nodes")
    if spot is not None:
        fields["num_nodes"] = as_whole(spot, "num_nodes", least=1)
        if fields["num_nodes"] > MAX_NODES:
            refuse(spot, "num_nodes", "bad_value", "is more than any grid has", f"write at most {MAX_NODES}")
    resources = keys.take("resources")
    if resources is not None:
        wanted = read_resources(resources, notes)
        fields |= {"resources": wanted.resources, "resources_ordered": wanted.ordered}
        if wanted.max_restarts is not None:
            fields["max_restarts"] = wanted.max_restarts
    elastic = keys.inner("elastic")
    if elastic is not None:
        low, high = elastic.parsed("nodes", node_range) or (1, 1)
        speed = _speed(elastic)
        elastic.close()
        fields["elastic"] = Elastic(min_nodes=low, max_nodes=high, speed=speed)
        if not low <= fields.setdefault("num_nodes", high) <= high:
            what = f"{fields['num_nodes']} is not within elastic.nodes {low}-{high}"
            refuse(spot or elastic.spot, "num_nodes", "bad_value", what, "widen the range")
    return fields


def _speed(elastic: Keys) -> dict[int, float]:
    """nodes -> how fast, as somebody measured it; steps or tokens a second, any unit."""
    inner = elastic.inner("speed")
    found: dict[int, float] = {}
    if inner is None:
        return found
    for name, where in inner.spot.key_spots.items():
        path = inner.at(name[:20])
        if not name.isdecimal() or not 1 <= int(name[:7]) <= MAX_NODES:
            refuse(where, path, "bad_key", "is not a number of nodes", "write {1: 10.5, 4: 38}: nodes: speed")
        found[int(name)] = inner.parsed(name, positive)
    if not all(found.values()):
        refuse(inner.spot, inner.path, "bad_value", "names no speed for some nodes", "write {1: 10.5, 4: 38}")
    return found


def _data(keys: Keys, block: str, *, known: Values[str, str] | None = None) -> dict[str, str]:
    """name -> artifact, "" for null, which leaves out one of the `known` that a recipe would read.

    SkyPilot's `{uri: gigabytes}` is told apart by its number and becomes a note.
    """
    inner = keys.inner(block)
    found: dict[str, str] = {}
    if inner is None:
        return found
    variables: dict[str, str] = {}
    for name, spot in inner.spot.items.items():
        path = f"{block}.{name[:100]}"
        where = inner.spot.key_spots[name]
        if (
            isinstance(spot, Scalar)
            and isinstance(spot.value, int | float)
            and not isinstance(spot.value, bool)
        ):
            keys.notes.append(
                f"{path} is set aside: it is SkyPilot's estimate of a size; artifacts know theirs"
            )
            continue
        if not _DATA_NAME.fullmatch(name):
            refuse(where, path, "bad_key", f"cannot name one of the {block}", "write corpus: dataset:NAME")
        variable = re.sub(r"[^A-Z0-9]", "_", name.upper())
        if variable in variables:
            what = f"would share $SUAN_{block[:-1].upper()}_{variable} with {variables[variable]}"
            refuse(where, path, "duplicate_key", what, "rename one")
        variables[variable] = name
        if known and isinstance(spot, Scalar) and spot.value is None:
            if name not in known:
                refuse(where, path, "bad_value", "is no input of the recipe", f"it reads {', '.join(known)}")
            found[name] = ""
            continue
        with at(spot, path):
            found[name] = str(artifact_name(as_text(spot, path)))
    return found


def _terms(keys: Keys, now_s: int | None) -> dict[str, Any]:
    """Priority, deadline, money, lengths of time, checkpoint, place."""
    fields: dict[str, Any] = {
        "deadline_s": keys.parsed("deadline", lambda text: deadline_s(text, now_s)),
        "max_cost_microyuan": keys.parsed("max_cost", max_cost_microyuan),
        "duration_s": keys.parsed("duration", length_s),
        "max_duration_s": keys.parsed("max_duration", length_s),
        "max_restarts": keys.whole("max_restarts", None),
    }
    priority = keys.take("priority")
    if priority is not None:
        name = as_text(priority, "priority")
        if name not in set(Priority):
            what = f"{name[:60]!r} is not a priority"
            refuse(priority, "priority", "bad_value", what, "write online, standard or valley")
        fields["priority"] = Priority(name)
    checkpoint = keys.inner("checkpoint")
    if checkpoint is not None:
        folder, every_s = checkpoint.text("dir", "$SUAN_CHECKPOINT"), checkpoint.parsed("every", length_s)
        checkpoint.close()
        fields["checkpoint"] = Checkpoint(dir=folder, every_s=every_s or 600)
    chosen = keys.inner("place")
    if chosen is not None:
        first_of(chosen, ("not", "not_sites"))
        unwanted = chosen.texts("not") + chosen.texts("not_sites")
        fields["place"] = Place(
            sites=chosen.texts("sites"), regions=chosen.texts("regions"), not_sites=unwanted
        )
        chosen.close()
    return {name: value for name, value in fields.items() if value is not None}
