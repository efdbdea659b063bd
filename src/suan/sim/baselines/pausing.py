"""Suspend and resume: jobs that may wait run while power is cheap or clean, pause while it is not.

Two ways to tell: by a threshold, the quantile of the prices of the day ahead (as Ecovisor does with carbon),
or, knowing how long the job takes and the whole series, by taking the best hours up to its deadline (as Wait
Awhile does). A job pauses only if it has checkpoints; else its start alone is shifted. What may wait: jobs
with a deadline, up to the last moment that still meets it, and valley jobs, for `shift_horizon_s`.

Source: Souza et al., "Ecovisor", ASPLOS 2023; Wiesner et al., "Let's wait awhile", Middleware 2021.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from suan.grid.action import Plan, StopRun
from suan.grid.job import Job, Priority, Reason, RunPhase
from suan.grid.site import Tariff, hour_rate
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy
from suan.sim.baselines.moment import Candidate, FitMemo, Moment
from suan.sim.baselines.placing import Choice, by_arrival, cheapest_now
from suan.sim.baselines.waiting import Group, Waiting

PAUSE_QUANTILE = 0.3  # runs in the cheapest 30 % of hours. Source: Ecovisor's suspend-resume policy
AHEAD_H = 24  # of the series that a threshold looks at
_MARGIN_S = 120  # starts so long before the last moment: stopping and starting take a little

_GOING_ON = (RunPhase.ORDERED, RunPhase.RUNNING)
_LATER = Reason(code="cheaper_hour", text="power is dear now, and it may wait")
_FULL = Reason(code="devices", text="no pool that it may use has room for it")

Rate = Callable[[Tariff, int, Policy], float]  # of an hour


def price(tariff: Tariff, hour: int, policy: Policy) -> float:
    """Micro-yuan a kWh."""
    return float(hour_rate(tariff, hour)[0])


def carbon(tariff: Tariff, hour: int, policy: Policy) -> float:
    """gCO2 a kWh."""
    return hour_rate(tariff, hour)[1]


def price_and_carbon(tariff: Tariff, hour: int, policy: Policy) -> float:
    """Micro-yuan a kWh, carbon at the policy's price included."""
    money, gco2 = hour_rate(tariff, hour)
    return money + gco2 / 1000 * policy.carbon_microyuan_per_kg


@dataclass(frozen=True, kw_only=True)
class SuspendResume:
    """`foresight`: the best hours up to the deadline; else those under the quantile of the day ahead."""

    rate: Rate = price
    foresight: bool = False
    quantile: float = PAUSE_QUANTILE
    choose: Choice = cheapest_now
    _waiting: Waiting = field(default_factory=Waiting, compare=False)
    _fits: FitMemo = field(default_factory=dict, compare=False)

    def __call__(self, state: State, policy: Policy, now_s: int) -> Plan:
        """The plan for this moment. Same input, same plan."""
        moment = Moment(state=state, policy=policy, now_s=now_s, fits=self._fits)
        moment.stop_requested()
        hours = _Hours(self, moment)
        self._pause(moment, hours)
        waiting = self._waiting
        waiting.sync(state, now_s, key=by_arrival, group=_group)
        closed: set[Group | str] = set()
        for group, job_id in waiting.in_turn(closed):
            job = state.jobs[job_id]
            if job_id in state.stop_requested or moment.ends(job):
                waiting.remove(job_id)
                continue
            if job.not_before_s > now_s:
                waiting.park(job_id, job.not_before_s)
                continue
            open_rooms = [
                candidate
                for candidate in moment.candidates(job)
                if candidate.devices <= candidate.room.free and moment.in_partition(job, candidate)
            ]
            if not open_rooms and not job.inputs:
                closed.add(group)
                moment.reasons[job_id] = _FULL
                continue
            latest_s = hours.latest_start_s(job)
            if latest_s > now_s:
                open_rooms = [room for room in open_rooms if hours.is_good(job, room)]
                if not open_rooms:
                    waiting.park(job_id, min(hours.next_hour_s, latest_s))
                    moment.reasons[job_id] = _LATER
                    continue
            if reason := self._start(moment, job, open_rooms):
                moment.reasons[job_id] = reason
                continue
            waiting.remove(job_id)
            if job.task.checkpoint is not None and latest_s > now_s:
                moment.wake(hours.next_hour_s)  # to see whether it goes on
        moment.wake(waiting.next_wake_s())
        return moment.plan()

    def _start(self, moment: Moment, job: Job, candidates: list[Candidate]) -> Reason | None:
        artifacts = moment.inputs(job)
        if isinstance(artifacts, Reason):
            return artifacts
        options = []
        for candidate in candidates:
            moves = moment.moves(artifacts, candidate.room)
            if not isinstance(moves, Reason):
                cost = self.choose(moment, job, candidate, moves)
                options.append((cost, candidate.room.name, candidate, moves))
        if not options:
            return _FULL
        _, _, best, moves = min(options, key=lambda option: option[:2])
        if moves:
            return moment.move(job, moves)
        return moment.place(job, best, artifacts, "a good hour for it, or its last moment")

    def _pause(self, moment: Moment, hours: "_Hours") -> None:
        """Stops runs that have checkpoints, may wait, and stand in an hour that is not good for them."""
        state, goes_on = moment.state, False
        rooms = {room.name: room for room in moment.rooms}
        for runs in state.open_runs.values():
            for run_id in runs:
                run = state.runs[run_id]
                job = state.jobs[run.job]
                if job.task.checkpoint is None or run.phase not in _GOING_ON or run.stop_reason:
                    continue
                room = rooms.get(f"{run.site}/{run.pool}")
                if room is None or hours.latest_start_s(job) <= moment.now_s:
                    continue
                good = hours.is_good(job, Candidate(room, run.resources_index, run.devices))
                if good or run.phase == RunPhase.ORDERED:
                    goes_on = True
                else:
                    moment.actions.append(StopRun(run=run_id, why="paused: power is dear now"))
        if goes_on:
            moment.wake(hours.next_hour_s)


