"""evolve(state, fact): the only writer of State.

Knows what each fact means. Decides nothing and refuses nothing: a fact has happened. Folding the same journal
gives the same state. A fact that no longer changes anything (the second end of a run, say) is folded to
nothing.
"""

from collections.abc import Iterable
from typing import assert_never

import msgspec

from suan.grid import fact as f
from suan.grid.account import Entry, Tenant
from suan.grid.artifact import Transfer, TransferPhase, artifact_name
from suan.grid.job import (
    TERMINAL_PHASES,
    EndCause,
    Job,
    JobPhase,
    Run,
    RunPhase,
    demand,
)
from suan.grid.queue import Queue
from suan.grid.site import Site, SitePhase
from suan.grid.state import State
from suan.rules import indices
from suan.rules.durations import learn
from suan.rules.estimates import learn_factor, merged

REFUSAL_BACKOFF_S = 5  # doubles with every refusal in a row
REFUSAL_BACKOFF_LIMIT_S = 300
SOON_LOST_S = 600  # a run that lasted longer than this did not bring its node down by starting

replace = msgspec.structs.replace

_SiteFact = (
    f.SiteJoined
    | f.SiteDescribed
    | f.SiteSilent
    | f.SiteHeard
    | f.SiteFenced
    | f.SiteReturned
    | f.SiteDraining
)


def evolve(state: State, fact: f.Fact) -> None:
    """Folds one fact into the state."""
    state.sequence += 1
    state.at_s = max(state.at_s, fact.at_s)
    match fact:
        case f.GridStarted():
            state.started_at_s = fact.at_s
        case f.TenantSet():
            _set_tenant(state, fact)
        case f.KeyIssued():
            state.keys[fact.key.id] = fact.key
            state.key_by_hash[fact.key.hash] = fact.key.id
        case f.KeyRevoked():
            if key := state.keys.pop(fact.key, None):
                state.key_by_hash.pop(key.hash, None)
        case f.SiteJoined() | f.SiteDescribed() | f.SiteDraining():
            _evolve_site(state, fact)
        case f.SiteSilent() | f.SiteHeard() | f.SiteFenced() | f.SiteReturned():
            _evolve_site(state, fact)
        case f.LinkSet():
            indices.set_link(state, fact.link)
        case f.TariffSet():
            _set_tariff(state, fact)
        case f.WorkEstimated():
            state.works[fact.name] = merged(state.works.get(fact.name), fact.work, fact.on)
        case f.JobSubmitted():
            _submit(state, fact)
        case f.JobStopRequested():
            _request_stop(state, fact)
        case f.JobEnded():
            _end_job(state, fact)
        case f.RunPlaced():
            _place(state, fact)
        case f.RunStarted() | f.RunEndpoint() | f.RunStopOrdered():
            _evolve_run(state, fact)
        case f.RunEnded():
            _end_run(state, fact)
        case f.ArtifactCommitted():
            _commit(state, fact)
        case f.ReplicaAdded():
            indices.add_replica(state, fact.artifact, fact.site, fact.at_s)
        case f.ReplicaRemoved():
            indices.remove_replica(state, fact.artifact, fact.site)
        case f.TransferOrdered():
            _order_transfer(state, fact)
        case f.TransferEnded():
            _end_transfer(state, fact)
        case f.MarketCleared():
            state.clearing = fact.clearing
        case f.Metered():
            _meter(state, fact)
        case f.Settled():
            _settle(state, fact.entries)
        case _:
            assert_never(fact)


def fold(state: State, facts: Iterable[f.Fact]) -> State:
    """The state after all of the facts, in order; the same object."""
    for fact in facts:
        evolve(state, fact)
    return state


# ---------------------------------------------------------------- tenants, keys and sites


def _set_tenant(state: State, fact: f.TenantSet) -> None:
    state.tenants[fact.tenant] = Tenant(
        name=fact.tenant,
        weight=fact.weight,
        quota=fact.quota,
        budget=fact.budget,
        waiting_microyuan_per_h=fact.waiting_microyuan_per_h,
        parent=fact.parent,
    )


def _evolve_site(state: State, fact: _SiteFact) -> None:
    site = state.sites.get(fact.site) or Site(name=fact.site, joined_at_s=fact.at_s)
    match fact:
        case f.SiteJoined():
            site = replace(
                site, region=fact.region, engine=fact.engine, labels=fact.labels, heard_at_s=fact.at_s
            )
        case f.SiteDescribed():
            pools = {pool.name: pool for pool in fact.pools}
            site = replace(site, pools=pools, data_url=fact.data_url, heard_at_s=fact.at_s)
        case f.SiteSilent():
            site = replace(site, phase=SitePhase.SILENT)
            _set_phase_of_open_runs(state, site.name, RunPhase.UNKNOWN)
        case f.SiteHeard():
            site = replace(site, phase=_open_phase(site), heard_at_s=fact.at_s)
            _set_phase_of_open_runs(state, site.name, RunPhase.RUNNING)
        case f.SiteFenced():
            site = replace(site, phase=SitePhase.FENCED)
        case f.SiteReturned():
            site = replace(site, phase=_open_phase(site), epoch=fact.epoch, heard_at_s=fact.at_s)
        case f.SiteDraining():
            site = replace(site, draining=fact.draining)
            if site.phase in (SitePhase.READY, SitePhase.DRAINING):
                site = replace(site, phase=_open_phase(site))
    state.sites[site.name] = site


