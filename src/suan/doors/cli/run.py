"""Verbs that send a task file: run, quote.

Knows how a file becomes Tasks whose folders are uploaded, and how jobs are followed until they end. A file
that is wrong is refused before anything is sent. Ctrl-C leaves the jobs alone.
"""

import hashlib
import posixpath
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
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
    """What a task file would cost at every pool that could run it. Nothing is stored or uploaded.

    Variables that are still to be given count as empty: no price depends on them.
    """
    read, empty = _read_to_quote(file, env)
    if empty:
        session.note(f"note: no value yet: {', '.join(empty)}; suan run needs --env NAME for each")
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


def _read_to_quote(file: Path, env: tuple[str, ...]) -> tuple["TaskFile", list[str]]:
    """The file's tasks, and the variables that it wants from outside and that nobody has given."""
    empty: list[str] = []
    while True:
        try:
            return read_file(file, (*(f"{name}=" for name in empty), *env)), empty
        except Refused as refused:
            name = str(refused.fields.get("path", "")).partition(".")[2]
            if refused.code != "missing_env" or name in empty:
                raise
            empty.append(name)


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
    """The tasks, every local folder that they name put into the grid; what is mounted becomes an input.

    Raises: Refused `missing_file` or `bad_mount` before the first upload.
    """
    from msgspec.structs import replace

    with TemporaryDirectory(prefix="suan-mounts-") as scratch:
        plans = []
        for number, (task, local) in enumerate(zip(read.tasks, read.local, strict=True)):
            here = {where: _existing(folder, source, task.name) for where, source in local.mounts.items()}
            mounts = _folders(here, Path(scratch) / str(number))
            workdir = _existing(folder, local.workdir, task.name) if local.workdir else None
            plans.append((task, mounts, workdir))
        done: dict[Path, str] = {}
        for task, mounts, workdir in plans:
            inputs, mounted = dict(task.inputs), {}
            sources: dict[str, str | Path] = {**task.file_mounts, **mounts}
            for number, (where, source) in enumerate(sources.items(), 1):
                mounted[where] = f"mount-{number}"
                inputs[mounted[where]] = _artifact(session, source, site, done)
            if workdir is not None:
                inputs["workdir"] = _artifact(session, workdir, site, done)
            yield replace(task, inputs=inputs, file_mounts=mounted)


def _artifact(session: Session, source: str | Path, site: str, done: dict[Path, str]) -> str:
    """The name of what is mounted: as it was given, or of the folder that is uploaded, once."""
    if isinstance(source, str):
        return source
    if source not in done:
        done[source] = _put(session, source, site)
    return done[source]


def _folders(here: dict[str, Path], scratch: Path) -> dict[str, Path]:
    """The same mounts with folders only: single files are gathered by the folder that they are to appear in.

    Raises: Refused `bad_mount` for a file that is to appear at the top, where the task's own folder is.
    """
    folders = {where: source for where, source in here.items() if source.is_dir()}
    for where, source in here.items():
        if source.is_dir():
            continue
        parent, name = posixpath.split(where)
        if not parent.strip("~/.") or (parent in folders and not folders[parent].is_relative_to(scratch)):
            raise Refused(
                "bad_mount",
                f"file_mounts: {where} cannot be placed",
                hint="give the file a folder of its own, or use workdir",
            )
        gathered = folders.setdefault(parent, scratch / str(len(folders)))
        gathered.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, gathered / name)
    return folders


def _existing(folder: Path, source: str, task: str) -> Path:
    path = (folder / Path(source).expanduser()).resolve()
    if not path.exists():
        raise Refused("missing_file", f"{task} names {source}, which is not there", hint=f"looked for {path}")
    return path


def _put(session: Session, path: Path, site: str) -> str:
    """The artifact that a local folder became, named by its path: the same folder again is a new version."""
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
