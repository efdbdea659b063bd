"""The way to the data door of a site that nobody can dial: others ask here, and the site fetches the
questions.

Knows pairs of a question and its answer, in memory, for as long as both ends wait. Keeps no data and reads
none; whether a ticket is good is said by the site's own door.
"""

import asyncio
import secrets
from collections import deque
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from suan.doors.rest.access import AnyKey, site_key
from suan.doors.rest.answer import Json, Raw, takes_bytes
from suan.grid.error import NotNow

router = APIRouter(prefix="/v1", tags=["sites"])
_MOST_WAITING = 64  # questions to one site: a fetch asks eight at once
_ANSWER_S = 25.0  # less than whoever fetches waits
_RETRY_S = 2


class Question:
    def __init__(self, target: str, ticket: str) -> None:
        self.id = secrets.token_hex(8)
        self.target, self.ticket = target, ticket
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()


class Relay:
    """Questions by site. Lives in the event loop alone."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Question]] = {}
        self._taken: dict[tuple[str, str], Question] = {}
        self._news: dict[str, asyncio.Event] = {}

    async def ask(self, site: str, target: str, ticket: str) -> tuple[int, bytes]:
        """(status, body) as the site's door says.

        Raises: NotNow `relay_busy` or `site_silent`.
        """
        waiting = self._waiting.setdefault(site, deque())
        if site not in self._news or len(waiting) >= _MOST_WAITING:
            what = "has too many questions" if waiting else "asks for none"
            raise NotNow("relay_busy", f"{site} {what}", retry_after_s=_RETRY_S)
        question = Question(target, ticket)
        waiting.append(question)
        self._news[site].set()
        try:
            return await asyncio.wait_for(question.answer, _ANSWER_S)
        except TimeoutError as error:
            raise NotNow("site_silent", f"{site} did not answer", retry_after_s=_RETRY_S) from error
        finally:
            self._taken.pop((site, question.id), None)
            if question in waiting:
                waiting.remove(question)

    async def take(self, site: str, wait_s: float) -> Question | None:
        """The oldest question to the site; None when there is none for so long."""
        news = self._news.setdefault(site, asyncio.Event())
        waiting = self._waiting.setdefault(site, deque())
        if not waiting:
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), wait_s)
            except TimeoutError:
                return None
        if not waiting:
            return None  # another of the site's threads was quicker
        question = waiting.popleft()
        self._taken[site, question.id] = question
        return question

    def give(self, site: str, question: str, status: int, body: bytes) -> bool:
        """Whether somebody still waited for it."""
        taken = self._taken.pop((site, question), None)
        if taken is None or taken.answer.done():
            return False
        taken.answer.set_result((status, body))
        return True


def _relay(request: Request) -> Relay:
    relay: Relay = request.app.state.relay
    return relay


@router.get("/relay/{site}/{target:path}", include_in_schema=False)
async def ask(request: Request, site: str, target: str) -> Response:
    """What the site's data door answers to this ticket. Needs no key: the ticket is one."""
    query = f"?{request.url.query}" if request.url.query else ""
    ticket = request.headers.get("authorization", "")
    status, body = await _relay(request).ask(site, f"{target}{query}", ticket)
    return Response(body, status, media_type="application/octet-stream")


@router.post("/sites/{site}/door")
async def take(
    request: Request, key: AnyKey, site: str, wait_s: Annotated[float, Query(ge=0, le=30)] = 0
) -> Response:
    """The next question to this data door, for a site that cannot be dialled; null when there is none."""
    site_key(key, site)
    question = await _relay(request).take(site, wait_s)
    said: dict[str, Any] | None = None
    if question is not None:
        said = {"id": question.id, "target": question.target, "ticket": question.ticket}
    return Json({"question": said})


@router.put("/sites/{site}/door/{question}", openapi_extra=takes_bytes())
async def give(
    request: Request, key: AnyKey, site: str, question: str, *, body: Raw, status: int = 200
) -> Response:
    """The data door's answer to a question."""
    site_key(key, site)
    return Json({"wanted": _relay(request).give(site, question, status, body)})
