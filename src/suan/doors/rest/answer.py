"""Answers as JSON, their schemas, pages and raw bodies."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from suan.doors.problem import MEDIA_TYPE, Problem
from suan.grid.error import Refused

Item = TypeVar("Item")
_encode = msgspec.json.Encoder().encode
_documented: dict[str, type] = {"Problem": Problem}
_REF = "#/components/schemas/{name}"


class Json(Response):
    """A struct, or anything made of structs, as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encode(content)


def answers(kind: type, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses=` for an endpoint that answers with this struct."""
    _documented[kind.__name__] = kind
    content = {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}}
    return {status: {"description": (kind.__doc__ or kind.__name__).split("\n")[0], "content": content}}


def takes(kind: type, *also: str) -> dict[str, Any]:
    """FastAPI's `openapi_extra=` for an endpoint whose body is this struct, or text of other media types."""
    _documented[kind.__name__] = kind
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}},
        **{media: {"schema": {"type": "string"}} for media in also},
    }
    return {"requestBody": {"required": True, "content": content}}


def takes_bytes() -> dict[str, Any]:
    content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI) -> None:
    """Adds the structs, and the problems, to the app's OpenAPI."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = plain()
        _, components = msgspec.json.schema_components(
            list(_documented.values()), ref_template=_REF, schema_hook=lambda _: {}
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(components)
        problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}}
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = {"description": "Anything that went wrong", **problem}
        app.openapi_schema = schema
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


async def whole_body(request: Request) -> bytes:
    """The request's body.

    Raises: Refused `caller_gone`.
    """
    try:
        return await request.body()
    except ClientDisconnect as error:  # killed in mid-sentence: no error of ours
        raise Refused("caller_gone", "the caller went away before it had said everything") from error


Raw = Annotated[bytes, Depends(whole_body)]


def page(
    items: Iterable[tuple[int, Item]], limit: int, wanted: Callable[[Item], bool] = lambda _: True
) -> tuple[list[Item], str | None]:
    """(the first `limit` wanted of items numbered downwards, the cursor from which the rest begins)."""
    found: list[Item] = []
    last = 0
    for number, item in items:
        if not wanted(item):
            continue
        if len(found) == limit:
            return found, str(last)
        found.append(item)
        last = number
    return found, None


def cursor_number(cursor: str | None) -> int | None:
    """What the page before ended with; None for the first page.

    Raises: Refused `bad_cursor`.
    """
    if cursor is None or cursor == "":
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Refused(
            "bad_cursor", f"{cursor[:40]!r} is no cursor", hint="take next_cursor of the page before"
        )
    return int(cursor)
