"""One HTTP request to a grid and its answer: kept-alive connections, retries, problems as errors again.

Knows HTTP and problem+json. Does not know any path. Imports the standard library alone: the command line
starts with it.
"""

import http.client
import json
import select
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from suan import __version__
from suan.grid.error import NotNow, Refused, SuanError

_IDLE_LIMIT_S = 30.0  # servers close idle connections
_PAUSES_S = (0.1, 0.3, 0.8)  # before the second, third and fourth try
_NOT_NOW = frozenset({409, 429, 503})


class Request(NamedTuple):
    """What is to be sent, a body that is an iterator piece by piece. `target` is path and query; more `tries`
    than 1 only where twice does no harm.
    """

    method: str
    target: str
    body: bytes | Iterator[bytes] = b""
    headers: Mapping[str, str] = {}
    timeout_s: float = 30.0
    tries: int = 1


class Answer(Protocol):
    """A response whose head has arrived. `headers` are looked up without regard to case."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...

    def read(self) -> bytes: ...

    def readline(self) -> bytes: ...

    def close(self) -> None: ...


class Transport(Protocol):
    """How requests travel; the tests have one that stays in the process."""

    def send(self, request: Request) -> Answer:
        """Raises: OSError or http.client.HTTPException when no answer comes."""
        ...


class HttpTransport:
    """One kept-alive connection a thread, straight to the grid: a proxy is for the world outside."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused("bad_url", f"{url!r} is not a grid's address", hint="write http://HOST:PORT")
        try:
            self._port = parts.port
        except ValueError as error:
            raise Refused("bad_url", f"{url!r}: {error}", hint="write http://HOST:PORT") from error
        self._scheme, self._host, self._prefix = parts.scheme, parts.hostname, parts.path.rstrip("/")
        self._local = threading.local()

    def send(self, request: Request) -> Answer:
        connection = self._connection(request.timeout_s)
        try:
            connection.request(
                request.method, self._prefix + request.target, request.body or None, dict(request.headers)
            )
            answer = connection.getresponse()
        except BaseException:
            self._drop()
            raise
        self._local.used_s = time.monotonic()
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            self._local.connection = None  # it belongs to the stream from here on
        return answer

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None and connection.sock is not None:
            idle_s = time.monotonic() - self._local.used_s
            # Readable while nothing was asked: the server has closed it.
            if idle_s > _IDLE_LIMIT_S or select.select([connection.sock], [], [], 0)[0]:
                self._drop()
                connection = None
        if connection is None or connection.sock is None:
            kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
            connection = self._local.connection = kind(self._host, self._port, timeout=timeout_s)
            connection.connect()
            self._local.used_s = time.monotonic()
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
        self._local.connection = None


def ask(transport: Transport, request: Request, url: str) -> Answer:
    """The answer, whatever its status below 400, sent again after a broken connection as often as allowed.

    Raises: what the grid answered with, or NotNow `grid_unreachable`.
    """
    for attempt in range(max(1, request.tries)):
        if attempt:
            time.sleep(_PAUSES_S[min(attempt - 1, len(_PAUSES_S) - 1)])
        try:
            answer = transport.send(request)
            if answer.status < 400:
                return answer
            error = problem(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as trouble:
            reason = str(trouble) or type(trouble).__name__
            continue
        raise error
    raise NotNow(
        "grid_unreachable",
        f"the grid at {url} cannot be reached: {reason}",
        hint="start one: suan up",
        retry_after_s=1,
    )


def problem(status: int, body: bytes) -> SuanError:
    """The error that a problem+json body stands for; one made from the status when it is something else."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    kind = NotNow if status in _NOT_NOW else Refused if status < 500 else SuanError
    fields = told.get("fields")
    error = kind(
        str(told.get("code") or f"http_{status}"),
        str(
            told.get("detail")
            or body[:200].decode("utf-8", "replace")
            or http.client.responses.get(status, "")
        ),
        hint=str(told.get("hint") or ""),
        status=status,
    )
    error.fields = fields if isinstance(fields, dict) else {}
    return error


class Event(NamedTuple):
    """One server-sent event. `sequence` is 0 for kinds that cannot be resumed from."""

    kind: str
    sequence: int
    data: Any


def events_in(answer: Answer) -> Iterator[Event]:
    """Events as they come, until the server ends the stream. Comments only keep it alive: left out.

    Source: HTML Living Standard, section 9.2.6.
    """
    kind, sequence, data = "message", 0, []
    while line := answer.readline():
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if not field and not value:
            if data:
                yield Event(kind, sequence, json.loads("\n".join(data)))
            kind, sequence, data = "message", 0, []
        elif field == "event":
            kind = value
        elif field == "id":
            sequence = int(value) if value.isdigit() else 0
        elif field == "data":
            data.append(value)


def base_headers(key: str) -> dict[str, str]:
    headers = {"accept": "application/json", "user-agent": f"suan/{__version__}"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers


def encoded(body: Any) -> tuple[bytes | Iterator[bytes], str]:
    """(bytes, content type): bytes, an iterator of bytes and text as they are, anything else as JSON."""
    if isinstance(body, Iterator):
        return body, "application/octet-stream"
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    try:
        return json.dumps(body).encode(), "application/json"
    except TypeError:  # structs inside
        import msgspec

        return msgspec.json.encode(body), "application/json"


def path_part(name: str) -> str:
    """One segment of a path: never more than one, whatever is in it."""
    if name in ("", ".", ".."):
        raise Refused("bad_name", f"{name!r} is no name", hint="give the name that a listing shows")
    return urllib.parse.quote(name, safe=":@")
