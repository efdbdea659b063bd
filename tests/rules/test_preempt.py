"""Whom the grid stops so that a gang fits, whom it never stops, and what a stopped job keeps."""

import itertools

import pytest
from going_on import EVERY, place, running
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario import NIGHT, Scenario, task

from suan.grid import fact as f
from suan.grid.account import Quota, Tenant
from suan.grid.job import Checkpoint, EndCause, JobPhase, Priority, Reason, Replicas, RunPhase
from suan.grid.market import Clearing, Step
from suan.grid.units import HOUR_S
from suan.rules.cover import cover
from suan.rules.leave import leaving
from suan.rules.policy import Policy
from suan.rules.preempt import Claim, Preemption, Standing, victims, with_preemption
from suan.rules.progress import checkpoint_site, remaining_s, saved_s
from suan.rules.quota import Quotas

H100 = "H100-SXM"
POLICY = Policy()
POOL = ("a", "p0")
VALLEY, STANDARD, ONLINE = Priority.VALLEY, Priority.STANDARD, Priority.ONLINE


def claim(
    grid: Scenario, devices: int = 8, tenant: str = "default", *, free: int = 0, **about: object
) -> Claim:
    """A job that wants so many devices of the pool."""
    terms = {"value_microyuan": 0, "held_s": 3600, "starts_s": None}
    terms |= {name: about.pop(name) for name in list(about) if name in terms}
    (job,) = grid.submit(task("claim", devices=devices, **about), tenant=tenant)
    return Claim(job=grid.state.jobs[job], pool=POOL, need=devices, free=free, **terms)


def ask(grid: Scenario, wanted: Claim) -> Preemption | Reason:
    return victims(Standing.of(grid.state, grid.policy, grid.now_s), wanted)


def carry_out(grid: Scenario, made: Preemption | Reason, *, end: bool = True) -> None:
    assert isinstance(made, Preemption), made
    for stop in made.stops:
        grid.tell(f.RunStopOrdered(at_s=grid.now_s, run=stop.run, why=stop.why))
        if end:
            grid.ended(stop.run, cause=EndCause.STOPPED)


def stopped(made: Preemption | Reason) -> list[str]:
    assert isinstance(made, Preemption), made
    return sorted(stop.run for stop in made.stops)


def test_the_run_that_loses_least_goes_and_the_words_say_what_is_lost() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 2x8 10")
    running(grid, 8, for_s=3000 + 550, priority=VALLEY)  # 550 s since its last checkpoint
    (fresh,) = running(grid, 8, for_s=3000 + 50, priority=VALLEY)
    made = ask(grid, claim(grid))
    assert stopped(made) == [fresh]
    assert isinstance(made, Preemption)
    assert made.losses[0].again_s == 50 + grid.policy.restore_s
    device_h = 8 * 110 / HOUR_S
    delay = (3600 + 110) / HOUR_S * 1_000_000 * grid.policy.waiting_ratio["valley"]
    run = grid.state.runs[fresh]
    unit = run.quote.billed_microyuan / run.quote.run_s / 8 * HOUR_S
    assert made.lost_microyuan == pytest.approx(device_h * unit + delay, abs=2)
    (stop,) = made.stops
    assert "needs 8 devices" in stop.why and "1m50s of its work is done again" in stop.why
    grid.state.clearing = Clearing(
        at_s=0, until_s=grid.now_s + 9999, prices={"a/p0": (Step(0, 5_000_000),)}
    )  # scarce devices make lost work dearer
    dearer = ask(grid, claim(grid))
    assert isinstance(dearer, Preemption)
    assert dearer.lost_microyuan - made.lost_microyuan == pytest.approx(device_h * 5_000_000, abs=2)


@pytest.mark.parametrize(
    ("who", "for_whom", "may"),
    [
        (VALLEY, STANDARD, True), (VALLEY, ONLINE, True), (STANDARD, ONLINE, True),
        (STANDARD, STANDARD, False), (VALLEY, VALLEY, False), (STANDARD, VALLEY, False),
        (ONLINE, ONLINE, False), (ONLINE, STANDARD, False),
    ],
)  # fmt: skip
def test_only_lower_classes_are_stopped_for_others(who: Priority, for_whom: Priority, *, may: bool) -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 1x8")
    runs = running(grid, 8, priority=who)
    made = ask(grid, claim(grid, priority=for_whom))
    assert (stopped(made) == runs) if may else isinstance(made, Reason)


