"""Policies side by side: each runs the same trace through the same world, one after another.

Knows what a simulation needs besides its arrivals: tenants, what is published of prices, who is told how far
it is. What one simulation does is `run`'s matter.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from suan.control.loop import Decide
from suan.grid import fact as f
from suan.grid.action import Plan
from suan.grid.job import JobPhase
from suan.grid.state import State
from suan.grid.units import DAY_S
from suan.rules.policy import Policy
from suan.sim.policies import DEFAULT, NamedPolicy, named_policy
from suan.sim.published import Published
from suan.sim.report import report
from suan.sim.run import Simulation
from suan.sim.timeline import Timeline, timeline
from suan.sim.trace import Trace, make_trace, read_jobs
from suan.sim.world import World, read_world

Tell = Callable[[str], None]
_TELL_EVERY_S = 2.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy came to: its figures, and the course of time where that was asked for."""

    report: dict[str, Any]
    timeline: Timeline | None = None


def compare(
    world_path: Path,
    jobs_path: Path,
    policies: Sequence[str] = (),
    *,
    seed: int = 0,
    until_s: int | None = None,
    tell: Tell | None = None,
    timelines: Sequence[str] = (),
) -> list[Outcome]:
    """One outcome a policy, in the order of `policies`; the default policy when there are none.

    `tell` hears how far each is. `timelines` names the policies whose course of time is wanted, or `*`.

    Raises: Refused for a world, a trace or a policy that cannot be used.
    """
    world, rows = read_world(world_path), read_jobs(jobs_path)
    chosen = [named_policy(name, world.policies) for name in policies or (DEFAULT,)]
    outcomes = []
    for policy in chosen:
        trace = make_trace(rows, world, oracle=policy.oracle)
        simulation = prepared(world, trace, policy, seed=seed, tell=tell)
        simulation.run(until_s)
        wanted = "*" in timelines or policy.name in timelines
        outcomes.append(
            Outcome(
                report=report(simulation, trace.impossible),
                timeline=timeline(simulation) if wanted else None,
            )
        )
    return outcomes


def prepared(
    world: World, trace: Trace, policy: NamedPolicy, *, seed: int = 0, tell: Tell | None = None
) -> Simulation:
    """A simulation that has not begun: tenants are set, prices that are not out yet are hidden."""
    decider = policy.decider
    published_h = {site.name: site.published_h for site in world.sites if site.published_h is not None}
    if published_h and not policy.oracle:
        decider = Published(decider, published_h, world.start_s)
    if tell is not None:
        decider = _telling(decider, policy.name, len(trace.arrivals), world.start_s, tell)
    chosen = msgspec.structs.replace(policy, decider=decider)
    simulation = Simulation(world, trace.arrivals, chosen, seed=seed)
    facts = tenant_facts(world)
    if facts:
        simulation.grid.do(lambda state, at_s: (facts, None))
    return simulation


def tenant_facts(world: World) -> list[f.Fact]:
    """The tenants that the world declares, as an operator would set them."""
    return [
        f.TenantSet(
            at_s=world.start_s,
            tenant=tenant.name,
            parent=tenant.parent,
            weight=tenant.weight,
            quota=tenant.quota,
            waiting_microyuan_per_h=tenant.waiting_microyuan_per_h,
        )
        for tenant in world.tenants
    ]


def _telling(decider: Decide, name: str, jobs: int, start_s: int, tell: Tell) -> Decide:
    """The decider, telling now and then how far it is."""
    began_s = told_s = time.monotonic()

    def telling(state: State, policy: Policy, now_s: int) -> Plan:
        nonlocal told_s
        plan = decider(state, policy, now_s)
        passed_s = time.monotonic()
        if passed_s - told_s >= _TELL_EVERY_S:
            told_s = passed_s
            done = sum(job.phase == JobPhase.SUCCEEDED for job in state.jobs.values())
            tell(
                f"{name}: day {(now_s - start_s) / DAY_S:.1f}, {done:,} of {jobs:,} jobs done,"
                f" {len(state.waiting):,} waiting, {passed_s - began_s:.0f} s"
            )
        return plan

    return telling


def simulate(
    world_path: Path,
    jobs_path: Path,
    policies: Sequence[str] = (),
    *,
    seed: int = 0,
    until_s: int | None = None,
) -> list[dict[str, Any]]:
    """One report a policy, in the order of `policies`; the default policy when there are none.

    Raises: as `compare`.
    """
    outcomes = compare(world_path, jobs_path, policies, seed=seed, until_s=until_s)
    return [outcome.report for outcome in outcomes]
