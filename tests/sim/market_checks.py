"""What a market must never have done in a simulation, found in its journal: prices that are not the world's,
quotas and budgets exceeded, runs stopped that should not have been, jobs that wait without a reason.

Recounts everything from facts and from what the world declares; shares no code with the rules but the nouns.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from suan.grid import fact as f
from suan.grid.action import Plan
from suan.grid.job import Bid, EndCause, Job, JobPhase, Priority
from suan.grid.market import Clearing
from suan.grid.site import Series
from suan.grid.state import State
from suan.grid.units import BYTES_PER_GB, HOUR_S
from suan.rules.decide import reason_for
from suan.rules.policy import Policy
from suan.sim.check import unfinished, violations
from suan.sim.policies import NamedPolicy
from suan.sim.run import Simulation
from suan.sim.site import DURATION_ENV
from suan.sim.world import World

MIN_RUN_S = 600
KIND = "H100-SXM"
MOST_PLANS = 4000  # of a small world; more means that the grid never comes to rest


@dataclass
class Watch:
    """A decider that looks at every plan of another."""

    policy: NamedPolicy
    plans: int = 0
    found: list[str] = field(default_factory=list)

    def __call__(self, state: State, policy: Policy, now_s: int) -> Plan:
        self.plans += 1
        assert self.plans < MOST_PLANS, "the grid does not come to rest"
        plan = self.policy.decider(state, policy, now_s)
        taken = {action.job for action in plan.actions if hasattr(action, "bid") or hasattr(action, "phase")}
        for name in state.waiting:
            reason = None if name in taken else reason_for(plan, state, name)
            if name not in taken and (reason is None or reason.need is None):
                self.found.append(f"reason: {name} waits, and nobody says why")
        if plan.clearing is not None:
            self.found.extend(_clearing(plan.clearing))
        return plan


def complaints(simulation: Simulation, watch: Watch) -> Iterator[str]:
    """Everything that is wrong, each with the name of the check before it."""
    yield from (f"safety: {what}" for what in violations(simulation))
    yield from (f"liveness: {what}" for what in unfinished(simulation))
    yield from watch.found
    yield from _quotes(simulation)
    yield from _bills(simulation)
    yield from _quotas(simulation)
    yield from _budgets(simulation)
    yield from _gangs(simulation)
    yield from _stops(simulation)
    yield from _sources(simulation)


def _clearing(clearing: Clearing) -> Iterator[str]:
    if clearing.bound_microyuan > clearing.cost_microyuan + 1:
        yield f"bound: {clearing.bound_microyuan} is above the cost of a plan, {clearing.cost_microyuan}"
    if any(step.microyuan_per_device_h < 0 for steps in clearing.prices.values() for step in steps):
        yield "bound: a price is below nought"


# ---------------------------------------------------------------- money


def hourly(world: World, site: str, span: tuple[int, int]) -> tuple[float, float, float]:
    """(micro-yuan, gCO2, PUE) of one kW through a span of time at a site, hour by hour as the world says."""
    tariff = next(one.tariff for one in world.sites if one.name == site)
    if tariff is None:
        return 0.0, 0.0, 1.0
    assert isinstance(tariff.prices, Series)
    series, (start_s, end_s) = tariff.prices, span
    carbon = series.gco2_per_kwh or (0.0,)
    money = gco2 = 0.0
    for hour in range(start_s // HOUR_S, -(-end_s // HOUR_S)):
        part = (min(end_s, (hour + 1) * HOUR_S) - max(start_s, hour * HOUR_S)) / HOUR_S
        at = hour - series.start_at_s // HOUR_S
        money += part * series.microyuan_per_kwh[at % len(series.microyuan_per_kwh)]
        gco2 += part * carbon[at % len(carbon)]
    return money, gco2, tariff.pue


def expected_terms(simulation: Simulation, job: Job, bid: Bid) -> dict[str, float]:
    """What the bid's quote should say."""
    world, policy, task = simulation.world, simulation.policy.policy, job.task
    pool = next(p for s in world.sites if s.name == bid.site for p in s.pools if p.name == bid.pool)
    money, gco2, pue = hourly(world, bid.site, (bid.start_s, bid.finish_s))
    kw = bid.devices * ((pool.device_w or 0) + pool.host_w_per_node / pool.devices_per_node) / 1000 * pue
    waited_h = (bid.start_s - job.submitted_at_s) / HOUR_S
    per_h = simulation.state.tenants[job.tenant].waiting_microyuan_per_h
    late = 0.0
    if task.deadline_s is not None:
        late_s = max(0, bid.finish_s - job.submitted_at_s - task.deadline_s)
        if policy.free_until_deadline and task.priority != "online":  # until then
            waited_h = min(waited_h, late_s / HOUR_S)
        late = late_s / HOUR_S * policy.late_microyuan_per_h
        if task.value_microyuan is not None:
            late = task.value_microyuan if late_s else 0
    return {
        "machine": bid.devices * pool.machine_microyuan_per_device_h * (bid.finish_s - bid.start_s) / HOUR_S,
        "electricity": money * kw,
        "carbon": gco2 * kw / 1000 * policy.carbon_microyuan_per_kg,
        "wait": waited_h * per_h * {"online": 4.0, "standard": 1.0, "valley": 0.05}[task.priority],
        "late": late,
    }


