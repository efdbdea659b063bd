"""The relay's doors: others ask for a site's data here, and the site fetches questions and brings answers.

Whether a ticket is good is said by the site's own door. Services are asked by the socket alone.
"""

import base64
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from suan.doors.rest.access import AnyKey, Here, site_key
from suan.doors.rest.answer import Json, takes_bytes
from suan.doors.rest.questions import RETRY_S, Broken, Head, Question, Queue
from suan.grid.error import NotNow

router = APIRouter(prefix="/v1", tags=["sites"])
_DOOR_PATIENCE_S = 25.0  # less than whoever fetches waits

# ---------------------------------------------------------------- who asks for data


@router.get("/relay/{site}/{target:path}", include_in_schema=False)
async def ask(request: Request, parts: Here, site: str, target: str) -> Response:
    """What the site's data door answers to this ticket. Needs no key: the ticket is one."""
    query = f"?{request.url.query}" if request.url.query else ""
    ticket = request.headers.get("authorization", "")
    question = Question(f"{target}{query}", ticket=ticket, patience_s=_DOOR_PATIENCE_S)
    head = await parts.relay.ask(site, "door", question)
    try:
        content = b"".join([piece async for piece in question.pieces()])
    except Broken as error:
        raise NotNow("site_silent", f"{site}: {error}", retry_after_s=RETRY_S) from error
    return Response(content, head.status, media_type=head.media_type)


# ---------------------------------------------------------------- the site


@router.post("/sites/{site}/relay/{queue}")
async def take(
    key: AnyKey, parts: Here, site: str, queue: Queue, *, wait_s: Annotated[float, Query(ge=0, le=30)] = 0
) -> Response:
    """The next question to this site's data door or services; null when there is none."""
    site_key(key, site)
    question = await parts.relay.take(site, queue, wait_s)
    if question is None:
        return Json({"question": None})
    body = base64.b64encode(question.body).decode()
    told = {"id": question.id, "target": question.target, "ticket": question.ticket, "body_base64": body}
    return Json({"question": told})


@router.post("/sites/{site}/relay/{queue}/{question}", openapi_extra=takes_bytes())
async def give(
    request: Request, key: AnyKey, parts: Here, site: str, queue: Queue, *, question: str, status: int = 200
) -> Response:
    """The answer to a question, its body as it comes; `wanted` says whether anybody listened to its end."""
    site_key(key, site)
    head = Head(status, request.headers.get("content-type", "application/octet-stream"))
    wanted = await parts.relay.give(site, queue, question, head, request.stream())
    answer = Json({"wanted": wanted})
    if not wanted:
        answer.headers["connection"] = "close"  # what is still being sent has no reader
    return answer
