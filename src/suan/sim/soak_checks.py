"""What a soak looks for beside `check`: ends before their time, money, limits and indices counted anew, data
that are not where the grid believes them, and jobs that wait without need.

Counts from facts, and from what really went on at the sites. Shares no code with the rules that it checks,
but for `evolve`, which makes states of facts.
"""

from collections import Counter
from collections.abc import Iterator

from suan.grid import fact as f
from suan.grid.account import Tenant
from suan.grid.job import TERMINAL_PHASES, EndCause, Job, JobPhase, Priority, Resources, Run, RunPhase
from suan.grid.site import Pool, Site, Tariff, hour_rate
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.journals.codec import decode, encode
from suan.rules.evolve import evolve
from suan.sim.run import Simulation

_EARLY = "was over for the grid"


def is_ours(run: Simulation) -> bool:
    """Whether the grid's own rules decide. Baselines know no borrowing and no budgets, and a job that can
    never start may block them for ever."""
    return run.policy.name in ("market", "greedy")


def complaints(run: Simulation) -> Iterator[str]:
    """Everything that is wrong, in words. Call it after `calm_down`."""
    yield from _ends(run)
    yield from _replay(run)
    yield from _indices(run.state)
    yield from _money(run)
    yield from _submissions(run)
    yield from _replicas(run)
    if is_ours(run):
        yield from _limits(run)
        yield from _stops(run)


# ---------------------------------------------------------------- what really went on


def _ends(run: Simulation) -> Iterator[str]:
    """Nothing goes on that the grid believes over, and nothing that it ended begins after that."""
    ended_s: dict[str, int] = {}
    for fact in run.facts():
        if isinstance(fact, f.RunEnded):
            ended_s.setdefault(fact.run, fact.at_s)
    for name, site in run.sites.items():
        for one in site.engine.stretches:
            if one.ended_at_s > ended_s.get(one.run, one.ended_at_s):
                yield f"{one.run} {_EARLY} at {ended_s[one.run]}, and ended at {name} at {one.ended_at_s}"


def _replicas(run: Simulation) -> Iterator[str]:
    """What the grid believes at a site is there, and what it committed is somewhere."""
    state = run.state
    for artifact, places in state.replicas.items():
        digest = state.artifacts[artifact].digest
        for name in places:
            if digest not in run.sites[name].store:
                yield f"{artifact} is not at {name}, where the grid believes it"
    for artifact, known in state.artifacts.items():
        there = [name for name, site in run.sites.items() if known.digest in site.store]
        if there and not state.replicas.get(artifact):
            yield f"{artifact} is at {there[0]}, and the grid believes it nowhere"


def _submissions(run: Simulation) -> Iterator[str]:
    """What was submitted is there once, however often it was tried."""
    expected = [
        task.name
        for arrival in run.arrivals
        if arrival.task.name not in run.refused
        for task in (arrival.task, *arrival.then)
    ]
    found = [job.task.name for job in run.state.jobs.values()]
    if sorted(expected) != sorted(found):
        yield f"submitted were {sorted(expected)}, there are {sorted(found)}"


# ---------------------------------------------------------------- the state


def _replay(run: Simulation) -> Iterator[str]:
    """Written to bytes, read and folded, the facts give the same state, with versions that count up."""
    state = State()
    for sequence, fact in run.journal.read():
        if isinstance(fact, f.ArtifactCommitted):
            series, _, version = fact.artifact.id.partition("@")
            if int(version) != state.latest.get(series, 0) + 1:
                yield f"{fact.artifact.id} follows version {state.latest.get(series, 0)}"
        evolve(state, decode(encode(fact), sequence))
    if state != run.state:
        yield "the journal's bytes fold to another state than the grid's"


def _indices(state: State) -> Iterator[str]:
    """What the state keeps beside its nouns is what the nouns say."""
    open_runs = [run for run in state.runs.values() if run.phase != RunPhase.ENDED]
    used, held = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for run in open_runs:
        used[run.site, run.pool] += run.devices
        held[run.tenant, run.accelerator] += run.devices
    waiting = {job.id for job in state.jobs.values() if job.phase == JobPhase.WAITING}
    counted: dict[str, tuple[object, object]] = {
        "open_runs": (
            {run.id for run in open_runs},
            {name for runs in state.open_runs.values() for name in runs},
        ),
        "used_devices": (used, Counter({key: n for key, n in state.used_devices.items() if n})),
        "tenant_devices": (held, Counter({key: n for key, n in state.tenant_devices.items() if n})),
        "waiting": (waiting, set(state.waiting)),
        "queues": (len(waiting), sum(len(queue) for queue in state.queues.values())),
        "held": (
            {(artifact, site) for artifact, sites in state.replicas.items() for site in sites},
            {(artifact, site) for site, artifacts in state.held.items() for artifact in artifacts},
        ),
    }
    for name, (expected, kept) in counted.items():
        if expected != kept:
            yield f"{name} is {kept}, counted anew {expected}"


