"""One run's supervisor: starts the run's node processes, watches them, and writes down how they ended.

A program (`python -I -S supervise.py RUNFOLDER`) in its own session, so that runs outlive the agent. Stdlib
only: it has to start in milliseconds. Knows one run's folder; does not know pools, other runs or the grid.

What holds the promises:
- `lock` is held for as long as a supervisor lives, and only its holder goes on: never two supervisors a run.
- `state.json` is written before the first process starts, and a supervisor that finds one starts nothing:
  a run starts at most once, whatever is killed when.
- It is the subreaper of all it starts: a process that daemonises comes back to it, so "no child left" means
  that nothing of the run is left, and the exit is confirmed.
- Only `exit.json` is forced to disk. After a power loss no process can be alive, so the rest need not be.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # typing itself would cost milliseconds at every start
if TYPE_CHECKING:
    from typing import Any

ORDER, STATE, STOP, EXIT = "order.json", "state.json", "stop.json", "exit.json"
LOCK, WAKE, LOG = "lock", "wake", "log"
MARKER = "SUAN_RUN_FOLDER"  # in every process' environment: finds those whose supervisor was killed

_TICK_S = 1.0  # how late an order, a lease or a limit may be noticed when nothing else wakes the supervisor
_WATCH_TICK_S = 0.2  # the same, while memory is limited by watching
_KILL_TICK_S = 0.02  # between rounds of SIGKILL
_APART_S = 0.5  # between the signals to one process of a job and to the next
_ENDED_WITH_US = "the system ended the run's supervisor"
_SAMPLING_SHARE = 0.02  # of a core, at most, for reading /proc
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # Source: Linux include/uapi/linux/prctl.h
_CGROUPS = "/sys/fs/cgroup"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def boot_clock_s() -> float:
    """Seconds since boot, sleep included. Steps of the wall clock do not touch it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_json(path: str) -> dict[str, Any] | None:
    """The object in the file; None when there is no file, or it was torn."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return None


def write_json(path: str, value: dict[str, Any], *, durable: bool = False) -> None:
    """Replaces the file in one step, for its owner's eyes. Durable: on stable storage when this returns."""
    fresh = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(value))
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(fresh, path)
    if durable:
        folder = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


# ---------------------------------------------------------------- processes and memory


def descendants(ancestor: int) -> dict[int, int]:
    """Every process below `ancestor`: pid -> resident bytes. Pages shared by several count in each."""
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # Fields 3 (state), 4 (parent), 24 (pages) follow the name, which may hold anything, ")" too.
                fields = file.read().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
                resident[int(name)] = int(fields[21]) * _PAGE_BYTES
    found, waiting = dict[int, int](), [ancestor]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            found[child] = resident[child]
            waiting.append(child)
    return found


