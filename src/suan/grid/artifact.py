"""Datasets, tokenizers, models and reports: content-addressed, versioned, copied between sites.

Knows names, manifests, replicas and transfers. Bytes live in `stores/`.
"""

import enum
import re

import msgspec

from suan.grid.error import Refused
from suan.grid.rights import Rights

KINDS = ("dataset", "tokenizer", "model", "report", "folder")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ArtifactName(msgspec.Struct, frozen=True):
    """`kind:name` or `kind:name@version`, in parts. Version 0 means the latest."""

    kind: str
    name: str
    version: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" + (f"@{self.version}" if self.version else "")

    @property
    def series(self) -> str:
        """The name without its version."""
        return f"{self.kind}:{self.name}"


def artifact_name(text: str) -> ArtifactName:
    """The parts of `kind:name[@version]`.

    Raises: Refused `bad_artifact_name`: unknown kind, path-like or overlong name, version that is no number
    above 0.
    """
    kind, colon, rest = text.partition(":")
    name, at, version = rest.partition("@")
    if not colon or kind not in KINDS:
        raise Refused(
            "bad_artifact_name",
            f"{text!r} does not begin with a kind",
            hint=f"write KIND:NAME, KIND one of {', '.join(KINDS)}",
        )
    if not _NAME.fullmatch(name) or ".." in name:
        raise Refused(
            "bad_artifact_name",
            f"{name!r} cannot name an artifact",
            hint="use letters, digits, '.', '_' and '-', at most 100",
        )
    if at and not (version.isascii() and version.isdigit() and int(version) > 0):
        raise Refused(
            "bad_artifact_name",
            f"{version!r} is not a version",
            hint=f"write {kind}:{name}@1, or leave @ out",
        )
    return ArtifactName(kind, name, int(version or 0))


class Chunk(msgspec.Struct, frozen=True):
    hash: str  # blake3, hex
    bytes: int


class File(msgspec.Struct, frozen=True):
    path: str  # relative, POSIX, no "..", no leading "/"
    bytes: int
    chunks: tuple[Chunk, ...]
    executable: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A folder's content: files sorted by path. Its digest (blake3 of its canonical JSON) is the artifact's
    address.
    """

    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version."""

    id: str  # kind:name@version
    digest: str
    bytes: int
    files: int
    tenant: str
    created_at_s: int
    job: str = ""  # what wrote it, "" when a person put it
    run: str = ""
    inputs: tuple[str, ...] = ()  # ids of what it was made from
    metrics: dict[str, float] = {}
    rights: Rights = Rights()


class TransferPhase(enum.StrEnum):
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact's bytes over one link. The id is digest and destination: asking twice moves once."""

    id: str
    artifact: str
    digest: str
    bytes: int
    source: str
    destination: str
    ordered_at_s: int
    job: str = ""  # who pays
    phase: TransferPhase = TransferPhase.ACTIVE
    ended_at_s: int | None = None
    moved_bytes: int = 0  # what really crossed the link: chunks already there did not
    attempts: int = 1
    microyuan_per_gb: int = 0  # the link's price when it was ordered
    why: str = ""
