"""A real Slurm cluster in a folder, on loopback: munged, slurmctld, several slurmd with accelerators that
exist in name only, and slurmrestd with JSON web tokens where this machine can run it. Ended by pid.

Needs Debian's packages slurm-wlm, slurm-wlm-basic-plugins, slurm-wlm-jwt-plugin and munge; slurmrestd for
REST. A cluster of two nodes is up in about two seconds and takes 25 MB. SUAN_TEST_SLURM=off leaves it out.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PACKAGES = "slurm-wlm slurmrestd munge slurm-client slurm-wlm-basic-plugins slurm-wlm-jwt-plugin"
_NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
_TIMEOUT_S = 30.0
_TOKEN_S = 3600
# slurmrestd refuses to run as root; tokens, not this user, say who asks.
_REST_USER = "nobody"

_CONFIG = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/state/jwt_hs256.key
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_interval=2,batch_sched_delay=0,default_queue_depth=1000,requeue_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes={gres}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldTimeout=60
SlurmdTimeout=30
InactiveLimit=0
MinJobAge=300
KillWait=3
Waittime=0
SlurmctldDebug=info
SlurmdDebug=info
DebugFlags=NO_CONF_HASH
SlurmdParameters=config_overrides
"""


def missing() -> str:
    """Why no cluster is started here; "" when one is."""
    if os.environ.get("SUAN_TEST_SLURM") == "off":
        return "SUAN_TEST_SLURM says off"
    absent = [name for name in _NEEDED if shutil.which(name, path=_path()) is None]
    return f"no {', '.join(absent)} here; Debian: apt-get install {PACKAGES}" if absent else ""


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _gres_names(nodes: Sequence[str]) -> str:
    """The kinds of generic resource on these NodeName lines."""
    entries = [
        word.removeprefix("Gres=") for node in nodes for word in node.split() if word.startswith("Gres=")
    ]
    return ",".join(sorted({entry.split(":")[0] for gres in entries for entry in gres.split(",")} | {"gpu"}))


