"""A real Ray cluster in a folder, on loopback, with accelerators that exist in name only. Ended by pid.

Needs PyPI's ray[default] in an environment of its own, so that its pins touch nobody's: `.ray` in the
checkout, or wherever the variable SUAN_RAY says that its `ray` command is. A head takes about 700 MB, and
between 7 s and, on a busy machine, 30 s to start.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from suan.engines.devices import free_port
from suan.engines.ray_api import RayApi
from suan.engines.supervise import descendants

PACKAGE = "ray[default]"
_HOME = Path(__file__).parents[2] / ".ray"
_TIMEOUT_S = 120.0
_STORE_BYTES = 80_000_000  # of each node's object store; Ray takes 30 % of the memory when it is not told


@dataclass(frozen=True)
class NodeShape:
    """What a node is said to have. `accelerator`: as Ray calls it, counted by `resource`."""

    cpus: int
    devices: int = 0
    accelerator: str = ""
    resource: str = "GPU"

    def options(self) -> list[str]:
        named = {f"accelerator_type:{self.accelerator}": 1} if self.accelerator else {}
        if self.devices and self.resource != "GPU":
            named[self.resource] = self.devices
        listed = ", ".join(f'"{name}": {amount}' for name, amount in named.items())
        gpus = self.devices if self.resource == "GPU" else 0
        return [f"--num-cpus={self.cpus}", f"--num-gpus={gpus}", f"--resources={{{listed}}}"]


def ray_command() -> str:
    return os.environ.get("SUAN_RAY") or str(_HOME / "bin" / "ray")


def missing() -> str:
    """What to install before a cluster can be started here; "" when it can."""
    command = ray_command()
    if Path(command).exists():
        return ""
    return f"no {command}; python3 -m venv .ray && .ray/bin/pip install '{PACKAGE}' brings it"


@dataclass
class RayCluster:
    """A head and further nodes, each a child of this process. `start` after `kill_head` is a new head."""

    shapes: Sequence[NodeShape]
    ports: Sequence[int]  # of the head's own store, its dashboard, and what nobody asked for
    command: str = field(default_factory=ray_command)
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Not below pytest's folder: the sockets' paths have to be shorter than 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        # Addresses of their own, as on machines of their own, and apart from other clusters' of this moment:
        # Ray gives each address' workers the same ports. It replaces 127.0.0.1 by an outer address.
        self._first = 2 + 4 * secrets.randbelow(60)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports[1]}"

    def api(self) -> RayApi:
        return RayApi(self.address, self.token)

    def start(self) -> "RayCluster":
        self._start_node(0)
        self._wait(1)
        for number in range(1, len(self.shapes)):
            self._start_node(number)
        self._wait(len(self.shapes))
        return self

    def _start_node(self, number: int) -> None:
        options = [f"--node-ip-address=127.0.0.{self._first + number}", "--dashboard-agent-listen-port=0"]
        options += [f"--object-store-memory={_STORE_BYTES}", "--disable-usage-stats", "--block"]
        if number == 0:
            options += ["--head", f"--port={self.ports[0]}", f"--temp-dir={self.folder}/{len(self.nodes)}"]
            options += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.ports[1]}"]
            options += ["--include-log-monitor=false", f"--ray-client-server-port={self.ports[2]}"]
        else:
            options += [f"--address=127.0.0.{self._first}:{self.ports[0]}"]
        kept = ("HOME", "LANG", "LC_MEASUREMENT")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment |= {
            "PATH": f"{Path(self.command).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_enable_open_telemetry": "0",
            "RAY_DASHBOARD_DISABLE_GPU_USAGE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with open(self.folder / f"node-{len(self.nodes)}.log", "ab") as output:
            arguments = [self.command, "start", *options, *self.shapes[number].options()]
            node = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.nodes.append(node)

    def _wait(self, count: int) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        headers = {"Authorization": f"Bearer {self.token}"}
        while time.monotonic() < deadline_s:
            for number, node in enumerate(self.nodes):
                if node.poll() is not None and node.returncode != -signal.SIGKILL:
                    said = (self.folder / f"node-{number}.log").read_text("utf-8", "replace")[-2000:]
                    raise AssertionError(f"a Ray node ended with {node.returncode}: {said}")
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                answer = httpx.get(
                    f"{self.address}/api/v0/nodes", headers=headers, trust_env=False, timeout=5
                )
                listed = answer.json()["data"]["result"]["result"]
                if sum(node["state"] == "ALIVE" for node in listed) == count:
                    return
            time.sleep(0.25)
        raise AssertionError(f"no Ray cluster of {count} nodes after {_TIMEOUT_S} s; see {self.folder}")

    def kill(self, *numbers: int) -> None:
        """SIGKILL to these nodes and to all of Ray that runs for them, as when their machines fail."""
        for number in numbers:
            process = self.nodes[number].pid
            for doomed in (process, *descendants(process)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(doomed, signal.SIGKILL)
            self.nodes[number].wait()

    def kill_ray(self, number: int) -> None:
        """SIGKILL to the node's own daemons, not to what runs for jobs."""
        process = self.nodes[number].pid
        below = descendants(process)
        daemons = set(below) - {pid for child in below if is_raylet(child) for pid in descendants(child)}
        for doomed in (process, *daemons):
            with contextlib.suppress(ProcessLookupError):
                os.kill(doomed, signal.SIGKILL)
        self.nodes[number].wait()

    def close(self) -> None:
        children = {pid for node in self.nodes if node.poll() is None for pid in descendants(node.pid)}
        for node in reversed(self.nodes):
            node.terminate()
        for node in self.nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(10)
        for pid in (*children, *(node.pid for node in self.nodes if node.poll() is None)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def is_raylet(process: int) -> bool:
    with contextlib.suppress(OSError):
        program = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0]
        return program.endswith(b"/raylet")
    return False


def free_ports() -> list[int]:
    ports: list[int] = []
    while len(ports) < 3:
        ports.append(free_port(ports))
    return ports
