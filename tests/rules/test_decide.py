"""Where jobs go, why others wait, and what each costs: scenarios with golden plans."""

import pytest
from scenario import NIGHT, Scenario, check, task, text

from suan.control.execute import orders_for
from suan.grid import fact as f
from suan.grid.account import Budget, Quota
from suan.grid.error import Refused
from suan.grid.job import Checkpoint, EndCause, Job, JobPhase, Place, Priority, Resources
from suan.grid.rights import Rights
from suan.rules.durations import count
from suan.rules.policy import Policy


def test_the_cheaper_site_wins_and_says_by_how_much() -> None:
    grid = (
        Scenario()
        .site("east", "H100-SXM 1x8 10", yuan_per_kwh=0.8)
        .site("west", "H100-SXM 1x8 10", yuan_per_kwh=0.4)
    )
    (job,) = grid.submit(task(devices=8, duration_s=3600))
    plan = check(grid, f"place {job} at west/p0 on 8")
    considered = plan.actions[0].considered
    west, east = considered.bids
    # 8 devices x 500 W for an hour, PUE 1.2: 4.8 kWh at the socket
    assert west.quote.electricity_microyuan == round(4.8 * 400_000)
    assert east.quote.electricity_microyuan == round(4.8 * 800_000)
    assert west.quote.machine_microyuan == 80_000_000
    assert west.quote.energy_kwh == pytest.approx(4.0)
    assert "below east/p0, mostly electricity" in considered.why


def test_moving_the_data_can_cost_more_than_the_cheaper_power_saves() -> None:
    grid = (
        Scenario()
        .tenant()
        .site("east", "H100-SXM 1x8 10", yuan_per_kwh=0.8)
        .site("west", "H100-SXM 1x8 10", yuan_per_kwh=0.4)
    )
    grid.link("east", "west", mbit_per_s=100, microyuan_per_gb=500_000).artifact(
        "dataset:big@1", "east", bytes=10**12
    )
    grid.artifact("dataset:small@1", "east", bytes=10**6)
    stay, go = grid.submit(
        task("stay", duration_s=3600, devices=4, inputs={"d": "dataset:big"}),
        task("go", duration_s=36_000, devices=4, inputs={"d": "dataset:small"}),
    )
    check(
        grid,
        f"""place {stay} at east/p0 on 4
        move dataset:small@1 east -> west for {go}
        wait {go}: moving""",
    )
    check(grid, f"wait {go}: moving")  # asked once
    transfer = next(iter(grid.state.open_transfers))
    grid.tell(f.TransferEnded(at_s=grid.now_s, transfer=transfer, moved_bytes=10**6))
    check(grid, f"place {go} at west/p0 on 4")


def test_a_failed_transfer_is_ordered_again_after_a_pause_and_not_before() -> None:
    grid = (
        Scenario()
        .site("east")
        .site("west", "H100-SXM 1x8")
        .link("east", "west")
        .artifact("dataset:d@1", "east")
    )
    (job,) = grid.submit(task(inputs={"d": "dataset:d"}))
    order = f"move dataset:d@1 east -> west for {job}\nwait {job}: moving"
    check(grid, order)
    grid.tell(f.TransferEnded(at_s=grid.now_s, transfer="datasetd1-west", failed="connection reset"))
    plan = check(grid, f"wait {job}: moving")
    assert plan.wake_at_s is not None
    assert "could not be brought from east to west (connection reset); try 2 in 4 s" in plan.reasons[job].text
    grid.now_s = plan.wake_at_s
    check(grid, order)


