"""One plan in the making: what the steps of `decide` hand to each other."""

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from suan.grid.action import Action
from suan.grid.job import Demand, Job, Place, Reason, Resources
from suan.grid.market import Clearing
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.ahead import hours_ahead, spread_s
from suan.rules.durations import expected, rounded_deadline_s, stem
from suan.rules.estimates import unfit
from suan.rules.fit import fit
from suan.rules.forecast import Forecast
from suan.rules.hours import Hours
from suan.rules.move import Move
from suan.rules.policy import Policy
from suan.rules.progress import pace, remaining_s, saved_s
from suan.rules.quota import Quotas
from suan.rules.quote import Setting
from suan.rules.scaling import least_nodes
from suan.rules.share import Shares
from suan.rules.supply import Supply

if TYPE_CHECKING:
    from suan.rules.bids import Candidate

Shape = tuple[tuple[Resources, ...], int, Place, str]
_HOURS = np.arange(1.0, 7 * 24 + 1)  # of the clock; runs beyond a week pay the week's mean
_MOST_LOOKS = 200  # of one plan at hours ahead: each may take some milliseconds

Fits = tuple[list[tuple[Supply, int]], dict[str, Reason]]  # pools that can, with the alternative they serve


@dataclass(frozen=True, slots=True)
class Offer:
    """One pool that can run the jobs of one demand, and what that depends on besides time and length."""

    supply: Supply
    resources_index: int
    nodes: int
    devices: int  # in all nodes together
    setting: Setting
    moves: tuple[Move, ...]


Offers = tuple[list[Offer], dict[str, Reason]]
Alike = tuple[Demand, float, int | None, int]  # demand, expected and stated length, time between checkpoints


