"""What stands before an engine that answers from an index: plain ASGI, on the port that the site gave.

Knows how to start and end the engine behind it and how to pass requests on. What is found and told is
`retrieval`'s. On SIGTERM it takes no new request, finishes those that it has, and then ends the engine.
"""

import asyncio
import contextlib
import ctypes
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from suan.grid.error import Refused
from suan.recipes.index.store import Index
from suan.recipes.runtime import Context
from suan.recipes.serve import Args, engines, retrieval

DRAIN_S = 8  # less than the site's grace
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def start_engine(model: Path, port: int, args: Args) -> subprocess.Popen[bytes]:
    """The engine as a child that does not outlive this process."""
    argv = engines.command_line(engines.choose(model, args), model, port, args)
    library = ctypes.CDLL(None)
    return subprocess.Popen(argv, preexec_fn=lambda: library.prctl(_DIE_WITH_PARENT, signal.SIGTERM))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Front:
    """The routes. `engine_url` is "" when answers are quotations and there is no engine."""

    def __init__(self, index: Index, args: Args, engine_url: str) -> None:
        import httpx

        self._index, self._args, self._engine_url = index, args, engine_url
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(600.0, connect=5.0), trust_env=False)
        self._searching = asyncio.Lock()  # the embedder is one model, with one set of buffers

    def app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._pass_on, methods=["POST"]),
            ]
        )

    async def _health(self, request: Any) -> Any:
        from starlette.responses import Response

        if not self._engine_url:
            return Response(status_code=200)
        import httpx

        with contextlib.suppress(httpx.HTTPError):
            answer = await self._client.get(f"{self._engine_url}/health", timeout=2.0)
            return Response(status_code=200 if answer.status_code == 200 else 503)
        return Response(status_code=503)

    async def _chat(self, request: Any) -> Any:
        from starlette.responses import JSONResponse, StreamingResponse

        body = await request.json()
        try:
            async with self._searching:
                question, found = await asyncio.to_thread(retrieval.find, self._index, body, self._args)
                quoting = not self._engine_url
                if quoting:
                    text, found = await asyncio.to_thread(retrieval.quoted, self._index, question, found)
        except (Refused, ValueError, TypeError) as error:
            problem = {"message": str(error), "type": "invalid_request_error", "code": "bad_value"}
            return JSONResponse({"error": problem}, 400)
        model = str(body.get("model", ""))
        if quoting and body.get("stream"):
            events = retrieval.stream_whole(model, text, found)
            return StreamingResponse(events, media_type="text/event-stream")
        if quoting:
            return JSONResponse(retrieval.whole(model, text, found))
        return await self._answered(retrieval.told(body, found), found)

    async def _answered(self, body: dict[str, Any], found: list[Any]) -> Any:
        from starlette.responses import JSONResponse, Response, StreamingResponse

        if (answer := await self._open("chat/completions", body)) is None:
            return _engine_gone()
        if body.get("stream") and answer.status_code == 200:
            lines = retrieval.stream_with_sources(answer.aiter_lines(), found)
            return StreamingResponse(_closing(lines, answer), media_type="text/event-stream")
        content = await answer.aread()
        await answer.aclose()
        if answer.status_code == 200 and found:
            return JSONResponse(retrieval.add_sources(answer.json(), found))
        return Response(content, answer.status_code, media_type="application/json")

    async def _pass_on(self, request: Any) -> Any:
        from starlette.responses import JSONResponse, StreamingResponse

        if not self._engine_url:
            problem = {"message": "there is no model here: quotations come from chat", "code": "no_model"}
            return JSONResponse({"error": problem | {"type": "invalid_request_error"}}, 404)
        if (answer := await self._open("completions", await request.json())) is None:
            return _engine_gone()
        kind = answer.headers.get("content-type", "application/json")
        return StreamingResponse(_closing(answer.aiter_bytes(), answer), answer.status_code, media_type=kind)

    async def _open(self, path: str, body: dict[str, Any]) -> Any:
        """The engine's response, its body not read yet; None when it cannot be reached."""
        import httpx

        request = self._client.build_request("POST", f"{self._engine_url}/v1/{path}", json=body)
        with contextlib.suppress(httpx.TransportError):
            return await self._client.send(request, stream=True)
        return None


def _engine_gone() -> Any:
    from starlette.responses import JSONResponse

    problem = {"message": "the engine does not answer", "type": "server_error", "code": "engine_unreachable"}
    return JSONResponse({"error": problem}, 503, {"retry-after": "2"})


async def _closing(pieces: AsyncIterator[bytes], answer: Any) -> AsyncIterator[bytes]:
    """The pieces; the engine's answer is closed when they end, or when the client goes away."""
    try:
        async for piece in pieces:
            yield piece
    finally:
        await asyncio.shield(answer.aclose())


def run_front(context: Context[Args], model: Path | None) -> int:
    """Serves until SIGTERM; the engine's exit code when that ends first."""
    import uvicorn

    index = Index(context.input("index"), context.threads)
    engine, url = None, ""
    if context.args.answers == "model":
        port = free_port()
        assert model is not None
        engine, url = start_engine(model, port, context.args), f"http://127.0.0.1:{port}"
    config = uvicorn.Config(
        Front(index, context.args, url).app(),
        host=context.host,
        port=context.port,
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = uvicorn.Server(config)
    try:
        return asyncio.run(_until_either_ends(server, engine))
    finally:
        if engine is not None:
            engine.terminate()
            engine.wait()


async def _until_either_ends(server: Any, engine: subprocess.Popen[bytes] | None) -> int:
    serving = asyncio.create_task(server.serve())
    while not serving.done():
        await asyncio.wait({serving}, timeout=0.5)
        if engine is not None and engine.poll() is not None:
            server.should_exit = True
            await serving
            return engine.returncode or 1  # 0 when ignored children leave no exit code
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    return 0