def test_devices_are_never_promised_twice_and_the_waiting_know_their_numbers() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8")
    first, second, third = grid.submit(*(task(f"t{n}", devices=5, duration_s=600) for n in range(3)))
    plan = check(grid, f"place {first} at west/p0 on 5\nwait {second}: devices\nwait {third}: devices")
    reason = plan.reasons[second]
    assert (reason.need, reason.have, reason.unit) == (5, 3, "devices")
    assert reason.expected_start_s == NIGHT + 600
    # Releasing devices still count as used.
    grid.started(f"{first}-r1").tell(f.JobStopRequested(at_s=NIGHT, job=first))
    check(grid, f"stop {first}-r1: its job was stopped\nwait {second}: devices\nwait {third}: devices")
    check(grid, f"wait {second}: devices\nwait {third}: devices")
    grid.ended(f"{first}-r1", cause=EndCause.STOPPED, exit_code=-15)
    check(
        grid,
        f"end {first} stopped: stopped on request\nplace {second} at west/p0 on 5\nwait {third}: devices",
    )


def test_a_gang_holds_a_reservation_and_only_harmless_jobs_slip_in() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8")
    (running,) = grid.submit(task("running", devices=6, duration_s=1000))
    grid.plan()
    gang, short, long = grid.submit(
        task("gang", devices=8, duration_s=1000),
        task("short", devices=2, duration_s=900),
        task("long", devices=2, duration_s=5000),
    )
    check(grid, f"place {short} at west/p0 on 2\nwait {gang}: devices\nwait {long}: devices")
    grid.now_s += 900
    grid.ended(f"{short}-r1")
    grid.tell(f.JobEnded(at_s=grid.now_s, job=short, phase=JobPhase.SUCCEEDED, outcome=""))
    grid.now_s += 100
    grid.ended(f"{running}-r1")
    grid.tell(f.JobEnded(at_s=grid.now_s, job=running, phase=JobPhase.SUCCEEDED, outcome=""))
    check(grid, f"place {gang} at west/p0 on 8\nwait {long}: devices")


def test_valley_work_waits_for_the_cheap_hours_and_standard_work_does_not() -> None:
    grid = (
        Scenario(now_s=NIGHT + 20 * 3600).tenant().site("west", "H100-SXM 1x8", yuan_per_kwh=1.0, valley=0.2)
    )
    night, now = grid.submit(
        task("night", devices=8, duration_s=3600, priority=Priority.VALLEY),
        task("now", devices=8, duration_s=600),
    )
    plan = check(grid, f"place {now} at west/p0 on 8\nwait {night}: devices")
    grid.now_s += 600
    grid.ended(f"{now}-r1").tell(f.JobEnded(at_s=grid.now_s, job=now, phase=JobPhase.SUCCEEDED, outcome=""))
    plan = check(grid, f"wait {night}: cheaper_hour")
    assert plan.wake_at_s == NIGHT + 24 * 3600
    assert plan.reasons[night].need < plan.reasons[night].have  # what it costs then, what it would cost now
    grid.now_s = plan.wake_at_s
    check(grid, f"place {night} at west/p0 on 8")


def test_a_deadline_bounds_the_wait_for_a_cheaper_hour() -> None:
    grid = Scenario(now_s=NIGHT + 20 * 3600).site("west", "H100-SXM 1x8", yuan_per_kwh=1.0, valley=0.2)
    (job,) = grid.submit(task(devices=8, duration_s=3600, deadline_s=2 * 3600))
    check(grid, f"place {job} at west/p0 on 8")


def test_with_a_deadline_only_a_stated_length_waits_for_a_cheaper_hour() -> None:
    grid = Scenario(now_s=NIGHT + 23 * 3600).site("west", "H100-SXM 2x8", yuan_per_kwh=1.0, valley=0.1)
    known, guessed = grid.submit(
        task(devices=8, duration_s=3600, deadline_s=8 * 3600), task(devices=8, deadline_s=8 * 3600)
    )
    check(grid, f"place {guessed} at west/p0 on 8\nwait {known}: cheaper_hour")