def test_services_and_runs_that_have_just_begun_are_left_alone() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 2x8")
    running(grid, 8, priority=VALLEY, for_s=POLICY.min_run_s - 1)
    running(grid, 8, priority=STANDARD, replicas=Replicas())
    made = ask(grid, claim(grid, priority=ONLINE))
    assert isinstance(made, Reason) and (made.code, made.need, made.have) == ("preemption_none", 8, 0)
    grid.now_s += 1
    assert len(stopped(ask(grid, claim(grid, priority=ONLINE)))) == 1


def test_valley_goes_before_standard_and_no_more_than_needed() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 4x8")
    valley = running(grid, 4, 4, priority=VALLEY, checkpoint=None)  # loses most, and goes first all the same
    standard = running(grid, 8, 4)
    assert stopped(ask(grid, claim(grid, 8, priority=ONLINE))) == sorted(valley)
    # where valley alone is not enough, the least loss decides among all
    assert stopped(ask(grid, claim(grid, 8, priority=ONLINE, free=-4))) == sorted(standard)
    assert len(stopped(ask(grid, claim(grid, 8, priority=ONLINE, free=4)))) == 1


def test_a_standard_job_stops_another_only_for_clearly_more_than_is_lost() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 1x8 10")
    (run,) = running(grid, 8, for_s=3100)
    refused = ask(grid, claim(grid))
    assert isinstance(refused, Reason) and refused.code == "preemption_value"
    lost = refused.need
    assert lost is not None
    assert isinstance(ask(grid, claim(grid, value_microyuan=int(lost))), Reason)
    assert stopped(ask(grid, claim(grid, value_microyuan=int(lost) + 1))) == [run]


def test_more_work_is_never_lost_than_the_wait_is_worth() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 1x8 10")
    running(grid, 8, for_s=3100, priority=VALLEY)  # 100 s and 60 s to restore
    soon = ask(grid, claim(grid, starts_s=grid.now_s + 159))
    assert isinstance(soon, Reason) and (soon.code, soon.need, soon.have) == ("preemption_loss", 1280, 1272)
    assert stopped(ask(grid, claim(grid, starts_s=grid.now_s + 160)))


def lab(grid: Scenario, **quotas: Quota) -> None:
    for name, quota in quotas.items():
        grid.state.tenants[name] = Tenant(name=name, quota=quota, parent="lab" if "lab" in quotas else "")
    if "lab" in quotas:
        grid.state.tenants["lab"] = Tenant(name="lab", quota=quotas["lab"])


def h100(nominal: int, **more: int) -> Quota:
    return Quota(nominal_devices={H100: nominal}, **{f"{k}_devices": {H100: v} for k, v in more.items()})


def test_a_lender_gets_back_what_it_is_guaranteed_and_no_more() -> None:
    grid = Scenario().site("a", "H100-SXM 2x8")
    lab(grid, lab=Quota(), mine=h100(8), theirs=h100(8))
    runs = running(grid, 4, 4, 4, 4, tenant="theirs")
    made = ask(grid, claim(grid, 8, tenant="mine"))
    assert len(stopped(made)) == 2 and isinstance(made, Preemption)
    assert all("that tenant theirs has borrowed" in stop.why for stop in made.stops)
    carry_out(grid, made)
    assert Quotas.of(grid.state).available("mine", H100) == 8
    place(grid, made.job)
    more = ask(grid, claim(grid, 4, tenant="mine"))  # beyond its guarantee it would borrow itself
    assert isinstance(more, Reason) and more.code == "quota"
    assert {grid.state.runs[run].phase for run in runs} == {RunPhase.RUNNING, RunPhase.ENDED}


def test_borrowed_devices_are_taken_back_in_another_pool_when_it_is_the_quota_that_is_full() -> None:
    grid = Scenario().site("a", "H100-SXM 1x8").site("b", "H100-SXM 1x8", yuan_per_kwh=0.1)
    lab(grid, lab=Quota(), mine=h100(4), theirs=h100(4))
    (at_b,) = running(grid, 8, tenant="theirs", site="b")
    assert stopped(ask(grid, claim(grid, 4, tenant="mine", free=8))) == [at_b]
    assert isinstance(ask(grid, claim(grid, 4, tenant="mine", free=8, priority=VALLEY)), Reason)


