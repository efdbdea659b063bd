"""What only a Kubernetes cluster does to a run, on a real control plane: its Job deleted, its machine drained
or dead, fields that an old server drops, strangers on its machines, an API that does not answer.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_site import POOL, EngineSite, wait_until
from kubernetes_site import KubernetesOpener

from suan.engines.kubernetes import KubernetesEngine
from suan.engines.kubernetes_api import Api
from suan.engines.kubernetes_site import open_kubernetes
from suan.grid.error import Refused, SiteTrouble
from suan.grid.job import EndCause, RunPhase

NAMESPACE = "default"


@pytest.fixture
def opener(engines) -> KubernetesOpener:
    opener = engines["kubernetes"][0]
    if why := opener.missing():
        pytest.skip(f"kubernetes cannot be started: {why}")
    if os.environ.get("SUAN_TEST_KUBECONFIG"):
        pytest.skip("these tests break a cluster: they are for one of their own (SUAN_KUBE_BIN)")
    return opener


@pytest.fixture
def site(opener: KubernetesOpener, tmp_path: Path) -> Iterator[EngineSite]:
    site = EngineSite("kubernetes", tmp_path / "engine", frozenset({"processes"}), opener)
    yield site
    site.clean()


def jobs(opener: KubernetesOpener, folder: Path) -> list[str]:
    label = (folder / "site-label").read_text()
    return [job.metadata.name for job in opener.api.jobs(NAMESPACE, f"suan.dev/site={label}")]


def pods(opener: KubernetesOpener, folder: Path) -> list[str]:
    label = (folder / "site-label").read_text()
    return [pod.metadata.name for pod in opener.api.pods(NAMESPACE, f"suan.dev/site={label}")]


def running(
    site: EngineSite, run: str, command: str = "echo ready; sleep 600", **changes: object
) -> KubernetesEngine:
    engine = site.open()
    engine.launch(site.spec(run, command, **changes))
    site.wait(engine, run, RunPhase.RUNNING)
    return engine


# ---------------------------------------------------------------- what happens to runs


def test_an_ended_run_leaves_nothing_in_the_cluster(site: EngineSite, opener: KubernetesOpener) -> None:
    engine = site.open()
    engine.launch(site.spec("done"))
    site.wait(engine, "done")
    wait_until(lambda: not jobs(opener, site.folder) and not pods(opener, site.folder))
    assert site.open().runs()[0].exit_code == 0


def test_a_deleted_job_is_a_lost_run(site: EngineSite, opener: KubernetesOpener) -> None:
    engine = running(site, "deleted")
    opener.api.delete_job(NAMESPACE, jobs(opener, site.folder)[0])
    ended = site.wait(engine, "deleted")
    assert (ended.cause, ended.detail) == (EndCause.LOST, "the cluster ended its pod")


def test_a_killed_pod_is_a_lost_run_and_ends_the_other_node(
    site: EngineSite, opener: KubernetesOpener
) -> None:
    engine = running(site, "killed", nodes=2)
    victim = pods(opener, site.folder)[0]
    os.kill(opener.cluster.kubelet.process_of(victim), signal.SIGKILL)
    ended = site.wait(engine, "killed")
    assert ended.cause is EndCause.LOST
    assert "its pod ended without a word" in ended.detail
    assert ended.usage is not None and ended.usage.device_s > 0


def test_a_run_is_not_started_again_by_the_cluster(
    site: EngineSite, opener: KubernetesOpener, tmp_path: Path
) -> None:
    """A pod deleted by hand: its Job makes another, which finds its rank taken."""
    command = f"echo x >> {tmp_path}/starts; echo ready; sleep 600"
    engine = running(site, "once", command)
    before = pods(opener, site.folder)[0]
    opener.cluster.kubelet._api.delete_namespaced_pod(before, NAMESPACE)
    assert site.wait(engine, "once").cause is EndCause.LOST
    assert (tmp_path / "starts").read_text() == "x\n"


def test_an_image_that_cannot_be_is_not_started(site: EngineSite, opener: KubernetesOpener) -> None:
    engine = opener.open(site.folder, image="Not A Reference")
    engine.launch(site.spec("image"))
    ended = site.wait(engine, "image")
    assert ended.cause is EndCause.NOT_STARTED
    assert "InvalidImageName" in ended.detail


def test_an_image_without_python_is_not_started(site: EngineSite, opener: KubernetesOpener) -> None:
    engine = opener.open(site.folder, python="no-such-python")
    engine.launch(site.spec("image"))
    ended = site.wait(engine, "image")
    assert ended.cause is EndCause.NOT_STARTED
    assert "no-such-python" in ended.detail


def test_a_run_that_the_cluster_does_not_place_is_given_back(
    site: EngineSite, opener: KubernetesOpener
) -> None:
    engine = opener.open(site.folder, start_s=2, pod={"nodeSelector": {"no": "such"}})
    engine.launch(site.spec("waits"))
    waiting = wait_until(lambda: next((run.detail for run in engine.runs() if run.detail), ""))
    assert "nodes are available" in waiting
    ended = site.wait(engine, "waits")
    assert ended.cause is EndCause.NOT_STARTED and "waited 2 s" in ended.detail
    wait_until(lambda: not jobs(opener, site.folder))


def test_a_lost_answer_is_one_job(
    site: EngineSite, opener: KubernetesOpener, tmp_path: Path, monkeypatch
) -> None:
    """The Job was made, the answer did not come: the run is accepted and goes on."""
    engine = site.open()
    create = Api.create_job

    def deaf(self: Api, *args: object) -> None:
        create(self, *args)
        raise SiteTrouble("engine_unreachable", "the answer was lost")

    monkeypatch.setattr(Api, "create_job", deaf)
    engine.launch(site.spec("lost", f"echo x >> {tmp_path}/starts"))
    monkeypatch.undo()
    assert site.wait(site.open(), "lost").exit_code == 0
    assert (tmp_path / "starts").read_text() == "x\n"


def test_an_agent_killed_before_it_made_the_job(site: EngineSite, tmp_path: Path, monkeypatch) -> None:
    engine = site.open()

    def unheard(*_: object) -> None:
        raise SiteTrouble("engine_unreachable", "nobody heard")

    monkeypatch.setattr(Api, "create_job", unheard)
    engine.launch(site.spec("unheard", f"echo x >> {tmp_path}/starts"))
    assert engine.runs()[0].phase is RunPhase.ORDERED
    monkeypatch.undo()
    assert site.wait(site.open(), "unheard").exit_code == 0


def test_while_the_api_is_silent_runs_go_on_and_end(
    site: EngineSite, opener: KubernetesOpener, monkeypatch
) -> None:
    engine = running(site, "goes-on", "sleep 2; exit 4")

    def silent(*_: object, **__: object) -> None:
        raise SiteTrouble("engine_unreachable", "nobody answers")

    monkeypatch.setattr(Api, "_ask", silent)
    assert engine.runs()[0].phase is RunPhase.RUNNING
    assert engine.pools() != ()
    with pytest.raises(SiteTrouble):
        opener.open(site.folder)
    ended = site.wait(engine, "goes-on")
    assert (ended.cause, ended.exit_code) == (EndCause.EXITED, 4)
    monkeypatch.undo()
    site.open().runs()
    wait_until(lambda: not jobs(opener, site.folder))


def test_jobs_of_runs_that_nobody_knows_are_swept(site: EngineSite, opener: KubernetesOpener) -> None:
    running(site, "orphan")
    (site.folder / "runs" / "orphan").rename(site.folder.parent / "gone")
    site.open().runs()
    wait_until(lambda: not jobs(opener, site.folder) and not pods(opener, site.folder))


# ---------------------------------------------------------------- what the cluster has


def stranger(opener: KubernetesOpener, labels: dict[str, str], cpus: str, owner: str = "") -> str:
    """A pod of somebody else's on the machine with these labels."""
    reference = {"apiVersion": "apps/v1", "kind": owner, "name": "x", "uid": "x"}
    body = {
        "metadata": {"generateName": "stranger-", "ownerReferences": [reference] if owner else []},
        "spec": {
            "nodeSelector": labels,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "c",
                    "image": "x",
                    "command": ["/bin/sleep", "600"],
                    "resources": {"requests": {"cpu": cpus}},
                }
            ],
        },
    }
    made = opener.cluster.kubelet._api.create_namespaced_pod(NAMESPACE, body)
    wait_until(
        lambda: any(pod.metadata.name == made.metadata.name for pod in opener.api.placed_pods(NAMESPACE))
    )
    return made.metadata.name


