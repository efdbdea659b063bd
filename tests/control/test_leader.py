"""Several control planes on one PostgreSQL journal: one decides, whoever is killed, stopped or mistaken."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
from postgres_server import MISSING, PostgresServer, find_postgres, serving_postgres
from s3_server import free_port

from suan.control.leader import Plane
from suan.doors.client import Client
from suan.grid import fact as f
from suan.grid.action import Observation
from suan.grid.error import NotNow, SuanError
from suan.grid.job import Resources, Task
from suan.grid.site import Pool
from suan.grid.state import State
from suan.journals import postgres as journals
from suan.journals import postgres_tables
from suan.journals.postgres import PostgresJournal, open_alone
from suan.rules.admit import admit
from suan.rules.evolve import fold
from suan.rules.policy import Policy

WITHIN_S = 60.0  # generous: other work may share the machine


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    if find_postgres() is None:
        pytest.skip(MISSING)
    with serving_postgres() as server:
        yield server


@pytest.fixture
def address(server: PostgresServer) -> str:
    return server.new_database()


class Clock:
    def now_s(self) -> int:
        return int(time.time())


class Planes:
    """Planes in threads of this process, each with a session of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.journals: dict[str, PostgresJournal] = {}
        self.planes: dict[str, Plane] = {}

    def start(self, name: str) -> Plane:
        self.journals[name] = PostgresJournal(self.address)
        plane = Plane(
            self.journals[name], Clock(), Policy(), first=lambda state: nothing, url=f"http://{name}"
        )
        self.planes[name] = plane
        plane.start()
        assert plane.settled(WITHIN_S)
        return plane

    def leading(self) -> list[str]:
        return [name for name, plane in self.planes.items() if plane.leads]

    def take_away_lock(self, name: str) -> None:
        """The server forgets that this session leads, and the session does not know."""
        self.journals[name]._ask(lambda db: db.execute("SELECT pg_advisory_unlock_all()"))

    def facts(self) -> list[f.Fact]:
        journal = PostgresJournal(self.address)
        facts = [fact for _, fact in journal.read()]
        journal.close()
        return facts

    def close(self) -> None:
        for plane in self.planes.values():
            plane.stop()


@pytest.fixture
def planes(address: str) -> Iterator[Planes]:
    planes = Planes(address)
    yield planes
    planes.close()


def nothing(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
    return (), None


def task(name: str) -> Task:
    return Task(name=name, run="true", resources=(Resources(cpus=1),), duration_s=60)


def submit(plane: Plane, name: str) -> str:
    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], str]:
        facts = admit(state, "default", (task(name),), now_s=now_s)
        return facts, facts[0].job

    return plane.do(command)


def add_site(plane: Plane) -> None:
    pool = Pool(name="cpu", accelerator="CPU-x86", devices_per_node=2, nodes=1)
    joined = (f.SiteJoined(at_s=1, site="a"), f.SiteDescribed(at_s=1, site="a", pools=(pool,)))
    plane.do(lambda state, now_s: (joined, None))


