"""Where other sites fetch chunks from this one: `GET /manifests/DIGEST` and `GET /chunks/HASH?digest=DIGEST`.
`GET /probe?bytes=N` gives bytes that mean nothing, to measure the link by.

Knows tickets: who shows a secret may read one artifact, at one rate. Does not know who they are or why.
Whatever no ticket allows looks the same, there or not.
"""

import asyncio
import hmac
import socket
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from suan.grid.action import PROBE_DIGEST, Ticket, ticket_hash
from suan.grid.error import NotNow, Refused, SiteTrouble, SuanError
from suan.stores.links import PROBE_MAX_BYTES, PROBE_STREAMS
from suan.stores.manifests import chunk_sizes, manifest_from
from suan.stores.pace import Pace

_BLOCK_BYTES = 64 << 10
_BLOCKS_PER_S = 10  # at least, on slow links: a reader must not think that the source died
_START_S = 10.0
_PROBE_EVERY_S = 50.0
_STATUS = {"missing": 404, "corrupt": 502}


class Chunks(Protocol):
    """The part of a store that the door reads."""

    def read_manifest(self, digest: str) -> bytes: ...

    def read_chunk(self, hash: str) -> bytes: ...


class _Grant:
    """A ticket in force: its rate is shared by all who show it."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.pace = Pace(ticket.bytes_per_s)
        self.chunks: frozenset[str] | None = None  # of its artifact, read at the first request
        self._probed: list[tuple[float, int]] = []  # (when, bytes), of the last minute

    def take_probe(self, size: int) -> bool:
        """Whether so many bytes more are still a small probe: a minute has no more than one whole probe."""
        now_s = time.monotonic()
        self._probed = [one for one in self._probed if one[0] > now_s - _PROBE_EVERY_S]
        if sum(bytes for _, bytes in self._probed) + size > PROBE_STREAMS * PROBE_MAX_BYTES:
            return False
        self._probed.append((now_s, size))
        return True

    def renew(self, ticket: Ticket) -> None:
        if ticket.bytes_per_s != self.ticket.bytes_per_s:
            self.pace.change(ticket.bytes_per_s)
        self.ticket = ticket


class DataDoor:
    """An HTTP server in a thread of its own, from here to `close`.

    `port` 0 takes a free one. `public_url` is what others call it by, when that is not its address. With
    `emulate_links`, every answer waits the ticket's round trip: two sites on one machine have no distance.

    Raises: Refused `port_in_use` or `door_failed`.
    """

    def __init__(
        self,
        store: Chunks,
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str = "",
        *,
        emulate_links: bool = False,
    ) -> None:
        self._store = store
        self._emulate_links = emulate_links
        self._grants: dict[tuple[str, str], _Grant] = {}  # (hash of the secret, digest)
        self._socket = _listen(host, port)
        port = self._socket.getsockname()[1]
        self.url = public_url.rstrip("/") or f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(
            self._app(), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="data-door", daemon=True
        )
        self._thread.start()
        deadline_s = time.monotonic() + _START_S
        while not self._server.started:
            if time.monotonic() > deadline_s or not self._thread.is_alive():
                self.close()
                raise Refused(
                    "door_failed", f"nothing could be served at {self.url}", hint="name another address"
                )
            time.sleep(0.005)

    def allow(self, tickets: Sequence[Ticket]) -> None:
        """These tickets and no others are honoured from now on, each at its rate of now."""
        grants = {}
        for ticket in tickets:
            key = (ticket.ticket_hash, ticket.digest)
            grant = self._grants.get(key) or _Grant(ticket)
            grant.renew(ticket)
            grants[key] = grant
        self._grants = grants

    def close(self) -> None:
        """Ends the server; open answers get a second to finish. Twice is once."""
        self._server.should_exit = True
        self._thread.join(timeout=_START_S)
        self._socket.close()

    # ------------------------------------------------------------ inside

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/manifests/{digest}", self._manifest, methods=["GET"]),
                Route("/chunks/{hash}", self._chunk, methods=["GET"]),
                Route("/probe", self._probe, methods=["GET"]),
            ],
            exception_handlers={SuanError: _problem, HTTPException: _http_problem},
        )

    async def _manifest(self, request: Request) -> Response:
        grant = self._grant(request, request.path_params["digest"])
        data = await run_in_threadpool(self._store.read_manifest, grant.ticket.digest)
        return await self._send(grant, data)

    async def _chunk(self, request: Request) -> Response:
        grant = self._grant(request, request.query_params.get("digest", ""))
        if grant.chunks is None:
            data = await run_in_threadpool(self._store.read_manifest, grant.ticket.digest)
            grant.chunks = frozenset(chunk_sizes(manifest_from(data, grant.ticket.digest)))
        hash = request.path_params["hash"]
        if hash not in grant.chunks:
            raise SiteTrouble("missing", "that chunk is not of this artifact")
        return await self._send(grant, await run_in_threadpool(self._store.read_chunk, hash))

    async def _probe(self, request: Request) -> Response:
        grant = self._grant(request, PROBE_DIGEST)
        wanted = request.query_params.get("bytes", "0")
        size = min(int(wanted) if wanted.isdecimal() else 0, PROBE_MAX_BYTES)
        if not grant.take_probe(size):
            raise NotNow("too_many_probes", "this link has been probed a moment ago", retry_after_s=60)
        return await self._send(grant, bytes(size))

    def _grant(self, request: Request, digest: str) -> _Grant:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        shown = ticket_hash(secret) if scheme.lower() == "bearer" else ""
        # Every ticket is compared, in constant time: how long it takes says nothing about any of them.
        found = [
            grant
            for (known, granted), grant in self._grants.items()
            if hmac.compare_digest(known.encode(), shown.encode()) and granted == digest
        ]
        if not found:
            raise Refused("ticket_refused", "no ticket allows this here", status=403)
        return found[0]

    async def _send(self, grant: _Grant, data: bytes) -> Response:
        if self._emulate_links:
            await asyncio.sleep(grant.ticket.rtt_ms / 1000)
        return StreamingResponse(
            self._blocks(grant, data),
            media_type="application/octet-stream",
            headers={"content-length": str(len(data))},
        )

    async def _blocks(self, grant: _Grant, data: bytes) -> AsyncIterator[bytes]:
        sent = 0
        while sent < len(data):
            size = min(_BLOCK_BYTES, max(1024, int(grant.ticket.bytes_per_s / _BLOCKS_PER_S)))
            block = data[sent : sent + size]
            place = grant.pace.ask(len(block))
            while (wait_s := grant.pace.wait_s(place)) > 0:
                await asyncio.sleep(min(wait_s, 0.5))
            yield block
            sent += len(block)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named, because asyncio turns Nagle off only for a socket that says it is TCP
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Refused(
            "port_in_use",
            f"{host}:{port} cannot be listened on: {error}",
            hint="name another port, or 0 for a free one",
        ) from error
    return listener


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, SuanError)
    return _problem_json(_STATUS.get(error.code, error.status), error.code, error.what)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem_json(
        error.status_code, "not_found" if error.status_code == 404 else "bad_request", error.detail
    )


def _problem_json(status: int, code: str, what: str) -> Response:
    body: dict[str, Any] = {"type": "about:blank", "title": what, "status": status, "code": code}
    return JSONResponse(body, status, media_type="application/problem+json")
