"""The tables of a journal in PostgreSQL: how they are made, and brought forward from earlier versions.

Knows their layout. Does not know who may write into them.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import psycopg

from suan.grid.error import Refused
from suan.journals.codec import too_new

# Tables of layout N are made from those of layout N - 1 by MIGRATIONS[N - 1]. What has been released stays as
# it is; a change is one more. `fact` keeps its four columns: followers of an older version read on meanwhile.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE journal_layout (version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE fact (
      seq bigint PRIMARY KEY, format integer NOT NULL, checksum bigint NOT NULL, body text NOT NULL
    );
    CREATE TABLE journal (
      one boolean PRIMARY KEY DEFAULT true CHECK (one),
      head bigint NOT NULL DEFAULT 0,
      term bigint NOT NULL DEFAULT 0,
      leader text NOT NULL DEFAULT '',
      led_since timestamptz,
      secret text NOT NULL
    );
    """,
)


def one(db: psycopg.Connection[Any], question: str, values: Sequence[object] = ()) -> tuple[Any, ...]:
    """The one row that this question has."""
    found: tuple[Any, ...] | None = db.execute(question, values).fetchone()
    assert found is not None, question
    return found


def layout_of(db: psycopg.Connection[Any], name: str) -> int | None:
    """The version of its tables; None for an empty database."""
    there = one(db, "SELECT to_regclass('journal_layout'), to_regclass('fact'), to_regclass('journal')")
    if not any(there):
        return None
    if not all(there):
        raise Refused(
            "not_a_journal", f"{name} holds tables of something else", hint="createdb another, and name that"
        )
    (version,) = one(db, "SELECT coalesce(max(version), 1) FROM journal_layout")
    if version > len(MIGRATIONS):
        raise too_new(f"{name} has layout {version}; this version reads layout {len(MIGRATIONS)}")
    return int(version)


def create(db: psycopg.Connection[Any]) -> None:
    """Makes the tables of an empty journal; within the caller's transaction."""
    migrate(db, 0)
    db.execute("INSERT INTO journal (secret) VALUES (%s)", (secrets.token_hex(32),))


def migrate(db: psycopg.Connection[Any], layout: int) -> None:
    """Brings tables of this layout forward, step by step; within the caller's transaction."""
    for version, step in enumerate(MIGRATIONS[layout:], layout + 1):
        db.execute(step)
        db.execute("INSERT INTO journal_layout (version) VALUES (%s)", (version,))
