"""The program that a Slurm job runs: on every node one supervisor of the run's processes there.

`slurm_node.py RUNFOLDER` in the job's script, and again under srun on each node of a run of several. Stdlib
and `supervise.py` beside it only: both are copied into the engine's folder, so a node needs Python 3.9 or
newer and that folder, and nothing of Suan's. Knows one run's folder and Slurm's variables; does not ask
Slurm whether to go on.

What holds the promises, on top of those of `supervise.py`:
- `claim` is made by one job and no other can: a run that was submitted twice starts once.
- The lease is a file that the agent keeps rewriting. A node counts from when it last saw it change, on its
  own clock; before it starts anything it asks the file server how old the file is. So runs end when the
  agent or its machine is dead, and a job that Slurm starts long after the lease has ended starts nothing.
- Whichever node fails first says so in `failed.json`, and the others end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys

try:  # as a part of Suan, for its tests; on a node the two files lie side by side
    from suan.engines import supervise
except ImportError:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import supervise  # type: ignore[no-redef]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CLAIM, FAILED, NODES, HOSTS = "claim", "failed.json", "nodes", "SUAN_SLURM_HOSTS"
LEASE = "lease.json"
_GRES_INDEX = re.compile(r"IDX:([\d,-]+)")
# Variables by which Slurm's own gres/gpu plugin keeps a task to its devices.
_SLURM_PINS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")


def lease_age_s(folder: str, lease: str) -> float:
    """How long ago the lease was written, by the clock of the file system alone: no two machines' clocks
    meet.
    """
    probe = os.path.join(folder, f".age-{os.uname().nodename}-{os.getpid()}")
    with open(probe, "w", encoding="ascii"):
        now_s = os.stat(probe).st_mtime
    os.unlink(probe)
    return max(0.0, now_s - os.stat(lease).st_mtime)


class NodeSupervisor(supervise.Supervisor):
    """One node's part of a run. Its own files are in RUNFOLDER/nodes/RANK; stop, lease and failure are
    shared.
    """

    def __init__(self, run_folder: str, rank: int, order: dict[str, Any]) -> None:
        self.run_folder, self.rank = run_folder, rank
        self.lease: dict[str, Any] | None = None
        self.lease_until_s = float("inf")
        self.stop_told: dict[str, Any] | None = None
        self.failure_told = False
        self.wake_out, self.wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        super().__init__(os.path.join(run_folder, NODES, str(rank)), order)

    def path(self, name: str) -> str:
        if (
            name == supervise.WAKE
        ):  # a fifo would not reach over a shared file system: nobody writes to this one
            return f"/proc/self/fd/{self.wake_out}"
        if name == supervise.LOG:  # what Slurm gave us: it gathers the output of all nodes into one file
            return "/proc/self/fd/1"
        if name == supervise.ORDER:
            return order_path(self.run_folder, self.rank)
        return super().path(name)

    def run(self) -> None:
        self.take_stop()
        if self.lease_end_s(first=True) <= supervise.boot_clock_s():
            self.cause, self.detail = "fenced", "the site's lease had ended before Slurm started it"
            self.write_exit()
            with contextlib.suppress(OSError):
                os.unlink(self.path(supervise.ORDER))
            return
        super().run()

    def look(self) -> None:
        self.take_stop()
        failed = os.path.join(self.run_folder, FAILED)
        if not self.cause and not self.failed and os.path.exists(failed):
            self.end("exited", "", self.order["grace_s"])
        super().look()

    def take_stop(self) -> None:
        """Turns a stop that the agent has written into one on this node's clock. A later one can only
        shorten.
        """
        stop = supervise.read_json(os.path.join(self.run_folder, supervise.STOP))
        if stop is None or stop == self.stop_told:
            return
        self.stop_told = stop
        deadline_s = supervise.boot_clock_s() + stop["grace_s"]
        before = supervise.read_json(self.path(supervise.STOP))
        if before is None or deadline_s < before["deadline_s"]:
            supervise.write_json(self.path(supervise.STOP), {"deadline_s": deadline_s})

    def lease_end_s(self, *, first: bool = False) -> float:
        path = self.order["lease"]
        lease = supervise.read_json(path)
        if lease is not None and lease != self.lease:
            age_s = 0.0
            if first:
                with contextlib.suppress(OSError):
                    age_s = lease_age_s(self.folder, path)
            self.lease, self.lease_until_s = lease, supervise.boot_clock_s() + lease["seconds"] - age_s
        return self.lease_until_s

    def reap(self) -> bool:
        alive = super().reap()
        if self.failed and not self.cause and not self.failure_told:
            self.failure_told = True
            with contextlib.suppress(FileExistsError, OSError):
                # Linked into place: of two nodes that fail at once one is the first, and its file is whole.
                fresh = self.path("failed")
                supervise.write_json(fresh, {"node": self.rank})
                os.link(fresh, os.path.join(self.run_folder, FAILED))
        return alive


def order_path(run_folder: str, rank: int) -> str:
    """One order a node, in one folder: some shared file systems link only within a folder."""
    return os.path.join(run_folder, f"order-{rank}.json")


# ---------------------------------------------------------------- in the job


def claim(run_folder: str, job: str) -> bool:
    """Whether this job is the one that may start the run. Made whole or not at all, by one job only."""
    path = os.path.join(run_folder, CLAIM)
    fresh = f"{path}.{job}"
    with open(fresh, "w", encoding="ascii") as file:
        file.write(job)
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    os.unlink(fresh)
    with open(path, encoding="ascii") as file:
        return file.read() == job


def hosts_of(nodes: int) -> list[str]:
    """The job's nodes by Slurm's names, in the order of ranks."""
    if nodes == 1:
        return [os.environ.get("SLURMD_NODENAME") or os.uname().nodename]
    words = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def address_of(host: str, addresses: dict[str, str]) -> str:
    """The node's IP address, or its name where nothing resolves it."""
    name = addresses.get(host, host)
    try:
        return socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
    except OSError:
        return name


