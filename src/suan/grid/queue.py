"""Waiting jobs of one demand, in the order in which they are to be looked at.

Knows the order only. Which demand goes first is `rules/order.py`.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from suan.grid.job import Job

Place = tuple[int, int, str]  # (latest start or length, sequence of submission, job)


@dataclass(slots=True)
class Queue:
    """Jobs with a deadline by the latest moment at which they may start; the others by length where it is
    known, then oldest first.
    """

    places: list[Place] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return (job for _, _, job in self.places)

    def add(self, job: Job) -> None:
        insort(self.places, place(job))

    def remove(self, job: Job) -> None:
        wanted = place(job)
        index = bisect_left(self.places, wanted)
        assert self.places[index] == wanted, f"{job.id} is not where it should be"
        del self.places[index]

    def in_time_first(self, latest_s: int) -> Iterator[str]:
        """Jobs whose place is not before `latest_s`, then those that are too late for their deadline."""
        first = bisect_left(self.places, (latest_s, -1, ""))
        yield from (job for _, _, job in self.places[first:])
        yield from (job for _, _, job in self.places[:first])


def place(job: Job) -> Place:
    """Where the job stands in its queue; the same for as long as it waits."""
    task = job.task
    length_s = task.duration_s or 0
    if task.deadline_s is None:
        return (length_s, job.sequence, job.id)
    return (job.submitted_at_s + task.deadline_s - length_s, job.sequence, job.id)
