"""A plan -> facts that order it, and the state -> what each site should be doing now.

Orders are derived from the state alone, so that sending them again is harmless and a lost message costs
nothing.
"""

import hmac
import zlib
from collections.abc import Iterable
from typing import assert_never

import msgspec

from suan.control.trace_ids import traceparent
from suan.grid import fact as f
from suan.grid.action import (
    PROBE_DIGEST,
    EndJob,
    FetchOrder,
    LaunchOrder,
    MoveArtifact,
    Orders,
    PlaceRun,
    Plan,
    ProbeOrder,
    StopOrder,
    StopRun,
    Ticket,
    ticket_hash,
)
from suan.grid.artifact import Transfer
from suan.grid.job import Job, JobPhase, Run, RunPhase
from suan.grid.site import SitePhase
from suan.grid.state import State
from suan.rules.move import link_between, link_share_bytes_per_s
from suan.rules.policy import Policy

_encode = msgspec.json.Encoder(order="deterministic").encode


def facts_of(plan: Plan) -> list[f.Fact]:
    """The plan, written down: what is in the journal will be done, again and again until it is seen done."""
    facts: list[f.Fact] = []
    if plan.clearing is not None:
        facts.append(f.MarketCleared(at_s=plan.at_s, clearing=plan.clearing))
    for action in plan.actions:
        match action:
            case PlaceRun():
                facts.append(
                    f.RunPlaced(
                        at_s=plan.at_s,
                        run=action.run,
                        job=action.job,
                        bid=action.bid,
                        considered=action.considered,
                        inputs=action.inputs,
                    )
                )
            case StopRun():
                facts.append(f.RunStopOrdered(at_s=plan.at_s, run=action.run, why=action.why))
            case MoveArtifact():
                facts.append(
                    f.TransferOrdered(
                        at_s=plan.at_s,
                        transfer=action.transfer,
                        artifact=action.artifact,
                        source=action.source,
                        destination=action.destination,
                        job=action.job,
                        considered=action.considered,
                    )
                )
            case EndJob():
                phase = JobPhase(action.phase)
                facts.append(f.JobEnded(at_s=plan.at_s, job=action.job, phase=phase, outcome=action.outcome))
            case _:
                assert_never(action)
    return facts


def orders_for(
    state: State, site: str, policy: Policy, now_s: int, *, secret: bytes = b"", seen: Iterable[str] = ()
) -> Orders:
    """Everything the site should be doing. `seen` are runs it says it has: those it should not have are
    stopped and, once their end is recorded, forgotten. That answers what the site has said, and is no news:
    it makes no other version."""
    launch: list[LaunchOrder] = []
    stop: list[StopOrder] = []
    fetch: list[FetchOrder] = []
    tickets: list[Ticket] = []
    for run_id in state.runs_to_order.get(site, ()):
        run = state.runs[run_id]
        if run.stop_reason:
            stop.append(StopOrder(run=run_id, why=run.stop_reason, grace_s=policy.stop_grace_s))
        elif run.started_at_s is None:
            launch.append(_launch(state, run, policy))
    wanted = len(stop)
    forget = []
    for run_id in seen:
        known = state.runs.get(run_id)
        if known is None or known.site != site or known.phase == RunPhase.ENDED:
            stop.append(
                StopOrder(run=run_id, why="the grid does not hold this run", grace_s=policy.stop_grace_s)
            )
            forget.append(run_id)
    for transfer in state.transfers_at.get(site, ()):
        _transfer(state, state.transfers[transfer], site, secret, (fetch, tickets))
    probes = _probes(state, site, secret, tickets)
    orders = Orders(
        site=site,
        epoch=state.sites[site].epoch,
        version=0,
        now_s=now_s,
        lease_s=policy.lease_s,
        launch=tuple(launch),
        stop=tuple(stop),
        fetch=tuple(fetch),
        tickets=tuple(tickets),
        forget=tuple(forget),
        probes=probes,
    )
    content = (orders.epoch, orders.launch, orders.stop[:wanted], orders.fetch, orders.tickets, probes)
    return msgspec.structs.replace(orders, version=zlib.crc32(_encode(content)))


def kept_at(state: State, site: str) -> tuple[str, ...]:
    """Digests that must stay in the site's store: as many as there are, and so not in every answer."""
    return tuple(state.artifacts[artifact].digest for artifact in state.held.get(site, ()))


