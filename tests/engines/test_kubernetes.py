"""What Kubernetes is told and how its answers are read; runs' folders as pods and agent leave them to each
other.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suan.engines import supervise
from suan.engines.kubernetes_job import JobOrder, dropped, job_manifest
from suan.engines.kubernetes_objects import (
    Node,
    Pod,
    Settings,
    found_pools,
    kind_called,
    machines_of,
    members,
    quantity,
)
from suan.engines.kubernetes_record import NodeExit, PodPlace, PodRecord, verdict
from suan.engines.metering import PowerShare
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause
from suan.grid.site import Pool

PROGRAM = Path(supervise.__file__).with_name("kubernetes_node.py")
PLACE = PodPlace(
    run="j1-r1",
    pool="gpu",
    job="suan-0a1b",
    nodes=2,
    devices_per_node=8,
    resource="nvidia.com/gpu",
    cpus=64.0,
    memory_gib=100.0,
    grace_s=10,
    port=0,
    accepted_at_s=0,
    power=PowerShare(devices=16, device_w=700.0, host_w=500.0, by_cpu_time=False),
)


def node(
    name: str, allocatable: dict[str, str], labels: dict[str, str] | None = None, **spec: object
) -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": labels or {}},
            "spec": spec,
            "status": {
                "allocatable": {"cpu": "64", "memory": "512Gi", **allocatable},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        },
        Node,
    )


def pod(node_name: str, requests: dict[str, str], *, site: str = "", owner: str = "ReplicaSet") -> Pod:
    return msgspec.convert(
        {
            "metadata": {
                "name": "p",
                "labels": {"suan.dev/site": site} if site else {},
                "ownerReferences": [{"kind": owner}],
            },
            "spec": {"nodeName": node_name, "containers": [{"resources": {"requests": requests}}]},
            "status": {"phase": "Running"},
        },
        Pod,
    )


SETTINGS = Settings(image="python:3.11")
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}

# ---------------------------------------------------------------- pools


@pytest.mark.parametrize(
    ("label", "resource", "kind"),
    [
        ("NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu", "H100-SXM"),
        ("NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu", "A100-80GB-SXM"),
        ("NVIDIA-H100-80GB-HBM3-SHARED", "nvidia.com/gpu", "H100-SXM"),
        ("nvidia-tesla-t4", "nvidia.com/gpu", "T4"),
        ("nvidia-l4", "nvidia.com/gpu", "L4"),
        ("AMD_Instinct_MI300X_OAM", "amd.com/gpu", "MI300X"),
        ("Ascend910B3", "huawei.com/Ascend910", "Ascend910B3"),
        ("huawei-Ascend910", "huawei.com/Ascend910", ""),
        ("NVIDIA-H100-80GB-HBM3", "amd.com/gpu", ""),
        ("something-new", "nvidia.com/gpu", ""),
    ],
)
def test_device_labels_are_the_tables_kinds(label: str, resource: str, kind: str) -> None:
    assert kind_called(label, resource) == kind


def test_a_cluster_is_pools_of_equal_machines() -> None:
    eight, four = {"nvidia.com/gpu": "8"}, {"nvidia.com/gpu": "4"}
    nodes = [
        node("a", eight, H100),
        node("b", eight, H100, taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]),
        node("c", four, H100),
        node("d", eight, {"suan.dev/pool": "research", **H100}),
        node("e", eight),  # nobody says what it has
        node("f", {}, {"kubernetes.io/arch": "arm64"}),
        node("g", eight, H100, unschedulable=True),
        node("h", eight, H100, taints=[{"key": "maintenance", "effect": "NoExecute"}]),
    ]
    daemons = [pod("f", {"cpu": "500m", "memory": "1Gi"}, owner="DaemonSet")]
    found = found_pools(machines_of(nodes, daemons, SETTINGS, "me"))
    assert [(pool.name, pool.accelerator, pool.nodes, pool.devices_per_node) for pool in found] == [
        ("cpu-arm-x63", "CPU-ARM", 1, 63),
        ("h100-sxm-x4", "H100-SXM", 1, 4),
        ("h100-sxm-x8", "H100-SXM", 2, 8),
        ("research", "H100-SXM", 1, 8),
    ]
    assert found[0].memory_gib_per_node == 511.0


def test_devices_that_others_hold_are_not_ours() -> None:
    nodes = [node("a", {"nvidia.com/gpu": "8"}, H100), node("b", {"nvidia.com/gpu": "8"}, H100)]
    pods = [pod("a", {"nvidia.com/gpu": "3"}), pod("b", {"nvidia.com/gpu": "8"}, site="me")]
    first, second = machines_of(nodes, pods, SETTINGS, "me")
    assert (first.free, second.free) == (5, 8)
    pool = Pool(name="gpu", accelerator="H100-SXM", devices_per_node=8, nodes=9)
    assert [machine.name for machine in members(pool, [first, second])] == ["a", "b"]


def test_quantities() -> None:
    assert [quantity(text) for text in ("500m", "64Gi", "2", "1e3", "")] == [
        0.5,
        64 * 2**30,
        2.0,
        1000.0,
        0.0,
    ]


# ---------------------------------------------------------------- the Job


def order(**changes: object) -> JobOrder:
    given = {
        "place": PLACE,
        "site": "site-1",
        "command": ("python3", "node.py", "/state/engine/runs/r"),
        "volumes": (Path("/suan/state/engine"),),
        "hosts": ("a", "b"),
        "user": 1000,
        "group": 1000,
        "indexed": True,
    }
    return JobOrder(**{**given, **changes})


def test_a_job_asks_for_whole_machines_apart_and_never_for_a_second_try() -> None:
    job = job_manifest(order(), SETTINGS)
    spec = job["spec"]
    assert (spec["parallelism"], spec["completions"], spec["backoffLimit"], spec["completionMode"]) == (
        2,
        2,
        0,
        "Indexed",
    )
    pod_spec = spec["template"]["spec"]
    assert pod_spec["containers"][0]["resources"] == {
        "requests": {"cpu": "64000m", "memory": "102400Mi", "nvidia.com/gpu": "8"},
        "limits": {"memory": "102400Mi", "nvidia.com/gpu": "8"},
    }
    assert pod_spec["restartPolicy"] == "Never" and not pod_spec["automountServiceAccountToken"]
    assert pod_spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    apart = pod_spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert apart["labelSelector"]["matchLabels"] == {"suan.dev/run": "suan-0a1b"}
    assert (
        "suspend" not in spec and "completionMode" not in job_manifest(order(indexed=False), SETTINGS)["spec"]
    )


def test_a_queue_holds_the_job_until_it_is_admitted() -> None:
    job = job_manifest(order(), msgspec.structs.replace(SETTINGS, queue="team"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["suspend"] is True


def test_a_site_adds_to_every_pod() -> None:
    over = {"hostNetwork": True, "tolerations": [{"key": "team"}], "imagePullSecrets": [{"name": "hub"}]}
    spec = job_manifest(order(), msgspec.structs.replace(SETTINGS, pod=over))["spec"]["template"]["spec"]
    assert spec["hostNetwork"] and spec["imagePullSecrets"] == [{"name": "hub"}]
    assert [one["key"] for one in spec["tolerations"]] == ["nvidia.com/gpu", "team"]


def test_a_claim_is_mounted_where_the_agent_has_it() -> None:
    settings = msgspec.structs.replace(SETTINGS, claim="suan", claim_path=Path("/suan"))
    spec = job_manifest(order(), settings)["spec"]["template"]["spec"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "suan"}} in spec["volumes"]
    assert {"name": "state", "mountPath": "/suan/state/engine", "subPath": "state/engine"} in spec[
        "containers"
    ][0]["volumeMounts"]
    with pytest.raises(SiteTrouble) as trouble:
        job_manifest(order(volumes=(Path("/home/me"),)), settings)
    assert trouble.value.code == "not_on_claim"


def test_what_a_server_leaves_out_is_named() -> None:
    sent = job_manifest(order(), msgspec.structs.replace(SETTINGS, queue="team"))
    kept = json.loads(json.dumps(sent))
    kept["spec"]["template"]["spec"]["containers"].insert(0, {"name": "mesh-proxy"})  # admission may add
    kept["status"] = {}
    assert dropped(sent, kept) == []
    del kept["spec"]["completionMode"]  # the ranks are ours
    assert dropped(sent, kept) == []
    del kept["spec"]["suspend"]  # as 1.20 does: the queue would be passed by
    del kept["spec"]["template"]["spec"]["containers"][1]["volumeMounts"]
    assert dropped(sent, kept) == ["spec.template.spec.containers[0].volumeMounts", "spec.suspend"]


# ---------------------------------------------------------------- how a run ended


def ended(cause: str = "exited", code: int | None = 0, at_s: int = 100, detail: str = "") -> NodeExit:
    return NodeExit(cause=cause, exit_code=code, ended_at_s=at_s, detail=detail, started_at_s=10, cpu_s=1.0)


@pytest.mark.parametrize(
    ("exits", "cause", "code", "detail"),
    [
        ([ended(), ended()], EndCause.EXITED, 0, ""),
        ([ended("followed", -15, 99), ended(code=3)], EndCause.EXITED, 3, "node 1 failed first"),
        ([ended(code=3, at_s=90), ended(code=4, at_s=80)], EndCause.EXITED, 4, "node 1 failed first"),
        ([ended(), ended("stopped", -15)], EndCause.STOPPED, -15, ""),
        (
            [ended("followed", None), ended("lost", None, detail="its pod is gone")],
            EndCause.LOST,
            None,
            "its pod is gone",
        ),
        ([ended("followed", -15), ended("followed", -15)], EndCause.LOST, -15, ""),
        ([ended("terminated", -15, 90), ended("lost", None, detail="gone")], EndCause.LOST, None, "gone"),
        ([ended("terminated", -15, 90), ended(code=7)], EndCause.EXITED, 7, "node 1 failed first"),
        ([ended("fenced", -9), ended("followed", -9)], EndCause.FENCED, -9, ""),
        (
            [ended("not_started", None, detail="no image"), ended("followed", None)],
            EndCause.NOT_STARTED,
            None,
            "no image",
        ),
    ],
)
def test_a_run_ends_as_the_first_node_that_ended_badly(exits, cause, code, detail) -> None:
    exit = verdict(dict(enumerate(exits)))
    assert (exit.cause, exit.exit_code, exit.detail, exit.cpu_s) == (cause, code, detail, 2.0)


# ---------------------------------------------------------------- one log of many


@given(st.lists(st.tuples(st.integers(0, 2), st.text("ab\n", max_size=9), st.booleans()), max_size=25))
def test_bytes_of_a_log_keep_their_offset_and_none_is_lost(tmp_path_factory, writes) -> None:
    folder = tmp_path_factory.mktemp("run")
    record = PodRecord(folder)
    record.create(msgspec.structs.replace(PLACE, nodes=3), "", [])
    told = b""
    for rank, text, look in writes:
        with open(folder / f"log-{rank}", "ab") as file:
            file.write(text.encode())
        if look:
            now = PodRecord(folder).log(0, 1 << 20)
            assert now.startswith(told)
            told = now
            assert told.endswith(b"\n") or not told
    record.end({rank: ended() for rank in range(3)})
    whole = record.log(0, 1 << 20)
    assert whole.startswith(told)
    assert sorted(whole) == sorted("".join(text for _, text, _ in writes).encode())
    pieces = [record.log(offset, 3) for offset in range(0, len(whole), 3)]
    assert b"".join(pieces) == whole


# ---------------------------------------------------------------- the node's program


def prepared(tmp_path: Path, script: str, ranks: int = 1, **changes: object) -> Path:
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (tmp_path / "work").mkdir(exist_ok=True)
    common = {
        "shells": ["/bin/bash", "/bin/sh"],
        "arguments": ["-c", script],
        "folder": str(tmp_path / "work"),
        "env": {},
        "ranks": ranks,
        "grace_s": 2,
        "max_duration_s": None,
        "memory_bytes": 0,
        "lease": str(tmp_path / "lease.json"),
        "meet_s": 20,
        **changes,
    }
    orders = [{**common, "nodes": [{"env": {"RANK": str(rank)}, "cpus": []}]} for rank in range(ranks)]
    PodRecord(folder).create(msgspec.structs.replace(PLACE, nodes=ranks), script, orders)
    return folder


def start(folder: Path, **env: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-s", "-S", "-E", str(PROGRAM), str(folder)],
        env={"PATH": os.environ["PATH"], "SUAN_POD_IP": "127.0.0.1", **env},
        stdout=subprocess.DEVNULL,
    )


def exits(folder: Path) -> dict[int, NodeExit]:
    record = PodRecord(folder)
    return record.node_exits(record.names())


def test_pods_too_many_start_every_rank_once(tmp_path: Path) -> None:
    folder = prepared(tmp_path, f"echo x >> {tmp_path}/starts-$RANK; sleep 0.5", ranks=2)
    pods = [start(folder, SUAN_POD_NAME=f"p{number}") for number in range(5)]
    assert sorted(one.wait(30) for one in pods) == [0, 0, 75, 75, 75]
    assert [(tmp_path / f"starts-{rank}").read_text() for rank in (0, 1)] == ["x\n", "x\n"]
    assert verdict(exits(folder)).cause is EndCause.EXITED


def test_a_completion_index_is_the_rank(tmp_path: Path) -> None:
    folder = prepared(tmp_path, f"echo $POD > {tmp_path}/pod-$RANK", ranks=2)
    pods = [start(folder, POD=f"p{index}", JOB_COMPLETION_INDEX=str(index)) for index in (1, 0)]
    assert [one.wait(30) for one in pods] == [0, 0]
    assert [(tmp_path / f"pod-{rank}").read_text() for rank in (0, 1)] == ["p0\n", "p1\n"]


def test_nothing_starts_before_every_node_has_come_up(tmp_path: Path) -> None:
    folder = prepared(tmp_path, f"touch {tmp_path}/began", ranks=2, meet_s=1)
    assert start(folder).wait(30) == 1
    assert exits(folder)[0].cause == "not_started"
    assert not (tmp_path / "began").exists()


def test_a_node_that_comes_up_after_another_has_failed_starts_nothing(tmp_path: Path) -> None:
    """Else it would run through its whole grace: whom nobody tells to end is only killed."""
    folder = prepared(tmp_path, "exit 3", ranks=2, grace_s=60)
    running = start(folder)
    while PodRecord(folder).node(0) is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGSTOP)
    assert start(folder).wait(30) == 3
    began_s = time.monotonic()
    running.send_signal(signal.SIGCONT)
    running.wait(30)
    assert time.monotonic() - began_s < 10
    assert (exits(folder)[0].cause, exits(folder)[0].started_at_s) == ("followed", None)
    assert verdict(exits(folder)).exit_code == 3


def lease(tmp_path: Path, seconds: float, age_s: float = 0.0) -> None:
    value = {"seconds": seconds, "at_s": time.time() - age_s, "number": random.random()}
    supervise.write_json(str(tmp_path / "lease.json"), value)


def test_a_pod_that_starts_after_the_lease_has_ended_starts_nothing(tmp_path: Path) -> None:
    """The agent died while the pod waited for a machine."""
    lease(tmp_path, 30, age_s=100)
    folder = prepared(tmp_path, f"touch {tmp_path}/began", meet_s=1)
    assert start(folder).wait(30) == 1
    assert exits(folder)[0].cause == "fenced"
    assert not (tmp_path / "began").exists()


@pytest.mark.parametrize("age_s", [100.0, -3600.0])
def test_a_wrong_clock_only_waits_for_the_next_renewal(tmp_path: Path, age_s: float) -> None:
    lease(tmp_path, 30, age_s)
    folder = prepared(tmp_path, "true")
    running = start(folder)
    while running.poll() is None:
        time.sleep(0.5)
        lease(tmp_path, 30, age_s)
    assert running.returncode == 0


def test_a_lease_that_is_not_renewed_ends_the_run_in_time(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "echo ready; sleep 60")
    lease(tmp_path, 60)
    running = start(folder)
    while not PodRecord(folder).names() >= {"state-0.json"}:
        time.sleep(0.05)
    lease(tmp_path, 2)
    began_s = time.monotonic()
    running.wait(30)
    assert time.monotonic() - began_s < 2 + 1  # the grace is not needed; a look takes no longer than a second
    assert exits(folder)[0].cause == "fenced"


def test_a_drained_machine_is_no_verdict_on_the_run(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "sleep 60")
    running = start(folder)
    while not PodRecord(folder).names() >= {"state-0.json"}:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 1
    assert verdict(exits(folder)).cause is EndCause.LOST


def test_a_stop_and_its_sigterm_are_a_stop(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    running = start(folder)
    while not (folder / "log-0").exists() or not (folder / "log-0").read_bytes():
        time.sleep(0.05)
    PodRecord(folder).order_stop(5)
    running.send_signal(signal.SIGTERM)
    running.wait(30)
    assert (exits(folder)[0].cause, exits(folder)[0].exit_code) == ("stopped", 0)


def test_secrets_go_when_a_rank_is_taken(tmp_path: Path) -> None:
    folder = prepared(tmp_path, "sleep 60", env={"TOKEN": "s3cr3t"})
    running = start(folder)
    while not PodRecord(folder).names() >= {"state-0.json"}:
        time.sleep(0.05)
    assert all(b"s3cr3t" not in path.read_bytes() for path in folder.iterdir())
    running.terminate()
    running.wait(30)
