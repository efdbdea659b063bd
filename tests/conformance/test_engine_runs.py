"""What a run with real processes finds and leaves: exits, limits, devices, ranks, environment, log."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from engine_site import (
    POOL,
    EngineSite,
    processes,
    wait_until,
)

from suan.engines import devices, supervise
from suan.engines.metering import IDLE_RATIO, PowerShare, metered
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool

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
    ended, _ = site.run(site.spec(command="sleep 600", max_duration_s=1))
    assert ended.cause is EndCause.STOPPED
    assert "longer than 1 s" in ended.detail
    assert ended.ended_at_s - ended.started_at_s < 8


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


@pytest.mark.needs("devices")
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
    if "devices" in site.abilities:  # else the cluster pins, as its own configuration says
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
    assert len(ended.devices) == (4 if "devices" in site.abilities else 0)
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
    addresses = first["SKYPILOT_NODE_IPS"].split()
    assert len(addresses) == 2 and all(address.startswith("127.0.0.") for address in addresses)
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
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the site's own")
    monkeypatch.setenv("LC_MEASUREMENT", "kept")
    env = {f"BIG_{number}": chr(0x4E00 + number) * 35_000 for number in range(10)}  # 105 kB of UTF-8 each
    env |= {"QUOTES": "a 'b' \"c\" $d `e`\nnext line", "EMPTY": "", "RANK_OF_ALL": "=x="}
    script = (
        "import hashlib, json, os; e = os.environ;"
        f" print(hashlib.sha256(json.dumps({{k: e[k] for k in sorted({list(env)})}}).encode()).hexdigest(),"
        " 'SUAN_SITE_KEY' in e, 'AWS_SECRET_ACCESS_KEY' in e, e['LC_MEASUREMENT'])"
    )
    local = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **env}, capture_output=True, text=True
    )
    _, log = site.run(site.spec(command=f'{sys.executable} -c "{script}"', env=env))
    assert log.split()[0] == local.stdout.split()[0]
    assert log.split()[1:] == ["False", "False", "kept"]


@processes
def test_secrets_are_not_left_on_disk(site: EngineSite) -> None:
    engine = site.open()
    engine.launch(site.spec("secret", "echo ready; sleep 600", env={"TOKEN": "s3cr3t-value"}))
    wait_until(lambda: engine.log("secret", 0, 10))
    for path in (site.folder / "runs").rglob("*"):
        assert not path.is_file() or b"s3cr3t-value" not in path.read_bytes()


@processes
def test_a_service_is_given_a_port_and_says_so(site: EngineSite) -> None:
    command = f"exec {sys.executable} -m http.server --bind $SUAN_HOST $SUAN_PORT"
    engine = site.open()
    engine.launch(site.spec("s1", command, service=True))
    engine.launch(site.spec("s2", command, service=True))
    engine.launch(site.spec("s3", "echo $SUAN_PORT; sleep 600", service=True, port=23456))
    first, second, third = engine.runs()
    assert len({first.port, second.port, 0}) == 3
    assert third.port == 23456

    def answers() -> bool:
        where = next(run.address for run in engine.runs() if run.run == "s2")
        with contextlib.suppress(OSError), socket.create_connection((where, second.port), 1):
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
