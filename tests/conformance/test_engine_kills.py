"""Agents, supervisors and machines that are killed: a run starts at most once and leaves nothing behind."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from engine_site import (
    EngineSite,
    is_alive,
    numbers_in,
    open_local,
    processes,
    processes_of,
    supervisor_of,
    wait_until,
)

from suan.engines import supervise
from suan.engines.local import LocalEngine
from suan.engines.record import RunRecord
from suan.grid.job import EndCause, RunPhase

pytestmark = pytest.mark.needs("supervisors")  # those of this machine, and their records


@processes
def test_a_killed_supervisor_is_a_lost_run_without_orphans(site: EngineSite, tmp_path: Path) -> None:
    command = (
        f"(setsid sleep 600 & echo $! >> {tmp_path}/pids); sleep 600 & echo $! $$ >> {tmp_path}/pids; wait"
    )
    engine = site.open()
    engine.launch(site.spec("orphan", command, devices_per_node=4))
    started = wait_until(lambda: len(numbers_in(tmp_path / "pids")) == 3 and numbers_in(tmp_path / "pids"))
    os.kill(supervisor_of(site, "orphan"), signal.SIGKILL)
    ended = site.wait(site.open(), "orphan")
    assert (ended.cause, ended.exit_code) == (EndCause.LOST, None)
    assert "supervisor was killed" in ended.detail
    assert not any(map(is_alive, started))
    engine.launch(site.spec("orphan", command))  # known: not started again
    assert engine.runs()[0].cause is EndCause.LOST


@processes
def test_a_terminated_supervisor_takes_its_run_along(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("shutdown", "sleep 600"))
    site.wait(engine, "shutdown", RunPhase.RUNNING)
    os.kill(supervisor_of(site, "shutdown"), signal.SIGTERM)
    assert site.wait(engine, "shutdown").cause is EndCause.LOST


@processes
def test_a_run_that_is_ended_a_moment_before_its_supervisor_is_lost(site: EngineSite) -> None:
    """Whoever ends a whole job signals one process after the other: that is no failure of the run."""
    engine = site.open()
    engine.launch(site.spec("cancelled", "sleep 600"))
    site.wait(engine, "cancelled", RunPhase.RUNNING)
    supervisor = supervisor_of(site, "cancelled")
    (shell,) = wait_until(lambda: numbers_in(Path(f"/proc/{supervisor}/task/{supervisor}/children")))
    os.kill(shell, signal.SIGTERM)
    time.sleep(0.1)
    os.kill(supervisor, signal.SIGTERM)
    assert site.wait(engine, "cancelled").cause is EndCause.LOST


@processes
def test_after_a_reboot_runs_are_lost(site: EngineSite, monkeypatch) -> None:
    engine = site.open()
    engine.launch(site.spec("before", "sleep 600"))
    site.wait(engine, "before", RunPhase.RUNNING)
    os.kill(supervisor_of(site, "before"), signal.SIGKILL)
    place = site.folder / "runs" / "before" / "place.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "boot_id": "another boot"}))
    ended = site.wait(site.open(), "before")
    assert (ended.cause, ended.detail) == (EndCause.LOST, "the machine was started anew")
    assert ended.started_at_s is not None and ended.ended_at_s >= ended.started_at_s


@processes
def test_an_accepted_run_starts_with_the_next_engine(site: EngineSite, monkeypatch, tmp_path: Path) -> None:
    """The agent was killed between writing the run down and starting its supervisor."""
    engine = site.open()
    monkeypatch.setattr(LocalEngine, "_start", lambda *_: None)
    engine.launch(site.spec("written", f"echo x >> {tmp_path}/starts"))
    monkeypatch.undo()
    assert not RunRecord(site.folder / "runs" / "written").has_begun()
    site.wait(site.open(), "written")
    assert (tmp_path / "starts").read_text() == "x\n"


@processes
def test_two_supervisors_for_a_run_are_one(site: EngineSite, monkeypatch, tmp_path: Path) -> None:
    engine = site.open()
    monkeypatch.setattr(LocalEngine, "_start", lambda *_: None)
    engine.launch(site.spec("raced", f"echo x >> {tmp_path}/starts; sleep 0.3"))
    monkeypatch.undo()
    command = [sys.executable, "-I", "-S", supervise.__file__, str(site.folder / "runs" / "raced")]
    racers = [subprocess.Popen(command) for _ in range(8)]
    for racer in racers:
        assert racer.wait(30) == 0
    assert site.wait(engine, "raced").exit_code == 0
    assert (tmp_path / "starts").read_text() == "x\n"


@processes
def test_a_supervisor_that_never_comes_up_is_said(site: EngineSite, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise SystemExit('no module named anything')")
    monkeypatch.setattr(supervise, "__file__", str(tmp_path / "broken.py"))
    ended, _ = site.run(site.spec())
    assert ended.cause is EndCause.NOT_STARTED
    assert "no module named anything" in ended.detail


AGENT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from engine_site import EngineSite, open_local
    site = EngineSite("local", Path({folder!r}), frozenset(), open_local)
    print("ready", flush=True)
    engine = site.open()
    for number in range({first}, {first} + 4):
        engine.launch(site.spec(f"run-{{number}}", f"echo $$ >> {starts}/{{number}}; sleep 0.2"))
        engine.runs()
"""


@processes
@pytest.mark.slow
def test_agents_killed_while_launching_start_every_run_once(site: EngineSite, tmp_path: Path) -> None:
    """SIGKILL to agents at random moments of launching, and to supervisors: never two processes a run."""
    starts = tmp_path / "starts"
    starts.mkdir()
    chance, agents_killed, supervisors_killed = random.Random(20), 0, 0
    for round in range(20):
        code = AGENT.format(
            tests=str(Path(__file__).parent), folder=str(site.folder), first=round * 4, starts=starts
        )
        agent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
        assert agent.stdout is not None and agent.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.12))
        if agent.poll() is None:
            agent.kill()
            agents_killed += 1
        agent.wait()
        agent.stdout.close()
        if round % 3 == 0 and (victim := supervisor_of(site, f"run-{round * 4}")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                supervisors_killed += 1
        engine = site.open()
        for number in range(round * 4, round * 4 + 4):
            engine.launch(site.spec(f"run-{number}", f"echo $$ >> {starts}/{number}; sleep 0.2"))
        for number in range(round * 4, round * 4 + 4):
            ended = site.wait(engine, f"run-{number}")
            count = len(numbers_in(starts / str(number)))
            assert (ended.cause, count) == (EndCause.EXITED, 1) or (
                ended.cause is EndCause.LOST and count <= 1
            )
    assert agents_killed >= 10, agents_killed
    print(f"{agents_killed} agents and {supervisors_killed} supervisors killed, 80 runs")


@processes
def test_a_removed_engine_folder_ends_its_runs(tmp_path: Path) -> None:
    engine = open_local(tmp_path / "engine")
    site = EngineSite("local", tmp_path / "engine", frozenset(), open_local)
    engine.launch(site.spec("left", "sleep 600"))
    site.wait(engine, "left", RunPhase.RUNNING)
    (tmp_path / "engine" / "runs").rename(tmp_path / "gone")
    wait_until(lambda: not processes_of(tmp_path))
