"""One plan in the making: what the steps of `decide` hand to each other."""

from dataclasses import dataclass, field

from suan.grid.action import Action
from suan.grid.job import Demand, Job, Place, Reason, Resources
from suan.grid.market import Clearing
from suan.grid.site import Pool
from suan.grid.state import State
from suan.rules.fit import fit
from suan.rules.move import Move
from suan.rules.policy import Policy
from suan.rules.quote import Setting
from suan.rules.supply import Supply

Shape = tuple[tuple[Resources, ...], int, Place]
Fits = tuple[list[tuple[Supply, int]], dict[str, Reason]]  # pools that can, with the alternative they serve


@dataclass(frozen=True, slots=True)
class Offer:
    """One pool that can run the jobs of one demand, and what that depends on besides time and length."""

    supply: Supply
    resources_index: int
    devices: int
    setting: Setting
    moves: tuple[Move, ...]


Offers = tuple[list[Offer], dict[str, Reason]]


@dataclass(slots=True)
class Cycle:
    """One plan in the making."""

    state: State
    policy: Policy
    now_s: int
    supplies: list[Supply]
    actions: list[Action] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    demand_reasons: dict[Demand, Reason] = field(default_factory=dict)
    taken: dict[tuple[str, str], int] = field(default_factory=dict)  # (tenant, kind) -> devices of this plan
    promised: dict[str, int] = field(default_factory=dict)  # tenant -> micro-yuan of runs not settled yet
    shares: dict[str, float] = field(default_factory=dict)
    fair_share: float = float("inf")  # of devices over weight, were all to share alike
    fits: dict[Shape, Fits] = field(default_factory=dict)
    offers: dict[Demand, Offers] = field(default_factory=dict)
    clearing: Clearing | None = None  # the prices that hold in this plan
    lengths: dict[Demand | str, float] = field(default_factory=dict)
    wake_at_s: int | None = None

    def run_s(self, job: Job, pool: Pool) -> int:
        """How long the job is expected to run in the pool."""
        return max(1, round(self.length_s(job) / pool.speed_ratio))

    def length_s(self, job: Job) -> float:
        """How long the job is expected to run where the speed is 1: as its task says, or as history tells."""
        task = job.task
        if task.duration_s is not None:
            return float(task.duration_s)
        wanted = self.state.waiting.get(job.id, job.id)
        known = self.lengths.get(wanted)
        if known is None:
            known = self.lengths[wanted] = float(self.policy.default_duration_s)
        return known

    def wake(self, at_s: int) -> None:
        if at_s > self.now_s:
            self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)

    def fitting(self, job: Job) -> Fits:
        """Pools that can run the job, with the resource alternative they serve; and why the others cannot."""
        shape = (job.task.resources, job.task.num_nodes, job.task.place)  # all that `fit` looks at
        known = self.fits.get(shape)
        if known is None:
            able, unfit = [], {}
            for supply in self.supplies:
                found = fit(job.task, supply.site, supply.pool)
                if isinstance(found, Reason):
                    unfit[supply.name] = found
                else:
                    able.append((supply, found))
            known = self.fits[shape] = (able, unfit)
        return known
