"""REST under /v1: endpoints by what they are about, one module each. They translate and decide nothing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suan.doors.rest.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """`create_app`, imported when it is asked for: it needs every module of this folder and of the socket."""
    if name == "create_app":
        from suan.doors.rest.app import create_app

        return create_app
    raise AttributeError(name)
