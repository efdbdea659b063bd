"""How long jobs took: small histograms by who submitted them, what they were called and how large they were.

Knows how to count and how to forget. What is counted under which name, and what follows from it for the next
job, is `rules/durations.py`.
"""

from dataclasses import dataclass, field
from typing import Any

BINS_PER_DOUBLING = 4  # bins are geometric: each reaches 19 % further than the one before
TALLIES = 50_000  # kept of each sort; those that nothing was added to for longest are dropped first

Name = tuple[str | int, ...]  # what a tally is of, from the specific to (), which is everything


@dataclass(slots=True)
class Tally:
    """Counts by bin. Beyond `limit` the old count half: what is recent weighs more, and nothing grows for
    ever.

    What others read is `shown`, which follows `counts` in small steps: whatever is derived from it holds for
    a while, and is the same after a replay.
    """

    counts: dict[int, float] = field(default_factory=dict)
    weight: float = 0.0  # sum of the counts
    added: int = 0  # in all
    shown: dict[int, float] = field(default_factory=dict)
    shown_weight: float = 0.0
    shown_at: int = 0  # `added` when it was shown: what it is known by

    def add(self, bin: int, limit: float) -> None:
        self.counts[bin] = self.counts.get(bin, 0.0) + 1.0
        self.weight += 1.0
        self.added += 1
        if self.weight > limit:
            self.counts = {known: count / 2 for known, count in self.counts.items() if count > 0.05}
            self.weight = sum(self.counts.values())
        if self.added - self.shown_at >= self.weight / 16:
            self.shown, self.shown_weight, self.shown_at = self.counts.copy(), self.weight, self.added


@dataclass(frozen=True, slots=True)
class Factor:
    """How much longer than the performance model says a recipe runs in one pool: the mean of ln(metered /
    predicted), how unsure it is, and how many runs it rests on.
    """

    log_mean: float
    log_variance: float
    runs: int


@dataclass(slots=True)
class History:
    """Everything that was learnt about lengths. `memo` holds what was derived from it and may go at any
    time.
    """

    lengths: dict[Name, Tally] = field(default_factory=dict)  # of true seconds at speed 1
    ratios: dict[Name, Tally] = field(default_factory=dict)  # of true seconds over estimated ones
    deadlines: dict[Name, Tally] = field(
        default_factory=dict
    )  # of true seconds over those until the deadline
    factors: dict[tuple[str, str, str], Factor] = field(default_factory=dict)  # site, pool, recipe
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


def add(tallies: dict[Name, Tally], name: Name, bin: int, limit: float) -> None:
    """Counts one more under `name`, which is the freshest from now on."""
    tally = tallies.pop(name, None) or Tally()
    tally.add(bin, limit)
    tallies[name] = tally
    if len(tallies) > TALLIES:
        del tallies[next(iter(tallies))]