def proportional_bytes(processes: dict[int, int]) -> int:
    """Memory of the processes, each shared page counted once; resident bytes where that is not known."""
    total = 0
    for process, resident in processes.items():
        share = resident
        with contextlib.suppress(OSError), open(f"/proc/{process}/smaps_rollup", "rb") as file:
            share = next((int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:")), resident)
        total += share
    return total


def make_memory_cgroup(limit_bytes: int) -> str:
    """Folder of a new control group with this limit below our own (v1 or v2), "" where we may not."""
    name = f"suan-{os.getpid()}-{os.urandom(4).hex()}"
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        memberships = [line.rstrip("\n").split(":", 2) for line in file]
    for _, controllers, path in memberships:
        if "memory" in controllers.split(","):
            group, limit = f"{_CGROUPS}/memory{path}/{name}", "memory.limit_in_bytes"
        elif not controllers and os.path.exists(f"{_CGROUPS}/cgroup.controllers"):
            group, limit = f"{_CGROUPS}{path}/{name}", "memory.max"
        else:
            continue
        try:
            os.mkdir(group)
            with open(f"{group}/{limit}", "r+", encoding="ascii") as file:
                file.write(str(limit_bytes))
            return group
        except OSError:
            remove_cgroup(group)
    return ""


def remove_cgroup(group: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(group)


def cgroup_has_killed(group: str) -> bool:
    """Whether the kernel ended a process of this group because the group's memory was full."""
    for name in ("memory.events", "memory.oom_control"):  # v2, v1: a line `oom_kill N` in both
        with contextlib.suppress(OSError), open(f"{group}/{name}", encoding="ascii") as file:
            return any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in file)
    return False


# ---------------------------------------------------------------- one run


class Supervisor:
    """One run from its start to its confirmed end. Times are on the boot clock unless they end in `_at_s`."""

    def __init__(self, folder: str, order: dict[str, Any]) -> None:
        self.folder, self.order, self.process = folder, order, os.getpid()
        self.libc = ctypes.CDLL(None)
        self.started_at_s: int | None = None
        self.started_s = boot_clock_s()
        self.shells: dict[int, int] = {}  # pid -> node, while it runs
        self.failed: tuple[int, int] | None = None  # node and exit code, of the first that failed
        self.cpu_s = self.sample_s = 0.0
        self.peak_bytes = 0
        self.cause = self.detail = ""  # until the run is ending; the first cause stays
        self.kill_s = float("inf")  # when the grace ends
        self.cgroup, self.terminated = "", False
        self.wake = os.open(self.path(WAKE), os.O_RDWR | os.O_NONBLOCK)
        self.signals, self.signals_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run(self) -> None:
        """Starts the run unless its stop came first, waits for its end, writes the exit."""
        if os.path.exists(self.path(STOP)):
            self.cause, self.detail = "stopped", "stopped before it started"
            self.write_exit()
            os.unlink(self.path(ORDER))  # it holds secrets
            return
        signal.set_wakeup_fd(self.signals_in, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # their numbers come through the wake-up descriptor
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if self.order["memory_bytes"]:
            self.cgroup = make_memory_cgroup(self.order["memory_bytes"])
        self.started_at_s, self.started_s = int(time.time()), boot_clock_s()
        self.write_state("running")
        os.unlink(self.path(ORDER))  # never read again, and it holds secrets
        self.start_nodes()
        while self.reap():
            self.look()
            self.wait()
        if self.ended_with_us():
            self.cause, self.detail = "lost", _ENDED_WITH_US
        self.write_exit()

    # ---- start

    def start_nodes(self) -> None:
        log = os.open(self.path(LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        troubles = []
        for node, details in enumerate(self.order["nodes"]):
            # The pipe closes when the shell is executed; what comes through it is why it was not.
            trouble, trouble_in = os.pipe2(os.O_CLOEXEC)
            process = os.fork()
            if process == 0:
                self.become_node(details, log, trouble_in)
            os.close(trouble_in)
            self.shells[process] = node
            troubles.append(trouble)
        os.close(log)
        for trouble in troubles:
            why = os.read(trouble, 4096).decode("utf-8", "replace")
            os.close(trouble)
            if why:
                self.end("not_started", why, 0)

    def become_node(self, details: dict[str, Any], log: int, trouble: int) -> None:
        """Turns this forked process into a node's shell. Does not return."""
        try:
            os.setsid()
            self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self.process:  # it died before the line above
                os._exit(1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # ignored signals would stay ignored
            if self.cgroup:
                with open(f"{self.cgroup}/cgroup.procs", "w", encoding="ascii") as file:
                    file.write(str(os.getpid()))
            if details["cpus"]:
                with contextlib.suppress(OSError):  # a core that has gone offline
                    os.sched_setaffinity(0, details["cpus"])
            os.chdir(self.order["folder"])
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            environment = {**os.environ, **self.order["env"], **details["env"], MARKER: self.folder}
            os.execvpe(self.order["argv"][0], self.order["argv"], environment)
        except BaseException as error:
            os.write(trouble, f"could not start: {error}".encode()[:4096])
        finally:
            os._exit(127)

    # ---- watch

    def reap(self) -> bool:
        """Collects what has ended. False once no process of the run is left."""
        while True:
            try:
                process, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if process == 0:
                return True
            self.cpu_s += usage.ru_utime + usage.ru_stime
            self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
            node = self.shells.pop(process, None)
            if node is not None and self.failed is None and status:
                self.failed = (node, os.waitstatus_to_exitcode(status))

    def look(self) -> None:
        """Decides whether the run has to end, and drives an ending on."""
        now_s, grace_s = boot_clock_s(), self.order["grace_s"]
        if not self.cause and (self.failed or not self.shells):
            cause, detail = ("lost", _ENDED_WITH_US) if self.ended_with_us() else ("exited", "")
            self.end(cause, detail, grace_s if self.shells else 0)  # what shells left behind is not the run
        stop = read_json(self.path(STOP))
        if stop is not None:
            self.end("stopped", "", stop["deadline_s"] - now_s)
        if self.lease_end_s() <= now_s:
            self.end("fenced", "the site's lease ended", grace_s)
        if self.limit_s() <= now_s:
            self.end("stopped", f"ran for longer than {self.order['max_duration_s']} s", grace_s)
        if self.terminated:
            self.end("lost", _ENDED_WITH_US, grace_s)
        if not os.path.exists(self.path(LOCK)):
            self.end("lost", "the run's record was removed", 0)
        if now_s >= self.sample_s:
            self.sample_memory()
        if now_s >= self.kill_s:
            for process in descendants(self.process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def ended_with_us(self) -> bool:
        """Whether SIGTERM, which ended the run, came from whoever ends us as well: they signal one by one."""
        if self.cause or not self.failed or self.failed[1] not in (-signal.SIGTERM, 128 + signal.SIGTERM):
            return False
        until_s = boot_clock_s() + _APART_S
        while not self.terminated and (left_s := until_s - boot_clock_s()) > 0:
            self.listen(left_s)
        return self.terminated

    def lease_end_s(self) -> float:
        lease = read_json(self.order["lease"])
        if lease is None or lease["boot_id"] != self.order["boot_id"]:
            return float("inf")
        return float(lease["deadline_s"])

    def limit_s(self) -> float:
        limit_s = self.order["max_duration_s"]
        return float("inf") if limit_s is None else self.started_s + limit_s

    def end(self, cause: str, detail: str, grace_s: float) -> None:
        """SIGTERM to every node at the first call; a later one can only bring SIGKILL nearer."""
        self.kill_s = min(self.kill_s, boot_clock_s() + max(0.0, grace_s))
        if self.cause:
            return
        self.cause, self.detail = cause, detail
        for shell in self.shells:
            for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process would not notice the first
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(shell, number)
        self.write_state("stopping")

    def sample_memory(self) -> None:
        """Keeps the peak, and holds the run to its limit where no control group does."""
        began_s = time.process_time()
        processes = descendants(self.process)
        resident_bytes = sum(processes.values())
        self.peak_bytes = max(self.peak_bytes, resident_bytes)
        limit_bytes = self.order["memory_bytes"]
        if self.cgroup:
            exceeded = cgroup_has_killed(self.cgroup)
        else:
            exceeded = 0 < limit_bytes < resident_bytes and limit_bytes < proportional_bytes(processes)
        if exceeded:
            self.end("exited", self.memory_detail(), 0)
        with contextlib.suppress(OSError):
            os.utime(self.path(STATE))  # a sign of life: after a reboot it tells until when the run ran
        cost_s = time.process_time() - began_s
        self.sample_s = boot_clock_s() + max(self.tick_s(), cost_s / _SAMPLING_SHARE)

    def memory_detail(self) -> str:
        return f"memory limit {self.order['memory_bytes'] / (1 << 30):g} GiB exceeded"

    def tick_s(self) -> float:
        return _WATCH_TICK_S if self.order["memory_bytes"] and not self.cgroup else _TICK_S

    def wait(self) -> None:
        """Returns when a process ended, an order came, or it is time to look again."""
        now_s = boot_clock_s()
        ends_s = () if self.cause else (self.lease_end_s(), self.limit_s())
        next_s = (self.kill_s, now_s + self.tick_s(), *ends_s)
        self.listen(_KILL_TICK_S if now_s >= self.kill_s else min(next_s) - now_s)

    def listen(self, timeout_s: float) -> None:
        for descriptor in select.select([self.wake, self.signals], [], [], max(0.0, timeout_s))[0]:
            with contextlib.suppress(BlockingIOError):
                told = os.read(descriptor, 4096)
                self.terminated |= descriptor == self.signals and signal.SIGTERM in told

    # ---- records

    def write_state(self, phase: str) -> None:
        state = {"phase": phase, "started_at_s": self.started_at_s, "cgroup": self.cgroup}
        state |= {"address": self.order["address"]} if "address" in self.order else {}
        with contextlib.suppress(FileNotFoundError):  # the record was removed: the run is ending for that
            write_json(self.path(STATE), state)

    def write_exit(self) -> None:
        has_run = self.cause != "not_started" and self.started_at_s is not None
        exit_code = (self.failed[1] if self.failed else 0) if has_run else None
        if self.cgroup and self.cause in ("", "exited") and exit_code and cgroup_has_killed(self.cgroup):
            self.detail = self.memory_detail()
        if self.failed and not self.detail and len(self.order["nodes"]) > 1:
            self.detail = f"node {self.failed[0]} failed first"
        remove_cgroup(self.cgroup)
        record = {
            "cause": self.cause or "exited",
            "exit_code": exit_code,
            "detail": self.detail,
            "started_at_s": self.started_at_s,
            "ended_at_s": int(time.time()),
            "wall_s": boot_clock_s() - self.started_s if self.started_at_s is not None else 0.0,
            "cpu_s": self.cpu_s,
            "peak_memory_bytes": self.peak_bytes,
        }
        while os.path.isdir(self.folder):
            try:
                write_json(self.path(EXIT), record, durable=True)
                return
            except FileNotFoundError:
                return
            except OSError:  # a full disk: the devices stay taken until the exit is on record
                time.sleep(_TICK_S)


def main(folder: str) -> None:
    os.chdir("/")
    lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # the run has a supervisor
    if any(os.path.exists(os.path.join(folder, name)) for name in (STATE, EXIT)):
        return  # it had one
    if order := read_json(os.path.join(folder, ORDER)):
        Supervisor(folder, order).run()


if __name__ == "__main__":
    main(sys.argv[1])
