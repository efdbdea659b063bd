"""A folder's manifest as bytes, its digest, and which names may travel between sites.

Knows canonical JSON and what makes a manifest safe to unpack. Does not touch a disk.
"""

from itertools import pairwise
from unicodedata import category

import msgspec
from blake3 import blake3

from suan.grid.artifact import Manifest
from suan.grid.error import SiteTrouble

CHUNK_BYTES = 4 << 20  # a file is cut every 4 MiB; its last chunk is shorter
_HEX = frozenset("0123456789abcdef")
_NAME_BYTES = 255  # a name, on every file system in use
_NO_LETTERS = frozenset(
    {"Cc", "Cs", "Zl", "Zp"}
)  # controls, lone surrogates (bytes that are not UTF-8), line ends
_PATH_BYTES = 3000  # below Linux's 4096 with room for the folder it is unpacked in

_decoder = msgspec.json.Decoder(Manifest)


def hash_of(data: bytes) -> str:
    """BLAKE3 in hex: the address of a chunk, and of a manifest's bytes."""
    return blake3(data).hexdigest()


def is_hash(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def manifest_bytes(manifest: Manifest) -> bytes:
    """Canonical JSON: keys sorted, no spaces. Its `hash_of` is the artifact's digest."""
    return msgspec.json.encode(manifest, order="sorted")


def manifest_from(data: bytes, digest: str) -> Manifest:
    """The manifest in `data`, which may come from anywhere.

    Raises: SiteTrouble `corrupt` when the bytes do not have this digest or are not safe to unpack.
    """
    if hash_of(data) != digest:
        raise corrupt(f"the manifest of {digest[:12]} is not what was written", digest)
    try:
        manifest = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise corrupt(f"the manifest of {digest[:12]} cannot be read: {error}", digest) from error
    if why := fault_in_manifest(manifest):
        raise corrupt(f"the manifest of {digest[:12]} cannot be unpacked: {why}", digest)
    return manifest


def fault_in_path(path: str) -> str:
    """Why a relative POSIX path cannot travel between sites; "" when it can."""
    if not path or path.startswith("/") or "\\" in path:
        return "it is not a relative path with '/'"
    if any(category(letter) in _NO_LETTERS for letter in path):
        return "it has control characters or is not UTF-8"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "it has empty, '.' or '..' parts"
    if any(len(part.encode()) > _NAME_BYTES for part in parts) or len(path.encode()) > _PATH_BYTES:
        return "it is too long"
    return ""


def fault_in_manifest(manifest: Manifest) -> str:
    """Why it could not be unpacked, or not into one folder alone; "" when it can."""
    paths = [file.path for file in manifest.files]
    for path in paths:
        if why := fault_in_path(path):
            return f"{path[:80]!r}: {why}"
    if any(left >= right for left, right in pairwise(paths)):
        return "its files are not sorted by path, each once"
    known = set(paths)
    for path in paths:
        end = path.find("/")
        while end > 0:
            if path[:end] in known:
                return f"{path[:end]!r} is a file and a folder"
            end = path.find("/", end + 1)
    for file in manifest.files:
        if any(not is_hash(chunk.hash) or not 0 < chunk.bytes <= CHUNK_BYTES for chunk in file.chunks):
            return f"{file.path!r} has a chunk that cannot be"
        if file.bytes != sum(chunk.bytes for chunk in file.chunks):
            return f"{file.path!r} is not as long as its chunks"
    return ""


def chunk_sizes(manifest: Manifest) -> dict[str, int]:
    """Chunk hash -> bytes, each once, in order of first use."""
    return {chunk.hash: chunk.bytes for file in manifest.files for chunk in file.chunks}


def corrupt(what: str, address: str) -> SiteTrouble:
    return SiteTrouble(
        "corrupt", what, hint="it is fetched again from another replica, if there is one", address=address
    )


def missing(what: str, address: str) -> SiteTrouble:
    return SiteTrouble(
        "missing", what, hint="fetch it from another replica, or put it again", address=address
    )