def until(condition: Callable[[], object], what: str = "", within_s: float = WITHIN_S) -> float:
    """Seconds until it holds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s, f"it did not happen in time: {what}"
        time.sleep(0.01)
    return time.monotonic() - began_s


def refused(work: Callable[[], object]) -> SuanError:
    with pytest.raises(SuanError) as refusal:
        work()
    return refusal.value


# ---------------------------------------------------------------- following


def test_a_follower_reads_what_the_leader_wrote_and_refuses_by_the_leader_s_name(planes: Planes) -> None:
    leader, follower = planes.start("a"), planes.start("b")
    heard: list[tuple[int, f.Fact]] = []
    follower.listen(heard.extend)
    add_site(leader)
    job = submit(leader, "one")
    until(lambda: job in follower.state.jobs and follower.state.jobs[job].runs)  # placed by the leader
    until(lambda: follower.state.sequence == leader.state.sequence)
    assert follower.read(lambda state: state.jobs[job].task.name) == "one"
    assert [sequence for sequence, _ in heard] == list(range(heard[0][0], heard[0][0] + len(heard)))
    refusal = refused(lambda: submit(follower, "two"))
    assert (refusal.code, refusal.status) == ("not_leader", 503)
    assert refusal.fields["leader"] == "http://a" and refusal.fields["retry_after_s"]
    seen = Observation(site="a", epoch=1)
    asks = [lambda: follower.orders("a"), lambda: follower.orders_at_once("a")]
    asks += [lambda: follower.report(seen), lambda: follower.begin(lambda state, now_s: ((), None))]
    for ask in asks:
        assert refused(ask).code == "not_leader"  # neither orders nor a lease from who does not lead
    assert planes.leading() == ["a"]


def test_a_job_that_waits_is_explained_by_a_follower_too(planes: Planes) -> None:
    leader, follower = planes.start("a"), planes.start("b")
    add_site(leader)
    held = [submit(leader, f"holds-{number}") for number in range(2)]
    until(lambda: all(leader.state.jobs[job].runs for job in held))
    job = submit(leader, "waits")
    until(lambda: leader.reason(job))
    until(lambda: follower.reason(job))
    assert follower.reason(job).code == leader.reason(job).code


def test_a_leader_that_goes_leaves_the_lead_to_the_next_who_forgets_nothing(planes: Planes) -> None:
    first, second = planes.start("a"), planes.start("b")
    jobs = [submit(first, f"j{number}") for number in range(20)]
    first.stop()
    until(lambda: second.leads)
    assert [job for job in jobs if job not in second.state.jobs] == []
    assert submit(second, "after") not in jobs
    assert isinstance(planes.facts()[0], f.GridStarted)
    assert sum(isinstance(fact, f.GridStarted) for fact in planes.facts()) == 2  # every clock begins anew


def test_a_leader_that_is_stopped_in_the_moment_it_loses_the_lead_ends(planes: Planes) -> None:
    for name in "abcdefgh":
        plane = planes.start(name)
        until(lambda plane=plane: plane.leads)
        planes.journals[name]._failed = "the session broke"  # what it writes next fails
        stopper = threading.Thread(target=plane.stop, daemon=True)
        stopper.start()
        stopper.join(WITHIN_S)
        assert not stopper.is_alive(), "it follows for ever, and whoever stops it waits"


# ---------------------------------------------------------------- two that believe


def test_a_leader_that_has_nothing_to_write_hears_from_its_beat_that_another_leads(planes: Planes) -> None:
    stale, other = planes.start("a"), planes.start("b")
    planes.take_away_lock("a")
    until(lambda: other.leads and not stale.leads)
    until(lambda: stale.leader == "http://b" and not stale.trouble)


def test_a_leader_whose_lock_is_gone_cannot_write_though_it_believes(planes: Planes) -> None:
    stale, other = planes.start("a"), planes.start("b")
    kept = submit(stale, "kept")
    planes.journals["a"]._beating.set()  # its next beat would tell it
    planes.take_away_lock("a")
    until(lambda: other.leads)
    assert stale.leads, "it has been answered a moment ago, and nobody told it"
    refusal = refused(lambda: submit(stale, "lost"))
    assert refusal.code in ("journal_moved", "not_leader")
    decided = submit(other, "decided")
    until(lambda: not stale.leads)
    until(lambda: stale.state.sequence == other.state.sequence and not stale.trouble)
    names = [job.task.name for job in stale.state.jobs.values()]
    assert names == ["kept", "decided"] and kept != decided
    assert refused(lambda: submit(stale, "again")).fields["leader"] == "http://b"


def test_of_two_writers_at_one_head_one_writes(address: str) -> None:
    """The comparison alone, both sessions sure of themselves and in the middle of a transaction."""
    first = open_alone(address, "http://a")
    first.append([f.SiteSilent(at_s=1, site="s")], 0)
    first.sync()
    first._ask(lambda db: db.execute("SELECT pg_advisory_unlock_all()"))
    second = open_alone(address, "http://b")
    assert second.head() == 1
    outcomes: dict[str, str] = {}

    def write(journal: PostgresJournal, site: str) -> None:
        try:
            journal.append([f.SiteSilent(at_s=2, site=site)], 1)
            journal.sync()
            outcomes[site] = "written"
        except SuanError as error:
            outcomes[site] = error.code

    threads = [threading.Thread(target=write, args=pair) for pair in ((first, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"a": "journal_moved", "b": "written"}
    assert refused(first.sync).code == "journal_failed"
    assert [fact.site for _, fact in second.read()] == ["s", "b"]
    first.close()
    second.close()


def test_while_the_lead_is_torn_away_again_and_again_every_accepted_job_is_there_once(planes: Planes) -> None:
    for name in "abc":
        planes.start(name)
    accepted: list[str] = []
    told: dict[str, int] = {}
    over = threading.Event()

    def caller(mine: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            for plane in planes.planes.values():
                try:
                    submit(plane, f"{mine}-{number}")
                except SuanError as error:
                    told[error.code] = told.get(error.code, 0) + 1
                else:
                    accepted.append(f"{mine}-{number}")
                    break
            time.sleep(0.002)

    callers = [threading.Thread(target=caller, args=(f"c{number}",)) for number in range(3)]
    for thread in callers:
        thread.start()
    torn = 0
    for _ in range(8):
        until(planes.leading)
        time.sleep(0.2)
        for name in planes.leading():
            try:
                planes.take_away_lock(name)
                torn += 1
            except SuanError:
                pass  # it had noticed by itself
    over.set()
    for thread in callers:
        thread.join()
    until(lambda: len(planes.leading()) == 1)
    facts = planes.facts()
    names = [fact.task.name for fact in facts if isinstance(fact, f.JobSubmitted)]
    assert torn >= 5 and len(accepted) > 50, (torn, len(accepted), told)
    assert len(names) == len(set(names))
    assert set(accepted) <= set(names), "accepted and lost"
    state = State()
    fold(state, facts)
    until(lambda: all(plane.state.sequence >= len(facts) for plane in planes.planes.values()))
    for plane in planes.planes.values():
        assert list(plane.state.jobs)[: len(state.jobs)] == list(state.jobs)
    print(f"\nthe lead was torn away {torn} times; {len(accepted)} jobs accepted, refusals {told}")


# ---------------------------------------------------------------- PostgreSQL dies


def test_postgresql_is_killed_and_comes_back(server: PostgresServer, planes: Planes) -> None:
    first, second = planes.start("a"), planes.start("b")
    kept = submit(first, "kept")
    until(lambda: kept in second.state.jobs)
    server.kill()
    try:
        until(lambda: not first.leads and not second.leads)
        assert refused(lambda: submit(first, "lost")).code in ("not_leader", "grid_stopped")
        assert second.read(lambda state: kept in state.jobs), "reads go on"
    finally:
        server.start()
    took_s = until(planes.leading)
    leader = planes.planes[planes.leading()[0]]
    assert kept in leader.state.jobs and submit(leader, "after") in leader.state.jobs
    print(f"\nled again {took_s:.2f} s after PostgreSQL answered")


def test_a_follower_that_loses_the_server_between_news_and_facts_is_read_on(
    planes: Planes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = planes.start("a"), planes.start("b")
    kept = submit(first, "kept")
    until(lambda: kept in second.state.jobs)
    fails = [True]

    def failing(*asked: int) -> Iterator[tuple[int, f.Fact]]:
        if fails:
            raise journals._failure("grid", "the server is gone")
        return read(*asked)

    read = planes.journals["b"].read
    monkeypatch.setattr(planes.journals["b"], "read", failing)
    late = submit(first, "late")
    until(lambda: second.trouble)
    assert second.read(lambda state: kept in state.jobs)
    fails.clear()
    until(lambda: late in second.state.jobs and not second.trouble)


def test_a_plane_whose_session_is_ended_folds_again_and_goes_on(planes: Planes) -> None:
    plane = planes.start("a")
    add_site(plane)
    ended = 0
    for number in range(5):
        submit(plane, f"before-{number}")
        killer = PostgresJournal(planes.address)
        killer._ask(
            lambda db: db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        killer.close()
        ended += 1
        until(lambda: plane.leads and not plane.trouble)
        until(lambda name=f"after-{number}": taken(plane, name))
    state = State()
    until(lambda: not plane._undecided())
    fold(state, planes.facts())
    names = [job.task.name for job in state.jobs.values()]
    assert ended == 5 and names == [job.task.name for job in plane.state.jobs.values()]
    assert {f"before-{number}" for number in range(5)} <= set(names)


def taken(plane: Plane, name: str) -> bool:
    try:
        submit(plane, name)
    except NotNow:
        return False
    return True


# ---------------------------------------------------------------- layouts


def test_tables_are_brought_forward_by_the_next_leader_and_older_versions_stay_away(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_alone(address)
    first.append([f.SiteSilent(at_s=1, site="s")], 0)
    first.close()
    step = "ALTER TABLE journal ADD COLUMN note text NOT NULL DEFAULT ''"
    with monkeypatch.context() as later:
        later.setattr(postgres_tables, "MIGRATIONS", (*postgres_tables.MIGRATIONS, step))
        follower = PostgresJournal(address)  # reads the earlier layout
        assert [sequence for sequence, _ in follower.read()] == [1]
        newer = open_alone(address)
        assert newer._ask(lambda db: db.execute("SELECT version FROM journal_layout").fetchall()) == [
            (1,),
            (2,),
        ]
        newer.append([f.SiteSilent(at_s=2, site="s")], 1)
        newer.close()
        follower.close()
    assert refused(lambda: open_alone(address)).code == "journal_too_new"


def test_what_cannot_hold_a_journal_is_refused(server: PostgresServer, address: str) -> None:
    assert refused(lambda: PostgresJournal(f"{address}-not-there")).code == "journal_unwritable"
    nobody = f"postgres://suan:secret@127.0.0.1:{free_port()}/x"
    refusal = refused(lambda: PostgresJournal(nobody))
    assert refusal.code == "journal_unwritable" and "secret" not in str(refusal)
    with journals.psycopg.connect(server.url("postgres"), autocommit=True) as db:
        db.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    assert refused(lambda: PostgresJournal(server.url("latin"))).code == "postgres_unfit"
    with journals.psycopg.connect(address) as db:
        db.execute("CREATE TABLE fact (other text)")
    assert refused(lambda: PostgresJournal(address)).code == "not_a_journal"


def test_a_dump_restored_elsewhere_is_the_same_grid(
    server: PostgresServer, planes: Planes, tmp_path: Path
) -> None:
    plane = planes.start("a")
    jobs = [submit(plane, f"j{number}") for number in range(5)]
    dump = tmp_path / "grid.dump"
    with dump.open("wb") as file:  # the grid runs on meanwhile
        done = subprocess.run([server.program("pg_dump"), "-Fc", planes.address], stdout=file, timeout=60)
    assert done.returncode == 0
    lost = submit(plane, "after the dump")
    other = server.new_database()
    restore = [server.program("pg_restore"), "--no-owner", "--exit-on-error", "-d", other, str(dump)]
    assert subprocess.run(restore, timeout=60).returncode == 0
    restored = open_alone(other)
    state = State()
    fold(state, (fact for _, fact in restored.read()))
    assert list(state.jobs) == jobs and lost not in state.jobs
    assert restored.secret == planes.journals["a"].secret
    restored.append([f.SiteSilent(at_s=1, site="s")], restored.head())
    restored.close()


# ---------------------------------------------------------------- real processes


class PlaneProcess:
    """`suan up` as a real process."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.folder = folder / name
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "suan.doors.cli.main", "up", "--state", str(self.folder)]
        command += ["--port", str(port), "--journal", address]
        environment = {**os.environ, "SUAN_CONFIG": str(folder / f"{name}.json"), "OMP_NUM_THREADS": "1"}
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def ready(self) -> "PlaneProcess":
        until((self.folder / "grid.json").exists, f"{self.url} is up")
        return self

    def client(self, key: str) -> Client:
        return Client(self.url, key, timeout_s=10)

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def processes(address: str, tmp_path: Path) -> Iterator[list[PlaneProcess]]:
    first = PlaneProcess(tmp_path, "a", address)
    found = [first]
    try:
        first.ready()
        found.append(PlaneProcess(tmp_path, "b", address))
        found[1].ready()
        yield found
    finally:
        for process in found:
            process.end()


