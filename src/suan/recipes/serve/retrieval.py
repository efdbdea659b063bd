"""A conversation answered from an index: what is asked, what is found, and how the sources are told.

Knows OpenAI's chat format. A client may narrow the search with `retrieval: {"since": "2026-01-31",
"passages": 4}` beside its messages.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from suan.grid.error import Refused
from suan.recipes.index.answers import NOTHING, annotations, quote, sources_text, with_passages
from suan.recipes.index.store import Index, Passage
from suan.recipes.serve import Args


def find(index: Index, body: dict[str, Any], args: Args) -> tuple[str, list[Passage]]:
    """(the question, the passages that bear on it). Takes `retrieval` out of the body.

    Raises: Refused `bad_value`.
    """
    wish = body.pop("retrieval", None) or {}
    asked = [m.get("content") for m in body.get("messages") or () if m.get("role") == "user"]
    if not asked or not isinstance(asked[-1], str) or not isinstance(wish, dict):
        raise Refused("bad_value", "the last user message has no text", hint="send messages with text")
    found = index.search(asked[-1], int(wish.get("passages", args.passages)), str(wish.get("since", "")))
    return asked[-1], [passage for passage in found if passage.similarity >= args.min_similarity]


def quoted(index: Index, question: str, found: list[Passage]) -> tuple[str, list[Passage]]:
    """(the answer in somebody's own words, the passage that it is from)."""
    best = quote(question, found, index.embedder)
    return (best[0], [best[1]]) if best else (NOTHING, [])


def told(body: dict[str, Any], found: list[Passage]) -> dict[str, Any]:
    """The request as the model gets it."""
    return {**body, "messages": with_passages(body["messages"], found)} if found else body


def whole(model: str, text: str, found: list[Passage]) -> dict[str, Any]:
    """An answer in one piece."""
    message = {"role": "assistant", "content": text + (sources_text(found) if found else "")}
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": message | {"annotations": annotations(found)},
    }
    return _head("chat.completion", model) | {
        "choices": [choice],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def add_sources(answer: dict[str, Any], found: list[Passage]) -> dict[str, Any]:
    """The engine's whole answer with the sources under it."""
    for choice in answer.get("choices") or ():
        message = choice["message"]
        message["content"] = (message.get("content") or "") + sources_text(found)
        message["annotations"] = annotations(found)
    return answer


async def stream_whole(model: str, text: str, found: list[Passage]) -> AsyncIterator[bytes]:
    """An answer as a stream of one piece, its sources and its end."""
    head = _head("chat.completion.chunk", model)
    yield _event(head, {"role": "assistant", "content": text}, None)
    if found:
        yield _event(head, _source_delta(found), None)
    yield _event(head, {}, "stop")
    yield b"data: [DONE]\n\n"


async def stream_with_sources(lines: AsyncIterator[str], found: list[Passage]) -> AsyncIterator[bytes]:
    """The engine's events as they come, the sources before the one that ends the answer."""
    due = True
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        event = json.loads(data) if data.startswith("{") else {}
        choices = event.get("choices") or [{}]
        if due and (data == "[DONE]" or choices[0].get("finish_reason")):
            due = False
            head = {key: event[key] for key in ("id", "object", "created", "model") if key in event}
            yield _event(head or _head("chat.completion.chunk", ""), _source_delta(found), None)
        yield f"data: {data}\n\n".encode()


def _source_delta(found: list[Passage]) -> dict[str, Any]:
    return {"content": sources_text(found), "annotations": annotations(found)}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _event(head: dict[str, Any], delta: dict[str, Any], finish: str | None) -> bytes:
    event = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"
