"""What every engine promises: once and only once, stopped when told, fenced when its lease ends."""

import signal
import sys
import textwrap
import time
from pathlib import Path

from engine_site import (
    DEAF,
    EngineSite,
    is_alive,
    numbers_in,
    processes,
    wait_until,
)

from suan.grid.job import EndCause, RunPhase

# ---------------------------------------------------------------- once and only once


def test_launch_twice_is_one_run(site: EngineSite, tmp_path: Path) -> None:
    engine, spec = site.open(), site.spec("twice", f"echo x >> {tmp_path}/starts")
    engine.launch(spec)
    engine.launch(spec)
    ended = site.wait(engine, "twice")
    engine.launch(spec)  # ended is known too
    assert [run.run for run in engine.runs()] == ["twice"]
    assert (ended.cause, ended.exit_code) == (EndCause.EXITED, 0)
    assert ended.started_at_s is not None and ended.ended_at_s is not None
    if "processes" in site.abilities:
        time.sleep(0.2)
        assert (tmp_path / "starts").read_text() == "x\n"


def test_launch_after_restart_is_still_one_run(site: EngineSite) -> None:
    """The answer to a launch was lost with the agent: the new one asks again."""
    spec = site.spec("again", "sleep 600")
    site.open().launch(spec)
    engine = site.open()
    engine.launch(spec)
    assert site.wait(engine, "again", RunPhase.RUNNING).devices == site.open().runs()[0].devices
    assert [run.run for run in engine.runs()] == ["again"]


def test_new_engine_finds_running_and_ended_runs(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("a-ends", "exit 4"))
    engine.launch(site.spec("b-goes-on", "sleep 600"))
    site.wait(engine, "a-ends")
    site.wait(engine, "b-goes-on", RunPhase.RUNNING)
    found = site.open().runs()
    assert [(run.run, run.phase) for run in found] == [
        ("a-ends", RunPhase.ENDED),
        ("b-goes-on", RunPhase.RUNNING),
    ]
    assert found == engine.runs()


def test_forget_drops_ended_runs_only(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("ended"))
    engine.launch(site.spec("running", "sleep 600"))
    site.wait(engine, "ended")
    site.wait(engine, "running", RunPhase.RUNNING)
    for run in ("ended", "running", "unknown"):
        engine.forget(run)
    assert [run.run for run in engine.runs()] == ["running"] == [run.run for run in site.open().runs()]
    assert engine.log("ended", 0, 100) == b""


def test_ids_of_any_spelling(site: EngineSite) -> None:
    engine = site.open()
    ids = ["../../etc/x", ".hidden", "a b/c", "诗-1", "%2E"]
    for run in ids:
        engine.launch(site.spec(run))
    for run in ids:
        site.wait(engine, run)
    assert [run.run for run in site.open().runs()] == sorted(ids)


def test_thousand_runs_listed_in_a_second(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("run-0000"))
    site.wait(engine, "run-0000")
    if "processes" in site.abilities:  # a thousand copies of a record are a thousand ended runs
        first = site.folder / "runs" / "run-0000"
        for number in range(1, 1000):
            copy = first.with_name(f"run-{number:04}")
            copy.mkdir()
            for name in ("place.json", "state.json", "exit.json"):
                if (first / name).exists():
                    (copy / name).write_bytes((first / name).read_bytes())
    else:
        for number in range(1, 1000):
            engine.launch(site.spec(f"run-{number:04}"))
            site.wait(engine, f"run-{number:04}")
    engine = site.open()
    seconds = []
    for _ in range(2):
        began_s = time.process_time()
        assert len(engine.runs()) == 1000
        seconds.append(time.process_time() - began_s)
    assert seconds[0] < 1.0  # asked for by the port's contract: a poll must not cost a second
    assert seconds[1] < 0.1  # and ended runs are not read again


# ---------------------------------------------------------------- stop


def test_stop_of_the_unknown_and_of_the_ended(site: EngineSite) -> None:
    engine = site.open()
    engine.stop("never-heard-of", 1)
    engine.launch(site.spec("done"))
    ended = site.wait(engine, "done")
    engine.stop("done", 1)
    assert engine.runs() == (ended,)


def test_stop_is_told_apart_and_confirmed(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("stopped", "sleep 600"))
    site.wait(engine, "stopped", RunPhase.RUNNING)
    engine.stop("stopped", 10)
    ended = site.wait(engine, "stopped", timeout_s=8)
    assert ended.cause is EndCause.STOPPED
    assert ended.usage is not None


def test_stop_before_it_has_started(site: EngineSite) -> None:
    for number in range(5):
        engine, run = site.open(), f"early-{number}"
        engine.launch(site.spec(run, "sleep 600"))
        engine.stop(run, 1)
        assert site.wait(engine, run).cause is EndCause.STOPPED


