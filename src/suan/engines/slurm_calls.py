"""Asks Slurm: over slurmrestd with a JSON web token, or with its commands on a login node.

Knows how a question is put in each generation (see `slurm_answers.py` for the answers). Does not know runs or
pools. Every trouble is a SiteTrouble; `unsure` among its fields says that a submission may have been taken.
"""

import logging
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import httpx
import msgspec

from suan.engines.slurm_answers import Job, Node, errors_of, jobs_of, nodes_of, submitted_of
from suan.grid.error import SiteTrouble

log = logging.getLogger("suan.agent")
_Answer = TypeVar("_Answer")
_TIMEOUT_S = 20.0
# Newest first. Source: slurmrestd 24.11.5 serves the first three, 22.05.8 the last; v0.0.39 differs from
# both.
_REST_VERSIONS = ("v0.0.42", "v0.0.41", "v0.0.40", "v0.0.38")
_OLD = "v0.0.38"
_TOKEN_LIFE_S = 1800
_COMMANDS_WITH_JSON = (23, 2)  # the release from which `scontrol` has --json


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job as Slurm takes it. No secrets: Slurm shows jobs to every user of a cluster."""

    name: str
    script: str
    folder: str
    output: str
    partition: str
    nodes: int
    cpus_per_task: int
    memory_mib: int = 0  # a node
    gres: str = ""  # a node: gpu:h100:2
    excluded_nodes: tuple[str, ...] = ()
    account: str = ""
    minutes: int | None = None


class Slurm(Protocol):
    """What the engine asks of a cluster."""

    def nodes(self) -> tuple[Node, ...]: ...

    def jobs(self) -> tuple[Job, ...]:
        """All that Slurm remembers of this user, other users' perhaps among them."""
        ...

    def partitions(self) -> dict[str, bool]:
        """Partition -> whether it is the default, of those that take jobs."""
        ...

    def submit(self, request: JobRequest, environment: Mapping[str, str]) -> int:
        """The job's id. Raises: SiteTrouble; with `unsure` when Slurm may have it all the same."""
        ...

    def cancel(self, job: int) -> None:
        """SIGTERM, then SIGKILL after the cluster's KillWait. Jobs that are over: nothing."""
        ...


class Latest(Generic[_Answer]):
    """The last answer to a question that is asked in a thread: who wants to know never waits for Slurm."""

    def __init__(self, ask: Callable[[], _Answer], every_s: float) -> None:
        self._ask, self._every_s = ask, every_s
        self._lock = threading.Lock()
        self._asked_s = float("-inf")
        self._asking = False
        self._answer: _Answer | None = None

    def get(self) -> _Answer | None:
        """The newest answer, None while Slurm is silent. Asks again when it is time; returns at once."""
        with self._lock:
            if not self._asking and time.monotonic() - self._asked_s >= self._every_s:
                self._asking, self._asked_s = True, time.monotonic()
                threading.Thread(target=self._run, name="slurm", daemon=True).start()
            return self._answer

    def expire(self) -> None:
        """Something has changed: the next `get` asks again."""
        with self._lock:
            self._asked_s = float("-inf")

    def _run(self) -> None:
        answer = None
        try:
            answer = self._ask()
        except SiteTrouble as trouble:
            log.warning("%s", trouble)
        finally:
            with self._lock:
                self._asking, self._answer = False, answer


# ---------------------------------------------------------------- commands


