"""The journal in a PostgreSQL database: one session leads and writes, any number of others follow and read.

Knows how the lead is taken, proved and lost, and how a stale leader is refused. Does not know what the facts
mean. Three things keep a second writer out, each of them enough:

- the lead is an advisory lock of the session that writes, so that the lock and whatever is uncommitted end
  together, and the server itself ends a leader's session that says nothing for SESSION_S;
- a leader believes in its lead for no longer than LEAD_S after the server answered it, which is less;
- every transaction first locks the one row of `journal` and compares head and term; each lead has a new term.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from suan.grid.error import NotNow, Refused, SiteTrouble, SuanError
from suan.grid.fact import Fact
from suan.journals.codec import FORMAT, checksum, corrupt, encode, facts_of_rows
from suan.journals.compare import check_head
from suan.journals.postgres_tables import create, layout_of, migrate, one

LEAD_S = 2.0  # how long a lead is believed in after the server's last answer
SESSION_S = 3.0  # how long the server waits for a leader's word before it gives the lead away
_OLDEST = 14  # of PostgreSQL: the first with idle_session_timeout
_LOCK = 0x5355414E  # "SUAN": the first half of every advisory lock here; the second says of which journal
_BEAT_S = 0.5  # between two words of a leader that has nothing to write
_PAGE = 2000  # facts read or sent at a time

# Of our session, whatever the server's own settings are. A lost network shows within the time of a session.
_SESSION = f"""
SELECT set_config('synchronous_commit', 'on', false)
  WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');
SET idle_in_transaction_session_timeout = {int(SESSION_S * 1000)};
SET lock_timeout = {int(LEAD_S * 1000)};
SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 2;
SET tcp_user_timeout = {int(SESSION_S * 1000)};
"""
_CONNECTING: dict[str, str | int] = {
    "connect_timeout": 3,
    "target_session_attrs": "read-write",  # of several hosts in the address, the one that is no standby
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": int(SESSION_S * 1000),
    "application_name": "suan",
    "client_encoding": "utf8",
}

_INSERT = """
INSERT INTO fact (seq, format, checksum, body)
  SELECT * FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::text[])