def sites_told(state: State, fact: f.Fact) -> tuple[str, ...]:
    """The sites whose orders may be others after the fact, which is in the state already."""
    match fact:
        case f.RunPlaced():
            return (fact.bid.site,)
        case f.RunEnded() | f.RunStopOrdered():
            return (state.runs[fact.run].site,)
        case f.TransferOrdered():
            return (fact.source, fact.destination)
        case f.TransferEnded():
            transfer = state.transfers[fact.transfer]
            return (transfer.source, transfer.destination)
        case f.LinkSet():
            return (fact.link.source, fact.link.destination)
        case f.SiteDescribed() | f.SiteFenced() | f.SiteReturned():  # what can be measured from and to there
            return (fact.site, *{site: None for pair in state.links_at.get(fact.site, ()) for site in pair})
        case _:
            return ()


def ticket_secret(secret: bytes, transfer: Transfer) -> str:
    """What the destination shows to the source: known to the grid and told to both ends only."""
    return hmac.new(secret, f"{transfer.id}/{transfer.attempts}".encode(), "blake2b").hexdigest()[:64]


def _transfer(
    state: State, transfer: Transfer, site: str, secret: bytes, into: tuple[list[FetchOrder], list[Ticket]]
) -> None:
    bytes_per_s = link_share_bytes_per_s(state, transfer.source, transfer.destination)
    link = link_between(state, transfer.source, transfer.destination)
    rtt_ms = link.rtt_ms if link else 0.0
    shown = ticket_secret(secret, transfer)
    if site == transfer.destination:
        into[0].append(
            FetchOrder(
                transfer=transfer.id,
                digest=transfer.digest,
                bytes=transfer.bytes,
                source_url=state.sites[transfer.source].data_url,
                ticket=shown,
                bytes_per_s=bytes_per_s,
                rtt_ms=rtt_ms,
            )
        )
    else:
        hashed = ticket_hash(shown)
        into[1].append(
            Ticket(ticket_hash=hashed, digest=transfer.digest, bytes_per_s=bytes_per_s, rtt_ms=rtt_ms)
        )


def _probes(state: State, site: str, secret: bytes, tickets: list[Ticket]) -> tuple[ProbeOrder, ...]:
    """The links into this site that are to be measured; the tickets of those out of it are added."""
    probes = []
    for source, destination in state.links_at.get(site, ()):
        link = state.links[source, destination]
        giver, taker = state.sites.get(source), state.sites.get(destination)
        if giver is None or taker is None or not giver.data_url:
            continue
        if SitePhase.FENCED in (giver.phase, taker.phase):
            continue
        shown = hmac.new(secret, f"probe/{source}/{destination}".encode(), "blake2b").hexdigest()[:64]
        if site == destination:
            probes.append(ProbeOrder(source=source, source_url=giver.data_url, ticket=shown))
        else:
            most = link.declared_mbit_per_s or link.mbit_per_s
            tickets.append(
                Ticket(
                    ticket_hash=ticket_hash(shown),
                    digest=PROBE_DIGEST,
                    bytes_per_s=most * 1e6 / 8,
                    rtt_ms=link.rtt_ms,
                )
            )
    return tuple(probes)


PLAN_ENV = "SUAN_PLAN"  # how the performance model lays the run's work over its devices, as JSON


def _launch(state: State, run: Run, policy: Policy) -> LaunchOrder:
    job = state.jobs[run.job]
    task = job.task
    resources = task.resources[run.resources_index]
    digests = {name: state.artifacts[artifact].digest for name, artifact in run.inputs.items()}
    # a mount names one of the task's inputs, or an artifact that `admit` has bound under the mount's path
    mounts = {
        path: digests.get(source, digests.get(f"mount:{path}", ""))
        for path, source in task.file_mounts.items()
    }
    return LaunchOrder(
        run=run.id,
        job=job.id,
        job_name=task.name,
        tenant=job.tenant,
        pool=run.pool,
        accelerator=run.accelerator,
        nodes=run.nodes,
        devices_per_node=run.devices // max(1, run.nodes),
        command=task.run,
        setup=task.setup,
        env=_environment(job, run),
        secrets=task.secrets,
        inputs={name: digest for name, digest in digests.items() if name in task.inputs},
        outputs=tuple(task.outputs),
        mounts=mounts,
        workdir=digests.get("workdir", ""),
        args_json=msgspec.json.encode(task.args).decode(),
        memory_gib=resources.memory_gib,
        checkpoint=task.checkpoint is not None,
        max_duration_s=task.max_duration_s,
        service=task.replicas is not None,
        grace_s=policy.stop_grace_s,
        duration_s=task.duration_s,
    )


def _environment(job: Job, run: Run) -> dict[str, str]:
    """The task's own variables; its place in the job's trace, unless it has one; the plan of its work."""
    env = {"TRACEPARENT": traceparent(job, run.id), **job.task.envs}
    if run.plan:
        env[PLAN_ENV] = msgspec.json.encode(run.plan).decode()
    return env
