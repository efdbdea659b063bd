"""`suan simulate` from outside: figures that add up, the same answer every time, prices that matter."""

import csv
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_worlds import make, simulation, world_table

from suan.grid.account import Entry
from suan.grid.job import Priority
from suan.grid.units import HOUR_S
from suan.sim.check import violations
from suan.sim.command import simulate_command
from suan.sim.compare import simulate
from suan.sim.site import RESTORE_S
from suan.sim.trace import JobRow, make_trace

EXAMPLES = Path(__file__).parents[2] / "examples" / "worlds"
WORLD, JOBS = EXAMPLES / "two-sites.toml", EXAMPLES / "trace-small.csv.gz"
KEYS = [
    "policy",
    "jobs",
    "done",
    "failed",
    "missed_deadlines",
    "wait_s_mean",
    "wait_s_p50",
    "wait_s_p99",
    "jct_s_mean",
    "makespan_s",
    "gpu_hours",
    "utilisation_ratio",
    "energy_kwh",
    "carbon_kg",
    "cost_microyuan",
    "cost_lower_bound_microyuan",
    "gap_ratio",
    "preemptions",
    "lost_device_s",
    "moved_gb",
    "wall_s",
    "decide_s_p50",
    "decide_s_p99",
    "digest",
]


def write_jobs(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def first_jobs(tmp_path: Path, count: int) -> Path:
    with gzip.open(JOBS, "rt") as lines:
        (tmp_path / "jobs.csv").write_text(
            "".join(line for _, line in zip(range(count + 1), lines, strict=False))
        )
    return tmp_path / "jobs.csv"


# ---------------------------------------------------------------- the figures


def test_the_example_runs_and_its_figures_add_up(tmp_path: Path) -> None:
    jobs = first_jobs(tmp_path, 200)
    work_s = sum(int(row["duration_s"]) * int(row["gpus"]) for row in csv.DictReader(jobs.open()))
    for row in simulate(WORLD, jobs, ["greedy", "greedy-oracle", "fifo", "fifo-any"]):
        assert list(row)[: len(KEYS)] == KEYS
        assert (row["jobs"], row["done"], row["failed"]) == (200, 200, 0)
        assert row["gpu_hours"] == pytest.approx(work_s / HOUR_S)
        assert 0 < row["cost_lower_bound_microyuan"] <= row["cost_microyuan"]
        assert row["gap_ratio"] == pytest.approx(
            row["cost_microyuan"] / row["cost_lower_bound_microyuan"] - 1
        )
        assert 0 < row["utilisation_ratio"] <= 1
        assert row["lost_device_s"] == row["preemptions"] == row["moved_gb"] == 0
        assert row["energy_kwh"] > 0 < row["carbon_kg"]


def test_one_job_costs_what_paper_and_pencil_say() -> None:
    """4 devices for 2 h at 1 yuan, and 1.5 kW x PUE 1.2 x 2 h at 0.5 yuan and 500 g."""
    table = world_table()
    for site in table["site"]:
        site["pool"][0] |= {"device_w": 300.0, "host_w_per_node": 300.0}
        site["tariff"] = {"flat_yuan_per_kwh": 0.5, "gco2_per_kwh": 500, "pue": 1.2}
    world = make(table)
    run = simulation(
        world, make_trace([JobRow(job_id="x", submit_s=0, duration_s=7200, gpus=4)], world).arrivals
    )
    run.run()
    amounts = {entry.what.split(",")[0].split(" at ")[0]: amount(entry) for entry in run.state.entries}
    assert amounts == {
        "machine": 8_000_000,
        "electricity": 1_800_000,
        "carbon": round(1.8 * 90_000),
        "pays": -(8_000_000 + 1_800_000 + 162_000),
    }


def amount(entry: Entry) -> int:
    return entry.amount_microyuan


def test_the_same_under_any_hash_seed(tmp_path: Path) -> None:
    """A run with faults, deadlines and data, in two processes whose sets and hashes are ordered
    differently."""
    world = (
        WORLD.read_text().replace('"tariffs/', f'"{EXAMPLES}/tariffs/')
        + '\n[[fault]]\nkind = "node_loss"\nper_day = 20\n[[fault]]\nkind = "delayed_reports"\nper_day = 5\n'
    )
    (tmp_path / "world.toml").write_text(world)
    rows = [
        {
            "job_id": f"j{n}",
            "tenant": f"t{n % 3}",
            "submit_s": n * 120,
            "duration_s": 300 + 997 * n % 7000,
            "gpus": 1 << n % 5,
            "deadline_s": 20_000 if n % 2 else "",
            "data_gb": 5 if n % 3 == 0 else "",
            "data_site": "shanghai",
        }
        for n in range(60)
    ]
    jobs = write_jobs(tmp_path / "jobs.csv", rows)
    code = "from suan.sim.command import simulate_command; simulate_command()"
    command = [sys.executable, "-c", code, str(tmp_path / "world.toml"), "--jobs", str(jobs), "--seed", "7"]
    answers = []
    for hash_seed in ("1", "4242"):
        done = subprocess.run(
            [*command, "--json", "--policy", "greedy", "--policy", "fifo-any"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        rows_out = [json.loads(line) for line in done.stdout.splitlines()]
        timed = ("wall_s", "decide_s_p50", "decide_s_p99")
        answers.append([{k: v for k, v in row.items() if k not in timed} for row in rows_out])
    assert answers[0] == answers[1]
    assert [row["policy"] for row in answers[0]] == ["greedy", "fifo-any"]
    assert answers[0][0]["digest"] != answers[0][1]["digest"]
    assert all(row["faults"]["node_loss"] > 0 and row["done"] == 60 for row in answers[0])


# ---------------------------------------------------------------- prices


def test_a_job_that_may_wait_runs_when_power_is_cheap(tmp_path: Path) -> None:
    prices = [400.0] * 8 + [40.0] * 4 + [400.0] * 12
    write_jobs(
        tmp_path / "prices.csv",
        [
            {"region": "R", "hour_utc": f"2025-01-01T{hour:02}:00Z", "price_usd_mwh": price}
            for hour, price in enumerate(prices)
        ],
    )
    table = world_table()
    for site in table["site"]:
        site["tariff"] = {"csv": str(tmp_path / "prices.csv"), "region": "R", "carbon_column": ""}
    world = make(table)
    rows = [
        JobRow(job_id="waits", submit_s=0, duration_s=3600, gpus=1, priority=Priority.VALLEY),
        JobRow(job_id="due", submit_s=0, duration_s=3600, gpus=1, deadline_s=7200),
        JobRow(job_id="now", submit_s=0, duration_s=3600, gpus=1),
    ]
    run = simulation(world, make_trace(rows, world, oracle=True).arrivals, "greedy-oracle")
    run.run()
    started_h = {job.task.name: (job.started_at_s - world.start_s) / 3600 for job in run.state.jobs.values()}
    assert started_h["now"] == 0
    assert started_h["due"] <= 1
    assert 8 <= started_h["waits"] < 12


def test_a_job_goes_to_the_cheaper_site_and_data_hold_it_back() -> None:
    table = world_table(link=[{"from": "a", "to": "b", "gbps": 1, "microyuan_per_gb": 500_000}])
    table["site"][1]["tariff"]["flat_yuan_per_kwh"] = 0.1
    world = make(table)
    rows = [
        JobRow(job_id="light", submit_s=0, duration_s=3600, gpus=1),
        JobRow(job_id="heavy", submit_s=0, duration_s=3600, gpus=1, data_gb=50, data_site="a"),
    ]
    run = simulation(world, make_trace(rows, world).arrivals)
    run.run()
    sites = {run.state.jobs[one.job].task.name: one.site for one in run.state.runs.values()}
    assert sites == {"light": "b", "heavy": "a"}


def test_a_policy_of_the_world_changes_what_happens() -> None:
    """The cheap site is full for an hour: greedy waits for it, the same with dear waiting goes elsewhere."""
    dear = {"like": "greedy-oracle", "waiting_ratio": {"standard": 100.0}}
    table = world_table(policy={"impatient": dear})
    table["site"][1]["pool"][0]["machine_microyuan_per_device_h"] = 9_000_000
    world = make(table)
    rows = [JobRow(job_id=name, submit_s=0, duration_s=3600, gpus=4) for name in "xy"]
    places = {}
    for policy in ("greedy-oracle", "impatient"):
        run = simulation(world, make_trace(rows, world, oracle=True).arrivals, policy)
        run.run()
        places[policy] = [one.site for one in run.state.runs.values()]
    assert places == {"greedy-oracle": ["a", "a"], "impatient": ["a", "b"]}


# ---------------------------------------------------------------- nodes, checkpoints, ends


def test_more_gpus_than_a_node_has_become_nodes() -> None:
    world = make(world_table())
    table = world_table()
    table["site"][0]["pool"][0]["nodes"] = 4
    wide = make(table)
    shapes = {}
    for gpus in (1, 4, 6, 8, 16):
        trace = make_trace([JobRow(job_id="x", submit_s=0, duration_s=1, gpus=gpus)], wide)
        task = trace.arrivals[0].task
        shapes[gpus] = (task.num_nodes, task.resources[0].accelerators)
    assert shapes == {1: (1, 1), 4: (1, 4), 6: (2, 3), 8: (2, 4), 16: (4, 4)}
    trace = make_trace([JobRow(job_id="x", submit_s=0, duration_s=1, gpus=8)], world)
    assert list(trace.impossible) == ["x"]
    assert "nodes" in trace.impossible["x"]


def test_impossible_jobs_are_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = [
        {"job_id": "fits", "submit_s": 0, "duration_s": 60, "gpus": 8},
        {"job_id": "huge", "submit_s": 0, "duration_s": 60, "gpus": 10_000},
    ]
    (row,) = simulate(WORLD, write_jobs(tmp_path / "jobs.csv", rows))
    assert (row["jobs"], row["done"], row["failed"]) == (2, 1, 1)


@pytest.mark.parametrize(("checkpoint_s", "lost_s"), [(None, 4 * 1000), (600, 4 * 400)])
def test_what_a_lost_node_costs(checkpoint_s: float | None, lost_s: int) -> None:
    """1,000 s into its hour the node is gone: all is lost, or what came after the last checkpoint."""
    table = world_table(fault=[{"kind": "node_loss", "site": "a", "at_s": 1000}])
    del table["site"][1]
    world = make(table)
    row = JobRow(job_id="x", submit_s=0, duration_s=3600, gpus=4, checkpoint_s=checkpoint_s)
    run = simulation(world, make_trace([row], world).arrivals)
    run.run()
    run.calm_down()
    assert violations(run) == ()
    (job,) = run.state.jobs.values()
    assert sum(site.lost_device_s for site in run.sites.values()) == lost_s
    restored_s = RESTORE_S if checkpoint_s else 0
    assert job.ended_at_s - world.start_s == 3600 + lost_s // 4 + restored_s


def test_until_ends_it_early(tmp_path: Path) -> None:
    rows = [{"job_id": f"j{n}", "submit_s": n * 100, "duration_s": 50, "gpus": 1} for n in range(10)]
    (row,) = simulate(WORLD, write_jobs(tmp_path / "jobs.csv", rows), until_s=460)
    assert (row["jobs"], row["done"]) == (5, 5)


# ---------------------------------------------------------------- size, and the command


@pytest.mark.slow
def test_a_month_of_ten_thousand_jobs(tmp_path: Path) -> None:
    chance = random.Random(3)
    moments = sorted(chance.randrange(30 * 86_400) for _ in range(10_000))
    rows = [
        {
            "job_id": f"j{number}",
            "tenant": f"t{chance.randrange(12)}",
            "submit_s": moment,
            "duration_s": round(min(500_000, chance.lognormvariate(7.3, 1.9))),
            "gpus": chance.choices([1, 2, 4, 8, 16, 32], [70, 8, 9, 9, 3, 1])[0],
        }
        for number, moment in enumerate(moments)
    ]
    (row,) = simulate(WORLD, write_jobs(tmp_path / "jobs.csv", rows))
    assert (row["done"], row["failed"]) == (10_000, 0)
    assert row["cost_microyuan"] < 1.1 * row["cost_lower_bound_microyuan"]


def test_the_command_prints_json_lines_or_a_table(tmp_path: Path) -> None:
    jobs = str(first_jobs(tmp_path, 20))
    answer = CliRunner().invoke(simulate_command, [str(WORLD), "--jobs", jobs, "--json"])
    assert answer.exit_code == 0, answer.output
    (row,) = [json.loads(line) for line in answer.output.splitlines()]
    assert list(row)[: len(KEYS)] == KEYS
    shown = CliRunner().invoke(simulate_command, [str(WORLD), "--jobs", jobs, "--policy", "fifo"])
    assert shown.exit_code == 0
    assert "wait_s_p99" in shown.output and "fifo" in shown.output