def accepted_by(client: Client, name: str) -> bool:
    try:
        client.submit([task(name)])
    except SuanError:
        return False
    return True


def names_at(client: Client) -> list[str]:
    return sorted(job["task"]["name"] for job in client.jobs()["items"])


@pytest.mark.slow
def test_kill_9_of_the_leader_and_the_follower_accepts_within_seconds(processes: list[PlaneProcess]) -> None:
    first, second = processes
    key = (first.folder / "admin.key").read_text().strip()
    follower = second.client(key)
    assert not (second.folder / "admin.key").exists()
    assert accepted_by(follower, "carried to the leader")  # the same key, whichever plane is dialled
    until(lambda: names_at(follower) == ["carried to the leader"], "the follower read it back")
    first.process.kill()
    took_s = until(lambda: accepted_by(follower, "after the kill"), "the follower leads")
    print(f"\nkill -9 of the leader: the next command was accepted {took_s:.2f} s later")
    assert names_at(follower) == ["after the kill", "carried to the leader"]


@pytest.mark.slow
def test_a_leader_that_was_stopped_wakes_up_as_a_follower(processes: list[PlaneProcess]) -> None:
    """Its kernel goes on answering for it, so that only its silence tells; it wakes up sure that it leads."""
    first, second = processes
    key = (first.folder / "admin.key").read_text().strip()
    assert accepted_by(first.client(key), "before")
    first.process.send_signal(signal.SIGSTOP)
    took_s = until(lambda: accepted_by(second.client(key), "meanwhile"), "the follower leads")
    first.process.send_signal(signal.SIGCONT)
    print(f"\nSIGSTOP of the leader: the next command was accepted {took_s:.2f} s later")
    until(lambda: accepted_by(first.client(key), "after"), "carried by the one that led before")
    until(lambda: names_at(first.client(key)) == names_at(second.client(key)), "both have the same jobs")
    assert names_at(second.client(key)) == ["after", "before", "meanwhile"]
