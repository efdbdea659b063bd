"""A real Kubernetes control plane in a folder, on loopback: etcd, kube-apiserver, kube-controller-manager and
kube-scheduler, ended by pid. In place of kubelets a thread that runs containers as processes of this machine.

Needs SUAN_KUBE_BIN: a folder with the three kube- binaries, 1.20 or later, and etcd there or in PATH (Debian:
etcd-server). docs/how-to/join-kubernetes.md says how they are built from Debian's source package. Up in about
ten seconds, 530 MB.

What stands in for a kubelet: images are not looked at, and a container has the machine's files, network and
processes; its end takes along what it started, as the end of a process namespace does. What it does keep to
is a kubelet's side of the API: pods bound to its nodes are started once, SIGTERM and SIGKILL come as ordered,
states and exit codes are reported, deletions are confirmed.
"""

import contextlib
import ctypes
import logging
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from suan.engines import supervise
from suan.engines.order import inherited

BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
log = logging.getLogger("kubelet")
_UP_S = 90.0
_TICK_S = 0.05


def missing() -> str:
    """Why there is no cluster here; "" when there can be one."""
    try:
        import kubernetes  # noqa: F401
    except ImportError:
        return "the client is not installed: pip install 'suan[kubernetes]'"
    folder = os.environ.get("SUAN_KUBE_BIN", "")
    if not folder:
        return f"SUAN_KUBE_BIN does not say where {', '.join(BINARIES)} are"
    lacking = [name for name in (*BINARIES, "etcd") if not _binary(name)]
    return f"{folder} has no {', '.join(lacking)} (Debian: etcd-server)" if lacking else ""


def _binary(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ["SUAN_KUBE_BIN"], os.environ.get("PATH", "")]))


def _end_with_parent() -> None:
    """Before a daemon begins: when the tests are killed, it is ended."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class KubeCluster:
    """`kubeconfig` is the file that opens it. `close` ends every daemon and every container."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._daemons: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True)
        etcd, peer, self.port, manager, scheduler = _free_ports(5)
        token = secrets.token_hex(16)
        (folder / "tokens.csv").write_text(f"{token},admin,1,system:masters\n")
        self._write_kubeconfig(token)
        self._write_key()
        try:
            self._start_etcd(etcd, peer)
            self._start_api(etcd)
            self._wait(token)
            common = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]
            key = f"--service-account-private-key-file={folder}/sa.key"
            no_nodes = "--controllers=*,-nodelifecycle,-nodeipam"
            ends = [f"--secure-port={manager}", "--port=0", key, no_nodes]
            self._start("kube-controller-manager", *common, *ends)
            self._start("kube-scheduler", *common, f"--secure-port={scheduler}", "--port=0")
            self.kubelet = ProcessKubelet(self.kubeconfig, folder / "pods")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if hasattr(self, "kubelet"):
            self.kubelet.close()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, name: str, *options: str) -> None:
        binary = _binary(name)
        assert binary is not None
        with open(self.folder / f"{name}.log", "ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    [binary, *options],
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    start_new_session=True,
                    preexec_fn=_end_with_parent,
                )
            )

    def _start_etcd(self, port: int, peer: int) -> None:
        here, there = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        self._start(
            "etcd",
            "--name=e",
            f"--data-dir={self.folder}/etcd-data",
            f"--listen-client-urls={here}",
            f"--advertise-client-urls={here}",
            f"--listen-peer-urls={there}",
            f"--initial-advertise-peer-urls={there}",
            f"--initial-cluster=e={there}",
            "--unsafe-no-fsync",
        )

    def _start_api(self, etcd: int) -> None:
        issuer = "https://kubernetes.default"
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={self.folder}/certs",
            f"--service-account-key-file={self.folder}/sa.key",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            f"--service-account-issuer={issuer}",
            f"--api-audiences={issuer}",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
        )

    def _write_key(self) -> None:
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self.folder / "sa.key"), "2048"],
            check=True,
            capture_output=True,
        )

    def _write_kubeconfig(self, token: str) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            # The server's own certificate, which it makes at its start, holds its authority's, too.
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.port}",
                        "certificate-authority": str(self.folder / "certs" / "apiserver.crt"),
                    },
                }
            ],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        self.kubeconfig.write_bytes(msgspec.json.encode(config))  # JSON is YAML

    def _wait(self, token: str) -> None:
        unverified = ssl._create_unverified_context()
        ready = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/readyz", headers={"Authorization": f"Bearer {token}"}
        )
        deadline_s = time.monotonic() + _UP_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=5, context=unverified):
                return
            ended = [daemon.args[0] for daemon in self._daemons if daemon.poll() is not None]
            assert not ended, f"{ended} ended; see {self.folder}"
            time.sleep(0.1)
        raise AssertionError(f"the API server is not ready after {_UP_S} s; see {self.folder}")


