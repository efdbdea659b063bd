"""Artifacts of one site, content-addressed, in a local folder or a bucket through one code path.

Knows chunks, manifests and folders: `chunks/ab/abcd…` and `manifests/DIGEST.json`. Does not know names,
versions or other sites. One process uses a store; its threads may use it together. Everything read is
verified; what fails is removed, so that `has` says no and a fetch repairs it.
"""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from suan.grid.artifact import Chunk, File, Manifest
from suan.grid.error import Refused, SiteTrouble
from suan.stores.folders import files_in, pieces_of
from suan.stores.manifests import (
    chunk_sizes,
    corrupt,
    fault_in_manifest,
    hash_of,
    is_hash,
    manifest_bytes,
    manifest_from,
    missing,
)

_THREADS = 4
_IN_FLIGHT = 8  # chunks in memory while a folder is put: 32 MiB


def open_store(place: str | Path, **options: Any) -> "ArtifactStore":
    """The store in a folder (made when it is not there) or at a URL such as `s3://bucket/prefix`.

    `options` go to obstore's `from_url` (`config=`, `client_options=`); credentials come from there or
    from the environment.

    Raises: Refused `bad_store`.
    """
    try:
        if "://" in str(place):
            return ArtifactStore(from_url(str(place), **options))
        return ArtifactStore(LocalStore(Path(place).absolute(), mkdir=True))
    except (BaseError, ValueError, OSError, TypeError) as error:
        raise Refused(
            "bad_store",
            f"{place} cannot hold artifacts: {_first_line(error)}",
            hint="name a folder or s3://BUCKET/PREFIX",
        ) from error


