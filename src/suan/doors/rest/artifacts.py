"""Artifacts: listing, lineage, and bringing content in and out of the grid's own store, chunk by chunk.

Knows who may read what. A chunk is read through an artifact that names it; a hash alone opens nothing.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import Response

from suan.control.commands import Content, Fetch, fetch_artifact, put_artifact, unknown
from suan.doors.rest.access import Here, Member, Viewer, sees, tenant_for
from suan.doors.rest.answer import Json, Raw, answers, cursor_number, page, takes, takes_bytes
from suan.doors.rest.parts import Parts
from suan.doors.schema import MissingBody
from suan.grid.account import Key
from suan.grid.artifact import Artifact, Manifest, artifact_name
from suan.grid.error import NotNow, Refused, SiteTrouble
from suan.grid.state import State
from suan.stores.manifests import (
    CHUNK_BYTES,
    chunk_sizes,
    fault_in_manifest,
    hash_of,
    is_hash,
    manifest_bytes,
)
from suan.stores.manifests import manifest_from as verified_manifest

router = APIRouter(prefix="/v1", tags=["artifacts"])
MANIFEST_TYPE = "application/vnd.suan.manifest+json"  # its very bytes count: their hash is its address


class PutBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A name for chunks that were uploaded: the manifest says which make which file."""

    name: str
    manifest: Manifest
    site: str = ""


class MissingChunks(msgspec.Struct, frozen=True):
    """Those of the chunks asked about that the grid's store does not have."""

    missing: list[str]


_put_body = msgspec.json.Decoder(PutBody)


@router.get("/artifacts")
def list_artifacts(
    here: Here,
    key: Viewer,
    *,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    kind: str | None = None,
) -> Response:
    """Artifacts that the key may read, newest first."""
    before = cursor_number(cursor)

    def view(state: State) -> dict[str, Any]:
        last = len(state.artifacts)
        numbered = (
            (last - index, artifact)
            for index, artifact in enumerate(reversed(state.artifacts.values()))
            if before is None or last - index < before
        )
        found, next_cursor = page(
            numbered,
            limit,
            lambda artifact: (
                _may_read(key, artifact) and (kind is None or artifact.id.startswith(f"{kind}:"))
            ),
        )
        items = [_with_replicas(state, artifact) for artifact in found]
        return {"items": items, "next_cursor": next_cursor}

    return Json(here.grid.read(view))


@router.get("/artifacts/{name}")
def get_artifact(here: Here, key: Viewer, name: str) -> Response:
    """One version, the newest when none is named: where it is, what it was made from and what from it."""

    def view(state: State) -> dict[str, Any]:
        artifact = _readable(state, key, name)
        used_by = [other.id for other in state.artifacts.values() if artifact.id in other.inputs]
        return {
            **_with_replicas(state, artifact),
            "transfers": [
                {"transfer": moved, "arrived_bytes": here.grid.live.transfers.get(moved.id, 0)}
                for moved in (state.transfers[open_id] for open_id in state.open_transfers)
                if moved.artifact == artifact.id
            ],
            "used_by": [other for other in used_by if _may_read(key, state.artifacts[other])],
        }

    return Json(here.grid.read(view))


@router.post("/artifacts", status_code=201, openapi_extra=takes(PutBody))
def commit_artifact(here: Here, key: Member, body: Raw, tenant: str | None = None) -> Response:
    """Makes uploaded chunks a version of `name`, on its way to `site`. The same again is the same version."""
    owner = tenant_for(key, tenant)
    put = _put_body.decode(body)
    artifact_name(put.name)
    if why := fault_in_manifest(put.manifest):
        raise Refused("bad_manifest", f"the manifest cannot be unpacked: {why}", hint="name safe paths")
    digest = hash_of(manifest_bytes(put.manifest))
    content = Content(digest, put.manifest.bytes, len(put.manifest.files))
    # First the content, then the fact: a store keeps what no fact names for two hours.
    _complete(here, digest, put.manifest)
    artifact = here.grid.do(put_artifact(owner, put.name, content, put.site))
    return Json(here.grid.read(lambda state: _with_replicas(state, state.artifacts[artifact])), 201)


@router.post("/artifacts/{name}/fetch", responses=answers(Fetch))
def fetch(here: Here, key: Viewer, name: str) -> Response:
    """Brings the version into the grid's own store. Ask again until it is ready."""
    artifact = here.grid.read(lambda state: _readable(state, key, name))
    found = here.grid.do(fetch_artifact(artifact.id))
    if found.ready and not here.store.has(artifact.digest):  # the next report says that it is lost here
        found = msgspec.structs.replace(found, ready=False)
    return Json(found)


