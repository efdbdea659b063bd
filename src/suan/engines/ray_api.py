"""A Ray cluster over HTTP: its jobs, its nodes, what of them is used. No Ray package, no `ray://`.

Knows the Jobs REST API of a head's dashboard, and its pages that tell version, nodes and usage; turns every
failure into `SiteTrouble`. Does not know runs, folders or pools.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec

from suan.grid import hardware
from suan.grid.error import Refused, SiteTrouble

log = logging.getLogger("suan.ray")

_TIMEOUT_S = 30.0  # a busy head takes seconds to answer a submission
_ASK_S = 1.0  # between two questions about one job
_MOST_NODES = 10_000  # Source: RAY_MAX_LIMIT_FROM_API_SERVER, Ray 2.60 util/state/common.py
_LABEL = "accelerator_type:"
# What counts devices on a node, by the resource's name. Source: Ray 2.60, _private/accelerators/*.py.
DEVICE_RESOURCES = ("GPU", "NPU", "TPU", "HPU", "neuron_cores")
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


class RayNode(msgspec.Struct, frozen=True, kw_only=True):
    """One live node, its resources as Ray names them."""

    id: str
    ip: str
    head: bool
    total: dict[str, float]
    used: dict[str, float]  # by everybody; empty where the cluster does not tell
    labels: dict[str, str] = {}

    @property
    def device_resource(self) -> str:
        """The resource that counts this node's accelerators, `CPU` where it has none."""
        return next((name for name in DEVICE_RESOURCES if self.total.get(name, 0) >= 1), "CPU")

    @property
    def devices(self) -> int:
        return int(self.total.get(self.device_resource, 0))

    @property
    def kind_name(self) -> str:
        """What Ray calls the accelerators, "" for a node without any and for accelerators without a name."""
        return next((name.removeprefix(_LABEL) for name in self.total if name.startswith(_LABEL)), "")

    @property
    def kind(self) -> str:
        """The accelerator table's name; "" for accelerators that it, or Ray, has no name for."""
        if self.device_resource == "CPU":
            return "CPU-x86"
        try:
            return hardware.accelerator(self.kind_name).name if self.kind_name else ""
        except Refused:
            return ""


class JobSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A submitted job as Ray has it."""

    submission_id: str | None = None
    status: str = ""
    message: str | None = None
    metadata: dict[str, str] | None = None


class Submission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of POST /api/jobs/. No runtime environment: the dashboard shows it to everybody."""

    entrypoint: str
    submission_id: str
    metadata: dict[str, str] = {}
    entrypoint_num_cpus: float = 0
    entrypoint_num_gpus: float = 0
    entrypoint_resources: dict[str, float] = {}


def token_of(environment: Mapping[str, str]) -> str:
    """The cluster's token, from where Ray's own tools take it; "" for a cluster without one."""
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    home = environment.get("HOME", os.path.expanduser("~"))
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or f"{home}/.ray/auth_token")
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


_NOT_ASKED = SiteTrouble("ray_unreachable", "not asked yet")


