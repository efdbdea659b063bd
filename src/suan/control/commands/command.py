"""What a command is, and how names, ids and secrets are made and looked up."""

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from typing import TypeVar

from suan.grid.account import Key
from suan.grid.error import Refused
from suan.grid.fact import Fact
from suan.grid.site import GRID_SITE, Site
from suan.grid.state import State

Result = TypeVar("Result")
Command = Callable[[State, int], tuple[Sequence[Fact], Result]]

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_SECRET_BYTES = 32


def key_hash(secret: str) -> str:
    """BLAKE2b of a secret, hex. Secrets are random and long: no salt, no stretching."""
    return hashlib.blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def new_secret() -> str:
    return f"suan_{secrets.token_urlsafe(_SECRET_BYTES)}"


def key_of(state: State, secret: str, now_s: int) -> Key | None:
    """The key with this secret, None when there is none or its time is over.

    Looked up by hash, so the time it takes says nothing about any secret.
    """
    key = state.keys.get(state.key_by_hash.get(key_hash(secret), ""))
    if key is None or (key.expires_at_s is not None and key.expires_at_s <= now_s):
        return None
    return key


def next_key_id(state: State) -> str:
    """An id that no key had: whatever issues a key writes a fact, so the next finds another sequence."""
    return f"k{state.sequence + 1}"


def check_name(what: str, name: str) -> None:
    """Raises: Refused `bad_name`."""
    if not _NAME.fullmatch(name) or ".." in name or (what == "site" and name == GRID_SITE):
        raise Refused(
            "bad_name",
            f"{name[:80]!r} cannot name a {what}",
            hint="use lower-case letters, digits, '.', '_' and '-', at most 63; `grid` is taken",
        )


def known_site(state: State, name: str) -> Site:
    """Raises: Refused `unknown_site`."""
    site = state.sites.get(name)
    if site is None:
        raise unknown("site", name, "suan sites")
    return site


def unknown(what: str, name: str, where: str) -> Refused:
    """It does not exist, or is another tenant's: whoever asks cannot tell."""
    return Refused(
        f"unknown_{what}",
        f"there is no {what} {name[:120]!r}",
        hint=f"see what there is: {where}",
        status=404,
    )
