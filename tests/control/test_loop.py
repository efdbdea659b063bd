"""The loop: durable answers, one writer, silence and fencing, an outage that freezes the clocks."""

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from suan.control.loop import Grid
from suan.grid import fact as f
from suan.grid.account import Usage
from suan.grid.action import Observation, OutputSeen, RunSeen, StopRun
from suan.grid.error import Refused, SiteTrouble, SuanError
from suan.grid.job import EndCause, JobPhase, Resources, RunPhase, Task
from suan.grid.site import Bands, Pool, SitePhase, Tariff
from suan.grid.state import State
from suan.journals.memory import MemoryJournal
from suan.rules.admit import admit
from suan.rules.decide import decide
from suan.rules.evolve import fold
from suan.rules.policy import Policy

POOL = Pool(
    name="cpu", accelerator="CPU-x86", devices_per_node=2, nodes=1, machine_microyuan_per_device_h=100_000
)
TARIFF = Tariff(
    site="", prices=Bands(flat_microyuan_per_kwh=500_000, ratios={"f": 1.0}, months=(("f",) * 24,))
)


class Clock:
    def __init__(self, now_s: int = 1_800_000_000) -> None:
        self.at_s = now_s

    def now_s(self) -> int:
        return self.at_s


def grid_with_sites(*names: str, journal: MemoryJournal | None = None) -> tuple[Grid, Clock, MemoryJournal]:
    clock, journal = Clock(), journal or MemoryJournal()
    grid = Grid(journal, clock, Policy())

    def join(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        facts: list[f.Fact] = []
        for name in names:
            tariff = Tariff(site=name, prices=TARIFF.prices)
            facts += [f.SiteJoined(at_s=now_s, site=name), f.TariffSet(at_s=now_s, tariff=tariff)]
            facts += [f.SiteDescribed(at_s=now_s, site=name, pools=(POOL,))]
        return facts, None

    grid.do(join)
    return grid, clock, journal


def submit(grid: Grid, *tasks: Task) -> tuple[str, ...]:
    def command(state: State, now_s: int) -> tuple[Sequence[f.Fact], tuple[str, ...]]:
        facts = admit(state, "default", tasks, now_s=now_s)
        return facts, tuple(fact.job for fact in facts)

    return grid.do(command)


def job(name: str = "j", **about: object) -> Task:
    return Task(name=name, run="true", resources=(Resources(cpus=2),), duration_s=60, **about)


def report(grid: Grid, site: str, *runs: RunSeen, full: bool = False):
    epoch = grid.state.sites[site].epoch
    pools = (POOL,) if full else ()
    return grid.report(Observation(site=site, epoch=epoch, runs=runs, full=full, pools=pools))


def test_a_command_that_has_begun_is_carried_out_though_nobody_waits_any_more() -> None:
    grid, _, _ = grid_with_sites("a")

    def drain(state: State, now_s: int) -> tuple[Sequence[f.Fact], str]:
        if state.sites["a"].draining:
            raise Refused("draining", "it is already")
        return [f.SiteDraining(at_s=now_s, site="a", draining=True)], "done"

    grid.start()
    try:
        with grid.lock:  # the loop cannot finish it meanwhile
            begun = grid.begin(drain)
            assert not begun.cancel()
        assert begun.result(10) == "done"
        assert grid.read(lambda state: state.sites["a"].draining)
        with pytest.raises(Refused):
            grid.begin(drain).result(10)
        assert not grid.trouble
    finally:
        grid.stop()


def test_a_silent_site_becomes_unknown_then_fenced_and_its_job_runs_once_elsewhere() -> None:
    grid, clock, _ = grid_with_sites("a", "b")
    (job_id,) = submit(grid, job(outputs={"o": "model:m"}))
    grid.tick()
    (first,) = grid.state.runs
    site = grid.state.runs[first].site
    other = "b" if site == "a" else "a"
    report(grid, site, RunSeen(run=first, phase=RunPhase.RUNNING, started_at_s=clock.at_s))
    for _ in range(grid.policy.lease_s + 1):
        clock.at_s += 1
        report(grid, other)
    grid.tick()
    assert grid.state.sites[site].phase == SitePhase.SILENT
    assert grid.state.runs[first].phase == RunPhase.UNKNOWN  # lost contact is not death
    assert grid.state.jobs[job_id].phase == JobPhase.PLACED
    for _ in range(grid.policy.grace_s + grid.policy.clock_margin_s):
        clock.at_s += 1
        report(grid, other)
    grid.tick()
    assert grid.state.sites[site].phase == SitePhase.FENCED
    second = grid.state.jobs[job_id].runs[1]
    assert grid.state.runs[second].site == other
    # The fenced site comes back and claims success for the old run: too late, and told to stop and forget it.
    done = {"phase": RunPhase.ENDED, "cause": EndCause.EXITED, "exit_code": 0}
    late = RunSeen(run=first, outputs={"o": OutputSeen(digest="old", bytes=1, files=1)}, **done)
    orders = report(grid, site, late)
    assert orders.forget == (first,)
    assert orders.epoch == 2
    assert not grid.state.artifacts
    new = {"o": OutputSeen(digest="new", bytes=1, files=1)}
    ended = RunSeen(run=second, started_at_s=clock.at_s, usage=Usage(device_s=4), outputs=new, **done)
    report(grid, other, ended)
    report(grid, other, ended)  # told twice
    assert [artifact.digest for artifact in grid.state.artifacts.values()] == ["new"]
    assert grid.state.jobs[job_id].phase == JobPhase.SUCCEEDED
    assert sum(grid.state.balances.values()) == 0


def test_a_voice_within_the_lease_changes_nothing() -> None:
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    (run,) = grid.state.runs
    report(grid, "a", RunSeen(run=run, phase=RunPhase.RUNNING, started_at_s=clock.at_s))
    clock.at_s += grid.policy.lease_s + 2
    grid.tick()
    assert grid.state.sites["a"].phase == SitePhase.SILENT
    report(grid, "a", RunSeen(run=run, phase=RunPhase.RUNNING, started_at_s=clock.at_s))
    assert grid.state.sites["a"].phase == SitePhase.READY
    assert grid.state.runs[run].phase == RunPhase.RUNNING
    assert grid.state.jobs[job_id].runs == (run,)


def test_the_grids_own_outage_is_nobodys_silence() -> None:
    grid, clock, journal = grid_with_sites("a")
    submit(grid, job())
    grid.tick()
    clock.at_s += 100_000
    again = Grid(journal, clock, Policy())
    again.tick()
    assert again.state.sites["a"].phase == SitePhase.READY
    clock.at_s += again.policy.lease_s + 1
    again.tick()
    assert again.state.sites["a"].phase == SitePhase.SILENT


def test_a_full_report_without_a_known_run_means_it_is_lost_and_a_launch_on_its_way_is_not() -> None:
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    (first,) = grid.state.runs
    report(grid, "a", full=True)
    assert grid.state.runs[first].phase == RunPhase.ORDERED
    report(grid, "a", RunSeen(run=first, phase=RunPhase.RUNNING, started_at_s=clock.at_s))
    report(grid, "a", full=True)
    assert grid.state.runs[first].cause == EndCause.LOST
    grid.tick()
    assert len(grid.state.jobs[job_id].runs) == 2


def test_a_job_stopped_before_its_site_heard_of_it_ends() -> None:
    grid, _, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    grid.do(lambda state, now_s: ([f.JobStopRequested(at_s=now_s, job=job_id)], None))
    grid.tick()
    report(grid, "a", full=True)
    assert grid.state.jobs[job_id].phase == JobPhase.STOPPED


def test_an_unknown_run_at_a_site_is_stopped_and_forgotten() -> None:
    grid, _, _ = grid_with_sites("a")
    orders = report(grid, "a", RunSeen(run="j99-r1", phase=RunPhase.RUNNING), full=True)
    assert [order.run for order in orders.stop] == ["j99-r1"]
    assert orders.forget == ("j99-r1",)


def test_exit_zero_without_an_output_is_a_failure_and_restarts_are_counted() -> None:
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job(outputs={"o": "model:m"}, max_restarts=1))
    for attempt in (1, 2):
        grid.tick()
        run = f"{job_id}-r{attempt}"
        report(
            grid,
            "a",
            RunSeen(
                run=run, phase=RunPhase.ENDED, started_at_s=clock.at_s, cause=EndCause.EXITED, exit_code=0
            ),
        )
    ended = grid.state.jobs[job_id]
    assert (ended.phase, len(ended.runs)) == (JobPhase.FAILED, 2)
    assert "without its output o" in ended.outcome