class ProcessKubelet:
    """Nodes by name, and their pods as processes. One thread looks; what it is told comes by a watch."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        from kubernetes import client, config

        self._api = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
        self._folder = folder
        folder.mkdir()
        self._nodes: set[str] = set()
        self._pods: dict[str, _Container] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    def add_node(self, name: str, resources: Mapping[str, str], labels: Mapping[str, str]) -> None:
        """Returns once pods may be placed there."""
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", **labels}
        status = {
            "capacity": {"pods": "110", **resources},
            "allocatable": {"pods": "110", **resources},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        }
        self._nodes.add(name)
        self._api.create_node({"metadata": {"name": name, "labels": labels}})
        self._api.patch_node_status(name, {"status": status})
        self._api.patch_node(name, {"spec": {"taints": None}})  # admission has said "not-ready"

    def remove_node(self, name: str) -> None:
        self._nodes.discard(name)
        self._api.delete_node(name)

    def process_of(self, pod: str) -> int:
        """The process of a pod's container, as pid 1 would be in a real one."""
        return next(one.process.pid for one in self._pods.values() if one.name == pod and one.process)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        for container in self._pods.values():
            container.kill()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                listed = self._api.list_pod_for_all_namespaces(_preload_content=False).data
                pods = [pod for pod in msgspec.json.decode(listed)["items"] if _node(pod) in self._nodes]
            except Exception:  # the API server is busy, or ended
                log.exception("kubelet: pods are not listed")
                pods = []
            else:
                there = {pod["metadata"]["uid"] for pod in pods}
                for uid in [uid for uid in self._pods if uid not in there]:
                    self._pods.pop(uid).kill()
            for pod in pods:
                try:
                    self._obey(pod)
                except Exception:  # gone meanwhile, or changed: the next round sees it anew
                    log.exception("kubelet: %s", pod["metadata"]["name"])
            self._closing.wait(_TICK_S)

    def _obey(self, pod: dict[str, Any]) -> None:
        """Starts what is new, ends what is to go, reports what has changed."""
        uid = pod["metadata"]["uid"]
        container = self._pods.get(uid)
        if container is None:
            container = self._pods[uid] = _Container(pod, self._folder / f"{uid}.log")
            if "deletionTimestamp" not in pod["metadata"]:
                container.start()
        if "deletionTimestamp" in pod["metadata"]:
            container.stop(pod["metadata"].get("deletionGracePeriodSeconds", 30))
        self._report(pod, container)

    def _report(self, pod: dict[str, Any], container: "_Container") -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        status = container.status()
        if status != container.reported:
            self._api.patch_namespaced_pod_status(name, namespace, {"status": status})
            container.reported = status
        if "deletionTimestamp" in pod["metadata"] and not container.is_running:
            self._api.delete_namespaced_pod(name, namespace, grace_period_seconds=0)


class _Container:
    def __init__(self, pod: dict[str, Any], log: Path) -> None:
        self.name = pod["metadata"]["name"]
        self.reported: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self._pod, self._log = pod, log
        self._family: dict[int, int] = {}
        self._kill_s = float("inf")
        self._trouble = ""
        self._began = self._ended = ""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        container = self._pod["spec"]["containers"][0]
        if not container["image"].islower():
            self._trouble = "InvalidImageName"
            return
        fields = {"metadata.name": self.name, "status.podIP": "127.0.0.1"}
        environment = inherited(os.environ)  # stands for the image's own
        for one in container.get("env", ()):
            environment[one["name"]] = one.get("value") or fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        self._began = _now()
        with open(self._log, "ab") as log:
            try:
                self.process = subprocess.Popen(
                    container["command"], env=environment, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                log.write(str(error).encode())

    def stop(self, grace_s: float) -> None:
        if not self.is_running:
            return
        assert self.process is not None
        if self._kill_s == float("inf"):
            self.process.terminate()
        self._kill_s = min(self._kill_s, time.monotonic() + grace_s)
        if time.monotonic() >= self._kill_s:
            self.kill()

    def kill(self) -> None:
        """Ends the container's process and, as its process namespace would, all that it had started."""
        if self.process is None or (self.process.poll() is not None and not self._family):
            return
        self._family |= supervise.descendants(self.process.pid)
        for process in (self.process.pid, *self._family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        self._family = {}

    def status(self) -> dict[str, Any]:
        """What a kubelet would report."""
        if self._trouble:
            waiting = {"waiting": {"reason": self._trouble, "message": "the reference does not parse"}}
            return self._said("Pending", waiting)
        code = self.process.poll() if self.process is not None else 127
        if code is None:
            assert self.process is not None
            self._family = supervise.descendants(self.process.pid)
            return self._said("Running", {"running": {"startedAt": self._began}})
        self.kill()
        self._ended = self._ended or _now()
        ended = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Error" if code else "Completed",
            "startedAt": self._began,
            "finishedAt": self._ended,
            "message": self._log.read_text("utf-8", "replace")[-2000:] if code and self._log.exists() else "",
        }
        return self._said("Failed" if code else "Succeeded", {"terminated": ended})

    def _said(self, phase: str, state: dict[str, Any]) -> dict[str, Any]:
        container = self._pod["spec"]["containers"][0]
        named = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        return {
            "phase": phase,
            "podIP": "127.0.0.1",
            "containerStatuses": [{**named, "ready": phase == "Running", "state": state}],
        }


def _node(pod: dict[str, Any]) -> str:
    return str(pod["spec"].get("nodeName", ""))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