def _quotes(simulation: Simulation) -> Iterator[str]:
    """Every quote in the journal is what the world's prices come to, and its scarcity what was cleared."""
    last: list[Clearing | None] = [None, None]
    for fact in simulation.facts():
        if isinstance(fact, f.MarketCleared):
            last = [last[1], fact.clearing]
        if not isinstance(fact, f.RunPlaced):
            continue
        bid, job = fact.bid, simulation.state.jobs[fact.job]
        known_s, truth = job.task.duration_s, job.task.envs.get(DURATION_ENV, "")
        if (
            str(known_s) == truth
            and known_s is not None
            and job.runs[0] == fact.run
            and job.task.elastic is None
        ):
            speed = simulation.state.sites[bid.site].pools[bid.pool].speed_ratio
            if not 0.5 <= (bid.finish_s - bid.start_s) * speed / known_s <= 2:  # history may correct it
                yield f"quotes: {fact.run} takes {known_s / speed:.0f} s, not {bid.finish_s - bid.start_s}"
        if all(site.tariff is not None and site.pools[0].device_w for site in simulation.world.sites):
            if bid.quote.is_length_guessed:
                yield from _guessed(simulation, fact.run, job, bid)
            for term, amount in expected_terms(simulation, job, bid).items():
                said = getattr(bid.quote, f"{term}_microyuan")
                if bid.quote.is_length_guessed and term in ("electricity", "carbon"):
                    continue
                if abs(said - amount) > 2 + 1e-6 * amount:
                    yield f"quotes: {term} of {fact.run} is {said}, the world's prices come to {amount:.0f}"
        before = last[0] if last[1] and last[1].at_s == fact.at_s else last[1]
        counts = _may_wait(simulation, job)
        known = [_scarce(clearing, bid) if counts else 0.0 for clearing in (before, last[1])]
        if all(abs(bid.scarcity_microyuan - amount) > 2 + 1e-6 * amount for amount in known):
            yield f"quotes: scarcity of {fact.run} is {bid.scarcity_microyuan}, cleared were {known[0]:.0f}"


def _guessed(simulation: Simulation, run: str, job: Job, bid: Bid) -> Iterator[str]:
    """A guess is priced by hours that it may come to: at no less than the least of them, and no more than the
    most. Who says how long it takes, and whose like never took another time, is not guessed at.
    """
    told = [one.task for one in simulation.state.jobs.values() if one.tenant == job.tenant]
    if all(str(task.duration_s) == task.envs.get(DURATION_ENV, "") for task in told):
        yield f"quotes: {run} counts as a guess, though its tenant is always right"
    first = bid.start_s // HOUR_S
    hours = [(at * HOUR_S, (at + 1) * HOUR_S) for at in range(first, first + 7 * 24)]
    rates = [hourly(simulation.world, bid.site, hour) for hour in hours]
    kwh, carbon = bid.quote.energy_kwh * rates[0][2], simulation.policy.policy.carbon_microyuan_per_kg / 1000
    each = {"electricity": [rate[0] for rate in rates], "carbon": [rate[1] * carbon for rate in rates]}
    for term, price in each.items():
        said, least, most = getattr(bid.quote, f"{term}_microyuan"), kwh * min(price), kwh * max(price)
        if not least * 0.99 - 2 <= said <= most * 1.01 + 2:
            yield f"quotes: {term} of {run} is {said}, the world's prices come to {least:.0f} to {most:.0f}"


