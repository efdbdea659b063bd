"""What a run leaves behind: progress, metrics, outputs, and the last word about it.

Knows a run's files and the store. Does not know the engine, nor what the grid makes of it.
"""

import json
import logging
import math
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from suan.engines.staging import RunFolder, RunNotes, checked_id, write_whole
from suan.grid.action import OutputSeen, RunSeen
from suan.grid.error import Refused
from suan.grid.job import EndCause, RunPhase
from suan.ports import Engine, EngineRun, Store, seen_of

log = logging.getLogger("suan.agent")

_PROGRESS_TAIL_BYTES = 16 << 10
_METRICS_BYTES = 1 << 20
_LOG_TAIL_BYTES = 4096
_MOST_PROGRESS_KEYS = 64
_DETAIL_CHARACTERS = 500


class Ends:
    """The last word about each run that is settled here, one file each: a restarted agent says the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._known: dict[str, RunSeen] = {}
        for path in folder.glob("*.json"):
            try:
                seen = msgspec.json.decode(path.read_bytes(), type=RunSeen)
            except (OSError, msgspec.DecodeError):
                continue
            self._known[seen.run] = seen

    def __contains__(self, run: str) -> bool:
        return run in self._known

    def all(self) -> dict[str, RunSeen]:
        return dict(self._known)

    def digests(self) -> frozenset[str]:
        """Outputs that the grid may not have recorded yet."""
        return frozenset(out.digest for seen in self.all().values() for out in seen.outputs.values())

    def settle(self, seen: RunSeen) -> None:
        """Keeps it; the first word stays. On a full disk only in memory: it must be told nevertheless."""
        with self._lock:
            if seen.run in self._known:
                return
            try:
                write_whole(self._path(seen.run), msgspec.json.encode(seen))
            except OSError as error:
                log.warning(
                    "the end of run %s cannot be written down: %s", seen.run, error, extra={"run": seen.run}
                )
            self._known[seen.run] = seen

    def forget(self, run: str) -> RunSeen | None:
        self._path(run).unlink(missing_ok=True)
        return self._known.pop(run, None)

    def _path(self, run: str) -> Path:
        return self._folder / f"{checked_id(run)}.json"


def progress_of(folder: RunFolder) -> dict[str, float | str]:
    """The newest whole line of the progress file that is a JSON object; its numbers and strings."""
    try:
        with folder.progress.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _PROGRESS_TAIL_BYTES))
            lines = file.read(_PROGRESS_TAIL_BYTES).split(b"\n")[
                :-1
            ]  # what follows the last one is not whole
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return _plain(found)
    return {}


def _plain(found: dict[str, object]) -> dict[str, float | str]:
    kept: dict[str, float | str] = {}
    for name, value in list(found.items())[:_MOST_PROGRESS_KEYS]:
        if isinstance(value, str):
            kept[name] = value[:_DETAIL_CHARACTERS]
        elif _is_number(value):
            kept[name] = float(value)  # type: ignore[arg-type]
    return kept


def metrics_of(folder: RunFolder) -> tuple[dict[str, float], str]:
    """(the final numbers, what is wrong with the rest of the file)."""
    try:
        if folder.metrics.stat().st_size > _METRICS_BYTES:
            return {}, "SUAN_METRICS is larger than 1 MiB and was left out"
        found = json.loads(folder.metrics.read_bytes())
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"SUAN_METRICS could not be read: {error}"
    if not isinstance(found, dict):
        return {}, "SUAN_METRICS is not one JSON object and was left out"
    numbers = {name: float(value) for name, value in found.items() if _is_number(value)}
    others = sorted(found.keys() - numbers.keys())
    return numbers, f"SUAN_METRICS: no finite numbers: {', '.join(others)[:200]}" if others else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def succeeded(run: EngineRun) -> bool:
    return run.phase is RunPhase.ENDED and run.cause is EndCause.EXITED and not run.exit_code


def store_outputs(run: EngineRun, folder: RunFolder, notes: RunNotes, store: Store) -> RunSeen:
    """The last word about a run that exited 0, its outputs now in the store. Empty outputs are left out.

    Raises: SiteTrouble when the store fails; OSError.
    """
    outputs: dict[str, OutputSeen] = {}
    metrics, trouble = metrics_of(folder)
    troubles = [trouble]
    for name in notes.outputs:
        try:
            digest, manifest = store.put_folder(folder.output(name))
        except Refused as refused:
            troubles.append(f"output {name}: {refused.what}")
            continue
        if manifest.files:
            outputs[name] = OutputSeen(digest=digest, bytes=manifest.bytes, files=len(manifest.files))
    details = (run.detail, *troubles)
    return msgspec.structs.replace(
        seen_of(run, progress_of(folder)), outputs=outputs, metrics=metrics, detail=_joined(details)
    )


def log_tail(engine: Engine, run: str) -> bytes:
    """The end of a run's log. Engines read by offset: where it ends is found by doubling, then by halving."""
    low, high = 0, _LOG_TAIL_BYTES
    while engine.log(run, high, 1):
        low, high = high, high * 2
    while high - low > _LOG_TAIL_BYTES // 2:
        middle = (low + high) // 2
        low, high = (middle, high) if engine.log(run, middle, 1) else (low, middle)
    return engine.log(run, max(0, high - _LOG_TAIL_BYTES), _LOG_TAIL_BYTES)


def failure_of(run: EngineRun, folder: RunFolder, log_tail: bytes) -> RunSeen:
    """The last word about a run that did not succeed: how it ended, and the last thing it said."""
    seen = seen_of(run, progress_of(folder))
    lines = [line.strip() for line in log_tail.decode("utf-8", "replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "")
    if run.cause is not EndCause.EXITED or not said:
        return seen
    code = run.exit_code or 0
    how = run.detail or (f"ended by signal {-code}" if code < 0 else f"exited with code {code}")
    return msgspec.structs.replace(seen, detail=_joined((how, f"last line: {said}")))


def _joined(details: Iterable[str]) -> str:
    return "; ".join(detail for detail in details if detail)[:_DETAIL_CHARACTERS]