# ---------------------------------------------------------------- money


def _money(run: Simulation) -> Iterator[str]:
    """Each movement is what the facts and the prices of its placement come to, and went to who is to pay."""
    state = run.state
    paid: dict[str, tuple[str, int]] = {}
    accounts: Counter[str] = Counter()
    for entry in state.entries:
        accounts[entry.account] += entry.amount_microyuan
        if entry.what == "pays":
            paid[entry.movement] = (entry.account, -entry.amount_microyuan)
    if +accounts != +Counter(state.balances) or -accounts != -Counter(state.balances):
        yield "the balances are not the sums of the entries"
    tariffs: dict[str, Tariff] = {}  # as they were when the run was placed
    due: dict[str, tuple[str, float]] = {}
    started: dict[str, int] = {}
    known = State()
    for fact in run.facts():
        if isinstance(fact, f.RunPlaced) and (tariff := known.tariff(fact.bid.site, fact.at_s)):
            tariffs[fact.run] = tariff
        elif isinstance(fact, f.TariffSet):
            evolve(known, fact)
        elif isinstance(fact, f.RunStarted):
            started.setdefault(fact.run, fact.started_at_s)
        elif isinstance(fact, f.RunEnded) and fact.run in started and fact.usage.device_s:
            one = state.runs[fact.run]
            payer = f"tenant:{one.tenant}"
            if fact.cause in (EndCause.FENCED, EndCause.LOST):
                payer = f"site:{one.site}:lost"
            due[fact.run] = (payer, _due(one, fact, started[fact.run], tariffs.get(fact.run)))
    for movement, (payer, amount) in due.items():
        account, said = paid.get(movement, ("nobody", 0))
        if account != payer or abs(said - amount) > 4 + 1e-9 * amount:
            yield f"{movement}: {account} paid {said}, {payer} had to pay {amount:.0f}"
    for movement in paid:
        if movement in state.runs and movement not in due:
            yield f"{movement} was paid for, and took nothing"


