"""One seed of a soak: its world played with faults, then without, and everything checked.

Knows the order of events, and how to find the fewest jobs and faults that go wrong in the same way. What may
be drawn is `worlds`'s matter, what is wrong `check`'s and `soak_checks`'s.
"""

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from suan.control.commands.jobs import stop_jobs
from suan.grid import fact as f
from suan.grid.job import TERMINAL_PHASES
from suan.grid.units import HOUR_S
from suan.sim.check import violations
from suan.sim.report import digest
from suan.sim.run import Simulation
from suan.sim.site import DURATION_ENV
from suan.sim.soak_checks import complaints, is_ours, waits_in_vain
from suan.sim.worlds import BUSY_S, Drawn, drawn

_SLACK_S = 6 * HOUR_S  # back-offs, ageing, cycles of the market
_SLOWEST = 0.25  # speed, of any pool that is drawn, and of a job on fewer nodes


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one seed."""

    seed: int
    wrong: tuple[str, ...]
    fired: dict[str, int]
    counts: dict[str, int]
    digest: str


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Which submissions and faults of a world take part, by number; None: all."""

    jobs: tuple[int, ...] | None = None
    strikes: tuple[int, ...] | None = None

    def of(self, world: Drawn) -> Drawn:
        """The world with these alone."""
        arrivals, strikes = world.arrivals, world.strikes
        if self.jobs is not None:
            arrivals = tuple(arrivals[number] for number in self.jobs)
        if self.strikes is not None:
            strikes = tuple(strikes[number] for number in self.strikes)
        return msgspec.structs.replace(world, arrivals=arrivals, strikes=strikes)


def play(world: Drawn) -> tuple[Outcome, Simulation | None]:
    """What came of the world, and its simulation; None when it could not even be set up."""
    run: Simulation | None = None
    wrong: list[str] = []
    try:
        run = _simulation(world)
        wrong.extend(_both_halves(run))
    except Exception as error:  # whatever the grid runs into is what a soak is for
        wrong.append(f"{type(error).__name__}: {error}")
    facts = list(run.facts()) if run is not None else []
    outcome = Outcome(
        seed=world.seed,
        wrong=tuple(wrong),
        fired=dict(run.fired) if run is not None else {},
        counts=dict(_counts(run, facts)) if run is not None else {},
        digest=digest(facts),
    )
    return outcome, run


def _simulation(world: Drawn) -> Simulation:
    run = Simulation(world.world, world.arrivals, world.policy, seed=world.seed, strikes=world.strikes)
    tenants = [
        f.TenantSet(
            at_s=world.world.start_s,
            tenant=tenant.name,
            parent=tenant.parent,
            weight=tenant.weight,
            quota=tenant.quota,
            budget=tenant.budget,
            waiting_microyuan_per_h=tenant.waiting_microyuan_per_h,
        )
        for tenant in world.world.tenants
    ]
    run.grid.do(lambda state, at_s: (tenants, None))
    return run


def _both_halves(run: Simulation) -> list[str]:
    """Safety while everything goes wrong; then nothing does, and everything that can end does so in time."""
    run.run(until_s=BUSY_S + 60)
    run.calm_down()
    wrong = [*violations(run), *complaints(run)]
    services = [job.id for job in run.state.jobs.values() if job.task.replicas is not None]
    run.operate(stop_jobs(tuple(services), by="its owner"))
    began_s = run.clock.now_s() - run.world.start_s
    bound_s = began_s + _longest_s(run)
    until_s = began_s
    while until_s < bound_s and _unfinished(run):
        until_s = min(bound_s, until_s + 2 * HOUR_S)
        run.run(until_s=until_s)
    for name in _unfinished(run) if is_ours(run) else ():
        job = run.state.jobs[name]
        reason = run.grid.reason(name)
        wrong.append(f"{name} ({job.task.name}) is {job.phase} after {until_s - began_s} s of calm: {reason}")
    rest = tuple(job.id for job in run.state.jobs.values() if job.phase not in TERMINAL_PHASES)
    run.operate(stop_jobs(rest, by="the end"))
    run.run(until_s=until_s + HOUR_S)
    run.calm_down()
    wrong.extend(
        f"{job.id} does not end" for job in run.state.jobs.values() if job.phase not in TERMINAL_PHASES
    )
    wrong.extend((*violations(run), *complaints(run)))
    return list(dict.fromkeys(wrong))


def _unfinished(run: Simulation) -> list[str]:
    """Jobs that could end, and have not."""
    waiting = [job for job in run.state.jobs.values() if job.phase not in TERMINAL_PHASES]
    return [job.id for job in waiting if not waits_in_vain(run, job)]


def _longest_s(run: Simulation) -> int:
    """Seconds within which everything that is not over must be: as if one thing went on at a time."""
    state = run.state
    slowest = min((link.mbit_per_s for link in state.links.values()), default=1.0)
    total_s = float(run.policy.policy.shift_horizon_s + _SLACK_S)
    for job in state.jobs.values():
        if job.phase not in TERMINAL_PHASES and job.task.replicas is None:
            total_s += 2 * float(job.task.envs[DURATION_ENV]) / _SLOWEST + 600
            total_s += len(job.inputs) * 20_000 * 8 / slowest
    return round(total_s)


def _counts(run: Simulation, facts: Sequence[f.Fact]) -> Counter[str]:
    """How much went on: what a soak has not seen it has not tried."""
    counts = Counter(f"job {job.phase}" for job in run.state.jobs.values())
    counts.update(f"run {one.cause}" for one in run.state.runs.values() if one.cause is not None)
    counts["facts"] = len(facts)
    counts["transfers"] = sum(isinstance(fact, f.TransferEnded) and not fact.failed for fact in facts)
    counts["refused"] = len(run.refused)
    words = [fact.why.partition(" ")[0] for fact in facts if isinstance(fact, f.RunStopOrdered)]
    counts.update(f"stop {word}" for word in words)
    return counts


def drawn_and_played(seed: int) -> Outcome:
    """What came of the seed's world."""
    return play(drawn(seed))[0]


# ---------------------------------------------------------------- fewer


def smallest(world: Drawn, wrong: Sequence[str], tries: int = 150) -> Kept:
    """Few submissions and faults of the world that still go wrong in one of these ways."""
    ways = {_way(what) for what in wrong}
    left = tries

    def fails(kept: Kept) -> bool:
        nonlocal left
        left -= 1
        return any(_way(what) in ways for what in play(kept.of(world))[0].wrong)

    kept = Kept(jobs=tuple(range(len(world.arrivals))), strikes=tuple(range(len(world.strikes))))
    for field in ("strikes", "jobs", "strikes"):
        size = max(1, len(getattr(kept, field)) // 2)
        while size and left > 0:
            first = 0
            while first < len(getattr(kept, field)) and left > 0:
                numbers = getattr(kept, field)
                fewer = msgspec.structs.replace(kept, **{field: numbers[:first] + numbers[first + size :]})
                if fails(fewer):
                    kept = fewer
                else:
                    first += size
            size //= 2
    return kept


def _way(what: str) -> str:
    """What went wrong, without the names and numbers of this time."""
    return re.sub(r"[\d.]+", "#", what)[:60]