def test_a_length_that_is_a_guess_pays_for_the_hours_it_may_come_to() -> None:
    """One in ten of its like takes 30 hours, the others 10 minutes: most of their hours are by day."""
    grid = Scenario(now_s=NIGHT + 4 * 3600).tenant()
    grid.site("night", "H100-SXM 2x8 10", yuan_per_kwh=1.0, valley=0.2)
    grid.site("flat", "H100-SXM 2x8 10", yuan_per_kwh=0.6)
    like = Job(id="", tenant="default", task=task(), submitted_at_s=0, sequence=0)
    for length_s in [*[600] * 9, 30 * 3600] * 10 + [600] * 8:
        count(grid.state.history, like, length_s)
    (guessed,) = grid.submit(task())
    plan = check(grid, f"place {guessed} at flat/p0 on 1")
    flat, night = (bid.quote for bid in plan.actions[0].considered.bids)
    run_h = flat.run_s / 3600
    assert 1 < run_h < 4  # one that is known to take so long runs at night
    (known,) = grid.submit(task("known", duration_s=flat.run_s))
    check(grid, f"place {known} at night/p0 on 1")
    kwh = 0.5 * 1.2 * run_h
    assert flat.electricity_microyuan == pytest.approx(0.6e6 * kwh, rel=1e-3)
    assert 0.6e6 * kwh < night.electricity_microyuan < 1.0e6 * kwh


def test_a_deadline_is_not_put_off_where_others_wait_for_the_pool() -> None:
    grid = (
        Scenario(now_s=NIGHT + 22 * 3600).tenant().site("west", "H100-SXM 2x8", yuan_per_kwh=3.0, valley=0.1)
    )
    (running,) = grid.submit(task(devices=8, nodes=2, duration_s=1800))
    grid.plan()
    grid.submit(*(task(f"wait{number}", devices=8, duration_s=4 * 3600) for number in range(8)))
    for _ in range(2):
        grid.plan()
        grid.now_s += grid.policy.clear_every_s
    assert grid.state.clearing is not None and grid.state.clearing.prices["west/p0"]
    grid.ended(f"{running}-r1")
    grid.tell(f.JobEnded(at_s=grid.now_s, job=running, phase=JobPhase.SUCCEEDED, outcome=""))
    (due,) = grid.submit(task(devices=8, duration_s=3600, deadline_s=8 * 3600))
    assert text(grid.plan()).startswith(f"place {due} at west/p0 on 8\n")


def test_priority_then_share_then_age() -> None:
    grid = Scenario().tenant("a").tenant("b", weight=2.0).site("west", "H100-SXM 1x2")
    (held,) = grid.submit(task("held", duration_s=600), tenant="a")
    grid.plan()
    (a1,) = grid.submit(task("a1"), tenant="a")
    (b1,) = grid.submit(task("b1"), tenant="b")
    (valley,) = grid.submit(task("v", priority=Priority.VALLEY), tenant="b")
    (online,) = grid.submit(task("o", priority=Priority.ONLINE), tenant="a")
    plan = grid.plan()
    assert [action.job for action in plan.actions] == [online]
    grid.ended(f"{held}-r1").tell(f.JobEnded(at_s=grid.now_s, job=held, phase=JobPhase.SUCCEEDED, outcome=""))
    assert [action.job for action in grid.plan().actions] == [b1]  # b holds less for its weight
    # Nothing starves: after enough ageing periods a valley job comes before newer standard ones.
    grid.now_s += 2 * grid.policy.ageing_s
    grid.submit(task("new"), tenant="b")
    for run in (f"{online}-r1", f"{b1}-r1"):
        grid.ended(run).tell(f.JobEnded(at_s=grid.now_s, job=run[:-3], phase=JobPhase.SUCCEEDED, outcome=""))
    assert {action.job for action in grid.plan().actions} == {a1, valley}


