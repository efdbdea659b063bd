"""The waiting jobs of a baseline: by group, each in the order of a key, kept up to date from plan to plan.

A memo of the state and nothing else: whenever the state is not the one it knows, it is made anew. Knows what
waits; what can start is decided elsewhere.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

from suan.grid.job import Job
from suan.grid.state import State

Key = tuple[int, int]  # what decides, then the sequence of submission
Group = tuple[str, Hashable]  # a queue's name, and what its members have in common


@dataclass(slots=True)
class Waiting:
    """Every waiting job is in one group, or parked until a moment."""

    groups: dict[Group, list[tuple[Key, str]]] = field(default_factory=dict)
    _state: State | None = None
    _pools: int = 0  # how many pools there were: a new one may change every group
    _known: dict[str, tuple[Group, Key]] = field(default_factory=dict)
    _parked: dict[str, int] = field(default_factory=dict)  # job -> until when
    _wakes: list[tuple[int, str]] = field(default_factory=list)

    def sync(
        self,
        state: State,
        now_s: int,
        *,
        key: Callable[[Job], int],
        group: Callable[[State, Job], Group],
    ) -> None:
        """Takes up what has begun to wait since the last call."""
        pools = sum(len(site.pools) for site in state.sites.values())
        if self._state is not state or self._pools != pools:
            self._forget(state, pools)
        self._take_up(state, key, group)
        if len(self._known) != len(state.waiting):  # some left by another way than a plan of ours
            self._forget(state, pools)
            self._take_up(state, key, group)
        while self._wakes and self._wakes[0][0] <= now_s:
            until_s, job = heapq.heappop(self._wakes)
            if self._parked.get(job) == until_s:
                del self._parked[job]
                place, known = self._known[job]
                insort(self.groups.setdefault(place, []), (known, job))

    def remove(self, job: str) -> None:
        """The job waits no more: the plan that is being made starts or ends it."""
        group, key = self._known.pop(job)
        if self._parked.pop(job, None) is None:
            self._drop(group, key, job)

    def park(self, job: str, until_s: int) -> None:
        """The job need not be looked at before that moment."""
        group, key = self._known[job]
        self._drop(group, key, job)
        self._parked[job] = until_s
        heapq.heappush(self._wakes, (until_s, job))

    def next_wake_s(self) -> int | None:
        """When the next parked job wants to be looked at."""
        while self._wakes and self._parked.get(self._wakes[0][1]) != self._wakes[0][0]:
            heapq.heappop(self._wakes)
        return self._wakes[0][0] if self._wakes else None

    def in_turn(self, closed: set[Group | str]) -> Iterator[tuple[Group, str]]:
        """Jobs by key over all groups; a group or a whole queue that is put into `closed` meanwhile is left.
        The job at hand may be removed or parked before the next is asked for."""
        turns = [(*members[0], 0, group) for group, members in self.groups.items()]
        heapq.heapify(turns)  # key and job tell any two apart: nothing behind them is compared
        while turns:
            key, job, place, group = heapq.heappop(turns)
            if group in closed or group[0] in closed:
                continue
            yield group, job
            members = self.groups.get(group, [])
            if group not in closed and group[0] not in closed:
                following = place + (members[place : place + 1] == [(key, job)])
                if following < len(members):
                    heapq.heappush(turns, (*members[following], following, group))

    def _forget(self, state: State, pools: int) -> None:
        self._state, self._pools = state, pools
        self.groups, self._known, self._parked, self._wakes = {}, {}, {}, []

    def _take_up(self, state: State, key: Callable[[Job], int], group: Callable[[State, Job], Group]) -> None:
        fresh = []
        for job_id in reversed(state.waiting):  # what began to wait last stands last
            if job_id in self._known:
                break
            fresh.append(state.jobs[job_id])
        for job in reversed(fresh):
            place, known = group(state, job), (key(job), job.sequence)
            self._known[job.id] = (place, known)
            insort(self.groups.setdefault(place, []), (known, job.id))

    def _drop(self, group: Group, key: Key, job: str) -> None:
        members = self.groups[group]
        del members[bisect_left(members, (key, job))]
        if not members:
            del self.groups[group]
