"""What a stage sees when it runs: its arguments, its folders, where to report, and when to stop.

Knows the environment contract between a site and a run (the `SUAN_*` variables) and the same things as
command-line options, so that every stage also runs alone. Does not know what any stage does.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from suan.grid.error import Refused, SuanError
from suan.grid.units import duration_text
from suan.recipes import recipe_args

A = TypeVar("A", bound=msgspec.Struct)

EXIT_STOPPED = (
    128 + signal.SIGTERM
)  # asked to stop before the work was done: never 0, or half a folder is an artifact


def command(stage: str) -> str:
    """Shell text that runs a stage with the Python that has its libraries."""
    return f'"${{SUAN_PYTHON:-python3}}" -m suan.recipes.{stage}'


def arguments(args: msgspec.Struct) -> dict[str, Any]:
    """A stage's arguments as JSON has them, so that a task is the same after the journal has read it back."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(args))
    return plain


class Progress:
    """Where a stage says how far it is: a JSON line for the site, a readable line for the log."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._started_s = time.monotonic()
        self._first_step: int | None = None

    def write(self, *, step: int | None = None, total: int | None = None, **numbers: float | str) -> None:
        """Appends one line.

        With `step` and `total` the seconds still to go are added, from this run's own pace.
        """
        line: dict[str, Any] = {}
        if step is not None and total is not None:
            line |= {"step": step, "total": total} | self._eta(step, total)
        line |= {
            key: round(value, 5) if isinstance(value, float) else value for key, value in numbers.items()
        }
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)

    def _eta(self, step: int, total: int) -> dict[str, float]:
        if self._first_step is None:  # a resumed run starts in the middle: its pace counts from there
            self._first_step, self._started_s = step, time.monotonic()
        done = step - self._first_step
        if not done:
            return {}
        return {"eta_s": round((time.monotonic() - self._started_s) / done * (total - step), 1)}


class Context(Generic[A]):
    """One run of one stage."""

    def __init__(self, stage: str, args: A, options: argparse.Namespace) -> None:
        env = os.environ
        self.stage = stage
        self.args = args
        self.inputs = _folders(env, "SUAN_INPUT_", options.input)
        self.outputs = _folders(env, "SUAN_OUTPUT_", options.output)
        self.host = env.get("SUAN_HOST", "127.0.0.1")  # where a service listens
        self.port = options.port or int(env.get("SUAN_PORT", "0"))
        self.rank = int(env.get("RANK", "0"))
        self.world_size = int(env.get("WORLD_SIZE", "1"))
        self.local_rank = int(env.get("LOCAL_RANK", "0"))
        self.threads = int(env.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))
        checkpoint = options.checkpoint or env.get("SUAN_CHECKPOINT")
        self.checkpoint = Path(checkpoint) if checkpoint else None
        # A run has a folder of its own; a stage that is run by hand leaves nothing behind in the folder it
        # is run in.
        self.scratch = Path.cwd() if "SUAN_RUN_ID" in env else Path(tempfile.mkdtemp(prefix=f"suan-{stage}-"))
        progress = env.get("SUAN_PROGRESS")
        self.progress = Progress(Path(progress) if progress and self.rank == 0 else None)
        self._metrics_file = env.get("SUAN_METRICS")
        self._stopping = False
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs us there handles signals
            signal.signal(signal.SIGTERM, self._on_stop)

    @property
    def stopping(self) -> bool:
        """Whether the site asked the run to end: save what is needed to go on, then exit `EXIT_STOPPED`."""
        return self._stopping

    def _on_stop(self, signum: int, frame: object) -> None:
        self._stopping = True

    def input(self, name: str) -> Path:
        """The folder of an input; the only one there is serves under any name.

        Raises: Refused `missing_input`.
        """
        return _pick(self.inputs, name, "input", self.stage)

    def output(self, name: str) -> Path:
        """The folder to write an output to, made if it is not there.

        Raises: Refused `missing_output`.
        """
        folder = _pick(self.outputs, name, "output", self.stage)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def metrics(self, **numbers: float) -> None:
        """Writes the final numbers, all or nothing. To be called last, before exit 0."""
        rounded = {key: round(float(value), 6) for key, value in numbers.items()}
        print(json.dumps(rounded, ensure_ascii=False), flush=True)
        if self._metrics_file:
            write_json(Path(self._metrics_file), rounded)


def write_json(file: Path, value: Any) -> None:
    """Writes `value` so that a reader sees the old file or the whole new one."""
    partial = file.with_name(file.name + ".tmp")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)


def open_context(stage: str, argv: list[str] | None = None) -> Context[Any]:
    """The run's context, from the site's environment or from `--input --output --set` on the command line.

    Raises: Refused `bad_recipe_args` and what reading `--set` can refuse.
    """
    parser = argparse.ArgumentParser(prog=f"python -m suan.recipes.{stage}")
    parser.add_argument("--input", action="append", default=[], metavar="[NAME=]DIR")
    parser.add_argument("--output", action="append", default=[], metavar="[NAME=]DIR")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one of the stage's arguments"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="kept between runs; enables resuming")
    parser.add_argument("--port", type=int, default=0, help="where a service listens")
    options = parser.parse_args(argv)
    values = json.loads(os.environ.get("SUAN_ARGS") or "{}")
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise Refused("bad_recipe_args", f"--set {text!r} has no '='", hint="write --set KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return Context(stage, recipe_args(stage, values, strict=False), options)


def run_stage(stage: str, body: Callable[[Context[Any]], int]) -> int:
    """Runs a stage's body; its exit code, or 2 with the message when the caller can fix what is wrong."""
    try:
        return body(open_context(stage))
    except SuanError as error:
        print(f"{error.code}: {error}", file=sys.stderr, flush=True)
        return 2


def took(started_s: float) -> str:
    """Time since `time.monotonic()` was `started_s`, to print."""
    return duration_text(time.monotonic() - started_s)


def _folders(env: Mapping[str, str], prefix: str, options: list[str]) -> dict[str, Path]:
    found = {
        key[len(prefix) :].lower(): Path(value)
        for key, value in sorted(env.items())
        if key.startswith(prefix)
    }
    for index, text in enumerate(options):
        name, equals, folder = text.partition("=")
        found[name.lower() if equals else f"{index}"] = Path(folder if equals else name)
    return found


def _pick(folders: dict[str, Path], name: str, kind: str, stage: str) -> Path:
    if name in folders:
        return folders[name]
    if len(folders) == 1:
        return next(iter(folders.values()))
    have = ", ".join(folders) or "none"
    raise Refused(
        f"missing_{kind}",
        f"{stage} needs an {kind} called {name!r} (has: {have})",
        hint=f"give --{kind} {name}=DIR",
    )
