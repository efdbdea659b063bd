"""What a Ray job runs on its nodes: takes the run, starts a supervisor on each node, relays orders to it.

A program (`python3 ray_node.py RUNFOLDER [RANK]`), copied beside supervise.py into a folder that every node
sees. Stdlib only but for `drive`, which needs the cluster's own `ray` to reach further nodes. Knows one run's
folder; does not know the agent, which may be dead.

What holds the promises:
- `claim` is made by one process only: this program before it starts anything, or the agent to cancel a run
  that has not started. Whoever comes second does nothing, so a job that Ray starts late starts nothing.
- The supervisor is in a session of its own: when Ray kills this program, it is told (SIGTERM) and ends the
  run in order. When the supervisor is killed, this program ends what it left. Nothing outlives both but what
  was killed together with them.
- What a shell's exit says of the job counts only when this program confirms it (`end.json`): when Ray ends a
  job, the shell dies of Ray's signal as it would of its own.
- Hosts' clocks are never compared. A lease that has changed since the last look was written after that look,
  so counting from the look can end a run early, never late. The first look counts from the file's age as the
  file system itself tells it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

import supervise  # the copy beside this file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLAN, CLAIM, RUN_STOP = "place.json", "claim.json", "stop.json"
FAILED, MEETING, END = "failed.json", "meeting.json", "end.json"
LAUNCH, RUN_LEASE, PULSE = "launch.json", "lease.json", "pulse"

_TICK_S = 1.0  # how late an order may be noticed; three small files are looked at in each
_MEETING_S = 60.0  # for the first node to say where the others meet it
_PLACES_S = 900.0  # for Ray to set aside every node of a run; Ray's own limit for a job's start
_PORTS = range(20_000, 32_000)  # below what Linux gives to outgoing connections, ip(7)
_PR_SET_PDEATHSIG = 1  # Source: Linux include/uapi/linux/prctl.h
_SIGNALS_S = 0.1  # within which a signal to all processes has reached each
_NO_FOLDER = 3


def claim(folder: str, holder: str) -> bool:
    """Whether the run is the caller's to start or to cancel: true for one caller only, ever."""
    try:
        file = os.open(os.path.join(folder, CLAIM), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(file, "w", encoding="utf-8") as stream:
        json.dump({"holder": holder, "host": socket.gethostname()}, stream)
    return True


class Lease:
    """The site's lease on this host's clock."""

    def __init__(self, path: str, pulse: str) -> None:
        self.path, self.pulse = path, pulse
        self.text: str | None = None
        self.looked_s = 0.0
        self.end_s = float("inf")

    def look(self) -> bool:
        """Whether the end has moved. A file that cannot be read moves nothing: then the lease runs out."""
        began_s, moved = supervise.boot_clock_s(), False
        with contextlib.suppress(OSError, ValueError):
            with open(self.path, encoding="utf-8") as file:
                text = file.read()
            if text != self.text:
                seconds = float(json.loads(text)["seconds"])
                since_s = began_s - self.age_s(seconds) if self.text is None else self.looked_s
                self.text, self.end_s, moved = text, since_s + seconds, True
            self.looked_s = began_s
        return moved

    def age_s(self, most_s: float) -> float:
        """How long ago the lease was written, by the clock of the file system that holds it."""
        with open(self.pulse, "w", encoding="ascii") as file:
            file.write("\n")
        age_s = os.stat(self.pulse).st_mtime - os.stat(self.path).st_mtime
        return min(max(age_s, 0.0), most_s)


class Node:
    """One node of the run: its supervisor, and what it has to be told."""

    def __init__(self, folder: str, rank: int, *, has_parent: bool) -> None:
        self.folder, self.rank, self.has_parent = folder, rank, has_parent
        self.here = os.path.join(folder, f"node-{rank}")
        engine = os.path.dirname(os.path.dirname(folder))
        self.lease = Lease(os.path.join(engine, RUN_LEASE), os.path.join(self.here, PULSE))
        self.stop_text = ""
        self.stop_deadline_s = float("inf")
        self.failure_told = False
        self.terminated = False

    def run(self) -> int:
        """Exit code for Ray: 0 when the node's own was."""
        order = supervise.read_json(os.path.join(self.here, LAUNCH))
        if order is None:
            return _NO_FOLDER
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note_signal)
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            order["boot_id"] = file.read().strip()
        order["lease"] = os.path.join(self.here, RUN_LEASE)
        order["env"]["MASTER_PORT"] = str(self.meeting_port(order["env"]["MASTER_PORT"]))
        environment = inherited(order.pop("inherit"), order.pop("families"))
        environment[supervise.MARKER] = self.here
        self.boot_id, self.grace_s = order["boot_id"], order["grace_s"]
        os.mkfifo(os.path.join(self.here, supervise.WAKE), 0o600)
        self.relay()
        supervise.write_json(os.path.join(self.here, supervise.ORDER), order)
        os.unlink(os.path.join(self.here, LAUNCH))  # it holds secrets; the supervisor removes the other
        supervisor = self.start(environment)
        while not has_ended(supervisor):
            if self.terminated or self.parent_has_gone():
                supervisor.terminate()
            with contextlib.suppress(OSError):  # the shared folder is in trouble: the next look tries again
                self.relay()
        return self.conclude(supervisor.returncode)

    def start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        libc, process = ctypes.CDLL(None), os.getpid()

        def die_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != process:
                os._exit(1)

        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "supervise.py")
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", program, self.here],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def note_signal(self, *_: object) -> None:
        self.terminated = True

    def parent_has_gone(self) -> bool:
        """Whether the Ray worker that started this process is gone, and its end of our input with it."""
        return self.has_parent and bool(select.select([0], [], [], 0)[0]) and not os.read(0, 1)

    # ---- orders

    def relay(self) -> None:
        """Tells the supervisor, in this host's time, what is new of the lease, the stop and the peers."""
        with open(self.lease.pulse, "w", encoding="ascii") as file:
            file.write("\n")  # a sign of life; nobody reads more of it than its time
        if self.lease.look():
            lease = {"deadline_s": self.lease.end_s, "boot_id": self.boot_id}
            supervise.write_json(os.path.join(self.here, RUN_LEASE), lease)
            self.wake()
        stop = supervise.read_json(os.path.join(self.folder, RUN_STOP))
        if stop is not None and stop["text"] != self.stop_text:
            self.order_stop(stop["grace_s"])
            self.stop_text = stop["text"]
        if not self.failure_told and os.path.exists(os.path.join(self.folder, FAILED)):
            self.order_stop(self.grace_s)
            self.failure_told = True

    def order_stop(self, grace_s: float) -> None:
        deadline_s = supervise.boot_clock_s() + max(0.0, grace_s)
        if deadline_s < self.stop_deadline_s:
            supervise.write_json(os.path.join(self.here, supervise.STOP), {"deadline_s": deadline_s})
            self.stop_deadline_s = deadline_s
            self.wake()

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # no supervisor reads yet; it looks before it starts
            pipe = os.open(os.path.join(self.here, supervise.WAKE), os.O_WRONLY | os.O_NONBLOCK)
            os.write(pipe, b"!")
            os.close(pipe)

    def meeting_port(self, wanted: str) -> int:
        """Where the nodes meet: the first one makes sure that its port is free and writes it down."""
        path = os.path.join(self.folder, MEETING)
        if self.rank == 0:
            supervise.write_json(path, {"port": free_port(int(wanted))})
        deadline_s = time.monotonic() + _MEETING_S
        while (meeting := supervise.read_json(path)) is None:
            if time.monotonic() > deadline_s:
                raise SystemExit("the first node did not say where to meet")
            time.sleep(_TICK_S)
        return int(meeting["port"])

    # ---- end

    def conclude(self, code: int) -> int:
        path = os.path.join(self.here, supervise.EXIT)
        exit = supervise.read_json(path)
        if exit is None and os.path.isdir(self.here):
            kill_marked(self.here)
            state = supervise.read_json(os.path.join(self.here, supervise.STATE)) or {}
            detail = f"the run's supervisor was killed (code {code}); its processes were ended"
            exit = {
                "cause": "lost",
                "detail": detail,
                "ended_at_s": int(time.time()),
                "started_at_s": state.get("started_at_s"),
            }
            supervise.write_json(path, exit, durable=True)
        if exit is None:
            return _NO_FOLDER
        if exit["cause"] == "exited" and exit["exit_code"]:
            time.sleep(_SIGNALS_S)
            if self.terminated:  # Ray ends a job by SIGTERM to all of it at once: the shell may die first
                exit |= {"cause": "lost", "detail": "Ray ended the job"}
        supervise.write_json(os.path.join(self.here, END), exit, durable=True)
        failed = exit["cause"] in ("lost", "not_started") or (exit["cause"] == "exited" and exit["exit_code"])
        if failed:
            tell_failure(self.folder, self.rank)
        return 0 if exit["cause"] == "exited" and not exit["exit_code"] else 1


