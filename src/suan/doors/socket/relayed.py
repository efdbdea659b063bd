"""How the socket reaches the engine of a service at a site that nobody can dial: relay://grid/SITE/RUN.

Knows HTTP requests and the relay's questions. Does not know what is asked.
"""

from collections.abc import AsyncIterator
from urllib.parse import unquote

import httpx

from suan.doors.rest.questions import Broken, Question, Relay
from suan.doors.socket.upstream import PATIENCE_S


class RelayTransport(httpx.AsyncBaseTransport):
    """An httpx transport over the relay. Closing a response before its end closes the call at the site."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises: NotNow as `Relay.ask`."""
        site, _, target = request.url.raw_path.decode().lstrip("/").partition("/")
        question = Question(target, body=await request.aread(), patience_s=PATIENCE_S)
        head = await self._relay.ask(unquote(site), "services", question)
        headers = {"content-type": head.media_type}
        return httpx.Response(head.status, headers=headers, stream=_Pieces(question))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, question: Question) -> None:
        self._question = question

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._question.pieces():
                yield piece
        except Broken as error:
            raise httpx.ReadError(str(error)) from error

    async def aclose(self) -> None:
        self._question.leave()
