"""What a grid's state says at this moment, as numbers by label.

Knows which indices answer cheaply: nothing here grows with the jobs that have ended, so that a reading holds
the state's lock for milliseconds however old the grid is. Does not know the format it is told in.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from suan import __version__
from suan.control.loop import Grid
from suan.doors.rest.metric_table import Few
from suan.grid.action import Plan
from suan.grid.artifact import Transfer
from suan.grid.market import price_at
from suan.grid.site import GRID_SITE, Pool, Site, SitePhase
from suan.grid.state import State
from suan.grid.units import MICROYUAN_PER_YUAN

Labels = tuple[str, ...]
Readings = dict[str, dict[Labels, float]]  # metric -> labels -> value
UNDECIDED = "undecided"  # submitted since the newest plan


class Names:
    """The names that may be labels, one set for a process: what was told once under its name stays so."""

    def __init__(self) -> None:
        self.tenant, self.site, self.pool, self.service = Few(200), Few(1000), Few(2000), Few(200)
        self.meter = Few(20)  # sites name it


def readings(grid: Grid, names: Names) -> Readings:
    """Every metric of `metric_table.READ`.

    Raises: NotNow `catching_up` from a follower that has lost its place in the journal.
    """
    now_s, plan, live = grid.now_s(), grid.plan, grid.live

    def view(state: State) -> Readings:
        return {
            **_jobs(state, plan, names),
            **_sites(state, live.heard_at_s, names, now_s),
            **_transfers(state, live.transfers),
            "suan_link_bytes_per_second": _links(state, names),
            **_money(state, names),
            "suan_journal_facts": {(): state.sequence},
            "suan_plan_gap_ratio": {(): state.clearing.gap_ratio if state.clearing else 0.0},
        }

    told = grid.read(view)
    trouble = {"stopped": bool(grid.trouble), "holding": bool(grid.complaint)}
    return {
        **told,
        "suan_build_info": {(__version__,): 1},
        "suan_leader": {(): grid.leads},
        "suan_trouble": {(what,): so for what, so in trouble.items()},
        "suan_plan_age_seconds": {(): max(0, now_s - plan.at_s)} if plan.at_s else {},
        "suan_lease_seconds": {(): grid.policy.lease_s},
    }


def _jobs(state: State, plan: Plan, names: Names) -> Readings:
    jobs: Counter[Labels] = Counter()
    for demand, queue in state.queues.items():
        jobs[names.tenant(str(demand[0])), "waiting"] += len(queue)
    runs: Counter[Labels] = Counter()
    for site, open_runs in state.open_runs.items():
        here = Counter((run.phase, run.tenant) for run in map(state.runs.__getitem__, open_runs))
        for (phase, tenant), count in here.items():
            runs[names.site(site), phase.value] += count
            jobs[names.tenant(tenant), "placed"] += count
    return {"suan_jobs": dict(jobs), "suan_runs": dict(runs), "suan_queue_jobs": _queue(state, plan)}


def _queue(state: State, plan: Plan) -> dict[Labels, float]:
    """Waiting jobs by reason: of those looked at one by one, and of whole classes for all their others."""
    waiting: Counter[Labels] = Counter()
    looked_at: Counter[object] = Counter()
    for job, reason in plan.reasons.items():
        if (demand := state.waiting.get(job)) is not None:
            waiting[(reason.code,)] += 1
            looked_at[demand] += 1
    for demand, queue in state.queues.items():
        others = len(queue) - looked_at[demand]
        reason = plan.demand_reasons.get(demand)
        if others > 0:
            waiting[(reason.code if reason else UNDECIDED,)] += others
    return dict(waiting)


def _sites(state: State, heard_at_s: dict[str, int], names: Names, now_s: int) -> Readings:
    sites = [site for name, site in state.sites.items() if name != GRID_SITE]
    phases = Counter({phase.value: 0 for phase in SitePhase})
    phases.update("draining" if site.draining else site.phase.value for site in sites)
    ages: dict[Labels, float] = {}
    prices: dict[Labels, float] = {}
    devices: Counter[Labels] = Counter()
    for site in sites:
        heard_s = max(site.heard_at_s, heard_at_s.get(site.name, 0), site.joined_at_s)
        ages[names.site(site.name),] = float(max(0, now_s - heard_s))
        for pool in site.pools.values():
            name = f"{site.name}/{pool.name}"
            where = (names.site(site.name), names.pool(name).rpartition("/")[2])
            for use, count in _uses(state, site, pool):
                devices[*where, pool.accelerator, use] += count
            price = price_at(state.clearing, name, now_s)
            prices[where] = price / MICROYUAN_PER_YUAN
    return {
        "suan_sites": {(phase,): count for phase, count in phases.items()},
        "suan_site_lease_age_seconds": ages,
        "suan_devices": dict(devices),
        "suan_clearing_price_yuan_per_device_hour": prices,
    }


def _uses(state: State, site: Site, pool: Pool) -> Iterator[tuple[str, int]]:
    used = state.used_devices.get((site.name, pool.name), 0)
    takes = site.phase is SitePhase.READY and not site.draining
    rest = max(0, pool.devices - used)
    yield "used", used
    yield "free", rest if takes else 0
    yield "out_of_reach", 0 if takes else rest


def _transfers(state: State, arrived_bytes: dict[str, int]) -> Readings:
    def pending(transfer: Transfer) -> int:
        return max(0, transfer.bytes - arrived_bytes.get(transfer.id, 0))

    going = [state.transfers[transfer] for transfer in state.open_transfers]
    return {
        "suan_transfers": {(): len(going)},
        "suan_transfer_pending_bytes": {(): sum(map(pending, going))},
    }


def _links(state: State, names: Names) -> dict[Labels, float]:
    return {
        (names.site(link.source), names.site(link.destination), link.origin): link.mbit_per_s * 1e6 / 8
        for link in state.links.values()
    }


def _money(state: State, names: Names) -> Readings:
    """From the balances; accounts are `tenant:NAME`, `site:NAME:WHAT` and others that are nobody's here."""
    paid, earned, lost = (defaultdict[Labels, float](float) for _ in range(3))
    for account, balance in state.balances.items():
        sort, _, name = account.partition(":")
        yuan = balance / MICROYUAN_PER_YUAN
        if sort == "tenant":
            paid[names.tenant(name),] -= yuan
        elif sort == "site":
            site, _, what = name.rpartition(":")
            if what == "lost":
                lost[names.site(site),] -= yuan
            else:
                earned[names.site(site), what] += yuan
    return {
        "suan_tenant_paid_yuan": dict(paid),
        "suan_site_earned_yuan": dict(earned),
        "suan_site_lost_yuan": dict(lost),
    }