class RayApi:
    """One cluster's HTTP door. Several threads may use it at once."""

    def __init__(self, address: str, token: str = "") -> None:
        """`address`: http://HOST:8265, where the head's dashboard is."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.address = address.rstrip("/")
        # No proxies from the environment: a cluster is never behind one, and its token is nobody else's.
        self._http = httpx.Client(base_url=self.address, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        self._http.close()

    # ---------------------------------------------------------------- jobs

    def submit(self, submission: Submission) -> None:
        """Returns when Ray has the job, whoever gave it: an id that is known already is the same job.

        Raises: SiteTrouble `ray_unreachable`, `ray_refused`.
        """
        try:
            self._ask("POST", "/api/jobs/", msgspec.to_builtins(submission))
        except SiteTrouble as trouble:
            # A known id answers 500 with a traceback; a lost answer looks like no answer. Only a look tells.
            if trouble.code == "ray_no_access" or self.job(submission.submission_id) is None:
                raise

    def job(self, submission_id: str) -> JobSeen | None:
        """The job, None when the cluster does not know it (any more)."""
        try:
            return msgspec.convert(self._ask("GET", f"/api/jobs/{submission_id}"), JobSeen)
        except SiteTrouble as trouble:
            if trouble.fields.get("answered") == 404:
                return None
            raise
        except msgspec.ValidationError as error:
            raise SiteTrouble("ray_answer", f"{self.address} speaks another Jobs API: {error}") from error

    def jobs(self) -> tuple[JobSeen, ...]:
        """Every submitted job that the cluster remembers."""
        try:
            found = msgspec.convert(self._ask("GET", "/api/jobs/"), list[JobSeen])
        except msgspec.ValidationError as error:
            raise SiteTrouble("ray_answer", f"{self.address} speaks another Jobs API: {error}") from error
        return tuple(job for job in found if job.submission_id)

    def stop(self, submission_id: str) -> None:
        """SIGTERM by Ray, SIGKILL a few seconds later. A job that waits for resources stays waiting."""
        self._ask("POST", f"/api/jobs/{submission_id}/stop")

    def delete(self, submission_id: str) -> None:
        """Drops an ended job from the cluster's list."""
        self._ask("DELETE", f"/api/jobs/{submission_id}")

    def output(self, submission_id: str) -> str:
        """What the job's entrypoint has printed; "" when the node that ran it cannot be asked."""
        try:
            answer = self._ask("GET", f"/api/jobs/{submission_id}/logs")
        except SiteTrouble:
            return ""
        return str(answer.get("logs", "")) if isinstance(answer, dict) else ""

    # ---------------------------------------------------------------- nodes

    def version(self) -> str:
        answer = self._ask("GET", "/api/version")
        return str(answer.get("ray_version", "unknown")) if isinstance(answer, dict) else "unknown"

    def nodes(self) -> tuple[RayNode, ...]:
        """Live nodes, sorted by id."""
        listed = self._ask("GET", f"/api/v0/nodes?detail=1&limit={_MOST_NODES}")
        usage = self._usage()
        nodes = []
        try:
            for node in listed["data"]["result"]["result"]:
                if node["state"] == "ALIVE":
                    total = {name: float(amount) for name, amount in node["resources_total"].items()}
                    used = usage.get(node["node_id"], {})
                    nodes.append(
                        RayNode(
                            id=node["node_id"],
                            ip=node["node_ip"],
                            head=bool(node.get("is_head_node")),
                            total=total,
                            used={name: used[_fold(name)] for name in total if _fold(name) in used},
                            labels=node.get("labels") or {},
                        )
                    )
        except (KeyError, TypeError, ValueError) as error:
            raise SiteTrouble(
                "ray_answer", f"{self.address} lists nodes in another shape: {error}"
            ) from error
        return tuple(sorted(nodes, key=lambda node: node.id))

    def _usage(self) -> dict[str, dict[str, float]]:
        """Used resources by node and folded name; none on clusters whose autoscaler does not say."""
        status = self._ask("GET", "/api/cluster_status")
        try:
            by_node = status["data"]["clusterStatus"]["loadMetricsReport"]["usageByNode"] or {}
            return {
                node: {_fold(name): float(used) for name, (used, _) in amounts.items()}
                for node, amounts in by_node.items()
            }
        except (KeyError, TypeError, ValueError):
            return {}

    # ---------------------------------------------------------------- HTTP

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise SiteTrouble(
                "ray_unreachable",
                f"no answer from the Ray head at {self.address}: {error or type(error).__name__}",
                hint="is the head up, and its dashboard on that address?",
            ) from error
        if answer.status_code in (401, 403):
            raise SiteTrouble(
                "ray_no_access",
                f"the Ray head at {self.address} does not accept the token",
                hint="set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as for Ray's own command line",
            )
        if answer.is_error:
            last = answer.text.strip().rpartition("\n")[2][:300]
            raise SiteTrouble(
                "ray_refused",
                f"{method} {path}: {answer.status_code} {last}",
                answered=answer.status_code,
            )
        if method == "DELETE" or not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise SiteTrouble("ray_answer", f"{self.address}{path} is no JSON: not a Ray head?") from error


class JobWatch:
    """What is asked of a cluster in the background, so that nobody waits for a head that is busy or gone."""

    def __init__(self, api: RayApi) -> None:
        self._api = api
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="ray")
        self._lock = threading.Lock()
        self._answers: dict[str, JobSeen | SiteTrouble | None] = {}
        self._asked_s: dict[str, float] = {}

    def job(self, submission_id: str) -> JobSeen | SiteTrouble | None:
        """The newest answer: None when the cluster does not know the job, trouble when there was none."""
        if self._is_due(submission_id, _ASK_S):
            self._workers.submit(self._ask, submission_id)
        with self._lock:
            return self._answers.get(submission_id, _NOT_ASKED)

    def later(self, work: Callable[[], object]) -> None:
        """Does it soon. Trouble is logged and no more."""

        def do() -> None:
            try:
                work()
            except SiteTrouble as trouble:
                log.info("%s", trouble)

        self._workers.submit(do)

    def seldom(self, name: str, work: Callable[[], object], every_s: float = 10.0) -> None:
        """`later`, but not again within `every_s`."""
        if self._is_due(f"{name} (seldom)", every_s):
            self.later(work)

    def forget(self, submission_id: str) -> None:
        with self._lock:
            self._answers.pop(submission_id, None)
            for name in (submission_id, f"{submission_id} (seldom)"):
                self._asked_s.pop(name, None)

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _is_due(self, name: str, every_s: float) -> bool:
        now_s = time.monotonic()
        with self._lock:
            due = now_s - self._asked_s.get(name, float("-inf")) >= every_s
            if due:
                self._asked_s[name] = now_s
            return due

    def _ask(self, submission_id: str) -> None:
        answer: JobSeen | SiteTrouble | None
        try:
            answer = self._api.job(submission_id)
        except SiteTrouble as trouble:
            answer = trouble
        with self._lock:
            self._answers[submission_id] = answer


def _fold(name: str) -> str:
    """One spelling for `accelerator_type:H100` and `acceleratorType:H100`, the two that the pages use."""
    return name.replace("_", "").lower()
