"""Jobs on more nodes or fewer: how long each size takes, and when a run comes back at another one."""

import msgspec
import pytest
from going_on import EVERY, place
from hypothesis import given
from hypothesis import strategies as st
from scenario import Scenario, task

from suan.doors.taskfile import read_tasks
from suan.grid.account import Quota
from suan.grid.error import Refused
from suan.grid.job import Elastic, EndCause, Priority, Replicas, Task
from suan.grid.market import Clearing, Step
from suan.grid.units import HOUR_S
from suan.rules.elastic import Resizing, node_counts, resize
from suan.rules.policy import Policy
from suan.rules.progress import remaining_s, saved_s
from suan.rules.quota import Quotas
from suan.rules.scaling import allowed_nodes, prior_speed, speed

POOL = ("a", "p0")
TABLE = {1: 100.0, 2: 180.0, 4: 300.0}


def elastic(nodes: int, low: int = 1, high: int = 8, **about: object) -> Task:
    table = about.pop("speed", {})
    limits = Elastic(min_nodes=low, max_nodes=high, speed=table)
    about = {"duration_s": 36_000, "checkpoint": EVERY, **about}
    return task("e", devices=8, nodes=nodes, elastic=limits, **about)


def test_the_table_counts_where_it_says_something_and_the_prior_elsewhere() -> None:
    measured = elastic(2, speed=TABLE)
    assert speed(measured, 2) == 1.0
    assert speed(measured, 1) == pytest.approx(100 / 180)
    assert speed(measured, 3) == pytest.approx(240 / 180)
    assert speed(measured, 8) == pytest.approx(300 / 180 * prior_speed(8) / prior_speed(4))
    assert speed(elastic(1), 8) == pytest.approx(8 / 1.28)
    assert speed(task(nodes=3), 3) == 1.0


def test_bids_are_made_for_what_the_pool_has_and_the_job_allows() -> None:
    pool = Scenario().site("a", "H100-SXM 4x8").state.sites["a"].pools["p0"]
    counts = node_counts(elastic(2, speed=TABLE), pool)
    assert [nodes for nodes, _ in counts] == [1, 2, 3, 4]
    assert dict(counts)[1] == pytest.approx(1.8) and dict(counts)[2] == 1.0
    assert node_counts(task(nodes=2), pool) == ((2, 1.0),)
    assert node_counts(elastic(2, replicas=Replicas()), pool) == ((2, 1.0),)


@given(st.integers(1, 300), st.integers(0, 3000), st.integers(0, 3300), st.booleans())
def test_more_nodes_are_never_slower_and_never_more_than_that_many_times_as_fast(
    low: int, more: int, own: int, measured: bool
) -> None:
    high = low + more
    job = elastic(min(max(own, low), high), low, high, speed=TABLE if measured else {})
    counts = allowed_nodes(job)
    assert {low, high, job.num_nodes} <= set(counts) and list(counts) == sorted(set(counts))
    assert len(counts) < 60 and all(low <= nodes <= high for nodes in counts)
    speeds = [speed(job, nodes) for nodes in counts]
    assert speeds == sorted(speeds)
    for (few, slow), (many, fast) in zip(
        zip(counts, speeds, strict=True), zip(counts[1:], speeds[1:], strict=True), strict=False
    ):
        assert fast / slow <= many / few * (1 + 1e-9)


def asked(grid: Scenario, free: int = 0, **about: object) -> Resizing:
    return resize(
        grid.state, grid.policy, grid.now_s, free={POOL: free}, quotas=Quotas.of(grid.state), **about
    )


def going(nodes: int, *, price: float = 0.5, for_s: int = 2440, **about: object) -> tuple[Scenario, str]:
    """An elastic run of ten hours, 40 s after a checkpoint, in a pool of eight nodes."""
    grid = Scenario().tenant(waiting_microyuan_per_h=10_000_000).site("a", f"H100-SXM 8x8 {price}")
    (job,) = grid.submit(elastic(nodes, **about))
    run = place(grid, job)
    grid.now_s += for_s
    return grid, run


