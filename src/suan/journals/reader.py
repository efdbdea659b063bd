"""Facts of a journal that somebody else may be writing, read without touching it.

Knows the tables of `journals/sqlite.py`. Takes no lock and writes nothing: what is read is the journal as it
was at one moment.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from suan.grid.error import Refused
from suan.grid.fact import Fact
from suan.journals.codec import facts_of_rows


def read_only(path: Path) -> Iterator[Fact]:
    """Every fact, in order.

    Raises: Refused `no_journal`, `not_a_journal`, `journal_corrupt` or `journal_too_new`.
    """
    if not path.is_file():
        raise Refused("no_journal", f"there is no journal {path}", hint="name the grid's folder: --state DIR")
    # A journal that was closed has no log beside it, and opening it the usual way would make one.
    closed = not path.with_name(path.name + "-wal").exists()
    mode = "immutable=1" if closed else "mode=ro"
    try:
        reading = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{mode}", uri=True, isolation_level=None
        )
        reading.text_factory = bytes
    except sqlite3.Error as error:
        raise Refused("not_a_journal", f"{path} cannot be opened: {error}", hint="check --state") from error
    try:
        # One statement is one snapshot, however much is written meanwhile.
        rows = reading.execute("SELECT seq, format, checksum, body FROM fact ORDER BY seq")
        yield from (fact for _, fact in facts_of_rows(rows, 0, str(path)))
    except sqlite3.Error as error:
        raise Refused("not_a_journal", f"{path} cannot be read: {error}", hint="check --state") from error
    finally:
        reading.close()
