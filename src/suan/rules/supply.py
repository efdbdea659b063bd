"""What each pool has free, now and by forecast, while one plan is being made.

Reads runs and their expected ends, those only where somebody has to wait. Reservations made here keep small
jobs from starving a large one (EASY backfill).
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from itertools import accumulate

from suan.grid.site import Pool, Site, SitePhase
from suan.grid.state import State

OVERDUE_S = (
    60  # a run past its expected end goes on for at least so long, or as long again as it has run so far
)


@dataclass(slots=True)
class Supply:
    """One pool within one plan."""

    site: Site
    pool: Pool
    free: int
    state: State
    now_s: int
    reserved_at_s: int | None = None  # when the job that holds a reservation starts
    spare_at_s: int = 0  # devices left over at that moment
    backlog_device_s: int = 0  # work of jobs that wait for this pool, already looked at
    name: str = ""
    _ends: list[tuple[int, int]] | None = None
    _totals: list[int] | None = None  # running sum of what the ends give back
    _unknown_devices_per_s: float = 0.0  # that runs of a length nobody knows should give back
    _taken: list[tuple[int, int]] = field(default_factory=list)

    @property
    def ends(self) -> list[tuple[int, int]]:
        """(expected end, devices) of every run in the pool, sorted."""
        if self._ends is None:
            self._ends, self._unknown_devices_per_s = _expected_ends(
                self.state, self.site.name, self.pool.name, self.now_s
            )
            self._ends.extend(self._taken)
            self._ends.sort()
        return self._ends

    def can_start(self, devices: int, now_s: int, run_s: int) -> bool:
        """Whether so many devices are free now and a reserved job would not start later for it."""
        if devices > self.free:
            return False
        if self.reserved_at_s is None or now_s + run_s <= self.reserved_at_s:
            return True
        return devices <= self.spare_at_s

    def forecast_s(self, devices: int, now_s: int, run_s: int) -> int:
        """When so many devices should be free: exactly for the first to wait, with the backlog spread after
        it.
        """
        if self.can_start(devices, now_s, run_s):
            return now_s
        if self.reserved_at_s is None:
            return self._free_at(devices, now_s)
        return self.reserved_at_s + max(1, self.backlog_device_s // max(1, self.pool.devices))

    def _free_at(self, devices: int, now_s: int) -> int:
        ends = self.ends
        if self._totals is None:
            self._totals = list(accumulate((held for _, held in ends), initial=0))
        totals = self._totals
        index = bisect_left(totals, devices - self.free)
        if index >= len(totals):  # devices that no run holds are missing: the pool shrank
            return now_s + OVERDUE_S
        return max(self.ends[index - 1][0] if index else now_s, now_s + 1)

    def likely_s(self, devices: int, forecast_s: int) -> int:
        """When so many devices are likely to be free: of many guessed ends the first come true early, which
        the forecast, made of each by itself, does not know.
        """
        if not self.ends or not self._unknown_devices_per_s:
            return forecast_s
        missing = max(0, devices - self.free)
        return min(forecast_s, self.now_s + round(missing / self._unknown_devices_per_s))

    def take(self, devices: int, end_s: int) -> None:
        """A run starts now."""
        self.free -= devices
        if self.reserved_at_s is not None and end_s > self.reserved_at_s:
            self.spare_at_s -= devices
        self._totals = None
        if self._ends is None:
            self._taken.append((end_s, devices))
        else:
            insort(self._ends, (end_s, devices))

    def wait(self, devices: int, start_s: int, run_s: int) -> None:
        """A job waits for this pool; the first to wait gets a reservation."""
        if self.reserved_at_s is None:
            freed = sum(held for end_s, held in self.ends if end_s <= start_s)
            self.reserved_at_s, self.spare_at_s = start_s, self.free + freed - devices
        self.backlog_device_s += devices * run_s


def supplies(state: State, now_s: int) -> list[Supply]:
    """Every pool that takes runs, sorted by name, with what is free."""
    found: dict[tuple[str, str], Supply] = {}
    for site in state.sites.values():
        if site.phase != SitePhase.READY:
            continue
        for pool in site.pools.values():
            free = pool.devices - state.used_devices.get((site.name, pool.name), 0)
            name = f"{site.name}/{pool.name}"
            found[site.name, pool.name] = Supply(
                site=site, pool=pool, free=free, state=state, now_s=now_s, name=name
            )
    return [found[key] for key in sorted(found)]


def _expected_ends(state: State, site: str, pool: str, now_s: int) -> tuple[list[tuple[int, int]], float]:
    """When each run should end with how many devices; and at which rate guessed ends give devices back."""
    ends, rate = [], 0.0
    for run_id in state.open_runs.get(site, {}):
        run = state.runs[run_id]
        if run.pool == pool:
            end_s = run.expected_end_s
            if end_s <= now_s:
                end_s = now_s + max(OVERDUE_S, now_s - run.placed_at_s)
            ends.append((end_s, run.devices))
            if state.jobs[run.job].task.duration_s is None:
                rate += run.devices / (end_s - now_s)
    return ends, rate
