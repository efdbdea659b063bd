"""Whatever is submitted to a market: its plans are safe, fair and explained, and its prices mean something.

Each case is a small grid that runs for a while: plans are made when anything happens, runs take as long as
they take, what is stopped gives its devices back a second later, and everything is metered and settled.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenario import NIGHT, Scenario, task

from suan.control.execute import facts_of
from suan.control.observe import observe
from suan.grid import fact as f
from suan.grid.account import Budget, Quota, Usage
from suan.grid.action import Observation, PlaceRun, Plan, RunSeen
from suan.grid.job import Checkpoint, Elastic, EndCause, Job, JobPhase, Priority, Reason, Run, RunPhase, Task
from suan.grid.market import Clearing, Step, price_at
from suan.grid.units import HOUR_S
from suan.rules.decide import decide, reason_for
from suan.rules.policy import Policy

KIND = "H100-SXM"
EXPECTED = ("devices", "cheaper_hour", "moving")  # reasons that end by themselves at a moment that is known
NOMINAL, BORROW, LEND = {"x": 6, "y": 4}, {"x": 2, "y": 8}, {"x": 4, "y": 1}
MIN_RUN_S = 600

lengths_s = st.sampled_from([60, 300, 900, 3600, 5 * 3600])
shapes = st.sampled_from([(1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (8, 2)])
tasks = st.tuples(
    shapes,
    lengths_s,
    st.booleans(),
    st.sampled_from(list(Priority)),
    st.sampled_from(["", "", "deadline", "value", "checkpoint", "elastic", "max_cost"]),
    st.sampled_from("xy"),
    st.sampled_from([0, 0, 30, 700, 7200]),
)
MARKET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Market:
    """A grid that runs: who waits, what goes on, and what every plan was found to be."""

    grid: Scenario
    truth_s: dict[str, int] = field(default_factory=dict)  # job -> how long it takes at speed 1
    plans: list[Plan] = field(default_factory=list)
    stopping_s: dict[str, int] = field(default_factory=dict)  # run -> when its devices come back

    def submit(self, one: Task, length_s: int, tenant: str = "x") -> Job:
        (name,) = self.grid.submit(one, tenant=tenant)
        self.truth_s[name] = length_s
        return self.grid.state.jobs[name]

    def plan(self) -> Plan:
        """The next plan, audited and checked, and what it orders has begun."""
        grid, state = self.grid, self.grid.state
        gone = {run for runs in state.open_runs.values() for run in runs}
        plan = grid.plan()  # which asserts that the audit has no objection
        self.plans.append(plan)
        for action in plan.actions:
            if isinstance(action, PlaceRun):
                self._report(RunSeen(run=action.run, phase=RunPhase.RUNNING, started_at_s=grid.now_s))
        check_state(self, gone)
        check_reasons(self, plan)
        check_prices(self, plan)
        # Each placement changes shares, prices and what is free: what that opens to others is for the next
        # plan, at the same moment. It ends, for whatever is placed waits no more.
        placed = [one for one in plan.actions if isinstance(one, PlaceRun)]
        return self.plan() if placed and plan.clearing is None else plan

    def until(self, end_s: int) -> None:
        """Plans, and everything that happens, until a moment or until nothing more does."""
        while self.grid.now_s < end_s:
            plan = self.plan()
            moments = [self._end_s(run) for run in self.open_runs()]
            if plan.wake_at_s is not None:
                moments.append(plan.wake_at_s)
            self.grid.now_s = min([end_s, *(max(at_s, self.grid.now_s + 1) for at_s in moments)])
            for run in list(self.open_runs()):
                if self._end_s(run) <= self.grid.now_s:
                    self._end(run)

    def open_runs(self) -> Iterator[Run]:
        state = self.grid.state
        return (state.runs[name] for runs in state.open_runs.values() for name in runs)

    def _end_s(self, run: Run) -> int:
        if run.phase == RunPhase.STOPPING:
            return self.stopping_s.setdefault(run.id, self.grid.now_s + 1)
        speed = self.grid.state.sites[run.site].pools[run.pool].speed_ratio
        return run.placed_at_s + max(1, round(self.truth_s[run.job] / speed))

    def _end(self, run: Run) -> None:
        stopped = run.phase == RunPhase.STOPPING
        span_s = self.grid.now_s - (run.started_at_s or run.placed_at_s)
        usage = Usage(device_s=run.devices * span_s, energy_kwh=run.devices * span_s / HOUR_S / 2)
        about = {
            "cause": EndCause.STOPPED if stopped else EndCause.EXITED,
            "exit_code": -15 if stopped else 0,
        }
        self._report(
            RunSeen(run=run.id, phase=RunPhase.ENDED, ended_at_s=self.grid.now_s, usage=usage, **about)
        )

    def _report(self, seen: RunSeen) -> None:
        site = self.grid.state.runs[seen.run].site
        report = Observation(site=site, epoch=self.grid.state.sites[site].epoch, runs=(seen,))
        self.grid.tell(*observe(self.grid.state, report, self.grid.now_s))


# ---------------------------------------------------------------- what must hold after every plan


def check_state(market: Market, before: set[str]) -> None:
    state = market.grid.state
    held: dict[tuple[str, str], int] = {}
    jobs: dict[str, str] = {}
    for run in market.open_runs():
        pool = (run.site, run.pool)
        held[pool] = held.get(pool, 0) + run.devices
        assert run.job not in jobs, f"{run.job} holds {jobs[run.job]} and {run.id}"
        jobs[run.job] = run.id
        job = state.jobs[run.job]
        count = job.task.resources[run.resources_index].devices
        assert run.devices == count * run.nodes, "gangs are whole"
        if job.task.elastic is None:
            assert run.nodes == job.task.num_nodes
        else:
            assert job.task.elastic.min_nodes <= run.nodes <= job.task.elastic.max_nodes
        if run.stop_reason.startswith("preempted") and run.id in before and run.phase == RunPhase.STOPPING:
            assert job.task.priority != Priority.ONLINE
            assert market.grid.now_s - (run.started_at_s or 0) >= MIN_RUN_S
    for (site, pool), devices in held.items():
        assert devices <= state.sites[site].pools[pool].devices
    check_quota(market)
    assert sum(state.balances.values()) == 0
    movements: dict[str, int] = {}
    for entry in state.entries:
        movements[entry.movement] = movements.get(entry.movement, 0) + entry.amount_microyuan
    assert not any(movements.values())
    for run in state.runs.values():
        if run.phase == RunPhase.ENDED and state.usage[run.id].device_s:
            assert run.id in state.settled


def check_quota(market: Market) -> None:
    """As a user would say it: above its guarantee no more than the borrow limit, and all together no more of
    what is lent than there is."""
    tenants = market.grid.state.tenants
    if "above" not in tenants:
        return
    use = {name: sum(run.devices for run in market.open_runs() if run.tenant == name) for name in NOMINAL}
    taken = 0
    for name, devices in use.items():
        assert devices <= NOMINAL[name] + BORROW[name], f"{name} holds {devices}"
        taken += max(0, devices - (NOMINAL[name] - LEND[name]))
    assert taken <= sum(LEND.values()), f"{use} is more than what is lent"


def check_reasons(market: Market, plan: Plan) -> None:
    grid = market.grid
    for name in grid.state.waiting:
        reason = reason_for(plan, grid.state, name)
        assert isinstance(reason, Reason), f"{name} waits, and nobody says why"
        assert reason.text and reason.unit and reason.need is not None, reason
        assert reason.have is not None or reason.code == "cheaper_hour", reason  # see below
        if reason.code in EXPECTED:
            assert reason.expected_start_s is not None and reason.expected_start_s >= grid.now_s, reason
        else:
            assert reason.help, f"when it starts is not known, and nobody says what would help: {reason}"
        if reason.code == "devices":
            assert reason.need > reason.have or "held for" in reason.text


def check_prices(market: Market, plan: Plan) -> None:
    found, state = plan.clearing, market.grid.state
    if found is None:
        return
    assert state.clearing == found
    assert found.bound_microyuan <= found.cost_microyuan + 1
    assert 0 <= found.gap_ratio <= 1
    wire = msgspec.json.encode(f.MarketCleared(at_s=plan.at_s, clearing=found))
    assert msgspec.json.decode(wire, type=f.MarketCleared).clearing == found
    for name, steps in found.prices.items():
        times = [step.from_s for step in steps]
        assert times == sorted(set(times)) and times[0] >= found.at_s - 900 and times[-1] < found.until_s
        assert all(step.microyuan_per_device_h >= 0 for step in steps)
        assert any(step.microyuan_per_device_h > 0 for step in steps), (
            "a pool that is not scarce is not named"
        )
        assert name.partition("/")[0] in state.sites and state.waiting
        assert price_at(found, name, found.until_s) == 0


# ---------------------------------------------------------------- whatever is submitted


def make_task(number: int, case: tuple) -> Task:
    (devices, nodes), length_s, known, priority, extra, *_ = case
    about: dict = {"priority": priority, "duration_s": length_s if known else None}
    match extra:
        case "deadline":
            about |= {"deadline_s": 3 * length_s}
        case "value":
            about |= {"deadline_s": 2 * length_s, "value_microyuan": 50_000_000}
        case "checkpoint":
            about |= {"checkpoint": Checkpoint(every_s=300)}
        case "elastic":
            elastic = Elastic(min_nodes=1, max_nodes=max(2, nodes), speed={1: 1.0, 2: 1.8})
            about |= {"checkpoint": Checkpoint(every_s=300), "elastic": elastic}
        case "max_cost":
            about |= {"max_cost_microyuan": 30_000_000}
    return task(f"t{number}", devices=devices, nodes=nodes, **about)


def run_all(grid: Scenario, cases: list[tuple]) -> Market:
    market = Market(grid)
    for number, case in enumerate(cases):
        market.submit(make_task(number, case), case[1], tenant=case[5])
        market.until(grid.now_s + case[6])
    market.until(grid.now_s + 2 * HOUR_S)
    return market


@MARKET
@given(st.lists(tasks, min_size=1, max_size=18))
def test_a_market_is_safe_and_explains_itself(cases: list[tuple]) -> None:
    grid = Scenario().tenant("x", waiting_microyuan_per_h=3_000_000).tenant("y", weight=2.0)
    grid.site("a", f"{KIND} 2x8 2", valley=0.4).site("b", f"{KIND} 1x4 1", f"{KIND} 1x8 5", pue=1.5)
    run_all(grid, cases)


@MARKET
@given(st.lists(tasks, min_size=1, max_size=18))
def test_quotas_lending_and_budgets_hold_in_a_market(cases: list[tuple]) -> None:
    grid = Scenario().tenant("above")
    for name in "xy":
        quota = Quota(
            nominal_devices={KIND: NOMINAL[name]},
            borrow_devices={KIND: BORROW[name]},
            lend_devices={KIND: LEND[name]},
        )
        grid.tenant(name, parent="above", quota=quota, budget=Budget(limit_microyuan=150_000_000))
    grid.site("a", f"{KIND} 2x8 2", valley=0.4).site("b", f"{KIND} 1x4 1")
    market = run_all(grid, cases)
    for plan in market.plans:
        for action in plan.actions:
            if isinstance(action, PlaceRun):
                assert action.bid.quote.billed_microyuan <= 150_000_000, "one run alone is above the budget"


@MARKET
@given(st.lists(tasks, min_size=1, max_size=18), st.integers(0, 1000))
def test_facts_folded_again_from_the_wire_give_the_same_plan(cases: list[tuple], gap_s: int) -> None:
    """A plan is a function of the facts, and of nothing that a process remembers besides."""
    grid = Scenario().tenant("x").tenant("y").site("a", f"{KIND} 1x8 2").site("b", f"{KIND} 2x8 5")
    market = run_all(grid, cases)
    grid.now_s += gap_s
    again = Scenario(policy=grid.policy, now_s=grid.now_s)
    again.tell(*msgspec.json.decode(msgspec.json.encode(grid.facts), type=list[f.Fact]))
    assert again.state == grid.state
    plans = [decide(one.state, grid.policy, grid.now_s) for one in (again, grid)]
    assert plans[0] == plans[1]
    wires = [msgspec.json.encode(facts_of(plan)) for plan in plans]
    assert wires[0] == wires[1]
    assert market.plans


# ---------------------------------------------------------------- turns


@MARKET
@given(
    st.lists(
        st.tuples(
            st.sampled_from([Priority.STANDARD, Priority.VALLEY]),
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from([300, 900, 3600]),
            st.sampled_from([0, 60, 1800, 7200]),
        ),
        min_size=4,
        max_size=30,
    )
)
def test_valley_goes_before_standard_of_the_same_shape_only_when_it_has_aged(cases: list[tuple]) -> None:
    grid = Scenario().tenant("x").site("a", f"{KIND} 1x8 2", valley=0.4)
    market = Market(grid)
    seen = 0
    for number, (priority, devices, length_s, gap_s) in enumerate(cases):
        market.submit(task(f"t{number}", devices, priority=priority, duration_s=length_s), length_s)
        market.until(grid.now_s + gap_s)
        for plan in market.plans[seen:]:
            check_classes(grid, plan)
        seen = len(market.plans)


def check_classes(grid: Scenario, plan: Plan) -> None:
    def shape(job: Job) -> tuple:
        return (job.task.resources, job.task.num_nodes, job.task.duration_s)

    jobs = grid.state.jobs
    standing = {
        shape(job)
        for job in jobs.values()
        if job.task.priority == Priority.STANDARD
        and job.submitted_at_s <= plan.at_s
        and waits(grid, job, plan)
    }
    for action in plan.actions:
        if isinstance(action, PlaceRun) and jobs[action.job].task.priority == Priority.VALLEY:
            aged = plan.at_s - jobs[action.job].submitted_at_s >= grid.policy.ageing_s
            assert aged or shape(jobs[action.job]) not in standing, f"{action.job} went before its betters"


def waits(grid: Scenario, job: Job, plan: Plan) -> bool:
    """Whether the job went on waiting after this plan, and had not been told to wait for itself."""
    began = grid.state.runs[job.runs[0]].placed_at_s if job.runs else None
    return (began is None or began > plan.at_s) and job.phase != JobPhase.STOPPED


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 2),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([300, 900, 1800]),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_nobody_starves(gangs: int, width: int, length_s: int, eagerness: int, known: bool) -> None:
    """The bound, exactly: with a stream of short jobs that are worth more than it, a gang that needs a whole
    pool starts within `starvation_s` of its submission, plus the expected length of the longest run that then
    holds devices of a pool that it fits, plus the lengths of the gangs that starved before it; and a stream's
    interval, for a plan to be made.
    """
    starvation_s, long_s, every_s = HOUR_S, 2400, max(30, length_s * width // 16 // eagerness)
    grid = Scenario(policy=Policy(starvation_s=starvation_s))
    grid.tenant("x", waiting_microyuan_per_h=1_000_000).tenant("eager", waiting_microyuan_per_h=90_000_000)
    grid.site("a", f"{KIND} 2x8 2")
    market = Market(grid)
    estimate = length_s if known else None
    while sum(run.devices for run in market.open_runs()) < 16:
        market.submit(task("s", width, duration_s=estimate), length_s, tenant="eager")
        market.plan()
    names = [
        market.submit(task(f"g{number}", 8, nodes=2, duration_s=long_s), long_s).id for number in range(gangs)
    ]
    longest_s = max(long_s, grid.policy.default_duration_s if not known else length_s)
    bound_s = starvation_s + longest_s + (gangs - 1) * long_s + 2 * every_s
    while grid.now_s < NIGHT + bound_s and not all(grid.state.jobs[name].runs for name in names):
        market.submit(task("s", width, duration_s=estimate), length_s, tenant="eager")
        market.until(grid.now_s + every_s)
    for name in names:
        assert grid.state.jobs[name].runs, f"{name} waits after {bound_s} s: {grid.plan().reasons.get(name)}"


@pytest.mark.parametrize("priority", [Priority.STANDARD, Priority.VALLEY])
def test_without_the_bound_the_gang_would_starve(priority: Priority) -> None:
    """What the bound is worth: reservations alone do not keep a place for whoever is worth least."""
    grid = Scenario(policy=Policy(starvation_s=10**9, ageing_s=10**9, reserve=False))
    grid.tenant("x", waiting_microyuan_per_h=1_000_000).tenant("eager", waiting_microyuan_per_h=90_000_000)
    grid.site("a", f"{KIND} 2x8 2")
    market = Market(grid)
    name = ""
    for number in range(30):
        for _ in range(4):
            market.submit(task("s", 4, duration_s=900), 900, tenant="eager")
        if number == 1:
            gang = task("gang", 8, nodes=2, duration_s=900, priority=priority)
            name = market.submit(gang, 900).id
        market.until(grid.now_s + 450)
    assert not grid.state.jobs[name].runs


# ---------------------------------------------------------------- what was found and is not mended yet


def test_a_valley_job_starts_within_the_bound_behind_standard_ones_without_end() -> None:
    grid = Scenario(policy=Policy(ageing_s=HOUR_S, starvation_s=2 * HOUR_S)).tenant("x")
    market = Market(grid.site("a", f"{KIND} 1x2 2"))
    for _ in range(2):
        market.submit(task("s", duration_s=600), 600)
    market.until(grid.now_s + 100)
    valley = market.submit(task("valley", priority=Priority.VALLEY, duration_s=900), 900).id
    for _ in range(40):
        market.submit(task("s", duration_s=600), 600)
        market.until(grid.now_s + 250)
    assert grid.now_s - NIGHT > 2 * HOUR_S + 600 + 250
    assert grid.state.jobs[valley].runs, f"waits after {grid.now_s - NIGHT} s"


def test_prices_fall_to_nought_when_nothing_is_scarce_any_more() -> None:
    """Devices were scarce; now all are free, and one job waits for the night because it is cheaper."""
    grid = Scenario(now_s=NIGHT + 9 * HOUR_S).tenant("x")
    market = Market(grid.site("a", f"{KIND} 2x8 2", yuan_per_kwh=2, valley=0.1))
    steps = (Step(grid.now_s, 20_000), Step(grid.now_s + HOUR_S, 0))
    before = Clearing(at_s=grid.now_s - 900, until_s=grid.now_s + 86_400, prices={"a/p0": steps})
    grid.tell(f.MarketCleared(at_s=grid.now_s - 900, clearing=before))
    market.submit(task("v", 8, priority=Priority.VALLEY, duration_s=2 * HOUR_S), 2 * HOUR_S)
    plan = market.plan()
    assert plan.clearing is not None and grid.state.waiting
    assert plan.clearing.prices == {}, "16 devices are free, and 8 are asked for"


def test_a_cheaper_hour_is_compared_with_now_even_when_now_is_too_dear() -> None:
    grid = Scenario(now_s=NIGHT + 9 * HOUR_S).tenant("x")
    market = Market(grid.site("a", f"{KIND} 1x8 2", yuan_per_kwh=10, valley=0.1))
    about = {"priority": Priority.VALLEY, "duration_s": HOUR_S, "max_cost_microyuan": 40_000_000}
    job = market.submit(task("v", 8, **about), HOUR_S)
    reason = market.plan().reasons[job.id]
    assert reason.code == "cheaper_hour" and reason.have is not None, reason


def test_a_valley_run_pauses_before_dear_hours_though_nothing_else_happens() -> None:
    grid = Scenario(now_s=NIGHT).tenant("x")
    market = Market(grid.site("a", f"{KIND} 1x8 0.1", yuan_per_kwh=20, valley=0.05))
    about = {"priority": Priority.VALLEY, "duration_s": 9 * HOUR_S, "checkpoint": Checkpoint(every_s=600)}
    job = market.submit(task("v", 8, **about), 9 * HOUR_S)
    market.until(NIGHT + 10 * HOUR_S)
    first = grid.state.runs[grid.state.jobs[job.id].runs[0]]
    assert first.placed_at_s == NIGHT and first.stop_reason.startswith("paused")
