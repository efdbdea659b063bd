"""Worlds and traces that cannot be used are refused with the place and the remedy."""

import datetime
import gzip
from pathlib import Path

import pytest
from small_worlds import make, world_table

from suan.grid.error import Refused
from suan.grid.site import hour_rate
from suan.sim.policies import named_policy
from suan.sim.trace import make_trace, read_jobs
from suan.sim.world import make_world, read_world

EXAMPLES = Path(__file__).parents[2] / "examples" / "worlds"
HEADER = "job_id,submit_s,duration_s,gpus"


def test_the_example_world() -> None:
    world = read_world(EXAMPLES / "two-sites.toml")
    assert [site.name for site in world.sites] == ["shanghai", "guizhou"]
    tariff = world.sites[0].tariff
    assert tariff is not None and tariff.pue == 1.35
    rates = {hour_rate(tariff, world.start_s // 3600 + hour)[0] for hour in range(24)}
    assert min(rates) < 750_000 < max(rates)
    assert datetime.datetime.fromtimestamp(world.start_s, datetime.UTC).hour == 16  # midnight in China


def changed(path: str, value: object) -> dict:
    """A good table with one value set; `path` like `site.0.pool.0.nodes`."""
    table: dict = world_table(
        link=[{"from": "a", "to": "b", "gbps": 1}], fault=[{"kind": "partition", "at_s": 1}], policy={"x": {}}
    )
    where: object = table
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parents:
        where = where[part]  # type: ignore[index]
    where[last] = value  # type: ignore[index]
    return table


@pytest.mark.parametrize(
    ("path", "value", "where", "hint"),
    [
        ("sites", [], "sites", "site"),
        ("site.1.pool.0.acclerator", "H100-SXM", "site[1].pool[0].acclerator", "accelerator"),
        ("site.0.pool.0.accelerator", "H100-SMX", "site[0].pool[0].accelerator", "H100-SXM"),
        ("site.0.pool.0.nodes", 0, "site[0].pool[0].nodes", ""),
        ("site.0.pool.0.nodes", "many", "site[0].pool[0].nodes", ""),
        ("site.0.tariff.pue", 0.9, "site[0].tariff.pue", ""),
        ("site.0.tariff.colunm", "x", "site[0].tariff.colunm", "column"),
        ("site.0.tariff.region", "R", "site[0].tariff", ""),
        ("site.1.name", "a", "site[1].name", "choose"),
        ("site.0.name", "grid", "site[0].name", "choose"),
        ("link.0.to", "bb", "link[0].to", "b"),
        ("link.0.gpbs", 1, "link[0].gpbs", "gbps"),
        ("fault.0.kind", "partitoin", "fault[0].kind", ""),
        ("fault.0.per_day", 2, "fault[0]", ""),
        ("fault.0.site", "c", "fault[0].site", "a, b"),
        ("policy.x.default_duration", 5, "policy.x.default_duration", "default_duration_s"),
        ("policy.x.ageing_s", "long", "policy.x", ""),
    ],
)
def test_a_bad_world_is_refused_with_its_path(path: str, value: object, where: str, hint: str) -> None:
    with pytest.raises(Refused) as refused:
        make(changed(path, value))
    assert refused.value.code == "bad_world"
    assert f"{where}:" in refused.value.what
    assert hint in refused.value.hint and refused.value.hint


def test_files_that_are_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_world(tmp_path / "none.toml")
    assert refused.value.code == "no_world"
    (tmp_path / "bad.toml").write_text("[[site]\nname = 1")
    with pytest.raises(Refused) as refused:
        read_world(tmp_path / "bad.toml")
    assert "line 1" in refused.value.what
    with pytest.raises(Refused) as refused:
        read_jobs(tmp_path / "none.csv")
    assert refused.value.code == "no_jobs"
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(f"{HEADER}\n".encode() * 100)[:40])
    with pytest.raises(Refused) as refused:
        read_jobs(tmp_path / "cut.csv.gz")
    assert refused.value.code == "bad_jobs"


@pytest.mark.parametrize(
    ("start", "first_price"), [(None, 0), (30, 30), ("2025-01-02T03:00Z", 27), ("2025-01-02T03:00+08:00", 19)]
)
def test_start_says_which_hour_of_the_file_is_second_0(
    tmp_path: Path, start: object, first_price: int
) -> None:
    """Hour n of the file costs n, so that the price at second 0 tells which hour it is."""
    first = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    hours = [(first + datetime.timedelta(hours=n)).isoformat() for n in range(48)]
    (tmp_path / "p.csv").write_text(
        "region,hour_utc,price\n" + "".join(f"R,{hour},{n}\n" for n, hour in enumerate(hours))
    )
    table = world_table(start=datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC))
    tariff = {
        "csv": "p.csv",
        "region": "R",
        "column": "price",
        "currency": "CNY",
        "carbon_column": "",
        "start": start,
    }
    table["site"][0]["tariff"] = {key: value for key, value in tariff.items() if value is not None}
    world = make_world(table, tmp_path)
    found = world.sites[0].tariff
    assert found is not None
    assert hour_rate(found, world.start_s // 3600)[0] == first_price * 1000  # yuan a MWh
    table["site"][0]["tariff"]["start"] = "2025-02-01T00:00Z"
    with pytest.raises(Refused, match="outside the file"):
        make_world(table, tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (f"{HEADER}\na,0,10,1\nb,x,10,1\n", 3, "submit_s"),
        (f"{HEADER}\na,0,-5,1\n", 2, "duration_s"),
        (f"{HEADER}\na,0,inf,1\n", 2, "duration_s"),
        (f"{HEADER}\na,0,10,1.5\n", 2, "whole"),
        (f"{HEADER}\na,0,10,0\n", 2, "gpus"),
        (f"{HEADER}\na,0,10\n", 2, "gpus"),
        (f"{HEADER}\n,0,10,1\n", 2, "job_id"),
        (f"{HEADER}\na,0,10,1\na,5,10,1\n", 3, "line 2 already"),
        (f"{HEADER}\na,0,10,1,7\n", 2, "more fields"),
        (f"{HEADER},priority\na,0,10,1,urgent\n", 2, "priority"),
        (f"{HEADER},gpu_kind\na,0,10,1,H100-SMX\n", 2, "H100-SXM"),
        (f"{HEADER},deadline_s\na,0,10,1,0\n", 2, "deadline_s"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    (tmp_path / "jobs.csv").write_text(text)
    with pytest.raises(Refused) as refused:
        read_jobs(tmp_path / "jobs.csv")
    assert refused.value.code == "bad_jobs"
    assert refused.value.fields["line"] == line
    assert what in refused.value.what


def test_a_missing_column_and_data_nowhere(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("job_id,submit_s,gpus\na,0,1\n")
    with pytest.raises(Refused, match="duration_s"):
        read_jobs(tmp_path / "jobs.csv")
    (tmp_path / "jobs.csv").write_text(f"{HEADER},data_gb,data_site\na,0,10,1,5,c\n")
    with pytest.raises(Refused, match="'c'"):
        make_trace(read_jobs(tmp_path / "jobs.csv"), make(world_table()))


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(Refused) as refused:
        named_policy("greddy", {})
    assert "greedy" in refused.value.hint
    with pytest.raises(Refused):
        named_policy("mine", {"mine": {"like": "nothing"}})
    mine = named_policy("mine", {"mine": {"like": "fifo", "oracle": True, "lease_s": 60}})
    assert (mine.name, mine.oracle, mine.policy.lease_s) == ("mine", True, 60)