def free_ports(count: int) -> list[int]:
    """So many free loopback ports."""
    with contextlib.ExitStack() as sockets:
        probes = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class SlurmCluster:
    """One cluster, in a folder that every user can reach: slurmrestd runs as another one. `nodes` are
    NodeName lines without ports, as `name=gpu Gres=gpu:h100:4 CPUs=8`.
    """

    def __init__(self, folder: Path, *, nodes: Sequence[str], partitions: Sequence[str]) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.rest_url = ""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(self.config), "PATH": _path()}
        for name in ("state", "spool", "log", "run", "dev"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        self._write_keys()
        self.names = self._write_config(nodes, partitions)

    # ---------------------------------------------------------------- life

    def start(self) -> None:
        """Returns when every node is idle."""
        self._start("munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key",
                    f"--socket={self.folder}/munge.sock", f"--pid-file={self.folder}/run/munged.pid",
                    f"--seed-file={self.folder}/munged.seed",
                    f"--log-file={self.folder}/log/munged.log")  # fmt: skip
        self._wait(lambda: (self.folder / "munge.sock").exists(), "munged")
        self.start_controller(clean=True)
        for name in self.names:
            self.start_node(name)
        self.settle()

    def settle(self) -> None:
        """Returns when every node is idle. On a busy machine one may have been too late to answer, and is
        taken back by Slurm once it does.
        """
        self._wait(lambda: self._states() == {"idle"}, "all nodes idle", 90.0)

    def saved(self, job: str) -> None:
        """Returns when the controller has written this job down, by the end of its name. Killed before, it
        gives the job's number to another, and drains the node on which the two meet.
        """
        state = self.folder / "state" / "job_state"
        self._wait(lambda: state.exists() and f"{job}\0".encode() in state.read_bytes(), f"{job} is saved")

    def start_controller(self, *, clean: bool = False) -> None:
        self._start("slurmctld", "-D", *(["-c"] if clean else []))
        self._wait(lambda: "UP" in self.command("scontrol", "ping", check=False), "slurmctld")

    def start_node(self, name: str) -> None:
        self._start(f"slurmd {name}", "-D", "-N", name)

    def kill(self, daemon: str, number: int = signal.SIGKILL) -> None:
        """Ends `slurmctld`, `slurmd NAME` or `slurmrestd` and waits for it."""
        process = self._daemons.pop(daemon)
        process.send_signal(number)
        process.wait(_TIMEOUT_S)

    def start_rest(self) -> bool:
        """Whether slurmrestd answers at `rest_url` now; it needs to be another user than Slurm's."""
        if shutil.which("slurmrestd", path=_path()) is None or os.getuid() != 0:
            return False
        port = free_ports(1)[0]
        command = ["setpriv", f"--reuid={_REST_USER}", "--regid=nogroup", "--clear-groups", "slurmrestd",
                   "-s", self._openapi(), "-a", "rest_auth/jwt", f"127.0.0.1:{port}"]  # fmt: skip
        log = open(self.folder / "log" / "slurmrestd.log", "ab")  # noqa: SIM115 - the daemon keeps it
        environment = {**self.environment, "SLURM_JWT": "daemon"}
        self._daemons["slurmrestd"] = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
        )
        log.close()
        self._wait(lambda: self._listens(port), "slurmrestd")
        self.rest_url = f"http://127.0.0.1:{port}"
        return True

    def token(self) -> str:
        return self.command("scontrol", "token", f"lifespan={_TOKEN_S}").strip().partition("=")[2]

    def command(self, *arguments: str, check: bool = True) -> str:
        """The standard output of one of Slurm's commands on this cluster."""
        done = subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def stop(self) -> None:
        """Cancels all jobs, then ends every daemon that this object started."""
        if "slurmctld" in self._daemons:
            self.command("scancel", "--user", str(os.getuid()), check=False)
            with contextlib.suppress(AssertionError):
                self._wait(lambda: not self.command("squeue", "-h", check=False).strip(), "jobs gone", 8)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self._daemons.values():
                if process.poll() is None:
                    process.send_signal(number)
            for process in self._daemons.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
        self._daemons.clear()

    # ---------------------------------------------------------------- files

    def _write_keys(self) -> None:
        for path, size in ((self.folder / "munge.key", 1024), (self.folder / "state/jwt_hs256.key", 32)):
            path.write_bytes(secrets.token_bytes(size))
            path.chmod(0o600 if path.suffix == ".key" else 0o644)

    def _write_config(self, nodes: Sequence[str], partitions: Sequence[str]) -> list[str]:
        host = socket.gethostname().split(".")[0]
        ports = free_ports(1 + len(nodes))
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        lines = [
            _CONFIG.format(
                name="suan", host=host, port=ports[0], user=user, folder=self.folder, gres=_gres_names(nodes)
            )
        ]
        gres, names = ["AutoDetect=off"], []
        for node, port in zip(nodes, ports[1:], strict=True):
            name, _, rest = node.partition(" ")
            names.append(name)
            lines.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} {rest} State=UNKNOWN"
            )
            for word in rest.split():
                if word.startswith("Gres="):
                    gres += self._gres_lines(name, word.removeprefix("Gres="))
        lines += [f"PartitionName={partition}" for partition in partitions]
        self.config.write_text("\n".join(lines) + "\n")
        (self.folder / "gres.conf").write_text("\n".join(gres) + "\n")
        plugin = "cgroup/v1" if self._generation() < (23, 2) else "disabled"
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
        return names

    def _gres_lines(self, node: str, gres: str) -> list[str]:
        """A file for each device: Slurm wants to see one, whatever is in it."""
        lines = []
        for entry in gres.split(","):
            kind, *kinds, count = entry.split(":")
            device_type = f" Type={kinds[0]}" if kinds else ""
            paths = [self.folder / "dev" / f"{node}-{kind}{number}" for number in range(int(count))]
            for path in paths:
                path.touch()
            lines += [f"NodeName={node} Name={kind}{device_type} File={path}" for path in paths]
        return lines

    def _openapi(self) -> str:
        """What slurmrestd is to serve: without accounting, those of its plugins that need slurmdbd end it."""
        return "openapi/slurmctld" if self._generation() >= (23, 11) else "openapi/v0.0.38"

    def _generation(self) -> tuple[int, ...]:
        version = subprocess.run(["slurmctld", "-V"], env={"PATH": _path()}, capture_output=True, text=True)
        return tuple(int(part) for part in version.stdout.split()[-1].split(".")[:2])

    # ---------------------------------------------------------------- daemons

    def _start(self, name: str, *arguments: str) -> None:
        log = open(self.folder / "log" / f"{name.replace(' ', '-')}.out", "ab")  # noqa: SIM115
        self._daemons[name] = subprocess.Popen(
            [name.split()[0], *arguments],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
        )  # fmt: skip
        log.close()

    def _states(self) -> set[str]:
        return set(self.command("sinfo", "-h", "-N", "-o", "%t", check=False).split())

    @staticmethod
    def _listens(port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def _wait(self, condition, what: str, timeout_s: float = _TIMEOUT_S) -> None:  # type: ignore[no-untyped-def]
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline_s:
                logs = "\n".join(
                    f"--- {path.name}\n{path.read_text(errors='replace')[-800:]}"
                    for path in sorted((self.folder / "log").iterdir())
                )
                raise AssertionError(f"Slurm: {what} failed; ended daemons: {dead}\n{logs}")
            time.sleep(0.05)