@router.post("/data/missing", responses=answers(MissingChunks))
def missing_chunks(here: Here, _: Member, body: MissingBody) -> Response:
    """Which of these chunks would have to be uploaded."""
    return Json(MissingChunks([hash for hash in body.chunks if not here.store.has_chunk(hash)]))


@router.head("/data/chunks/{hash}")
def head_chunk(here: Here, _: Member, hash: str) -> Response:
    """200 when the grid's store has the chunk, 404 when not."""
    return Response(status_code=200 if here.store.has_chunk(hash) else 404)


@router.put("/data/chunks/{hash}", status_code=204, openapi_extra=takes_bytes())
def put_chunk(here: Here, _: Member, hash: str, body: Raw) -> Response:
    """Uploads a chunk, at most 4 MiB. Twice is once."""
    if not is_hash(hash):
        raise Refused("bad_hash", f"{hash[:80]!r} is no BLAKE3 hash", hint="64 hexadecimal digits")
    if len(body) > CHUNK_BYTES:
        raise Refused("too_large", "a chunk has at most 4 MiB", hint="cut the file", status=413)
    _try(lambda: here.store.write_chunk(hash, body), status=422)
    return Response(status_code=204)


@router.get("/data/chunks/{hash}", response_class=Response)
def get_chunk(here: Here, key: Viewer, hash: str, digest: str) -> Response:
    """A chunk of the artifact with this digest, verified."""
    _digest_readable(here, key, digest)
    if hash not in _try(lambda: _chunks_of(here.store, digest)):
        raise unknown("chunk", hash, "the artifact's manifest")
    return Response(_try(lambda: here.store.read_chunk(hash)), media_type="application/octet-stream")


@router.get("/data/manifests/{digest}", response_class=Response)
def get_manifest(here: Here, key: Viewer, digest: str) -> Response:
    """The manifest with this digest: files, and the chunks each is made of."""
    _digest_readable(here, key, digest)
    return Response(_try(lambda: here.store.read_manifest(digest)), media_type=MANIFEST_TYPE)


def _complete(here: Parts, digest: str, manifest: Manifest) -> None:
    """Writes the manifest down.

    Raises: NotNow `missing_chunks`, with the hashes to upload.
    """
    try:
        here.store.write_manifest(digest, manifest)
    except SiteTrouble as trouble:
        absent = here.store.absent_chunks(manifest) if trouble.code == "missing" else []
        if not absent:
            raise
        raise NotNow(
            "missing_chunks",
            f"{len(absent)} chunks are not here",
            hint="upload them: PUT /v1/data/chunks/HASH",
            status=409,
            missing=absent[:10_000],
        ) from trouble


def _try(read: Callable[[], Any], status: int = 404) -> Any:
    """What the store gives; what it does not have is a 404."""
    try:
        return read()
    except SiteTrouble as trouble:
        if trouble.code in ("missing", "corrupt"):
            raise Refused(trouble.code, trouble.what, hint=trouble.hint, status=status) from trouble
        raise


@lru_cache(maxsize=64)
def _chunks_of(store: Any, digest: str) -> frozenset[str]:
    return frozenset(chunk_sizes(verified_manifest(store.read_manifest(digest), digest)))


def _may_read(key: Key, artifact: Artifact) -> bool:
    readers = artifact.rights.readers
    return sees(key, artifact.tenant) or "*" in readers or key.tenant in readers


def _readable(state: State, key: Key, name: str) -> Artifact:
    """Raises: Refused `bad_artifact_name` or `unknown_artifact`, the latter for another tenant's, too."""
    parts = artifact_name(name)
    artifact = state.artifact(parts.kind, parts.name, parts.version)
    if artifact is None or not _may_read(key, artifact):
        raise unknown("artifact", name, "suan ls")
    return artifact


def _digest_readable(here: Parts, key: Key, digest: str) -> None:
    def view(state: State) -> bool:
        return any(a.digest == digest and _may_read(key, a) for a in reversed(state.artifacts.values()))

    if not here.grid.read(view):
        raise unknown("artifact", digest, "suan ls")


def _with_replicas(state: State, artifact: Artifact) -> dict[str, Any]:
    replicas = [
        {"site": site, "since_s": since_s} for site, since_s in state.replicas.get(artifact.id, {}).items()
    ]
    return {**msgspec.structs.asdict(artifact), "replicas": replicas}