def has_ended(supervisor: subprocess.Popen[bytes]) -> bool:
    """Waits a tick for it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        supervisor.wait(_TICK_S)
    return supervisor.returncode is not None


def tell_failure(folder: str, rank: int) -> None:
    """The first node that failed ends the others; later ones change nothing."""
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        file = os.open(os.path.join(folder, FAILED), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w", encoding="utf-8") as stream:
            json.dump({"rank": rank}, stream)


def inherited(names: list[str], families: list[str]) -> dict[str, str]:
    """What a run gets of the node's own environment. All else may be a secret of the cluster."""
    theirs = {"PYTHONBREAKPOINT"}  # set by Ray for its own debugger
    return {
        name: value
        for name, value in os.environ.items()
        if (name in names or name.startswith(tuple(families))) and name not in theirs
    }


def free_port(wanted: int) -> int:
    """`wanted` when nobody listens on it here, else the next one that is free."""
    for port in (wanted, *(port for port in _PORTS if port > wanted), *_PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise SystemExit("no free port")


def kill_marked(folder: str) -> None:
    """SIGKILL to every process of this host that was started for the node, until none is left."""
    marker = f"{supervise.MARKER}=".encode() + os.fsencode(folder)
    for _ in range(50):
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                    if marker in file.read().split(b"\0"):
                        found.append(int(name))
        if not found:
            return
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)


