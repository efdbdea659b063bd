"""Why, over REST and on the command line: one reason, the price it waits for, and help that is concrete."""

from pathlib import Path

import pytest
from rest_world import World

from suan.doors.cli import why as verbs
from suan.grid.error import Refused
from suan.grid.job import Place, Resources


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def cores(count: int) -> dict[str, object]:
    return {"resources": (Resources(cpus=count),), "duration_s": 3600}


def crowded(world: World) -> str:
    """A job that waits: both sites of eight cores are busy, one of them with three left."""
    for site, count in (("west", 8), ("east", 5)):
        world.place(world.submit(name=f"busy-{site}", place=Place(sites=(site,)), **cores(count)))
    job = world.submit(name="waits", **cores(8))
    world.grid.tick()
    return job


def test_a_waiting_job_is_told_what_it_waits_for_and_what_would_help(world: World) -> None:
    why = world.client().why(crowded(world))
    assert (why["phase"], why["reason"]["code"]) == ("waiting", "devices")
    assert why["start_s"] == why["reason"]["expected_start_s"]
    assert why["finish_s"] - why["start_s"] == 3600
    assert why["length"]["basis"] == "its estimate"
    assert why["price"]["pool"] in ("east/cpu", "west/cpu")
    (half,) = [help for help in why["sooner"] if help["change"] == {"resources": "2"}]
    assert half["gained_s"] > 0 and half["billed_microyuan"] > 0
    assert {view["pool"]: view["free_devices"] for view in why["pools"]} == {"east/cpu": 3, "west/cpu": 0}


def test_a_job_that_runs_has_the_bids_of_its_placement_and_no_advice(world: World) -> None:
    job = world.submit(name="runs", **cores(2))
    world.place(job)
    why = world.client().why(job)
    assert why["phase"] == "placed" and why["considered"]["bids"]
    assert why["sooner"] == [] and why["price"] is None
    assert why["start_s"] <= why["finish_s"]


def test_the_command_line_says_it_in_words(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    verbs._print_why(world.client().why(crowded(world)))
    said = capsys.readouterr().out
    for words in ("is waiting", "because: needs 8 devices", "forecast: starts", "length: 1h00m on average",
                  "price: ", "sooner: 2 devices, 4 times as long", "[resources: 2]", "or why not",
                  "machine", "8 devices × 1 h × 1.00 CNY"):  # fmt: skip
        assert words in said, said


# ---------------------------------------------------------------- lengths


def test_forecasts_are_judged_by_what_became_of_the_runs(world: World) -> None:
    for _ in range(4):
        world.finish(world.place(world.submit(name="train", resources=(Resources(cpus=4),))))
    found = world.client().durations(by="size")
    (line,) = found["items"]
    assert (line["group"], line["runs"]) == ("4", 4)
    assert line["ratio_p50"] > 0 and 0 <= line["covered_ratio"] <= 1


def test_a_tenant_sees_its_own_runs_only(world: World) -> None:
    for who in ("alice", "bob"):
        world.finish(world.place(world.submit(who, name="train", **cores(2))))
    assert [line["group"] for line in world.client("alice").durations()["items"]] == ["alice"]
    assert {line["group"] for line in world.client("operator").durations()["items"]} == {"alice", "bob"}
    with pytest.raises(Refused):
        world.client("alice").durations(tenant="bob")


def test_durations_are_a_table(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    verbs._print_durations(world.client().durations())
    assert "no run has ended" in capsys.readouterr().out
    world.finish(world.place(world.submit(name="train", **cores(2))))
    verbs._print_durations(world.client().durations(by="estimate"))
    assert "estimated" in capsys.readouterr().out
