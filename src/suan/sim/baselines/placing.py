"""Queue by queue, job by job: an order, a rule for the pool, and what a job that waits means for others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from suan.grid.action import Plan
from suan.grid.job import Job, Reason
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.fit import fit
from suan.rules.move import Move
from suan.rules.policy import Policy
from suan.rules.quote import duration_s
from suan.sim.baselines.moment import Candidate, FitMemo, Moment
from suan.sim.baselines.shadow import Shadows
from suan.sim.baselines.waiting import Group, Waiting

Choice = Callable[[Moment, Job, Candidate, tuple[Move, ...]], float]  # the least is the best

_FULL = Reason(code="devices", text="no pool that it may use has room for it")
_BEHIND = Reason(code="devices", text="what is free is kept for a job whose turn comes first")


def by_arrival(job: Job) -> int:
    """First come, first served."""
    return job.sequence


def by_length(job: Job) -> int:
    """The shortest first. A job that does not say how long it takes counts as the longest."""
    return job.task.duration_s if job.task.duration_s is not None else 1 << 62


def least_loaded(moment: Moment, job: Job, candidate: Candidate, moves: tuple[Move, ...]) -> float:
    """The pool with the largest free part."""
    return -candidate.room.free / max(1, candidate.room.pool.devices)


def cheapest_now(moment: Moment, job: Job, candidate: Candidate, moves: tuple[Move, ...]) -> float:
    """The least money if this moment's prices held until the end, moving its data included."""
    microyuan_per_device_h, _ = moment.hourly(candidate.room)
    hours = duration_s(job.task, candidate.room.pool, moment.policy) / HOUR_S
    return microyuan_per_device_h * candidate.devices * hours + sum(move.cost_microyuan for move in moves)


def cleanest_now(moment: Moment, job: Job, candidate: Candidate, moves: tuple[Move, ...]) -> float:
    """The least carbon if this moment's intensity held until the end."""
    _, gco2_per_device_h = moment.hourly(candidate.room)
    return gco2_per_device_h * candidate.devices / candidate.room.pool.speed_ratio


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Jobs by `key`, each to the pool that `choose` likes best among those with room.

    `overtaking`: those behind a job that cannot start may start; with `reserve`, if that does not delay it;
    else it holds up its queue. `homes`: each job has one centre and queues there, wherever there is room.
    """

    key: Callable[[Job], int] = by_arrival
    choose: Choice = least_loaded
    overtaking: bool = False
    reserve: bool = False
    homes: bool = False
    _waiting: Waiting = field(default_factory=Waiting, compare=False)
    _fits: FitMemo = field(default_factory=dict, compare=False)

    def __call__(self, state: State, policy: Policy, now_s: int) -> Plan:
        """The plan for this moment. Same input, same plan."""
        moment = Moment(state=state, policy=policy, now_s=now_s, fits=self._fits)
        moment.stop_requested()
        waiting, shadows = self._waiting, Shadows(moment)
        waiting.sync(state, now_s, key=self.key, group=self._group)
        closed: set[Group | str] = set()
        headed: set[str] = set()  # queues whose head waits
        for group, job_id in waiting.in_turn(closed):
            job = state.jobs[job_id]
            if job_id in state.stop_requested or moment.ends(job):
                waiting.remove(job_id)
                continue
            if job.not_before_s > now_s:
                waiting.park(job_id, job.not_before_s)
                continue
            candidates = self._candidates(moment, group, job)
            reason = self._start(moment, job, candidates, shadows)
            if reason is None:
                waiting.remove(job_id)
                continue
            moment.reasons[job_id] = reason
            if reason.code != "devices":
                continue
            if not self.overtaking:
                closed.add(group[0])
            elif not job.inputs and (reason is _FULL or job.task.duration_s is None):
                closed.add(group)  # all that the others of the group may differ in is their length
            if self.reserve and group[0] not in headed:
                shadows.promise(job, candidates)
            headed.add(group[0])
        moment.wake(waiting.next_wake_s())
        return moment.plan()

    def _start(
        self, moment: Moment, job: Job, candidates: list[Candidate], shadows: Shadows
    ) -> Reason | None:
        """Starts the job, or its data on their way to where it will; else why it waits."""
        artifacts = moment.inputs(job)
        if isinstance(artifacts, Reason):
            return artifacts
        options = []
        behind = False
        for candidate in candidates:
            if candidate.devices > candidate.room.free or not moment.in_partition(job, candidate):
                continue
            if shadows.held and not shadows.allow(job, candidate):
                behind = True
                continue
            moves = moment.moves(artifacts, candidate.room)
            if not isinstance(moves, Reason):
                cost = self.choose(moment, job, candidate, moves)
                options.append((cost, candidate.room.name, candidate, moves))
        if not options:
            return _BEHIND if behind else _FULL
        _, _, best, moves = min(options, key=lambda option: option[:2])
        if moves:
            return moment.move(job, moves)
        reason = moment.place(job, best, artifacts, "its turn, and the pool that its policy likes best")
        if reason is None:
            shadows.note(job, best)
        return reason

    def _group(self, state: State, job: Job) -> Group:
        """Jobs of one group are in one queue, and where one finds no room no other does."""
        task = job.task
        tenant = state.tenants.get(job.tenant)
        queue = job.tenant if tenant is not None and tenant.quota.nominal_devices else ""
        if self.homes:
            queue = f"{queue}@{_home(state, job)}"
        return queue, (task.resources, task.num_nodes, task.place)

    def _candidates(self, moment: Moment, group: Group, job: Job) -> list[Candidate]:
        found = moment.candidates(job)
        if self.homes:
            home = group[0].partition("@")[2]
            return [candidate for candidate in found if candidate.room.name == home]
        return found


def _home(state: State, job: Job) -> str:
    """The pool that the job belongs to: where its data are, else one of those that could run it, as if users
    were spread over them as the devices are. "" when there is none."""
    fitting = [
        (f"{site.name}/{pool.name}", pool.devices, site.name)
        for _, site in sorted(state.sites.items())
        for _, pool in sorted(site.pools.items())
        if isinstance(fit(job.task, site, pool), int)
    ]
    near = {site for bound in job.inputs.values() for site in state.replicas.get(bound.artifact, {}) if site}
    fitting = [pool for pool in fitting if pool[2] in near] or fitting
    total = sum(devices for _, devices, _ in fitting)
    drawn = int.from_bytes(blake2b(job.task.name.encode(), digest_size=8).digest(), "big") % max(1, total)
    for name, devices, _ in fitting:
        drawn -= devices
        if drawn < 0:
            return name
    return ""
