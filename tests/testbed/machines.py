"""Machines of the test bed: each a network, a process table and mounts of its own, and the network between
them.

Knows Linux namespaces and nothing of Suan. What was started on a machine ends with it, whatever it is: its
first process is the parent of all others there, and that one ends with the process that made the machine.
"""

import contextlib
import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wan

HERE = Path(__file__).parent
NEEDED = ("unshare", "nsenter", "ip", "tc", "bash")
_END_S = 45.0
# The first process of a process table has to collect what others leave behind: a shell does.
_FIRST = ("bash", "-c", '"$@"; exit $?', "first")
_BURST_BYTES = 128 << 10
_QUEUE_MS = 100


def end_with_parent() -> None:
    """Before a program begins: it is killed when the thread that started it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class HostFailed(Exception):
    """What the program on a machine says when it cannot do what it was asked."""


class End:
    """One end of the network: where the process `pid` is."""

    def __init__(self, name: str, address: str, pid: int) -> None:
        self.name, self.address, self.pid = name, address, pid

    def connect(self, mbit_per_s: float = 0.0) -> None:
        """Brings its devices up, once the network has made them; what it sends is limited to this rate."""
        for command in (
            "ip link set lo up",
            f"ip address add {self.address}/16 dev {wan.DEVICE}",
            f"ip link set {wan.DEVICE} mtu 1500 txqueuelen 1000 up",
        ):
            self._inside(command)
        if mbit_per_s:
            rate = f"rate {mbit_per_s:g}mbit burst {_BURST_BYTES} latency {_QUEUE_MS}ms"
            self._inside(f"tc qdisc add dev {wan.DEVICE} root tbf {rate}")

    def _inside(self, command: str) -> None:
        run(["nsenter", "--net", f"--target={self.pid}", *command.split()])


class Machine(End):
    """One machine, with the program `host.py` on it, which is asked for things by name.

    To be made by a thread that lives as long as the machine: it ends with it.
    """

    def __init__(self, name: str, address: str, arguments: Mapping[str, Any], log: Path) -> None:
        self._lock = threading.Lock()
        namespaces = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]
        program = [sys.executable, str(HERE / "host.py"), json.dumps(dict(arguments))]
        self._process = start([*namespaces, *_FIRST, *program], log)
        super().__init__(name, address, self._process.pid)
        self._answer()  # it is there

    def ask(self, method: str, *arguments: Any) -> Any:
        """What `host.py` answers.

        Raises: HostFailed.
        """
        with self._lock:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps([method, *arguments]).encode() + b"\n")
                self._process.stdin.flush()
            except OSError as error:
                raise HostFailed(f"the machine {self.name} has ended") from error
            return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise HostFailed(f"the machine {self.name} has ended")
        answer = json.loads(line)
        if "trouble" in answer:
            raise HostFailed(f"{self.name}: {answer['trouble']}")
        return answer["value"]

    def begin_end(self) -> None:
        """Asks it to stop all that it has started; does not wait."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def end(self) -> bool:
        """Orderly, else by force; whether it was orderly. Nothing of it is left then."""
        return finish(self._process, _END_S)


class Network:
    """The links between machines; `change` at any time."""

    def __init__(self, ends: Sequence[End], links: Sequence[Mapping[str, Any]], log: Path) -> None:
        """`links`: [{"ends": [a, b], "delay_ms": 20, "loss": 0.001}], both ways alike."""
        self._lock = threading.Lock()
        self._process = start([sys.executable, str(HERE / "wan.py")], log)
        described = {end.name: {"pid": end.pid, "address": end.address} for end in ends}
        self._names = list(described)
        self._say({"ends": described, "links": list(links)})

    def change(self, *links: Mapping[str, Any]) -> dict[str, dict[str, int]]:
        """Counts of each direction until now."""
        return self._say(list(links))

    def cut(self, name: str, *, up: bool = False) -> None:
        """Takes every link of this machine away; with `up`, gives them back."""
        self.change(*({"ends": [name, other], "up": up} for other in self._names if other != name))

    def end(self) -> None:
        finish(self._process, 5.0)

    def _say(self, what: Any) -> dict[str, dict[str, int]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
            counts: dict[str, dict[str, int]] = json.loads(self._process.stdout.readline())
            return counts


def start(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """A program that is spoken to through its standard input and output. It ends with this thread."""
    with open(log, "ab") as said:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )


def finish(process: "subprocess.Popen[bytes]", patience_s: float) -> bool:
    """Ends its standard input and waits; whether it ended by itself. A killed machine takes all along."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(patience_s)
        return True
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def run(command: Sequence[str]) -> str:
    """Its standard output.

    Raises: HostFailed with what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise HostFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
