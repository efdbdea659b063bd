"""What a trace's columns and a world's tenants come to; the page and the command around them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_worlds import make, world_table

from suan.grid.error import Refused
from suan.sim.command import simulate_command
from suan.sim.compare import compare, prepared
from suan.sim.page import page
from suan.sim.policies import named_policy
from suan.sim.report import report
from suan.sim.trace import BEST, SOFT, STRICT, JobRow, make_trace, read_jobs, worth_of
from suan.sim.world import read_world

EXAMPLES = Path(__file__).parents[2] / "examples" / "worlds"
WORLD = EXAMPLES / "two-sites.toml"
HEADER = "job_id,tenant,submit_s,duration_s,gpus,job_type,deadline_s,last_deadline_s,value_steps,value"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join((HEADER, *lines)) + "\n")
    return path


def test_deadlines_of_three_kinds(tmp_path: Path) -> None:
    jobs = write(
        tmp_path / "jobs.csv",
        "strict,t,0,3600,1,strict,5000,5000,10,",
        "soft,t,0,3600,1,soft,5000,11000,10-8-5-2,",
        "best,t,0,3600,1,best,-1,-1,10,",
        "valued,t,0,3600,1,,5000,,,25.5",
    )
    found = {row.job_id: worth_of(row) for row in read_jobs(jobs)}
    assert found == {
        "strict": (STRICT, ((5000, 10.0),)),
        "soft": (SOFT, ((5000, 10.0), (7000, 8.0), (9000, 5.0), (11000, 2.0))),
        "best": (BEST, ()),
        "valued": (STRICT, ((5000, 25.5),)),
    }
    tasks = {
        arrival.task.name: arrival.task
        for arrival in make_trace(read_jobs(jobs), make(world_table())).arrivals
    }
    assert tasks["strict"].value_microyuan == 10_000_000
    assert tasks["valued"].value_microyuan == 25_500_000
    assert (tasks["soft"].value_microyuan, tasks["soft"].deadline_s) == (None, 5000)
    assert tasks["best"].deadline_s is None


@pytest.mark.parametrize(
    "line",
    ["x,t,0,1,1,firm,5,,,", "x,t,0,1,1,soft,5,9,10-x,", "x,t,0,1,1,soft,5,-2,10,", "x,t,0,1,1,,5,,,-3"],
)
def test_a_column_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(Refused, match="line 2"):
        read_jobs(write(tmp_path / "jobs.csv", line))


def test_what_deadlines_earned_is_counted() -> None:
    """One device, three jobs of an hour: the second is late for its first step, the third at all."""
    table = world_table()
    del table["site"][1]
    table["site"][0]["pool"][0]["devices_per_node"] = 1
    rows = [
        JobRow(job_id="a", submit_s=0, duration_s=3600, gpus=1, deadline_s=4000, value=7),
        JobRow(
            job_id="b",
            submit_s=0,
            duration_s=3600,
            gpus=1,
            deadline_s=4000,
            last_deadline_s=8000,
            job_type=SOFT,
            value_steps=(10.0, 6.0),
        ),
        JobRow(job_id="c", submit_s=0, duration_s=3600, gpus=1, deadline_s=9000, value=30),
    ]
    world = make(table)
    run = prepared(world, make_trace(rows, world), named_policy("fifo-any", {}))
    run.run()
    row = report(run, {})
    assert (row["strict_deadlines"], row["strict_met_ratio"]) == (2, 0.5)
    assert (row["soft_value_yuan"], row["soft_earned_ratio"]) == (10.0, 0.6)
    assert row["missed_deadlines"] == 2
    assert row["waiting_microyuan"] == 3_000_000  # one hour and two at a yuan
    assert row["late_microyuan"] == round(30e6 + 3200 / 3600 * run.policy.policy.late_microyuan_per_h)
    assert (
        row["objective_microyuan"] == row["cost_microyuan"] + row["waiting_microyuan"] + row["late_microyuan"]
    )


def test_tenants_of_a_world() -> None:
    world = make(
        world_table(
            tenant=[
                {"name": "lab", "weight": 3, "nominal_devices": {"H100": 4}, "waiting_yuan_per_h": 2.5},
                {"name": "team", "parent": "lab", "lend_devices": {"*": 1}},
            ]
        )
    )
    lab, team = world.tenants
    assert (lab.weight, lab.quota.nominal_devices) == (3, {"H100-SXM": 4})
    assert (team.parent, team.quota.lend_devices, lab.waiting_microyuan_per_h) == ("lab", {"*": 1}, 2_500_000)
    run = prepared(world, make_trace([], world), named_policy("fifo-any", {}))
    assert run.state.tenants["team"] == team and run.state.tenants["lab"] == lab


@pytest.mark.parametrize(
    ("tenant", "where"),
    [
        ([{"name": "x"}, {"name": "x"}], "tenant[1].name"),
        ([{"name": "x", "parent": "y"}], "tenant[0].parent"),
        ([{"name": "x", "nominal_devices": {"H1000": 1}}], "tenant[0].nominal_devices"),
        ([{"name": "x", "nominal": {}}], "tenant[0].nominal"),
    ],
)
def test_a_bad_tenant_is_refused_with_its_path(tenant: list, where: str) -> None:
    with pytest.raises(Refused) as refused:
        make(world_table(tenant=tenant))
    assert where in refused.value.what


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_world_runs(path: Path) -> None:
    world = read_world(path)
    rows = [
        JobRow(job_id=f"j{n}", submit_s=60 * n, duration_s=900, gpus=1 << n % 5, tenant="0e4a51")
        for n in range(8)
    ]
    run = prepared(world, make_trace(rows, world), named_policy("cheapest-now", world.policies))
    run.run()
    row = report(run, {})
    assert row["done"] == 8
    assert 0 < row["cost_lower_bound_microyuan"] <= row["cost_microyuan"]


def test_the_page_holds_everything_it_needs(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("job_id,submit_s,duration_s,gpus\n</script>,0,3600,2\nb,60,9000,4\n")
    outcomes = compare(WORLD, jobs, ("fifo-any", "cheapest-now"), timelines=("*",))
    text = page(outcomes, world="w<1>", jobs="j")
    assert "uPlot" in text and "w&lt;1&gt;" in text
    assert not any(word in text for word in (' src="', " href=", "@import", "fetch("))
    data = text.split('id="data">')[1].split("</script>")[0]
    found = json.loads(data)
    assert [one["policy"] for one in found] == ["fifo-any", "cheapest-now"]
    devices_h = sum(sum(hours) for hours in found[0]["used_ratio"].values()) * 160
    assert devices_h == pytest.approx(2 + 4 * 2.5, rel=0.3)  # sites differ in size
    assert sum(found[0]["cost_yuan"].values()) == pytest.approx(
        outcomes[0].report["cost_microyuan"] / 1e6, abs=0.1
    )


def test_the_command_writes_the_page_and_says_how_far_it_is(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("job_id,submit_s,duration_s,gpus\na,0,3600,2\n")
    target = tmp_path / "page.html"
    words = [str(WORLD), "--jobs", str(jobs), "--policy", "fifo-any", "--html", str(target)]
    answer = CliRunner().invoke(simulate_command, [*words, "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["policy"] == "fifo-any"
    assert answer.stderr == ""
    assert target.read_text().startswith("<!doctype html>")