def placed(order: dict[str, Any], rank: int, hosts: list[str]) -> dict[str, Any]:
    """The order with what only the job knows: where its nodes are, and which devices are this node's."""
    ips = [address_of(host, order["addresses"]) for host in hosts]
    node = order["nodes"][0]
    own = {
        **node["env"],
        **{name: str(rank) for name in ("SUAN_NODE_RANK", "RANK", "NODE_RANK", "SKYPILOT_NODE_RANK")},
        "SKYPILOT_NODE_IPS": "\n".join(ips),
        "MASTER_ADDR": ips[0],
    }
    variable = order["visible_env"]
    pinned = variable in os.environ or (
        order["gres"].startswith("gpu") and any(v in os.environ for v in _SLURM_PINS)
    )
    if variable and not pinned and (indices := gres_indices(order["gres"], hosts[rank])):
        own[variable] = indices
    return {**order, "address": ips[rank], "nodes": [{**node, "env": own}]}


def gres_indices(gres: str, host: str) -> str:
    """Devices of this node that Slurm gave the job, `0,1,5`; "" when it does not say."""
    words = ["scontrol", "--details", "--oneliner", "show", "job", os.environ.get("SLURM_JOB_ID", "")]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
        return gres_indices_in(text, gres, host)
    return ""


def gres_indices_in(text: str, gres: str, host: str) -> str:
    """The same from the text of `scontrol --details show job`, whose lines name nodes as `g[1-2,5]`."""
    for part in re.split(r"\s(?=Nodes=)", text)[1:]:
        names = part.partition("=")[2].split()[0]
        found = re.search(rf"\b{re.escape(gres)}[^\s,(]*:\d+\({_GRES_INDEX.pattern}\)", part)
        if found and host in expanded(names):
            return ",".join(str(number) for number in numbers_in(found[1]))
    return ""


def expanded(names: str) -> list[str]:
    """`g[01-03],h7` as names."""
    found = []
    for stem, numbers, tail in re.findall(r"([^,\[\]]+)(?:\[([\d,-]+)\])?([^,\[\]]*)", names):
        if not numbers:
            found.append(stem + tail)
        for part in numbers.split(",") if numbers else []:
            low, _, high = part.partition("-")
            width = len(low)
            found += [f"{stem}{number:0{width}}{tail}" for number in range(int(low), int(high or low) + 1)]
    return found


def numbers_in(text: str) -> list[int]:
    """`0-1,5` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        found += range(int(low), int(high or low) + 1)
    return found


def supervise_node(run_folder: str, rank: int, hosts: list[str]) -> None:
    os.makedirs(os.path.join(run_folder, NODES, str(rank)), mode=0o700, exist_ok=True)
    order = supervise.read_json(order_path(run_folder, rank))
    if order is None:
        raise SystemExit(f"{order_path(run_folder, rank)} cannot be read on {os.uname().nodename}")
    supervisor = NodeSupervisor(run_folder, rank, placed(order, rank, hosts))
    with open(supervisor.path(supervise.LOCK), "w", encoding="ascii"):
        pass  # a supervisor whose lock file has gone ends its run: the record was removed
    supervisor.run()


def main(run_folder: str) -> None:
    os.umask(0o077)
    if HOSTS in os.environ:  # under srun: one of several nodes
        supervise_node(run_folder, int(os.environ["SLURM_PROCID"]), json.loads(os.environ.pop(HOSTS)))
        return
    if not claim(run_folder, os.environ["SLURM_JOB_ID"]):
        print("another Slurm job has this run; this one starts nothing", file=sys.stderr)
        return
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    hosts = hosts_of(nodes)
    if nodes == 1:
        supervise_node(run_folder, 0, hosts)
        return
    os.environ[HOSTS] = json.dumps(hosts)
    # A step does not take these over from the job by itself, in no release alike.
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1",
               "--input=none", "--mpi=none", "--quit-on-interrupt"]  # fmt: skip
    if os.environ.get("SLURM_CPUS_PER_TASK"):
        options.append(f"--cpus-per-task={os.environ['SLURM_CPUS_PER_TASK']}")
    words = [
        "srun",
        *options,
        sys.executable,
        "-I",
        "-S",
        "-X",
        "utf8",
        os.path.abspath(__file__),
        run_folder,
    ]
    os.execvp("srun", words)


if __name__ == "__main__":
    main(sys.argv[1])
