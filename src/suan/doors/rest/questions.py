"""Questions to sites that nobody can dial, and their answers, piece by piece as they arise.

Two queues a site: its data door and its services. Knows pairs of a question and its answer, in memory, for as
long as both ends wait. Keeps no data and reads none; knows no HTTP.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

from starlette.requests import ClientDisconnect

from suan.grid.error import NotNow

Queue = Literal["door", "services"]
# Questions to one site: of several fetches at once, and of all who use its services.
_MOST_WAITING = {"door": 64, "services": 1024}
RETRY_S = 2
_AHEAD = 16  # pieces of an answer that wait for a slow asker; then the site waits too


class Broken(Exception):
    """The answer ended before it was whole."""


class Head(NamedTuple):
    status: int
    media_type: str


class Question:
    """A request to a site, and what comes back. `patience_s` is waited for the head, and for each piece."""

    def __init__(self, target: str, *, ticket: str = "", body: bytes = b"", patience_s: float) -> None:
        self.id = secrets.token_hex(8)
        self.target, self.ticket, self.body, self._patience_s = target, ticket, body, patience_s
        self._head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        self._broken = False
        self.left = False  # nobody waits for the answer any more

    async def head(self) -> Head:
        """Raises: TimeoutError."""
        return await asyncio.wait_for(self._head, self._patience_s)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The answer's body.

        Raises: Broken.
        """
        try:
            while True:
                piece = await asyncio.wait_for(self._pieces.get(), self._patience_s)
                if piece is None:
                    break
                yield piece
        except TimeoutError as error:
            raise Broken(f"nothing for {self._patience_s:.0f} s") from error
        finally:
            self.leave()
        if self._broken:
            raise Broken("the site broke off")

    def leave(self) -> None:
        """The asker is gone; whoever brings pieces is let go."""
        self.left = True
        while not self._pieces.empty():
            self._pieces.get_nowait()

    async def answer(self, head: Head, body: AsyncIterator[bytes]) -> bool:
        """Passes the answer on as it comes; False as soon as nobody waits for it."""
        if self.left or self._head.done():
            return False
        self._head.set_result(head)
        self._broken = True
        try:
            async for piece in body:
                if self.left:
                    return False
                if piece:
                    await self._pieces.put(piece)
            self._broken = False
        except ClientDisconnect:
            return False
        finally:
            await self._pieces.put(None)
        return not self.left


class Relay:
    """Questions by site and queue. Lives in the event loop alone."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, Queue], deque[Question]] = {}
        self._taken: dict[tuple[str, Queue, str], Question] = {}
        self._news: dict[tuple[str, Queue], asyncio.Event] = {}

    async def ask(self, site: str, queue: Queue, question: Question) -> Head:
        """The answer's head; its body is `question.pieces()`, to be read to its end or left.

        Raises: NotNow `relay_busy` or `site_silent`.
        """
        place = (site, queue)
        waiting = self._waiting.setdefault(place, deque())
        if place not in self._news or len(waiting) >= _MOST_WAITING[queue]:
            what = "has too many questions" if waiting else "asks for none"
            raise NotNow("relay_busy", f"{site} {what}", retry_after_s=RETRY_S)
        waiting.append(question)
        self._news[place].set()
        try:
            return await question.head()
        except BaseException as error:
            question.leave()
            self._taken.pop((*place, question.id), None)
            if isinstance(error, TimeoutError):
                raise NotNow("site_silent", f"{site} did not answer", retry_after_s=RETRY_S) from error
            raise
        finally:
            if question in waiting:
                waiting.remove(question)

    async def take(self, site: str, queue: Queue, wait_s: float) -> Question | None:
        """The oldest question to the site; None when there is none for so long."""
        place = (site, queue)
        news = self._news.setdefault(place, asyncio.Event())
        waiting = self._waiting.setdefault(place, deque())
        if not waiting:
            news.clear()
            try:
                await asyncio.wait_for(news.wait(), wait_s)
            except TimeoutError:
                return None
        if not waiting:
            return None  # another of the site's threads was quicker
        question = waiting.popleft()
        self._taken[*place, question.id] = question
        return question

    async def give(
        self, site: str, queue: Queue, question: str, head: Head, body: AsyncIterator[bytes]
    ) -> bool:
        """Whether somebody waited for it to its end."""
        taken = self._taken.pop((site, queue, question), None)
        return taken is not None and await taken.answer(head, body)