def test_many_callers_one_writer_and_the_journal_folds_to_the_state() -> None:
    grid, _, journal = grid_with_sites("a", "b")
    grid.start()
    refused = []

    def caller(number: int) -> None:
        for index in range(25):
            submit(grid, job(f"t{number}-{index}"))
            try:
                submit(grid, Task(name="bad", run="", resources=(Resources(),)))
            except Refused as error:
                refused.append(error.code)

    callers = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    state = grid.read(lambda state: state)
    grid.stop()
    assert len(state.jobs) == 200
    assert refused == ["nothing_to_run"] * 200
    assert fold(State(), [fact for _, fact in journal.read()]) == state


class FullDisk(MemoryJournal):
    full = False

    def append(self, facts: Sequence[f.Fact], after_seq: int) -> int:
        if self.full:
            raise SiteTrouble("journal_failed", "no space left on device")
        return super().append(facts, after_seq)


def test_a_journal_that_cannot_be_written_changes_nothing_and_says_so() -> None:
    journal = FullDisk()
    grid, _, _ = grid_with_sites("a", journal=journal)
    before = grid.state.sequence
    journal.full = True
    with pytest.raises(SiteTrouble, match="no space left"):
        submit(grid, job())
    assert grid.state.sequence == before
    assert not grid.state.jobs


