"""The live grid as a simulation: its journal so far, then simulated sites that go on with what runs there.

Knows how to continue somebody's past. How long an unfinished job really takes nobody knows: each draws its
length from what is to be expected of it, by its name and the seed, and the same in every world.
"""

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from suan.control.execute import orders_for
from suan.grid import fact as f
from suan.grid.action import LaunchOrder
from suan.grid.job import TERMINAL_PHASES, EndCause, Job, Run, RunPhase, Task
from suan.grid.site import Link, SitePhase, Tariff
from suan.grid.state import State
from suan.grid.units import DAY_S
from suan.rules.durations import expected, true_length_s
from suan.rules.evolve import fold
from suan.rules.policy import Policy
from suan.rules.progress import run_speed
from suan.sim.policies import NamedPolicy
from suan.sim.run import Simulation
from suan.sim.site import CHECKPOINT_ENV, DURATION_ENV
from suan.sim.trace import Arrival
from suan.sim.world import SiteWorld, World

_FOREVER_S = 3650 * DAY_S  # how long a service runs

replace = msgspec.structs.replace


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A journal and what it comes to. `facts` say of each unfinished job how long it takes."""

    facts: tuple[f.Fact, ...]
    state: State
    at_s: int
    arrivals: tuple[Arrival, ...]  # what was submitted in the last hours, once more


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """How the changed world differs from the live one."""

    tariffs: tuple[Tariff, ...] = ()
    sites: tuple[SiteWorld, ...] = ()  # that join
    links: tuple[Link, ...] = ()
    drop: tuple[str, ...] = ()  # sites that are gone, with what ran and lay there


def past_of(facts: Sequence[f.Fact], policy: Policy, *, repeat_s: int = 0, seed: int = 0) -> Past:
    """The journal so far. What was submitted in the last `repeat_s` seconds comes in again, at that pace."""
    state = fold(State(), facts)
    at_s = state.at_s
    told: list[f.Fact] = []
    arrivals: list[Arrival] = []
    for fact in facts:
        if isinstance(fact, f.JobSubmitted):
            job = state.jobs[fact.job]
            if job.submitted_at_s > at_s - repeat_s and job.task.replicas is None:
                arrivals.append(_again(state, job, _length_s(state, job, policy, seed), at_s - repeat_s))
            if job.phase not in TERMINAL_PHASES:
                fact = replace(fact, task=_true_task(job, _length_s(state, job, policy, seed)))
        told.append(fact)
    return Past(facts=tuple(told), state=state, at_s=at_s, arrivals=tuple(arrivals))


def _again(state: State, job: Job, length_s: float, first_s: int) -> Arrival:
    """The job once more: with those of its inputs that exist, and outputs that nobody waits for."""
    inputs = {name: bound.artifact for name, bound in job.inputs.items() if bound.artifact in state.artifacts}
    bare = replace(
        job.task,
        inputs=inputs,
        outputs={},
        after=(),
        file_mounts={},
        secrets={},
        name=f"{job.task.name}-again",
    )
    task = _true_task(replace(job, task=bare), length_s)
    return Arrival(at_s=max(0, job.submitted_at_s - first_s), tenant=job.tenant, task=task)


def _true_task(job: Job, length_s: float) -> Task:
    envs = {**job.task.envs, DURATION_ENV: str(max(1, round(length_s)))}
    if job.task.checkpoint is not None:
        envs[CHECKPOINT_ENV] = str(job.task.checkpoint.every_s)
    return replace(job.task, envs=envs)


def _length_s(state: State, job: Job, policy: Policy, seed: int) -> float:
    """How long the job takes, at speed 1: as it did, or a draw from those that take longer than it has."""
    if job.task.replicas is not None:
        return float(_FOREVER_S)
    for run in (state.runs[name] for name in reversed(job.runs)):
        if (length_s := true_length_s(state, run)) is not None:
            return length_s
    known = expected(state, job, policy)
    ran_s = max((elapsed_s(state, state.runs[name], state.at_s) for name in job.runs), default=0.0)
    drawn = int.from_bytes(hashlib.blake2b(f"{seed}/{job.id}".encode(), digest_size=8).digest()) / 2**64
    left = known.survival(ran_s)
    if known.p90_s < 1.02 * known.p10_s and known.mean_s > ran_s:  # somebody knows it
        return known.mean_s
    if left < 1e-6:
        return ran_s + known.remaining_s(ran_s)
    return max(ran_s + 1.0, known.quantile_s(1 - left * (1 - drawn)))


def elapsed_s(state: State, run: Run, at_s: int) -> float:
    """Seconds of work that the run has done, if it is going on."""
    if run.phase == RunPhase.ENDED or run.started_at_s is None:
        return 0.0
    return max(0, at_s - run.started_at_s) * run_speed(state, run)


class LiveSimulation(Simulation):
    """The past, then what comes of it under one policy and with these changes."""

    def __init__(self, past: Past, policy: NamedPolicy, change: Change, *, seed: int = 0) -> None:
        self._past, self._change = past, change
        super().__init__(_world(past, change), past.arrivals, policy, seed=seed)

    def _new_grid(self):  # type: ignore[no-untyped-def]
        if not self.journal.head():
            self.journal.append(self._past.facts, 0)
        return super()._new_grid()

    def _set_up(self) -> None:
        self.grid.do(lambda state, at_s: (list(_changes(state, self._change, at_s)), None))
        self._open_jobs |= {job.id for job in self.state.jobs.values() if job.phase not in TERMINAL_PHASES}
        for name, site in self.sites.items():
            site.connect(True, self.policy.policy.lease_s)
            for artifact in self.state.held.get(name, {}):
                known = self.state.artifacts[artifact]
                site.store[known.digest] = known.bytes
            orders = orders_for(self.state, name, self.policy.policy, self.grid.now_s())
            going_on = [_rest(self.state, run, self.grid.now_s()) for run in self._going_on(name)]
            site.obey(replace(orders, launch=(*going_on, *orders.launch)))

    def _going_on(self, site: str) -> Iterator[Run]:
        runs = (self.state.runs[name] for name in self.state.open_runs.get(site, {}))
        return (run for run in runs if run.started_at_s is not None and not run.stop_reason)


def _world(past: Past, change: Change) -> World:
    """The sites that are there and not gone, and those that join."""
    sites = [
        SiteWorld(
            name=site.name,
            region=site.region,
            pools=tuple(site.pools.values()),
            tariff=past.state.tariff(site.name, past.at_s),
            by_node=False,
        )
        for site in past.state.sites.values()
        if site.phase != SitePhase.FENCED and site.name not in change.drop
    ]
    return World(start_s=past.at_s, sites=(*sites, *change.sites))


def _changes(state: State, change: Change, at_s: int) -> Iterator[f.Fact]:
    for name in change.drop:
        yield f.SiteFenced(at_s=at_s, site=name)
        for run in state.open_runs.get(name, {}):
            yield f.RunEnded(
                at_s=at_s, run=run, cause=EndCause.FENCED, ended_at_s=at_s, detail="its site is gone"
            )
        for artifact in state.held.get(name, {}):
            yield f.ReplicaRemoved(at_s=at_s, artifact=artifact, site=name)
    for site in change.sites:
        yield f.SiteJoined(at_s=at_s, site=site.name, region=site.region, engine="simulated")
        if site.tariff is not None:
            yield f.TariffSet(at_s=at_s, tariff=site.tariff)
    yield from (f.TariffSet(at_s=at_s, tariff=tariff) for tariff in change.tariffs)
    yield from (f.LinkSet(at_s=at_s, link=link) for link in change.links)


def _rest(state: State, run: Run, now_s: int) -> LaunchOrder:
    """What is left of a run that is going on, as an order that its simulated site starts with."""
    job = state.jobs[run.job]
    task = job.task
    left_s = max(1.0, float(task.envs.get(DURATION_ENV, "1")) - elapsed_s(state, run, now_s))
    limit_s = task.max_duration_s
    if limit_s is not None:
        limit_s = max(1, limit_s - (now_s - (run.started_at_s or now_s)))
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
        env={**task.envs, DURATION_ENV: str(left_s)},
        outputs=tuple(task.outputs),
        checkpoint=task.checkpoint is not None,
        max_duration_s=limit_s,
        service=task.replicas is not None,
    )