"""

Row = tuple[int, int, int, str]
T = TypeVar("T")


class PostgresJournal:
    """`ports.Journal` in the database at `url`, led by nobody yet; `control.leader.SharedJournal`.

    One thread at a time uses it, not always the same; while it has the lead a thread of its own proves that
    again and again. After a failure it accepts nothing more until `reopen`, which reads what is there.

    Raises: Refused `journal_unwritable`, `not_a_journal`, `journal_too_new` or `postgres_unfit`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._using = threading.RLock()
        self._beating = threading.Event()  # set: the lead is given up
        self._db: psycopg.Connection[Any] | None = None
        self.name = ""
        try:
            found = conninfo_to_dict(url)
            self._conninfo = make_conninfo(url, **{k: v for k, v in _CONNECTING.items() if k not in found})
            self.name = f"{found.get('host', 'localhost')}/{found.get('dbname', '')}"  # without the password
            self._open()
        except psycopg.Error as error:
            self._drop()
            raise _unwritable(self.name, error) from error
        except BaseException:
            self._drop()
            raise

    # ------------------------------------------------------------ ports.Journal

    def head(self) -> int:
        """Sequence of the last fact: the leader's own, or what the last `catch_up` saw."""
        return self._head

    def append(self, facts: Sequence[Fact], after_seq: int) -> int:
        """The new head. Read by this process at once, durable after `sync`.

        Raises: NotNow `journal_moved` (somebody else leads by now, or `after_seq` is not the head) or
        `not_leader`, or Refused `bad_fact`, with nothing written; SiteTrouble `journal_failed`.
        """
        check_head(self._head, after_seq)
        rows = []
        for sequence, fact in enumerate(facts, after_seq + 1):
            body = encode(fact)
            rows.append((sequence, FORMAT, checksum(body, sequence), body.decode()))
        if rows:
            if not self._term:
                raise NotNow("not_leader", f"{self.name} is written by another process", retry_after_s=1)
            if not self._claimed or self._failed:
                self._ask(self._claim)
            self._rows += rows
            self._head += len(rows)
        return self._head

    def sync(self) -> None:
        """Returns when everything appended is on stable storage.

        Raises: NotNow `journal_moved` or SiteTrouble `journal_failed`; what had been appended since the last
        `sync` may then be there or not.
        """
        if self._claimed or self._failed:  # only what the server answers may prove the lead
            self._ask(self._commit)

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, Fact]]:
        """(sequence, fact) in order, up to the head at the time of the call.

        Raises: Refused `journal_corrupt` or `journal_too_new`; SiteTrouble `journal_failed`.
        """
        return self._pages(after_seq, self._head)

    def close(self) -> None:
        """Syncs, gives the lead up, and lets go of the server. Twice is once.

        Raises: SiteTrouble `journal_failed`; the session is let go of all the same.
        """
        with self._using:
            if self._db is None:
                return
            try:
                if not self._failed and self._term:
                    self.sync()
                    self._ask(lambda db: db.execute("SELECT pg_advisory_unlock_all()"))
            finally:
                self._drop()

    # ------------------------------------------------------------ several planes

    @property
    def secret(self) -> str:
        """What the planes of this grid share and nobody else knows."""
        return self._ask(lambda db: str(one(db, "SELECT secret FROM journal")[0]))

    def leader(self) -> str:
        """Who leads, or led last, as the last `catch_up` saw it; "" for nobody yet."""
        return self._leader

    def try_lead(self, name: str) -> bool:
        """True when this session alone may write from here on, under `name`; False while another may.

        Tables of an earlier layout are brought forward first.

        Raises: Refused `journal_too_new` or `journal_corrupt`; SiteTrouble `journal_failed`.
        """
        return self._ask(lambda db: self._take_lead(db, name))

    def leads_for_s(self) -> float:
        """Seconds for which nobody else can lead; not above zero without the lead."""
        if not self._term or self._failed:
            return 0.0
        return self._proved_s + LEAD_S - time.monotonic()

    def catch_up(self) -> int:
        """The head now. Raises: SiteTrouble `journal_failed`."""
        self._head, self._leader = self._ask(lambda db: one(db, "SELECT head, leader FROM journal"))
        return self._head

    def wait(self, longest_s: float) -> None:
        """Returns when facts were added, or after `longest_s`. For followers only.

        Raises: SiteTrouble `journal_failed`.
        """
        self._ask(lambda db: list(db.notifies(timeout=longest_s, stop_after=1)))

    def reopen(self) -> None:
        """A new session without the lead, after a failure.

        Raises: SiteTrouble `journal_failed` while the server does not answer; Refused as at the first time.
        """
        with self._using:
            self._drop()
            try:
                self._open()
            except psycopg.Error as error:
                self._drop()
                raise _failure(self.name, str(error)) from error
            except BaseException:
                self._drop()
                raise

    # ------------------------------------------------------------ inside

    def _open(self) -> None:
        self._head, self._term, self._leader = 0, 0, ""
        self._claimed = False  # within a transaction, in which nobody else can write
        self._rows: list[Row] = []  # appended, not at the server yet
        self._failed, self._proved_s = "", 0.0
        self._db = db = psycopg.connect(self._conninfo, autocommit=True)
        if db.info.server_version < _OLDEST * 10_000:
            raise _unfit(
                f"{self.name} is PostgreSQL {db.info.server_version // 10_000}", f"{_OLDEST} or newer"
            )
        if db.info.parameter_status("server_encoding") != "UTF8":
            raise _unfit(f"{self.name} does not hold UTF-8", "createdb --encoding UTF8 --template template0")
        db.execute(_SESSION)
        if layout_of(db, self.name) is None:
            with db.transaction():
                db.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_LOCK,))
                if layout_of(db, self.name) is None:  # another plane may have been faster
                    create(db)
        self._number, self._channel = one(
            db, "SELECT c, 'suan_' || c FROM (SELECT 'fact'::regclass::oid::int c) x"
        )
        db.execute(f'LISTEN "{self._channel}"')
        self._head, self._leader = one(db, "SELECT head, leader FROM journal")

    def _take_lead(self, db: psycopg.Connection[Any], name: str) -> bool:
        # The lock and the watch over its holder in one statement: there is no lock without the watch.
        (taken,) = one(
            db,
            "SELECT CASE WHEN pg_try_advisory_lock(%s, %s)"
            " THEN set_config('idle_session_timeout', %s, false) END",
            (_LOCK, self._number, str(int(SESSION_S * 1000))),
        )
        if taken is None:
            return False
        layout = layout_of(db, self.name) or 0
        with db.transaction():
            migrate(db, layout)
            self._head, self._term = one(
                db,
                "UPDATE journal SET term = term + 1, leader = %s, led_since = now() RETURNING head, term",
                (name,),
            )
        (last,) = one(db, "SELECT coalesce(max(seq), 0) FROM fact")
        if last != self._head:
            raise corrupt(f"{self.name} has fact {last} last, and should have {self._head}", self._head)
        self._leader = name
        db.execute("UNLISTEN *")  # nobody would fetch the news that a leader sends itself
        self._beating = threading.Event()
        threading.Thread(target=self._beat, args=(self._beating,), name="suan-lead", daemon=True).start()
        return True

    def _beat(self, over: threading.Event) -> None:
        """Proves the lead until it is over, however long the writer thinks; a failure shows at its sync."""
        while not over.wait(_BEAT_S):
            with self._using:
                if over.is_set() or self._failed:
                    return
                with contextlib.suppress(SuanError):
                    self._ask(self._prove)

    def _prove(self, db: psycopg.Connection[Any]) -> None:
        """A session that answers has the lead as long as nobody has taken it with a later term."""
        term, leader = one(db, "SELECT term, leader FROM journal")
        if term != self._term:
            self._failed = f"{leader} leads since term {term}, this was term {self._term}"
            raise _moved(self._failed, self._head)

    def _claim(self, db: psycopg.Connection[Any]) -> None:
        """Compares, and keeps the row until the commit: what is appended next needs no comparison."""
        answer = db.execute("BEGIN; SELECT head, term, leader FROM journal FOR UPDATE")  # one round trip
        answer.nextset()
        head, term, leader = answer.fetchone() or (-1, -1, "nobody")
        if (head, term) != (self._head, self._term):
            self._failed = f"{leader} leads since term {term}, this was term {self._term}"
            db.execute("ROLLBACK")
            check_head(head, self._head)
            raise _moved(self._failed, head)
        self._claimed = True

    def _flush(self, db: psycopg.Connection[Any]) -> None:
        rows, self._rows = self._rows, []
        for start in range(0, len(rows), _PAGE):
            db.execute(_INSERT, _columns(rows[start : start + _PAGE]))

    def _commit(self, db: psycopg.Connection[Any]) -> None:
        # No pipeline: PostgreSQL 15 does not watch a session any more whose last message was a Flush.
        if len(self._rows) > _PAGE:
            self._flush(db)
        rows, self._rows = self._rows, []
        question = f"""
            WITH added AS ({_INSERT}), moved AS (UPDATE journal SET head = %s) SELECT pg_notify(%s, %s)
        """
        db.execute(question, (*_columns(rows), self._head, self._channel, str(self._head)))
        db.execute("COMMIT")
        self._claimed = False

    def _ask(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """What `work` makes of the session. The lead counts from before the question was sent."""
        with self._using:
            if self._failed or self._db is None:
                raise _failure(self.name, self._failed or "it is closed")
            began_s = time.monotonic()
            try:
                answer = work(self._db)
            except psycopg.Error as error:
                self._failed = str(error).strip() or type(error).__name__
                raise _failure(self.name, self._failed) from error
            self._proved_s = began_s
            return answer

    def _drop(self) -> None:
        """Lets go of the session and of whatever it held."""
        self._beating.set()
        db, self._db, self._term = self._db, None, 0
        if db is not None:
            with contextlib.suppress(psycopg.Error):
                db.close()

    def _pages(self, after_seq: int, until_seq: int) -> Iterator[tuple[int, Fact]]:
        # Pages, not one open cursor: commits may come between, and nothing is held while the reader thinks.
        last = after_seq
        while last < until_seq:
            page = self._page(last, until_seq)
            yield from facts_of_rows(page, last, self.name)
            last = page[-1][0]

    def _page(self, last: int, until_seq: int) -> list[Row]:
        question = (
            "SELECT seq, format, checksum, body FROM fact WHERE seq > %s AND seq <= %s ORDER BY seq LIMIT %s"
        )

        def page(db: psycopg.Connection[Any]) -> list[Row]:
            self._flush(db)
            return db.execute(question, (last, until_seq, _PAGE)).fetchall()

        found = self._ask(page)
        if not found:
            raise corrupt(f"{self.name} lacks fact {last + 1}", last + 1)
        return found


def open_alone(url: str, name: str = "", *, patience_s: float = 1.0) -> PostgresJournal:
    """The journal at `url`, led by this process. `patience_s` is for a leader that is just going away.

    Raises: Refused `journal_in_use`, and what opening raises.
    """
    journal = PostgresJournal(url)
    deadline_s = time.monotonic() + patience_s
    try:
        while not journal.try_lead(name):
            if time.monotonic() > deadline_s:
                journal.catch_up()
                raise Refused(
                    "journal_in_use",
                    f"{journal.name} is being written by {journal.leader() or 'another process'}",
                    hint="stop that grid first, or name another database",
                    status=409,
                    path=journal.name,
                )
            time.sleep(0.05)
    except BaseException:
        journal.close()
        raise
    return journal


def _columns(rows: list[Row]) -> tuple[list[Any], ...]:
    return tuple([row[column] for row in rows] for column in range(4))


def _moved(what: str, head: int) -> NotNow:
    return NotNow(
        "journal_moved", what, hint="read what was added and decide again", retry_after_s=0, head=head
    )


def _unfit(what: str, wanted: str) -> Refused:
    return Refused(
        "postgres_unfit", f"{what}; the journal needs {wanted}", hint="see docs/how-to/postgres.md"
    )


def _unwritable(name: str, error: psycopg.Error) -> Refused:
    denied = isinstance(error, errors.InsufficientPrivilege)
    hint = "let the role own the database" if denied else "start it, or check the address: postgres://HOST/DB"
    return Refused("journal_unwritable", f"{name} cannot be opened: {str(error).strip()}", hint=hint)


def _failure(name: str, why: str) -> SiteTrouble:
    return SiteTrouble(
        "journal_failed",
        f"{name} could not be written: {why}",
        hint="see that PostgreSQL runs and its disk has room; the grid goes on by itself",
        path=name,
    )
