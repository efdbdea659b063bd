"""What a task brings along: workdir, file_mounts and volumes, as folders to upload, artifacts, or notes."""

import posixpath
import re

import msgspec

from suan.doors.taskfile.document import Mapping, Scalar, Sequence, Spot
from suan.doors.taskfile.keys import Keys, as_text, at, kind, refuse, substituted
from suan.grid.artifact import KINDS, artifact_name

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_GIT_SSH = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:.+")
_MAX_PATH_CHARACTERS = 4096


class Local(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on the submitter's machine and is uploaded before the task is submitted; paths as written."""

    workdir: str = ""  # folder to upload for Task.workdir, "" for none
    mounts: dict[str, str] = {}  # path at the run -> file or folder to upload for Task.file_mounts


def read_workdir(keys: Keys, variables: dict[str, str]) -> str:
    """The folder to upload, "" for none. A git address becomes a note."""
    spot = keys.take("workdir")
    if spot is None:
        return ""
    path = keys.at("workdir")
    address = ""
    if isinstance(spot, Mapping):
        inner = Keys(spot, path, keys.notes)
        address = inner.text("url")
        inner.text("ref")
        inner.close()
        if not address:
            refuse(spot, path, "bad_value", "names no url", "write workdir: FOLDER")
    else:
        with at(spot, path):
            text = _checked(spot, path, substituted(as_text(spot, path), variables))
        if not _URL.match(text) and not _GIT_SSH.fullmatch(text):
            return text
        address = text
    keys.notes.append(f"{path}: {address[:200]} is set aside: the grid does not clone; clone it in setup:")
    return ""


def read_file_mounts(keys: Keys, variables: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(path -> artifact, path -> local file or folder). Buckets become notes: nothing here mounts them."""
    inner = keys.inner("file_mounts")
    artifacts: dict[str, str] = {}
    local: dict[str, str] = {}
    if inner is None:
        return artifacts, local
    for written, spot in inner.spot.items.items():
        inner.take(written)
        path = inner.at(written[:100])
        with at(spot, path):
            target = _checked(spot, path, substituted(written, variables))
            if isinstance(spot, Mapping):
                _storage(target, Keys(spot, path, keys.notes), variables, local)
                continue
            source = _checked(spot, path, substituted(as_text(spot, path), variables))
            if source.partition(":")[0] in KINDS and ":" in source:
                artifacts[target] = str(artifact_name(source))
            elif _URL.match(source):
                keys.notes.append(_bucket_note(path, source))
            else:
                local[target] = source
    return artifacts, local


def read_volumes(keys: Keys) -> None:
    """Notes for `volumes:` and `volume_mounts:`; the spot's shape is checked, its content is SkyPilot's."""
    for name in ("volumes", "volume_mounts"):
        spot = keys.spot.items.get(name)
        if name in keys and isinstance(spot, Scalar):
            refuse(
                spot, keys.at(name), "bad_type", f"must name paths, not be {kind(spot)}", "write PATH: VOLUME"
            )
        keys.set_aside(name, "the grid mounts no volumes; keep data as artifacts under inputs: and outputs:")


def _storage(target: str, inner: Keys, variables: dict[str, str], local: dict[str, str]) -> None:
    """A SkyPilot storage object: local sources are uploaded, buckets become notes."""
    source = inner.take("source")
    sources: tuple[Spot, ...] = source.items if isinstance(source, Sequence) else (source,) if source else ()
    names = {key: inner.text(key) for key in ("name", "store", "mode", "type", "mount_options")}
    for key in ("persistent", "config", "_is_sky_managed", "_bucket_sub_path", "_force_delete"):
        inner.take(key)
    inner.close()
    kept = False
    for spot in sources:
        text = _checked(spot, inner.at("source"), substituted(as_text(spot, inner.at("source")), variables))
        if _URL.match(text):
            inner.notes.append(_bucket_note(inner.path, text))
            continue
        inside = posixpath.join(target, posixpath.basename(text.rstrip("/"))) if len(sources) > 1 else target
        local[inside] = text
        kept = True
    if not sources:
        inner.notes.append(_bucket_note(inner.path, f"bucket {substituted(names['name'], variables)[:200]}"))
    elif kept and names["mode"].upper() != "COPY":
        inner.notes.append(
            f"{inner.path}: the run gets a copy; what it writes there is not kept: use outputs:"
        )


def _bucket_note(path: str, source: str) -> str:
    return (
        f"{path}: {source[:200]} is set aside: the grid mounts no buckets, so the run lacks this path; "
        "bring data in with suan data put and name it under inputs:, and write results to outputs:"
    )


def _checked(spot: Spot, path: str, text: str) -> str:
    if not text.strip() or "\n" in text or len(text) > _MAX_PATH_CHARACTERS:
        refuse(spot, path, "bad_value", "is not a path", "write a path on one line, at most 4096 characters")
    return text
