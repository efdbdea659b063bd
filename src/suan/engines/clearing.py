"""What a site may throw away: artifacts that nobody needs any more, unpacked copies, old checkpoints, and the
memory of forgotten runs.

Knows ages and what is needed now. Errs on the side of keeping: an artifact goes only after the grid has said
for hours on end that it need not stay, and never while a run is being staged or its outputs stored.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from suan.engines.staging import Checkouts, checked_id
from suan.grid.error import SiteTrouble
from suan.ports import Store

log = logging.getLogger("suan.agent")

_UNNEEDED_S = 2 * 3600.0  # from when an artifact is not needed until it goes
_CACHE_UNUSED_S = 24 * 3600.0
_CHECKPOINT_UNUSED_S = 14 * 86_400.0  # of jobs that never finished here
_EVERY_S = 600.0
_HEARD_S = 120.0  # how old the grid's word on what to keep may be
_FORGOTTEN_S = 3600.0  # how long an order may be late: connections time out within minutes


class Forgotten:
    """Runs whose end is recorded, kept for an hour and over restarts: no late order starts them again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._at_s = {path.name: path.stat().st_mtime for path in folder.iterdir()}

    def __contains__(self, run: str) -> bool:
        return time.time() - self._at_s.get(run, float("-inf")) < _FORGOTTEN_S

    def add(self, run: str) -> None:
        (self._folder / checked_id(run)).touch()
        self._at_s[run] = time.time()
        for old in [known for known, at_s in self._at_s.items() if time.time() - at_s > _FORGOTTEN_S]:
            (self._folder / old).unlink(missing_ok=True)
            del self._at_s[old]


class Clearing:
    """Decides and clears, in a thread, every ten minutes at most.

    `used` names artifacts that the grid may not know yet. Under `guard` nothing goes: who finds an artifact
    there and makes it used keeps it.
    """

    def __init__(
        self, folder: Path, store: Store, checkouts: Checkouts, used: Callable[[], frozenset[str]]
    ) -> None:
        self.guard = threading.Lock()
        self._used = used
        self._folder = folder
        self._store = store
        self._checkouts = checkouts
        self._kept: frozenset[str] = frozenset()
        self._lately: frozenset[str] = frozenset()  # used, or on its way, since the grid said what must stay
        self._heard_s = float("-inf")
        self._begun_s = time.monotonic()
        self._unneeded_since_s: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    def need(self, kept: Iterable[str] | None, moving: Iterable[str] = ()) -> None:
        """The grid's newest word on what must stay, None where it said nothing new, and what is on its way
        from here or to here. What it lets the site forget is to be forgotten after this.
        """
        now = self._used().union(moving)
        if kept is None:
            self._lately |= now
        else:  # in this order: no digest is in neither for a moment
            self._kept = frozenset(kept)
            self._lately = now
            self._heard_s = time.monotonic()

    def consider(self, *, busy: bool) -> None:
        """Clears when it is time; nothing goes while the site is `busy` with artifacts."""
        now_s = time.monotonic()
        if busy or now_s - self._heard_s > _HEARD_S or now_s - self._begun_s < _EVERY_S:
            return
        if self._thread is None or not self._thread.is_alive():
            self._begun_s = now_s
            self._thread = threading.Thread(target=self._clear, name="clearing", daemon=True)
            self._thread.start()

    def _clear(self) -> None:
        try:
            self.clear()
        except (SiteTrouble, OSError) as error:
            log.warning("clearing failed: %s", error)

    def clear(self, now_s: float | None = None) -> tuple[str, ...]:
        """The artifacts that went. What is looked at for the first time only begins to age.

        Raises: SiteTrouble or OSError.
        """
        now_s = time.monotonic() if now_s is None else now_s
        unneeded = set(self._store.digests()) - self._kept - self._lately - self._used()
        since_s = {digest: self._unneeded_since_s.get(digest, now_s) for digest in sorted(unneeded)}
        self._unneeded_since_s = since_s
        gone = [digest for digest, at_s in since_s.items() if now_s - at_s > _UNNEEDED_S]
        for digest in gone:
            with self.guard:
                if not any(digest in needed for needed in (self._kept, self._lately, self._used())):
                    freed_bytes = self._store.delete(digest)
                    log.info("artifact %s is not needed any more: %d bytes freed", digest, freed_bytes)
        linked = frozenset(link.name for link in self._folder.glob("runs/*/links/*"))
        self._checkouts.clear(linked, _CACHE_UNUSED_S)
        self._clear_checkpoints()
        return tuple(gone)

    def _clear_checkpoints(self) -> None:
        for path in (self._folder / "checkpoints").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _CHECKPOINT_UNUSED_S:
                    shutil.rmtree(path, ignore_errors=True)
