"""What a site says, turned into facts: said twice, said together, said wrongly. What is out is durable."""

import threading
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from test_loop import POOL, Clock, grid_with_sites, job, report, submit

from suan.control.observe import fence_s
from suan.grid import fact as f
from suan.grid.account import Usage
from suan.grid.action import Observation, OutputSeen, RunSeen, TransferSeen
from suan.grid.artifact import Artifact
from suan.grid.error import NotNow, SiteTrouble, SuanError
from suan.grid.job import EndCause, JobPhase, Resources, RunPhase, Task
from suan.grid.site import Bands, Link, Tariff
from suan.journals.memory import MemoryJournal
from suan.rules.policy import Policy


def ended(run: str, clock: Clock, usage: Usage | None = None, **outputs: OutputSeen) -> RunSeen:
    return RunSeen(
        run=run,
        phase=RunPhase.ENDED,
        started_at_s=clock.at_s - 60,
        ended_at_s=clock.at_s,
        cause=EndCause.EXITED,
        exit_code=0,
        usage=usage or Usage(device_s=60, energy_kwh=0.001),
        outputs=outputs,
    )


def made(digest: str) -> OutputSeen:
    return OutputSeen(digest=digest, bytes=10, files=1)


def one_core(name: str, **about: object) -> Task:
    return Task(name=name, run="true", resources=(Resources(cpus=1),), duration_s=60, **about)


def test_two_ends_in_one_report_that_write_the_same_name_give_two_versions() -> None:
    """A grid that was away hears of many ends at once: no output may hide another."""
    grid, clock, _ = grid_with_sites("a")
    first, second = (submit(grid, one_core(n, outputs={"o": "model:m"}))[0] for n in ("x", "y"))
    grid.tick()
    clock.at_s += 60
    report(grid, "a", ended(f"{first}-r1", clock, o=made("d1")), ended(f"{second}-r1", clock, o=made("d2")))
    state = grid.state
    assert {state.artifacts[state.jobs[job_id].outputs["o"]].digest for job_id in (first, second)} == {
        "d1",
        "d2",
    }
    assert state.latest["model:m"] == 2


def test_an_end_said_twice_in_one_report_is_paid_once() -> None:
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    clock.at_s += 60
    said = ended(f"{job_id}-r1", clock)
    report(grid, "a", said, said)
    assert [entry.what for entry in grid.state.entries].count("pays") == 1
    assert sum(grid.state.balances.values()) == 0


@pytest.mark.parametrize(
    "usage",
    [
        Usage(device_s=-1e6, energy_kwh=-5.0),
        Usage(device_s=1e300, energy_kwh=1e300),
        Usage(device_s=1e6, energy_kwh=1e6),
    ],
)
def test_a_site_can_bill_no_more_than_there_was_and_nothing_below_zero(usage: Usage) -> None:
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    clock.at_s += 3600
    report(grid, "a", ended(f"{job_id}-r1", clock, usage))
    assert grid.state.jobs[job_id].phase == JobPhase.SUCCEEDED
    # two devices for an hour and a second at most, and the electricity of no more than 100 kW each
    assert (
        0 <= -grid.state.balances.get("tenant:default", 0) <= 2 * 3601 / 3600 * (100_000 + 100 * 500_000) + 1
    )
    assert sum(grid.state.balances.values()) == 0


def test_moved_bytes_below_zero_pay_nobody_and_the_price_is_that_of_the_order() -> None:
    grid, _, _ = grid_with_sites("a", "b")
    artifact = Artifact(
        id="dataset:d@1", digest="d" * 64, bytes=10**9, files=1, tenant="default", created_at_s=0
    )

    def link(price: int) -> None:
        declared = Link(source="a", destination="b", mbit_per_s=100, microyuan_per_gb=price)
        grid.do(lambda state, now_s: ([f.LinkSet(at_s=now_s, link=declared)], None))

    def move(state: object, now_s: int) -> tuple[Sequence[f.Fact], None]:
        order = f.TransferOrdered(
            at_s=now_s, transfer="t", artifact=artifact.id, source="a", destination="b", job=job_id
        )
        return [order], None

    def arrived(moved_bytes: int, failed: str = "") -> None:
        seen = TransferSeen(transfer="t", done=not failed, failed=failed, moved_bytes=moved_bytes)
        grid.report(Observation(site="b", epoch=1, transfers=(seen, seen)))

    link(500)
    (job_id,) = submit(grid, job())
    grid.do(lambda state, now_s: ([f.ArtifactCommitted(at_s=now_s, artifact=artifact)], None))
    grid.do(move)
    arrived(-(10**12), failed="reset")
    assert grid.state.balances == {}
    grid.do(move)
    link(9_000)
    arrived(10**9)
    assert grid.state.balances == {"link:a>b": 500, "tenant:default": -500}


