"""One node of a run, inside its pod: takes its rank, meets the others, and watches the run to its end.

A program (`python3 -s -S -E kubernetes_node.py RUNFOLDER`), copied with supervise.py to the volume that the
pods share with the agent. Stdlib only, Python 3.9 and later: it runs on the image's Python. Knows one run's
folder; knows no Kubernetes, and needs neither its API nor the agent to hold these promises:
- A rank is taken by renaming its order, so each starts once, however many pods the cluster makes for it.
- No node begins before all have come up, each with an address.
- When the lease is not renewed for as long as it lasts, the run ends. The lease is timed on this machine's
  own clock, from the last look that did not show the renewal yet: never for longer than the agent meant.
- When one node fails, the others end; a stop in the folder ends all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time

import supervise  # its neighbour on the shared volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TICK_S = 0.1  # while it waits for the others
_CLOCK_SKEW_S = 5.0  # by which clocks that are kept in step may differ
_NO_ORDER = 75  # EX_TEMPFAIL of sysexits.h: this rank has been taken before
_PORTS = (20_000, 32_000)  # below the range of outgoing connections, as the agent's own choice is


def claim(run_folder: str, index: str) -> tuple[int, dict[str, Any]] | None:
    """(rank, order) that this pod alone has now, the one of its completion index where it has one."""
    ranks = sorted(
        int(name[len("order-") : -len(".json")])
        for name in os.listdir(run_folder)
        if name.startswith("order-") and name.endswith(".json")
    )
    for rank in [int(index)] if index else ranks:
        with contextlib.suppress(FileNotFoundError):
            taken = os.path.join(run_folder, f"node-{rank}.json")
            os.rename(os.path.join(run_folder, f"order-{rank}.json"), taken)
            order = supervise.read_json(taken)
            if order is not None:
                return rank, order
    return None


def open_port() -> int:
    """A port of this machine that nobody listens on."""
    for port in range(_PORTS[0] + os.getpid() % 10_000, _PORTS[1]):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
    return 0


def memory_kills() -> int:
    """How often the kernel ended a process of this container because its memory was full."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):  # v2, v1
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    return 0