def test_what_strangers_hold_is_not_given_away(site: EngineSite, opener: KubernetesOpener) -> None:
    engine = site.open()
    assert engine.free() == {POOL.name: (2, 8)}
    name = stranger(opener, opener._labels[site.folder], "3")
    try:
        engine = site.open()
        assert [pool.nodes for pool in engine.pools()] == [1]
        with pytest.raises(SiteTrouble) as trouble:
            engine.launch(site.spec("both", nodes=2, devices_per_node=2))
        assert trouble.value.code == "no_devices"
        engine.launch(site.spec("one", "true", nodes=2, devices_per_node=1))
        assert site.wait(engine, "one").exit_code == 0
    finally:
        opener.cluster.kubelet._api.delete_namespaced_pod(name, NAMESPACE)


def test_a_site_finds_its_pools_and_says_what_it_lacks(opener: KubernetesOpener, tmp_path: Path) -> None:
    kubelet, mark = opener.cluster.kubelet, tmp_path.name.replace("_", "-").lower()[:50]
    h100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "found": mark}
    machine = {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8"}
    kubelet.add_node(f"{mark}-1", machine, h100)
    kubelet.add_node(f"{mark}-2", machine, h100)
    kubelet.add_node(f"{mark}-3", machine, {"found": mark})
    options = {
        "image": "python:3.11",
        "kubeconfig": str(opener.cluster.kubeconfig),
        "nodes": f"found={mark}",
        "queue": "team",
    }
    engine, report = open_kubernetes(tmp_path / "state" / "engine", (), options)
    (pool,) = engine.pools()
    assert (pool.name, pool.accelerator, pool.nodes, pool.devices_per_node, pool.cpus_per_node) == (
        "h100-sxm-x8",
        "H100-SXM",
        2,
        8,
        64.0,
    )
    text = "\n".join(report)
    assert "2 whole machines free, 16 devices free" in text
    assert (
        f"no label says what they have (kubectl label node NAME suan.dev/accelerator=KIND): {mark}-3" in text
    )
    assert "no LocalQueue team" in text
    for number in (1, 2, 3):
        kubelet.remove_node(f"{mark}-{number}")
    for bad in ({"image": ""}, {"claim": "x"}, {"pod": "{"}, {"unknown": "x"}):
        with pytest.raises(Refused) as refused:
            open_kubernetes(tmp_path / "state" / "engine", (), {**options, **bad})
        assert refused.value.code == "bad_engine_option"


# ---------------------------------------------------------------- what servers drop


def test_a_queue_that_an_old_server_would_pass_by_is_refused(
    site: EngineSite, opener: KubernetesOpener
) -> None:
    """Kubernetes 1.20 drops `suspend`: the Job would start at once, whatever the queue's quota."""
    if opener.api.version() >= (1, 21):
        pytest.skip("this server knows suspend")
    engine = opener.open(site.folder, queue="team")
    with pytest.raises(SiteTrouble) as trouble:
        engine.launch(site.spec("early"))
    assert trouble.value.code == "no_queue"
    with local_queue(opener, "team"):
        with pytest.raises(SiteTrouble) as trouble:
            engine.launch(site.spec("dropped", "touch started"))
        assert trouble.value.code == "fields_dropped"
        assert "spec.suspend" in trouble.value.what
    assert engine.runs() == ()
    time.sleep(1)
    assert not (site.folder.parent / "work" / "started").exists()
    wait_until(lambda: not jobs(opener, site.folder))


@contextlib.contextmanager
def local_queue(opener: KubernetesOpener, name: str) -> Iterator[None]:
    """Kueue's LocalQueue as far as an API server goes: its definition and one object. No controller."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "localqueues.kueue.x-k8s.io"},
        "spec": {
            "group": "kueue.x-k8s.io",
            "scope": "Namespaced",
            "names": {"plural": "localqueues", "singular": "localqueue", "kind": "LocalQueue"},
            "versions": [version],
        },
    }
    queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "LocalQueue",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"clusterQueue": "all"},
    }
    opener.api._ask("POST", definitions, definition)

    def made() -> bool:
        with contextlib.suppress(SiteTrouble):
            queues = f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{NAMESPACE}/localqueues"
            return bool(opener.api._ask("POST", queues, queue))
        return opener.api.has_queue(NAMESPACE, name)

    wait_until(made)
    yield
    opener.api._ask("DELETE", f"{definitions}/localqueues.kueue.x-k8s.io")