@pytest.mark.parametrize("later_s", [0, 10])
def test_a_later_tariff_changes_no_price_of_a_run_that_was_placed_before(later_s: int) -> None:
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    clock.at_s += later_s
    dear = Tariff(
        site="a", prices=Bands(flat_microyuan_per_kwh=9_000_000, ratios={"f": 1.0}, months=(("f",) * 24,))
    )
    grid.do(lambda state, now_s: ([f.TariffSet(at_s=now_s, tariff=dear)], None))
    clock.at_s += 50
    report(grid, "a", ended(f"{job_id}-r1", clock, Usage(device_s=120, energy_kwh=1.0)))
    assert grid.state.balances["site:a:electricity"] == 500_000
    assert grid.state.tariff("a", clock.at_s) == grid.state.tariffs["a"][-1]


def test_what_was_believed_lost_everywhere_is_found_again() -> None:
    grid, clock, _ = grid_with_sites("a")
    artifact = Artifact(id="dataset:d@1", digest="d" * 64, bytes=1, files=1, tenant="default", created_at_s=0)
    grid.do(
        lambda state, now_s: (
            [
                f.ArtifactCommitted(at_s=now_s, artifact=artifact),
                f.ReplicaAdded(at_s=now_s, artifact=artifact.id, site="a"),
            ],
            None,
        )
    )

    def full(*digests: str) -> dict[str, int]:
        clock.at_s += 30
        grid.report(Observation(site="a", epoch=1, full=True, pools=(POOL,), replicas=digests))
        return grid.state.replicas[artifact.id]

    assert full() == {}
    assert list(full(artifact.digest)) == ["a"]


def test_a_late_report_from_before_a_run_began_does_not_end_it() -> None:
    """Its engine forgot the first start, and was asked again: that report knows the order and not the run."""
    grid, clock, _ = grid_with_sites("a")
    (job_id,) = submit(grid, job())
    grid.tick()
    run = f"{job_id}-r1"
    clock.at_s += 20
    between = Observation(site="a", epoch=1, full=True, pools=(POOL,), knows_s=clock.at_s)
    clock.at_s += 20
    report(grid, "a", RunSeen(run=run, phase=RunPhase.RUNNING, started_at_s=clock.at_s))
    clock.at_s += 20
    grid.report(between)
    assert grid.state.runs[run].phase == RunPhase.RUNNING
    grid.report(replace(between, knows_s=clock.at_s))  # made after the site was answered about the start
    assert grid.state.runs[run].cause == EndCause.LOST


def test_what_a_site_must_keep_is_told_in_answer_to_a_full_report_alone() -> None:
    grid, _, _ = grid_with_sites("a")
    artifact = Artifact(id="dataset:d@1", digest="d" * 64, bytes=1, files=1, tenant="default", created_at_s=0)
    here = f.ReplicaAdded(at_s=0, artifact=artifact.id, site="a")
    grid.do(lambda state, now_s: ([f.ArtifactCommitted(at_s=now_s, artifact=artifact), here], None))
    full = Observation(site="a", epoch=1, full=True, pools=(POOL,), replicas=(artifact.digest,))
    assert grid.report(full).keep == (artifact.digest,)
    assert report(grid, "a").keep is None


def test_a_fence_is_no_shorter_than_the_grace_that_runs_have() -> None:
    assert fence_s(Policy(stop_grace_s=90)) >= Policy().lease_s + 90


class SlowDisk(MemoryJournal):
    """A journal whose newest facts are lost by a kill until `sync` has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.durable = 0
        self.syncing = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.fails = False

    def sync(self) -> None:
        self.syncing.set()
        self.go_on.wait(10)
        if self.fails:
            raise SiteTrouble("journal_failed", "no space left on device")
        self.durable = self.head()


def test_no_order_is_out_before_it_is_durable() -> None:
    journal = SlowDisk()
    grid, _, _ = grid_with_sites("a", journal=journal)
    submit(grid, job())
    journal.go_on.clear()
    journal.syncing.clear()
    planning = threading.Thread(target=grid.tick)
    planning.start()
    assert journal.syncing.wait(10)
    launched: list[int] = []
    asking = threading.Thread(target=lambda: launched.append(len(grid.orders("a").launch)))
    asking.start()
    asking.join(0.2)
    assert not launched  # the order exists, but a kill would lose it
    assert grid.orders_at_once("a") is None
    journal.go_on.set()
    for thread in (planning, asking):
        thread.join(10)
    assert launched == [1]
    assert journal.durable == journal.head()


def test_a_sync_that_fails_answers_whoever_waits_and_lets_no_order_out() -> None:
    journal = SlowDisk()
    grid, _, _ = grid_with_sites("a", journal=journal)
    grid.start()
    journal.fails = True
    answers: list[object] = []

    def caller() -> None:
        try:
            answers.append(submit(grid, job()))
        except SuanError as error:
            answers.append(error.code)

    asking = threading.Thread(target=caller, daemon=True)
    asking.start()
    asking.join(10)
    assert answers == ["grid_stopped"]
    with pytest.raises(NotNow, match="no space left"):
        grid.orders("a")
    journal.fails = False
    grid.stop()
