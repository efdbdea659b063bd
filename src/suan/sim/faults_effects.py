"""What each kind of fault does to a simulation, and what ends it.

Knows sites, engines and operators' commands. When a fault strikes is `faults`'s matter, what happens to
messages the network's.
"""

import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from suan.control.commands.jobs import stop_jobs
from suan.control.commands.keys import set_tenant
from suan.control.commands.sites import drain_site, set_link, set_tariff
from suan.grid.account import Budget, Tenant
from suan.grid.job import TERMINAL_PHASES
from suan.grid.site import Series, Tariff
from suan.grid.units import HOUR_S
from suan.sim.faults import Strike
from suan.sim.network import CUTS, MESSAGE_FAULTS, OUTAGE

if TYPE_CHECKING:
    from suan.sim.run import Simulation

_AGAIN_S = 60  # an operator whose command was not taken tries again
_STEP_S = HOUR_S  # of a clock


class _Undo(NamedTuple):
    at_s: int
    serial: int
    what: Callable[[], bool]  # False: not now


class Effects:
    """The faults that lie on one simulation."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._undo: list[_Undo] = []
        self._serial = 0
        self._tenants: dict[str, Tenant] = {}  # as they were before anybody changed them
        self._lost: dict[tuple[str, str], int] = {}  # (site, digest) -> bytes that are not there any more
        self._kinds: dict[str, Callable[[Strike], bool]] = {
            "grid_restart": self._restart,
            "journal_failure": self._fail_journal,
            "failed_transfer": self._fail_transfer,
            "node_down": self._fail_node,
            "clock_step": self._step_clock,
            "lost_artifact": self._lose_artifact,
            "corrupt_artifact": self._damage_artifact,
            "drain": self._drain,
            "tariff_change": self._change_tariff,
            "link_change": self._change_link,
            "quota_change": self._change_quota,
            "budget_cut": self._cut_budget,
            "cancel_storm": self._cancel,
        }

    def next_s(self) -> int | None:
        """When the next fault ends by itself; None when none will."""
        return self._undo[0].at_s if self._undo else None

    def strike(self, strike: Strike, now_s: int) -> None:
        """The fault happens, if there is anything that it can happen to."""
        run = self._simulation
        if strike.kind == OUTAGE:
            run.take_down(strike.for_s)
        elif strike.kind in (*CUTS, *MESSAGE_FAULTS):
            run.network.trouble(strike.site, strike.kind, now_s + strike.for_s, now_s)
            return
        elif not self._kinds.get(strike.kind, self._befall_run)(strike):
            return
        if strike.kind != "journal_failure":  # which is counted when it comes to that
            run.fired[strike.kind] += 1

    def pass_time(self, now_s: int) -> None:
        """What was to end by now ends."""
        while self._undo and self._undo[0].at_s <= now_s:
            what = self._undo[0].what
            is_done = what()  # a journal that fails in it leaves it to be done
            heapq.heappop(self._undo)
            if not is_done:
                self._later(_AGAIN_S, what)

    def calm(self) -> None:
        """Ends everything that would end by itself, and what was lost everywhere is put back by its owner."""
        due, self._undo = sorted(self._undo), []
        for undo in due:
            if not undo.what():
                self._later(_AGAIN_S, undo.what)
        sites = self._simulation.sites
        for (site, digest), size_bytes in self._lost.items():
            if not any(digest in one.store for one in sites.values()):
                sites[site].store[digest] = size_bytes
        self._lost.clear()
        for one in sites.values():
            for digest in list(one.corrupt):
                del one.corrupt[digest]

    def _later(self, after_s: int, what: Callable[[], bool]) -> None:
        self._serial += 1
        heapq.heappush(self._undo, _Undo(self._simulation.clock.now_s() + after_s, self._serial, what))

    # ---------------------------------------------------------------- the grid

    def _restart(self, strike: Strike) -> bool:
        run = self._simulation
        if not run.is_down:
            run.start_grid()
        return not run.is_down

    def _fail_journal(self, strike: Strike) -> bool:
        self._simulation.journal.fail(strike.draw, strike.for_s)
        return True

    # ---------------------------------------------------------------- sites

    def _befall_run(self, strike: Strike) -> bool:
        site = self._simulation.sites[strike.site]
        runs = site.engine.going_on()
        if not runs:
            return False
        run = runs[int(strike.draw * len(runs))]
        if strike.kind == "run_crash":
            site.engine.crash(run)
        elif strike.kind == "node_loss":
            site.engine.lose(run)
        else:
            site.forget_running(run)
        return True

    def _fail_transfer(self, strike: Strike) -> bool:
        mover = self._simulation.sites[strike.site].mover
        if not (transfers := mover.going_on()):
            return False
        mover.fail(transfers[int(strike.draw * len(transfers))])
        return True

    def _fail_node(self, strike: Strike) -> bool:
        site = self._simulation.sites[strike.site]
        nodes = [(pool.name, node) for pool in site.engine.pools() for node in range(pool.nodes)]
        if not nodes:
            return False
        pool, node = nodes[int(strike.draw * len(nodes))]
        if not site.engine.fail_node(pool, node):
            return False
        site.want_full()

        def mend() -> bool:
            site.engine.mend_node(pool, node)
            site.want_full()
            return True

        self._later(strike.for_s, mend)
        return True

    def _step_clock(self, strike: Strike) -> bool:
        site = self._simulation.sites[strike.site]
        site.clock_off_s = _STEP_S if strike.draw < 0.5 else -_STEP_S

        def set_right() -> bool:
            site.clock_off_s = 0
            return True

        self._later(strike.for_s, set_right)
        return True

    def _lose_artifact(self, strike: Strike) -> bool:
        site = self._simulation.sites[strike.site]
        if (digest := self._remember(strike)) == "":
            return False
        del site.store[digest]
        site.want_full()
        return True

    def _damage_artifact(self, strike: Strike) -> bool:
        if (digest := self._remember(strike)) == "":
            return False
        self._simulation.sites[strike.site].corrupt[digest] = None
        return True

    def _remember(self, strike: Strike) -> str:
        """A digest that lies at the site, which will be put back when all is over; "" when none does."""
        store = self._simulation.sites[strike.site].store
        if not store:
            return ""
        digest = sorted(store)[int(strike.draw * len(store))]
        self._lost[strike.site, digest] = store[digest]
        return digest

    # ---------------------------------------------------------------- operators and users

    def _drain(self, strike: Strike) -> bool:
        run = self._simulation
        # Undone in any case: a command whose answer was a failing journal may have been written all the same.
        self._later(strike.for_s, lambda: run.operate(drain_site(strike.site, False)))
        return run.operate(drain_site(strike.site, True))

    def _change_tariff(self, strike: Strike) -> bool:
        """Other prices by the hour, from now on or from the next hour on."""
        run, chance = self._simulation, random.Random(strike.draw)
        now_s = run.clock.now_s()
        tariff = Tariff(
            site=strike.site,
            prices=Series(
                start_at_s=now_s // HOUR_S * HOUR_S,
                microyuan_per_kwh=tuple(chance.randint(0, 2_000_000) for _ in range(24)),
                gco2_per_kwh=(chance.uniform(0, 900),),
            ),
            pue=chance.choice((1.0, 1.3, 1.8)),
            source="changed",
            valid_from_s=now_s + chance.choice((0, HOUR_S)),
        )
        return run.operate(set_tariff(tariff))

    def _change_link(self, strike: Strike) -> bool:
        run, chance = self._simulation, random.Random(strike.draw)
        links = [link for link in run.state.links.values() if strike.site in (link.source, link.destination)]
        if not links:
            return False
        link = chance.choice(links)
        faster = chance.choice((0.1, 0.5, 4.0))
        price = chance.randint(0, 50_000)
        return run.operate(
            set_link(replace(link, mbit_per_s=link.mbit_per_s * faster, microyuan_per_gb=price))
        )

    def _change_quota(self, strike: Strike) -> bool:
        def changed(tenant: Tenant, chance: random.Random) -> Tenant:
            tables = {
                name: {kind: chance.randint(0, 2 * most) for kind, most in table.items()}
                for name in ("nominal_devices", "borrow_devices", "lend_devices")
                if (table := getattr(tenant.quota, name))
            }
            return replace(tenant, quota=replace(tenant.quota, **tables))

        return self._change_tenant(
            strike, lambda one: bool(one.quota.nominal_devices or one.quota.borrow_devices), changed
        )

    def _cut_budget(self, strike: Strike) -> bool:
        """What the tenant has spent is all that it may spend."""

        def changed(tenant: Tenant, chance: random.Random) -> Tenant:
            spent = -self._simulation.state.balances.get(f"tenant:{tenant.name}", 0)
            return replace(tenant, budget=Budget(limit_microyuan=max(0, spent)))

        return self._change_tenant(strike, lambda one: True, changed)

    def _change_tenant(
        self,
        strike: Strike,
        is_one: Callable[[Tenant], bool],
        changed: Callable[[Tenant, random.Random], Tenant],
    ) -> bool:
        run, chance = self._simulation, random.Random(strike.draw)
        tenants = [one for one in run.state.tenants.values() if is_one(one)]
        if not tenants:
            return False
        tenant = chance.choice(tenants)
        before = self._tenants.setdefault(tenant.name, tenant)
        self._later(strike.for_s, lambda: run.operate(set_tenant(before)))  # as a drain is
        return run.operate(set_tenant(changed(tenant, chance)))

    def _cancel(self, strike: Strike) -> bool:
        """Somebody stops half of everything."""
        run, chance = self._simulation, random.Random(strike.draw)
        jobs = [job.id for job in run.state.jobs.values() if job.phase not in TERMINAL_PHASES]
        chosen = tuple(chance.sample(jobs, (len(jobs) + 1) // 2))
        return bool(chosen) and run.operate(stop_jobs(chosen, by="somebody"))
