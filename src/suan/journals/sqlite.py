"""The journal in one SQLite file: WAL, one writer, one fsync for as many appends as came before it.

Knows how to be durable and how to refuse a second writer. Does not know what the facts mean.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from suan.grid.error import Refused, SiteTrouble
from suan.grid.fact import Fact
from suan.journals.codec import FORMAT, checksum, corrupt, encode, facts_of_rows, too_new
from suan.journals.compare import check_head

LAYOUT = 1  # of the tables; the format of a fact is in its row
_APPLICATION_ID = 0x5355414E  # "SUAN": SQLite's mark of whose file this is
_PAGE = 2000  # facts read at a time

_TABLES = f"""
PRAGMA application_id = {_APPLICATION_ID};
CREATE TABLE journal_layout (version INTEGER PRIMARY KEY, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE fact (
  seq INTEGER PRIMARY KEY, format INTEGER NOT NULL, checksum INTEGER NOT NULL, body TEXT NOT NULL
);
INSERT INTO journal_layout (version) VALUES ({LAYOUT});
"""

T = TypeVar("T")


class SqliteJournal:
    """`ports.Journal` in `path`, held by this process alone from here to `close`.

    To be used by one thread at a time, not always the same. After a failed write it accepts nothing more:
    memory may be ahead of the disk then, and only a restart, which reads what is really there, can tell.

    Raises: Refused `journal_in_use`, `journal_unwritable`, `not_a_journal`, `journal_too_new` or
    `journal_corrupt`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._head = 0
        self._failed = ""
        self._closed = False
        self._lock = _take_lock(self.path)
        try:
            # tasks may hold secrets: the journal, and what SQLite puts beside it, is its owner's alone
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise _unwritable(self.path, error) from error
        try:
            self._open()
        except BaseException as error:
            self._db.close()
            os.close(self._lock)
            if isinstance(error, sqlite3.OperationalError):
                raise _unwritable(self.path, error) from error
            if isinstance(error, sqlite3.DatabaseError):
                raise corrupt(f"{self.path} is not a readable SQLite file: {error}") from error
            raise

    def head(self) -> int:
        return self._head

    def append(self, facts: Sequence[Fact], after_seq: int) -> int:
        """The new head. Read by this process at once, durable after `sync`.

        Raises: NotNow `journal_moved` or Refused `bad_fact`, with nothing written; SiteTrouble
        `journal_failed`.
        """
        check_head(self._head, after_seq)
        rows = []
        for sequence, fact in enumerate(facts, after_seq + 1):
            body = encode(fact)
            rows.append((sequence, FORMAT, checksum(body, sequence), body.decode()))
        if rows:
            self._write(lambda: self._insert(rows))
            self._head += len(rows)
        return self._head

    def sync(self) -> None:
        """Returns when everything appended is on stable storage.

        Raises: SiteTrouble `journal_failed`.
        """
        self._write(self._commit)

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, Fact]]:
        """(sequence, fact) in order, up to the head at the time of the call.

        Raises: Refused `journal_corrupt` or `journal_too_new`.
        """
        return self._pages(after_seq, self._head)

    def close(self) -> None:
        """Syncs, and lets the next writer in. Twice is once.

        Raises: SiteTrouble `journal_failed`; the file is let go of all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed:
                self._write(self._commit)
        finally:
            self._db.close()
            os.close(self._lock)

    # ------------------------------------------------------------ inside

    def _open(self) -> None:
        self._db.text_factory = bytes  # facts go to the decoder as they lie in the file
        layout = self._layout()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")  # in WAL: an fsync at every commit
        if layout is None:
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT")
        (self._head,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM fact").fetchone()

    def _layout(self) -> int | None:
        """The version of its tables; None for a new file."""
        names = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
        (mark,) = self._db.execute("PRAGMA application_id").fetchone()
        if not names:
            return None
        if mark != _APPLICATION_ID or not {b"journal_layout", b"fact"} <= names:
            raise Refused(
                "not_a_journal",
                f"{self.path} is a database of something else",
                hint="name a new file for the journal",
            )
        (version,) = self._db.execute("SELECT max(version) FROM journal_layout").fetchone()
        if version is not None and version > LAYOUT:
            raise too_new(f"{self.path} has layout {version}; this version reads layout {LAYOUT}")
        return version or LAYOUT

    def _insert(self, rows: list[tuple[int, int, int, str]]) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO fact (seq, format, checksum, body) VALUES (?, ?, ?, ?)", rows)

    def _commit(self) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def _write(self, work: Callable[[], T]) -> T:
        if self._failed:
            raise _failure(self.path, self._failed)
        try:
            return work()
        except sqlite3.Error as error:
            self._failed = str(error)
            raise _failure(self.path, self._failed) from error

    def _pages(self, after_seq: int, until_seq: int) -> Iterator[tuple[int, Fact]]:
        # Pages, not one open cursor: commits may come between, and nothing is held while the reader thinks.
        last = after_seq
        while last < until_seq:
            page = self._page(last, until_seq)
            yield from facts_of_rows(page, last, str(self.path))
            last = page[-1][0]

    def _page(self, last: int, until_seq: int) -> list[tuple[int, int, int, bytes]]:
        question = (
            "SELECT seq, format, checksum, body FROM fact WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        )
        try:
            page = self._db.execute(question, (last, until_seq, _PAGE)).fetchall()
        except sqlite3.Error as error:
            raise corrupt(f"{self.path} cannot be read after fact {last}: {error}", last + 1) from error
        if not page:
            raise corrupt(f"{self.path} lacks fact {last + 1}", last + 1)
        return page


def _take_lock(path: Path) -> int:
    """A descriptor that holds the journal's lock until it is closed or its process ends, however it ends."""
    lock_path = path.with_name(path.name + ".lock")
    try:
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise Refused(
            "journal_in_use",
            f"{path} is being written by process {holder or 'unknown'}",
            hint="stop that grid first, or name another journal",
            status=409,
            path=str(path),
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _unwritable(path: Path, error: Exception) -> Refused:
    return Refused(
        "journal_unwritable",
        f"{path} cannot be opened: {error}",
        hint="name a file in a folder that this user may write",
    )


def _failure(path: Path, why: str) -> SiteTrouble:
    return SiteTrouble(
        "journal_failed",
        f"{path} could not be written: {why}",
        hint="see that the disk has room and works, then start the grid again",
        path=str(path),
    )
