"""A follower's requests, carried to the plane that leads: callers and sites may dial any plane.

Knows which requests a follower answers itself: what only reads the state. Commands, reports, logs and bytes
of artifacts go on to the leader, and its answer comes back as it is, streamed both ways.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from suan.control.leader import Plane
from suan.doors.problem import problem_response
from suan.grid.error import NotNow

_MARK = "suan-forwarded"  # carried once; a second plane that does not lead either says so
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_LEADERS = re.compile(r"/v1/(jobs/[^/]+/log|data/.*|relay/.*)")  # read from the leader's own disk
_HOPS = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
# Long polls and streams may be silent for long; that the leader is there shows in the connecting.
_LOOK_S = 0.25  # between two looks whether it still leads
_TIMEOUT = httpx.Timeout(None, connect=2.0)


class Forward:
    """An ASGI application: `app` while the plane leads and for reads, else the leader's."""

    def __init__(self, app: ASGIApp, plane: Plane) -> None:
        self._app, self._plane = app, plane
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        # Straight to the leader: a proxy is for the world outside.
        self._client = httpx.AsyncClient(timeout=_TIMEOUT, limits=limits, trust_env=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":
                await self._client.aclose()
            return
        if self._plane.leads or (scope["method"] in _READS and not _LEADERS.fullmatch(scope["path"])):
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._carried(Request(scope, receive))
        except NotNow as refusal:
            answer = problem_response(refusal)
        except ClientDisconnect:
            return
        await answer(scope, receive, send)

    async def _carried(self, request: Request) -> Response:
        """The leader's answer. Raises: NotNow `not_leader` or `leader_unreachable`."""
        leader = self._plane.leader
        if not leader or _MARK in request.headers:
            raise self._plane.not_leader()
        target = request.scope["raw_path"].decode("ascii")  # as it was quoted
        if request.url.query:
            target += f"?{request.url.query}"
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        headers = [(name, value) for name, value in request.headers.items() if name not in {*_HOPS, "host"}]
        asked = self._client.build_request(
            request.method,
            leader + target,
            headers=[*headers, (_MARK, "1")],
            content=request.stream() if has_body else None,
        )
        try:
            answer = await self._answered(asked, leader)
        except httpx.TransportError as error:
            raise _unreachable(leader, str(error) or type(error).__name__) from error
        carried = StreamingResponse(_bytes(answer), answer.status_code)
        carried.raw_headers = [item for item in answer.headers.raw if item[0].lower().decode() not in _HOPS]
        return carried

    async def _answered(self, asked: httpx.Request, leader: str) -> httpx.Response:
        """The head of the leader's answer, waited for as long as it leads.

        Raises: NotNow `leader_unreachable` once it does not: the kernel of a stopped process goes on taking
        requests.
        """
        sending = asyncio.create_task(self._client.send(asked, stream=True))
        try:
            while not (await asyncio.wait({sending}, timeout=_LOOK_S))[0]:
                if self._plane.leader != leader:
                    raise _unreachable(leader, "another leads since")
        except BaseException:
            sending.cancel()
            raise
        return sending.result()


def _unreachable(leader: str, why: str) -> NotNow:
    return NotNow(
        "leader_unreachable",
        f"the leader {leader} did not answer: {why}",
        hint="what was asked may have been done or not: ask again",
        retry_after_s=1,
        leader=leader,
    )


async def _bytes(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it was sent, compressed or not."""
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        await answer.aclose()
