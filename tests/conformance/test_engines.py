"""What every engine promises, and what the local one adds because it starts real processes."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import POOL, EngineSite, open_local, processes_of

from suan.engines import devices, supervise
from suan.engines.local import LocalEngine
from suan.engines.metering import IDLE_RATIO, PowerShare, metered
from suan.engines.record import RunRecord
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool

processes = pytest.mark.needs("processes")
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def wait_until(condition, timeout_s: float = 20.0):
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if result := condition():
            return result
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def is_alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def numbers_in(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


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


# ---------------------------------------------------------------- how it ended


@processes
@pytest.mark.parametrize(
    ("setup", "command", "exit_code", "output"),
    [
        ("", "echo out; echo err >&2; exit 7", 7, "out\nerr\n"),
        ("", "kill -9 $$", -9, ""),
        ("", "kill -TERM $$", -15, ""),
        ("export A=1", "echo $A", 0, "1\n"),
        ("false  # a comment at the end", "echo not reached", 1, ""),
        ("exit 9", "echo not reached", 9, ""),
        ("", "no-such-command-anywhere 2>/dev/null", 127, ""),
        ("", "cat; echo end of input", 0, "end of input\n"),
        ("", "echo " + "x" * 200_000 + " | wc -c", 0, "200001\n"),
    ],
)
def test_exit_codes(site: EngineSite, setup: str, command: str, exit_code: int, output: str) -> None:
    ended, log = site.run(site.spec(setup=setup, command=command))
    assert (ended.phase, ended.cause, ended.exit_code) == (RunPhase.ENDED, EndCause.EXITED, exit_code)
    assert log == output


@processes
def test_what_cannot_start_says_why(site: EngineSite, tmp_path: Path) -> None:
    ended, _ = site.run(site.spec(folder=tmp_path / "nowhere"))
    assert ended.cause is EndCause.NOT_STARTED
    assert "nowhere" in ended.detail


@processes
def test_max_duration(site: EngineSite) -> None:
    began_s = time.monotonic()
    ended, _ = site.run(site.spec(command="sleep 600", max_duration_s=1))
    assert ended.cause is EndCause.STOPPED
    assert "longer than 1 s" in ended.detail
    assert time.monotonic() - began_s < 8


ALLOCATE = f"{sys.executable} -c \"x = bytearray(400 << 20); import time; time.sleep(30); print('survived')\""


@processes
@pytest.mark.parametrize("with_cgroups", [True, False])
def test_memory_limit(site: EngineSite, with_cgroups: bool, tmp_path: Path, monkeypatch) -> None:
    if not with_cgroups:  # as on a machine where we may not make control groups
        text = Path(supervise.__file__).read_text().replace('"/sys/fs/cgroup"', '"/nowhere"')
        (tmp_path / "supervise.py").write_text(text)
        monkeypatch.setattr(supervise, "__file__", str(tmp_path / "supervise.py"))
    ended, log = site.run(site.spec(command=ALLOCATE, memory_gib=0.125))
    assert (ended.cause, ended.detail) == (EndCause.EXITED, "memory limit 0.125 GiB exceeded")
    assert ended.exit_code in (-9, -15, 137)
    assert "survived" not in log


@processes
def test_usage_is_metered(site: EngineSite) -> None:
    command = (
        f'{sys.executable} -c "x = bytearray(200 << 20)\nimport time\nwhile time.process_time() < 1: pass"'
    )
    ended, _ = site.run(site.spec(command=command, devices_per_node=2))
    usage = ended.usage
    assert usage is not None
    assert usage.device_s >= 2
    assert 0.9 < usage.cpu_s < 1.6
    assert 0.19 < usage.peak_memory_gib < 0.5
    assert usage.energy_source == "modelled"
    assert usage.energy_kwh > (2 * 10 * IDLE_RATIO + 20) * 1 / 3.6e6


def test_modelled_energy_adds_up() -> None:
    power = PowerShare(devices=4, device_w=100.0, host_w=50.0, by_cpu_time=True)
    full = metered(power, 3600, 4 * 3600, 1 << 30)
    idle = metered(power, 3600, 0, 0)
    assert full.energy_kwh == pytest.approx(0.45)
    assert idle.energy_kwh == pytest.approx(0.4 * IDLE_RATIO + 0.05)
    assert (full.device_s, full.peak_memory_gib) == (4 * 3600, 1.0)


# ---------------------------------------------------------------- devices, nodes, environment


def test_no_devices_is_said_and_leaves_nothing(site: EngineSite) -> None:
    engine = site.open()
    with pytest.raises(SiteTrouble) as trouble:
        engine.launch(site.spec("too-wide", devices_per_node=POOL.devices_per_node + 1))
    assert trouble.value.code == "no_devices"
    engine.launch(site.spec("first", "sleep 600", nodes=2, devices_per_node=3))
    with pytest.raises(SiteTrouble) as trouble:
        engine.launch(site.spec("second", devices_per_node=2))
    assert trouble.value.code == "no_devices"
    assert [run.run for run in engine.runs()] == ["first"]
    engine.stop("first", 1)
    site.wait(engine, "first")
    engine.launch(site.spec("second", devices_per_node=2))
    site.wait(engine, "second")


def test_devices_are_disjoint_after_a_restart_too(site: EngineSite) -> None:
    for run in ("a", "b", "c"):
        site.open().launch(site.spec(run, "sleep 600", devices_per_node=2))
    held = [set(run.devices) for run in site.open().runs()]
    assert sum(map(len, held)) == 6 == len(set.union(*held))


@processes
def test_a_stopping_run_keeps_its_devices(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(
        site.spec(
            "old", "trap '' TERM; echo ready; while :; do sleep 0.05; done", nodes=2, devices_per_node=4
        )
    )
    wait_until(lambda: engine.log("old", 0, 10))
    engine.stop("old", 2)
    with pytest.raises(SiteTrouble):
        engine.launch(site.spec("new"))
    site.wait(engine, "old")
    engine.launch(site.spec("new"))
    site.wait(engine, "new")


def test_devices_are_packed_and_pinned(monkeypatch) -> None:
    pool = Pool(name="gpus", accelerator="H100-SXM", devices_per_node=8, nodes=2, cpus_per_node=64)
    assert devices.choose_devices(pool, 1, 2, {0, 8, 9}) == (
        10,
        11,
    )  # the fuller node, so that the other stays whole
    assert devices.choose_devices(pool, 2, 2, {0, 8, 9}) == (1, 2, 10, 11)
    pinning = devices.pin(pool, (pool,), (10, 11))
    assert pinning.env == {"CUDA_VISIBLE_DEVICES": "10,11", "OMP_NUM_THREADS": "16"}
    ascend = Pool(name="npus", accelerator="Ascend910B1", devices_per_node=8, nodes=1)
    assert devices.pin(ascend, (pool, ascend), (3,)).env["ASCEND_RT_VISIBLE_DEVICES"] == "3"
    more = Pool(name="more", accelerator="A100-80GB-SXM", devices_per_node=4, nodes=1)
    assert devices.pin(more, (pool, ascend, more), (0, 1)).env["CUDA_VISIBLE_DEVICES"] == "16,17"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 6})
    cores = Pool(name="cores", accelerator="CPU-x86", devices_per_node=8, nodes=1)
    assert devices.pin(cores, (cores,), (2, 3)).cpus == (4, 6)  # wrapped around the three cores there are


@processes
def test_cpu_devices_are_pinned(site: EngineSite) -> None:
    report = f'{sys.executable} -c "import os; print(os.sched_getaffinity(0))"; echo $OMP_NUM_THREADS'
    cores = sorted(os.sched_getaffinity(0))
    ended, log = site.run(site.spec(command=report, devices_per_node=1))
    assert log == f"{{{cores[ended.devices[0] % len(cores)]}}}\n1\n"
    _, log = site.run(site.spec(command="echo $OMP_NUM_THREADS", devices_per_node=4))
    assert log == "4\n"
    _, log = site.run(
        site.spec(command="echo $OMP_NUM_THREADS", devices_per_node=4, env={"OMP_NUM_THREADS": "1"})
    )
    assert log == "1\n"


@processes
def test_two_nodes_know_their_ranks_and_meet(site: EngineSite, tmp_path: Path) -> None:
    script = f"""
        import json, os, socket, sys
        rank, meeting = int(os.environ["RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if rank == 0:
            with socket.create_server(meeting) as server:
                server.accept()[0].sendall(b"met")
        else:
            while True:
                try:
                    assert socket.create_connection(meeting).recv(3) == b"met"
                    break
                except OSError:
                    pass
        with open(f"{tmp_path}/{{rank}}", "w") as file:
            json.dump(dict(os.environ), file)
    """
    (tmp_path / "meet.py").write_text(textwrap.dedent(script))
    ended, log = site.run(
        site.spec("pair", f"{sys.executable} {tmp_path}/meet.py", nodes=2, devices_per_node=2)
    )
    assert ended.exit_code == 0, log
    assert len(ended.devices) == 4
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1))
    assert (
        second["RANK"]
        == second["NODE_RANK"]
        == second["SUAN_NODE_RANK"]
        == second["SKYPILOT_NODE_RANK"]
        == "1"
    )
    assert first["LOCAL_RANK"] == second["LOCAL_RANK"] == "0"
    assert first["WORLD_SIZE"] == first["SUAN_NUM_NODES"] == first["SUAN_DEVICES_PER_NODE"] == "2"
    assert first["SKYPILOT_NODE_IPS"].split() == ["127.0.0.1"] * 2
    assert (first["SUAN_RUN_ID"], first["SUAN_JOB_ID"], first["SUAN_POOL"]) == ("pair", "job-1", "pool")


@processes
def test_one_node_failing_ends_the_others_with_its_code(site: EngineSite) -> None:
    command = (
        "trap 'echo told; exit 0' TERM; [ $RANK = 1 ] && { sleep 0.3; exit 3; }; while :; do sleep 0.05; done"
    )
    ended, log = site.run(site.spec(command=command, nodes=2))
    assert (ended.cause, ended.exit_code, ended.detail) == (EndCause.EXITED, 3, "node 1 failed first")
    assert log.endswith("told\n")


@processes
def test_environment_travels_whole(site: EngineSite, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUAN_SITE_KEY", "the agent's own")
    monkeypatch.setenv("FROM_THE_SITE", "kept")
    env = {f"BIG_{number}": chr(0x4E00 + number) * 35_000 for number in range(10)}  # 105 kB of UTF-8 each
    env |= {"QUOTES": "a 'b' \"c\" $d `e`\nnext line", "EMPTY": "", "RANK_OF_ALL": "=x="}
    script = (
        "import hashlib, json, os; print(hashlib.sha256(json.dumps({k: os.environ[k] for k in sorted(%r)})"
    )
    script = (
        script + ".encode()).hexdigest(), 'SUAN_SITE_KEY' in os.environ, os.environ['FROM_THE_SITE'])"
    ) % list(env)
    local = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **env}, capture_output=True, text=True
    )
    _, log = site.run(site.spec(command=f'{sys.executable} -c "{script}"', env=env))
    assert log.split()[0] == local.stdout.split()[0]
    assert log.split()[1:] == ["False", "kept"]


@processes
def test_secrets_are_not_left_on_disk(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("secret", "echo ready; sleep 600", env={"TOKEN": "s3cr3t-value"}))
    wait_until(lambda: engine.log("secret", 0, 10))
    for path in (site.folder / "runs").rglob("*"):
        assert not path.is_file() or b"s3cr3t-value" not in path.read_bytes()


@processes
def test_a_service_is_given_a_port_and_says_so(site: EngineSite) -> None:
    command = f"exec {sys.executable} -m http.server --bind 127.0.0.1 $SUAN_PORT"
    engine = site.open()
    engine.launch(site.spec("s1", command, service=True))
    engine.launch(site.spec("s2", command, service=True))
    engine.launch(site.spec("s3", "echo $SUAN_PORT; sleep 600", service=True, port=23456))
    first, second, third = engine.runs()
    assert len({first.port, second.port, 0}) == 3
    assert third.port == 23456

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", second.port), 1):
            return True
        return False

    wait_until(answers)
    assert wait_until(lambda: engine.log("s3", 0, 100)) == b"23456\n"
    assert site.open().runs()[1].port == second.port


# ---------------------------------------------------------------- log


def test_log_of_the_unknown_is_empty(site: EngineSite) -> None:
    assert site.open().log("nobody", 0, 100) == b""


@processes
def test_ten_mebibytes_of_log_by_offsets(site: EngineSite) -> None:
    ended, _ = site.run(site.spec("loud", "head -c 10485760 /dev/zero | tr '\\0' 'x'; echo end"))
    assert ended.exit_code == 0
    engine, began_s = site.open(), time.monotonic()
    chunks, offset = [], 0
    while chunk := engine.log("loud", offset, 1 << 20):
        chunks.append(chunk)
        offset += len(chunk)
    assert time.monotonic() - began_s < 2
    assert b"".join(chunks) == b"x" * 10_485_760 + b"end\n"
    assert engine.log("loud", 10_485_758, 4) == b"xxen"
    assert engine.log("loud", 0, 0) == b""


@processes
def test_the_tail_of_the_log_survives_a_kill(site: EngineSite) -> None:
    ended, log = site.run(site.spec(command="echo first; echo last words; kill -9 $$"))
    assert (ended.exit_code, log) == (-9, "first\nlast words\n")


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
    engine.renew_lease(2)
    engine.launch(site.spec("kept", "sleep 600"))
    for _ in range(6):
        site.pass_time(0.5)
        engine.renew_lease(2)
    assert site.wait(engine, "kept", RunPhase.RUNNING).phase is RunPhase.RUNNING


# ---------------------------------------------------------------- kills


def supervisor_of(site: EngineSite, run: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[-2:-1] == [bytes(site.folder / "runs" / run)] and b"supervise.py" in words[-3]:
                    return int(entry.name)
    return 0


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
    from conftest import EngineSite, open_local
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
