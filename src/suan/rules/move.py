"""Which replica goes over which link, how long that takes and what it costs.

A transfer's id is made of digest and destination, so that asking twice moves once.
"""

import msgspec

from suan.grid.artifact import Artifact, Transfer, TransferPhase
from suan.grid.job import Job, JobPhase, Reason
from suan.grid.site import GRID_SITE, Link, SitePhase
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB

GRID_MBIT_PER_S = 1000.0  # assumed between the grid's own store and a site when nobody declared it
RETRY_S = 2  # after a failed transfer; doubles with each
RETRY_LIMIT_S = 300


class Move(msgspec.Struct, frozen=True, kw_only=True):
    artifact: str
    source: str
    destination: str
    bytes: int
    duration_s: int
    cost_microyuan: int


def transfer_id(artifact: Artifact, destination: str) -> str:
    return f"{artifact.digest[:32]}-{destination}"


def bound_artifacts(state: State, job: Job) -> dict[str, Artifact] | Reason:
    """The versions behind each input, or why they are not all known yet."""
    found: dict[str, Artifact] = {}
    for name, binding in job.inputs.items():
        artifact_id = binding.artifact
        if not artifact_id:
            writer = state.jobs[binding.from_job]
            if not binding.from_output and writer.phase == JobPhase.SUCCEEDED:
                continue
            artifact_id = writer.outputs.get(binding.from_output, "")
            if not artifact_id:
                return Reason(
                    code="input",
                    text=f"waits for {writer.task.outputs.get(binding.from_output, 'the end')}"
                    f" from job {writer.id} ({writer.task.name}, {writer.phase})",
                    need=1,
                    have=0,
                    unit="inputs",
                    help=f"follow it: suan logs {writer.id}",
                )
        found[name] = state.artifacts[artifact_id]
    return found


def moves_to(
    state: State, artifacts: dict[str, Artifact], site: str, now_s: int
) -> tuple[Move, ...] | Reason:
    """What must cross which links so that every artifact is at the site; empty when all are there."""
    moves: dict[str, Move] = {}
    for artifact in artifacts.values():
        if site in state.replicas.get(artifact.id, {}) or artifact.id in moves:
            continue
        if artifact.rights.sites and site not in artifact.rights.sites:
            return Reason(
                code="rights", text=f"{artifact.id} may not leave {', '.join(artifact.rights.sites)}"
            )
        options = [
            _move(state, artifact, source, site, now_s) for source in state.replicas.get(artifact.id, {})
        ]
        reachable = sorted(
            (move for move in options if move), key=lambda m: (m.cost_microyuan, m.duration_s, m.source)
        )
        if not reachable:
            return _out_of_reach(artifact, sorted(state.replicas.get(artifact.id, {})), site)
        moves[artifact.id] = reachable[0]
    return tuple(moves.values())


def _out_of_reach(artifact: Artifact, holders: list[str], site: str) -> Reason:
    if holders:
        text = f"{artifact.id} is at {', '.join(holders)}, and no ready site with a link to {site} has it"
        help = f"declare a link: suan link set {holders[0]} {site} --mbit-per-s 100"
    else:
        text = f"{artifact.id} is at no site any more"
        help = f"put it again: suan put FOLDER {artifact.id.partition('@')[0]}"
        if artifact.job:
            help = f"make it again: submit the task of job {artifact.job} once more"
    return Reason(code="data", text=text, need=artifact.bytes, have=0, unit="bytes", help=help)


def link_between(state: State, source: str, destination: str) -> Link | None:
    """The link as declared or measured; to and from the grid's own store there always is one."""
    link = state.links.get((source, destination))
    if link is None and GRID_SITE in (source, destination):
        return Link(source=source, destination=destination, mbit_per_s=GRID_MBIT_PER_S, origin="assumed")
    return link


def again_at_s(transfer: Transfer) -> int:
    """When a transfer that failed may be ordered again; 0 for any other."""
    if transfer.phase != TransferPhase.FAILED or transfer.ended_at_s is None:
        return 0
    doublings = min(transfer.attempts, RETRY_LIMIT_S.bit_length())
    return transfer.ended_at_s + min(RETRY_S << doublings, RETRY_LIMIT_S)


def _move(state: State, artifact: Artifact, source: str, destination: str, now_s: int) -> Move | None:
    link = link_between(state, source, destination)
    site = state.sites.get(source)
    if link is None or site is None or site.phase not in (SitePhase.READY, SitePhase.DRAINING):
        return None
    duration_s = artifact.bytes * 8 / (link.mbit_per_s * 1e6) + link.rtt_ms / 1000
    before = state.transfers.get(transfer_id(artifact, destination))
    if before and before.phase == TransferPhase.ACTIVE:
        duration_s = max(0.0, before.ordered_at_s + duration_s - now_s)
    if before:
        duration_s += max(0, again_at_s(before) - now_s)
    return Move(
        artifact=artifact.id,
        source=source,
        destination=destination,
        bytes=artifact.bytes,
        duration_s=-int(-duration_s // 1),
        cost_microyuan=round(artifact.bytes / BYTES_PER_GB * link.microyuan_per_gb),
    )


def link_share_bytes_per_s(state: State, source: str, destination: str) -> float:
    """What each open transfer on a link may use: the link's bandwidth, shared equally."""
    link = link_between(state, source, destination)
    if link is None:
        return 0.0
    sharing = sum(
        (state.transfers[transfer].source, state.transfers[transfer].destination) == (source, destination)
        for transfer in state.transfers_at.get(destination, ())
    )
    return link.mbit_per_s * 1e6 / 8 / max(1, sharing)
