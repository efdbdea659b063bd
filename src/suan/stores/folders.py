"""The files of a folder that can become an artifact, and their content piece by piece.

Knows links, special files and names. Does not know hashes or stores.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from suan.grid.error import Refused
from suan.stores.manifests import CHUNK_BYTES, fault_in_path


class FoundFile(NamedTuple):
    path: str  # relative, POSIX
    source: Path  # where its bytes are: a link's target
    executable: bool


def files_in(folder: Path) -> list[FoundFile]:
    """Every file under the folder, sorted by path. A link to a file inside stands for that file.

    Raises: Refused `bad_path` for links that leave the folder or lead to folders or nowhere, for special
    files and for names that cannot travel.
    """
    if not folder.is_dir():
        raise _bad_path(str(folder), "is not a folder", "name a folder that exists")
    root = folder.resolve()
    found: list[FoundFile] = []
    pending = [root]
    while pending:
        for entry in os.scandir(pending.pop()):
            path = Path(entry.path).relative_to(root).as_posix()
            if why := fault_in_path(path):
                raise _bad_path(path, f"cannot be stored: {why}", "rename it")
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            else:
                found.append(_found(root, path, Path(entry.path)))
    return sorted(found)


def pieces_of(source: Path) -> Iterator[bytes]:
    """The content in pieces of `CHUNK_BYTES`, the last one shorter; none for an empty file."""
    with source.open("rb", buffering=0) as file:
        while piece := _read_full(file.fileno()):
            yield piece


def _found(root: Path, path: str, source: Path) -> FoundFile:
    if source.is_symlink():
        try:
            source = source.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            raise _bad_path(path, "is a link that leads nowhere", "remove it") from error
        if not source.is_relative_to(root):
            raise _bad_path(path, "is a link that leaves the folder", "copy the file that it means")
        if source.is_dir():
            raise _bad_path(path, "is a link to a folder", "copy the folder that it means")
    mode = source.stat().st_mode
    if not stat.S_ISREG(mode):
        raise _bad_path(path, "is neither a file nor a folder", "remove it")
    return FoundFile(path, source, bool(mode & stat.S_IXUSR))


def _read_full(descriptor: int) -> bytes:
    """The next piece; short only at the end of the file."""
    parts, wanted = [], CHUNK_BYTES
    while wanted and (part := os.read(descriptor, wanted)):
        parts.append(part)
        wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _bad_path(path: str, what: str, hint: str) -> Refused:
    return Refused("bad_path", f"{path[:200]!r} {what}", hint=hint, path=path[:200])
