"""What happens, as server-sent events: facts with their sequence, progress without.

Knows which facts a tenant may see, and that secrets are in none of them.
"""

from collections.abc import AsyncIterator
from typing import Annotated, assert_never

import msgspec
from fastapi import APIRouter, Header, Query
from msgspec.structs import replace
from starlette.responses import Response, StreamingResponse

from suan.doors.rest.access import SEES_ALL, Here, Viewer, sees
from suan.doors.rest.parts import Parts
from suan.doors.schema import MASK, shown_task
from suan.grid import fact as f
from suan.grid.account import Key
from suan.grid.state import State

router = APIRouter(prefix="/v1", tags=["events"])
HEARTBEAT_S = 10.0
_encode = msgspec.json.Encoder().encode


@router.get("/events", response_class=Response)
async def events(
    here: Here,
    key: Viewer,
    after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """`event: fact` with `id: SEQUENCE`, `event: progress`, and `event: gap` when facts are kept no more.

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
                if may_see(here.grid.state, key, fact):
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


def may_see(state: State, key: Key, fact: f.Fact) -> bool:
    """Sites, links, tariffs and prices are everybody's; the rest is a tenant's, keys are an operator's."""
    match fact:
        case f.GridStarted() | f.LinkSet() | f.TariffSet() | f.SiteJoined() | f.SiteDescribed():
            return True
        case f.SiteSilent() | f.SiteHeard() | f.SiteFenced() | f.SiteReturned() | f.SiteDraining():
            return True
        case f.MarketCleared():
            return True
        case f.KeyIssued() | f.KeyRevoked():
            return key.role in SEES_ALL
        case f.TenantSet() | f.JobSubmitted() | f.Metered():
            return sees(key, fact.tenant)
        case f.JobStopRequested() | f.JobEnded() | f.RunPlaced():
            return sees(key, state.jobs[fact.job].tenant)
        case f.RunStarted() | f.RunEndpoint() | f.RunStopOrdered() | f.RunEnded():
            return sees(key, state.runs[fact.run].tenant)
        case f.ArtifactCommitted():
            return sees(key, fact.artifact.tenant)
        case f.ReplicaAdded() | f.ReplicaRemoved() | f.TransferOrdered():
            return sees(key, state.artifacts[fact.artifact].tenant)
        case f.TransferEnded():
            return sees(key, state.artifacts[state.transfers[fact.transfer].artifact].tenant)
        case f.Settled():
            return all(
                entry.job in state.jobs and sees(key, state.jobs[entry.job].tenant) for entry in fact.entries
            )
        case _:
            assert_never(fact)


def shown(fact: f.Fact) -> f.Fact:
    """The fact without what is secret in it."""
    match fact:
        case f.JobSubmitted():
            return replace(fact, task=shown_task(fact.task))
        case f.KeyIssued():
            return replace(fact, key=replace(fact.key, hash=MASK))
        case _:
            return fact