def _may_wait(simulation: Simulation, job: Job) -> bool:
    task = job.task
    if task.priority == Priority.VALLEY:
        return task.replicas is None
    if task.deadline_s is None or task.replicas is not None:
        return False
    free = simulation.policy.policy.free_until_deadline and task.priority != Priority.ONLINE
    return free or task.duration_s is not None or bool(job.work)


def _scarce(clearing: Clearing | None, bid: Bid) -> float:
    steps = clearing.prices.get(f"{bid.site}/{bid.pool}", ()) if clearing else ()
    total = 0.0
    for number, step in enumerate(steps):
        end_s = steps[number + 1].from_s if number + 1 < len(steps) else (clearing.until_s if clearing else 0)
        span_s = max(0, min(end_s, bid.finish_s) - max(step.from_s, bid.start_s))
        total += bid.devices * span_s / HOUR_S * step.microyuan_per_device_h
    return total


def _bills(simulation: Simulation) -> Iterator[str]:
    """What really went on, at the world's prices, is what was paid: no more and no less."""
    state, policy = simulation.state, simulation.policy.policy
    paid: Counter[str] = Counter()
    for entry in state.entries:
        paid[entry.movement] -= entry.amount_microyuan if entry.what == "pays" else 0
    for name, site in simulation.sites.items():
        pools = {pool.name: pool for pool in site.engine.pools()}
        for one in site.engine.stretches:
            run = state.runs.get(one.run)
            if run is None or run.cause != one.cause or not pools[one.pool].device_w:
                continue  # the grid has heard of another end: what it was told is what it pays for
            if (run.started_at_s, run.ended_at_s) != (one.started_at_s, one.ended_at_s):
                continue
            span_s = one.ended_at_s - one.started_at_s
            money, gco2, pue = hourly(simulation.world, name, (one.started_at_s, one.ended_at_s))
            kw = one.devices * (pools[one.pool].device_w or 0) / 1000 * pue
            rate = pools[one.pool].machine_microyuan_per_device_h
            due = one.devices * span_s / HOUR_S * rate + money * kw
            due += gco2 * kw / 1000 * policy.carbon_microyuan_per_kg
            if abs(paid[one.run] - due) > 3 + 1e-6 * due:
                yield f"bills: {one.run} paid {paid[one.run]}, it took {due:.0f}"


# ---------------------------------------------------------------- limits


def _quotas(simulation: Simulation) -> Iterator[str]:
    """At every placement: no tenant above guarantee and borrow limit, all together within what is lent."""
    tenants = {name: one.quota for name, one in simulation.state.tenants.items() if one.quota.nominal_devices}
    use: Counter[str] = Counter()
    for fact in simulation.facts() if tenants else ():
        if isinstance(fact, f.RunEnded):
            run = simulation.state.runs[fact.run]
            use[run.tenant] -= run.devices
        if not isinstance(fact, f.RunPlaced):
            continue
        use[simulation.state.jobs[fact.job].tenant] += fact.bid.devices
        beyond = lent = 0
        for name, quota in tenants.items():
            nominal, lend = quota.nominal_devices[KIND], quota.lend_devices[KIND]
            beyond, lent = beyond + max(0, use[name] - (nominal - lend)), lent + lend
            if use[name] > nominal + quota.borrow_devices[KIND]:
                yield f"quotas: {name} holds {use[name]} devices after {fact.run}"
        if beyond > lent:
            yield f"quotas: {beyond} devices are held of {lent} that are lent, after {fact.run}"


