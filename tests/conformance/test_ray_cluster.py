"""A real Ray cluster whose nodes have accelerators in name: what it gives, and what is left of runs when its
nodes and its head are killed."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_site import EngineSite, is_alive, numbers_in, wait_until
from ray_cluster import NodeShape, RayCluster, free_ports, missing

from suan.engines import ray
from suan.engines.ray import RayEngine
from suan.engines.ray_api import RayApi, Submission
from suan.engines.ray_site import open_ray
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause, RunPhase

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"Ray cannot be started: {missing()}"),
]
SHAPES = (NodeShape(4, 8, "H100"), NodeShape(4, 8, "Ascend910B", "NPU"))
H100 = {"pool": "h100-sxm", "accelerator": "H100-SXM"}
ASCEND = {"pool": "ascend910b2", "accelerator": "Ascend910B2"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster(SHAPES, free_ports())
    try:
        yield cluster.start()
    finally:
        cluster.close()


@pytest.fixture
def site(cluster: RayCluster, tmp_path: Path) -> Iterator[EngineSite]:
    opener: Callable[[Path], RayEngine] = lambda folder: RayEngine(folder, (), cluster.api())  # noqa: E731
    site = EngineSite("ray", tmp_path / "engine", frozenset({"processes"}), opener)
    yield site
    site.clean()


@contextlib.contextmanager
def others_use(api: RayApi, gpus: int) -> Iterator[None]:
    """Somebody else's job on the cluster."""
    job = f"theirs-{time.monotonic_ns()}"
    api.submit(Submission(entrypoint="sleep 600", submission_id=job, entrypoint_num_gpus=gpus))
    wait_until(lambda: any(node.used.get("GPU") for node in api.nodes()))
    wait_until(lambda: (api.job(job) or job).status == "RUNNING")
    try:
        yield
    finally:
        api.stop(job)


