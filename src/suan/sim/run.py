"""The simulation: one grid, its sites, and a clock that jumps to the next moment at which anything can
happen.

The control plane is the real one. Nothing in it knows that its time is made up.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from suan.control.loop import Grid
from suan.grid import fact as f
from suan.grid.error import SuanError
from suan.grid.state import State
from suan.journals.memory import MemoryJournal
from suan.rules.admit import admit
from suan.sim.clock import VirtualClock
from suan.sim.faults import Faults, Strike
from suan.sim.network import CUTS, MESSAGE_FAULTS, Network
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
        self, world: World, arrivals: Sequence[Arrival], policy: NamedPolicy, *, seed: int = 0
    ) -> None:
        self.world, self.policy, self.arrivals = world, policy, arrivals
        self.clock = VirtualClock(world.start_s)
        self.decide_s: list[float] = []
        self.refused: dict[str, str] = {}  # jobs that the grid did not admit, and why
        self.wall_s = 0.0
        self.sites = {site.name: _site(site, self.clock) for site in world.sites}
        self.journal = MemoryJournal()
        self._touched: dict[str, None] = {}
        self._dirty = True
        self._open_jobs: set[str] = set()
        self._arrived = 0
        self._faults = Faults(world.faults, tuple(self.sites), seed, world.start_s)
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
        self.network.calm()
        for site in self.sites.values():
            site.want_full()
        self._instant()
        for site in self.sites.values():
            site.want_full()
        self._instant()

    # ---------------------------------------------------------------- time

    def _is_over(self) -> bool:
        return self._arrived >= len(self.arrivals) and not self._open_jobs

    def _next_s(self) -> int | None:
        """The next moment at which anything can happen; None when only faults are left, which finish no
        job."""
        moments = [self.network.next_s(), self.grid.plan.wake_at_s]
        moments.extend(site.next_s() for site in self.sites.values())
        if self._arrived < len(self.arrivals):
            moments.append(self.world.start_s + self.arrivals[self._arrived].at_s)
        if self.network.is_troubled:
            moments.append(self.grid.wake_at_s())
        if any(at_s is not None for at_s in moments):
            moments.append(self._faults.next_s())
        now_s = self.clock.now_s()
        return min((max(at_s, now_s + 1) for at_s in moments if at_s is not None), default=None)

    def _instant(self) -> None:
        """Everything of one moment: faults, messages, arrivals, then plans and orders until all is at
        rest."""
        now_s = self.clock.now_s()
        for strike in self._faults.take(now_s):
            self._strike(strike, now_s)
        self.network.pass_time(now_s)
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
            self._arrived += 1
            if arrival.data is not None:
                self._put(arrival, now_s)
            self._admit(arrival)

    def _admit(self, arrival: Arrival) -> None:
        def submit(state: State, at_s: int) -> tuple[Sequence[f.Fact], None]:
            return admit(state, arrival.tenant, (arrival.task,), now_s=at_s), None

        try:
            self.grid.do(submit)
        except SuanError as error:
            self.refused[arrival.task.name] = str(error)

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

    # ---------------------------------------------------------------- faults

    def _strike(self, strike: Strike, now_s: int) -> None:
        site = self.sites[strike.site]
        if strike.kind in (*CUTS, *MESSAGE_FAULTS):
            self.network.trouble(site.name, strike.kind, now_s + strike.for_s, now_s)
        elif strike.kind == "grid_restart":
            self.network.grid = self._new_grid()
            for each in self.sites.values():
                each.want_full()
            self.fired[strike.kind] += 1
        elif strike.kind == "failed_transfer":
            transfers = site.mover.going_on()
            if transfers:
                site.mover.fail(transfers[int(strike.draw * len(transfers))])
                self.fired[strike.kind] += 1
        elif runs := site.engine.going_on():
            run = runs[int(strike.draw * len(runs))]
            if strike.kind == "run_crash":
                site.engine.crash(run)
            elif strike.kind == "node_loss":
                site.engine.lose(run)
            else:
                site.forget_running(run)
            self.fired[strike.kind] += 1


def _site(site: SiteWorld, clock: VirtualClock) -> SimulatedSite:
    return SimulatedSite(site.name, clock, site.pools, by_node=site.by_node)
