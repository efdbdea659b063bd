"""decide(state, policy, now_s) -> Plan: where and when every job runs, and why the rest must wait.

The numbered comments are the cycle. Jobs of equal demand are looked at as one class: when the first cannot
start, few of the others are tried. Each is placed at its turn, by least total money over pools and starts,
who may wait at the prices that the last clearing of all jobs together left; then runs may be stopped for
whom that pays.
"""

from collections.abc import Sequence

from suan.grid.action import EndJob, MoveArtifact, PlaceRun, Plan
from suan.grid.artifact import Artifact
from suan.grid.job import Considered, Job, JobPhase, Reason, is_flexible
from suan.grid.state import State
from suan.rules.bids import Candidate, candidates_for, weighed
from suan.rules.budget import affordable, too_dear
from suan.rules.cycle import Cycle
from suan.rules.endings import hopeless, requested_stops
from suan.rules.market import cleared, is_due
from suan.rules.move import Move, again_at_s, bound_artifacts, transfer_id
from suan.rules.order import fair_share
from suan.rules.policy import Policy
from suan.rules.quota import Quotas
from suan.rules.reasons import DEVICES, QUOTA, cheaper_hour, devices_reason, moving, nowhere, paused
from suan.rules.scaling import least_nodes
from suan.rules.share import Shares
from suan.rules.stopping import stops_for_others, stops_for_themselves
from suan.rules.supply import supplies
from suan.rules.turns import turns


def decide(state: State, policy: Policy, now_s: int) -> Plan:
    """The plan for this moment. Same input, same plan."""
    due = is_due(state, policy, now_s)
    if not (state.waiting or state.flexible_runs or due):
        return Plan(at_s=now_s, actions=tuple(requested_stops(state)))  # there is nothing to decide
    cycle = _cycle(state, policy, now_s)
    # 1. What somebody stopped, stops.
    cycle.actions.extend(requested_stops(state))
    # 2. The rest take turns, one class of equal demand at a time.
    for wanted, job in turns(cycle):
        # 3. A job that can never run any more ends now.
        if outcome := hopeless(state, policy, job):
            cycle.actions.append(EndJob(job=job.id, phase=JobPhase.FAILED, outcome=outcome))
            continue
        # 4. The first of a class is placed, or waits for data, devices, money or a cheaper hour.
        reason = _try(cycle, job)
        if reason is None:
            continue
        cycle.reasons[job.id] = reason
        if reason.code != "refused":
            cycle.demand_reasons.setdefault(wanted, reason)
    if policy.market:
        # 5. Whoever is worth more takes the place of who loses less, and is placed once that has left.
        cycle.actions.extend(stops_for_others(cycle))
        # 6. Runs that may, pause before dear hours and change their size where that pays.
        cycle.actions.extend(stops_for_themselves(cycle))
    # 7. What is scarce gets its price, for the plans to come.
    clearing = cleared(cycle) if due else None
    return Plan(
        at_s=now_s,
        actions=tuple(cycle.actions),
        reasons=cycle.reasons,
        demand_reasons=cycle.demand_reasons,
        wake_at_s=cycle.wake_at_s,
        clearing=clearing,
    )


def reason_for(plan: Plan, state: State, job: str) -> Reason | None:
    """Why a waiting job waits, by this plan; None when it does not wait or was not known to it."""
    if job not in state.waiting:
        return None
    return plan.reasons.get(job) or plan.demand_reasons.get(state.waiting[job])


def _cycle(state: State, policy: Policy, now_s: int) -> Cycle:
    cycle = Cycle(
        state=state,
        policy=policy,
        now_s=now_s,
        supplies=supplies(state, now_s),
        quotas=Quotas.of(state),
        shares=Shares.of(state),
    )
    if policy.market:
        cycle.fair_share = fair_share(state)
        cycle.clearing = state.clearing
    return cycle


def considered(state: State, policy: Policy, job: Job, now_s: int) -> Considered:
    """What `suan quote` shows: every bid for a job as if it were its turn, cheapest first."""
    cycle = _cycle(state, policy, now_s)
    artifacts = bound_artifacts(state, job)
    found, unfit = candidates_for(cycle, job, {} if isinstance(artifacts, Reason) else artifacts)
    return weighed(found, unfit)


# ---------------------------------------------------------------- one job


