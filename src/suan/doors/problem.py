"""Errors as application/problem+json (RFC 9457): {type, title, status, code, detail, hint, fields}.

Knows how each kind of trouble at the doors is told. Nothing leaves the doors in any other shape.
"""

import http
import logging
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from suan.grid.error import Refused, SuanError

log = logging.getLogger("suan.doors")
MEDIA_TYPE = "application/problem+json"

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_HINTS = {404: "the paths are at /docs", 405: "the methods are at /docs"}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What every error looks like."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str = ""
    fields: dict[str, Any] = {}


def problem_of(error: SuanError) -> Problem:
    return Problem(
        type=f"urn:suan:problem:{error.code}",
        title=error.code.replace("_", " "),
        status=error.status,
        code=error.code,
        detail=error.what,
        hint=error.hint,
        fields=error.fields,
    )


def problem_response(error: SuanError) -> Response:
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if retry_after_s := error.fields.get("retry_after_s"):
        headers["retry-after"] = str(retry_after_s)
    if allowed := error.fields.get("allow"):
        headers["allow"] = str(allowed)
    body = msgspec.json.encode(problem_of(error), enc_hook=str)
    return Response(body, error.status, headers, MEDIA_TYPE)


def refused_by_type(error: msgspec.DecodeError) -> Refused:
    """What does not have the type it should have, with its path; what is not JSON at all."""
    what, _, path = str(error).partition(" - at `")
    if not isinstance(error, msgspec.ValidationError):
        return Refused("bad_json", f"the body is not JSON: {what}", hint="send one JSON object")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    where = f"{path}: " if path else ""
    return Refused(
        "bad_value", f"{where}{what}", hint="the schema is at /openapi.json", status=422, path=path
    )


def install(app: FastAPI) -> None:
    """Every error of the app becomes a problem."""
    app.add_exception_handler(SuanError, _suan)
    app.add_exception_handler(msgspec.DecodeError, _type)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


async def _suan(request: Request, error: Exception) -> Response:
    assert isinstance(error, SuanError)
    return problem_response(error)


async def _type(request: Request, error: Exception) -> Response:
    assert isinstance(error, msgspec.DecodeError)
    return problem_response(refused_by_type(error))


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [
        {"path": ".".join(str(part) for part in item["loc"]), "what": item["msg"]} for item in error.errors()
    ]
    first = told[0] if told else {"path": "", "what": "something is not as it should be"}
    refused = Refused(
        "bad_value",
        f"{first['path']}: {first['what']}",
        hint="the schema is at /openapi.json",
        status=422,
        path=first["path"],
        all=told,
    )
    return problem_response(refused)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = _CODES.get(status, http.HTTPStatus(status).phrase.lower().replace(" ", "_"))
    headers = error.headers or {}
    fields = {"allow": headers["Allow"]} if "Allow" in headers else {}
    what = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return problem_response(Refused(code, what, hint=_HINTS.get(status, ""), status=status, **fields))


async def _bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    what = "the grid made a mistake; its log says more"
    return problem_response(SuanError("bug", what, hint="report it with the grid's log", status=500))