def test_a_site_says_what_it_found_and_what_it_lacks(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(cluster.token + "\n")
    options = {"url": cluster.address, "token_file": str(tmp_path / "token")}
    engine, report = open_ray(tmp_path / "engine", (), options)
    shapes = [(pool.name, pool.accelerator, pool.nodes, pool.devices_per_node) for pool in engine.pools()]
    assert shapes == [("ascend910b2", "Ascend910B2", 1, 8), ("h100-sxm", "H100-SXM", 1, 8)]
    free = "free now: 1 whole nodes, 8 devices"
    assert f"found: pool h100-sxm: 1 nodes, 8 × H100-SXM each; {free}" in report
    assert not [line for line in report if line.startswith("lacks")]


def test_a_wrong_token_is_said(cluster: RayCluster, tmp_path: Path) -> None:
    with pytest.raises(SiteTrouble) as trouble:
        RayEngine(tmp_path, (), RayApi(cluster.address, "another"))
    assert trouble.value.code == "ray_no_access"


@pytest.mark.parametrize(
    ("where", "variable"), [(H100, "CUDA_VISIBLE_DEVICES"), (ASCEND, "ASCEND_RT_VISIBLE_DEVICES")]
)
def test_runs_see_their_own_devices_only(site: EngineSite, where: dict, variable: str) -> None:
    engine = site.open()
    for run in ("a", "b"):
        engine.launch(site.spec(run, f"echo ${variable}; sleep 600", devices_per_node=3, **where))
    seen = [wait_until(lambda run=run: engine.log(run, 0, 100)).decode().strip() for run in ("a", "b")]
    devices = [set(text.split(",")) for text in seen]
    assert [len(each) for each in devices] == [3, 3] and not devices[0] & devices[1]


def test_what_others_use_is_not_promised(site: EngineSite, cluster: RayCluster, monkeypatch) -> None:
    monkeypatch.setattr(ray, "_SETTLE_S", 1.0)
    engine = site.open()
    with others_use(cluster.api(), 6):
        with pytest.raises(SiteTrouble) as trouble:
            engine.launch(site.spec("wide", devices_per_node=4, **H100))
        assert (trouble.value.code, trouble.value.fields["free_devices"]) == ("no_devices", 2)
        assert engine.runs() == ()


def test_a_job_that_waits_in_ray_is_stopped_at_once_and_never_starts(
    site: EngineSite, cluster: RayCluster, monkeypatch, tmp_path: Path
) -> None:
    """Ray itself leaves such a job waiting for ever: it is what somebody took first that decides."""
    engine, api = site.open(), cluster.api()
    with others_use(api, 8):
        (full,) = [node for node in api.nodes() if node.device_resource == "GPU"]
        monkeypatch.setattr(RayEngine, "_choose", lambda *_: (full,))  # as if it had been free a moment ago
        engine.launch(site.spec("waits", f"touch {tmp_path}/started", **H100))
        monkeypatch.undo()
        time.sleep(1)
        assert [run.phase for run in engine.runs()] == [RunPhase.ORDERED]
        engine.stop("waits", 1)
        (ended,) = engine.runs()
        assert (ended.phase, ended.cause) == (RunPhase.ENDED, EndCause.STOPPED)
    job = engine._submission_id("waits")
    wait_until(lambda: (seen := api.job(job)) is None or seen.status in ray.ENDED)
    assert not (tmp_path / "started").exists()


def test_a_job_that_ray_leaves_waiting_is_given_up(
    site: EngineSite, cluster: RayCluster, monkeypatch
) -> None:
    monkeypatch.setattr(ray, "_PATIENCE_S", 2.0)
    engine, api = site.open(), cluster.api()
    with others_use(api, 8):
        (full,) = [node for node in api.nodes() if node.device_resource == "GPU"]
        monkeypatch.setattr(RayEngine, "_choose", lambda *_: (full,))
        engine.launch(site.spec("waits", **H100))
        ended = site.wait(engine, "waits")
    assert ended.cause is EndCause.NOT_STARTED and "did not start" in ended.detail


def test_ray_shows_nobody_a_secret(site: EngineSite, cluster: RayCluster) -> None:
    engine = site.open()
    engine.launch(site.spec("secret", "echo ready; sleep 600", env={"TOKEN": "s3cr3t-value"}, **H100))
    wait_until(lambda: engine.log("secret", 0, 10))
    shown = [repr(cluster.api()._ask("GET", path)) for path in ("/api/jobs/", "/api/v0/actors?detail=1")]
    assert "secret" in shown[0] and not any("s3cr3t-value" in text for text in shown)


def test_a_run_that_somebody_stops_in_ray_is_lost_not_failed(site: EngineSite, cluster: RayCluster) -> None:
    engine = site.open()
    engine.launch(site.spec("theirs", "sleep 600", **H100))
    site.wait(engine, "theirs", RunPhase.RUNNING)
    cluster.api().stop(engine._submission_id("theirs"))
    assert site.wait(engine, "theirs").cause is EndCause.LOST


def test_what_this_site_does_not_know_goes_from_rays_list(site: EngineSite, cluster: RayCluster) -> None:
    engine, api = site.open(), cluster.api()
    engine.launch(site.spec("done", "exit 3", **H100))
    site.wait(engine, "done")
    stray = Submission(
        entrypoint="sleep 600",
        submission_id=engine._submission_id("stray"),
        metadata={"suan_engine": engine._id},
    )
    api.submit(stray)
    bare = Submission(entrypoint="true", submission_id=engine._submission_id("bare"))
    api.submit(bare)  # so Ray writes a job down again that it has just deleted
    api.submit(Submission(entrypoint="sleep 600", submission_id="theirs", metadata={"suan_engine": "other"}))
    job = engine._submission_id("done")
    wait_until(lambda: api.job(job).status in ray.ENDED)
    engine._sweep()
    assert api.job(job) is not None  # the site still knows it
    engine.forget("done")

    gone = (job, stray.submission_id, bare.submission_id)

    def left() -> list[str]:
        time.sleep(1)  # Ray takes its time to stop one
        engine._sweep()
        return [str(seen) for one in gone if (seen := api.job(one)) is not None]

    deadline_s = time.monotonic() + 180
    while (jobs := left()) and time.monotonic() < deadline_s:
        pass
    assert not jobs
    assert api.job("theirs").status not in ray.ENDED
    api.stop("theirs")


def test_a_removed_folder_ends_its_runs(site: EngineSite, tmp_path: Path) -> None:
    engine = site.open()
    engine.launch(site.spec("left", f"echo $$ > {tmp_path}/pid; sleep 600", **H100))
    (shell,) = wait_until(lambda: numbers_in(tmp_path / "pid"))
    (site.folder / "runs").rename(tmp_path / "gone")
    wait_until(lambda: not is_alive(shell))
    (tmp_path / "gone").rename(site.folder / "runs")


def test_a_killed_supervisor_leaves_no_orphans(site: EngineSite, tmp_path: Path) -> None:
    engine = site.open()
    command = f"(setsid sleep 600 & echo $! >> {tmp_path}/pids); echo $$ $PPID >> {tmp_path}/pids; sleep 600"
    engine.launch(site.spec("orphan", command, **H100))
    *processes, supervisor = wait_until(
        lambda: len(numbers_in(tmp_path / "pids")) == 3 and numbers_in(tmp_path / "pids")
    )
    os.kill(supervisor, signal.SIGKILL)
    ended = site.wait(engine, "orphan")
    assert (ended.cause, ended.exit_code) == (EndCause.LOST, None)
    assert "supervisor was killed" in ended.detail
    assert not any(map(is_alive, processes))


def test_what_is_left_when_a_node_and_then_the_head_are_killed(
    site: EngineSite, cluster: RayCluster, tmp_path: Path
) -> None:
    """Machines that fail take their runs along. A head that is killed forgets its jobs: the site does not."""
    engine = site.open()
    engine.launch(site.spec("far", f"echo $$ > {tmp_path}/far; sleep 600", **ASCEND))
    engine.launch(site.spec("near", f"echo $$ > {tmp_path}/near; trap '' TERM; sleep 600", **H100))
    (far,), (near,) = (wait_until(lambda name=name: numbers_in(tmp_path / name)) for name in ("far", "near"))
    cluster.kill(1)
    assert site.wait(engine, "far", timeout_s=120).cause is EndCause.LOST
    assert not is_alive(far) and is_alive(near)
    cluster.kill_ray(0)
    ended = site.wait(engine, "near", timeout_s=120)  # by what its node says: there is no head to ask
    assert ended.cause is EndCause.LOST
    assert not is_alive(near)
    cluster.start()
    engine = site.open()
    assert cluster.api().job(engine._submission_id("near")) is None
    engine.launch(site.spec("near", f"touch {tmp_path}/again", **H100))  # known: not started again
    engine.launch(site.spec("next", "exit 5", **H100))
    assert site.wait(engine, "next").exit_code == 5
    assert [(run.run, run.cause) for run in engine.runs()] == [
        ("far", EndCause.LOST),
        ("near", EndCause.LOST),
        ("next", EndCause.EXITED),
    ]
    assert not (tmp_path / "again").exists()