@processes
def test_stop_lets_a_run_finish_within_its_grace(site: EngineSite) -> None:
    command = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    engine = site.open()
    engine.launch(site.spec("polite", command))
    wait_until(lambda: engine.log("polite", 0, 10))
    engine.stop("polite", 10)
    ended = site.wait(engine, "polite", timeout_s=8)
    assert (ended.cause, ended.exit_code) == (EndCause.STOPPED, 0)
    assert engine.log("polite", 0, 100).endswith(b"saved\n")


@processes
def test_a_child_finishes_after_its_shell_has_gone(site: EngineSite, tmp_path: Path) -> None:
    """A shell dies of SIGTERM at once; what it started still has the whole grace."""
    script = f"""
        import pathlib, signal, time
        def save(*_):
            time.sleep(1)
            pathlib.Path("{tmp_path}/saved").touch()
            exit()
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(600)
    """
    (tmp_path / "child.py").write_text(textwrap.dedent(script))
    engine = site.open()
    engine.launch(site.spec("child", f"{sys.executable} {tmp_path}/child.py\necho after"))
    wait_until(lambda: engine.log("child", 0, 10))
    engine.stop("child", 15)
    site.wait(engine, "child")
    assert (tmp_path / "saved").exists()


@processes
def test_a_run_that_ignores_sigterm_is_killed_after_its_grace(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("deaf", DEAF))
    wait_until(lambda: engine.log("deaf", 0, 10))
    began_s = time.monotonic()
    engine.stop("deaf", 1)
    engine.stop("deaf", 60)  # told again with more grace: the first word stands
    assert site.wait(engine, "deaf", RunPhase.STOPPING).phase is RunPhase.STOPPING
    ended = site.wait(engine, "deaf")
    assert 0.9 < time.monotonic() - began_s < 10
    assert (ended.cause, ended.exit_code) == (EndCause.STOPPED, -signal.SIGKILL)


@processes
def test_stop_survives_an_agent_restart(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("told", DEAF))
    wait_until(lambda: engine.log("told", 0, 10))
    engine.stop("told", 1)
    assert site.open().runs()[0].phase is RunPhase.STOPPING
    assert site.wait(site.open(), "told").cause is EndCause.STOPPED


@processes
def test_a_stop_reaches_daemons_in_sessions_of_their_own(site: EngineSite, tmp_path: Path) -> None:
    """Nothing a run started outlives it: no second session, no cleared environment, no double fork."""
    loop = f"trap '' TERM; echo $$ >> {tmp_path}/pids; while :; do sleep 0.05; done"
    command = f'(setsid sh -c "{loop}" &) ; (setsid env -i PATH=$PATH sh -c "{loop}" &) ; sleep 600'.replace(
        "$$", "\\$\\$"
    )
    engine = site.open()
    engine.launch(site.spec("daemons", command))
    pids = wait_until(lambda: len(numbers_in(tmp_path / "pids")) == 2 and numbers_in(tmp_path / "pids"))
    engine.stop("daemons", 1)
    site.wait(engine, "daemons")
    assert not any(map(is_alive, pids))


@processes
def test_what_a_run_leaves_in_the_background_ends_with_it(site: EngineSite, tmp_path: Path) -> None:
    ended, _ = site.run(site.spec("leaves", f"setsid sleep 600 & echo $! > {tmp_path}/pid; exit 5"))
    assert (ended.cause, ended.exit_code) == (EndCause.EXITED, 5)
    assert not is_alive(numbers_in(tmp_path / "pid")[0])


# ---------------------------------------------------------------- lease


def test_a_lease_that_ends_fences_the_runs(site: EngineSite) -> None:
    engine = site.open()
    engine.renew_lease(60)
    engine.launch(site.spec("a", "sleep 600"))
    engine.launch(site.spec("b", "sleep 600"))
    site.wait(engine, "a", RunPhase.RUNNING)
    site.wait(engine, "b", RunPhase.RUNNING)
    site.pass_time(1.5)
    engine.renew_lease(1)
    del engine  # the agent has gone; the runs end all the same
    site.pass_time(1.5)
    for run in ("a", "b"):
        assert site.wait(site.open(), run, timeout_s=10).cause is EndCause.FENCED


def test_a_renewed_lease_keeps_the_runs(site: EngineSite) -> None:
    engine = site.open()
    engine.renew_lease(5)
    engine.launch(site.spec("kept", "sleep 600"))

    def renewed() -> RunPhase:
        site.pass_time(0.5)
        engine.renew_lease(5)
        return engine.runs()[0].phase

    wait_until(lambda: renewed() is not RunPhase.ORDERED)  # a busy cluster takes longer than a lease to start
    assert {renewed() for _ in range(12)} == {RunPhase.RUNNING}
