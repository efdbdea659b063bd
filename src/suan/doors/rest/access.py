"""Who is asking, and what that key may do and see.

Knows roles. Whatever belongs to another tenant does not exist for a key that is not an operator's.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from suan.control.commands import key_of
from suan.doors.rest.answer import whole_body
from suan.doors.rest.parts import Parts
from suan.grid.account import Key, Role
from suan.grid.error import Refused

_RANK = {Role.VIEWER: 0, Role.MEMBER: 1, Role.OPERATOR: 2, Role.ADMIN: 3}
SEES_ALL = frozenset({Role.OPERATOR, Role.ADMIN})


def parts_of(connection: HTTPConnection) -> Parts:
    found: Parts = connection.app.state.parts
    return found


def bearer(connection: HTTPConnection) -> str:
    """The secret shown, "" for none."""
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def key_shown(parts: Parts, secret: str) -> Key:
    """The key whose secret this is.

    Raises: Refused `no_key` or `bad_key`, both 401.
    """
    if not secret:
        raise Refused("no_key", "this needs a key", hint="send Authorization: Bearer KEY", status=401)
    # Two look-ups in dictionaries, each atomic: no lock, so that a long view delays nobody at the gate.
    key = key_of(parts.grid.state, secret, parts.grid.now_s())
    if key is None or key.one_time:
        raise Refused(
            "bad_key", "this key is unknown, revoked or over", hint="ask an operator for a key", status=401
        )
    return key


def needs(role: Role) -> Callable[..., Any]:
    """A dependency: the caller's key, which has this role or one that includes it."""

    async def dependency(connection: HTTPConnection) -> Key:
        key = key_shown(parts_of(connection), bearer(connection))
        if _RANK.get(key.role, -1) < _RANK[role]:
            raise Refused(
                "forbidden",
                f"this needs the role {role}, the key has {key.role}",
                hint=f"ask an admin for a key with the role {role}",
                status=403,
            )
        return key

    return dependency


async def _any_key(connection: HTTPConnection) -> Key:
    return key_shown(parts_of(connection), bearer(connection))


async def _parts(connection: HTTPConnection) -> Parts:
    return parts_of(connection)


Here = Annotated[Parts, Depends(_parts)]
AnyKey = Annotated[Key, Depends(_any_key)]
Viewer = Annotated[Key, Depends(needs(Role.VIEWER))]
Member = Annotated[Key, Depends(needs(Role.MEMBER))]
Operator = Annotated[Key, Depends(needs(Role.OPERATOR))]


class Said(NamedTuple):
    """What the site of the path says, with its own key."""

    here: Parts
    body: bytes


async def _said(request: Request) -> Said:
    here = parts_of(request)
    site_key(key_shown(here, bearer(request)), request.path_params["site"])
    return Said(here, await whole_body(request))


# Thousands of sites speak all the time: one dependency in place of three.
FromSite = Annotated[Said, Depends(_said)]


def site_key(key: Key, site: str) -> None:
    """Raises: Refused `forbidden` unless it is this very site's key."""
    if key.role != Role.SITE or key.site != site:
        raise Refused("forbidden", f"only the key of {site} may do this", hint="suan join", status=403)


def sees(key: Key, tenant: str) -> bool:
    return key.role in SEES_ALL or key.tenant == tenant


def tenant_for(key: Key, named: str | None) -> str:
    """The tenant that the caller acts for: its own, or for operators any that they name.

    Raises: Refused `unknown_tenant` for another's, there or not.
    """
    if named and not sees(key, named):
        raise Refused(
            "unknown_tenant", f"there is no tenant {named[:80]!r}", hint="leave tenant out", status=404
        )
    return named or key.tenant or "default"