@dataclass(slots=True)
class Cycle:
    """One plan in the making."""

    state: State
    policy: Policy
    now_s: int
    supplies: list[Supply]
    quotas: Quotas
    shares: Shares
    fair_share: float = float("inf")  # what each tenant would hold, were all that want any to share alike
    actions: list[Action] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    demand_reasons: dict[Demand, Reason] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)  # tenant -> micro-yuan of runs not settled yet
    blocked: list[Job] = field(default_factory=list)  # for want of devices, in the order of their turns
    fits: dict[Shape, Fits] = field(default_factory=dict)
    offers: dict[Demand, Offers] = field(default_factory=dict)
    ranked: dict[Alike, list["Candidate"]] = field(default_factory=dict)  # what jobs alike may take, at once
    clearing: Clearing | None = None  # the prices that hold in this plan
    forecasts: dict[object, Forecast] = field(default_factory=dict)  # of jobs, and of all that are alike
    looks: dict[tuple[str, int, float], Hours | None] = field(default_factory=dict)
    spent: dict[tuple[int, float, float, int], NDArray[np.float64]] = field(default_factory=dict)
    wake_at_s: int | None = None

    def run_s(self, job: Job, supply: Supply, nodes: int = 0) -> int:
        """How long the job, or what is left of it there, is expected to run in the pool on so many nodes."""
        length_s, nodes = self.length_s(job), nodes or job.task.num_nodes
        if job.runs and job.task.checkpoint is not None:
            done_s = self._done_s(job, supply)
            length_s = max(length_s, done_s + self.forecast(job).remaining_s(done_s)) if done_s else length_s
            where = (supply.site.name, supply.pool)
            return remaining_s(self.state, job, where, self.policy, length_s=length_s, nodes=nodes)
        return max(1, round(length_s / self.pace(job, supply, nodes)))

    def pace(self, job: Job, supply: Supply, nodes: int) -> float:
        """Seconds of the job's work, as its length counts them, that a second does there."""
        return pace(self.state, job, (supply.site.name, supply.pool), nodes)

    def length_s(self, job: Job) -> float:
        """How long the job is expected to run where the speed is 1: as its task says, or as history tells."""
        if not self.policy.market and not job.work:
            known = job.task.duration_s
            return float(known if known is not None else self.policy.default_duration_s)
        return self.forecast(job).mean_s

    def forecast(self, job: Job) -> Forecast:
        """What is known of the job's length, in all, where the speed is 1."""
        found = self.forecasts.get(job.id)
        if found is None:
            found = self.forecasts[job.id] = self._forecast_of_its_like(job)
        return found

    def _forecast_of_its_like(self, job: Job) -> Forecast:
        task = job.task
        if task.duration_s is not None:
            return expected(self.state, job, self.policy)
        due = rounded_deadline_s(task.deadline_s) if task.deadline_s is not None else 0
        alike = (self.state.waiting.get(job.id, job.id), stem(task.name), task.recipe, due)
        found = self.forecasts.get(alike)
        if found is None:
            found = self.forecasts[alike] = expected(self.state, job, self.policy)
        return found

    def spent_h(self, job: Job, offer: Offer, start_s: int, run_s: int) -> NDArray[np.float64] | None:
        """How much of each hour of the clock, from that of its start on, the job is expected to run in,
        `run_s` together; the last is for all hours after a week. None for a length that is known, or by
        which nobody decides.
        """
        if not self.policy.market:
            return None
        forecast = self.forecast(job)
        if forecast.is_known:
            return None
        done_s, at_pace = self._done_s(job, offer.supply), self.pace(job, offer.supply, offer.nodes)
        key = (id(forecast), done_s, at_pace, start_s % HOUR_S)
        if key not in self.spent:
            ends_s = _HOURS * HOUR_S - start_s % HOUR_S
            spent_s = forecast.spent_s(done_s, ends_s * at_pace) / at_pace
            whole_s = max(spent_s[-1], forecast.remaining_s(done_s) / at_pace)
            by_s = np.concatenate(((0.0,), spent_s, (whole_s,)))
            each_s = by_s[1:] - by_s[:-1]
            self.spent[key] = each_s / each_s.sum()
        return self.spent[key] * (run_s / HOUR_S)

    def due_s(self, job: Job, supply: Supply, nodes: int) -> float:
        """When the job must be expected to end there so as to meet its deadline though it take longer than
        expected; infinite without one.
        """
        if job.task.deadline_s is None:
            return inf
        spread = spread_s(self.forecast(job), self.policy, self._done_s(job, supply))
        spare_s = spread / self.pace(job, supply, nodes)
        return job.submitted_at_s + job.task.deadline_s - spare_s

    def _done_s(self, job: Job, supply: Supply) -> float:
        """Seconds of the job's work, at speed 1, that its checkpoints at the pool's site hold."""
        return saved_s(self.state, job).get(supply.site.name, 0.0) if job.runs else 0.0

    def hours(self, supply: Supply, at_s: int, run_s: int, due_s: float) -> Hours | None:
        """The pool's hours from a moment on, for a job that may pause and has so long to run; None where it
        has nothing to choose, or this plan has looked at enough of them.
        """
        key = (supply.name, run_s, due_s)
        if key not in self.looks and len(self.looks) < _MOST_LOOKS:
            where = (supply.site, supply.pool)
            self.looks[key] = hours_ahead(self.state, self.policy, where, at_s, left_s=run_s, due_s=due_s)
        found = self.looks.get(key)
        return found if found is not None and found.holds(at_s, run_s) else None

    def wake(self, at_s: int) -> None:
        if at_s > self.now_s:
            self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)

    def fitting(self, job: Job) -> Fits:
        """Pools that can run the job, with the resource alternative they serve; and why the others cannot."""
        # All that `fit` looks at, and which model must fit.
        shape = (job.task.resources, least_nodes(job.task), job.task.place, job.work)
        known = self.fits.get(shape)
        if known is None:
            able, misses = [], {}
            for supply in self.supplies:
                found = fit(job.task, supply.site, supply.pool)
                found = unfit(self.state.works.get(job.work), job.task, supply.pool) or found
                if isinstance(found, Reason):
                    misses[supply.name] = found
                else:
                    able.append((supply, found))
            known = self.fits[shape] = (able, misses)
        return known
