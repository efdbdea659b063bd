"""A launch order becomes a launch: artifacts as folders, every folder made, every variable set.

Knows the run environment and where a site keeps what belongs to a run. Does not know which runs there are,
and starts nothing. Below the agent's folder:

    runs/RUN/work        the working folder: a writable copy of `workdir`, mounts linked into it
    runs/RUN/outputs/N   $SUAN_OUTPUT_N, empty at the start
    runs/RUN/links/N     one link an artifact that the run reads: what is linked is not cleared away
    checkpoints/JOB      $SUAN_CHECKPOINT, kept across the runs of a job
    cache/DIGEST         an artifact as a read-only folder, shared by all runs
"""

import fcntl
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from suan.grid.action import LaunchOrder
from suan.grid.error import Refused, SiteTrouble
from suan.ports import LaunchSpec, Store, spec_of

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_RESERVED = frozenset(
    f"SUAN_{name}"
    for name in (
        "JOB_ID",
        "RUN_ID",
        "TENANT",
        "SITE",
        "POOL",
        "CHECKPOINT",
        "PROGRESS",
        "METRICS",
        "ARGS",
        "PORT",
        "PYTHON",
        "NODE_RANK",
        "NUM_NODES",
        "DEVICES_PER_NODE",
        "RUN_FOLDER",
        "GRID",
    )
)
_RESERVED_PREFIXES = ("SUAN_INPUT_", "SUAN_OUTPUT_")


class RunNotes(msgspec.Struct, frozen=True, kw_only=True):
    """What of an order is needed until its end is recorded. No secrets."""

    run: str
    job: str
    pool: str = ""
    nodes: int = 1
    devices_per_node: int = 1
    outputs: tuple[str, ...] = ()
    service: bool = False


class RunFolder:
    """Where one run's files are. Raises: SiteTrouble `bad_order` for an id that cannot be a file's name."""

    def __init__(self, root: Path, run: str) -> None:
        self.path = root / "runs" / checked_id(run)
        self.work = self.path / "work"
        self.outputs = self.path / "outputs"
        self.links = self.path / "links"
        self.progress = self.path / "progress.jsonl"
        self.metrics = self.path / "metrics.json"
        self._notes = self.path / "notes.json"

    def output(self, name: str) -> Path:
        return self.outputs / variable_name(name)

    def write_notes(self, notes: RunNotes) -> None:
        write_whole(self._notes, msgspec.json.encode(notes))

    def notes(self) -> RunNotes | None:
        """What was written before the launch; None when this is no run that was staged here."""
        try:
            return msgspec.json.decode(self._notes.read_bytes(), type=RunNotes)
        except (OSError, msgspec.DecodeError):
            return None


