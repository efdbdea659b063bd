"""No body larger than its path allows: refused unread where its length is known, else while it is read."""

import re

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suan.doors.problem import problem_response
from suan.grid.error import Refused

MIB = 1 << 20
MAX_BODY_BYTES = 8 * MIB
_SPECIAL = (
    (re.compile(r"/v1/data/chunks/[^/]*"), 4 * MIB + 4096),  # a chunk is 4 MiB
    (re.compile(r"/v1/sites/[^/]+/relay/[^/]+/[^/]+"), 64 * MIB),  # a manifest, or what a service says
    (re.compile(r"/v1/artifacts"), 64 * MIB),  # a manifest: 90 bytes a chunk, 150 and more a small file
)


class BodyLimit:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = _limit(scope["path"])
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > limit:
            return await self._refuse(limit, scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    # An HTTPException, because that is what FastAPI lets through while it reads a body.
                    raise HTTPException(413, f"the body is larger than {limit / MIB:.0f} MiB")
            return message

        return await self._app(scope, counted, send)

    async def _refuse(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        refused = Refused(
            "too_large",
            f"the body is larger than the {limit / MIB:.0f} MiB that this path takes",
            hint="put data into an artifact: suan put",
            status=413,
            limit_bytes=limit,
        )
        response = problem_response(refused)
        response.headers["connection"] = "close"
        await response(scope, receive, send)


def _limit(path: str) -> int:
    return next((limit for pattern, limit in _SPECIAL if pattern.fullmatch(path)), MAX_BODY_BYTES)