def _open_phase(site: Site) -> SitePhase:
    return SitePhase.DRAINING if site.draining else SitePhase.READY


def _set_phase_of_open_runs(state: State, site: str, phase: RunPhase) -> None:
    """Silence makes runs unknown, a voice makes them what they were."""
    for run_id in state.open_runs.get(site, {}):
        run = state.runs[run_id]
        if phase == RunPhase.UNKNOWN:
            state.runs[run_id] = replace(run, phase=phase)
        elif run.phase == RunPhase.UNKNOWN:
            known = RunPhase.RUNNING if run.started_at_s is not None else RunPhase.ORDERED
            state.runs[run_id] = replace(run, phase=RunPhase.STOPPING if run.stop_reason else known)


def _set_tariff(state: State, fact: f.TariffSet) -> None:
    """Never backwards: a run that was placed before, were it in the same second, keeps the prices of then."""
    site = fact.tariff.site
    placed_s = (state.runs[run].placed_at_s for run in state.open_runs.get(site, {}))
    since_s = max(fact.tariff.valid_from_s, fact.at_s, *(at_s + 1 for at_s in placed_s))
    tariff = replace(fact.tariff, valid_from_s=since_s)
    state.tariffs[site] = (*state.tariffs.get(site, ()), tariff)


# ---------------------------------------------------------------- jobs


def _enqueue(state: State, job: Job) -> None:
    wanted = demand(job)
    state.waiting[job.id] = wanted
    state.queues.setdefault(wanted, Queue()).add(job)


def _dequeue(state: State, job: Job) -> None:
    if (wanted := state.waiting.pop(job.id, None)) is not None:
        queue = state.queues[wanted]
        queue.remove(job)
        if not queue:
            del state.queues[wanted]


def _submit(state: State, fact: f.JobSubmitted) -> None:
    job = state.jobs[fact.job] = Job(
        id=fact.job,
        tenant=fact.tenant,
        task=fact.task,
        submitted_at_s=fact.at_s,
        sequence=state.sequence,
        pipeline=fact.pipeline,
        inputs=fact.inputs,
        work=fact.work,
    )
    _enqueue(state, job)
    for name, series in fact.task.outputs.items():
        state.writers.setdefault(series, {})[fact.job] = name
    if fact.idempotency_key:
        key = (fact.tenant, fact.idempotency_key)
        state.submissions[key] = (*state.submissions.get(key, ()), fact.job)


def _request_stop(state: State, fact: f.JobStopRequested) -> None:
    job = state.jobs[fact.job]
    if job.stop_requested_at_s is None and job.phase not in TERMINAL_PHASES:
        state.stop_requested[job.id] = None
        state.jobs[job.id] = replace(job, stop_requested_at_s=fact.at_s)


def _end_job(state: State, fact: f.JobEnded) -> None:
    job = state.jobs[fact.job]
    if job.phase in TERMINAL_PHASES:
        return
    state.jobs[job.id] = replace(
        job,
        phase=fact.phase,
        outcome=fact.outcome,
        ended_at_s=fact.at_s,
        metrics={**job.metrics, **fact.metrics},
    )
    _dequeue(state, job)
    state.stop_requested.pop(job.id, None)
    for series in job.task.outputs.values():
        state.writers.get(series, {}).pop(job.id, None)


# ---------------------------------------------------------------- runs


def _place(state: State, fact: f.RunPlaced) -> None:
    if fact.run in state.runs:
        return
    job, bid = state.jobs[fact.job], fact.bid
    run = Run(
        id=fact.run,
        job=job.id,
        tenant=job.tenant,
        site=bid.site,
        pool=bid.pool,
        nodes=bid.nodes,
        devices=bid.devices,
        accelerator=state.sites[bid.site].pools[bid.pool].accelerator,
        placed_at_s=fact.at_s,
        expected_end_s=bid.finish_s,
        quote=bid.quote,
        resources_index=bid.resources_index,
        inputs=fact.inputs,
        plan=bid.estimate.plan if bid.estimate is not None else {},
    )
    state.runs[run.id] = run
    indices.open_run(state, run)
    state.jobs[job.id] = replace(
        job, phase=JobPhase.PLACED, runs=(*job.runs, run.id), considered=fact.considered
    )
    _dequeue(state, job)


