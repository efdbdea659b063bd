"""Who may do what with an artifact, where, until when, at which price."""

import msgspec


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """Empty tuples mean no restriction, except `readers`: empty means the owning tenant alone, `*` means
    everyone.
    """

    owner: str = ""
    readers: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()  # the only sites that may hold a replica
    licence: str = ""
    until_s: int | None = None
    price_microyuan: int = 0  # a use
