"""Folders to a grid and back: `Client.put` and `Client.get`.

Knows chunks and manifests. What the grid has already is not sent again; what arrives is verified before it is
kept, and appears all at once.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from suan.grid.artifact import Chunk, File, Manifest, artifact_name
from suan.grid.error import NotNow, Refused, SiteTrouble
from suan.stores.folders import FoundFile, files_in, pieces_of
from suan.stores.manifests import CHUNK_BYTES, chunk_sizes, hash_of, manifest_from

if TYPE_CHECKING:
    from suan.doors.client import Client, Progress

_AT_ONCE = 4
_ASKED_AT_ONCE = 2000  # hashes in one question
_PUT_TRIES = 3
_POLL_S = 0.3


class _Count:
    """Bytes done, told to whoever watches; from several threads."""

    def __init__(self, whole_bytes: int, progress: "Progress | None") -> None:
        self._whole_bytes, self._progress = whole_bytes, progress
        self._done_bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done_bytes += count
            if self._progress:
                self._progress(self._done_bytes, self._whole_bytes)


def put(
    client: "Client", folder: Path, name: str, site: str = "", progress: "Progress | None" = None
) -> dict[str, Any]:
    """The artifact version that the folder became.

    Raises: Refused `bad_path`, `bad_artifact_name`, `changed_meanwhile` …; NotNow.
    """
    artifact_name(name)
    for _ in range(_PUT_TRIES):
        found = files_in(folder)
        manifest = _manifest_of(found)
        _upload(client, found, manifest, _Count(manifest.bytes, progress))
        body = {"name": name, "manifest": manifest, "site": site}
        try:
            made: dict[str, Any] = client.request("POST", "/v1/artifacts", body=body, headers=_key_of(body))
            return made
        except NotNow as error:  # chunks that were there when we asked have been cleared away since
            if error.code != "missing_chunks":
                raise
    raise NotNow(
        "missing_chunks", f"the grid's store loses chunks of {folder}", hint="try again", retry_after_s=5
    )


def _manifest_of(found: list[FoundFile]) -> Manifest:
    files = []
    for item in found:
        chunks = tuple(Chunk(hash_of(piece), len(piece)) for piece in pieces_of(item.source))
        files.append(File(item.path, sum(chunk.bytes for chunk in chunks), chunks, item.executable))
    return Manifest(files=tuple(files))


def _upload(client: "Client", found: list[FoundFile], manifest: Manifest, count: _Count) -> None:
    """Sends what the grid does not have, each chunk once."""
    missing = _missing(client, list(chunk_sizes(manifest)))
    room = threading.BoundedSemaphore(2 * _AT_ONCE)  # 32 MiB in memory

    def send(chunk: Chunk, piece: bytes) -> None:
        try:
            client.request("PUT", f"/v1/data/chunks/{chunk.hash}", body=piece)
            count.add(chunk.bytes)
        finally:
            room.release()

    jobs = []
    with _threads() as pool:
        for chunk, piece in _pieces(found, manifest, missing, count):
            room.acquire()
            jobs.append(pool.submit(send, chunk, piece))
            if any(job.done() and job.exception() for job in jobs[-2 * _AT_ONCE :]):
                break
        for job in jobs:
            job.result()


def _pieces(
    found: list[FoundFile], manifest: Manifest, missing: set[str], count: _Count
) -> Iterator[tuple[Chunk, bytes]]:
    """Chunks to send, read from their files; the others are counted as done.

    Raises: Refused `changed_meanwhile` when a file is not any more what it was.
    """
    for item, file in zip(found, manifest.files, strict=True):
        with open(item.source, "rb", buffering=0) as source:
            for index, chunk in enumerate(file.chunks):
                if chunk.hash not in missing:
                    count.add(chunk.bytes)
                    continue
                missing.discard(chunk.hash)
                source.seek(index * CHUNK_BYTES)
                piece = _read(source, chunk.bytes)
                if hash_of(piece) != chunk.hash:
                    raise Refused(
                        "changed_meanwhile",
                        f"{item.path} was written to while it was put",
                        hint="put it again when nothing writes to it",
                    )
                yield chunk, piece


def _read(source: Any, size: int) -> bytes:
    parts, wanted = [], size
    while wanted and (part := source.read(wanted)):
        parts.append(part)
        wanted -= len(part)
    return b"".join(parts)


def _missing(client: "Client", hashes: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(hashes), _ASKED_AT_ONCE):
        asked = {"chunks": hashes[start : start + _ASKED_AT_ONCE]}
        found.update(
            client.request("POST", "/v1/data/missing", body=asked, headers=_key_of(asked))["missing"]
        )
    return found


def _key_of(body: Any) -> dict[str, str]:
    """An idempotency key made of what is sent: the same content twice is the same version."""
    return {"idempotency-key": hash_of(msgspec.json.encode(body))[:40]}


# ---------------------------------------------------------------- back


def get(
    client: "Client", name: str, folder: Path, wait_s: float, progress: "Progress | None" = None
) -> dict[str, Any]:
    """The artifact, now in `folder`.

    Raises: Refused `folder_exists`; NotNow `not_here_yet`; SiteTrouble `corrupt` for what does not have its
    hash, or a manifest that names paths outside the folder.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused("folder_exists", f"{folder} is not empty", hint="name a folder that does not exist")
    artifact: dict[str, Any] = client.artifact(name)
    digest = _wait(client, artifact["id"], wait_s)
    manifest = manifest_from(client.request("GET", f"/v1/data/manifests/{digest}"), digest)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _download(client, digest, manifest, partial, _Count(manifest.bytes, progress))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return artifact


def _wait(client: "Client", artifact: str, wait_s: float) -> str:
    """The digest, once the grid's own store has it."""
    deadline_s = time.monotonic() + wait_s
    while True:
        fetched = client.fetch(artifact)
        if fetched["ready"]:
            return str(fetched["digest"])
        if time.monotonic() > deadline_s:
            raise NotNow(
                "not_here_yet",
                f"{artifact} is still on its way to the grid after {wait_s:.0f} s",
                hint="ask again: what has arrived stays",
                retry_after_s=10,
            )
        time.sleep(_POLL_S)


def _download(client: "Client", digest: str, manifest: Manifest, folder: Path, count: _Count) -> None:
    def bring(file: File, index: int, chunk: Chunk) -> None:
        data = client.request("GET", f"/v1/data/chunks/{chunk.hash}", params={"digest": digest})
        if hash_of(data) != chunk.hash:
            raise SiteTrouble("corrupt", f"a piece of {file.path} did not arrive as it is", hint="try again")
        with open(folder / file.path, "r+b", buffering=0) as output:
            output.seek(index * CHUNK_BYTES)
            output.write(data)
        count.add(chunk.bytes)

    for file in manifest.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as output:
            output.truncate(file.bytes)
    with _threads() as pool:
        jobs = [pool.submit(bring, *item) for item in _chunks(manifest.files)]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
    for file in manifest.files:
        if file.executable:
            (folder / file.path).chmod(0o755)


def _chunks(files: Iterable[File]) -> Iterator[tuple[File, int, Chunk]]:
    for file in files:
        for index, chunk in enumerate(file.chunks):
            yield file, index, chunk


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="carry")
