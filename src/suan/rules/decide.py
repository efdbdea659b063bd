"""decide(state, policy, now_s) -> Plan: where and when every job runs, and why the rest must wait.

The numbered comments are the cycle. Jobs of equal demand are looked at as one class: when the first cannot
start, few of the others are tried. Placement is greedy in turn, by least total money over pools and start
times; nothing is stopped for others, and no market clears all jobs together.
"""

import heapq
from collections.abc import Iterator

from suan.grid.action import Action, EndJob, MoveArtifact, PlaceRun, Plan, StopRun
from suan.grid.job import Bid, Considered, Demand, Job, JobPhase, Reason
from suan.grid.state import State
from suan.grid.units import duration_text, yuan_text
from suan.rules.bids import bids_for, weighed
from suan.rules.budget import affordable, too_dear
from suan.rules.cycle import Cycle
from suan.rules.move import Move, again_at_s, bound_artifacts, transfer_id
from suan.rules.order import Turn, fair_share, market_turn, shares, starving, turn, worth
from suan.rules.policy import Policy
from suan.rules.reasons import DEVICES, devices_reason, moving, nowhere, paused
from suan.rules.supply import Supply, supplies

# The engine's word for free devices that lie on the wrong nodes: no fault of the job.
NO_DEVICES = "no_devices"


def decide(state: State, policy: Policy, now_s: int) -> Plan:
    """The plan for this moment. Same input, same plan."""
    cycle = _cycle(state, policy, now_s)
    # 1. What somebody stopped, stops.
    cycle.actions.extend(_stops(state))
    # 2. The rest take turns, one class of equal demand at a time.
    for wanted, job in _turns(cycle):
        # 3. A job that can never run any more ends now.
        if outcome := _hopeless(state, policy, job):
            cycle.actions.append(EndJob(job=job.id, phase=JobPhase.FAILED, outcome=outcome))
            continue
        # 4. The first of a class is placed, or waits for data, devices, money or a cheaper hour.
        reason = _try(cycle, job)
        if reason is None:
            continue
        cycle.reasons[job.id] = reason
        if reason.code != "refused":
            cycle.demand_reasons.setdefault(wanted, reason)
    return Plan(
        at_s=now_s,
        actions=tuple(cycle.actions),
        reasons=cycle.reasons,
        demand_reasons=cycle.demand_reasons,
        wake_at_s=cycle.wake_at_s,
    )


def reason_for(plan: Plan, state: State, job: str) -> Reason | None:
    """Why a waiting job waits, by this plan; None when it does not wait or was not known to it."""
    if job not in state.waiting:
        return None
    return plan.reasons.get(job) or plan.demand_reasons.get(state.waiting[job])


def _cycle(state: State, policy: Policy, now_s: int) -> Cycle:
    cycle = Cycle(state=state, policy=policy, now_s=now_s, supplies=supplies(state, now_s))
    cycle.shares = shares(state)
    if policy.market:
        cycle.fair_share = fair_share(state)
        cycle.clearing = state.clearing
    return cycle


def considered(state: State, policy: Policy, job: Job, now_s: int) -> Considered:
    """What `suan quote` shows: every bid for a job as if it were its turn, cheapest first."""
    cycle = _cycle(state, policy, now_s)
    artifacts = bound_artifacts(state, job)
    bids, unfit = bids_for(cycle, job, {} if isinstance(artifacts, Reason) else artifacts)
    return weighed([bid for bid, _ in bids], unfit)


# ---------------------------------------------------------------- endings


def _stops(state: State) -> Iterator[Action]:
    """Jobs that somebody stopped: their runs stop, and those without a run end at once."""
    for job_id in state.stop_requested:
        job = state.jobs[job_id]
        if job.phase == JobPhase.WAITING:
            yield EndJob(job=job_id, phase=JobPhase.STOPPED, outcome="stopped on request")
        elif not state.runs[job.runs[-1]].stop_reason:
            yield StopRun(run=job.runs[-1], why="its job was stopped")


def _hopeless(state: State, policy: Policy, job: Job) -> str:
    """Why the job can never run any more; "" while it still may."""
    why = state.runs[job.runs[-1]].stop_reason if job.refusals else ""
    if job.refusals > policy.refusals_limit and not why.startswith(NO_DEVICES):
        return f"{job.refusals} times in a row no engine could start it: {why}"
    for binding in job.inputs.values():
        writer = state.jobs.get(binding.from_job)
        if writer is None or writer.ended_at_s is None:
            continue
        wanting = binding.from_output not in writer.outputs if binding.from_output else True
        if wanting and writer.phase != JobPhase.SUCCEEDED:
            return f"its input will not come: job {writer.id} ({writer.task.name}) {writer.phase}"
    return ""


# ---------------------------------------------------------------- turns


