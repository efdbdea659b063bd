"""Stopping runs for others, for dear hours and for another size, in the whole loop and under faults: nothing
is counted twice, nothing fails of it, and every job ends.

The plan is the greedy one; what stops is decided by the rules of preemption alone, so that they are tried on
thousands of states that nobody thought of.
"""

from collections import Counter

import pytest
from msgspec.structs import replace
from small_worlds import small_arrivals, small_world

from suan.grid import fact as f
from suan.grid.action import Action, Plan
from suan.grid.job import EndCause, Priority
from suan.grid.state import State
from suan.rules.decide import decide
from suan.rules.elastic import resize
from suan.rules.leave import leaving
from suan.rules.policy import Policy
from suan.rules.preempt import Claim, Preemption, Standing, victims, with_preemption
from suan.rules.quota import Quotas
from suan.sim.check import unfinished, violations
from suan.sim.policies import NamedPolicy
from suan.sim.run import Simulation
from suan.sim.trace import Arrival
from suan.sim.world import World

WORDS = ("preempted", "paused", "resized")


def stopping(state: State, policy: Policy, now_s: int) -> Plan:
    """The greedy plan, and what it takes to start the jobs that it leaves waiting for devices."""
    plan = decide(state, policy, now_s)
    actions: tuple[Action, ...] = plan.actions
    standing = Standing.of(state, policy, now_s, actions=actions)
    placed = {action.job for action in actions if hasattr(action, "bid")}
    taken: Counter[tuple[str, str]] = Counter()
    for action in actions:
        if hasattr(action, "bid"):
            taken[action.bid.site, action.bid.pool] += action.bid.devices
    free = {
        (site.name, pool.name): pool.devices
        - state.used_devices.get((site.name, pool.name), 0)
        - taken[site.name, pool.name]
        for site in state.sites.values()
        for pool in site.pools.values()
    }
    for job in [state.jobs[name] for name in state.waiting if name not in placed][:20]:
        need = job.task.resources[0].devices * job.task.num_nodes
        for pool, there in free.items():
            if job.task.inputs or job.not_before_s > now_s or state.sites[pool[0]].phase != "ready":
                continue
            if there >= need or need > state.sites[pool[0]].pools[pool[1]].devices:
                continue
            claim = Claim(
                job=job, pool=pool, need=need, free=there, held_s=600, value_microyuan=job.sequence * 10**6
            )
            made = victims(standing, claim)
            if isinstance(made, Preemption):
                standing = with_preemption(standing, claim, made)
                actions = (*actions, *made.stops)
                free[pool] = 0
                break
    planned = frozenset(standing.planned)
    left = leaving(state, policy, now_s, planned=planned)
    planned |= {stop.run for stop in left.stops}
    idle = {} if state.waiting else free
    sizes = resize(state, policy, now_s, free=idle, quotas=Quotas.of(state), planned=planned)
    wakes = [at_s for at_s in (plan.wake_at_s, left.wake_at_s, sizes.wake_at_s) if at_s is not None]
    return replace(plan, actions=(*actions, *left.stops, *sizes.stops), wake_at_s=min(wakes, default=None))


GREEDY = NamedPolicy(name="stopping", policy=Policy(name="stopping", market=False), decider=stopping)


def run_to_the_end(world: World, arrivals: tuple[Arrival, ...], seed: int = 0) -> Simulation:
    run = Simulation(world, arrivals, GREEDY, seed=seed)
    run.run(until_s=6 * 86_400)
    run.calm_down()
    assert violations(run) == (), f"seed {seed}"
    assert unfinished(run) == (), f"seed {seed}"
    return run


def stops_of(run: Simulation) -> Counter[str]:
    """What was stopped and for which word, each allowed by the rules at that moment."""
    counts: Counter[str] = Counter()
    started: dict[str, int] = {}
    for fact in run.facts():
        match fact:
            case f.RunStarted():
                started[fact.run] = fact.started_at_s
            case f.RunStopOrdered() if fact.why.partition(" for ")[0] in WORDS:
                stopped = run.state.runs[fact.run]
                job = run.state.jobs[stopped.job]
                assert job.task.priority != Priority.ONLINE
                assert fact.at_s - started[fact.run] >= Policy().min_run_s, "a minimum run"
                counts[fact.why.partition(" for ")[0]] += 1
    for job in run.state.jobs.values():
        ends = [run.state.runs[name] for name in job.runs]
        assert job.restarts == sum(bool(one.exit_code) and one.cause == EndCause.EXITED for one in ends)
    return counts


@pytest.mark.parametrize("first", [0, 5])
def test_stopping_for_others_breaks_nothing_under_faults(first: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(first, first + 5):
        arrivals = tuple(
            replace(one, at_s=one.at_s // 4, task=replace(one.task, max_restarts=1000))
            for one in small_arrivals(seed)
        )
        counts += stops_of(run_to_the_end(small_world(seed), arrivals, seed))
    assert counts["preempted"] > 0, counts
