"""What a site reports -> facts. Observations are levels: the same report twice gives facts once.

Believes a site about its own runs, and nothing else: a run of another site, of an older epoch or already
ended changes nothing. A report never raises for its content; what makes no sense is left out.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from suan.grid import fact as f
from suan.grid.account import Usage
from suan.grid.action import Observation, RunSeen, TransferSeen
from suan.grid.artifact import Artifact, TransferPhase, artifact_name
from suan.grid.error import Refused
from suan.grid.hardware import accelerator
from suan.grid.job import EndCause, Job, JobPhase, Run, RunPhase
from suan.grid.rights import Rights
from suan.grid.site import GRID_SITE, Pool, Site, SitePhase
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy
from suan.rules.settle import settle_run, settle_transfer

# What no honest report exceeds; one that does must not break the ledger. A rack of the densest kind takes
# 132 kW for 72 devices (NVIDIA GB200 NVL72): 100 kW a device leaves room for anything that will be built.
_MOST_KW_A_DEVICE = 100.0
_MOST_MOVES = 4  # each chunk may come wrong twice and right once, and the manifest comes along
_MANIFEST_BYTES = 256 << 20
_MATERIAL_RATIO, _LEAST_RTT_MS = 0.2, 2.0  # what a link must change by to be a fact


def observe(state: State, seen: Observation, now_s: int) -> list[f.Fact]:
    """The facts that the report adds to what is known; usually none."""
    site = state.sites[seen.site]
    facts: list[f.Fact] = []
    if site.phase == SitePhase.FENCED:
        facts.append(f.SiteReturned(at_s=now_s, site=site.name, epoch=site.epoch + 1))
    elif site.phase == SitePhase.SILENT:
        facts.append(f.SiteHeard(at_s=now_s, site=site.name))
    if seen.full:
        facts.extend(_description(site, seen, now_s))
    if seen.epoch == site.epoch:
        facts.extend(_runs(state, site, seen, now_s))
    facts.extend(_transfers(state, site, seen, now_s))
    if seen.full:
        facts.extend(_replicas(state, site, seen, now_s))
        facts.extend(_links(state, site, seen, now_s))
    return facts


def silences(state: State, heard: dict[str, int], policy: Policy, now_s: int) -> list[f.Fact]:
    """Facts about sites that have not been heard for longer than their lease, and then for longer than their
    fence.

    Every clock starts no earlier than the present control plane: its own outage is nobody's silence.
    """
    facts: list[f.Fact] = []
    for site in state.sites.values():
        if site.phase == SitePhase.FENCED:
            continue
        silent_s = now_s - max(heard.get(site.name, 0), site.heard_at_s, state.started_at_s)
        if silent_s > policy.lease_s and site.phase != SitePhase.SILENT:
            facts.append(f.SiteSilent(at_s=now_s, site=site.name))
        if silent_s > fence_s(policy):
            facts.append(f.SiteFenced(at_s=now_s, site=site.name))
            for run_id in state.open_runs.get(site.name, {}):
                fenced = RunSeen(run=run_id, phase=RunPhase.ENDED, cause=EndCause.FENCED)
                facts.extend(_end(state, fenced, {}, now_s))
    return facts


def fence_s(policy: Policy) -> int:
    """Silence after which a site must have stopped its runs: lease, grace to kill, and the clocks'
    difference. A run's own grace is `stop_grace_s`: it may be the longer one.
    """
    return policy.lease_s + max(policy.grace_s, policy.stop_grace_s) + policy.clock_margin_s


def _description(site: Site, seen: Observation, now_s: int) -> Iterator[f.Fact]:
    pools = tuple(pool for pool in seen.pools if _sensible(pool))
    if {pool.name: pool for pool in pools} != site.pools or seen.data_url != site.data_url:
        yield f.SiteDescribed(at_s=now_s, site=site.name, pools=pools, data_url=seen.data_url)


def _sensible(pool: Pool) -> bool:
    try:
        accelerator(pool.accelerator)
    except Refused:
        return False
    return pool.devices_per_node > 0 and pool.nodes >= 0 and pool.speed_ratio > 0


# ---------------------------------------------------------------- runs


def _runs(state: State, site: Site, seen: Observation, now_s: int) -> Iterator[f.Fact]:
    versions: dict[str, int] = {}  # kind:name -> the newest given in this report: two ends may write one name
    for run_seen in {run_seen.run: run_seen for run_seen in seen.runs}.values():  # said twice is said once
        run = state.runs.get(run_seen.run)
        if run is None or run.site != site.name or run.phase == RunPhase.ENDED:
            continue
        if run_seen.phase == RunPhase.ENDED:
            yield from _end(state, run_seen, versions, now_s)
            continue
        if run_seen.started_at_s is not None and run.started_at_s is None:
            yield f.RunStarted(
                at_s=now_s, run=run.id, started_at_s=_within(run_seen.started_at_s, run, now_s)
            )
        if run_seen.endpoint and run_seen.endpoint != run.endpoint:
            yield f.RunEndpoint(at_s=now_s, run=run.id, endpoint=run_seen.endpoint)
    if seen.full:
        there = {run_seen.run for run_seen in seen.runs}
        for run_id in state.open_runs.get(site.name, {}):
            run = state.runs[run_id]
            if run_id in there or (run.started_at_s is None and not run.stop_reason):
                continue  # it is there, or its launch is still on its way
            # An engine that forgot it at once was asked to start it again: a report of in between comes late.
            if not _could_know(seen, max(run.placed_at_s, run.heard_at_s or 0)):
                continue
            cause = EndCause.LOST if run.started_at_s is not None else EndCause.STOPPED
            detail = "the engine knows it no more" if cause == EndCause.LOST else "stopped before it began"
            gone = RunSeen(run=run_id, phase=RunPhase.ENDED, cause=cause, detail=detail)
            yield from _end(state, gone, versions, now_s)


def _could_know(seen: Observation, since_s: int) -> bool:
    """Whether what came into the grid at `since_s` would be in the report if it were there.

    Of reports that overtake each other, the late one says nothing about what came after it was made.
    """
    return seen.knows_s is None or seen.knows_s > since_s


def _within(at_s: int, run: Run, now_s: int) -> int:
    """A site's clock may be wrong: a start lies between the order and now."""
    return min(max(at_s, run.placed_at_s), now_s)


