"""Simple policies to compare with: a queue in some order, a rule for the pool, no look at prices.

Each is a `decide` of the same type as `rules.decide` and is judged by the same audit. They quote what they
choose, so
that the money they spend is counted alike; they do not choose by it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from suan.grid.action import Action, EndJob, MoveArtifact, PlaceRun, Plan, StopRun
from suan.grid.artifact import Artifact, TransferPhase
from suan.grid.job import Bid, Considered, Demand, Job, JobPhase, Reason
from suan.grid.state import State
from suan.rules.fit import fit
from suan.rules.move import RETRY_LIMIT_S, RETRY_S, Move, bound_artifacts, moves_to, transfer_id
from suan.rules.policy import Policy
from suan.rules.quote import Setting, quote
from suan.rules.supply import Supply, supplies


@dataclass(frozen=True, slots=True)
class Baseline:
    """First come, first served; a job that cannot start keeps all behind it waiting.

    `everywhere` False: each job belongs to the first pool that could ever run it, and waits for that one
    alone.
    """

    everywhere: bool = True

    def __call__(self, state: State, policy: Policy, now_s: int) -> Plan:
        """The plan for this moment. Same input, same plan."""
        cycle = _Cycle(state=state, policy=policy, now_s=now_s, supplies=supplies(state, now_s))
        blocked: set[str] = set()  # pools whose head waits; with `everywhere` one head blocks them all
        homes: dict[Demand, str] = {}
        for job in _queue(state):
            if homes.get(state.waiting[job.id]) in blocked:
                continue
            if outcome := _hopeless(state, policy, job):
                cycle.actions.append(EndJob(job=job.id, phase=JobPhase.FAILED, outcome=outcome))
                continue
            candidates = self._candidates(cycle, job)
            home = candidates[0].name if candidates and not self.everywhere else "any"
            homes[state.waiting[job.id]] = home
            reason = cycle.try_first(job, candidates)
            if reason is not None:
                cycle.reasons[job.id] = reason
                blocked.add(home)
                if self.everywhere:
                    break
        return Plan(
            at_s=now_s,
            actions=(*_stops(state), *cycle.actions),
            reasons=cycle.reasons,
            wake_at_s=cycle.wake_at_s,
        )

    def _candidates(self, cycle: "_Cycle", job: Job) -> list[Supply]:
        """Pools that could run the job, the one with the largest free part first; or its home alone."""
        fitting = [s for s in cycle.supplies if isinstance(fit(job.task, s.site, s.pool), int)]
        if not self.everywhere:
            return fitting[:1]
        return sorted(fitting, key=lambda s: (-s.free / max(1, s.pool.devices), s.name))


@dataclass(slots=True)
class _Cycle:
    """One plan in the making."""

    state: State
    policy: Policy
    now_s: int
    supplies: list[Supply]
    actions: list[Action] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    wake_at_s: int | None = None

    def try_first(self, job: Job, candidates: list[Supply]) -> Reason | None:
        """Starts the job in the first candidate with room, or its data on their way there; else why it
        waits."""
        if job.not_before_s > self.now_s:
            self._wake(job.not_before_s)
            return Reason(code="refused", text="the engine could not start it; it is tried again")
        artifacts = bound_artifacts(self.state, job)
        if isinstance(artifacts, Reason):
            return artifacts
        for supply in candidates:
            index = fit(job.task, supply.site, supply.pool)
            assert isinstance(index, int)
            devices = job.task.resources[index].devices * job.task.num_nodes
            if devices > supply.free:
                continue
            moves = moves_to(self.state, artifacts, supply.site.name, self.now_s)
            if isinstance(moves, Reason):
                continue
            if moves:
                self.actions.extend(self._transfers(job, moves))
                return Reason(code="moving", text=f"its data are on their way to {supply.site.name}")
            self._place(job, supply, index, artifacts)
            return None
        return Reason(code="devices", text="no pool has room for it")

    def _place(self, job: Job, supply: Supply, index: int, artifacts: dict[str, Artifact]) -> None:
        devices = job.task.resources[index].devices * job.task.num_nodes
        tenant = self.state.tenants.get(job.tenant)
        setting = Setting(
            pool=supply.pool,
            tariff=self.state.tariff(supply.site.name, self.now_s),
            waiting_microyuan_per_h=tenant.waiting_microyuan_per_h if tenant else 0,
        )
        price = quote(job, setting, devices, self.now_s, self.policy)
        bid = Bid(
            site=supply.site.name,
            pool=supply.pool.name,
            devices=devices,
            nodes=job.task.num_nodes,
            start_s=self.now_s,
            finish_s=self.now_s + price.run_s,
            quote=price,
            resources_index=index,
        )
        self.actions.append(
            PlaceRun(
                job=job.id,
                run=f"{job.id}-r{len(job.runs) + 1}",
                bid=bid,
                considered=Considered(bids=(bid,), why="its turn, and the first pool with room"),
                inputs={name: artifact.id for name, artifact in artifacts.items()},
            )
        )
        supply.take(devices, bid.finish_s)

    def _transfers(self, job: Job, moves: tuple[Move, ...]) -> Iterator[MoveArtifact]:
        for move in moves:
            transfer = transfer_id(self.state.artifacts[move.artifact], move.destination)
            before = self.state.transfers.get(transfer)
            if before and before.phase == TransferPhase.FAILED and before.ended_at_s is not None:
                again_s = before.ended_at_s + min(RETRY_S << before.attempts, RETRY_LIMIT_S)
                if again_s > self.now_s:
                    self._wake(again_s)
                    continue
            if transfer not in self.state.open_transfers:
                yield MoveArtifact(
                    transfer=transfer,
                    artifact=move.artifact,
                    source=move.source,
                    destination=move.destination,
                    job=job.id,
                )

    def _wake(self, at_s: int) -> None:
        self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)


def _queue(state: State) -> Iterator[Job]:
    """Waiting jobs in the order of their submission."""
    if not state.waiting:
        return
    jobs = (state.jobs[job] for job in state.waiting if job not in state.stop_requested)
    yield from sorted(jobs, key=lambda job: job.sequence)


def _stops(state: State) -> Iterator[Action]:
    for job_id in state.stop_requested:
        job = state.jobs[job_id]
        if job.phase == JobPhase.WAITING:
            yield EndJob(job=job_id, phase=JobPhase.STOPPED, outcome="stopped on request")
        elif not state.runs[job.runs[-1]].stop_reason:
            yield StopRun(run=job.runs[-1], why="its job was stopped")


def _hopeless(state: State, policy: Policy, job: Job) -> str:
    if job.refusals > policy.refusals_limit:
        return f"{job.refusals} times in a row no engine could start it"
    for binding in job.inputs.values():
        writer = state.jobs.get(binding.from_job)
        if writer and writer.ended_at_s is not None and binding.from_output not in writer.outputs:
            return f"its input will not come: job {writer.id} {writer.phase}"
    return ""
