"""What a site keeps of its grid: name, address and key, in one file that only its owner may read.

Knows the file. Does not know how joining travels: the door's `join` is passed in.
"""

import contextlib
from pathlib import Path
from typing import Any, Protocol

import msgspec

from suan.engines.staging import write_whole
from suan.grid.error import Refused

_FILE = "site.json"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """With this a site's agent can start again without asking anybody."""

    site: str
    url: str
    key: str


class JoinDoor(Protocol):
    """The part of `doors.client.Client` that joins."""

    url: str

    def join(
        self, token: str, site: str, *, region: str, engine: str, labels: dict[str, str]
    ) -> dict[str, Any]:
        """{site, key, epoch}. Raises: Refused `bad_token`."""
        ...


def membership(folder: Path) -> Membership | None:
    """What an earlier `join` kept in the site's folder; None when there is nothing.

    Raises: Refused `bad_site_file`.
    """
    path = folder / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Refused(
            "bad_site_file", f"{path} cannot be read: {error}", hint="remove it and join again with a token"
        ) from error


def join(
    folder: Path,
    door: JoinDoor,
    token: str,
    site: str,
    *,
    region: str = "",
    labels: dict[str, str] | None = None,
) -> Membership:
    """The site's membership: the one it has, or with a token a new one, kept in `folder` (mode 600).

    A folder belongs to one site of one grid: what it remembers of its runs means nothing to another.

    Raises: Refused `other_grid`, `no_token`, and what the grid refuses (`bad_token`).
    """
    known = membership(folder)
    if known is not None and (known.site, known.url) != (site, door.url):
        raise Refused(
            "other_grid",
            f"{folder} is {known.site} of the grid at {known.url}",
            hint=f"name another folder for {site}, or remove this one",
        )
    if not token:
        if known is not None:
            return known
        raise Refused(
            "no_token", f"{site} has not joined yet", hint=f"an operator makes a token: suan join-token {site}"
        )
    joined = door.join(token, site, region=region, engine="local", labels=labels or {})
    kept = Membership(site=site, url=door.url, key=joined["key"])
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # another owner's folder: the file is closed to others all the same
        folder.chmod(0o700)
    write_whole(folder / _FILE, msgspec.json.encode(kept))
    return kept
