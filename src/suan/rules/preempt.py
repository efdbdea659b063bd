"""Whom to stop so that a gang fits: the runs whose end loses least, and only if that is worth it.

Who may be stopped: valley runs by standard and online jobs; standard runs by online ones, by those whose
tenant they hold the guaranteed devices of, and by those that gain clearly more than is lost. Online runs and
services never are. A run is stopped whole, after a while at least, and not again and again. Devices that are
releasing are promised to one job. Knows what stopping loses. Does not know what starting is worth (the caller
says) and places nothing.
"""

from dataclasses import dataclass

import msgspec

from suan.grid.action import Action, StopRun
from suan.grid.job import Job, Priority, Reason, Run, RunPhase
from suan.grid.site import SitePhase
from suan.grid.state import State
from suan.grid.units import HOUR_S, duration_text, yuan_text
from suan.rules.cover import cover
from suan.rules.policy import Policy
from suan.rules.quota import Quotas, canonical
from suan.rules.stops import PREEMPTED, Loss, Recent, Releasing, is_worn, loss, stop_reason

_RANK = {Priority.ONLINE: 0, Priority.STANDARD: 1, Priority.VALLEY: 2}


class Preemption(msgspec.Struct, frozen=True, kw_only=True):
    """The runs to stop for a job; none when enough devices are on their way to it already."""

    job: str
    stops: tuple[StopRun, ...] = ()
    losses: tuple[Loss, ...] = ()
    releasing: int = 0  # devices that were on their way before, of those that it needs
    value_microyuan: int = 0

    @property
    def lost_device_s(self) -> int:
        return sum(loss.devices * loss.again_s for loss in self.losses)

    @property
    def lost_microyuan(self) -> int:
        return sum(loss.microyuan for loss in self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who wants how many devices of which pool, and what that is worth."""

    job: Job
    pool: tuple[str, str]  # (site, pool)
    need: int
    free: int  # devices that are there for it now
    held_s: int  # how long it would run
    value_microyuan: int  # what it gains by starting at once
    starts_s: int | None = None  # when it would start otherwise, if that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is the same for all claims of a plan, or grows with it; `of` makes it from the state."""

    state: State
    policy: Policy
    now_s: int
    quotas: Quotas  # as if what is promised had changed hands
    recent: Recent
    releasing: Releasing
    planned: tuple[str, ...] = ()  # runs that this plan stops already
    preemptions: int = 0  # of them for others

    @staticmethod
    def of(
        state: State,
        policy: Policy,
        now_s: int,
        *,
        quotas: Quotas | None = None,
        actions: tuple[Action, ...] = (),
    ) -> "Standing":
        """`quotas` with what the plan has placed already, `actions` the plan's so far: what they stop is
        neither stopped nor promised again.
        """
        stops = [action for action in actions if isinstance(action, StopRun)]
        quotas, releasing = quotas or Quotas.of(state), Releasing.of(state, stops)
        for job, runs in releasing.runs.items():
            quotas = _handed_over(quotas, [state.runs[name] for name in runs], state.jobs[job].tenant)
        return Standing(
            state=state,
            policy=policy,
            now_s=now_s,
            quotas=quotas,
            recent=Recent.of(state, now_s),
            releasing=releasing,
            planned=tuple(stop.run for stop in stops),
            preemptions=sum(stop.why.startswith(PREEMPTED) for stop in stops),
        )


def victims(standing: Standing, claim: Claim) -> Preemption | Reason:
    """The runs to stop so that the job fits into its pool, at the least loss; or why none are."""
    kind = _kind(standing.state, claim.pool)
    ahead = _Case(standing, claim, _without_promise(standing, claim.job, kind), kind)
    back = _taken_back(ahead)
    if isinstance(back, Reason):
        return back
    missing = claim.need - claim.free
    coming = min(max(0, missing), standing.releasing.available(claim.pool, claim.job.id))
    made = Preemption(job=claim.job.id, releasing=coming, value_microyuan=claim.value_microyuan)
    deficit = missing - coming
    if deficit <= 0 and not back:
        return made
    refusal = _too_few(0, deficit)
    for tier in _tiers(ahead):
        chosen = _choose(ahead, tier, back, deficit)
        if chosen is None:
            refusal = _too_few(sum(one.devices for one in tier), deficit)
            continue
        reason = _objection(ahead, chosen)
        if reason is None:
            stops = tuple(_stop(ahead, one) for one in chosen)
            return msgspec.structs.replace(made, stops=stops, losses=tuple(chosen))
        refusal = reason
    return refusal


def with_preemption(standing: Standing, claim: Claim, made: Preemption) -> Standing:
    """What stands for the next claim of the same plan: nothing is stopped, promised or owed twice."""
    state, tenant, kind = standing.state, claim.job.tenant, _kind(standing.state, claim.pool)
    quotas = _handed_over(standing.quotas, [state.runs[stop.run] for stop in made.stops], "")
    return Standing(
        state=state,
        policy=standing.policy,
        now_s=standing.now_s,
        quotas=quotas.with_use(tenant, kind, claim.need),
        recent=standing.recent,
        releasing=standing.releasing.promise(claim.pool, claim.job.id, made.releasing),
        planned=(*standing.planned, *(stop.run for stop in made.stops)),
        preemptions=standing.preemptions + len(made.stops),
    )


@dataclass(frozen=True, slots=True)
class _Case:
    """One claim, the quotas as they will be for it, and the kind of its pool."""

    standing: Standing
    claim: Claim
    quotas: Quotas
    kind: str

    @property
    def state(self) -> State:
        return self.standing.state


def _kind(state: State, pool: tuple[str, str]) -> str:
    return canonical(state.sites[pool[0]].pools[pool[1]].accelerator)


def _handed_over(quotas: Quotas, runs: list[Run], tenant: str) -> Quotas:
    """The quotas when these runs are gone and the tenant, if one is named, has their devices."""
    for run in runs:
        quotas = quotas.with_use(run.tenant, run.accelerator, -run.devices)
        quotas = quotas.with_use(tenant, run.accelerator, run.devices)
    return quotas


def _without_promise(standing: Standing, job: Job, kind: str) -> Quotas:
    """The quotas without what this job was promised itself: it does not stand in its own way."""
    promised = (standing.state.runs[name] for name in standing.releasing.runs.get(job.id, ()))
    return standing.quotas.with_use(job.tenant, kind, -sum(run.devices for run in promised))


# ---------------------------------------------------------------- who may be stopped


def _may_stop(case: _Case, run: Run) -> bool:
    """Whether this run may be stopped for anybody at all."""
    standing, job = case.standing, case.state.jobs[run.job]
    if run.phase != RunPhase.RUNNING or run.stop_reason or run.id in standing.planned:
        return False
    if job.task.replicas is not None or job.task.priority == Priority.ONLINE:
        return False
    if run.started_at_s is None or standing.now_s - run.started_at_s < standing.policy.min_run_s:
        return False
    if standing.recent.by_job.get(job.id, 0) >= standing.policy.job_preemptions_per_h:
        return False
    return not is_worn(case.state, standing.policy, job)


def _tiers(case: _Case) -> list[list[Loss]]:
    """Who may be stopped in the pool, each list with those before it: valley runs; those of a lower class and
    those that hold what the claimant's tenant is owed; those that the gain would have to outweigh.
    """
    mine = _RANK[case.claim.job.task.priority]
    if mine == _RANK[Priority.VALLEY]:
        return []
    state = case.state
    by_tier: tuple[list[Loss], list[Loss], list[Loss]] = ([], [], [])
    peers: list[Loss] = []
    for run in (state.runs[name] for name in state.open_runs.get(case.claim.pool[0], {})):
        if run.pool != case.claim.pool[1] or not _may_stop(case, run):
            continue
        theirs = _RANK[state.jobs[run.job].task.priority]
        if theirs > mine:
            by_tier[0 if theirs == _RANK[Priority.VALLEY] else 1].append(_loss(case, run))
        else:
            peers.append(_loss(case, run))
    owed = {one.run for one in _owed(case, peers)}
    by_tier[1].extend(one for one in peers if one.run in owed)
    if not case.standing.recent.by_job.get(case.claim.job.id):  # who was stopped does not hit back
        by_tier[2].extend(one for one in peers if one.run not in owed)
    tiers: list[list[Loss]] = []
    for more in by_tier:
        if more or not tiers:
            tiers.append([*(tiers[-1] if tiers else ()), *more])
    return tiers


def _owed(case: _Case, runs: list[Loss]) -> list[Loss]:
    """Of the runs those that hold what the claimant's tenant is owed, the least loss a device first: of each
    borrower as many as bring it down to its guarantee; the last may go below it, for runs are stopped whole.
    """
    quotas, found = case.quotas, []
    is_full = case.claim.need > case.claim.free  # then what lies in the claimant's own pool serves twice
    order = {one.run: (is_full and not _is_here(case, one), one.microyuan / one.devices) for one in runs}
    for one in sorted(runs, key=lambda one: (order[one.run], one.run)):
        debtor = case.state.runs[one.run].tenant
        if quotas.owed(case.claim.job.tenant, debtor, case.kind, case.claim.need) > 0:
            found.append(one)
            quotas = quotas.with_use(debtor, case.kind, -one.devices)
    return found


def _taken_back(case: _Case) -> list[Loss] | Reason:
    """The borrowers' runs, in any pool of the kind, that must go before the claimant's tenant may take what
    it is guaranteed; none when its quota has room.
    """
    state, quotas, job, need = case.state, case.quotas, case.claim.job, case.claim.need
    full = quotas.reason(job.tenant, case.kind, need)
    if full is None or job.task.priority == Priority.VALLEY:
        return full or []
    runs: list[Loss] = []
    for site, names in state.open_runs.items():
        if state.sites[site].phase == SitePhase.READY:
            found = (state.runs[name] for name in names)
            same = (run for run in found if canonical(run.accelerator) == case.kind)
            runs.extend(_loss(case, run) for run in same if _may_stop(case, run))
    back: list[Loss] = []
    for one in _owed(case, runs):
        if quotas.reason(job.tenant, case.kind, need) is None:
            break
        back.append(one)
        quotas = quotas.with_use(case.state.runs[one.run].tenant, case.kind, -one.devices)
    return quotas.reason(job.tenant, case.kind, need) or back


# ---------------------------------------------------------------- the choice


def _choose(case: _Case, runs: list[Loss], back: list[Loss], deficit: int) -> list[Loss] | None:
    """Of the runs a set that frees enough at the least loss, with those that are taken back; None when all
    together are too few. None of them could be left out.
    """
    freed = sum(one.devices for one in back if _is_here(case, one))
    taken = {one.run for one in back}
    others = [one for one in runs if one.run not in taken]
    chosen = cover([(one.devices, one.microyuan) for one in others], deficit - freed)
    if chosen is None:
        return None
    kept = [*back, *(others[index] for index in chosen)]
    for one in sorted(kept, key=lambda one: (-one.microyuan, one.run)):
        rest = [other for other in kept if other.run != one.run]
        if _is_enough(case, rest, deficit):
            kept = rest
    return kept


def _is_enough(case: _Case, runs: list[Loss], deficit: int) -> bool:
    if sum(one.devices for one in runs if _is_here(case, one)) < deficit:
        return False
    quotas = case.quotas
    for one in runs:
        quotas = quotas.with_use(case.state.runs[one.run].tenant, case.kind, -one.devices)
    return quotas.reason(case.claim.job.tenant, case.kind, case.claim.need) is None


def _is_here(case: _Case, one: Loss) -> bool:
    run = case.state.runs[one.run]
    return (run.site, run.pool) == case.claim.pool


def _objection(case: _Case, chosen: list[Loss]) -> Reason | None:
    """Why even the least loss is too much, or one preemption too many."""
    standing, claim = case.standing, case.claim
    left = max(0, standing.policy.preemptions_per_h - standing.recent.total - standing.preemptions)
    if len(chosen) > left:
        return Reason(
            code="preemption_budget",
            text=f"{len(chosen)} runs would have to be stopped for it, {left} more may be in this hour",
            need=len(chosen),
            have=left,
            unit="runs",
            help="wait, or raise the hour's budget of preemptions",
        )
    lost_device_s = sum(one.devices * one.again_s for one in chosen)
    waited_device_s = None if claim.starts_s is None else claim.need * max(0, claim.starts_s - standing.now_s)
    if waited_device_s is not None and lost_device_s > waited_device_s:
        return Reason(
            code="preemption_loss",
            text=f"stopping others would lose {lost_device_s / HOUR_S:.1f} device-hours of work, its own wait"
            f" takes {waited_device_s / HOUR_S:.1f}",
            need=lost_device_s,
            have=waited_device_s,
            unit="device-seconds",
            help="wait: its turn comes sooner than that is worth",
            expected_start_s=claim.starts_s,
        )
    lost = sum(one.microyuan for one in chosen)
    least = round(lost * (1 + standing.policy.preempt_margin_ratio))
    if claim.value_microyuan <= least and _needs_value(case, chosen):
        return Reason(
            code="preemption_value",
            text=f"it gains {yuan_text(claim.value_microyuan)} by starting now, stopping others loses"
            f" {yuan_text(lost)}",
            need=least,
            have=claim.value_microyuan,
            unit="micro-yuan",
            help="priority: online, a deadline, or a larger guarantee for its tenant",
            expected_start_s=claim.starts_s,
        )
    return None


def _needs_value(case: _Case, chosen: list[Loss]) -> bool:
    """Whether any of them is a peer that owes nothing."""
    mine = _RANK[case.claim.job.task.priority]
    peers = [one for one in chosen if _rank(case, one) <= mine]
    return len(_owed(case, peers)) < len(peers)


def _rank(case: _Case, one: Loss) -> int:
    return _RANK[case.state.jobs[case.state.runs[one.run].job].task.priority]


# ---------------------------------------------------------------- words


def _loss(case: _Case, run: Run) -> Loss:
    standing = case.standing
    return loss(standing.state, standing.policy, standing.now_s, run=run, held_s=case.claim.held_s)


def _too_few(devices: int, deficit: int) -> Reason:
    return Reason(
        code="preemption_none",
        text=f"{deficit} devices are missing, runs that may be stopped for it hold {devices}",
        need=deficit,
        have=devices,
        unit="devices",
        help="wait for its turn",
    )


def _stop(case: _Case, one: Loss) -> StopRun:
    claim, tenant = case.claim, case.state.runs[one.run].tenant
    job = claim.job
    borrows = case.quotas.owed(job.tenant, tenant, case.kind, claim.need) > 0
    text = (
        f"{job.task.name} ({job.task.priority}, tenant {job.tenant}) needs {claim.need} devices, this one has"
        f" {one.devices}{f' that tenant {tenant} has borrowed' if borrows else ''};"
        f" {duration_text(one.again_s)} of its work is done again, {yuan_text(one.microyuan)} lost in all,"
        f" to start now is worth {yuan_text(claim.value_microyuan)}"
    )
    return StopRun(run=one.run, why=stop_reason(PREEMPTED, job, text))
