"""Facts to bytes and back: one JSON object a fact, its class in `type`, the number of its format beside it.

Knows what makes a stored fact readable. Does not know where the bytes lie. A field added with a default, or a
new class of fact, needs no new format; anything else does: raise `FORMAT` and teach `decode` the old one.
"""

from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

from suan.grid.error import Refused
from suan.grid.fact import Fact

FORMAT = 1

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(Fact)
_any = msgspec.json.Decoder()
_TAGS = frozenset(kind.__name__ for kind in Fact.__args__)


def encode(fact: Fact) -> bytes:
    """The fact as one line of JSON, in format `FORMAT`.

    Decoded and compared before it is given out: what a replay will see is what this process saw. A NaN, which
    JSON would turn into null, or a list where a tuple belongs must not come to light at the next restart.

    Raises: Refused `bad_fact`.
    """
    kind = type(fact).__name__
    try:
        body = _encoder.encode(fact)
        same = _decoder.decode(body) == fact
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Refused("bad_fact", f"a {kind} cannot be written to the journal: {error}") from error
    if not same:
        raise Refused(
            "bad_fact",
            f"a {kind} would not be the same when read back from the journal",
            hint="give finite numbers, text keys, and the types that its fields declare",
        )
    return body


def decode(body: bytes, sequence: int, form: int = FORMAT) -> Fact:
    """The fact that was stored at `sequence` in format `form`.

    Raises: Refused `journal_too_new` for a format or a class of fact that this version does not know, or
    `journal_corrupt`.
    """
    if form != FORMAT:
        raise too_new(f"fact {sequence} has format {form}; this version reads format {FORMAT}", sequence)
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        tag = _tag(body)
        if tag and tag not in _TAGS:
            raise too_new(
                f"fact {sequence} is a {tag!r}, which this version does not know", sequence
            ) from error
        raise corrupt(f"fact {sequence} cannot be read: {error}", sequence) from error


def facts_of_rows(
    rows: Iterable[tuple[int, int, int, bytes | str]], after_seq: int, name: str
) -> Iterator[tuple[int, Fact]]:
    """(sequence, fact) of stored rows (sequence, format, checksum, body), none missing after `after_seq`.

    Raises: Refused `journal_corrupt` where a fact of `name` is missing or changed; as `decode` besides.
    """
    last = after_seq
    for sequence, form, check, body in rows:
        if sequence != last + 1:
            raise corrupt(f"{name} lacks fact {last + 1}", last + 1)
        encoded = body.encode() if isinstance(body, str) else body
        if form == FORMAT and check != checksum(encoded, sequence):
            raise corrupt(f"fact {sequence} in {name} is not what was written", sequence)
        yield sequence, decode(encoded, sequence, form)
        last = sequence


def checksum(body: bytes, sequence: int) -> int:
    """CRC-32 of the body at its place: a changed byte shows, and so do two facts that changed places."""
    return crc32(body, sequence & 0xFFFFFFFF)


def too_new(what: str, sequence: int | None = None) -> Refused:
    """The journal was written by a later version. It stays as it is."""
    return Refused(
        "journal_too_new",
        what,
        hint="install the version of suan that wrote it, or a later one",
        sequence=sequence,
    )


def corrupt(what: str, sequence: int | None = None) -> Refused:
    """The journal is not what was written. It stays as it is."""
    return Refused(
        "journal_corrupt",
        what,
        hint="keep the file for inspection and start from a backup of it",
        sequence=sequence,
    )


def _tag(body: bytes) -> str:
    try:
        loose = _any.decode(body)
    except (ValueError, RecursionError):
        return ""
    tag = loose.get("type") if isinstance(loose, dict) else None
    return tag if isinstance(tag, str) else ""