class Commands:
    """sinfo, squeue, sbatch and scancel of this machine."""

    def __init__(self, config: str = "") -> None:
        """`config`: the cluster's slurm.conf; "" = what SLURM_CONF says, else the machine's own."""
        config = config or os.environ.get("SLURM_CONF", "")
        self._config = {"SLURM_CONF": config} if config else {}
        self._release: tuple[int, ...] = ()

    def nodes(self) -> tuple[Node, ...]:
        old = self._released() < _COMMANDS_WITH_JSON
        return nodes_of(
            self._ask("sinfo", "--json") if old else self._ask("scontrol", "--json", "show", "nodes")
        )

    def jobs(self) -> tuple[Job, ...]:
        return jobs_of(self._ask("squeue", "--json", "--me", "--states=all"))

    def partitions(self) -> dict[str, bool]:
        found = {}
        for line in self._ask("sinfo", "--noheader", "--format=%P|%a").decode().splitlines():
            name, _, state = line.strip().partition("|")
            if state == "up":
                found[name.rstrip("*")] = found.get(name.rstrip("*"), False) or name.endswith("*")
        return found

    def submit(self, request: JobRequest, environment: Mapping[str, str]) -> int:
        options = {
            "job-name": request.name,
            "chdir": request.folder,
            "output": request.output,
            "partition": request.partition,
            "nodes": str(request.nodes),
            "ntasks-per-node": "1",
            "cpus-per-task": str(request.cpus_per_task),
            "mem": f"{request.memory_mib}M" if request.memory_mib else "",
            "gres": request.gres,
            "exclude": ",".join(request.excluded_nodes),
            "account": request.account,
            "time": str(request.minutes) if request.minutes else "",
            "open-mode": "append",
            "input": "/dev/null",
        }
        words = [f"--{name}={value}" for name, value in options.items() if value]
        answer = self._ask(
            "sbatch", "--parsable", "--no-requeue", *words, input=request.script, environment=environment
        )
        number = answer.decode().strip().splitlines()[-1:] or [""]
        try:
            return int(number[0].partition(";")[0])  # a federation adds its cluster's name
        except ValueError as error:
            raise SiteTrouble("slurm_answer", f"sbatch answered {answer[:200]!r}", unsure=True) from error

    def cancel(self, job: int) -> None:
        self._ask("scancel", "--quiet", str(job))

    def _released(self) -> tuple[int, ...]:
        if not self._release:
            word = self._ask("sinfo", "--version").decode().split()[-1]
            self._release = tuple(int(part) for part in word.split(".")[:2] if part.isdigit())
        return self._release

    def _ask(
        self, *words: str, input: str | None = None, environment: Mapping[str, str] | None = None
    ) -> bytes:
        whole = {**(os.environ if environment is None else environment), **self._config}
        try:
            done = subprocess.run(
                words,
                input=None if input is None else input.encode(),
                stdin=subprocess.DEVNULL if input is None else None,
                capture_output=True,
                timeout=_TIMEOUT_S,
                env=whole,
            )
        except subprocess.TimeoutExpired as error:
            what = f"{words[0]} did not answer within {_TIMEOUT_S:g} s"
            raise SiteTrouble("slurm_silent", what, unsure=True) from error
        except OSError as error:
            hint = "install Slurm's client commands here, or name slurmrestd's address"
            raise SiteTrouble("no_slurm", f"{words[0]} cannot be run: {error}", hint=hint) from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-400:]
            what = f"{shlex.join(words[:3])} failed: {said or f'code {done.returncode}'}"
            raise SiteTrouble("slurm_refused", what, unsure=_is_connection_trouble(said))
        return done.stdout


def _is_connection_trouble(said: str) -> bool:
    """Whether Slurm may have taken what we do not know the answer to."""
    return any(
        words in said for words in ("Unable to contact", "Socket timed out", "Zero Bytes", "onnection")
    )


# ---------------------------------------------------------------- REST