def test_a_run_with_a_deadline_grows_into_free_devices_and_says_what_for() -> None:
    grid, run = going(2, deadline_s=6 * HOUR_S)
    assert asked(grid, free=0).stops == ()
    found = asked(grid, free=48)
    job = grid.state.runs[run].job
    (stop,) = found.stops
    assert stop.run == run and stop.why.startswith(f"resized for {job}: ")
    assert found.nodes is not None and 2 < found.nodes[job] <= 8
    assert f"{found.nodes[job]} nodes instead of 2" in stop.why
    assert asked(grid, free=48, planned=frozenset({run})).stops == ()


def test_a_run_shrinks_when_its_devices_are_worth_more_to_others() -> None:
    grid, run = going(8, speed={1: 1.0, 8: 3.0}, price=0.01)
    assert asked(grid).stops == ()
    steps = (Step(0, 20_000_000),)
    grid.state.clearing = Clearing(at_s=0, until_s=grid.now_s + 10**6, prices={"a/p0": steps})
    (stop,) = asked(grid).stops
    assert stop.run == run
    assert asked(grid).nodes == {grid.state.runs[run].job: 1}


def test_it_changes_only_after_a_checkpoint_and_not_at_once_again() -> None:
    grid, _ = going(2, deadline_s=6 * HOUR_S, for_s=2400 + 300)
    found = asked(grid, free=48)
    assert found.stops == () and found.wake_at_s == grid.now_s + 300 + 30
    young, _ = going(2, deadline_s=6 * HOUR_S, for_s=Policy().resize_after_s - 1)
    found = asked(young, free=48)
    assert found.stops == () and found.wake_at_s == young.now_s + 1
    for about in ({"checkpoint": None}, {"priority": Priority.ONLINE}, {"replicas": Replicas()}):
        grid, _ = going(2, deadline_s=6 * HOUR_S, **about)
        assert asked(grid, free=48).stops == ()


def test_what_is_free_is_promised_once_and_the_quota_is_kept() -> None:
    grid = Scenario().site("a", "H100-SXM 8x8 0.5")
    grid.tenant(waiting_microyuan_per_h=10_000_000, quota=Quota(nominal_devices={"*": 48}))
    jobs = grid.submit(*(elastic(2, deadline_s=6 * HOUR_S) for _ in range(2)))
    for job in jobs:
        place(grid, job)
    grid.now_s += 2440

    def devices() -> int:
        sizes = asked(grid, free=40).nodes or {}
        return 8 * sum(sizes.get(job, 2) for job in jobs)

    assert devices() == 48
    grid.tenant(waiting_microyuan_per_h=10_000_000)
    assert 48 < devices() <= 32 + 40


def test_work_done_on_other_numbers_of_nodes_counts_by_their_speed() -> None:
    grid, run = going(2, speed=TABLE, for_s=6000)
    job_id = grid.state.runs[run].job
    grid.ended(run, cause=EndCause.STOPPED)
    again = place(grid, job_id, nodes=1)
    grid.now_s += 6000
    grid.ended(again, cause=EndCause.STOPPED)
    job = grid.state.jobs[job_id]
    done_s = saved_s(grid.state, job)["a"]
    assert done_s == pytest.approx(6000 + 6000 * 100 / 180)
    pool = grid.state.sites["a"].pools["p0"]
    left_s = remaining_s(grid.state, job, ("a", pool), grid.policy, length_s=36_000)
    assert left_s == round(36_000 - done_s) + grid.policy.restore_s


def test_the_task_file_says_how_fast_it_runs_on_how_many_nodes() -> None:
    text = "run: x\nelastic: {nodes: 1-8, speed: {1: 10.5, 4: 38}}"
    (read,) = read_tasks(text, source="t").tasks
    assert read.elastic == Elastic(min_nodes=1, max_nodes=8, speed={1: 10.5, 4: 38.0})
    assert msgspec.json.decode(msgspec.json.encode(read), type=Task) == read
    for wrong in ("{0: 1}", "{one: 1}", "{1: 0}", "{1: fast}", "{1: }", "3"):
        with pytest.raises(Refused, match=r"elastic\.speed"):
            read_tasks(f"run: x\nelastic: {{nodes: 1-8, speed: {wrong}}}", source="t")
