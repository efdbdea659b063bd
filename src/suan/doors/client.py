"""A grid, as Python sees it: one method for each thing that REST can do.

Knows paths and what they take. Answers are what the JSON says: dictionaries and lists, documented in
docs/reference/rest.md. Imports the standard library alone; what needs more imports it when it is called.
"""

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from suan.doors.connection import (
    Event,
    HttpTransport,
    Request,
    Transport,
    ask,
    base_headers,
    encoded,
    events_in,
    path_part,
)
from suan.grid.error import NotNow

if TYPE_CHECKING:
    from suan.grid.action import Observation, Orders

Json = dict[str, Any]
Progress = Callable[[int, int], None]  # bytes done, bytes in all

_TRIES = 4
_LOG_BYTES = 1 << 20
_WATCH_S = 20.0  # one wait for news
_PATIENCE_S = 60.0  # how long a watch outlives a grid that does not answer


class LogPart(NamedTuple):
    """Bytes of a run's log from where they were asked for. Once the run has `ended`, `size` does not grow."""

    data: bytes
    run: str
    size: int
    ended: bool


class Client:
    """One grid at `url`, spoken to with `key`. To be used by any number of threads."""

    def __init__(
        self, url: str, key: str = "", *, transport: Transport | None = None, timeout_s: float = 30.0
    ) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self._transport = transport or HttpTransport(url)
        self._timeout_s = timeout_s

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """What the grid answered: decoded JSON, or bytes when it is something else.

        `body`: bytes and text as they are, an iterator of bytes piece by piece, the rest as JSON. Params that
        are None are left out. All but POST, and what has an Idempotency-Key, is sent again when it broke.

        Raises: Refused, NotNow or SuanError as the grid said; NotNow `grid_unreachable`.
        """
        request = self._request(method, path, body=body, params=params, headers=headers)
        answer = ask(self._transport, request, self.url)
        content = answer.read()
        if answer.headers.get("content-type", "").startswith("application/json"):
            return json.loads(content)
        return content

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        tries: int | None = None,
    ) -> Request:
        sent = base_headers(self.key)
        data: bytes | Iterator[bytes] = b""
        if body is not None:
            data, sent["content-type"] = encoded(body)
        sent.update({name.lower(): value for name, value in (headers or {}).items()})
        if tries is None:
            tries = _TRIES if method != "POST" or "idempotency-key" in sent else 1
        wanted = {name: _text(value) for name, value in (params or {}).items() if value is not None}
        target = path + (f"?{urlencode(wanted)}" if wanted else "")
        return Request(method, target, data, sent, timeout_s or self._timeout_s, tries)

    # ------------------------------------------------------------ who and what

    def version(self) -> Json:
        return self.request("GET", "/v1/version")

    def whoami(self) -> Json:
        return self.request("GET", "/v1/whoami")

    # ------------------------------------------------------------ sites

    def sites(self) -> list[Json]:
        return self.request("GET", "/v1/sites")["items"]

    def site(self, name: str) -> Json:
        return self.request("GET", f"/v1/sites/{path_part(name)}")

    def join_token(self, site: str, expires_s: int = 3600) -> str:
        """A secret with which `site` joins, once."""
        return self.request("POST", "/v1/join-tokens", body={"site": site, "expires_s": expires_s})["token"]

    def join(
        self,
        token: str,
        site: str,
        *,
        region: str = "",
        engine: str = "local",
        labels: Mapping[str, str] | None = None,
    ) -> Json:
        """{site, key, epoch}: the site's own key, shown this once."""
        body = {"token": token, "site": site, "region": region, "engine": engine}
        return self.request("POST", "/v1/sites/join", body={**body, "labels": dict(labels or {})})

    def drain(self, site: str, draining: bool = True) -> Json:
        return self.request("POST", f"/v1/sites/{path_part(site)}/drain", body={"draining": draining})

    def report(self, observation: "Observation", wait_s: float = 0, known: int = 0) -> "Orders":
        """What the site should be doing: at once, or when it differs from `known`, `wait_s` later at most."""
        import msgspec

        from suan.grid.action import Orders

        request = self._request(
            "POST",
            f"/v1/sites/{path_part(observation.site)}/report",
            body=observation,
            params={"wait_s": wait_s or None, "known": known or None},
            timeout_s=self._timeout_s + wait_s,
            tries=1,  # the agent asks again with what it sees by then
        )
        return msgspec.json.decode(ask(self._transport, request, self.url).read(), type=Orders)

    def append_log(self, site: str, run: str, offset: int, data: bytes) -> int:
        """The log's size as the grid has it: where to go on."""
        path = f"/v1/sites/{path_part(site)}/runs/{path_part(run)}/log"
        return self.request("PUT", path, body=data, params={"offset": offset})["size"]

    def links(self) -> list[Json]:
        return self.request("GET", "/v1/links")["items"]

    def set_link(
        self,
        source: str,
        destination: str,
        *,
        mbit_per_s: float,
        rtt_ms: float = 0.0,
        microyuan_per_gb: int = 0,
    ) -> Json:
        body = {"source": source, "destination": destination, "mbit_per_s": mbit_per_s}
        return self.request(
            "PUT", "/v1/links", body=body | {"rtt_ms": rtt_ms, "microyuan_per_gb": microyuan_per_gb}
        )

    def set_tariff(self, tariff: Any) -> Json:
        """Takes a grid.site.Tariff or its JSON."""
        site = tariff["site"] if isinstance(tariff, dict) else tariff.site
        return self.request("PUT", f"/v1/sites/{path_part(site)}/tariff", body=tariff)

    def prices(self, hours: int = 24, site: str | None = None) -> Json:
        return self.request("GET", "/v1/prices", params={"hours": hours, "site": site})

    # ------------------------------------------------------------ jobs

    def submit(
        self,
        tasks: str | Sequence[Any],
        *,
        pipeline: str = "",
        idempotency_key: str = "",
        tenant: str | None = None,
        envs: Mapping[str, str] | None = None,
    ) -> list[Json]:
        """The new jobs. `tasks` is the text of a task file, or Task structs (or their JSON).

        Sent again when the connection breaks; the same idempotency key makes the same jobs, once.
        """
        key = idempotency_key or os.urandom(16).hex()
        answer = self._tasks("/v1/jobs", tasks, pipeline, {"tenant": tenant, **_envs(envs)}, key)
        return answer["jobs"]

    def quote(
        self, tasks: str | Sequence[Any], *, pipeline: str = "", envs: Mapping[str, str] | None = None
    ) -> list[Json]:
        """For each task {task, considered, notes}: every bid there is now. Nothing is stored."""
        return self._tasks("/v1/quotes", tasks, pipeline, _envs(envs), "quote")["quotes"]

    def estimate(self, what: str, question: Json) -> Json:
        """What the performance model says of a `plan`, `train`, `serve` or `rows` question."""
        headers = {"idempotency-key": "estimate"}
        return self.request("POST", f"/v1/estimates/{path_part(what)}", body=question, headers=headers)

    def _tasks(
        self, path: str, tasks: str | Sequence[Any], pipeline: str, params: Mapping[str, Any], key: str
    ) -> Json:
        headers = {"idempotency-key": key}
        if isinstance(tasks, str):
            headers["content-type"] = "text/yaml; charset=utf-8"
            params = {**params, "pipeline": pipeline or None}
            return self.request("POST", path, body=tasks, params=params, headers=headers)
        body = {"tasks": list(tasks), "pipeline": pipeline}
        return self.request("POST", path, body=body, params=params, headers=headers)

    def jobs(
        self,
        *,
        limit: int = 50,
        cursor: str | None = None,
        phase: str | None = None,
        pipeline: str | None = None,
        tenant: str | None = None,
    ) -> Json:
        """One page, newest first: {items, next_cursor}; the cursor is null on the last page."""
        params = {"limit": limit, "cursor": cursor, "phase": phase, "pipeline": pipeline, "tenant": tenant}
        return self.request("GET", "/v1/jobs", params=params)

    def job(self, job: str) -> Json:
        return self.request("GET", f"/v1/jobs/{path_part(job)}")

    def why(self, job: str) -> Json:
        return self.request("GET", f"/v1/jobs/{path_part(job)}/why")

    def durations(self, **wanted: Any) -> Json:
        return self.request("GET", "/v1/durations", params=wanted)

    def stop(self, job: str) -> Json:
        """The job, with its stop requested; a job that has ended is left as it is."""
        request = self._request("POST", f"/v1/jobs/{path_part(job)}/stop", tries=_TRIES)
        return json.loads(ask(self._transport, request, self.url).read())

    def runs(self, job: str | None = None) -> list[Json]:
        return self.request("GET", "/v1/runs", params={"job": job})["items"]

    def log(
        self, job: str, *, offset: int = 0, limit: int = _LOG_BYTES, run: str = "", wait_s: float = 0
    ) -> LogPart:
        """Part of a run's log, the newest run's when none is named. `wait_s`: waits for a new byte."""
        params = {"offset": offset, "limit": limit, "run": run or None, "wait_s": wait_s or None}
        path = f"/v1/jobs/{path_part(job)}/log"
        request = self._request("GET", path, params=params, timeout_s=self._timeout_s + wait_s)
        answer = ask(self._transport, request, self.url)
        headers = answer.headers
        size, ended = int(headers.get("x-suan-size") or 0), headers.get("x-suan-ended") == "1"
        return LogPart(answer.read(), headers.get("x-suan-run") or "", size, ended)

    def logs(self, job: str, follow: bool = False) -> Iterator[bytes]:
        """The job's log piece by piece: of its newest run; followed, of each run until the job has ended.

        Outlives a grid that is away for less than a minute.
        """
        run, offset, since_s = "", 0, time.monotonic()
        while True:
            try:
                part = self.log(job, offset=offset, run=run, wait_s=_WATCH_S if follow else 0)
                whole = follow and part.ended and not part.data
                now = self.job(job) if whole else None
            except NotNow:
                if not follow or time.monotonic() - since_s > _PATIENCE_S:
                    raise
                time.sleep(1.0)
                continue
            since_s, run, offset = time.monotonic(), part.run, offset + len(part.data)
            if part.data:
                yield part.data
            elif now is None:
                if not follow:
                    return
            elif newer := _after([known["id"] for known in now["runs"]], run):
                run, offset = newer, 0
            elif now["ended_at_s"] is not None:
                return
            else:
                time.sleep(0.5)  # between two runs

    def events(self, after: int | None = None) -> Iterator[Event]:
        """What happens from now on, or since the fact numbered `after`; connects again by itself.

        Kinds: `fact` (data has `type`), `progress`, and `gap` when facts since `after` are no longer kept.
        """
        since_s = time.monotonic()
        while True:
            request = self._request(
                "GET", "/v1/events", params={"after": after}, timeout_s=_PATIENCE_S, tries=1
            )
            try:
                answer = ask(self._transport, request, self.url)
                for event in events_in(answer):
                    since_s, after = time.monotonic(), event.sequence or after
                    yield event
            except NotNow:
                if time.monotonic() - since_s > _PATIENCE_S:
                    raise
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.5)

    # ------------------------------------------------------------ artifacts

    def artifacts(self, *, limit: int = 200, cursor: str | None = None, kind: str | None = None) -> Json:
        """One page, newest first: {items, next_cursor}."""
        return self.request("GET", "/v1/artifacts", params={"limit": limit, "cursor": cursor, "kind": kind})

    def artifact(self, name: str) -> Json:
        """The artifact with its replicas, transfers and lineage; the newest version when `name` has none."""
        return self.request("GET", f"/v1/artifacts/{path_part(name)}")

    def fetch(self, name: str) -> Json:
        """{ready, artifact, digest, transfer}: whether the grid's own store has it; if not, orders it."""
        request = self._request("POST", f"/v1/artifacts/{path_part(name)}/fetch", tries=_TRIES)
        return json.loads(ask(self._transport, request, self.url).read())

    def put(self, folder: str | Path, name: str, site: str = "", *, progress: Progress | None = None) -> Json:
        """The artifact version that the folder became. Content that the grid has already is not sent.

        Raises: Refused `bad_path`, `bad_artifact_name`, `which_site` …
        """
        from suan.doors.carry import put

        return put(self, Path(folder), name, site, progress)

    def get(
        self, name: str, folder: str | Path, *, wait_s: float = 600.0, progress: Progress | None = None
    ) -> Json:
        """The artifact, now in `folder`, verified; all of it or nothing.

        Raises: Refused `folder_exists`; NotNow `not_here_yet` after `wait_s`.
        """
        from suan.doors.carry import get

        return get(self, name, Path(folder), wait_s, progress)

    # ------------------------------------------------------------ money, tenants, keys

    def bill(self, tenant: str | None = None, job: str | None = None) -> Json:
        return self.request("GET", "/v1/bill", params={"tenant": tenant, "job": job})

    def ledger(self, *, limit: int = 200, cursor: str | None = None) -> Json:
        return self.request("GET", "/v1/ledger", params={"limit": limit, "cursor": cursor})

    def tenants(self) -> list[Json]:
        return self.request("GET", "/v1/tenants")["items"]

    def tenant(self, name: str) -> Json:
        return self.request("GET", f"/v1/tenants/{path_part(name)}")

    def set_tenant(self, name: str, **settings: Any) -> Json:
        """Settings: parent, weight, quota, budget, waiting_microyuan_per_h; the rest keeps its value."""
        return self.request("PUT", f"/v1/tenants/{path_part(name)}", body=settings)

    def keys(self) -> list[Json]:
        return self.request("GET", "/v1/keys")["items"]

    def issue_key(
        self, role: str, *, tenant: str = "", label: str = "", expires_s: int | None = None
    ) -> Json:
        """{id, key, role, tenant}: the secret is shown this once."""
        body = {"role": role, "tenant": tenant, "label": label, "expires_s": expires_s}
        return self.request("POST", "/v1/keys", body=body)

    def revoke_key(self, key: str) -> None:
        self.request("DELETE", f"/v1/keys/{path_part(key)}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _envs(envs: Mapping[str, str] | None) -> Json:
    return {"envs": json.dumps(dict(envs))} if envs else {}


def _after(names: list[str], name: str) -> str:
    """The name that follows `name`, "" for none."""
    place = names.index(name) + 1 if name in names else 0
    return names[place] if place < len(names) else ""
