"""One plan in the making: what the steps of `decide` hand to each other."""

from dataclasses import dataclass, field

from suan.grid.action import Action
from suan.grid.job import Demand, Reason
from suan.grid.state import State
from suan.rules.policy import Policy
from suan.rules.supply import Supply


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
    taken: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # (tenant, kind) -> devices placed in this plan
    shares: dict[str, float] = field(default_factory=dict)
    wake_at_s: int | None = None

    def wake(self, at_s: int) -> None:
        if at_s > self.now_s:
            self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)
