"""Verbs that send a task file: run, quote.

Knows how a file becomes Tasks whose folders are uploaded, and how jobs are followed until they end. A file
that is wrong is refused before anything is sent. Ctrl-C leaves the jobs alone.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suan.doors.cli.session import Session, grid_verb, print_json
from suan.grid.error import Refused

if TYPE_CHECKING:
    from suan.doors.taskfile import TaskFile
    from suan.grid.job import Task

Json = dict[str, Any]


def _env_option(function: Any) -> Any:
    return click.option(
        "--env",
        "env",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set over `envs:`; NAME alone passes yours on.",
    )(function)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_env_option
@click.option("-d", "--detach", is_flag=True, help="Return once it is submitted.")
@click.option("--site", default="", metavar="SITE", help="Where uploaded folders are to be kept.")
@click.option(
    "--once", "idempotency_key", default="", metavar="KEY", help="The same KEY again submits nothing new."
)
@grid_verb
def run(
    session: Session, file: Path, *, env: tuple[str, ...], detach: bool, site: str, idempotency_key: str
) -> int | None:
    """Submit a task file and follow it to its end: bids, progress, output.

    Ctrl-C only stops following; the jobs go on.
    """
    from suan.doors.cli.follow import Follower

    read = read_file(file, env)
    tasks = list(uploaded(session, read, file.parent, site))
    pipeline = read.name or (file.stem if len(tasks) > 1 else "")
    jobs = session.client.submit(tasks, pipeline=pipeline, idempotency_key=idempotency_key)
    names = [job["id"] for job in jobs]
    session.note(f"submitted {', '.join(names)}")
    for task in tasks:
        for note in task.notes:
            session.note(f"note: {task.name}: {note}")
    if detach:
        session.answer({"jobs": jobs}, lambda: print(f"next: suan logs -f {names[0]} · suan jobs"))
        return None
    try:
        ended = Follower(session, names).follow()
    except KeyboardInterrupt:
        several = f"--pipeline {pipeline}" if pipeline else " ".join(names)
        session.note(f"\nno longer following; {', '.join(names)} goes on. Look: suan logs -f {names[-1]}")
        session.note(f"stop it: suan stop {several}")
        if session.as_json:
            print_json({"jobs": [session.client.job(name) for name in names], "detached": True})
        return 130
    if session.as_json:
        print_json({"jobs": ended})
    return 0 if all(job["phase"] in ("succeeded", "placed") for job in ended) else 1


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_env_option
@grid_verb
def quote(session: Session, file: Path, env: tuple[str, ...]) -> None:
    """What a task file would cost at every pool that could run it. Nothing is stored or uploaded."""
    read = read_file(file, env)
    quotes = session.client.quote(list(read.tasks), pipeline=read.name)

    def say() -> None:
        from suan.doors.cli import render
        from suan.doors.cli.bids import considered_text

        for quoted in quotes:
            print(render.paint(_task_name(quoted["task"]), render.BOLD))
            print(considered_text(quoted["considered"]))
            for note in quoted.get("notes") or ():
                print(f"note: {render.clean(note)}")
            print()

    session.answer({"quotes": quotes}, say)


def _task_name(task: Any) -> str:
    return str(task["name"] if isinstance(task, dict) else task)


def read_file(file: Path, env: tuple[str, ...]) -> "TaskFile":
    """The file's tasks.

    Raises: Refused `no_such_file`, `bad_env`, and what a task file can have wrong.
    """
    import os

    from suan.doors.taskfile import read_tasks

    envs = {}
    for pair in env:
        name, equals, value = pair.partition("=")
        if not name or (not equals and name not in os.environ):
            raise Refused("bad_env", f"--env {pair!r} sets nothing", hint="write --env NAME=VALUE")
        envs[name] = value if equals else os.environ[name]
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError as error:
        raise Refused("no_such_file", f"there is no file {file}", hint="check the path: ls") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("no_such_file", f"{file} cannot be read: {error}", hint="give a text file") from error
    return read_tasks(text, source=file.name, envs=envs, now_s=int(time.time()))


def uploaded(session: Session, read: "TaskFile", folder: Path, site: str) -> Iterator["Task"]:
    """The tasks, with every local folder they name put into the grid and made an input.

    Raises: Refused `missing_file` before the first upload when something that is named is not there.
    """
    from msgspec.structs import replace

    plans = []
    for task, local in zip(read.tasks, read.local, strict=True):
        sources = {f"mount-{n}": source for n, source in enumerate(local.mounts.values(), 1)}
        if local.workdir:
            sources["workdir"] = local.workdir
        paths = {name: _existing(folder, source, task.name) for name, source in sources.items()}
        plans.append((task, local, paths))
    done: dict[Path, str] = {}
    for task, local, paths in plans:
        inputs = dict(task.inputs)
        for name, path in paths.items():
            if path not in done:
                done[path] = _put(session, path, site)
            inputs[name] = done[path]
        mounts = {where: f"mount-{n}" for n, where in enumerate(local.mounts, 1)}
        yield replace(task, inputs=inputs, file_mounts={**task.file_mounts, **mounts})


def _existing(folder: Path, source: str, task: str) -> Path:
    path = (folder / Path(source).expanduser()).resolve()
    if not path.exists():
        raise Refused("missing_file", f"{task} names {source}, which is not there", hint=f"looked for {path}")
    return path


def _put(session: Session, path: Path, site: str) -> str:
    """The artifact that a local folder became. Its name is made of its path: the same folder again is a new version."""
    from suan.doors.cli.data import Meter

    meter = Meter(session, f"uploading {path.name}")
    letters = "".join(
        letter if letter.isascii() and letter.isalnum() else "-" for letter in path.name.lower()
    )
    mark = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    name = f"folder:{letters.strip('-')[:60] or 'folder'}-{mark}"
    artifact = session.client.put(path, name, site, progress=meter)
    meter.end()
    return str(artifact["id"])