def test_a_guarantee_is_claimed_once() -> None:
    """Two jobs of one tenant cannot both take back what it is owed, in one plan or in the next."""
    grid = Scenario().site("a", "H100-SXM 2x8").site("b", "H100-SXM 1x8")
    lab(grid, lab=Quota(), mine=h100(8), theirs=h100(8))
    running(grid, 4, 4, 4, 4, tenant="theirs")
    one, two = (claim(grid, 8, tenant="mine") for _ in range(2))
    standing = Standing.of(grid.state, grid.policy, grid.now_s)
    made = victims(standing, one)
    assert isinstance(made, Preemption) and len(made.stops) == 2
    refused = victims(with_preemption(standing, one, made), two)
    assert isinstance(refused, Reason) and refused.code in ("quota", "preemption_value")
    carry_out(grid, made, end=False)
    refused = ask(grid, two)
    assert isinstance(refused, Reason) and refused.code in ("quota", "preemption_value")
    assert ask(grid, one) == Preemption(job=one.job.id, releasing=8)


def test_releasing_devices_are_promised_once() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 2x8")
    first, second = running(grid, 8, 8, priority=VALLEY)
    standing = Standing.of(grid.state, grid.policy, grid.now_s)
    one, two, three = (claim(grid, 8) for _ in range(3))
    made = victims(standing, one)
    standing = with_preemption(standing, one, made) if isinstance(made, Preemption) else standing
    again = victims(standing, two)  # within the same plan
    assert sorted(stopped(made) + stopped(again)) == [first, second]
    assert isinstance(victims(with_preemption(standing, two, again), three), Reason)
    carry_out(grid, made, end=False)  # and in the next plan, while the run is stopping
    assert ask(grid, one) == Preemption(job=one.job.id, releasing=8)
    assert stopped(ask(grid, two)) == stopped(again)
    # what stops for nobody is there for one of them
    grid.tell(f.RunStopOrdered(at_s=grid.now_s, run=stopped(again)[0], why="its job was stopped"))
    standing = Standing.of(grid.state, grid.policy, grid.now_s)
    free = victims(standing, two)
    assert isinstance(free, Preemption) and (free.stops, free.releasing) == ((), 8)
    assert isinstance(victims(with_preemption(standing, two, free), three), Reason)
    # a promise to a job that has found another place is over
    grid.tell(f.JobEnded(at_s=grid.now_s, job=one.job.id, phase=JobPhase.STOPPED, outcome=""))
    assert ask(grid, three) == Preemption(job=three.job.id, releasing=8)


def test_the_hours_budgets_hold_for_the_grid_and_for_a_job() -> None:
    grid = Scenario().tenant().site("a", f"H100-SXM {POLICY.preemptions_per_h + 4}x8")
    runs = running(grid, *[8] * (POLICY.preemptions_per_h + 4), priority=VALLEY)
    for run in runs[: POLICY.preemptions_per_h - 1]:
        grid.tell(f.RunStopOrdered(at_s=grid.now_s, run=run, why="preempted for j0: test"))
        grid.ended(run, cause=EndCause.STOPPED)
    assert len(stopped(ask(grid, claim(grid)))) == 1
    refused = ask(grid, claim(grid, 8, free=-8))
    assert isinstance(refused, Reason) and (refused.code, refused.need, refused.have) == (
        "preemption_budget",
        2,
        1,
    )
    grid.now_s += HOUR_S
    assert len(stopped(ask(grid, claim(grid, 8, free=-8)))) == 2


def test_a_job_is_stopped_only_so_often_an_hour_and_not_again_and_again_without_progress() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 1x8")
    (run,) = running(grid, 8, priority=VALLEY, checkpoint=None, for_s=0)
    job = grid.state.runs[run].job
    stops = []
    for _ in range(12):
        grid.now_s += POLICY.min_run_s
        made = ask(grid, claim(grid))
        if isinstance(made, Preemption):
            stops.append(grid.now_s)
            carry_out(grid, made)
            grid.tell(f.JobEnded(at_s=grid.now_s, job=made.job, phase=JobPhase.STOPPED, outcome=""))
            place(grid, job)
    assert len(stops) == POLICY.fruitless_runs, "then it runs to its end"
    assert stops[POLICY.job_preemptions_per_h] - stops[0] >= HOUR_S
    assert grid.state.jobs[job].restarts == 0, "being stopped for others is no failure of its own"


