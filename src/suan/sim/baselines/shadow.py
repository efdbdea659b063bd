"""EASY's reservation: when the head of a queue can start, and what may run until then without delaying it.

Source: D. Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995. Knows expected ends, not true ones.
"""

from dataclasses import dataclass, field

from suan.grid.job import Job, Run
from suan.rules.quote import duration_s
from suan.sim.baselines.moment import Candidate, Moment

_OVERDUE_S = 60  # a run past its expected end goes on for at least so long, or as long again as it has run
_POOL, _PARTITION = "pool", "tenant"
Name = tuple[str, str, str]  # pool, site, its name; or tenant, its name, kind of device


@dataclass(slots=True)
class Shadow:
    """The moment for which devices of a pool or a partition are promised, and how many are left over then."""

    at_s: int
    spare: int


@dataclass(slots=True)
class Shadows:
    """The promises of one plan, by pool or partition."""

    moment: Moment
    held: dict[Name, Shadow] = field(default_factory=dict)
    _ends: dict[Name, list[tuple[int, int]]] = field(default_factory=dict)  # pool or partition -> its runs
    _placed: dict[Name, list[tuple[int, int]]] = field(default_factory=dict)  # the same, of this plan alone

    def allow(self, job: Job, candidate: Candidate) -> bool:
        """Whether nobody to whom devices are promised would start later for it."""
        end_s = self.moment.now_s + duration_s(job.task, candidate.room.pool, self.moment.policy)
        shadows = [self.held.get(name) for name in (_pool(candidate), _partition(job.tenant, candidate))]
        return all(
            shadow is None or end_s <= shadow.at_s or candidate.devices <= shadow.spare for shadow in shadows
        )

    def note(self, job: Job, candidate: Candidate) -> None:
        """The job starts there now: it uses up what was left over if it outlasts a promise."""
        end_s = self.moment.now_s + duration_s(job.task, candidate.room.pool, self.moment.policy)
        for name in (_pool(candidate), _partition(job.tenant, candidate)):
            shadow = self.held.get(name)
            if shadow is not None and end_s > shadow.at_s:
                shadow.spare -= candidate.devices
            self._placed.setdefault(name, []).append((end_s, candidate.devices))
            self._ends.pop(name, None)

    def promise(self, job: Job, candidates: list[Candidate]) -> None:
        """The job is the first of its queue that cannot start: where it can soonest, devices are kept."""
        options = []
        for candidate in candidates:
            pool = candidate.room.pool
            free, name = candidate.room.free, _pool(candidate)
            limit = self.moment.partition(job.tenant, pool)
            if limit is not None:
                partition = _partition(job.tenant, candidate)
                left = limit - sum(devices for _, devices in self._ends_of(partition))
                if left < candidate.devices:
                    name, free = partition, left
            if name not in self.held:
                options.append((*self._free_at(name, free, candidate.devices), name))
        if options:
            at_s, spare, name = min(options, key=lambda option: (option[0], -option[1], option[2]))
            self.held[name] = Shadow(at_s, spare)

    def _free_at(self, name: Name, free: int, wanted: int) -> tuple[int, int]:
        at_s = self.moment.now_s
        for end_s, devices in sorted(self._ends_of(name)):
            if free >= wanted:
                return at_s, free - wanted
            free, at_s = free + devices, end_s
        return (at_s if free >= wanted else at_s + _OVERDUE_S), free - wanted

    def _ends_of(self, name: Name) -> list[tuple[int, int]]:
        """(expected end, devices) of each run in that pool or partition."""
        if name not in self._ends:
            state, now_s = self.moment.state, self.moment.now_s
            what, one, other = name
            if what == _POOL:
                runs = [state.runs[run] for run in state.open_runs.get(one, {})]
                held = [run for run in runs if run.pool == other]
            else:
                runs = [state.runs[run] for site in state.open_runs.values() for run in site]
                held = [run for run in runs if run.tenant == one and run.accelerator == other]
            ends = [(_end_s(run, now_s), run.devices) for run in held]
            self._ends[name] = ends + self._placed.get(name, [])
        return self._ends[name]


def _pool(candidate: Candidate) -> Name:
    return _POOL, candidate.room.site.name, candidate.room.pool.name


def _partition(tenant: str, candidate: Candidate) -> Name:
    return _PARTITION, tenant, candidate.room.pool.accelerator


def _end_s(run: Run, now_s: int) -> int:
    if run.expected_end_s > now_s:
        return run.expected_end_s
    return now_s + max(_OVERDUE_S, now_s - run.placed_at_s)