def _end(state: State, seen: RunSeen, versions: dict[str, int], now_s: int) -> Iterator[f.Fact]:
    """A run ended: usage, outputs, money and what it means for the job, all in one append."""
    run = state.runs[seen.run]
    job = state.jobs[run.job]
    started_s = run.started_at_s
    if started_s is None and seen.started_at_s is not None:
        started_s = _within(seen.started_at_s, run, now_s)
        yield f.RunStarted(at_s=now_s, run=run.id, started_at_s=started_s)
    cause = seen.cause or EndCause.LOST
    exit_code, detail = seen.exit_code, seen.detail
    missing = [name for name in job.task.outputs if name not in seen.outputs]
    if cause == EndCause.EXITED and not exit_code and missing:
        exit_code, detail = 1, f"exited 0 without its output {', '.join(missing)}"
    ended_s = min(max(seen.ended_at_s or now_s, started_s or run.placed_at_s), now_s)
    end = f.RunEnded(
        at_s=now_s,
        run=run.id,
        cause=cause,
        exit_code=exit_code,
        ended_at_s=ended_s,
        detail=detail,
        usage=_believed(seen.usage or Usage(), run.devices * (now_s - run.placed_at_s + 1)),
        outputs=seen.outputs,
        metrics=seen.metrics,
    )
    yield end
    succeeded = cause == EndCause.EXITED and not exit_code
    if succeeded:
        yield from _outputs(state, run, job, end, versions)
    if run.id not in state.settled:
        started = started_s if started_s is not None else run.placed_at_s
        entries = settle_run(state, replace(run, started_at_s=started), end)
        if entries:
            yield f.Settled(at_s=now_s, entries=entries)
    yield from _verdict(job, run, end, now_s)


def _believed(usage: Usage, most_device_s: int) -> Usage:
    """What a site may say that a run took: nothing negative, no more than was there to take."""
    most_kwh = most_device_s * _MOST_KW_A_DEVICE / HOUR_S
    return replace(
        usage,
        device_s=min(max(0.0, usage.device_s), float(most_device_s)),
        cpu_s=max(0.0, usage.cpu_s),
        energy_kwh=min(max(0.0, usage.energy_kwh), most_kwh),
    )


def _outputs(state: State, run: Run, job: Job, end: f.RunEnded, versions: dict[str, int]) -> Iterator[f.Fact]:
    now_s = end.at_s
    for output, series in sorted(job.task.outputs.items()):
        made = end.outputs[output]
        parts = artifact_name(series)
        version = versions.get(parts.series, state.latest.get(parts.series, 0)) + 1
        versions[parts.series] = version
        artifact = Artifact(
            id=f"{parts.series}@{version}",
            digest=made.digest,
            bytes=made.bytes,
            files=made.files,
            tenant=job.tenant,
            created_at_s=now_s,
            job=job.id,
            run=run.id,
            inputs=tuple(run.inputs[name] for name in sorted(run.inputs)),
            metrics=end.metrics,
            rights=Rights(owner=job.tenant),
        )
        yield f.ArtifactCommitted(at_s=now_s, artifact=artifact, output=output)
        yield f.ReplicaAdded(at_s=now_s, artifact=artifact.id, site=run.site)