def _turns(cycle: Cycle) -> Iterator[tuple[Demand, Job]]:
    """Jobs in the order of their turns. After one that must wait, the next few of its class may slip in
    before it.
    """
    state, policy, now_s = cycle.state, cycle.policy, cycle.now_s
    first = dict.fromkeys(job.id for job in starving(state, policy, now_s)) if policy.market else {}
    members = {wanted: _members(cycle, wanted) for wanted in state.queues}
    heap: list[tuple[Turn, Demand, Job]] = []

    def push(wanted: Demand) -> None:
        for job_id in members[wanted]:
            if job_id not in state.stop_requested and job_id not in first:
                job = state.jobs[job_id]
                heapq.heappush(heap, (_turn(cycle, job), wanted, job))
                return

    for job_id in first:
        if job_id not in state.stop_requested:
            yield state.waiting[job_id], state.jobs[job_id]
    for wanted in state.queues:
        push(wanted)
    misses: dict[Demand, int] = {}
    while heap:
        _, wanted, job = heapq.heappop(heap)
        yield wanted, job
        reason = cycle.reasons.get(job.id)
        if reason is not None and reason.code != "refused":  # a pause of its own says nothing of the others
            misses[wanted] = misses.get(wanted, 0) + 1
        if misses.get(wanted, 0) < policy.backfill_tries:
            push(wanted)


def _members(cycle: Cycle, wanted: Demand) -> Iterator[str]:
    """Jobs of one demand in their order; those that can no longer make their deadline come last."""
    queue = cycle.state.queues[wanted]
    head = cycle.state.jobs[next(iter(queue))]
    if head.task.deadline_s is None or not cycle.policy.market:
        return iter(queue)
    latest_s = cycle.now_s + (0 if head.task.duration_s is not None else round(cycle.length_s(head)))
    return queue.in_time_first(latest_s)


def _turn(cycle: Cycle, job: Job) -> Turn:
    state, policy = cycle.state, cycle.policy
    share = cycle.shares.get(job.tenant, 0.0)
    if not policy.market:
        return turn(job, share, policy, cycle.now_s)
    tenant = state.tenants.get(job.tenant)
    devices = job.task.resources[0].devices * job.task.num_nodes
    waiting = tenant.waiting_microyuan_per_h if tenant else 0
    saved = worth(job, devices * cycle.length_s(job), waiting, policy, cycle.now_s)
    return market_turn(job, float(share > cycle.fair_share), saved, policy, cycle.now_s)


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
    bids, unfit = bids_for(cycle, job, artifacts)
    if not bids:
        return nowhere(unfit)
    bids, dear = affordable(cycle, job, bids)
    if not bids:
        return too_dear(dear)
    bid, moves = bids[0]
    record = weighed([candidate for candidate, _ in bids], unfit | dear)
    supply = next(s for s in cycle.supplies if (s.site.name, s.pool.name) == (bid.site, bid.pool))
    if moves:
        _start_moves(cycle, job, moves, record)
        return moving(state, moves, bid, now_s)
    run_s = bid.finish_s - bid.start_s
    if bid.start_s > now_s:
        return _later(cycle, job, bid, supply, record)
    cycle.actions.append(
        PlaceRun(
            job=job.id,
            run=f"{job.id}-r{len(job.runs) + 1}",
            bid=bid,
            considered=record,
            inputs={name: artifact.id for name, artifact in artifacts.items()},
        )
    )
    supply.take(bid.devices, now_s + run_s)
    if job.tenant in cycle.promised:
        cycle.promised[job.tenant] += bid.quote.billed_microyuan
    kind = supply.pool.accelerator
    cycle.taken[job.tenant, kind] = cycle.taken.get((job.tenant, kind), 0) + bid.devices
    weight = state.tenants[job.tenant].weight if job.tenant in state.tenants else 1.0
    cycle.shares[job.tenant] = cycle.shares.get(job.tenant, 0.0) + bid.devices / weight
    return None


def _nothing_free(cycle: Cycle, job: Job) -> Reason | None:
    """A quick no for a job that can start nowhere now, and that need not hold a reservation of its own."""
    able, _ = cycle.fitting(job)
    needs = [
        (
            supply,
            job.task.resources[index].devices * job.task.num_nodes,
            cycle.run_s(job, supply.pool),
        )
        for supply, index in able
    ]
    if any(supply.can_start(need, cycle.now_s, run_s) for supply, need, run_s in needs):
        return None
    if not any(supply.reserved_at_s is not None for supply, _, _ in needs):
        return None  # the first to wait for these pools: it gets a reservation where that is cheapest
    known = cycle.demand_reasons.get(cycle.state.waiting[job.id])
    if known is not None and known.code == DEVICES:
        return known  # what was said to the first of this demand holds for the others
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


def _later(cycle: Cycle, job: Job, bid: Bid, supply: Supply, record: Considered) -> Reason:
    """The best bid starts later: for want of devices, or because electricity will be cheaper."""
    run_s = bid.finish_s - bid.start_s
    if not supply.can_start(bid.devices, cycle.now_s, run_s):
        if cycle.policy.reserve:
            supply.wait(bid.devices, bid.start_s, run_s)
        return devices_reason(bid.devices, supply, bid.start_s, cycle.now_s)
    cycle.wake(bid.start_s)
    now = next((b for b in record.bids if b.start_s <= cycle.now_s), None)
    price_now = now.quote.total_microyuan if now else None
    return Reason(
        code="cheaper_hour",
        text=f"starts in {duration_text(bid.start_s - cycle.now_s)} at {bid.site}, when it costs"
        f" {yuan_text(bid.quote.total_microyuan)}"
        + (f" instead of {yuan_text(price_now)}" if price_now else ""),
        need=bid.quote.total_microyuan,
        have=price_now,
        unit="micro-yuan",
        help="priority: standard starts it at once",
        expected_start_s=bid.start_s,
    )
