"""The simulation: one grid, its sites, and a clock that jumps to the next moment at which anything can
happen.

The control plane is the real one. Nothing in it knows that its time is made up.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from suan.control.commands.command import Command
from suan.control.commands.jobs import submit
from suan.control.loop import Grid
from suan.grid import fact as f
from suan.grid.action import FetchOrder
from suan.grid.error import NotNow, Refused, SiteTrouble
from suan.grid.job import TERMINAL_PHASES
from suan.grid.state import State
from suan.sim.clock import VirtualClock
from suan.sim.faults import Faults, Schedule, Strike
from suan.sim.faults_effects import Effects
from suan.sim.faults_journal import FailingJournal
from suan.sim.network import OUTAGE, Network
from suan.sim.policies import NamedPolicy
from suan.sim.site import SimulatedSite
from suan.sim.trace import Arrival
from suan.sim.world import SiteWorld, World

_SILENT_FACTS = (f.RunStarted, f.RunPlaced, f.RunStopOrdered, f.TransferOrdered, f.Settled, f.ReplicaAdded)
_MOST_ROUNDS = 1000  # of messages and plans within one instant; more means that they never come to rest


class Simulation:
    """One policy over one world and its arrivals. `run` once, then read `state`, `facts`, `sites` and the
    counts."""

    def __init__(
        self,
        world: World,
        arrivals: Sequence[Arrival],
        policy: NamedPolicy,
        *,
        seed: int = 0,
        strikes: Sequence[Strike] | None = None,
    ) -> None:
        """`strikes` take the place of the faults that the world declares."""
        self.world, self.policy, self.arrivals = world, policy, arrivals
        self.clock = VirtualClock(world.start_s)
        self.decide_s: list[float] = []
        self.refused: dict[str, str] = {}  # jobs that the grid did not admit, and why
        self.wall_s = 0.0
        self.sites = {site.name: _site(site, self.clock) for site in world.sites}
        for site in self.sites.values():
            site.mover.refusal = self._no_source
        self.journal = FailingJournal()
        self._touched: dict[str, None] = {}
        self._dirty = True
        self._open_jobs: set[str] = set()
        self._arrived = 0
        self._down_until_s: int | None = None  # while no control plane is there
        self._faults: Faults | Schedule = Faults(world.faults, tuple(self.sites), seed, world.start_s)
        if strikes is not None:
            self._faults = Schedule(strikes)
        self._effects = Effects(self)
        self.network = Network(self._new_grid(), self.sites.values(), seed)
        self._set_up()

    @property
    def grid(self) -> Grid:
        return self.network.grid

    @property
    def state(self) -> State:
        return self.grid.state

    @property
    def fired(self) -> Counter[str]:
        """How often each kind of fault really did something."""
        return self.network.fired

    def facts(self) -> Iterator[f.Fact]:
        """Everything that happened, in order."""
        return (fact for _, fact in self.journal.read())

    def run(self, until_s: int | None = None) -> None:
        """Until every job has ended, nothing can happen any more, or `until_s` seconds have passed."""
        began_s = time.perf_counter()
        end_s = None if until_s is None else self.world.start_s + until_s
        self._instant()
        while not self._is_over():
            at_s = self._next_s()
            if at_s is None or (end_s is not None and at_s > end_s):
                break
            self.clock.advance_to(at_s)
            self._instant()
        if end_s is not None and not self._is_over():
            self.clock.advance_to(end_s)
        self.wall_s += time.perf_counter() - began_s

    def calm_down(self) -> None:
        """Ends all trouble and lets every site tell everything: what is left is what the grid really
        knows."""
        self._faults.take(self.clock.now_s())  # those that nothing was going on for
        self.network.calm()
        self.journal.spare()
        if self.is_down:
            self._down_until_s = self.clock.now_s()
        self._all_tell()
        self._effects.calm()
        self._all_tell()
        self._all_tell()

    def _all_tell(self) -> None:
        for site in self.sites.values():
            site.want_full()
        self._instant()

    # ---------------------------------------------------------------- time

    def _is_over(self) -> bool:
        return self._arrived >= len(self.arrivals) and not self._open_jobs

    def _next_s(self) -> int | None:
        """The next moment at which anything can happen; None when only faults are left, which finish no
        job."""
        moments = [self.network.next_s(), self._effects.next_s(), self._down_until_s]
        moments.extend(site.next_s() for site in self.sites.values())
        if not self.is_down:
            moments.append(self.grid.plan.wake_at_s)
            if self._arrived < len(self.arrivals):
                moments.append(self.world.start_s + self.arrivals[self._arrived].at_s)
            if self.network.is_troubled:
                moments.append(self.grid.wake_at_s())
        if any(at_s is not None for at_s in moments):
            moments.append(self._faults.next_s())
        now_s = self.clock.now_s()
        return min((max(at_s, now_s + 1) for at_s in moments if at_s is not None), default=None)

    def _instant(self) -> None:
        """Everything of one moment. A journal that fails ends it, and the control plane with it."""
        try:
            self._happen(self.clock.now_s())
        except SiteTrouble as trouble:
            if trouble.code != "journal_failed":
                raise
            self.fired["journal_failure"] += 1
            self.take_down(self.journal.outage_s)

    def _happen(self, now_s: int) -> None:
        """Faults, messages, arrivals, then plans and orders until all is at rest."""
        if self._down_until_s is not None and self._down_until_s <= now_s:
            self.start_grid()
        for strike in self._faults.take(now_s):
            self._effects.strike(strike, now_s)
        self._effects.pass_time(now_s)
        self.network.pass_time(now_s)
        if self.is_down:
            return
        self._submit(now_s)
        self._dirty = True
        for _ in range(_MOST_ROUNDS):
            touched, self._touched = self._touched, {}
            self.network.exchange(touched, now_s)
            if self._dirty:
                self._dirty = False
                self.grid.tick()
            if not self._touched and not self._dirty:
                return
        raise AssertionError(f"the grid does not come to rest at {now_s - self.world.start_s} s")

    def _submit(self, now_s: int) -> None:
        while self._arrived < len(self.arrivals):
            arrival = self.arrivals[self._arrived]
            if self.world.start_s + arrival.at_s > now_s:
                return
            if arrival.data is not None:
                self._put(arrival, now_s)
            tasks = (arrival.task, *arrival.then)
            # Who does not hear the answer asks again: the key makes it one submission.
            command = submit(arrival.tenant, tasks, idempotency_key=f"arrival-{self._arrived}")
            try:
                self.grid.do(command)
            except (Refused, NotNow) as error:
                self.refused[arrival.task.name] = str(error)
            self._arrived += 1

    def operate(self, command: Command[None]) -> bool:
        """Whether the grid is there and has taken an operator's or a user's command."""
        if self.is_down:
            return False
        try:
            self.grid.do(command)
        except (Refused, NotNow):
            return False
        return True

    def _put(self, arrival: Arrival, now_s: int) -> None:
        """The job's data lie at their site by the time it is submitted."""
        artifact, site = arrival.data, arrival.data_site
        assert artifact is not None
        if artifact.id not in self.state.artifacts:
            self.sites[site].store[artifact.digest] = artifact.bytes
            facts = (
                f.ArtifactCommitted(at_s=now_s, artifact=artifact),
                f.ReplicaAdded(at_s=now_s, artifact=artifact.id, site=site),
            )
            self.grid.do(lambda state, at_s: (facts, None))

    # ---------------------------------------------------------------- the grid

    def _new_grid(self) -> Grid:
        decider, seconds = self.policy.decider, self.decide_s

        def timed(*given: Any) -> Any:
            began_s = time.perf_counter()
            plan = decider(*given)
            seconds.append(time.perf_counter() - began_s)
            return plan

        grid = Grid(self.journal, self.clock, self.policy.policy, secret=b"simulated", decider=timed)
        grid.listen(self._hear)
        return grid

    def _set_up(self) -> None:
        now_s = self.clock.now_s()
        facts: list[f.Fact] = []
        for tenant in dict.fromkeys(arrival.tenant for arrival in self.arrivals):
            facts.append(f.TenantSet(at_s=now_s, tenant=tenant))
        for site in self.world.sites:
            facts.append(f.SiteJoined(at_s=now_s, site=site.name, region=site.region, engine="simulated"))
            if site.tariff is not None:
                facts.append(f.TariffSet(at_s=now_s, tariff=site.tariff))
        facts.extend(f.LinkSet(at_s=now_s, link=link) for link in self.world.links)
        self.grid.do(lambda state, at_s: (facts, None))
        for connection in self.sites.values():
            connection.connect(True, self.policy.policy.lease_s)

    def _hear(self, news: list[tuple[int, f.Fact]]) -> None:
        """New facts: whom they concern, and whether they call for another plan."""
        for _, fact in news:
            if not isinstance(fact, _SILENT_FACTS):
                self._dirty = True
            match fact:
                case f.RunPlaced():
                    self._touched[fact.bid.site] = None
                case f.RunStopOrdered():
                    self._touched[self.state.runs[fact.run].site] = None
                case f.TransferOrdered():
                    self._touched[fact.destination] = None
                case f.TransferEnded():
                    self._touched[self.state.transfers[fact.transfer].destination] = None
                case f.SiteReturned():
                    self._touched[fact.site] = None
                case f.JobSubmitted():
                    self._open_jobs.add(fact.job)
                case f.JobEnded():
                    self._open_jobs.discard(fact.job)

    # ---------------------------------------------------------------- outages

    @property
    def is_down(self) -> bool:
        """Whether no control plane is there."""
        return self._down_until_s is not None

    def take_down(self, for_s: int) -> None:
        """The control plane is killed, and nobody starts it again for so long."""
        now_s = self.clock.now_s()
        self._down_until_s = max(now_s + for_s, self._down_until_s or 0)
        for name in self.sites:
            self.network.trouble(name, OUTAGE, self._down_until_s, now_s)

    def start_grid(self) -> None:
        """A control plane takes over from the journal as it is."""
        self._down_until_s = None
        self.journal.reopen()
        self.network.grid = self._new_grid()
        jobs = self.state.jobs.values()
        self._open_jobs = {job.id for job in jobs if job.phase not in TERMINAL_PHASES}
        self._dirty = True
        for site in self.sites.values():
            site.want_full()

    def _no_source(self, order: FetchOrder) -> str:
        """Why the source of a fetch cannot give it; "" when it can."""
        transfer = self.state.transfers.get(order.transfer)
        source = self.sites.get(transfer.source) if transfer is not None else None
        return source.read(order.digest) if source is not None else ""


def _site(site: SiteWorld, clock: VirtualClock) -> SimulatedSite:
    return SimulatedSite(site.name, clock, site.pools, by_node=site.by_node)
