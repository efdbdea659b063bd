"""What happens, as server-sent events: facts with their sequence, progress without.

Knows which facts a tenant may see, and that secrets are in none of them.
"""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from suan.doors.rest.access import Here, Viewer, sees
from suan.doors.rest.parts import Parts
from suan.grid import fact as f
from suan.grid.account import Key

router = APIRouter(prefix="/v1", tags=["events"])
HEARTBEAT_S = 10.0
_PUBLIC = (
    f.SiteJoined, f.SiteDescribed, f.SiteSilent, f.SiteHeard, f.SiteFenced, f.SiteReturned, f.SiteDraining,
    f.LinkSet, f.TariffSet,
)  # fmt: skip
_encode = msgspec.json.Encoder().encode


@router.get("/events", response_class=Response)
async def events(
    here: Here,
    key: Viewer,
    after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """`event: fact` with `id: SEQUENCE`, `event: progress`, and `event: gap` when facts after `after` are gone.

    Without `after` or Last-Event-ID, from now on. A comment every ten seconds keeps the line open.
    """
    head, lives = here.news.head()
    start = int(last_event_id) if last_event_id.isdigit() else after
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    stream = _stream(here, key, head if start is None else start, lives)
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _stream(here: Parts, key: Key, after: int, lives_after: int) -> AsyncIterator[bytes]:
    waiter = here.news.waiter()
    try:
        yield b": welcome\n\n"
        while True:
            first, facts = here.news.facts(after)
            if after + 1 < first:
                yield _event("gap", {"after": after, "next": first}, first - 1)
            after = max(after, first - 1)
            for sequence, fact in facts:
                after = sequence
                if (tenant := owner_of(here.grid.state, fact)) is not None and sees(key, tenant):
                    yield _event("fact", shown(fact), sequence)
            lives_after, lives = here.news.lives(lives_after)
            for live in lives:
                if sees(key, live.tenant):
                    yield _event("progress", live.data)
            if not await waiter.wait(HEARTBEAT_S):
                yield b": still here\n\n"
            if here.grid.state.keys.get(key.id) is None or here.news.closed:
                return
    finally:
        here.news.leave(waiter)


def _event(kind: str, data: object, sequence: int = 0) -> bytes:
    number = f"id: {sequence}\n" if sequence else ""
    return f"event: {kind}\n{number}data: ".encode() + _encode(data) + b"\n\n"
