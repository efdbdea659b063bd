"""A request to a service's engine, and its answer with the names put right and the tokens counted.

Knows OpenAI's wire format. Does not know services or tenants.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

from suan.doors.socket.stops import Stops
from suan.grid.error import NotNow

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
PATIENCE_S = 600.0  # between two tokens, or before the first of a long prompt


class Counted(msgspec.Struct):
    """Tokens of one request, filled in as the answer passes. Pieces count when the engine does not."""

    tokens_in: int = 0
    tokens_out: int = 0
    pieces: int = 0
    told: bool = False  # the engine said how many

    def usage(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.tokens_in = _count(usage.get("prompt_tokens"))
            self.tokens_out = _count(usage.get("completion_tokens"))
            self.told = True

    @property
    def total_out(self) -> int:
        return self.tokens_out if self.told else self.pieces


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request to an engine: where, what, and under which name the client knows the model."""

    url: str
    body: dict[str, Any]
    model: str
    wants_usage: bool

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True


def new_client(relayed: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Engines are reached directly: a proxy in the environment is for the world outside. `relayed` is the way
    to those whose endpoint begins with relay://.
    """
    timeout = httpx.Timeout(PATIENCE_S, connect=5.0, pool=30.0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
    return httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False, mounts={"relay://": relayed})


def call_for(endpoint: str, path: str, body: dict[str, Any], served_model: str) -> Call:
    """The call that passes `body` on, asking the engine for its count of tokens."""
    asked = body.get("stream_options")
    options = asked if isinstance(asked, dict) else {}
    sent = dict(body)
    if served_model:
        sent["model"] = served_model
    if body.get("stream") is True:
        sent["stream_options"] = {**options, "include_usage": True}
    url = f"{endpoint.rstrip('/').removesuffix('/v1')}/v1/{path}"
    return Call(
        url=url, body=sent, model=str(body["model"]), wants_usage=options.get("include_usage") is True
    )


async def open_call(client: httpx.AsyncClient, call: Call) -> httpx.Response:
    """The engine's response, its body not read yet. To be closed.

    Raises: NotNow `engine_unreachable`.
    """
    request = client.build_request(
        "POST", call.url, content=_encode(call.body), headers={"content-type": "application/json"}
    )
    try:
        return await client.send(request, stream=True)
    except httpx.HTTPError as error:
        raise NotNow(
            "engine_unreachable",
            f"the service's engine does not answer: {type(error).__name__}",
            hint="its run may be ending; try again soon",
            retry_after_s=2,
        ) from error


def whole_answer(call: Call, content: bytes, counted: Counted) -> bytes:
    """An answer in one piece, with the model's name as the client knows it."""
    try:
        answer = _decode(content)
    except msgspec.DecodeError:
        return content
    if not isinstance(answer, dict):
        return content
    counted.usage(answer.get("usage"))
    if "model" in answer:
        answer["model"] = call.model
    stops = Stops(call.body.get("stop"))
    for choice in (answer.get("choices") or ()) if stops else ():
        stops.cut(choice)
    return _encode(answer)


async def streamed_answer(call: Call, response: httpx.Response, counted: Counted) -> AsyncIterator[bytes]:
    """The engine's events one by one, as they come; its count of tokens only when the client asked for it.

    Ends at a stop string, in the middle of what an engine says that does not know it.
    """
    stops, choices = Stops(call.body.get("stop")), _count(call.body.get("n")) or 1
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            if line:
                yield f"{line}\n".encode()
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            yield b"data: [DONE]\n\n"
            continue
        told = _event(call, data, counted, stops)
        if told is not None:
            yield b"data: " + told + b"\n\n"
        if stops and stops.ended(choices) and not call.wants_usage:
            yield b"data: [DONE]\n\n"
            return


def _event(call: Call, data: str, counted: Counted, stops: Stops) -> bytes | None:
    """The event as the client should see it; None when it was meant for the meter alone, or says nothing."""
    try:
        event = _decode(data)
    except msgspec.DecodeError:
        return data.encode()
    if not isinstance(event, dict):
        return data.encode()
    usage, choices = event.get("usage"), event.get("choices")
    counted.usage(usage)
    counted.pieces += sum(map(_says_something, choices)) if isinstance(choices, list) else 0
    if "model" in event:
        event["model"] = call.model
    if not call.wants_usage and "usage" in event:
        if usage is not None and not choices:
            return None
        del event["usage"]
    if stops and isinstance(choices, list) and choices:
        event["choices"] = [choice for choice in choices if stops.pass_on(choice)]
        if not event["choices"] and not event.get("usage"):
            return None
    return _encode(event)


def _says_something(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    return bool(
        choice.get("text") or (isinstance(delta, dict) and (delta.get("content") or delta.get("tool_calls")))
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