@dataclass(slots=True)
class _Hours:
    """Which hours are good for which job, seen from one moment."""

    rule: SuspendResume
    moment: Moment
    _series: dict[str, list[float]] = field(default_factory=dict)  # site -> rates from this hour on

    @property
    def next_hour_s(self) -> int:
        return (self.moment.now_s // HOUR_S + 1) * HOUR_S

    def latest_start_s(self, job: Job) -> int:
        """The last moment at which it may still wait; the past for a job that may not wait at all."""
        task = job.task
        if task.deadline_s is not None:
            return job.submitted_at_s + task.deadline_s - self.remaining_s(job) - _MARGIN_S
        if task.priority == Priority.VALLEY:
            return job.submitted_at_s + self.moment.policy.shift_horizon_s
        return 0

    def remaining_s(self, job: Job) -> int:
        """How long it has still to run on a pool of speed 1, as far as anybody told."""
        task = job.task
        whole_s = task.duration_s if task.duration_s is not None else self.moment.policy.default_duration_s
        if task.checkpoint is None:
            return whole_s
        state, done_s = self.moment.state, 0.0
        for run_id in job.runs:
            run = state.runs[run_id]
            if run.started_at_s is not None:
                speed = state.sites[run.site].pools[run.pool].speed_ratio
                done_s += ((run.ended_at_s or self.moment.now_s) - run.started_at_s) * speed
        return max(60, round(whole_s - done_s))

    def is_good(self, job: Job, candidate: Candidate) -> bool:
        """Whether the hour is one in which the job should run there."""
        site = candidate.room.site.name
        if self.moment.state.tariff(site, self.moment.now_s) is None:
            return True
        if not self.rule.foresight:
            ahead = sorted(self._rates(site, AHEAD_H))
            threshold = ahead[min(len(ahead) - 1, int(self.rule.quantile * len(ahead)))]
            return self._rates(site, 1)[0] <= threshold
        remaining_s = self.remaining_s(job) / candidate.room.pool.speed_ratio
        due_s = self.latest_start_s(job) + self.remaining_s(job)
        if job.task.checkpoint is None:
            return self._starts_best_now(site, remaining_s, self.latest_start_s(job))
        return self._is_among_best(site, remaining_s, due_s)

    def _is_among_best(self, site: str, remaining_s: float, due_s: int) -> bool:
        """Whether the better hours until the deadline do not suffice. Of equal hours the earlier counts."""
        now_s = self.moment.now_s
        hours = -(-due_s // HOUR_S) - now_s // HOUR_S
        rates = self._rates(site, max(1, hours))
        better = sum(rate < rates[0] for rate in rates[1:hours])
        last_part_s = hours * HOUR_S - (due_s - now_s // HOUR_S * HOUR_S)
        cut_s = last_part_s if hours > 1 and rates[hours - 1] < rates[0] else 0
        return better * HOUR_S - cut_s < remaining_s

    def _starts_best_now(self, site: str, run_s: float, latest_s: int) -> bool:
        """Whether no later start, at the beginning of an hour, costs less. Of equal ones now is the best."""
        now_s = self.moment.now_s
        hour = now_s // HOUR_S
        starts = [now_s, *range((hour + 1) * HOUR_S, latest_s + 1, HOUR_S)]
        rates = self._rates(site, int((latest_s + run_s) // HOUR_S - hour) + 2)
        sums = [0.0]
        for rate in rates:
            sums.append(sums[-1] + rate)

        def integral(at_s: float) -> float:
            index = int(at_s // HOUR_S) - hour
            return sums[index] + rates[index] * (at_s / HOUR_S - at_s // HOUR_S)

        costs = [integral(start + run_s) - integral(start) for start in starts]
        return costs[0] <= min(costs)

    def _rates(self, site: str, count: int) -> list[float]:
        known = self._series.setdefault(site, [])
        if len(known) < count:
            tariff, policy = self.moment.state.tariff(site, self.moment.now_s), self.moment.policy
            assert tariff is not None
            first = self.moment.now_s // HOUR_S
            known.extend(
                self.rule.rate(tariff, hour, policy) for hour in range(first + len(known), first + count)
            )
        return known[:count]


def _group(state: State, job: Job) -> Group:
    """Jobs of one group find room in the same places."""
    tenant = state.tenants.get(job.tenant)
    queue = job.tenant if tenant is not None and tenant.quota.nominal_devices else ""
    return queue, (job.task.resources, job.task.num_nodes, job.task.place)
