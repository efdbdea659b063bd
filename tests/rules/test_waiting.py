"""Who waits, for how long, and what they are told: nobody for ever, nobody for another's sake."""

import pytest
from scenario import Scenario, check, task

from suan.grid import fact as f
from suan.grid.account import Budget
from suan.grid.artifact import Artifact
from suan.grid.error import Refused
from suan.grid.job import EndCause, JobPhase, Place
from suan.grid.rights import Rights


def test_outputs_of_one_job_at_different_sites_draw_their_readers_apart() -> None:
    grid = Scenario().tenant().site("east", "H100-SXM 1x8").site("west", "H100-SXM 1x8")
    outputs = {"a": "dataset:a", "b": "dataset:b"}
    (writer,) = grid.submit(task("w", outputs=outputs))
    one, two = grid.submit(task("x", inputs={"d": "dataset:a"}), task("y", inputs={"d": "dataset:b"}))
    grid.plan()
    for (output, series), site in zip(outputs.items(), ("east", "west"), strict=True):
        made = Artifact(
            id=f"{series}@1",
            digest=output * 64,
            bytes=10,
            files=1,
            tenant="default",
            created_at_s=0,
            job=writer,
        )
        grid.tell(f.ArtifactCommitted(at_s=grid.now_s, artifact=made, output=output))
        grid.tell(f.ReplicaAdded(at_s=grid.now_s, artifact=made.id, site=site))
    grid.ended(f"{writer}-r1")
    grid.tell(f.JobEnded(at_s=grid.now_s, job=writer, phase=JobPhase.SUCCEEDED, outcome=""))
    check(grid, f"place {one} at east/p0 on 1\nplace {two} at west/p0 on 1")


def test_jobs_that_are_too_dear_or_were_refused_do_not_hold_up_others_of_their_kind() -> None:
    grid = Scenario().tenant().site("west", "H100-SXM 1x8 10")
    dear = grid.submit(*(task(f"d{n}", duration_s=36_000, max_cost_microyuan=20_000_000) for n in range(9)))
    (short,) = grid.submit(task("short", duration_s=3600, max_cost_microyuan=20_000_000))
    plan = grid.plan()
    assert [action.job for action in plan.actions] == [short]
    assert {plan.reasons[job].code for job in dear if job in plan.reasons} == {"max_cost"}
    refused = Scenario().tenant().site("west", "H100-SXM 1x8")
    jobs = refused.submit(*(task(f"t{n}") for n in range(8)))
    refused.plan()
    for job in jobs:
        refused.ended(f"{job}-r1", exit_code=None, cause=EndCause.NOT_STARTED, detail="no space")
    (fresh,) = refused.submit(task("fresh"))
    assert [action.job for action in refused.plan().actions] == [fresh]


def test_max_cost_takes_the_bid_that_it_allows_though_another_is_cheaper_in_all() -> None:
    """Waiting and lateness are felt but not invoiced: the least total may cost more money."""
    grid = Scenario().tenant(waiting_microyuan_per_h=50_000_000)
    grid.site("dear", "H100-SXM 1x8 30").site("far", "H100-SXM 1x8 10").link("dear", "far", mbit_per_s=10)
    grid.artifact("dataset:d@1", "dear", bytes=9 * 10**9)  # two hours to move
    (job,) = grid.submit(task(inputs={"d": "dataset:d"}, duration_s=3600, max_cost_microyuan=20_000_000))
    plan = check(grid, f"move dataset:d@1 dear -> far for {job}\nwait {job}: moving")
    assert plan.actions[0].considered.unfit["dear/p0"].code == "max_cost"


def test_a_budget_is_promised_once() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8 10").tenant(budget=Budget(limit_microyuan=25_000_000))
    first, second, third = grid.submit(*(task(f"t{n}", duration_s=3600) for n in range(3)))
    check(grid, f"place {first} at west/p0 on 1\nplace {second} at west/p0 on 1\nwait {third}: budget")
    reason = grid.plan().reasons[third]
    assert reason.need > reason.have > 0
    grid.ended(f"{first}-r1").tell(
        f.JobEnded(at_s=grid.now_s, job=first, phase=JobPhase.SUCCEEDED, outcome="")
    )
    check(grid, f"place {third} at west/p0 on 1")  # it took less than was promised for it


def test_an_artifact_that_no_site_has_any_more_is_to_be_made_or_put_again() -> None:
    grid = Scenario().tenant().site("west", "H100-SXM 1x8").artifact("dataset:d@1", "west")
    grid.tell(f.ReplicaRemoved(at_s=grid.now_s, artifact="dataset:d@1", site="west"))
    (job,) = grid.submit(task(inputs={"d": "dataset:d"}))
    reason = grid.plan().reasons[job]
    assert "at no site any more" in reason.text
    assert reason.help == "put it again: suan put FOLDER dataset:d"


def test_whoever_waits_for_a_place_or_a_kind_has_numbers_too() -> None:
    grid = Scenario().tenant()
    (job,) = grid.submit(task(place=Place(sites=("moon",))))
    grid.site("west", "H100-SXM 1x8")
    reason = grid.plan().reasons[job]
    assert (reason.code, reason.need, reason.have, reason.unit) == ("place", 1, 0, "pools")


def test_what_another_tenant_has_does_not_exist_and_is_not_suggested() -> None:
    grid = Scenario().site("west", "H100-SXM 1x8").tenant("team").artifact("model:secret@1", "west")
    grid.artifact("model:public@1", "west", rights=Rights(readers=("*",)))
    for name in ("model:secret", "model:secrat"):
        with pytest.raises(Refused) as refusal:
            grid.submit(task(inputs={"x": name}), tenant="team")
        assert (refusal.value.code, "did you mean" in refusal.value.hint) == ("unknown_artifact", False)
    with pytest.raises(Refused, match="publik") as refusal:
        grid.submit(task(inputs={"x": "model:publik"}), tenant="team")
    assert refusal.value.hint == "did you mean model:public?"


def test_a_job_that_is_lost_again_and_again_is_tried_more_and_more_rarely() -> None:
    grid = Scenario().tenant().site("west", "H100-SXM 1x8")
    (job,) = grid.submit(task())
    pauses = []
    for attempt in range(1, 12):
        since_s = grid.now_s
        plan = grid.plan()
        if not plan.actions:
            assert "west has lost it several times (node down)" in plan.reasons[job].text
            grid.now_s = plan.wake_at_s
            grid.plan()
        pauses.append(grid.now_s - since_s)
        grid.ended(f"{job}-r{attempt}", exit_code=None, cause=EndCause.LOST, detail="node down")
    assert pauses == [0, 0, 5, 10, 20, 40, 80, 160, 300, 300, 300]