class Checkouts:
    """Artifacts as read-only folders, each unpacked once and shared. Safe for threads of one process."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def folder(self, digest: str) -> Path:
        """Where the artifact lies, complete; a use keeps it from being cleared for a while.

        Raises: SiteTrouble `missing`, `corrupt`, `store_failed` or `bad_order`.
        """
        path = self._folder / checked_id(digest)
        with self._lock:
            lock = self._locks.setdefault(digest, threading.Lock())
        with lock:
            try:
                os.utime(path)
            except FileNotFoundError:
                self._store.checkout(digest, path)
                os.utime(path)
        return path

    def clear(self, in_use: frozenset[str], unused_for_s: float) -> None:
        """Removes folders that `in_use` does not name and that nobody has asked for during that time."""
        for path in self._folder.iterdir():
            if path.name.startswith(".") or path.name in in_use:
                continue
            with self._lock:
                lock = self._locks.setdefault(path.name, threading.Lock())
            with lock:
                if time.time() - path.stat().st_mtime > unused_for_s:
                    gone = path.with_name(f".{path.name}.gone")
                    path.rename(gone)  # at once: a half removed folder must not look like an artifact
                    shutil.rmtree(gone, ignore_errors=True)


class Stager:
    """Stages the runs of one site. Several threads may use it, one a run."""

    def __init__(self, site: str, folder: Path, store: Store) -> None:
        self._site = site
        self._root = folder
        self._store = store
        self.checkouts = Checkouts(store, folder / "cache")

    def stage(self, order: LaunchOrder, go_on: Callable[[], bool]) -> LaunchSpec | None:
        """The order, ready to launch; None as soon as `go_on` says no. Staged again, a run begins anew.

        Raises: SiteTrouble (`missing`, `corrupt`, `store_failed`, `bad_order`) or OSError.
        """
        folder = RunFolder(self._root, order.run)
        checkpoint = self._root / "checkpoints" / checked_id(order.job)
        shutil.rmtree(folder.path, ignore_errors=True)
        for path in (folder.outputs, folder.links, checkpoint):
            path.mkdir(parents=True, exist_ok=True)
        folder.write_notes(_notes(order))
        os.utime(checkpoint)
        if order.workdir:
            if not go_on():
                return None
            self._store.checkout(order.workdir, folder.work)
            _make_writable(folder.work)
        folder.work.mkdir(exist_ok=True)
        inputs: dict[str, Path] = {}
        for name, digest in order.inputs.items():
            if not go_on():
                return None
            inputs[name] = self._linked(folder, digest)
        for mount, digest in order.mounts.items():
            if not go_on():
                return None
            _mount(folder.work, mount, self._linked(folder, digest))
        for name in order.outputs:
            folder.output(name).mkdir()
        folder.progress.touch()
        env = self._environment(order, folder, checkpoint, inputs)
        return spec_of(order, folder.work, env)

    def _linked(self, folder: RunFolder, digest: str) -> Path:
        # Linked before it is made sure of: what a link names is not cleared away.
        link = folder.links / checked_id(digest)
        if not link.is_symlink():
            link.symlink_to(self._root / "cache" / digest)
        return self.checkouts.folder(digest)

    def _environment(
        self, order: LaunchOrder, folder: RunFolder, checkpoint: Path, inputs: dict[str, Path]
    ) -> dict[str, str]:
        given = {**order.env, **order.secrets}
        env = {name: value for name, value in given.items() if not is_reserved(name)}
        env |= {
            "SUAN_JOB_ID": order.job,
            "SUAN_RUN_ID": order.run,
            "SUAN_TENANT": order.tenant,
            "SUAN_SITE": self._site,
            "SUAN_POOL": order.pool,
            "SUAN_CHECKPOINT": str(checkpoint),
            "SUAN_PROGRESS": str(folder.progress),
            "SUAN_METRICS": str(folder.metrics),
            "SUAN_ARGS": order.args_json or "{}",
            "SUAN_PYTHON": sys.executable,
        }
        env |= {f"SUAN_INPUT_{variable_name(name)}": str(path) for name, path in inputs.items()}
        env |= {f"SUAN_OUTPUT_{variable_name(name)}": str(folder.output(name)) for name in order.outputs}
        return env


def variable_name(name: str) -> str:
    """An input's or output's name as its variable ends: upper case, everything but letters and digits `_`."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def is_reserved(name: str) -> bool:
    """Whether the run environment sets this variable itself; a task cannot."""
    return name in _RESERVED or name.startswith(_RESERVED_PREFIXES)


def checked_id(text: str) -> str:
    """The id, which names a folder.

    Raises: SiteTrouble `bad_order`.
    """
    if not _ID.fullmatch(text) or ".." in text:
        raise SiteTrouble("bad_order", f"{text[:80]!r} cannot name a folder")
    return text


def only_agent(folder: Path) -> BinaryIO:
    """A lock that lasts until it is closed or this process ends.

    Raises: Refused `agent_running`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / "agent.lock", "ab")  # noqa: SIM115 (kept open)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise Refused(
            "agent_running", f"another agent uses {folder}", hint="end it first, or name another folder"
        ) from error
    return file


def write_whole(path: Path, data: bytes) -> None:
    """Replaces the file in one step, on stable storage when this returns."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _notes(order: LaunchOrder) -> RunNotes:
    return RunNotes(
        run=order.run,
        job=order.job,
        pool=order.pool,
        nodes=order.nodes,
        devices_per_node=order.devices_per_node,
        outputs=order.outputs,
        service=order.service,
    )


def _mount(work: Path, path: str, source: Path) -> None:
    """Links `source` into the working folder. `/data` and `~/data` are `data` there: runs own nothing else.

    Raises: SiteTrouble `bad_order` for paths that leave it or are taken.
    """
    parts = PurePosixPath(path.removeprefix("~")).parts
    inside = [part for part in parts if part not in ("/", ".")]
    if not inside or ".." in inside:
        raise SiteTrouble("bad_order", f"{path!r} cannot be mounted", hint="name a folder below the task's")
    target = work.joinpath(*inside)
    if target.exists() or target.is_symlink():
        raise SiteTrouble("bad_order", f"{path!r} cannot be mounted: workdir has it", hint="rename one")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source)


def _make_writable(folder: Path) -> None:
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path, name)
            file.chmod(file.stat().st_mode | 0o200)
