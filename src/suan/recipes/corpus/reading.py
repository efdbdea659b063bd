"""What there is to read, cut into parts, and the pages and records of one part.

Knows files: JSON lines (pages as `text`, verse as `lines`), HTML and text, plain or gzip. A part is the unit
of work and of resuming; large files of JSON lines are cut at line ends.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from suan.grid.error import Refused
from suan.recipes.corpus.mend import decode

PAGE_SUFFIXES = (".html", ".htm", ".xhtml", ".txt", ".html.gz", ".htm.gz", ".txt.gz")
RECORD_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")


class Piece(msgspec.Struct, frozen=True):
    """A file, or the lines of it that begin from `start` up to `stop` (bytes)."""

    path: str
    source: str
    start: int = 0
    stop: int = -1


class Part(msgspec.Struct, frozen=True):
    number: int
    pieces: tuple[Piece, ...]
    n_bytes: int


def plan(folders: dict[str, Path], part_bytes: int) -> list[Part]:
    """All files of all folders in a fixed order, in parts of about `part_bytes`.

    Raises: Refused `no_corpus_input` when there is nothing to read.
    """
    parts: list[Part] = []
    pieces: list[Piece] = []
    size = 0

    def close() -> None:
        nonlocal size
        if pieces:
            parts.append(Part(len(parts), tuple(pieces), size))
            pieces.clear()
            size = 0

    for name, folder in sorted(folders.items()):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            if not file.name.lower().endswith(PAGE_SUFFIXES + RECORD_SUFFIXES):
                continue
            source, n_bytes = f"{name}/{file.relative_to(folder).as_posix()}", file.stat().st_size
            if file.suffix in (".jsonl", ".ndjson") and n_bytes > part_bytes:
                close()
                for start in range(0, n_bytes, part_bytes):
                    pieces.append(Piece(str(file), source, start, min(n_bytes, start + part_bytes)))
                    size = pieces[-1].stop - start
                    close()
                continue
            if size + n_bytes > part_bytes:
                close()
            pieces.append(Piece(str(file), source))
            size += n_bytes
    close()
    if not parts:
        places = ", ".join(str(folder) for folder in folders.values()) or "no input"
        raise Refused(
            "no_corpus_input", f"nothing to read in {places}", hint="give *.jsonl[.gz], *.html or *.txt"
        )
    return parts


def plan_key(parts: list[Part], args: dict[str, Any]) -> str:
    """Equal for runs that would make the same parts: arguments, files, their sizes and times."""
    digest = hashlib.blake2b(json.dumps(args, sort_keys=True).encode(), digest_size=16)
    for part in parts:
        for piece in part.pieces:
            stat = Path(piece.path).stat()
            digest.update(f"{piece} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def read(part: Part) -> Iterator[dict[str, Any]]:
    """Pages (`text`) and records of a part, each with `source`; `broken` says what was no JSON."""
    for piece in part.pieces:
        if piece.path.lower().endswith(RECORD_SUFFIXES):
            yield from _lines(piece)
        else:
            raw = Path(piece.path).read_bytes()
            yield {
                "source": piece.source,
                "text": decode(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw),
            }


def _lines(piece: Piece) -> Iterator[dict[str, Any]]:
    opened = gzip.open if piece.path.endswith(".gz") else open
    with opened(piece.path, "rb") as lines:
        if piece.start:  # whoever reads up to here has the line that begins before it
            lines.seek(piece.start - 1)
            lines.readline()
        while piece.stop < 0 or lines.tell() < piece.stop:
            line = lines.readline()
            if not line:
                return
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8", "replace"))
            except json.JSONDecodeError as error:
                record = {"broken": f"{piece.source}: {error}: {line[:80]!r}"}
            if isinstance(record, dict):
                yield {**record, "source": str(record.get("source") or piece.source)}