def _try(cycle: Cycle, job: Job) -> Reason | None:
    """Places the job or starts moving its data; else the reason why it waits."""
    state, now_s = cycle.state, cycle.now_s
    if job.not_before_s > now_s:
        cycle.wake(job.not_before_s)
        return paused(state.runs[job.runs[-1]], job.not_before_s, now_s)
    artifacts = bound_artifacts(state, job)
    if isinstance(artifacts, Reason):
        return artifacts
    if reason := _nothing_free(cycle, job):
        return reason
    candidates, unfit = candidates_for(cycle, job, artifacts)
    if not candidates:
        reason = nowhere(unfit)
        if reason.code == QUOTA:
            cycle.blocked.append(job)  # others may hold what its tenant is owed
        return reason
    every = candidates
    candidates, dear = affordable(cycle, job, every)
    if not candidates:
        return too_dear(dear)
    best = candidates[0]
    if best.offer.moves:
        record = weighed(candidates, unfit | dear)
        _start_moves(cycle, job, best.offer.moves, record)
        return moving(state, best.offer.moves, best.bid, now_s)
    if best.start_s > now_s:
        return _later(cycle, best, every)
    _place(cycle, best, weighed(candidates, unfit | dear), artifacts)
    return None


def _place(cycle: Cycle, best: Candidate, record: Considered, artifacts: dict[str, Artifact]) -> None:
    job, supply, bid = best.job, best.offer.supply, best.bid
    cycle.actions.append(
        PlaceRun(
            job=job.id,
            run=f"{job.id}-r{len(job.runs) + 1}",
            bid=bid,
            considered=record,
            inputs={name: artifact.id for name, artifact in artifacts.items()},
        )
    )
    supply.take(bid.devices, bid.finish_s)
    if is_flexible(job.task, waits_free=cycle.policy.waits_free(job.task)):
        cycle.wake(cycle.now_s + cycle.policy.min_run_s)  # from then on it may pause or change its size
    if job.tenant in cycle.promised:
        cycle.promised[job.tenant] += bid.quote.billed_microyuan
    kind = supply.pool.accelerator
    cycle.quotas = cycle.quotas.with_use(job.tenant, kind, bid.devices)
    cycle.shares = cycle.shares.with_use(job.tenant, kind, bid.devices)


def _nothing_free(cycle: Cycle, job: Job) -> Reason | None:
    """A quick no for a job that can start nowhere now, and that need not hold a reservation of its own."""
    able, _ = cycle.fitting(job)
    nodes = least_nodes(job.task)
    wanted = cycle.state.waiting[job.id]
    known = cycle.demand_reasons.get(wanted)
    if known is not None and known.code != DEVICES:
        known = None
    for supply, index in able:
        need = job.task.resources[index].devices * nodes
        if need <= supply.free and supply.can_start(need, cycle.now_s, cycle.run_s(job, supply, nodes)):
            return None
    if known is not None:
        return known  # what was said to the first of this demand holds for the others
    if all(supply.reserved_at_s is None for supply, _ in able):
        return None  # the first to wait for these pools: it gets a reservation where that is cheapest
    cycle.blocked.append(job)
    needs = [
        (supply, job.task.resources[index].devices * nodes, cycle.run_s(job, supply, nodes))
        for supply, index in able
    ]
    starts = [
        (supply.forecast_s(need, cycle.now_s, run_s), n) for n, (supply, need, run_s) in enumerate(needs)
    ]
    start_s, best = min(starts)
    supply, need, run_s = needs[best]
    supply.wait(need, start_s, run_s)
    return devices_reason(need, supply, start_s, cycle.now_s)


def _start_moves(cycle: Cycle, job: Job, moves: tuple[Move, ...], record: Considered) -> None:
    """Orders the moves that nobody has ordered yet, and the failed ones again when their pause is over."""
    state = cycle.state
    for move in moves:
        artifact = state.artifacts[move.artifact]
        transfer = transfer_id(artifact, move.destination)
        before = state.transfers.get(transfer)
        if before and (again_s := again_at_s(before)) > cycle.now_s:
            cycle.wake(again_s)
            continue
        ordered = any(isinstance(a, MoveArtifact) and a.transfer == transfer for a in cycle.actions)
        if transfer in state.open_transfers or ordered:
            continue
        cycle.actions.append(
            MoveArtifact(
                transfer=transfer,
                artifact=move.artifact,
                source=move.source,
                destination=move.destination,
                job=job.id,
                considered=record,
            )
        )


def _later(cycle: Cycle, best: Candidate, candidates: Sequence[Candidate]) -> Reason:
    """The best start is later: for want of devices, or because it will be cheaper."""
    now_s, supply, devices = cycle.now_s, best.offer.supply, best.offer.devices
    if not supply.can_start(devices, now_s, best.run_s):
        cycle.blocked.append(best.job)
        if cycle.policy.reserve:
            supply.wait(devices, best.start_s, best.run_s)
        return devices_reason(devices, supply, best.start_s, now_s)
    cycle.wake(best.start_s)
    now = next((one for one in candidates if one.start_s <= now_s), None)
    return cheaper_hour(best, now, now_s)
