"""decide(state, policy, now_s) -> Plan: where and when every job runs, and why the rest must wait.

The numbered comments are the cycle. Jobs of equal demand are looked at as one class: when the first cannot start, the
others cannot either. Placement is greedy in turn, by least total money over pools and start times; the market that
clears all jobs together is `clear.py`.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from suan.grid.action import Action, EndJob, MoveArtifact, PlaceRun, Plan, StopRun
from suan.grid.artifact import Artifact, TransferPhase
from suan.grid.hardware import accelerator
from suan.grid.job import Bid, Considered, Demand, Job, JobPhase, Priority, Reason
from suan.grid.state import State
from suan.grid.units import duration_text, yuan_text
from suan.rules.fit import fit, quota_reason
from suan.rules.move import RETRY_LIMIT_S, RETRY_S, Move, bound_artifacts, moves_to, transfer_id
from suan.rules.order import Turn, shares, turn
from suan.rules.policy import Policy
from suan.rules.quote import Setting, duration_s, price_changes, quote
from suan.rules.supply import Supply, supplies

_KEPT_BIDS = 12  # in the journal, for each placement


@dataclass(slots=True)
class _Cycle:
    """One plan in the making."""

    state: State
    policy: Policy
    now_s: int
    supplies: list[Supply]
    actions: list[Action] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    demand_reasons: dict[Demand, Reason] = field(default_factory=dict)
    taken: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # (tenant, kind) -> devices placed in this plan
    shares: dict[str, float] = field(default_factory=dict)
    wake_at_s: int | None = None

    def wake(self, at_s: int) -> None:
        if at_s > self.now_s:
            self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)


def decide(state: State, policy: Policy, now_s: int) -> Plan:
    """The plan for this moment. Same input, same plan."""
    cycle = _Cycle(state=state, policy=policy, now_s=now_s, supplies=supplies(state, now_s))
    # 1. What somebody stopped, stops.
    cycle.actions.extend(_stops(state))
    # 2. The rest take turns, one class of equal demand at a time.
    cycle.shares = shares(state)
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


def considered(state: State, policy: Policy, job: Job, now_s: int) -> Considered:
    """What `suan quote` shows: every bid for a job as if it were its turn, cheapest first."""
    cycle = _Cycle(state=state, policy=policy, now_s=now_s, supplies=supplies(state, now_s))
    artifacts = bound_artifacts(state, job)
    bids, unfit = _bids(cycle, job, {} if isinstance(artifacts, Reason) else artifacts)
    return _considered([bid for bid, _ in bids], unfit)


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
    if job.refusals > policy.refusals_limit:
        why = state.runs[job.runs[-1]].stop_reason
        return f"{job.refusals} times in a row no engine could start it: {why}"
    for binding in job.inputs.values():
        writer = state.jobs.get(binding.from_job)
        if writer and writer.ended_at_s is not None and binding.from_output not in writer.outputs:
            return f"its input will not come: job {writer.id} ({writer.task.name}) {writer.phase}"
    return ""


# ---------------------------------------------------------------- turns


def _turns(cycle: _Cycle) -> Iterator[tuple[Demand, Job]]:
    """Jobs in the order of their turns. After one that must wait, the next few of its class may slip in before it."""
    state, policy = cycle.state, cycle.policy
    members = {wanted: iter(queue) for wanted, queue in state.queues.items()}
    heap: list[tuple[Turn, Demand, Job]] = []

    def push(wanted: Demand) -> None:
        for job_id in members[wanted]:
            if job_id not in state.stop_requested:
                job = state.jobs[job_id]
                share = cycle.shares.get(job.tenant, 0.0)
                heapq.heappush(heap, (turn(job, share, policy, cycle.now_s), wanted, job))
                return

    for wanted in state.queues:
        push(wanted)
    misses: dict[Demand, int] = {}
    while heap:
        _, wanted, job = heapq.heappop(heap)
        before = len(cycle.reasons)
        yield wanted, job
        if len(cycle.reasons) > before:
            misses[wanted] = misses.get(wanted, 0) + 1
        if misses.get(wanted, 0) < policy.backfill_tries:
            push(wanted)


def _try(cycle: _Cycle, job: Job) -> Reason | None:
    """Places the job or starts moving its data; else the reason why it waits."""
    state, now_s = cycle.state, cycle.now_s
    if job.not_before_s > now_s:
        cycle.wake(job.not_before_s)
        detail = state.runs[job.runs[-1]].stop_reason
        return Reason(
            code="refused",
            text=f"the engine could not start it ({detail}); it is tried again in {job.not_before_s - now_s} s",
            need=job.not_before_s,
            have=now_s,
            unit="s",
        )
    artifacts = bound_artifacts(state, job)
    if isinstance(artifacts, Reason):
        return artifacts
    if reason := _nothing_free(cycle, job):
        return reason
    bids, unfit = _bids(cycle, job, artifacts)
    if not bids:
        return _nowhere(unfit)
    bid, moves = bids[0]
    weighed = _considered([candidate for candidate, _ in bids], unfit)
    supply = next(s for s in cycle.supplies if (s.site.name, s.pool.name) == (bid.site, bid.pool))
    if reason := _too_dear(state, job, bid):
        return reason
    if moves and _start_moves(cycle, job, moves, weighed):
        return _moving(moves, bid)
    run_s = bid.finish_s - bid.start_s
    if bid.start_s > now_s:
        return _later(cycle, job, bid, supply, weighed)
    cycle.actions.append(
        PlaceRun(
            job=job.id,
            run=f"{job.id}-r{len(job.runs) + 1}",
            bid=bid,
            considered=weighed,
            inputs={name: artifact.id for name, artifact in artifacts.items()},
        )
    )
    supply.take(bid.devices, now_s + run_s)
    kind = supply.pool.accelerator
    cycle.taken[job.tenant, kind] = cycle.taken.get((job.tenant, kind), 0) + bid.devices
    weight = state.tenants[job.tenant].weight if job.tenant in state.tenants else 1.0
    cycle.shares[job.tenant] = cycle.shares.get(job.tenant, 0.0) + bid.devices / weight
    return None


def _nothing_free(cycle: _Cycle, job: Job) -> Reason | None:
    """A quick no for a job that cannot start anywhere now and would not be the first to hold a reservation."""
    need = min(resources.devices for resources in job.task.resources) * job.task.num_nodes
    candidates = [s for s in cycle.supplies if isinstance(fit(job.task, s.site, s.pool), int)]
    if not candidates or any(s.free >= need or s.reserved_at_s is None for s in candidates):
        return None
    most = max(candidates, key=lambda s: (s.free, s.name))
    run_s = duration_s(job.task, most.pool, cycle.policy)
    start_s = min(s.forecast_s(need, cycle.now_s, run_s) for s in candidates)
    most.wait(need, start_s, run_s)
    return _devices_reason(need, most, start_s, cycle.now_s)


# ---------------------------------------------------------------- bids


def _bids(
    cycle: _Cycle, job: Job, artifacts: dict[str, Artifact]
) -> tuple[list[tuple[Bid, tuple[Move, ...]]], dict[str, Reason]]:
    """Every way to run the job, cheapest first, with what must be moved for it; and the pools that cannot."""
    found: list[tuple[Bid, tuple[Move, ...]]] = []
    unfit: dict[str, Reason] = {}
    moves_by_site: dict[str, tuple[Move, ...] | Reason] = {}
    for supply in cycle.supplies:
        index = fit(job.task, supply.site, supply.pool)
        if isinstance(index, Reason):
            unfit[supply.name] = index
            continue
        site = supply.site.name
        if site not in moves_by_site:
            moves_by_site[site] = moves_to(cycle.state, artifacts, site, cycle.now_s)
        moves = moves_by_site[site]
        if isinstance(moves, Reason):
            unfit[supply.name] = moves
            continue
        devices = job.task.resources[index].devices * job.task.num_nodes
        if reason := _quota(cycle, job, supply, devices):
            unfit[supply.name] = reason
            continue
        found.extend((bid, moves) for bid in _pool_bids(cycle, job, supply, index, moves))
    ordered = job.task.resources_ordered
    found.sort(
        key=lambda item: (
            item[0].resources_index if ordered else 0,
            item[0].quote.total_microyuan,
            item[0].start_s,
            item[0].site,
            item[0].pool,
        )
    )
    return found, unfit


def _pool_bids(cycle: _Cycle, job: Job, supply: Supply, index: int, moves: tuple[Move, ...]) -> Iterator[Bid]:
    """Bids in one pool: as soon as possible, and for jobs that may wait, when electricity changes its price."""
    state, policy, now_s, task = cycle.state, cycle.policy, cycle.now_s, job.task
    devices = task.resources[index].devices * task.num_nodes
    tariff = state.tariff(supply.site.name, now_s)
    tenant = state.tenants.get(job.tenant)
    setting = Setting(
        pool=supply.pool,
        tariff=tariff,
        move_bytes=sum(move.bytes for move in moves),
        move_s=sum(move.duration_s for move in moves),
        move_microyuan=sum(move.cost_microyuan for move in moves),
        waiting_microyuan_per_h=tenant.waiting_microyuan_per_h if tenant else 0,
        submitted_at_s=job.submitted_at_s,
    )
    run_s = duration_s(task, supply.pool, policy)
    soonest_s = max(now_s + setting.move_s, supply.forecast_s(devices, now_s, run_s))
    starts = [soonest_s]
    if (task.deadline_s is not None or task.priority == Priority.VALLEY) and not task.replicas:
        horizon_s = now_s + policy.shift_horizon_s
        if task.deadline_s is not None:
            horizon_s = min(horizon_s, job.submitted_at_s + task.deadline_s - run_s)
        starts.extend(price_changes(tariff, soonest_s, horizon_s))
    for start_s in starts:
        yield Bid(
            site=supply.site.name,
            pool=supply.pool.name,
            devices=devices,
            nodes=task.num_nodes,
            start_s=start_s,
            finish_s=start_s + run_s,
            quote=quote(task, setting, devices, start_s, policy),
            resources_index=index,
        )


def _considered(bids: list[Bid], unfit: dict[str, Reason]) -> Considered:
    kept = tuple(bids[:_KEPT_BIDS])
    few = dict(list(unfit.items())[:_KEPT_BIDS])
    return Considered(bids=kept, unfit=few, chosen=0, why=_why(kept, len(bids), len(unfit)))


def _why(bids: tuple[Bid, ...], weighed: int, unfit: int) -> str:
    """One sentence: why the first of these bids was chosen."""
    if not bids:
        return f"none of {unfit} pools can run it"
    best = bids[0]
    others = [bid for bid in bids[1:] if (bid.site, bid.pool) != (best.site, best.pool)] or list(bids[1:])
    if not others:
        return f"the only one of {1 + unfit} pools that can run it"
    second = others[0]
    saved = second.quote.total_microyuan - best.quote.total_microyuan
    if saved == 0:
        return f"same total as {second.site}/{second.pool}; the earlier start, then the name, decides"
    terms = ("machine", "electricity", "carbon", "move", "wait", "late", "preemption")
    differences = {
        term: getattr(second.quote, f"{term}_microyuan") - getattr(best.quote, f"{term}_microyuan")
        for term in terms
    }
    main = max(terms, key=lambda term: abs(differences[term]))
    sign = "less" if differences[main] > 0 else "more"
    return (
        f"cheapest of {weighed} bids: {yuan_text(saved)} below {second.site}/{second.pool},"
        f" mostly {main} ({yuan_text(abs(differences[main]))} {sign})"
    )


# ---------------------------------------------------------------- reasons


def _quota(cycle: _Cycle, job: Job, supply: Supply, devices: int) -> Reason | None:
    tenant = cycle.state.tenants.get(job.tenant)
    if tenant is None:
        return None
    share = (job.tenant, accelerator(supply.pool.accelerator).name)
    used = cycle.state.tenant_devices.get(share, 0) + cycle.taken.get(share, 0)
    return quota_reason(tenant, share[1], used, devices)


def _too_dear(state: State, job: Job, bid: Bid) -> Reason | None:
    billed, limit = bid.quote.billed_microyuan, job.task.max_cost_microyuan
    if limit is not None and billed > limit:
        return Reason(
            code="max_cost",
            text=f"the cheapest bid costs {yuan_text(billed)}, its max_cost is {yuan_text(limit)}",
            need=billed,
            have=limit,
            unit="micro-yuan",
            help="raise max_cost, or give it a deadline further away",
        )
    tenant = state.tenants.get(job.tenant)
    if tenant and tenant.budget.limit_microyuan is not None:
        left = tenant.budget.limit_microyuan + state.balances.get(f"tenant:{job.tenant}", 0)
        if billed > left:
            return Reason(
                code="budget",
                text=f"it would cost {yuan_text(billed)}, {yuan_text(left)} of {job.tenant}'s budget is left",
                need=billed,
                have=left,
                unit="micro-yuan",
                help="ask an operator to raise the budget",
            )
    return None


def _nowhere(unfit: dict[str, Reason]) -> Reason:
    if not unfit:
        return Reason(
            code="no_site", text="no site is ready", need=1, have=0, unit="sites", help="add one: suan join"
        )
    order = ("quota", "data", "rights", "memory", "cpus", "nodes", "devices_per_node", "place", "accelerator")
    rank = {code: place for place, code in enumerate(order)}
    name, reason = min(unfit.items(), key=lambda item: (rank.get(item[1].code, len(order)), item[0]))
    return Reason(
        code=reason.code,
        text=f"no pool can run it; {name}: {reason.text}",
        need=reason.need,
        have=reason.have,
        unit=reason.unit,
        help=reason.help,
    )


def _start_moves(cycle: _Cycle, job: Job, moves: tuple[Move, ...], weighed: Considered) -> bool:
    """Orders the moves that nobody has ordered yet. False when nothing is left to wait for."""
    state = cycle.state
    for move in moves:
        artifact = state.artifacts[move.artifact]
        transfer = transfer_id(artifact, move.destination)
        before = state.transfers.get(transfer)
        if before and before.phase == TransferPhase.FAILED and before.ended_at_s is not None:
            again_s = before.ended_at_s + min(RETRY_S << before.attempts, RETRY_LIMIT_S)
            if again_s > cycle.now_s:
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
                considered=weighed,
            )
        )
    return bool(moves)


def _moving(moves: tuple[Move, ...], bid: Bid) -> Reason:
    names = ", ".join(move.artifact for move in moves)
    return Reason(
        code="moving",
        text=f"{names} is on its way from {moves[0].source} to {bid.site}, where it runs cheapest",
        need=sum(move.bytes for move in moves),
        have=0,
        unit="bytes",
        help="nothing to do",
        expected_start_s=bid.start_s,
    )


def _later(cycle: _Cycle, job: Job, bid: Bid, supply: Supply, weighed: Considered) -> Reason:
    """The best bid starts later: for want of devices, or because electricity will be cheaper."""
    run_s = bid.finish_s - bid.start_s
    if not supply.can_start(bid.devices, cycle.now_s, run_s):
        if cycle.policy.reserve:
            supply.wait(bid.devices, bid.start_s, run_s)
        return _devices_reason(bid.devices, supply, bid.start_s, cycle.now_s)
    cycle.wake(bid.start_s)
    now = next((b for b in weighed.bids if b.start_s <= cycle.now_s), None)
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


def _devices_reason(need: int, supply: Supply, start_s: int, now_s: int) -> Reason:
    reserved = supply.free >= need
    held = f"; {supply.free} are free but held for a job whose turn comes first" if reserved else ""
    return Reason(
        code="devices",
        text=f"needs {need} devices, {supply.name} has {supply.free} of {supply.pool.devices} free{held};"
        f" expected in {duration_text(start_s - now_s)}",
        need=need,
        have=supply.free,
        unit="devices",
        help="fewer devices, or another accelerator in resources.any_of",
        expected_start_s=start_s,
    )
