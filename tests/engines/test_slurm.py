"""Slurm for real: accelerators, other users, and everything that can die, on a cluster of three nodes.

What every engine promises is in tests/conformance; here is what only a cluster can do to a run.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from engine_site import EngineSite, is_alive, numbers_in, wait_until
from slurm_cluster import SlurmCluster, missing

from suan.engines.slurm import SlurmEngine
from suan.engines.slurm_calls import Commands, Rest, Slurm
from suan.engines.slurm_record import SlurmRecord
from suan.engines.slurm_site import open_slurm
from suan.grid.error import Refused, SiteTrouble
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"Slurm cannot be started: {missing()}")
_NODE = "Sockets=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=16000"
GPUS = {"pool": "main-h100-sxm", "accelerator": "H100-SXM"}
CORES = {"pool": "main-cpu-x86", "accelerator": "CPU-x86"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    folder = Path(tempfile.mkdtemp(prefix="suan-slurm-"))
    cluster = SlurmCluster(
        folder,
        nodes=[
            f"g1 CPUs=8 {_NODE} Gres=gpu:h100:4",
            f"g2 CPUs=8 {_NODE} Gres=gpu:h100:4,npu:910b3:2",
            "c1 CPUs=4 Sockets=1 CoresPerSocket=2 ThreadsPerCore=2 RealMemory=8000",
        ],
        partitions=[
            "main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1",
            "urgent Nodes=g1 MaxTime=INFINITE State=UP PriorityTier=10",
        ],
    )
    try:
        cluster.start()
        cluster.start_rest()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(cluster: SlurmCluster) -> Slurm:
    return Commands(str(cluster.config))


@pytest.fixture
def site(cluster: SlurmCluster, slurm: Slurm, tmp_path: Path) -> Iterator[EngineSite]:
    site = EngineSite("slurm", tmp_path / "engine", frozenset(), lambda folder: SlurmEngine(folder, slurm))
    cluster.settle()
    yield site
    site.clean()
    cluster.command("scancel", "--user", str(os.getuid()), check=False)
    wait_until(lambda: not cluster.command("squeue", "-h").strip())


# ---------------------------------------------------------------- what there is


@pytest.mark.parametrize("over", ["commands", "rest"])
def test_pools_and_accelerators_are_found(cluster: SlurmCluster, tmp_path: Path, over: str) -> None:
    options = {"config": str(cluster.config)}
    if over == "rest":
        if not cluster.rest_url:
            pytest.skip("slurmrestd cannot be started here; Debian: slurmrestd, as root")
        (tmp_path / "token").write_text(cluster.token())
        options = {"url": cluster.rest_url, "user": "root", "token_file": str(tmp_path / "token")}
    engine, report = open_slurm(tmp_path / "engine", (), options)
    pools = {pool.name: pool for pool in engine.pools()}
    assert {name: (pool.accelerator, pool.nodes, pool.devices_per_node) for name, pool in pools.items()} == {
        "main-h100-sxm": ("H100-SXM", 2, 4),
        "main-ascend910b3": ("Ascend910B3", 1, 2),
        "main-cpu-x86": ("CPU-x86", 1, 2),  # cores, not threads
    }
    assert any("free now: 2 whole nodes, 8 devices" in line for line in report)
    assert any("urgent shares nodes with main" in line for line in report)


def test_declared_pools_are_slurms_with_prices(cluster: SlurmCluster, slurm: Slurm, tmp_path: Path) -> None:
    declared = Pool(name="urgent", accelerator="H100-PCIe", nodes=1 << 30, devices_per_node=8, device_w=350.0)
    engine = SlurmEngine(tmp_path / "engine", slurm, (declared,))
    (pool,) = engine.pools()
    assert (pool.nodes, pool.devices_per_node, pool.device_w, pool.accelerator) == (1, 4, 350.0, "H100-PCIe")
    with pytest.raises(Refused) as refused:
        SlurmEngine(
            tmp_path / "other", slurm, (Pool(name="nope", accelerator="A40", nodes=1, devices_per_node=1),)
        )
    assert "main-h100-sxm" in refused.value.hint


def test_a_drained_node_leaves_its_pool(cluster: SlurmCluster, site: EngineSite) -> None:
    cluster.command("scontrol", "update", "nodename=g2", "state=drain", "reason=test")
    try:
        engine = site.open()
        engine.inventory()  # asks now; by itself it would within 20 s
        nodes = {pool.name: pool.nodes for pool in engine.pools()}
        assert (nodes["main-h100-sxm"], nodes["main-ascend910b3"]) == (1, 0)
    finally:
        cluster.command("scontrol", "update", "nodename=g2", "state=resume")


def test_an_agent_starts_while_slurm_is_silent(
    cluster: SlurmCluster, site: EngineSite, tmp_path: Path
) -> None:
    before = site.open().pools()
    silent = Rest("http://127.0.0.1:9", "root", lambda: "token")
    assert SlurmEngine(site.folder, silent).pools() == before
    with pytest.raises(SiteTrouble):
        SlurmEngine(tmp_path / "never-asked", silent)


# ---------------------------------------------------------------- devices


def test_runs_get_devices_of_their_own(site: EngineSite) -> None:
    engine = site.open()
    command = "echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $SKYPILOT_NUM_GPUS_PER_NODE; sleep 600"
    for run in ("a", "b"):
        engine.launch(site.spec(run, command, devices_per_node=2, **GPUS))
    logs = [wait_until(lambda run=run: engine.log(run, 0, 100)).split() for run in ("a", "b")]
    for indices, threads, devices in logs:
        assert len(indices.split(b",")) == 2
        assert (threads, devices) == (b"4", b"2")
    wait_until(
        lambda: {found.pool.name: found.free_devices for found in engine.inventory()[0]}[GPUS["pool"]] == 4
    )


def test_resources_that_slurm_has_no_variable_for(site: EngineSite) -> None:
    spec = site.spec(command="echo $ASCEND_RT_VISIBLE_DEVICES", devices_per_node=2, pool="main-ascend910b3")
    ended, log = site.run(spec)
    assert (ended.exit_code, log) == (0, "0,1\n")


def test_nodes_of_a_run_have_devices_and_addresses(site: EngineSite) -> None:
    command = "echo $RANK $SKYPILOT_NODE_IPS $MASTER_ADDR $CUDA_VISIBLE_DEVICES"
    ended, log = site.run(site.spec(command=command, nodes=2, devices_per_node=4, **GPUS))
    assert ended.exit_code == 0
    assert sorted(log.splitlines()) == [f"{rank} 127.0.0.1 127.0.0.1 127.0.0.1 0,1,2,3" for rank in (0, 1)]


def test_other_users_jobs_only_delay(cluster: SlurmCluster, site: EngineSite) -> None:
    other = cluster.command(
        "sbatch", "--parsable", "-N2", "--gres=gpu:h100:4", "-o/dev/null", "--wrap=sleep 600"
    )
    engine = site.open()
    wait_until(lambda: cluster.command("squeue", "-h", "-t", "running").strip())
    engine.launch(site.spec("waits", "true", devices_per_node=4, **GPUS))
    waiting = wait_until(lambda: [run for run in engine.runs() if run.detail])
    assert waiting[0].phase is RunPhase.ORDERED
    assert waiting[0].detail in ("Slurm: Resources", "Slurm: Priority")
    cluster.command("scancel", other.strip())
    assert site.wait(engine, "waits").exit_code == 0


# ---------------------------------------------------------------- once and only once


def test_an_agent_killed_before_it_submitted(site: EngineSite, monkeypatch, tmp_path: Path) -> None:
    engine = site.open()
    monkeypatch.setattr(SlurmEngine, "_submit", lambda *_: None)
    engine.launch(site.spec("written", f"echo x >> {tmp_path}/starts", **CORES))
    monkeypatch.undo()
    assert site.wait(site.open(), "written").exit_code == 0
    assert (tmp_path / "starts").read_text() == "x\n"


def test_the_answer_to_a_submission_is_lost(
    site: EngineSite, slurm: Slurm, monkeypatch, tmp_path: Path
) -> None:
    engine = site.open()
    submit = Commands.submit

    def lost(self, *details):  # type: ignore[no-untyped-def]
        submit(self, *details)
        raise SiteTrouble("slurm_silent", "no answer", unsure=True)

    monkeypatch.setattr(Commands, "submit", lost)
    engine.launch(site.spec("lost", f"echo x >> {tmp_path}/starts; sleep 1", **CORES))
    monkeypatch.undo()
    assert site.wait(engine, "lost").exit_code == 0
    assert (tmp_path / "starts").read_text() == "x\n"


def test_two_jobs_for_a_run_are_one(site: EngineSite, slurm: Slurm, tmp_path: Path) -> None:
    engine = site.open()
    engine.launch(site.spec("raced", f"echo x >> {tmp_path}/starts; sleep 2", **CORES))
    place = SlurmRecord(site.folder / "runs" / "raced").place()
    assert place is not None
    second = slurm.submit(place.request, dict(os.environ))
    assert site.wait(engine, "raced").exit_code == 0
    wait_until(lambda: all(job.over for job in slurm.jobs() if job.id == second))
    assert (tmp_path / "starts").read_text() == "x\n"


def test_what_slurm_refuses_leaves_nothing(site: EngineSite, cluster: SlurmCluster, slurm: Slurm) -> None:
    engine = SlurmEngine(site.folder, slurm, account="")
    cluster.command("scontrol", "update", "partitionname=main", "state=inactive")
    cluster.command("scontrol", "update", "partitionname=main", "maxnodes=1")
    cluster.command("scontrol", "update", "partitionname=main", "state=up")
    cluster.command("scontrol", "update", "partitionname=main", "state=drain")
    try:
        with pytest.raises(SiteTrouble) as trouble:
            engine.launch(site.spec("refused", **CORES))
        assert trouble.value.code == "launch_failed"
        assert "artition" in trouble.value.what
        assert engine.runs() == ()
    finally:
        cluster.command("scontrol", "update", "partitionname=main", "state=up", "maxnodes=unlimited")


# ---------------------------------------------------------------- what Slurm does to runs


def test_a_job_that_an_administrator_cancels_is_lost(site: EngineSite, cluster: SlurmCluster) -> None:
    engine = site.open()
    engine.launch(site.spec("cancelled", "sleep 600", **CORES))
    site.wait(engine, "cancelled", RunPhase.RUNNING)
    cluster.command("scancel", "--user", str(os.getuid()))
    ended = site.wait(engine, "cancelled")
    assert ended.cause is EndCause.LOST
    # The node's word may be there before Slurm's.
    assert ended.detail in ("Slurm ended it: CANCELLED", "the system ended the run's supervisor")
    assert ended.usage is not None


def test_preempted_by_slurm(site: EngineSite, cluster: SlurmCluster) -> None:
    """A partition above ours takes the node: the run is lost, told so, and Slurm does not run it again."""
    engine = site.open()
    command = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    engine.launch(site.spec("victim", command, nodes=2, devices_per_node=4, **GPUS))
    wait_until(lambda: engine.log("victim", 0, 10))
    cluster.command("sbatch", "-purgent", "--gres=gpu:h100:4", "-o/dev/null", "--wrap=sleep 600")
    ended = site.wait(engine, "victim")
    assert (ended.cause, ended.detail) == (EndCause.LOST, "Slurm ended it: PREEMPTED")
    assert b"told" in engine.log("victim", 0, 10_000)


def test_a_killed_supervisor_is_a_lost_run_without_orphans(site: EngineSite, tmp_path: Path) -> None:
    engine = site.open()
    command = f"(setsid sleep 600 & echo $! >> {tmp_path}/pids); echo $$ $PPID >> {tmp_path}/pids; sleep 600"
    engine.launch(site.spec("orphan", command, **CORES))
    pids = wait_until(lambda: len(numbers_in(tmp_path / "pids")) == 3 and numbers_in(tmp_path / "pids"))
    os.kill(pids[2], signal.SIGKILL)
    ended = site.wait(engine, "orphan")
    assert (ended.cause, ended.exit_code) == (EndCause.LOST, None)
    wait_until(lambda: not any(map(is_alive, pids[1:])))


@pytest.mark.slow
def test_the_controller_dies_and_nothing_is_lost(site: EngineSite, cluster: SlurmCluster) -> None:
    engine = site.open()
    engine.launch(site.spec("goes-on", "sleep 600", **CORES))
    engine.launch(site.spec("ends", "sleep 10; exit 5", **CORES))
    site.wait(engine, "goes-on", RunPhase.RUNNING)
    site.wait(engine, "ends", RunPhase.RUNNING)
    cluster.saved("ends")
    cluster.kill("slurmctld")
    try:
        engine = site.open()
        assert {run.run: run.phase for run in engine.runs()}["goes-on"] is RunPhase.RUNNING
        assert site.wait(engine, "ends").exit_code == 5
        engine.stop("goes-on", 1)
        assert site.wait(engine, "goes-on").cause is EndCause.STOPPED
    finally:
        cluster.start_controller()


@pytest.mark.slow
def test_a_lost_node_is_a_lost_run(site: EngineSite, cluster: SlurmCluster, tmp_path: Path) -> None:
    engine = site.open()
    engine.launch(site.spec("on-c1", f"echo $PPID > {tmp_path}/pid; sleep 600", **CORES))
    (supervisor,) = wait_until(lambda: numbers_in(tmp_path / "pid"))
    stepd = int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    cluster.kill("slurmd c1")
    for process in (stepd, supervisor):
        os.kill(process, signal.SIGKILL)
    try:
        ended = site.wait(engine, "on-c1", timeout_s=120)
        assert (ended.cause, ended.detail) == (EndCause.LOST, "Slurm ended it: NODE_FAIL")
    finally:
        cluster.start_node("c1")
        cluster.command("scontrol", "update", "nodename=c1", "state=resume", check=False)
        cluster.settle()


# ---------------------------------------------------------------- lease and leftovers


def test_a_run_that_waits_is_fenced_with_the_lease(
    site: EngineSite, cluster: SlurmCluster, tmp_path: Path
) -> None:
    cluster.command("sbatch", "-wc1", "--exclusive", "-o/dev/null", "--wrap=sleep 600")
    wait_until(lambda: cluster.command("squeue", "-h", "-t", "running").strip())
    engine = site.open()
    engine.renew_lease(2)
    engine.launch(site.spec("waits", f"touch {tmp_path}/started", **CORES))
    ended = site.wait(engine, "waits")
    assert (ended.cause, ended.started_at_s) == (EndCause.FENCED, None)
    assert not (tmp_path / "started").exists()


def test_slurm_starts_nothing_after_the_lease_when_the_agent_is_dead(
    site: EngineSite, cluster: SlurmCluster, tmp_path: Path
) -> None:
    options = ("--parsable", "-wc1", "--exclusive", "-o/dev/null", "--wrap=sleep 600")
    other = cluster.command("sbatch", *options).strip()
    wait_until(lambda: cluster.command("squeue", "-h", "-t", "running").strip())
    engine = site.open()
    engine.renew_lease(2)
    engine.launch(site.spec("late", f"touch {tmp_path}/started", **CORES))
    del engine
    time.sleep(2.5)
    cluster.command("scancel", other)
    node = site.folder / "runs" / "late" / "nodes" / "0" / "exit.json"
    wait_until(node.exists)  # the node has decided; no agent has looked
    ended = site.wait(site.open(), "late")
    assert (ended.cause, ended.started_at_s) == (EndCause.FENCED, None)
    assert not (tmp_path / "started").exists()


def test_a_job_without_its_record_is_swept(site: EngineSite, cluster: SlurmCluster, slurm: Slurm) -> None:
    cluster.command("sbatch", "-wc1", "--exclusive", "-o/dev/null", "--wrap=sleep 600")
    wait_until(lambda: cluster.command("squeue", "-h", "-t", "running").strip())
    engine = site.open()
    for run in ("orphan", "known"):
        engine.launch(site.spec(run, "true", **CORES))
    shutil.rmtree(site.folder / "runs" / "orphan")
    wait_until(lambda: engine.runs() and all(job.over for job in slurm.jobs() if job.name.endswith("orphan")))
    assert [run.phase for run in engine.runs()] == [RunPhase.ORDERED]