def drive(folder: str, plan: dict[str, Any]) -> int:
    """Sets every node of the run aside, all or none, then starts them. Exit code for Ray."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(address="auto", logging_level="WARNING")
    group = placement_group(plan["bundles"], strategy="STRICT_SPREAD")
    deadline_s = time.monotonic() + _PLACES_S
    while not group.wait(timeout_seconds=1):
        if os.path.exists(os.path.join(folder, CLAIM)) or time.monotonic() > deadline_s:
            return 1
    if not claim(folder, "ray"):
        return 0

    program = os.path.abspath(__file__)

    def start_node(rank: int) -> int:
        import subprocess
        import sys

        # The pipe tells the node when this worker dies: whatever kills it, the pipe closes.
        with subprocess.Popen([sys.executable, program, folder, str(rank)], stdin=subprocess.PIPE) as node:
            return node.wait()

    pending = {}
    for rank, bundle in enumerate(plan["bundles"]):
        named = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU")}
        task = ray.remote(start_node).options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            resources=named,
            max_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        pending[task.remote(rank)] = rank
    worst = 0
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        rank = pending.pop(done[0])
        try:
            worst = ray.get(done[0]) or worst
        except Exception as error:  # the worker or its whole node died
            print(f"node {rank} was lost: {error}", file=sys.stderr)
            tell_failure(folder, rank)
            worst = 1
    return worst


def main(arguments: list[str]) -> int:
    folder = arguments[0]
    plan = supervise.read_json(os.path.join(folder, PLAN))
    if plan is None:
        print(f"{folder} is not there: the run was forgotten, or this node does not see it", file=sys.stderr)
        return _NO_FOLDER
    if len(arguments) > 1:
        return Node(folder, int(arguments[1]), has_parent=True).run()
    if len(plan["bundles"]) > 1:
        return drive(folder, plan)
    return Node(folder, 0, has_parent=False).run() if claim(folder, "ray") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