def test_quota_budget_and_max_cost_hold_jobs_with_their_numbers() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8 10")
    grid.tenant("q", quota=Quota(nominal_devices={"H100-SXM": 2}, borrow_devices={"H100-SXM": 1}))
    grid.tenant("b", budget=Budget(limit_microyuan=5_000_000)).tenant("m")
    grid.submit(task(devices=2, duration_s=60), tenant="q")
    (over,) = grid.submit(task(devices=2, duration_s=60), tenant="q")
    (poor,) = grid.submit(task(duration_s=3600), tenant="b")
    (cheap,) = grid.submit(task(duration_s=3600, max_cost_microyuan=1_000_000), tenant="m")
    plan = grid.plan()
    codes = {job: reason.code for job, reason in plan.reasons.items()}
    assert codes == {over: "quota", poor: "budget", cheap: "max_cost"}
    assert (plan.reasons[over].need, plan.reasons[over].have) == (4, 3)
    assert plan.reasons[poor].need > plan.reasons[poor].have == 5_000_000


def test_place_rights_and_silence_are_respected() -> None:
    grid = (
        Scenario()
        .site("east", "H100-SXM 1x8", yuan_per_kwh=0.1)
        .site("west", "H100-SXM 1x8")
        .link("east", "west")
    )
    grid.artifact("dataset:secret@1", "west", rights=Rights(sites=("west",)))
    only, bound = grid.submit(
        task("only", place=Place(not_sites=("east",))), task("bound", inputs={"d": "dataset:secret"})
    )
    check(grid, f"place {only} at west/p0 on 1\nplace {bound} at west/p0 on 1")
    grid.tell(f.SiteSilent(at_s=grid.now_s, site="east"))
    (third,) = grid.submit(task("third"))
    check(grid, f"place {third} at west/p0 on 1")


def test_resources_any_of_takes_the_cheapest_and_ordered_the_first() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8 10", "A100-80GB-SXM 1x8 2")
    either = (
        Resources(accelerator="H100-SXM", accelerators=1),
        Resources(accelerator="A100-80GB-SXM", accelerators=1),
    )
    cheapest, first = grid.submit(
        task("cheapest", resources=either), task("first", resources=either, resources_ordered=True)
    )
    check(grid, f"place {cheapest} at west/p1 on 1\nplace {first} at west/p0 on 1")


def test_a_pipeline_waits_for_its_inputs_and_fails_with_them() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8")
    one, two = grid.submit(
        task("one", outputs={"m": "model:m"}), task("two", inputs={"m": "model:m"}, outputs={"r": "report:r"})
    )
    check(grid, f"place {one} at west/p0 on 1\nwait {two}: input")
    grid.ended(f"{one}-r1", exit_code=3).tell(
        f.JobEnded(at_s=grid.now_s, job=one, phase=JobPhase.FAILED, outcome="x")
    )
    check(grid, f"end {two} failed: its input will not come: job {one} (one) failed")


def test_refusals_back_off_and_end() -> None:
    grid = Scenario(policy=Policy(refusals_limit=2)).site("west", "H100-SXM 1x8")
    (job,) = grid.submit(task())
    for attempt in range(1, 4):
        check(grid, f"place {job} at west/p0 on 1")
        grid.ended(f"{job}-r{attempt}", exit_code=None, cause=EndCause.NOT_STARTED, detail="no space")
        if attempt < 3:
            plan = check(grid, f"wait {job}: refused")
            grid.now_s = plan.wake_at_s
    check(grid, f"end {job} failed: 3 times in a row no engine could start it: no space")


