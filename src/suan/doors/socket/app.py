"""/v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings. Plain Starlette: few hands a token.

Errors have OpenAI's shape. When the client goes away, the engine is told so by closing its connection.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from suan.doors.rest.access import bearer, key_shown, parts_of
from suan.doors.rest.answer import whole_body
from suan.doors.rest.parts import Parts
from suan.doors.socket.services import NoService, Service, find_service, names_of, services
from suan.doors.socket.upstream import Call, Counted, call_for, open_call, streamed_answer, whole_answer
from suan.grid.account import Key, Role
from suan.grid.error import NotNow, Refused, SuanError

Endpoint = Callable[[Request], Awaitable[Response]]
_decode = msgspec.json.Decoder().decode
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def socket_routes() -> list[BaseRoute]:
    return [
        Route("/v1/models", _told(_models), methods=["GET"]),
        Route("/v1/models/{model:path}", _told(_model), methods=["GET"]),
        Route("/v1/chat/completions", _told(_completions("chat/completions")), methods=["POST"]),
        Route("/v1/completions", _told(_completions("completions")), methods=["POST"]),
        Route("/v1/embeddings", _told(_completions("embeddings")), methods=["POST"]),
    ]


def openai_error(error: SuanError) -> Response:
    """{"error": {message, type, code}}"""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    body = {"error": {"message": str(error), "type": kind, "code": error.code, "param": None, **error.fields}}
    headers = {}
    if retry_after_s := error.fields.get("retry_after_s"):
        headers["retry-after"] = str(retry_after_s)
    return JSONResponse(body, error.status, headers)


def _told(endpoint: Endpoint) -> Endpoint:
    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except SuanError as error:
            return openai_error(error)
        except HTTPException as error:
            return openai_error(Refused("too_large", str(error.detail), status=error.status_code))

    return told


def _key(request: Request, parts: Parts) -> Key:
    key = key_shown(parts, bearer(request))
    if key.role == Role.SITE:
        raise Refused("forbidden", "a site's key uses no models", hint="ask for a member's key", status=403)
    return key


# ---------------------------------------------------------------- models


async def _models(request: Request) -> Response:
    parts = parts_of(request)
    key = _key(request, parts)
    found = parts.grid.read(lambda state: [s for s in services(state, key) if s.ready])
    listed: dict[str, dict[str, Any]] = {}
    for service in found:
        for name in (names_of(service)[0], service.job.task.name):
            listed[name] = _model_object(name, service)
    return JSONResponse({"object": "list", "data": list(listed.values())})


async def _model(request: Request) -> Response:
    parts = parts_of(request)
    name = request.path_params["model"]
    return JSONResponse(_model_object(name, _service(parts, _key(request, parts), name)))


def _model_object(name: str, service: Service) -> dict[str, Any]:
    created = service.run.started_at_s if service.run else None
    return {
        "id": name,
        "object": "model",
        "created": created or service.job.submitted_at_s,
        "owned_by": service.job.tenant,
    }


def _service(parts: Parts, key: Key, model: str) -> Service:
    """The ready service.

    Raises: NotNow `service_starting` with its reason; Refused `model_not_found` with the names there are.
    """
    found = parts.grid.read(lambda state: find_service(state, key, model))
    if isinstance(found, Service):
        return found
    assert isinstance(found, NoService)
    if found.starting is not None:
        job = found.starting.job
        reason = parts.grid.reason(job.id)
        why = reason.text if reason else "its engine is loading the model"
        raise NotNow(
            "service_starting",
            f"{model} is not ready yet: {why}",
            hint=f"suan why {job.id}",
            retry_after_s=5,
        )
    names = ", ".join(found.available) or "none"
    raise Refused(
        "model_not_found",
        f"no service is called {model[:120]!r}; there are: {names}",
        hint="suan jobs",
        status=404,
    )


# ---------------------------------------------------------------- completions


def _completions(path: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        parts = parts_of(request)
        key = _key(request, parts)
        body = await _body(request)
        service = _service(parts, key, body["model"])
        assert service.run is not None
        run = service.run
        request.state.service = service.job.task.name
        served = parts.grid.live.progress.get(run.id, {}).get("served_model", "")
        call = call_for(run.endpoint, path, body, str(served))
        counted = Counted()

        def count() -> None:
            parts.meter.add(run.id, key.tenant or service.job.tenant, counted.tokens_in, counted.total_out)

        if call.streams:
            response = await _or_gone(request, open_call(parts.upstream, call))
            if response.status_code < 400:
                stream = _passed_on(call, response, counted, count)
                return StreamingResponse(
                    stream, media_type="text/event-stream", headers={"cache-control": "no-store"}
                )
            return await _failed(response)
        return await _or_gone(request, _whole(parts.upstream, call, counted, count))

    return endpoint


async def _body(request: Request) -> dict[str, Any]:
    """Raises: Refused `bad_json`, `bad_value`."""
    try:
        body = _decode(await whole_body(request))
    except msgspec.DecodeError as error:
        raise Refused("bad_json", f"the body is not JSON: {error}", hint="send one JSON object") from error
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise Refused("bad_value", "model is missing", hint="name one of GET /v1/models")
    return body


async def _whole(
    client: httpx.AsyncClient, call: Call, counted: Counted, count: Callable[[], None]
) -> Response:
    response = await open_call(client, call)
    if response.status_code >= 400:
        return await _failed(response)
    try:
        content = await response.aread()
    except httpx.HTTPError as error:
        raise NotNow("engine_lost", "the engine broke off", hint="try again", retry_after_s=2) from error
    finally:
        await response.aclose()
    answer = whole_answer(call, content, counted)
    count()
    return Response(answer, media_type="application/json")


async def _passed_on(
    call: Call, response: httpx.Response, counted: Counted, count: Callable[[], None]
) -> AsyncIterator[bytes]:
    """The stream; counted when it ends, however it ends."""
    try:
        async for event in streamed_answer(call, response, counted):
            yield event
    except httpx.HTTPError:
        error = openai_error(NotNow("engine_lost", "the engine broke off", hint="try again"))
        yield b"data: " + bytes(error.body) + b"\n\n"
    finally:
        count()
        with suppress(httpx.HTTPError):
            await asyncio.shield(response.aclose())


async def _failed(response: httpx.Response) -> Response:
    """The engine's own error, when it has OpenAI's shape."""
    try:
        content = await response.aread()
    except httpx.HTTPError:
        content = b""
    finally:
        await response.aclose()
    try:
        told = _decode(content)
    except msgspec.DecodeError:
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        return JSONResponse(told, response.status_code)
    what = content[:300].decode("utf-8", "replace") or "no reason given"
    status = response.status_code if response.status_code < 500 else 502
    return openai_error(
        Refused("engine_refused", f"the engine answered {response.status_code}: {what}", status=status)
    )


async def _or_gone(request: Request, work: Any) -> Any:
    """The work's result; the work is cancelled when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return Response(status_code=499)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