@pytest.mark.parametrize("every_s", [300, 600, 1500, None])
def test_a_job_that_is_stopped_whenever_it_may_be_still_ends(every_s: int | None) -> None:
    """However often others want its devices: it comes to its end within a known number of runs."""
    grid = Scenario().tenant().site("a", "H100-SXM 1x8")
    checkpoint = None if every_s is None else Checkpoint(every_s=every_s)
    work_s = 6 * HOUR_S
    (run,) = running(grid, 8, priority=VALLEY, checkpoint=checkpoint, duration_s=work_s, for_s=0)
    job, done_s = grid.state.runs[run].job, 0.0
    while done_s < work_s:
        grid.now_s += POLICY.min_run_s
        made = ask(grid, claim(grid))
        if isinstance(made, Preemption):
            carry_out(grid, made)
            place(grid, job)
        began_s = grid.state.runs[grid.state.jobs[job].runs[-1]].started_at_s or 0
        done_s = saved_s(grid.state, grid.state.jobs[job]).get("a", 0.0) + grid.now_s - began_s
    most = POLICY.fruitless_runs if every_s is None else (POLICY.fruitless_runs + 1) * work_s // every_s
    assert 1 <= len(grid.state.jobs[job].runs) - 1 <= most


def test_who_was_stopped_does_not_hit_back_at_once() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 1x8 10")
    (run,) = running(grid, 8)
    strong = claim(grid, value_microyuan=10**12)
    carry_out(grid, ask(grid, strong))
    place(grid, strong.job.id)
    victim = grid.state.jobs[grid.state.runs[run].job]
    grid.now_s += POLICY.min_run_s
    back = Claim(job=victim, pool=POOL, need=8, free=0, held_s=3600, value_microyuan=10**13)
    assert isinstance(ask(grid, back), Reason)
    grid.now_s += HOUR_S
    assert stopped(ask(grid, back)) == [grid.state.jobs[strong.job.id].runs[-1]]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 50)), max_size=9), st.integers(0, 30))
def test_a_cover_costs_least_of_all_sets_that_are_enough(runs: list[tuple[int, int]], need: int) -> None:
    runs = [(devices, cost * 1000) for devices, cost in runs]
    sets = [chosen for n in range(len(runs) + 1) for chosen in itertools.combinations(range(len(runs)), n)]
    enough = [chosen for chosen in sets if sum(runs[i][0] for i in chosen) >= need]
    found = cover(runs, need)
    if found is None:
        assert not enough
        return
    cost = min(sum(runs[i][1] for i in chosen) for chosen in enough)
    assert sum(runs[i][0] for i in found) >= need and sum(runs[i][1] for i in found) == cost
    assert len(found) == min(len(one) for one in enough if sum(runs[i][1] for i in one) == cost)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 8), st.sampled_from(list(Priority)), st.sampled_from("xy"), st.integers(0, 4000)
        ),
        min_size=1, max_size=6,
    ),
    st.integers(1, 8), st.sampled_from(list(Priority)), st.sampled_from("xy"), st.integers(0, 10**8),
)  # fmt: skip
def test_whatever_is_stopped_was_needed_and_allowed(
    runs: list[tuple[int, Priority, str, int]], need: int, priority: Priority, tenant: str, value: int
) -> None:
    grid = Scenario().site("a", "H100-SXM 6x8 3")
    lab(grid, x=h100(8, borrow=40), y=h100(12, borrow=36))
    for devices, kind, owner, for_s in runs:
        running(grid, devices, tenant=owner, priority=kind, for_s=for_s)
    used = grid.state.used_devices.get(POOL, 0)
    wanted = claim(grid, need, tenant, priority=priority, value_microyuan=value)
    quotas = Quotas.of(grid.state)
    made = ask(grid, wanted)
    if isinstance(made, Reason):
        return
    freed = [grid.state.runs[stop.run] for stop in made.stops]
    assert sum(run.devices for run in freed) >= need
    for run in freed:
        job = grid.state.jobs[run.job]
        assert sum(other.devices for other in freed if other is not run) < need, (
            "nobody is stopped for nothing"
        )
        assert job.task.priority != ONLINE and priority != VALLEY
        assert run.started_at_s is not None and grid.now_s - run.started_at_s >= POLICY.min_run_s
        if job.task.priority == priority:
            owed = quotas.owed(tenant, run.tenant, H100, need)
            assert owed > 0 or value > made.lost_microyuan
    assert used >= sum(run.devices for run in freed)


