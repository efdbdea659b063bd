"""What the grid stops of its own accord: the words by which such stops are known again, what each loses, how
many there have been, and whom the releasing devices are meant for.

A stop's reason begins with what it is (`preempted`, `resized`, `paused`) and for which job. Does not choose
whom to stop: that is `preempt`, `leave` and `elastic`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from suan.grid.action import Action, StopRun
from suan.grid.job import Job, JobPhase, Run, RunPhase
from suan.grid.market import price_at
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy
from suan.rules.progress import since_checkpoint_s

PREEMPTED, RESIZED, PAUSED = "preempted", "resized", "paused"  # how the reason of a stop begins
_FOR = " for "
_WANTING = {  # phases of a job in which it still wants the devices of a run that was stopped for it
    PREEMPTED: (JobPhase.WAITING,),
    RESIZED: (JobPhase.WAITING, JobPhase.PLACED),  # it is its own run that stops
}

Pool = tuple[str, str]  # (site, pool)


def stop_reason(word: str, job: Job, text: str) -> str:
    """Why a run stops, so that it can be read back whom its devices are for."""
    return f"{word}{_FOR}{job.id}: {text}"


def promised_to(state: State, why: str) -> str:
    """The job that the devices of a stopping run are meant for; "" for none, or if it wants them no more."""
    word, _, rest = why.partition(_FOR)
    job = state.jobs.get(rest.partition(":")[0]) if word in _WANTING else None
    return job.id if job is not None and job.phase in _WANTING[word] else ""


@dataclass(frozen=True, slots=True)
class Releasing:
    """Devices of stopping runs by pool and by the job they are promised to; "" is nobody. A value."""

    devices: dict[Pool, dict[str, int]]
    runs: dict[str, tuple[str, ...]]  # job -> the stopping runs whose devices it was promised

    @staticmethod
    def of(state: State, actions: Iterable[Action] = ()) -> "Releasing":
        """As the state has it, and what a plan in the making stops besides."""
        found = Releasing({}, {})
        ordered = {action.run: action.why for action in actions if isinstance(action, StopRun)}
        for runs in state.open_runs.values():
            for name in runs:
                run = state.runs[name]
                if run.phase == RunPhase.STOPPING or name in ordered:
                    promise = promised_to(state, run.stop_reason or ordered.get(name, ""))
                    pool = found.devices.setdefault((run.site, run.pool), {})
                    pool[promise] = pool.get(promise, 0) + run.devices
                    if promise:
                        found.runs[promise] = (*found.runs.get(promise, ()), name)
        return found

    def available(self, pool: Pool, job: str) -> int:
        """Devices that will be free for the job: those promised to it and those promised to nobody."""
        known = self.devices.get(pool, {})
        return known.get(job, 0) + known.get("", 0)

    def promise(self, pool: Pool, job: str, devices: int) -> "Releasing":
        """The same after so many of what is promised to nobody have been promised to the job."""
        known = self.devices.get(pool, {})
        given = min(max(0, devices), known.get("", 0))
        after = {**known, "": known.get("", 0) - given, job: known.get(job, 0) + given}
        return Releasing({**self.devices, pool: after}, self.runs)


@dataclass(frozen=True, slots=True)
class Recent:
    """Preemptions of the last hour, of jobs that have not ended since."""

    total: int
    by_job: dict[str, int]

    @staticmethod
    def of(state: State, now_s: int) -> "Recent":
        """Counted from the runs of jobs that run now, and of those that wait and have run before: they are at
        the front of their queues.
        """
        by_job: dict[str, int] = {}
        for runs in state.open_runs.values():
            for run in runs:
                _count(state, state.runs[run].job, now_s, by_job)
        for queue in state.queues.values():
            for job in queue:
                if not state.jobs[job].runs:
                    break
                _count(state, job, now_s, by_job)
        return Recent(total=sum(by_job.values()), by_job=by_job)


def _count(state: State, job: str, now_s: int, into: dict[str, int]) -> None:
    for run in (state.runs[name] for name in reversed(state.jobs[job].runs)):
        if run.ended_at_s is not None and run.ended_at_s <= now_s - HOUR_S:
            break
        if run.stop_reason.startswith(PREEMPTED):
            into[job] = into.get(job, 0) + 1


def is_worn(state: State, policy: Policy, job: Job) -> bool:
    """Whether the job's last runs, but for the newest, were all stopped for others before they had saved
    anything: once more, and it might never get anywhere.
    """
    last = [run for run in (state.runs[name] for name in job.runs) if run.started_at_s is not None][:-1]
    last = last[-policy.fruitless_runs :]
    return len(last) == policy.fruitless_runs and all(
        run.stop_reason.startswith(PREEMPTED)
        and run.ended_at_s is not None
        and since_checkpoint_s(job, run, run.ended_at_s) == run.ended_at_s - (run.started_at_s or 0)
        for run in last
    )


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What stopping one run loses: work to be done again, the restart, and its own job's delay."""

    run: str
    devices: int
    again_s: int  # of work, and to restore
    microyuan: int


def cost_per_s(state: State, run: Run, now_s: int) -> float:
    """Micro-yuan a second of all the run's devices: what they cost, and what they are worth beyond it now."""
    quote = run.quote
    cost = (quote.billed_microyuan - quote.move_microyuan) / max(1, quote.run_s)
    return cost + run.devices * price_at(state.clearing, f"{run.site}/{run.pool}", now_s) / HOUR_S


def delay_microyuan(state: State, policy: Policy, job: Job, *, end_s: int, delay_s: float) -> float:
    """What it costs the job's tenant that it ends so much later than at `end_s`: waiting and lateness."""
    tenant = state.tenants.get(job.tenant)
    per_h = tenant.waiting_microyuan_per_h if tenant is not None else 0
    cost = delay_s / HOUR_S * per_h * policy.waiting_ratio.get(job.task.priority, 1.0)
    if job.task.deadline_s is not None:
        due_s = job.submitted_at_s + job.task.deadline_s
        late_s = max(0.0, end_s + delay_s - due_s) - max(0, end_s - due_s)
        cost += late_s / HOUR_S * policy.late_microyuan_per_h
    return cost


def loss(state: State, policy: Policy, now_s: int, *, run: Run, held_s: int) -> Loss:
    """What stopping a run now loses, if its devices are taken for `held_s`: its work since the last
    checkpoint and the restart, at what its devices cost and are worth; and the delay of its job.
    """
    job = state.jobs[run.job]
    restore_s = policy.restore_s if job.task.checkpoint is not None else 0
    again_s = since_checkpoint_s(job, run, now_s) + restore_s
    end_s = max(run.expected_end_s, now_s)
    delay = delay_microyuan(state, policy, job, end_s=end_s, delay_s=held_s + again_s)
    again = again_s * cost_per_s(state, run, now_s)
    return Loss(run=run.id, devices=run.devices, again_s=again_s, microyuan=round(again + delay))