class FailingDisk(MemoryJournal):
    failing = False

    def sync(self) -> None:
        if self.failing:
            raise SiteTrouble("journal_failed", "input/output error")


def test_a_grid_whose_journal_fails_in_its_last_batch_ends_and_answers_everybody() -> None:
    journal = FailingDisk()
    grid, _, _ = grid_with_sites("a", journal=journal)
    grid.start()
    busy, free, told = threading.Event(), threading.Event(), []

    def hold(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        busy.set()
        free.wait(10)
        return (), None

    def caller(command: Callable[[], object]) -> None:
        try:
            command()
        except SuanError as error:
            told.append(error.code)

    def unplug(state: State, now_s: int) -> tuple[Sequence[f.Fact], None]:
        journal.failing = True
        return (), None

    commands = [lambda: grid.do(hold), lambda: grid.do(unplug)]
    threads = [threading.Thread(target=caller, args=(command,)) for command in commands]
    threads[0].start()
    assert busy.wait(10)
    threads[1].start()
    until(lambda: not grid._queue.empty())
    stopper = threading.Thread(target=grid.stop, daemon=True)
    stopper.start()  # its wish to end stands in the batch that fails
    until(lambda: grid._queue.qsize() == 2)
    free.set()
    for thread in (stopper, *threads):
        thread.join(10)
        assert not thread.is_alive()
    assert "grid_stopped" in told


def test_a_wrong_plan_is_not_carried_out_and_the_grid_goes_on_answering() -> None:
    clock, wrong = Clock(), [True]

    def decider(state: State, policy: Policy, now_s: int):
        plan = decide(state, policy, now_s)
        if not wrong[0]:
            return plan
        return replace(plan, actions=(*plan.actions, StopRun(run="nobody-r1", why="a bug")))

    grid = Grid(MemoryJournal(), clock, Policy(), decider=decider)
    grid.do(lambda state, now_s: ([f.SiteJoined(at_s=now_s, site="a")], None))
    grid.do(lambda state, now_s: ([f.SiteDescribed(at_s=now_s, site="a", pools=(POOL,))], None))
    grid.start()
    try:
        (job_id,) = submit(grid, job())
        assert report(grid, "a").launch == ()
        until(lambda: "nobody-r1" in grid.complaint)
        wrong[0] = False
        submit(grid, job("second"))
        until(lambda: grid.complaint == "")
        assert [order.job for order in report(grid, "a").launch] == [job_id]
    finally:
        grid.stop()


def until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
