"""The quickstart with its grid and agents killed at random moments, until twenty kills are counted.

Whatever is killed is started again, by the driver or with `--resume`; then every stage has run to its end,
has exactly one committed output, and the ledger sums to zero. The seed is printed, the moments are the
machine's.
"""

import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from test_quickstart import BATCH, NAMES, Driver, running

from suan.doors.cli import process as processes
from suan.grid.job import JobPhase
from suan.grid.state import State
from suan.journals.sqlite import SqliteJournal
from suan.rules.evolve import fold

KILLS = 20
SEED = 20_261_121


def kill_one(state: Path, dice: random.Random) -> str:
    """The name of what was killed, "" when it was not running just then."""
    name = dice.choice(NAMES)
    process = processes.load(state / f"{name}.process.json")
    if process is None or not process.alive:
        return ""
    process.signal(signal.SIGKILL)
    return name


def live_through(state: Path, logs: Path, dice: random.Random, kills: Counter[str]) -> None:
    """One quickstart to its end, killed on the way; started again when a kill ends the driver too."""
    for attempt in range(KILLS + 10):  # any kill may end a start
        driver = Driver(state, logs / f"{state.name}-{attempt}.log", "--resume")
        while driver.process.poll() is None:
            time.sleep(dice.uniform(0.3, 3.0))
            if sum(kills.values()) < KILLS and (name := kill_one(state, dice)):
                kills[name] += 1
        if driver.end() == 0:
            return
    pytest.fail(f"not finished after {attempt + 1} starts: {driver.said[-2000:]}")


def check(state: Path) -> None:
    journal = SqliteJournal(state / "grid" / "grid.sqlite")
    facts = [fact for _, fact in journal.read()]
    journal.close()
    folded = fold(State(), facts)
    phases = {job.task.name: job.phase for job in folded.jobs.values()}
    done = dict.fromkeys(BATCH, JobPhase.SUCCEEDED)
    assert phases == {**done, "serve": JobPhase.STOPPED}
    ends = Counter(fact.job for fact in facts if type(fact).__name__ == "JobEnded")
    assert set(ends.values()) == {1}
    made = Counter(artifact.job for artifact in folded.artifacts.values() if artifact.job)
    assert {folded.jobs[job].task.name: count for job, count in made.items()} == {
        **dict.fromkeys(done, 1),
        "alignment": 3,
    }
    assert sum(folded.balances.values()) == 0
    assert not any(folded.used_devices.values())


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    kills: Counter[str] = Counter()
    lives = 0
    while sum(kills.values()) < KILLS:
        lives += 1
        state = tmp_path / f"life-{lives}"
        try:
            live_through(state, tmp_path, dice, kills)
            assert running(state) == []
            check(state)
        finally:
            for process in running(state):  # only after a failed test
                process.signal(signal.SIGKILL)
    print(f"seed {SEED}: {sum(kills.values())} kills in {lives} quickstarts: {dict(sorted(kills.items()))}")
    assert sum(kills.values()) >= KILLS and len(kills) == len(NAMES)