def _verdict(job: Job, run: Run, end: f.RunEnded, now_s: int) -> Iterator[f.Fact]:
    """What the end of a run means for its job; nothing when the job is to run again."""
    phase, outcome = None, ""
    if end.cause == EndCause.EXITED and not end.exit_code:
        phase, outcome = JobPhase.SUCCEEDED, f"finished at {run.site}"
    elif job.stop_requested_at_s is not None:
        phase, outcome = JobPhase.STOPPED, "stopped on request"
    elif end.cause == EndCause.EXITED and job.restarts >= job.task.max_restarts:
        code = end.exit_code or 0
        how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
        phase, outcome = JobPhase.FAILED, end.detail or f"{how} at {run.site}; see: suan logs {job.id}"
    elif end.cause == EndCause.STOPPED and not run.stop_reason:
        phase, outcome = JobPhase.FAILED, end.detail or f"was stopped by its engine at {run.site}"
    if phase is not None:
        yield f.JobEnded(at_s=now_s, job=job.id, phase=phase, outcome=outcome, metrics=end.metrics)


# ---------------------------------------------------------------- transfers and replicas


def _transfers(state: State, site: Site, seen: Observation, now_s: int) -> Iterator[f.Fact]:
    for transfer_seen in {moved.transfer: moved for moved in seen.transfers}.values():
        transfer = state.transfers.get(transfer_seen.transfer)
        if transfer is None or transfer.phase != TransferPhase.ACTIVE or transfer.destination != site.name:
            continue
        if transfer_seen.done or transfer_seen.failed:
            yield from _end_transfer(state, transfer_seen, now_s)


def _end_transfer(state: State, seen: TransferSeen, now_s: int) -> Iterator[f.Fact]:
    transfer = state.transfers[seen.transfer]
    moved_bytes = min(max(0, seen.moved_bytes), _MOST_MOVES * transfer.bytes + _MANIFEST_BYTES)
    yield f.TransferEnded(at_s=now_s, transfer=transfer.id, moved_bytes=moved_bytes, failed=seen.failed)
    entries = settle_transfer(state, transfer, moved_bytes, now_s)
    if entries:
        yield f.Settled(at_s=now_s, entries=entries)
    if seen.done and transfer.source == GRID_SITE and not transfer.job:
        yield f.ReplicaRemoved(
            at_s=now_s, artifact=transfer.artifact, site=GRID_SITE
        )  # the upload has arrived


def _links(state: State, site: Site, seen: Observation, now_s: int) -> Iterator[f.Fact]:
    """Measured links that are not as they were known to be. What was declared is the most that is believed:
    an operator may not want to use all of a line.
    """
    for measured in {link.source: link for link in seen.links}.values():
        link = state.links.get((measured.source, site.name))
        if link is None or not (0 < measured.mbit_per_s <= 1e7 and 0 <= measured.rtt_ms <= 1e5):
            continue
        most = link.declared_mbit_per_s or link.mbit_per_s
        rate = min(most, measured.mbit_per_s)
        if _differs(rate, link.mbit_per_s) or (
            abs(measured.rtt_ms - link.rtt_ms) > _LEAST_RTT_MS and _differs(measured.rtt_ms, link.rtt_ms)
        ):
            news = replace(link, mbit_per_s=rate, rtt_ms=measured.rtt_ms, origin="measured", at_s=now_s)
            yield f.LinkSet(at_s=now_s, link=replace(news, declared_mbit_per_s=most))


def _differs(new: float, old: float) -> bool:
    return abs(new - old) > _MATERIAL_RATIO * max(new, old)


def _replicas(state: State, site: Site, seen: Observation, now_s: int) -> Iterator[f.Fact]:
    there = set(seen.replicas)
    for artifact in state.nowhere if there else ():
        if state.artifacts[artifact].digest in there:  # believed lost everywhere, and here it is
            yield f.ReplicaAdded(at_s=now_s, artifact=artifact, site=site.name)
    for artifact in state.held.get(site.name, ()):
        since_s = state.replicas[artifact][site.name]
        if state.artifacts[artifact].digest in there or since_s >= now_s - 1:
            continue
        if _could_know(seen, since_s):
            yield f.ReplicaRemoved(at_s=now_s, artifact=artifact, site=site.name)
