"""Policy: every number that an operator may set, in one value, with where its default comes from."""

import msgspec

from suan.grid.job import Task, may_wait

_WAITING_RATIO = {"online": 4.0, "standard": 1.0, "valley": 0.05}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "market"
    market: bool = True  # clearing prices and worth decide; False: first come within each share, no prices
    default_duration_s: int = 3600  # for a job that says nothing: the prior until history exists
    carbon_microyuan_per_kg: int = 90_000  # China's national carbon market, 2024: 90 to 100 CNY a tonne
    # What a kilogram counts for beyond its price where hours and pools are weighed; nobody is billed for it.
    carbon_weight_microyuan_per_kg: int = 0
    late_microyuan_per_h: int = 10_000_000  # an hour past the deadline
    # Until its deadline a job waits, and rests, for the cheapest hours: its tenant loses nothing by it.
    free_until_deadline: bool = False
    deadline_quantile: float = 0.95  # of a length that must fit before a deadline for the job to put it off
    # of the tenant's price of waiting, by priority
    waiting_ratio: dict[str, float] = msgspec.field(default_factory=_WAITING_RATIO.copy)
    restore_s: int = 60  # to start again from a checkpoint
    shift_horizon_s: int = 86_400  # how far ahead a deferrable job looks for a cheaper hour
    ageing_s: int = 6 * 3600  # a job that has waited so long counts one priority class higher
    starvation_s: int = 86_400  # who has waited so long in one stretch goes before everybody, oldest first
    urgency_s: int = 3600  # slack at which a deadline presses 1/e as much as at the last moment
    clear_every_s: int = 900  # the market is cleared again after so long, while anybody waits
    clear_classes: int = 400  # classes of jobs that take part in one clearing, the most work first
    clear_rounds: int = 60  # of price adjustment in one clearing, at most
    min_run_s: int = 600  # a run is left alone for so long after its start
    preemptions_per_h: int = 60  # in the whole grid
    job_preemptions_per_h: int = 2  # of one job
    preempt_margin_ratio: float = 1.0  # of a peer: the gain must exceed the loss by this part of it
    fruitless_runs: int = 3  # a job stopped so often in a row with nothing saved runs to its end
    pause_margin_ratio: float = 0.05  # a pause must save this part of what power and scarcity would cost
    resize_after_s: int = 1800  # a run keeps its size for so long
    resize_margin_ratio: float = 0.05  # another size must save this part of what the present one costs
    preempt_tries: int = 4  # blocked jobs of one plan for which others may be stopped
    lease_s: int = 30
    grace_s: int = 10  # from SIGTERM to SIGKILL
    clock_margin_s: int = 5  # between a lease's end at a site and the grid's belief that it has ended
    stop_grace_s: int = 10
    refusals_limit: int = 6  # engine refusals in a row before the job fails
    backfill_tries: int = 4  # jobs behind a blocked one of the same kind that may slip in before it
    reserve: bool = True  # the first job that cannot start holds devices for itself

    def waits_free(self, task: Task) -> bool:
        """Whether nothing is lost while the task waits, until its deadline."""
        return self.free_until_deadline and may_wait(task)

    @property
    def weighed_microyuan_per_kg(self) -> int:
        """What a kilogram of CO2 counts for in the grid's own decisions on hours and pools."""
        return self.carbon_microyuan_per_kg + self.carbon_weight_microyuan_per_kg