class Node(supervise.Supervisor):
    """The supervisor of one rank. What the agent reads is in the run's folder, the rest in the container."""

    def __init__(self, run_folder: str, rank: int, order: dict[str, Any]) -> None:
        self.rank = rank
        self.private = tempfile.mkdtemp(prefix="suan-")
        os.mkfifo(os.path.join(self.private, supervise.WAKE), 0o600)
        for name in (supervise.ORDER, supervise.LOCK):
            open(os.path.join(self.private, name), "w").close()
        self.lease: dict[str, Any] | None = None
        self.lease_deadline_s = float("inf")
        self.looked_s = 0.0
        self.kills = memory_kills()
        super().__init__(run_folder, order)

    def path(self, name: str) -> str:
        """The places of supervise.py's files, for one rank of several."""
        if name in (supervise.WAKE, supervise.ORDER, supervise.STOP, supervise.LOCK):
            return os.path.join(self.private, name)
        stem, dot, ending = name.partition(".")
        return self.shared(f"{stem}-{self.rank}{dot}{ending}")

    def shared(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def main(self) -> int:
        """The container's exit code, once the exit is on record."""
        signal.signal(signal.SIGTERM, self.note_end)
        with open(self.path(supervise.LOG), "ab"):
            pass
        me = {
            "address": self.order["address"],
            "port": open_port(),
            "pod": os.environ.get("SUAN_POD_NAME", ""),
        }
        supervise.write_json(self.shared(f"node-{self.rank}.json"), me)  # and the order's secrets are gone
        try:
            if self.meet():
                self.run()
            else:
                self.write_exit()
        finally:
            for name in os.listdir(self.private):
                os.unlink(os.path.join(self.private, name))
            os.rmdir(self.private)
        if self.cause in ("", "exited"):
            code = self.failed[1] if self.failed else 0
            return code if code >= 0 else 128 - code
        return 1

    def note_end(self, *_: object) -> None:
        self.terminated = True

    # ---- before it begins

    def meet(self) -> bool:
        """True when every node has come up and the lease is good; else the cause says why not."""
        deadline_s = supervise.boot_clock_s() + self.order["meet_s"]
        while not self.cause:
            self.look_around()
            if self.cause:
                break
            if self.terminated:
                self.give_up("terminated", "the cluster ended its pod before it started")
            elif not os.path.exists(self.path(supervise.LOCK)):
                self.give_up("lost", "the run's record was removed")
            elif self.lease_end_s() <= supervise.boot_clock_s():
                self.give_up("fenced", "the site's lease ended before it started")
            elif self.lease_is_good() and (nodes := self.nodes()):
                self.order["env"]["MASTER_ADDR"] = nodes[0]["address"]
                self.order["env"]["MASTER_PORT"] = str(nodes[0]["port"])
                self.order["env"]["SKYPILOT_NODE_IPS"] = "\n".join(node["address"] for node in nodes)
                return True
            elif supervise.boot_clock_s() > deadline_s:
                if self.lease_is_good():
                    self.give_up("not_started", f"not every node came up in {self.order['meet_s']} s")
                else:
                    self.give_up("fenced", "the site's lease had ended before it started")
            else:
                time.sleep(_TICK_S)
        return False

    def nodes(self) -> list[dict[str, Any]]:
        """What every node says of itself, by rank; empty while one is missing."""
        found = []
        for rank in range(self.order["ranks"]):
            node = supervise.read_json(self.shared(f"node-{rank}.json"))
            if node is None or "pod" not in node:
                return []
            found.append(node)
        return found

    def give_up(self, cause: str, detail: str) -> None:
        self.cause, self.detail = self.cause or cause, self.detail or detail

    # ---- while it runs

    def look(self) -> None:
        self.look_around()
        if self.terminated:
            self.end("terminated", "the cluster ended its pod", self.order["grace_s"])
        super().look()

    def look_around(self) -> None:
        """Heeds a stop and the ends of the other nodes."""
        try:
            names = os.listdir(self.folder)  # opening the folder is what makes NFS ask its server anew
        except FileNotFoundError:  # the record was removed: the missing lock says so
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(supervise.LOCK))
            return
        except OSError:  # the volume does not answer, and may again
            return
        if "stop.json" in names:
            stop = supervise.read_json(self.shared("stop.json")) or {"grace_s": 0}
            self.end("stopped", "" if self.started_at_s else "stopped before it started", stop["grace_s"])
        for name in sorted(names):
            if name.startswith("exit-") and name.endswith(".json") and name != f"exit-{self.rank}.json":
                exit = supervise.read_json(self.shared(name))
                if exit is not None and (exit["cause"] != "exited" or exit["exit_code"]):
                    self.end("followed", "another node ended", self.order["grace_s"])

    def end(self, cause: str, detail: str, grace_s: float) -> None:
        if self.started_at_s is None:
            self.give_up(cause, detail)
        else:
            super().end(cause, detail, grace_s)

    # ---- lease

    def lease_end_s(self) -> float:
        now_s = supervise.boot_clock_s()
        lease = supervise.read_json(self.order["lease"])
        if lease is None:  # none yet, or the volume does not answer: what was known stands
            return self.lease_deadline_s
        if self.lease is None:
            age_s = time.time() - lease["at_s"]
            in_step = -_CLOCK_SKEW_S <= age_s < lease["seconds"]
            # Of a lease that looks old or from the future nothing is known until it is renewed.
            self.lease_deadline_s = now_s - max(0.0, age_s) + lease["seconds"] if in_step else float("inf")
            self.lease = {**lease, "in_step": in_step}
        elif lease["number"] != self.lease["number"]:
            self.lease_deadline_s = self.looked_s + lease["seconds"]
            self.lease = {**lease, "in_step": True}
        self.looked_s = now_s
        return self.lease_deadline_s

    def lease_is_good(self) -> bool:
        return self.lease is None or bool(self.lease["in_step"])

    # ---- end

    def write_exit(self) -> None:
        if self.failed and self.cause in ("", "exited") and not self.detail and memory_kills() > self.kills:
            self.detail = "memory limit of the container exceeded"
        super().write_exit()


def main(run_folder: str) -> int:
    claimed = claim(run_folder, os.environ.get("JOB_COMPLETION_INDEX", ""))
    if claimed is None:
        print("suan: no rank of this run is left to start; each starts once", flush=True)
        return _NO_ORDER
    rank, order = claimed
    shell = next((path for path in order["shells"] if os.path.exists(path)), "sh")
    order["argv"] = [shell, *order["arguments"]]
    order["address"] = os.environ.get("SUAN_POD_IP") or socket.gethostbyname(socket.gethostname())
    print(f"suan: rank {rank}; its output is in {run_folder}/log-{rank}", flush=True)
    return Node(run_folder, rank, order).main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
