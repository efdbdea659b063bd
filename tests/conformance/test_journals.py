"""What every journal promises; and what the durable ones promise when their process is killed."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from fact_samples import CLASSES, facts_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suan.grid.error import NotNow, Refused
from suan.grid.fact import Metered, SiteHeard, SiteSilent, TransferEnded
from suan.journals.codec import decode, encode
from suan.journals.memory import MemoryJournal
from suan.journals.postgres import open_alone
from suan.journals.sqlite import SqliteJournal

KILLS = 12


def silent(*sites: int) -> list[SiteSilent]:
    return [SiteSilent(at_s=number, site=f"s{number}") for number in sites]


class SqlitePlace:
    """Where a journal in a file lies."""

    def __init__(self, folder):
        self.address = str(folder / "journal.db")

    def open(self):
        return SqliteJournal(self.address)

    def alter(self, statement):
        with sqlite3.connect(self.address) as db:
            rows = db.execute(statement).fetchall()
        db.close()
        return rows


class PostgresPlace:
    """Where a journal in a database lies."""

    def __init__(self, address):
        self.address = address

    def open(self):
        return open_alone(self.address)

    def alter(self, statement):
        with psycopg.connect(self.address) as db:
            cursor = db.execute(statement)
            return cursor.fetchall() if cursor.description else []


def place_named(name, request):
    if name == "sqlite":
        return SqlitePlace(request.getfixturevalue("tmp_path"))
    return PostgresPlace(request.getfixturevalue("postgres").new_database())


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def journal(request):
    opened = MemoryJournal() if request.param == "memory" else place_named(request.param, request).open()
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request):
    return place_named(request.param, request)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


# ---------------------------------------------------------------- every journal


def test_a_new_journal_is_empty(journal):
    assert (journal.head(), list(journal.read())) == (0, [])
    journal.sync()
    assert journal.append([], 0) == 0


def test_facts_come_back_in_order_before_and_after_sync(journal):
    assert journal.append(silent(1, 2), 0) == 2
    assert journal.append(silent(3), 2) == 3
    wanted = list(enumerate(silent(1, 2, 3), 1))
    assert list(journal.read()) == wanted
    journal.sync()
    journal.append(silent(4), 3)
    assert list(journal.read()) == [*wanted, (4, silent(4)[0])]
    assert journal.head() == 4


def test_reading_goes_on_after_a_sequence(journal):
    journal.append(silent(*range(1, 11)), 0)
    assert [sequence for sequence, _ in journal.read(7)] == [8, 9, 10]
    assert list(journal.read(10)) == []


@pytest.mark.parametrize("after_seq", [0, 1, 3, 99, -1])
def test_a_stale_writer_writes_nothing(journal, after_seq):
    journal.append(silent(1, 2), 0)
    with pytest.raises(NotNow) as refusal:
        journal.append(silent(7, 8, 9), after_seq)
    assert refusal.value.code == "journal_moved"
    assert refusal.value.fields["head"] == 2
    journal.sync()
    assert [fact for _, fact in journal.read()] == silent(1, 2)


def test_a_reader_sees_the_head_of_its_call_while_the_journal_grows(journal):
    journal.append(silent(*range(1, 5001)), 0)
    reading = journal.read()
    first = next(reading)
    journal.sync()
    journal.append(silent(5001), 5000)
    assert first[0] == 1
    assert [sequence for sequence, _ in reading] == list(range(2, 5001))


def test_another_thread_may_go_on(journal):
    journal.append(silent(1), 0)
    heads = []
    thread = threading.Thread(target=lambda: (heads.append(journal.append(silent(2), 1)), journal.sync()))
    thread.start()
    thread.join()
    assert heads == [2] and len(list(journal.read())) == 2


@given(fact=st.one_of([facts_of(kind) for kind in CLASSES]))
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_fact_survives_the_codec(fact):
    assert decode(encode(fact), 1) == fact


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_fact_survives_the_file(kind, place):
    drawn = []

    @given(fact=facts_of(kind))
    @settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def draw(fact):
        drawn.append(fact)

    draw()
    with_journal(place, lambda journal: journal.append(drawn, 0))
    assert with_journal(place, lambda journal: list(journal.read())) == list(enumerate(drawn, 1))


# ---------------------------------------------------------------- the durable ones


def test_reopened_it_is_as_it_was(place):
    with_journal(
        place, lambda journal: (journal.append(silent(1, 2), 0), journal.sync(), journal.append(silent(3), 2))
    )
    assert with_journal(place, lambda journal: (journal.head(), list(journal.read()))) == (
        3,
        list(enumerate(silent(1, 2, 3), 1)),
    )


def test_a_second_writer_is_refused_by_name(place):
    first = place.open()
    with pytest.raises(Refused) as refusal:
        place.open()
    assert refusal.value.code == "journal_in_use"
    assert refusal.value.fields["path"] in refusal.value.what
    first.append(silent(1), 0)
    first.close()
    first.close()
    assert with_journal(place, lambda journal: journal.head()) == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_a_replay_could_not_read_is_refused_whole(place, number):
    poison = TransferEnded(at_s=1, transfer="t"), Metered(at_s=number, run="r", tenant="t")
    refusal = refusal_of(lambda: with_journal(place, lambda journal: journal.append(poison, 0)))
    assert refusal.code == "bad_fact" and "Metered" in refusal.what
    assert with_journal(place, lambda journal: journal.head()) == 0
    with pytest.raises(Refused):
        encode(SiteHeard(at_s=1, site="\ud800"))


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        ("UPDATE fact SET body = replace(body, 's3', 's8') WHERE seq = 3", "journal_corrupt", "fact 3"),
        ("UPDATE fact SET body = substr(body, 1, 9) WHERE seq = 4", "journal_corrupt", "fact 4"),
        ("DELETE FROM fact WHERE seq = 2", "journal_corrupt", "lacks fact 2"),
        ("UPDATE fact SET format = 2 WHERE seq = 5", "journal_too_new", "fact 5"),
    ],
)
def test_a_damaged_fact_is_named_and_those_before_it_are_read(place, damage, code, says):
    with_journal(place, lambda journal: journal.append(silent(*range(1, 7)), 0))
    place.alter(damage)
    read = []
    refusal = refusal_of(lambda: with_journal(place, lambda journal: read.extend(journal.read())))
    assert (refusal.code, bool(refusal.hint)) == (code, True) and says in refusal.what
    assert [sequence for sequence, _ in read] == list(range(1, refusal.fields["sequence"]))


def test_the_tables_of_a_later_version_are_left_alone(place):
    with_journal(place, lambda journal: journal.append(silent(1), 0))
    place.alter("INSERT INTO journal_layout (version) VALUES (99)")
    assert refusal_of(place.open).code == "journal_too_new"
    assert place.alter("SELECT count(*), max(seq) FROM fact") == [(1, 1)]
    assert place.alter("SELECT max(version) FROM journal_layout") == [(99,)]


def test_other_files_are_left_alone(path, tmp_path):
    path.write_text("not a database at all, " * 100)
    assert refusal_of(lambda: SqliteJournal(path)).code == "journal_corrupt"
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE fact (seq INTEGER)")
    db.close()
    assert refusal_of(lambda: SqliteJournal(other)).code == "not_a_journal"
    assert refusal_of(lambda: SqliteJournal(tmp_path / "no" / "j.db")).code == "journal_unwritable"


def test_stored_facts_can_be_asked_with_plain_sql(place):
    with_journal(place, lambda journal: journal.append(silent(1, 2), 0))
    bodies = [json.loads(body) for (body,) in place.alter("SELECT body FROM fact ORDER BY seq")]
    assert [body["site"] for body in bodies] == ["s1", "s2"]


def test_what_was_not_synced_is_gone_after_a_kill(place):
    script = WRITER.replace("BATCH", "5").replace("ROUNDS", "1")
    with running(script, place) as writer:
        assert writer.stdout.readline() == "5\n"
        assert writer.stdout.readline() == "unsynced 8\n"
        writer.kill()
        writer.wait()
    assert with_journal(place, lambda journal: (journal.head(), len(list(journal.read())))) == (5, 5)


def test_killed_at_any_moment_it_keeps_every_synced_fact_without_a_gap(place):
    luck = random.Random(20)
    kills, head = 0, 0
    while kills < KILLS:
        with running(WRITER.replace("BATCH", "7").replace("ROUNDS", "10**9"), place) as writer:
            synced = int(writer.stdout.readline())
            time.sleep(luck.uniform(0, 0.06))
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read()
            assert writer.wait() == -signal.SIGKILL
        kills += 1
        whole = [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        synced = max([synced, *map(int, whole)])
        facts = with_journal(place, lambda journal: list(journal.read()))
        assert [sequence for sequence, _ in facts] == list(range(1, len(facts) + 1))
        assert all(fact.at_s == sequence for sequence, fact in facts)
        assert len(facts) >= synced > head and len(facts) % 7 == 0
        head = len(facts)
    assert kills == KILLS


@pytest.mark.slow
def test_a_hundred_thousand_facts_are_read_in_about_a_second(place):
    facts = [
        TransferEnded(at_s=number, transfer=f"t-{number}", moved_bytes=number) for number in range(100_000)
    ]
    journal = place.open()
    journal.append(facts, 0)
    journal.sync()
    began_s = time.process_time()
    count = sum(1 for _ in journal.read())
    spent_s = time.process_time() - began_s
    journal.close()
    assert count == 100_000
    assert spent_s < 2.0, f"{spent_s:.2f} CPU-s"


# ---------------------------------------------------------------- how it is asked

WRITER = """
import sys
from suan.grid.fact import SiteSilent

if "://" in sys.argv[1]:
    from suan.journals.postgres import open_alone as opened
else:
    from suan.journals.sqlite import SqliteJournal as opened
journal = opened(sys.argv[1])
for _ in range(ROUNDS):
    for _ in range(BATCH):
        head = journal.append([SiteSilent(at_s=journal.head() + 1, site="s")], journal.head())
    journal.sync()
    print(head, flush=True)
for _ in range(3):
    head = journal.append([SiteSilent(at_s=head + 1, site="s")], head)
print("unsynced", head, flush=True)
sys.stdin.read()
"""


class running:
    """A writer in a process of its own, surely ended at the end."""

    def __init__(self, script: str, place: SqlitePlace | PostgresPlace) -> None:
        command = [sys.executable, "-c", script, place.address]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.communicate()


def with_journal(place, work):
    journal = place.open()
    try:
        return work(journal)
    finally:
        journal.close()


def refusal_of(work) -> Refused:
    with pytest.raises(Refused) as refusal:
        work()
    return refusal.value