def _due(one: Run, end: f.RunEnded, started_s: int, tariff: Tariff | None) -> float:
    """Machine, electricity and carbon of a run, in micro-yuan."""
    machine = end.usage.device_s / HOUR_S * one.quote.machine_microyuan_per_device_h
    if tariff is None:
        return machine
    ended_s = max(started_s + 1, end.ended_at_s or end.at_s)
    money = gco2 = 0.0
    for hour in range(started_s // HOUR_S, (ended_s - 1) // HOUR_S + 1):
        part_s = min(ended_s, (hour + 1) * HOUR_S) - max(started_s, hour * HOUR_S)
        price, intensity = hour_rate(tariff, hour)
        money, gco2 = money + part_s * price, gco2 + part_s * intensity
    kwh, span_s = end.usage.energy_kwh * tariff.pue, ended_s - started_s
    return machine + kwh * (money + gco2 / 1000 * one.quote.carbon_microyuan_per_kg) / span_s


# ---------------------------------------------------------------- limits


def _limits(run: Simulation) -> Iterator[str]:
    """No placement makes a quota or a budget worse than it is allowed to be."""
    state = State()
    promised: Counter[str] = Counter()
    use: Counter[tuple[str, str]] = Counter()  # (kind, tenant) -> devices
    for fact in run.facts():
        if isinstance(fact, f.RunEnded) and state.runs[fact.run].phase != RunPhase.ENDED:
            one = state.runs[fact.run]
            promised[one.tenant] -= one.quote.billed_microyuan
            use[one.accelerator, one.tenant] -= one.devices
        evolve(state, fact)
        if not isinstance(fact, f.RunPlaced):
            continue
        one = state.runs[fact.run]
        kind, tenant = one.accelerator, one.tenant
        before = dict(_excess(state.tenants, kind, use))
        use[kind, tenant] += one.devices
        promised[tenant] += one.quote.billed_microyuan
        for name, excess in _excess(state.tenants, kind, use):
            if excess > max(0, before[name]):
                yield f"{name} holds {excess} {kind} above its limits after {fact.run}"
        limit = state.tenants[tenant].budget.limit_microyuan
        left = None if limit is None else limit + state.balances.get(f"tenant:{tenant}", 0)
        if left is not None and promised[tenant] > left:
            yield f"{tenant} has promised {promised[tenant]} of {left} micro-yuan with {fact.run}"
        most = state.jobs[one.job].task.max_cost_microyuan
        if most is not None and one.quote.billed_microyuan > most:
            yield f"{fact.run} costs {one.quote.billed_microyuan}, at most {most} were allowed"


def _excess(tenants: dict[str, Tenant], kind: str, use: Counter[tuple[str, str]]) -> list[tuple[str, int]]:
    """(tenant, devices above what it has, is lent and may borrow) of each in a tree that limits the kind."""
    found: list[tuple[str, int]] = []

    def said(name: str) -> list[int | None]:
        quota = tenants[name].quota
        tables = (quota.nominal_devices, quota.borrow_devices, quota.lend_devices)
        return [table.get(kind, table.get("*")) for table in tables]

    def below(name: str) -> Iterator[str]:
        return (one.name for one in tenants.values() if one.parent == name)

    def is_limited(name: str) -> bool:
        nominal, borrow, _ = said(name)
        return nominal is not None or borrow is not None or any(is_limited(child) for child in below(name))

    def weigh(name: str, is_root: bool) -> tuple[int, int]:
        """(devices it lends upwards, devices it takes from there)"""
        nominal, borrow, lend = said(name)
        parts = [weigh(child, False) for child in below(name)]
        has = (nominal or 0) + sum(lent for lent, _ in parts)
        takes = use[kind, name] + sum(taken for _, taken in parts)
        if is_root or borrow is not None:
            found.append((name, takes - has - (borrow or 0)))
        lent = has if lend is None else min(has, lend)
        return lent, max(0, takes - (has - lent))

    for root in [one.name for one in tenants.values() if one.parent not in tenants]:
        if is_limited(root):
            weigh(root, True)
    return found


def _stops(run: Simulation) -> Iterator[str]:
    """Online runs are not stopped for others, and nothing is stopped for a valley job."""
    for fact in run.facts():
        if isinstance(fact, f.RunStopOrdered) and fact.why.startswith("preempted for "):
            claimant = run.state.jobs[fact.why.removeprefix("preempted for ").partition(":")[0]]
            stopped = run.state.jobs[run.state.runs[fact.run].job]
            mine, others = stopped.task.priority, claimant.task.priority
            if mine == Priority.ONLINE or others == Priority.VALLEY:
                yield f"{mine} {fact.run} was stopped for {others} {claimant.id}"


# ---------------------------------------------------------------- liveness


def waits_in_vain(run: Simulation, job: Job) -> str:
    """Why a job that has not ended never can as things are; "" when it should have."""
    state = run.state
    if state.open_transfers or any(state.open_runs.values()):
        return ""
    reason = run.grid.reason(job.id)
    code = reason.code if reason else ""
    tenant = state.tenants[job.tenant]
    writers = [state.jobs[bound.from_job] for bound in job.inputs.values() if bound.from_job]
    if code == "input" and any(writer.phase not in TERMINAL_PHASES for writer in writers):
        return code
    if reason is None or (reason.need or 0) <= (reason.have or 0):
        return ""
    if code == "budget" and tenant.budget.limit_microyuan is not None:
        left = tenant.budget.limit_microyuan + state.balances.get(f"tenant:{tenant.name}", 0)
        return code if reason.have == left else ""
    if code == "max_cost" and reason.have == job.task.max_cost_microyuan:
        return code
    for site in state.sites.values():
        for pool in site.pools.values():
            for wanted in job.task.resources:
                if _could_run(job, site, pool, wanted) and not _is_blocked(state, job, site, wanted):
                    return ""
    return code


def _least_nodes(job: Job) -> int:
    return job.task.elastic.min_nodes if job.task.elastic is not None else job.task.num_nodes


def _could_run(job: Job, site: Site, pool: Pool, wanted: Resources) -> bool:
    place = job.task.place
    return (
        (not place.sites or site.name in place.sites)
        and (not place.regions or site.region in place.regions)
        and wanted.accelerator == pool.accelerator
        and wanted.devices <= pool.devices_per_node
        and _least_nodes(job) <= pool.nodes
    )


def _is_blocked(state: State, job: Job, site: Site, wanted: Resources) -> bool:
    """Whether its data cannot come here, or its tenant could not take so much though nobody else did."""
    for bound in job.inputs.values():
        artifact = bound.artifact or state.jobs[bound.from_job].outputs.get(bound.from_output, "")
        holders = state.replicas.get(artifact, {})
        linked = any(name == site.name or (name, site.name) in state.links for name in holders)
        if artifact and not linked:
            return True
    use = Counter({(wanted.accelerator, job.tenant): wanted.devices * _least_nodes(job)})
    return any(excess > 0 for _, excess in _excess(state.tenants, wanted.accelerator, use))
