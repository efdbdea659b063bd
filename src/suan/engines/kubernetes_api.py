"""A Kubernetes API, asked: what is there, decoded; what should be, created or deleted.

Knows addresses, credentials and how an API says no. The official client brings what clusters differ in:
contexts, certificates, tokens that rotate, the exec plug-ins of EKS, GKE and others. What is asked goes
through httpx and what is read is decoded by `kubernetes_objects.py`, because the client's calls change their
signatures between releases and its models are slow: 1.3 s of CPU for a list of a thousand pods, against 0.02
s here (kubernetes 37.0.2, pods of a 1.20 server, 2026-11).
"""

import contextlib
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
import msgspec

from suan.engines.kubernetes_objects import Job, Json, Node, Pod
from suan.grid.error import Refused, SiteTrouble

_CONNECT_S, _READ_S = 3.0, 15.0
_PAGE = 500  # objects an answer, as kubectl asks for
_Kind = TypeVar("_Kind")


class _ListMeta(msgspec.Struct, rename={"next_page": "continue"}):
    next_page: str = ""


class _Page(msgspec.Struct, Generic[_Kind]):
    metadata: _ListMeta
    items: list[_Kind]


class Api:
    """One cluster, as one user. Safe for threads."""

    def __init__(self, kubeconfig: Path | None = None, context: str = "") -> None:
        """Raises: Refused `no_kubernetes` without the client, `no_kubeconfig` without credentials."""
        try:
            from kubernetes import client, config
        except ImportError as error:
            hint = "pip install 'suan[kubernetes]'"
            raise Refused("no_kubernetes", "the Kubernetes client is not installed", hint=hint) from error
        configuration = client.Configuration()
        try:
            if kubeconfig is None and not context and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=configuration)
            else:
                config.load_kube_config(
                    str(kubeconfig) if kubeconfig else None,
                    context or None,
                    client_configuration=configuration,
                )
        except (config.ConfigException, OSError) as error:
            hint = "name the file in KUBECONFIG, or run the agent in a pod with a service account"
            raise Refused("no_kubeconfig", f"no way into a cluster: {error}", hint=hint) from error
        self._configuration = configuration
        self.host = str(configuration.host)
        self._client = httpx.Client(
            base_url=self.host,
            verify=_trust(configuration),
            proxy=configuration.proxy or None,
            timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
        )

    # ---------------------------------------------------------------- what is there

    def version(self) -> tuple[int, int]:
        """(major, minor). Raises: SiteTrouble, as everything here does."""
        said = msgspec.json.decode(self._ask("GET", "/version"))
        numbers = [int(re.match(r"\d*", said[key]).group() or 0) for key in ("major", "minor")]  # "20+"
        return numbers[0], numbers[1]

    def nodes(self, labels: str = "") -> list[Node]:
        return self._list("/api/v1/nodes", Node, labelSelector=labels)

    def pods(self, namespace: str, labels: str = "") -> list[Pod]:
        return self._list(f"/api/v1/namespaces/{namespace}/pods", Pod, labelSelector=labels)

    def placed_pods(self, namespace: str) -> list[Pod]:
        """Pods that hold something on a node, of the whole cluster, or of the namespace where that is all
        that may be seen.
        """
        holding = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
        try:
            return self._list("/api/v1/pods", Pod, fieldSelector=holding)
        except SiteTrouble as trouble:
            if trouble.code != "forbidden":
                raise
            return self._list(f"/api/v1/namespaces/{namespace}/pods", Pod, fieldSelector=holding)

    def jobs(self, namespace: str, labels: str) -> list[Job]:
        return self._list(f"/apis/batch/v1/namespaces/{namespace}/jobs", Job, labelSelector=labels)

    def may(self, verb: str, resource: str, *, group: str = "", namespace: str = "") -> bool:
        """Whether this user may; as the API itself answers."""
        attributes = {"verb": verb, "resource": resource, "group": group, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(msgspec.json.decode(answer)["status"]["allowed"])

    def has_queue(self, namespace: str, queue: str) -> bool:
        """Whether Kueue is there and the namespace has this LocalQueue."""
        try:
            group = msgspec.json.decode(self._ask("GET", "/apis/kueue.x-k8s.io"))
            version = group["preferredVersion"]["groupVersion"]
            self._ask("GET", f"/apis/{version}/namespaces/{namespace}/localqueues/{queue}")
        except SiteTrouble as trouble:
            if trouble.code == "not_found":
                return False
            raise
        return True

    # ---------------------------------------------------------------- what should be

    def create_job(self, namespace: str, manifest: Json) -> Json | None:
        """The Job as it was kept; None when one of this name exists."""
        try:
            answer = self._ask("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs", manifest)
        except SiteTrouble as trouble:
            if trouble.code == "exists":
                return None
            raise
        return msgspec.json.decode(answer)

    def delete_job(self, namespace: str, name: str) -> None:
        """The Job goes, and its pods after it, each with its own grace. Gone already: nothing."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        with _unless_gone():
            self._ask("DELETE", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", options)

    def delete_pod(self, namespace: str, name: str) -> None:
        """Takes the pod off the books at once, for a machine that cannot confirm its end any more."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        with _unless_gone():
            self._ask("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", options)

    # ---------------------------------------------------------------- ask

    def _list(self, path: str, kind: type[_Kind], **query: str) -> list[_Kind]:
        """All of them, page by page."""
        asked = [("limit", str(_PAGE)), *((name, value) for name, value in query.items() if value)]
        found: list[_Kind] = []
        next_page: list[tuple[str, str]] = []
        while True:
            try:
                answer = msgspec.json.decode(
                    self._ask("GET", path, query=asked + next_page), type=_Page[kind]
                )
            except msgspec.DecodeError as error:
                raise SiteTrouble("engine_strange", f"{self.host}{path}: {error}") from error
            found += answer.items
            if not answer.metadata.next_page:
                return found
            next_page = [("continue", answer.metadata.next_page)]

    def _ask(
        self, method: str, path: str, body: Json | None = None, query: list[tuple[str, str]] | None = None
    ) -> bytes:
        """The answer's bytes.

        Raises: SiteTrouble `engine_unreachable`, `forbidden`, `not_found`, `exists` or `engine_refused`.
        """
        token = self._configuration.auth_settings().get("BearerToken", {}).get("value")  # renewed when due
        headers = {"Accept": "application/json"} | ({"Authorization": token} if token else {})
        try:
            answer = self._client.request(method, path, params=query or (), headers=headers, json=body)
        except httpx.HTTPError as error:
            hint = "is the API server up?"
            what = f"{self.host} does not answer: {type(error).__name__} {error}"
            raise SiteTrouble("engine_unreachable", what, hint=hint) from error
        if answer.is_success:
            return answer.content
        raise _trouble(answer.status_code, answer.text, f"{method} {path}")


def _trust(configuration: Any) -> ssl.SSLContext:
    """Whom to believe that they are the cluster, and how to show who we are."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:  # as the user's kubeconfig says
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


_CODES = {401: "forbidden", 403: "forbidden", 404: "not_found", 409: "exists"}


def _trouble(status: int, text: str, asked: str) -> SiteTrouble:
    """The API's no in one sentence."""
    with contextlib.suppress(msgspec.DecodeError, KeyError, TypeError):
        text = msgspec.json.decode(text)["message"]
    code = _CODES.get(
        status, "engine_refused" if 400 <= status < 500 and status != 429 else "engine_unreachable"
    )
    hint = "grant it: docs/how-to/join-kubernetes.md" if code == "forbidden" else ""
    return SiteTrouble(code, f"{asked}: {status} {text}"[:500], hint=hint)


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except SiteTrouble as trouble:
        if trouble.code != "not_found":
            raise