def _budgets(simulation: Simulation) -> Iterator[str]:
    """What runs, as quoted, and what was paid stay within the budget when anything is placed."""
    state, promised, balance = simulation.state, Counter[str](), Counter[str]()
    limits = {name: one.budget.limit_microyuan for name, one in state.tenants.items()}
    for fact in simulation.facts():
        match fact:
            case f.RunEnded():
                run = state.runs[fact.run]
                promised[run.tenant] -= run.quote.billed_microyuan
            case f.Settled():
                for entry in fact.entries:
                    balance[entry.account] += entry.amount_microyuan
            case f.RunPlaced():
                job = state.jobs[fact.job]
                promised[job.tenant] += fact.bid.quote.billed_microyuan
                limit, most = limits[job.tenant], job.task.max_cost_microyuan
                if limit is not None and promised[job.tenant] > limit + balance[f"tenant:{job.tenant}"]:
                    yield f"budgets: {job.tenant} promises more than it has with {fact.run}"
                if most is not None and fact.bid.quote.billed_microyuan > most:
                    yield f"budgets: {fact.run} costs more than its max_cost"


def _gangs(simulation: Simulation) -> Iterator[str]:
    """A run has all its devices, as its task asked for them."""
    for run in simulation.state.runs.values():
        task = simulation.state.jobs[run.job].task
        nodes = run.nodes if task.elastic is not None else task.num_nodes
        if run.devices != nodes * task.resources[run.resources_index].devices:
            yield f"gangs: {run.id} has {run.devices} devices on {run.nodes} nodes"


# ---------------------------------------------------------------- stops and data


def _stops(simulation: Simulation) -> Iterator[str]:
    """Nothing is stopped for others that may not be, nor too soon, nor for a valley job."""
    state, started = simulation.state, dict[str, int]()
    for fact in simulation.facts():
        if isinstance(fact, f.RunStarted):
            started[fact.run] = fact.started_at_s
        if not isinstance(fact, f.RunStopOrdered):
            continue
        word, _, rest = fact.why.partition(" for ")
        job = state.jobs[state.runs[fact.run].job]
        if word in ("preempted", "paused") and fact.at_s - started.get(fact.run, fact.at_s) < MIN_RUN_S:
            yield f"stops: {fact.run} was {word} after {fact.at_s - started.get(fact.run, fact.at_s)} s"
        if word != "preempted":
            continue
        claimant = state.jobs[rest.partition(":")[0]]
        if job.task.priority == Priority.ONLINE or claimant.task.priority == Priority.VALLEY:
            yield f"stops: {job.task.priority} {fact.run} was stopped for {claimant.task.priority}"


def _sources(simulation: Simulation) -> Iterator[str]:
    """Data come from a site that has them, over the cheapest link; runs start where theirs are."""
    state, links = simulation.state, {(one.source, one.destination): one for one in simulation.world.links}
    there: dict[str, dict[str, None]] = {}
    for fact in simulation.facts():
        match fact:
            case f.ReplicaAdded():
                there.setdefault(fact.artifact, {})[fact.site] = None
            case f.ReplicaRemoved():
                there.get(fact.artifact, {}).pop(fact.site, None)
            case f.TransferEnded() if not fact.failed:
                transfer = state.transfers[fact.transfer]
                there.setdefault(transfer.artifact, {})[transfer.destination] = None
            case f.TransferOrdered():
                holders = there.get(fact.artifact, {})
                costs = {
                    site: links[site, fact.destination].microyuan_per_gb
                    for site in holders
                    if (site, fact.destination) in links and state.sites[site].phase == "ready"
                }
                if fact.source not in holders:
                    yield f"data: {fact.artifact} is fetched from {fact.source}, which does not have it"
                elif not simulation.world.faults and costs[fact.source] > min(costs.values()):
                    yield f"data: {fact.artifact} comes from {fact.source}, another is cheaper"
            case f.RunPlaced():
                for artifact in fact.inputs.values():
                    if fact.bid.site not in there.get(artifact, {}):
                        yield f"data: {fact.run} starts without {artifact}"


def moved_gb(simulation: Simulation) -> float:
    """What crossed links in all."""
    ends = (fact for fact in simulation.facts() if isinstance(fact, f.TransferEnded))
    return sum(end.moved_bytes for end in ends) / BYTES_PER_GB


def succeeded(job: Job) -> bool:
    return job.phase == JobPhase.SUCCEEDED


def stopped_runs(simulation: Simulation, word: str) -> list[str]:
    """Runs that were stopped for this."""
    runs = simulation.state.runs.values()
    return [run.id for run in runs if run.stop_reason.startswith(word) and run.cause == EndCause.STOPPED]
