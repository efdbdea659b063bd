"""The one tree of errors. Each has a stable code, what happened, a hint with the next thing to type, and
fields.

A bug is an assertion and is not here.
"""

from typing import Any


class SuanError(Exception):
    """What every door turns into problem+json, or into a message and an exit code."""

    status = 500

    def __init__(
        self, code: str, what: str, *, hint: str = "", status: int | None = None, **fields: Any
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.hint = hint
        self.fields = fields
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        return f"{self.what} ({self.hint})" if self.hint else self.what


class Refused(SuanError):
    """The caller can fix it. Nothing was stored. HTTP 4xx, exit code 2."""

    status = 400


class NotNow(SuanError):
    """The same call may succeed later. HTTP 409, 429 or 503; `retry_after_s` is among the fields."""

    status = 503


class SiteTrouble(SuanError):
    """Raised by adapters only; the shell turns it into a fact or an observation."""

    status = 502