class ArtifactStore:
    """`ports.Store` over any object store that obstore knows."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        # Held while an artifact becomes complete or goes: what one needs, the other must not take away.
        self._changing = threading.Lock()
        self._pins: Counter[str] = (
            Counter()
        )  # chunks of folders that are being put: no manifest names them yet

    # ------------------------------------------------------------ folders

    def put_folder(self, folder: Path) -> tuple[str, Manifest]:
        """(digest, manifest) of the folder, its chunks now in the store. Twice is once.

        Empty folders are not kept; a link to a file inside becomes that file.

        Raises: Refused `bad_path` for links that leave the folder, special files or names that cannot travel;
        SiteTrouble `store_failed`.
        """
        pinned: list[str] = []
        try:
            manifest = self._put_files(Path(folder), pinned)
            digest = hash_of(manifest_bytes(manifest))
            self.write_manifest(digest, manifest)
        finally:
            with self._changing:
                self._pins.subtract(pinned)
                self._pins = +self._pins
        return digest, manifest

    def checkout(self, digest: str, folder: Path) -> None:
        """Makes `folder` hold exactly this content, all or nothing, files read-only. What was in it is gone.

        One checkout into a folder at a time.

        Raises: SiteTrouble `missing`, `corrupt` or `store_failed`.
        """
        manifest = self.manifest(digest)
        folder = Path(folder)
        partial = folder.with_name(f".{folder.name}.partial")
        former = folder.with_name(f".{folder.name}.former")
        with _store_trouble(f"{digest[:12]} cannot be unpacked into {folder}"):
            try:
                for rest in (partial, former):
                    if rest.exists():
                        shutil.rmtree(rest)  # of a checkout that was killed
                partial.mkdir(parents=True)
                with _workers() as pool:
                    list(pool.map(lambda file: self._write_file(file, partial), manifest.files))
                if folder.exists():
                    folder.rename(former)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(former, ignore_errors=True)

    def delete(self, digest: str) -> int:
        """Bytes freed: chunks that no other manifest needs. Unknown digests: 0."""
        with self._changing:
            try:
                manifest = self.manifest(digest)
            except SiteTrouble as trouble:
                if trouble.code not in ("missing", "corrupt"):
                    raise
                return 0
            self._remove(
                [_manifest_key(digest)]
            )  # first: a kill in between leaves loose chunks, not half an artifact
            return self._remove_loose(chunk_sizes(manifest))

    def sweep(self, older_than_s: float) -> int:
        """Bytes freed: chunks of dropped fetches, which no manifest needs, written longer than this ago."""
        with self._changing, _store_trouble("chunks cannot be listed"):
            before_s = time.time() - older_than_s
            return self._remove_loose(
                {
                    entry["path"].rpartition("/")[2]: entry["size"]
                    for batch in obstore.list(self._objects, "chunks")
                    for entry in batch
                    if entry["last_modified"].timestamp() < before_s
                }
            )

    # ------------------------------------------------------------ manifests

    def manifest(self, digest: str) -> Manifest:
        """Raises: SiteTrouble `missing` or `corrupt`."""
        return manifest_from(self.read_manifest(digest), digest)

    def read_manifest(self, digest: str) -> bytes:
        """The manifest as it is stored, verified.

        Raises: SiteTrouble `missing` or `corrupt`.
        """
        return self._read(_manifest_key(digest), digest, "the manifest of")

    def write_manifest(self, digest: str, manifest: Manifest) -> None:
        """Completes an artifact whose chunks are all here.

        Raises: SiteTrouble `corrupt` (another digest, unsafe to unpack) or `missing` (a chunk is not here).
        """
        data = manifest_bytes(manifest)
        if hash_of(data) != digest:
            raise corrupt(f"the manifest does not have the digest {digest[:12]}", digest)
        if why := fault_in_manifest(manifest):
            raise corrupt(f"the manifest of {digest[:12]} cannot be unpacked: {why}", digest)
        with self._changing:
            if absent := self.absent_chunks(manifest):
                raise missing(f"{len(absent)} chunks of {digest[:12]} are not here", absent[0])
            self._write(_manifest_key(digest), data)

    def has(self, digest: str) -> bool:
        """Whether the manifest and every chunk are here, each as long as it should be."""
        try:
            return not self.absent_chunks(self.manifest(digest))
        except SiteTrouble as trouble:
            if trouble.code not in ("missing", "corrupt"):
                raise
            return False

    def digests(self) -> tuple[str, ...]:
        """Complete artifacts here, sorted."""
        with _store_trouble("artifacts cannot be listed"):
            sizes = {
                entry["path"].rpartition("/")[2]: entry["size"]
                for batch in obstore.list(self._objects, "chunks")
                for entry in batch
            }
        return tuple(
            digest
            for digest, manifest in self._manifests()
            if all(sizes.get(chunk) == size for chunk, size in chunk_sizes(manifest).items())
        )

    def absent_chunks(self, manifest: Manifest) -> list[str]:
        """Chunks that are not here, or not as long as they should be, in order of first use."""
        sizes = chunk_sizes(manifest)
        with _workers() as pool:
            found = list(pool.map(self._size, sizes))
        return [chunk for (chunk, size), there in zip(sizes.items(), found, strict=True) if there != size]

    # ------------------------------------------------------------ chunks

    def read_chunk(self, hash: str) -> bytes:
        """Raises: SiteTrouble `missing` or `corrupt`."""
        return self._read(_chunk_key(hash), hash, "chunk")

    def has_chunk(self, hash: str) -> bool:
        """Whether something is stored at this address; only reading says that it is whole."""
        return self._size(hash) is not None

    def write_chunk(self, hash: str, data: bytes) -> None:
        """Raises: SiteTrouble `corrupt` when the data do not have this hash; nothing is kept then."""
        if hash_of(data) != hash:
            raise corrupt(f"the data given for chunk {hash[:12]} have another hash", hash)
        self._write(_chunk_key(hash), data)

    # ------------------------------------------------------------ inside

    def _put_files(self, folder: Path, pinned: list[str]) -> Manifest:
        files = []
        room = threading.BoundedSemaphore(_IN_FLIGHT)

        def put(piece: bytes) -> Chunk:
            try:
                return self._put_piece(piece, pinned)
            finally:
                room.release()

        with _store_trouble(f"{folder} cannot be put"), _workers() as pool:
            for found in files_in(folder):
                chunks = []
                for piece in pieces_of(found.source):
                    room.acquire()
                    chunks.append(pool.submit(put, piece))
                files.append((found, chunks))
            finished = [(found, tuple(chunk.result() for chunk in chunks)) for found, chunks in files]
        return Manifest(
            files=tuple(
                File(found.path, sum(chunk.bytes for chunk in chunks), chunks, found.executable)
                for found, chunks in finished
            )
        )

    def _put_piece(self, piece: bytes, pinned: list[str]) -> Chunk:
        chunk = Chunk(hash_of(piece), len(piece))
        with self._changing:
            self._pins[chunk.hash] += 1
            pinned.append(chunk.hash)
        if self._size(chunk.hash) != chunk.bytes:
            self._write(_chunk_key(chunk.hash), piece)
        return chunk

    def _write_file(self, file: File, folder: Path) -> None:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as output:
            for chunk in file.chunks:
                output.write(self.read_chunk(chunk.hash))
            os.fchmod(output.fileno(), 0o555 if file.executable else 0o444)

    def _manifests(self) -> Iterator[tuple[str, Manifest]]:
        """(digest, manifest) of all that can be read, sorted by digest."""
        with _store_trouble("artifacts cannot be listed"):
            keys = sorted(
                entry["path"] for batch in obstore.list(self._objects, "manifests") for entry in batch
            )
        for key in keys:
            digest = key.rpartition("/")[2].removesuffix(".json")
            try:
                yield digest, self.manifest(digest)
            except SiteTrouble as trouble:
                if trouble.code not in ("missing", "corrupt"):
                    raise

    def _remove_loose(self, sizes: dict[str, int]) -> int:
        """Bytes freed by removing those of the chunks that no manifest needs."""
        loose = {chunk: size for chunk, size in sizes.items() if not self._pins[chunk]}
        for _, manifest in self._manifests():
            for chunk in chunk_sizes(manifest):
                loose.pop(chunk, None)
        there = [chunk for chunk in loose if self._size(chunk) is not None]
        self._remove([_chunk_key(chunk) for chunk in there])
        return sum(loose[chunk] for chunk in there)

    def _read(self, key: str, address: str, what: str) -> bytes:
        if not is_hash(address):
            raise missing(f"{address[:80]!r} is no address of anything", address[:80])
        try:
            data = obstore.get(self._objects, key).bytes().to_bytes()
        except FileNotFoundError as error:
            raise missing(f"{what} {address[:12]} is not here", address) from error
        except (BaseError, OSError) as error:
            raise _failure(f"{what} {address[:12]} cannot be read", error) from error
        if hash_of(data) != address:
            self._remove([key])
            raise corrupt(f"{what} {address[:12]} was damaged here and has been removed", address)
        return data

    def _write(self, key: str, data: bytes) -> None:
        # Atomic: a local store writes beside the key and renames, an object store shows whole objects only.
        with _store_trouble(f"{key} cannot be written"):
            obstore.put(self._objects, key, data, use_multipart=False)

    def _size(self, hash: str) -> int | None:
        if not is_hash(hash):
            return None
        try:
            return obstore.head(self._objects, _chunk_key(hash))["size"]
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _failure(f"chunk {hash[:12]} cannot be looked up", error) from error

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                obstore.delete(self._objects, key)
            except FileNotFoundError:
                pass  # another thread found the same damage
            except (BaseError, OSError) as error:
                raise _failure(f"{key} cannot be removed", error) from error


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads for one call; after an error the work that has not begun is dropped."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _chunk_key(hash: str) -> str:
    return f"chunks/{hash[:2]}/{hash}"


def _manifest_key(digest: str) -> str:
    return f"manifests/{digest}.json"


@contextmanager
def _store_trouble(what: str) -> Iterator[None]:
    """Turns what the disk or the object store says into SiteTrouble `store_failed`."""
    try:
        yield
    except (BaseError, OSError) as error:
        raise _failure(what, error) from error


def _failure(what: str, error: Exception) -> SiteTrouble:
    return SiteTrouble(
        "store_failed", f"{what}: {_first_line(error)}", hint="see that the store has room and can be reached"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
