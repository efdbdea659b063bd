"""Recipe jobs at the doors: hours, plan and what bounds them, in quotes, in `why` and in the run itself."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from rest_world import World

from suan.control.execute import PLAN_ENV
from suan.doors.cli.bids import considered_text, plan_text
from suan.grid.action import Observation, OutputSeen
from suan.grid.error import Refused
from suan.grid.job import Resources, Task
from suan.grid.site import Pool
from suan.recipes import recipe_task

LARGE: dict[str, Any] = {
    "hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate_size": 14336,
    "seq_len": 2048, "batch_rows": 256, "steps": 1000, "dtype": "bfloat16",
}  # fmt: skip
KINDS = {"east": "H100-SXM", "west": "A100-80GB-SXM"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    there = World(tmp_path)
    for site, kind in KINDS.items():
        there.grid.report(with_pool(there, site, kind))
    return there


def with_pool(there: World, site: str, kind: str, nodes: int = 8) -> Observation:
    seen = there.full(site)
    pool = Pool(
        name="gpu",
        accelerator=kind,
        devices_per_node=8,
        nodes=nodes,
        cpus_per_node=64,
        memory_gib_per_node=512,
    )
    return msgspec.structs.replace(seen, pools=(*seen.pools, pool))


def pretrain(*kinds: str, nodes: int = 4, **args: Any) -> Task:
    resources = tuple(Resources(accelerator=kind, accelerators=8) for kind in kinds or KINDS.values())
    made = recipe_task("pretrain", LARGE | args)
    return msgspec.structs.replace(made, resources=resources, num_nodes=nodes, inputs={})


def quote(there: World, *tasks: Task) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = there.client().quote(list(tasks))
    return found


def test_a_quote_has_hours_and_plan_by_pool(world: World) -> None:
    (found,) = quote(world, pretrain())
    bids = {bid["site"]: bid for bid in found["considered"]["bids"]}
    hours = {site: bid["quote"]["run_s"] / 3600 for site, bid in bids.items()}
    assert 0.1 < hours["east"] < 0.7 * hours["west"] < 10
    for bid in bids.values():
        said = bid["estimate"]
        assert said["low_s"] < said["run_s"] < said["high_s"]
        assert said["plan"]["tp"] * said["plan"]["dp"] == 32
    text = considered_text(found["considered"])
    assert "by the performance model" in text and "compute-bound" in text and "nine in ten" in text
    assert plan_text(bids["east"]["estimate"]["plan"]) in text


def test_a_quote_of_cores_says_whose_length_it_is(world: World) -> None:
    (found,) = quote(world, msgspec.structs.replace(recipe_task("pretrain", {}), inputs={}))
    assert found["considered"]["bids"][0]["estimate"] is None
    assert any("own duration" in note for note in found["notes"])


def test_what_fits_nowhere_is_refused_with_numbers(world: World) -> None:
    task = pretrain(sharding="ddp")
    (found,) = quote(world, task)
    assert not found["considered"]["bids"]
    assert found["considered"]["unfit"]["east/gpu"]["unit"] == "GiB a device"
    with pytest.raises(Refused) as refused:
        world.client().submit([task])
    assert refused.value.code == "impossible" and "GiB a device" in str(refused.value)


def test_the_run_is_told_its_plan(world: World) -> None:
    (job,) = world.client().submit([pretrain("H100-SXM")])
    world.grid.tick()
    run = world.grid.state.runs[world.grid.state.jobs[job["id"]].runs[-1]]
    (order,) = world.grid.orders("east").launch
    assert msgspec.json.decode(order.env[PLAN_ENV]) == run.plan
    assert run.plan["dp"] * run.plan["tp"] == 32  # type: ignore[operator]


def test_why_says_what_bounds_it(world: World) -> None:
    (job,) = world.client().submit([pretrain("H100-SXM")])
    found = world.client().why(job["id"])
    assert "performance model" in found["length"]["basis"]
    assert found["considered"]["bids"][0]["estimate"]["bound_by"] == "compute"


def test_later_stages_know_the_model_by_the_task_that_trains_it(world: World) -> None:
    train = msgspec.structs.replace(pretrain(), outputs={"model": "model:large"})
    kind = (Resources(accelerator="H100-SXM", accelerators=1),)
    serve = msgspec.structs.replace(recipe_task("serve", {}), inputs={"model": "model:large"}, resources=kind)
    _, served = quote(world, train, serve)
    said = served["considered"]["bids"][0]["estimate"]
    assert said["run_s"] == 0 and "tokens/s" in said["why"]
    world.client().submit([train])
    (later,) = quote(world, serve)
    assert later["considered"]["bids"][0]["estimate"] == said
    with pytest.raises(Refused):
        world.client("bob").submit([serve])


def test_a_pool_that_joins_later_is_estimated_for_those_who_wait(world: World) -> None:
    task = pretrain("H200", "H100-SXM", nodes=8)
    (job,) = world.client().submit([task])
    name = world.grid.state.jobs[job["id"]].work
    assert not any(place.startswith("H200") for place in world.grid.state.works[name].on)
    world.grid.report(with_pool(world, "west", "H200"))
    assert "H200:8x8" in world.grid.state.works[name].on


def test_equal_tasks_share_one_work(world: World) -> None:
    world.client().submit([msgspec.structs.replace(pretrain(), outputs={}) for _ in range(3)])
    assert len(world.grid.state.works) == 1


def test_cleaning_is_quoted_by_the_bytes_of_its_input(world: World) -> None:
    run = world.place(world.submit(outputs={"raw": "dataset:raw"}))
    world.finish(run, outputs={"raw": OutputSeen(digest="d" * 64, bytes=200_000_000, files=1)})
    task = msgspec.structs.replace(recipe_task("corpus", {}), inputs={"pages": "dataset:raw"})
    (found,) = quote(world, task)
    (bid, *_) = found["considered"]["bids"]
    assert "200.0 MB" in bid["estimate"]["why"]
    assert 120 < bid["quote"]["run_s"] < 600
    unknown = msgspec.structs.replace(task, inputs={"pages": "dataset:later"}, name="later")
    before = msgspec.structs.replace(task, outputs={"corpus": "dataset:later"})
    assert quote(world, before, unknown)[1]["considered"]["bids"][0]["estimate"] is None
