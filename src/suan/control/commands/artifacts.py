"""Artifacts that people put and get: a version for uploaded content, a transfer into the grid's own store."""

from collections.abc import Sequence

import msgspec

from suan.control.commands.command import Command, known_site, unknown
from suan.grid import fact as f
from suan.grid.artifact import Artifact, TransferPhase, artifact_name
from suan.grid.error import NotNow, Refused
from suan.grid.job import Reason
from suan.grid.rights import Rights
from suan.grid.site import GRID_SITE
from suan.grid.state import State
from suan.rules.move import moves_to, transfer_id


class Content(msgspec.Struct, frozen=True):
    """A folder that lies in the grid's own store."""

    digest: str
    bytes: int
    files: int


class Fetch(msgspec.Struct, frozen=True):
    """Whether the grid's own store has an artifact, and the transfer that brings it when not."""

    ready: bool
    artifact: str
    digest: str
    transfer: str = ""


def put_artifact(tenant: str, name: str, content: Content, site: str = "") -> Command[str]:
    """The id of the version that uploaded content became, on its way to `site`. The same content again: the
    same version.

    Without a site, the only one that has pools. GRID_SITE keeps it in the grid's store.

    Raises: Refused `bad_artifact_name`, `bad_output`, `name_taken`, `which_site`, `unknown_site`.
    """
    parts = artifact_name(name)
    if parts.version:
        raise Refused(
            "bad_output", f"{name} names a version", hint=f"leave @{parts.version} out: versions count up"
        )

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], str]:
        destination = _destination(state, site)
        own_series(state, tenant, parts.series)
        latest = state.artifact(parts.kind, parts.name)
        facts: list[f.Fact] = []
        if latest is not None and latest.digest == content.digest:
            artifact = latest
        else:
            artifact = Artifact(
                id=f"{parts.series}@{state.latest.get(parts.series, 0) + 1}",
                digest=content.digest,
                bytes=content.bytes,
                files=content.files,
                tenant=tenant,
                created_at_s=now_s,
                rights=Rights(owner=tenant),
            )
            facts.append(f.ArtifactCommitted(at_s=now_s, artifact=artifact))
        replicas = state.replicas.get(artifact.id, {})
        if destination in replicas:
            return facts, artifact.id
        if GRID_SITE not in replicas:
            facts.append(f.ReplicaAdded(at_s=now_s, artifact=artifact.id, site=GRID_SITE))
        moving = state.transfers.get(transfer_id(artifact, destination))
        active = moving is not None and moving.phase == TransferPhase.ACTIVE
        if destination != GRID_SITE and not active:
            facts.append(
                f.TransferOrdered(
                    at_s=now_s,
                    transfer=transfer_id(artifact, destination),
                    artifact=artifact.id,
                    source=GRID_SITE,
                    destination=destination,
                )
            )
        return facts, artifact.id

    return command


def fetch_artifact(artifact: str) -> Command[Fetch]:
    """Brings a version into the grid's own store. Asked again it says how far it is; a failed transfer is
    tried again.

    Raises: Refused `unknown_artifact`; NotNow `no_replica` when no site that answers has it.
    """

    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], Fetch]:
        wanted = state.artifacts.get(artifact)
        if wanted is None:
            raise unknown("artifact", artifact, "suan ls")
        if GRID_SITE in state.replicas.get(artifact, {}):
            return (), Fetch(True, artifact, wanted.digest)
        transfer = transfer_id(wanted, GRID_SITE)
        if transfer in state.open_transfers:
            return (), Fetch(False, artifact, wanted.digest, transfer)
        moves = moves_to(state, {"it": wanted}, GRID_SITE, now_s)
        if isinstance(moves, Reason):
            raise NotNow("no_replica", moves.text, hint="look at the sites: suan sites", retry_after_s=10)
        order = f.TransferOrdered(
            at_s=now_s, transfer=transfer, artifact=artifact, source=moves[0].source, destination=GRID_SITE
        )
        return (order,), Fetch(False, artifact, wanted.digest, transfer)

    return command


def _destination(state: State, site: str) -> str:
    if site:
        return known_site(state, site).name
    with_pools = [known.name for known in state.sites.values() if known.pools]
    if len(with_pools) == 1:
        return with_pools[0]
    names = ", ".join(with_pools) or "none yet"
    raise Refused(
        "which_site",
        f"there is no one site to put it: {names}",
        hint=f"add --site NAME, or --site {GRID_SITE} to keep it with the grid",
        sites=with_pools,
    )


def own_series(state: State, tenant: str, text: str) -> None:
    """A name belongs to the tenant that first wrote it, or is about to."""
    series = artifact_name(text).series
    latest = state.artifacts.get(f"{series}@{state.latest.get(series, 0)}")
    owners = [latest.tenant] if latest else [state.jobs[job].tenant for job in state.writers.get(series, ())]
    if owners and owners[0] != tenant:
        raise Refused(
            "name_taken", f"{series} belongs to another tenant", hint="choose another name", status=422
        )