class Rest:
    """slurmrestd at `url`, in the newest version that both sides speak."""

    def __init__(self, url: str, user: str, token: Callable[[], str]) -> None:
        """`token` gives a valid JSON web token each time; it is asked before every call."""
        self._user, self._token = user, token
        self._client = httpx.Client(base_url=url.rstrip("/"), timeout=_TIMEOUT_S, trust_env=False)
        self._version = ""

    @property
    def version(self) -> str:
        if not self._version:
            troubles = []
            for version in _REST_VERSIONS:
                response = self._send("GET", f"/slurm/{version}/ping")
                if response.status_code == 200:
                    self._version = version
                    return version
                if response.status_code != 404:
                    said = errors_of(response.content) or response.text[:200]
                    raise SiteTrouble("slurm_refused", f"slurmrestd: {response.status_code}: {said}")
                troubles.append(version)
            raise SiteTrouble("slurm_version", f"slurmrestd speaks no version we do: {', '.join(troubles)}")
        return self._version

    def nodes(self) -> tuple[Node, ...]:
        return nodes_of(self._ask("GET", "nodes"))

    def jobs(self) -> tuple[Job, ...]:
        return jobs_of(self._ask("GET", "jobs"))

    def partitions(self) -> dict[str, bool]:
        found = {}
        for row in msgspec.json.decode(self._ask("GET", "partitions")).get("partitions") or []:
            old = row.get("state")
            states = [old] if isinstance(old, str) else (row.get("partition") or {}).get("state") or []
            default = "default" in [str(flag).lower() for flag in row.get("flags") or []]
            if "UP" in [str(state).upper() for state in states]:
                found[str(row["name"])] = default
        return found

    def submit(self, request: JobRequest, environment: Mapping[str, str]) -> int:
        old = self.version == _OLD
        job: dict[str, Any] = {
            "name": request.name,
            "current_working_directory": request.folder,
            "standard_output": request.output,
            "standard_input": "/dev/null",
            "partition": request.partition,
            "tasks": request.nodes,
            "tasks_per_node": 1,
            "cpus_per_task": request.cpus_per_task,
            "nodes": [request.nodes, request.nodes] if old else str(request.nodes),
            "environment": dict(environment) if old else [f"{k}={v}" for k, v in environment.items()],
            "requeue": False,
            "open_mode": "append" if old else ["APPEND"],
        }
        if request.memory_mib:
            limit = request.memory_mib
            job["memory_per_node"] = limit if old else {"set": True, "number": limit}
        if request.gres:
            job["gres" if old else "tres_per_node"] = request.gres if old else f"gres/{request.gres}"
        if request.excluded_nodes:
            job["excluded_nodes"] = list(request.excluded_nodes)
        if request.account:
            job["account"] = request.account
        if request.minutes:
            job["time_limit"] = request.minutes if old else {"set": True, "number": request.minutes}
        body = {"job": job, "script": request.script} if old else {"job": {**job, "script": request.script}}
        return submitted_of(self._ask("POST", "job/submit", body))

    def cancel(self, job: int) -> None:
        response = self._send("DELETE", f"/slurm/{self.version}/job/{job}")
        said = errors_of(response.content)
        over = ("already", "Invalid job id", "Job/step")
        if response.status_code >= 400 and response.status_code != 404 and not any(w in said for w in over):
            raise SiteTrouble("slurm_refused", f"job {job} cannot be cancelled: {said}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        response = self._send(method, f"/slurm/{self.version}/{path}", body)
        if response.status_code != 200:
            said = errors_of(response.content) or response.text[:200]
            unsure = response.status_code >= 502
            raise SiteTrouble("slurm_refused", f"slurmrestd: {response.status_code}: {said}", unsure=unsure)
        if body is not None and (said := errors_of(response.content)):
            raise SiteTrouble("slurm_refused", f"slurmrestd: {said}", unsure=_is_connection_trouble(said))
        return response.content

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        headers = {"X-SLURM-USER-NAME": self._user, "X-SLURM-USER-TOKEN": self._token()}
        try:
            return self._client.request(method, path, json=body, headers=headers)
        except httpx.ConnectError as error:
            raise SiteTrouble("slurm_silent", f"slurmrestd cannot be reached: {error}") from error
        except httpx.HTTPError as error:
            raise SiteTrouble("slurm_silent", f"slurmrestd did not answer: {error}", unsure=True) from error


def token_source(file: Path | None) -> Callable[[], str]:
    """Gives a JSON web token: from `file`, read each time; else from SLURM_JWT; else `scontrol token`."""
    if file is not None:
        return lambda: _token_in(file)
    if os.environ.get("SLURM_JWT"):
        return lambda: os.environ["SLURM_JWT"]
    return _FreshToken()


def _token_in(file: Path) -> str:
    try:
        return file.read_text("ascii").strip().removeprefix("SLURM_JWT=")
    except (OSError, UnicodeDecodeError) as error:
        raise SiteTrouble("slurm_token", f"Slurm's token cannot be read: {error}") from error


class _FreshToken:
    """A token of `scontrol token`, made anew when half its life has passed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token, self._made_s = "", float("-inf")

    def __call__(self) -> str:
        with self._lock:
            if time.monotonic() - self._made_s > _TOKEN_LIFE_S / 2:
                answer = Commands()._ask("scontrol", "token", f"lifespan={_TOKEN_LIFE_S}")
                self._token, self._made_s = answer.decode().strip().partition("=")[2], time.monotonic()
            return self._token