def _evolve_run(state: State, fact: "f.RunStarted | f.RunEndpoint | f.RunStopOrdered") -> None:
    run = state.runs[fact.run]
    if run.phase == RunPhase.ENDED:
        return
    match fact:
        case f.RunStarted():
            phase = RunPhase.STOPPING if run.stop_reason else RunPhase.RUNNING
            length_s = run.expected_end_s - run.placed_at_s
            run = replace(
                run,
                phase=phase,
                started_at_s=fact.started_at_s,
                heard_at_s=fact.at_s,
                expected_end_s=fact.started_at_s + length_s,
            )
            job = state.jobs[run.job]
            state.jobs[job.id] = replace(
                job, started_at_s=job.started_at_s or fact.started_at_s, refusals=0, not_before_s=0
            )
            if not run.stop_reason:
                state.runs_to_order[run.site].pop(run.id, None)
        case f.RunEndpoint():
            run = replace(run, endpoint=fact.endpoint)
        case f.RunStopOrdered():
            phase = run.phase if run.phase == RunPhase.UNKNOWN else RunPhase.STOPPING
            run = replace(run, phase=phase, stop_reason=run.stop_reason or fact.why)
            state.runs_to_order[run.site][run.id] = None
    state.runs[run.id] = run


def _end_run(state: State, fact: f.RunEnded) -> None:
    run = state.runs[fact.run]
    if run.phase == RunPhase.ENDED:
        return
    indices.close_run(state, run)
    state.runs[run.id] = replace(
        run,
        phase=RunPhase.ENDED,
        ended_at_s=fact.ended_at_s or fact.at_s,
        cause=fact.cause,
        exit_code=fact.exit_code,
        stop_reason=run.stop_reason or fact.detail,
    )
    state.usage[run.id] = fact.usage
    learn(state, state.runs[run.id])
    learn_factor(state, state.runs[run.id])
    job = state.jobs[run.job]
    if job.phase != JobPhase.PLACED:
        return
    changes: dict[str, object] = {"phase": JobPhase.WAITING}
    if fact.cause == EndCause.NOT_STARTED:
        backoff_s = min(REFUSAL_BACKOFF_S << job.refusals, REFUSAL_BACKOFF_LIMIT_S)
        changes |= {"refusals": job.refusals + 1, "not_before_s": fact.at_s + backoff_s}
    elif fact.cause == EndCause.LOST:
        # Once is bad luck and tried again at once. What brings down whatever runs it must not do so all day.
        losses = job.losses + 1 if fact.at_s - run.placed_at_s < SOON_LOST_S else 0
        backoff_s = min(REFUSAL_BACKOFF_S << min(losses - 2, 9), REFUSAL_BACKOFF_LIMIT_S) if losses > 1 else 0
        changes |= {"losses": losses, "not_before_s": fact.at_s + backoff_s}
    elif fact.cause == EndCause.EXITED and fact.exit_code:
        changes |= {"restarts": job.restarts + 1}
    state.jobs[job.id] = replace(job, **changes)
    _enqueue(state, state.jobs[job.id])


# ---------------------------------------------------------------- artifacts and transfers


def _commit(state: State, fact: f.ArtifactCommitted) -> None:
    artifact = fact.artifact
    if artifact.id in state.artifacts:
        return
    state.artifacts[artifact.id] = artifact
    name = artifact_name(artifact.id)
    state.latest[name.series] = max(state.latest.get(name.series, 0), name.version)
    if artifact.job:
        job = state.jobs[artifact.job]
        state.jobs[job.id] = replace(job, outputs={**job.outputs, fact.output: artifact.id})


def _order_transfer(state: State, fact: f.TransferOrdered) -> None:
    artifact = state.artifacts[fact.artifact]
    before = state.transfers.get(fact.transfer)
    link = state.links.get((fact.source, fact.destination))
    transfer = Transfer(
        id=fact.transfer,
        artifact=artifact.id,
        digest=artifact.digest,
        bytes=artifact.bytes,
        source=fact.source,
        destination=fact.destination,
        ordered_at_s=fact.at_s,
        job=fact.job,
        attempts=before.attempts + 1 if before else 1,
        microyuan_per_gb=link.microyuan_per_gb if link else 0,
    )
    indices.open_transfer(state, transfer)
    if fact.considered is not None and (job := state.jobs.get(fact.job)):
        state.jobs[job.id] = replace(job, considered=fact.considered)


def _end_transfer(state: State, fact: f.TransferEnded) -> None:
    transfer = state.transfers[fact.transfer]
    if transfer.phase != TransferPhase.ACTIVE:
        return
    indices.close_transfer(state, transfer)
    phase = TransferPhase.FAILED if fact.failed else TransferPhase.DONE
    state.transfers[transfer.id] = replace(
        transfer, phase=phase, ended_at_s=fact.at_s, moved_bytes=fact.moved_bytes, why=fact.failed
    )
    if phase == TransferPhase.DONE:
        indices.add_replica(state, transfer.artifact, transfer.destination, fact.at_s)


# ---------------------------------------------------------------- money


def _meter(state: State, fact: f.Metered) -> None:
    requests, tokens_in, tokens_out = state.tokens.get(fact.run, (0, 0, 0))
    state.tokens[fact.run] = (
        requests + fact.requests,
        tokens_in + fact.tokens_in,
        tokens_out + fact.tokens_out,
    )


def _settle(state: State, entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        state.entries.append(entry)
        state.balances[entry.account] = state.balances.get(entry.account, 0) + entry.amount_microyuan
        state.settled[entry.movement] = None
