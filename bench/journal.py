"""How many submissions a second are accepted with an fsync behind each answer? How long does a restart take?

Limits: 500 submissions/s, what Slurm's high-throughput guide says that Slurm sustains for simple batch jobs
(high_throughput.shtml of Slurm 24.11); 10 s for a restart with 100,000 facts, a third of the lease, so that
no site fences itself meanwhile. Bounds in the same run: bare fsyncs on the same disk by one caller, and
decoding the same facts without folding them. PostgreSQL, where its programs are found, beside SQLite: a
server of its own on the same disk, reached over loopback, with fsync.
"""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from report import Result, show

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "conformance"))
from postgres_server import MISSING, find_postgres, serving_postgres

from suan.control.loop import Grid
from suan.grid import fact as f
from suan.grid.job import Resources, Task
from suan.grid.site import Pool
from suan.journals.postgres import open_alone
from suan.journals.sqlite import SqliteJournal
from suan.ports import Journal
from suan.rules.admit import admit
from suan.rules.policy import Policy

CALLERS, SUBMISSIONS, FACTS = 64, 4096, 100_000


class Clock:
    def now_s(self) -> int:
        return int(time.time())


def task(number: int) -> Task:
    return Task(name=f"t{number}", run="true", resources=(Resources(cpus=2),), duration_s=600)


def submit(grid: Grid, number: int) -> None:
    grid.do(lambda state, now_s: (admit(state, "default", (task(number),), now_s=now_s), None))


def fsyncs_a_second(folder: Path) -> float:
    with open(folder / "bare", "wb") as file:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 2:
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())
            count += 1
    return count / (time.perf_counter() - started)


def submissions(journal: Journal, kind: str, folder: Path) -> Result:
    grid = Grid(journal, Clock(), Policy())
    pool = Pool(name="cpu", accelerator="CPU-x86", devices_per_node=2, nodes=1)
    site = (f.SiteJoined(at_s=1, site="a"), f.SiteDescribed(at_s=1, site="a", pools=(pool,)))
    grid.do(lambda state, now_s: (site, None))
    grid.start()
    numbers = iter(range(SUBMISSIONS))
    lock = threading.Lock()

    def caller() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            submit(grid, number)

    started = time.perf_counter()
    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = SUBMISSIONS / (time.perf_counter() - started)
    grid.stop()
    bare = fsyncs_a_second(folder)
    what = f"accepted submissions on {kind}, {CALLERS} callers, fsync before each answer"
    return Result(
        what, rate, "/s", 500, "Slurm's high-throughput guide", rate / bare, "one caller's bare fsyncs", True
    )


def restart(opened: Callable[[], Journal], kind: str) -> Result:
    journal = opened()
    grid = Grid(journal, Clock(), Policy())
    facts: list[f.Fact] = []
    while len(facts) < FACTS - 2:
        number = len(facts)
        facts += [
            f.JobSubmitted(at_s=number, job=f"j{number}", tenant="default", task=task(number)),
            f.JobStopRequested(at_s=number, job=f"j{number}"),
            f.JobEnded(at_s=number, job=f"j{number}", phase="stopped", outcome="stopped on request"),
        ]
    for start in range(0, len(facts), 5000):
        journal.append(facts[start : start + 5000], journal.head())
    grid.stop()
    started = time.perf_counter()
    decoded = opened()
    count = sum(1 for _ in decoded.read())
    bound_s = time.perf_counter() - started
    decoded.close()
    started = time.perf_counter()
    again = Grid(opened(), Clock(), Policy())
    took_s = time.perf_counter() - started
    again.stop()
    what = f"restart with {count:,} facts on {kind}"
    return Result(
        what, took_s, "s", 10, "a third of the lease", took_s / bound_s, "reading and decoding them"
    )


def main() -> None:
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        results = [submissions(SqliteJournal(folder / "grid.sqlite"), "SQLite", folder)]
        results.append(restart(lambda: SqliteJournal(folder / "long.sqlite"), "SQLite"))
        if find_postgres() is None:
            print(MISSING, file=sys.stderr)
        else:
            with serving_postgres(fsync="on", below=Path.cwd()) as server:
                results.append(submissions(open_alone(server.new_database()), "PostgreSQL", folder))
                address = server.new_database()
                results.append(restart(lambda: open_alone(address), "PostgreSQL"))
        show("journal", results)


if __name__ == "__main__":
    main()