# ---------------------------------------------------------------- what a stopped job keeps


def test_a_stopped_job_waits_again_and_keeps_what_its_checkpoints_hold_where_they_lie() -> None:
    grid = Scenario().tenant().site("a", "H100-SXM 1x8").site("b", "H100-SXM 1x8", yuan_per_kwh=9.0)
    (run,) = running(grid, 8, for_s=3500, priority=VALLEY)
    job_id = grid.state.runs[run].job
    carry_out(grid, ask(grid, claim(grid)))
    job = grid.state.jobs[job_id]
    assert (job.phase, job.restarts) == (JobPhase.WAITING, 0)
    assert saved_s(grid.state, job) == {"a": 3000.0} and checkpoint_site(grid.state, job) == "a"
    pools = {name: (name, grid.state.sites[name].pools["p0"]) for name in "ab"}
    terms = {"length_s": 36_000.0}
    assert remaining_s(grid.state, job, pools["a"], grid.policy, **terms) == 33_000 + grid.policy.restore_s
    assert remaining_s(grid.state, job, pools["b"], grid.policy, **terms) == 36_000
    (other,) = running(grid, 8, checkpoint=None, for_s=3500)
    grid.ended(other, cause=EndCause.LOST)
    assert saved_s(grid.state, grid.state.jobs[grid.state.runs[other].job]) == {}


# ---------------------------------------------------------------- leaving dear hours


def valley_run(
    *, valley: float, checkpoint: Checkpoint | None = EVERY, hour: int = 8
) -> tuple[Scenario, str]:
    """A valley run of ten hours that has run for an hour and a half; nights are cheap until eight o'clock."""
    grid = Scenario(now_s=NIGHT + hour * HOUR_S).tenant(waiting_microyuan_per_h=100_000)
    grid.site("a", "H100-SXM 1x8 0", yuan_per_kwh=1.0, valley=valley)
    (run,) = running(grid, 8, priority=VALLEY, for_s=5400, checkpoint=checkpoint)
    return grid, run


def test_a_valley_run_leaves_when_the_dear_hours_come_just_after_a_checkpoint() -> None:
    grid, run = valley_run(valley=0.3)
    found = leaving(grid.state, grid.policy, grid.now_s)
    assert found.stops == () and found.wake_at_s is not None
    assert 0 < found.wake_at_s - grid.now_s <= 630
    grid.now_s = found.wake_at_s
    (stop,) = leaving(grid.state, grid.policy, grid.now_s).stops
    assert stop.run == run and stop.why.startswith(f"paused for {grid.state.runs[run].job}: ")
    assert "30s of its work is done again" in stop.why


def test_it_stays_while_it_is_cheap_and_wakes_when_that_ends() -> None:
    grid, _ = valley_run(valley=0.3, hour=5)
    found = leaving(grid.state, grid.policy, grid.now_s)
    assert found.stops == () and found.wake_at_s == grid.now_s + 3 * HOUR_S


def test_it_stays_when_later_is_no_cheaper_or_everything_would_be_lost() -> None:
    flat, _ = valley_run(valley=1.0)
    assert leaving(flat.state, flat.policy, flat.now_s).stops == ()
    little, _ = valley_run(valley=0.97)
    little.now_s += 600 - 5400 % 600 + 40
    assert leaving(little.state, little.policy, little.now_s).stops == ()
    lost, _ = valley_run(valley=0.3, checkpoint=None)
    assert leaving(lost.state, lost.policy, lost.now_s).stops == ()
    standard = Scenario(now_s=NIGHT + 8 * HOUR_S).tenant().site("a", "H100-SXM 1x8 0", valley=0.3)
    running(standard, 8, for_s=5430)
    assert leaving(standard.state, standard.policy, standard.now_s).stops == ()


def test_scarce_hours_drive_it_away_as_dear_electricity_does() -> None:
    grid, run = valley_run(valley=1.0)
    grid.now_s += 40
    steps = (Step(0, 20_000_000), Step(grid.now_s + 2 * HOUR_S, 0))
    grid.state.clearing = Clearing(at_s=0, until_s=grid.now_s + 86_400, prices={"a/p0": steps})
    assert [stop.run for stop in leaving(grid.state, grid.policy, grid.now_s).stops] == [run]
    planned = frozenset({run})
    assert leaving(grid.state, grid.policy, grid.now_s, planned=planned).stops == ()