@pytest.mark.parametrize(
    ("tasks", "code", "hint"),
    [
        ((), "empty", "task.md"),
        ((task(devices=9),), "impossible", "at most 8"),
        ((task(nodes=2),), "impossible", "at most 1"),
        ((task(nodes=0),), "out_of_range", "at least 1"),
        ((task(devices=-1),), "out_of_range", "at least 1"),
        ((task(accelerator="B200"),), "impossible", "any_of"),
        ((task(inputs={"x": "dataset:tung"}),), "unknown_artifact", "dataset:tang"),
        ((task(inputs={"x": "tang"}),), "bad_artifact_name", "KIND:NAME"),
        ((task(inputs={"x": "dataset:../../etc"}),), "bad_artifact_name", "letters"),
        ((task(outputs={"x": "model:a@3"}),), "bad_output", "versions count up"),
        (
            (task("a", outputs={"x": "model:a"}), task("b", outputs={"x": "model:a"})),
            "two_writers",
            "another name",
        ),
        ((task("a", inputs={"x": "model:a"}, outputs={"y": "model:a"}),), "cycle", "writer first"),
        (
            (
                task("a", inputs={"x": "model:b"}, outputs={"y": "model:a"}),
                task("b", inputs={"x": "model:a"}, outputs={"y": "model:b"}),
            ),
            "cycle",
            "writer first",
        ),
    ],
)
def test_what_can_never_run_is_refused_and_nothing_is_stored(tasks, code, hint) -> None:
    grid = Scenario().site("west", "H100-SXM 1x8").artifact("dataset:tang@1", "west")
    with pytest.raises(Refused) as refusal:
        grid.submit(*tasks)
    assert refusal.value.code == code
    assert hint in refusal.value.hint
    assert not grid.state.jobs


def test_preemption_risk_and_lateness_are_priced() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8 10")
    (safe, risky) = grid.submit(
        task("ck", duration_s=7200, checkpoint=Checkpoint(every_s=600), deadline_s=3600),
        task("none", duration_s=7200),
    )
    quotes = {action.job: action.bid.quote for action in grid.plan().actions}
    assert quotes[safe].late_s == 3600
    assert quotes[safe].late_microyuan == grid.policy.late_microyuan_per_h
    assert quotes[risky].late_microyuan == 0


def test_a_task_after_another_waits_for_its_success_and_fails_with_it() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8")
    one, two = grid.submit(task("one"), task("two", after=("one",)))
    check(grid, f"place {one} at west/p0 on 1\nwait {two}: input")
    grid.ended(f"{one}-r1").tell(f.JobEnded(at_s=grid.now_s, job=one, phase=JobPhase.SUCCEEDED, outcome=""))
    check(grid, f"place {two} at west/p0 on 1")
    three, four = grid.submit(task("three"), task("four", after=("three",)))
    grid.tell(f.JobStopRequested(at_s=grid.now_s, job=three))
    grid.plan()
    check(grid, f"end {four} failed: its input will not come: job {three} (three) stopped")
    with pytest.raises(Refused, match="no earlier task"):
        grid.submit(task("five", after=("six",)))


def test_a_draining_site_stays_so_through_silence_and_return() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8")
    grid.tell(f.SiteDraining(at_s=grid.now_s, site="west"), f.SiteSilent(at_s=grid.now_s, site="west"))
    grid.tell(f.SiteHeard(at_s=grid.now_s, site="west"))
    (job,) = grid.submit(task())
    check(grid, f"wait {job}: no_site")
    grid.tell(
        f.SiteFenced(at_s=grid.now_s, site="west"), f.SiteReturned(at_s=grid.now_s, site="west", epoch=2)
    )
    check(grid, f"wait {job}: no_site")
    grid.tell(f.SiteDraining(at_s=grid.now_s, site="west", draining=False))
    check(grid, f"place {job} at west/p0 on 1")


def test_an_artifact_that_is_mounted_is_moved_and_named_in_the_order() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8").artifact("folder:conf@1", "west")
    made = task(inputs={"d": "folder:conf"}, file_mounts={"/etc/a": "folder:conf", "b": "d"})
    (job,) = grid.submit(made)
    check(grid, f"place {job} at west/p0 on 1")
    (order,) = orders_for(grid.state, "west", grid.policy, grid.now_s).launch
    assert order.mounts == {"/etc/a": "folderconf1", "b": "folderconf1"}
    assert order.inputs == {"d": "folderconf1"}
    with pytest.raises(Refused, match="nothing writes"):
        grid.submit(task(file_mounts={"x": "folder:none"}))
