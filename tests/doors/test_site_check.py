"""`suan site check`: what a machine lacks is found before it joins, graded, and each line says what to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rest_world import World, serving

from suan.doors.cli.doctor import FAIL, OK, WARN, Finding
from suan.doors.cli.site_check import GRADES, NEEDED, grade_of
from suan.doors.cli.site_config import read_site
from suan.doors.cli.site_findings import door_finding, engine_findings, grid_findings, store_findings


def check(*arguments: str, **environment: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the JSON answer, standard error)"""
    done = subprocess.run(
        [sys.executable, "-m", "suan.doors.cli.main", "site", "check", "--json", *arguments],
        env={**os.environ, "SUAN_CONFIG": "/nowhere/client.json", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def by_check(answer: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for finding in answer["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_a_machine_is_checked_before_it_joins_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world")
    monkeypatch.setattr(world.grid, "now_s", lambda: int(time.time()))
    state = tmp_path / "state"
    arguments = ("--site", "east", "--state", str(state), "--pool", "cpu:CPU:1x2")
    with serving(world.app) as url:
        code, answer, _ = check(url, *arguments)
        found = by_check(answer)
        assert code == 0 and answer["grade"] in "ABC" and answer["means"] == GRADES[answer["grade"]]
        assert found["engine"][0]["verdict"] == OK and "Linux" in found["engine"][0]["what"]
        assert "1 × 2 CPU" in found["pools"][0]["what"]
        assert found["clock"][0]["verdict"] == OK
        assert found["store"][0]["verdict"] in (OK, WARN)
        assert "join-token east" in found["key"][0]["do"]
        assert {
            "grid",
            "bandwidth",
            "data door",
            "free space",
            "power",
            "isolation",
            "python",
            "recipes",
        } <= found.keys()
        assert all(finding["do"] for finding in answer["findings"] if finding["verdict"] != OK)
        assert not list(state.glob(".check-*")) and not list(state.glob("store/.check-*"))

        kept = {"site": "east", "url": url, "key": world.keys["east"]}
        (state / "site.json").write_text(json.dumps(kept))
        code, answer, _ = check("--site", "east", "--state", str(state))  # the grid is known by now
        assert code == 0
        assert "knows this site as east" in by_check(answer)["key"][0]["what"]

        found_with = list(grid_findings(described(tmp_path, url=url), "suan_stolen"))
        assert grade_of(found_with) == "F" and "join-token east" in found_with[-1].do


def test_a_site_that_can_start_nothing_is_told_so(tmp_path: Path) -> None:
    site = ("--site", "east", "--state", str(tmp_path / "state"))
    code, answer, _ = check("http://127.0.0.1:9", *site, "--engine", "slum")
    found = by_check(answer)
    assert (code, answer["grade"]) == (1, "F")
    assert found["engine"][0]["verdict"] == found["grid"][0]["verdict"] == FAIL
    assert found["engine"][0]["do"] == "there are: local, slurm, ray, kubernetes"
    code, _, said = check("--site", "east", "--state", str(tmp_path / "state"))
    assert code == 2 and "which grid" in said


def described(tmp_path: Path, **given: Any) -> Any:
    return read_site(
        None, {"site": "east", "state": tmp_path / "state", "url": "http://127.0.0.1:9", **given}
    )


def test_a_wrong_clock_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    for wrong_s, verdict in ((0, OK), (20, WARN), (-3600, FAIL)):
        monkeypatch.setattr(world.grid, "now_s", lambda by_s=wrong_s: int(time.time()) - by_s)
        with serving(world.app) as url:
            found = {one.check: one for one in grid_findings(described(tmp_path, url=url), "")}
        assert found["clock"].verdict == verdict, found["clock"]
        assert abs(float(found["clock"].what.split()[0]) - wrong_s) < 1.5


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (failed,) = store_findings(described(tmp_path, store=str(tmp_path / "file" / "store")))
    assert failed.verdict == FAIL and failed.check in NEEDED and failed.do


def test_a_door_on_loopback_is_no_use_to_another_machine(tmp_path: Path) -> None:
    assert door_finding(described(tmp_path)).verdict == OK
    far = described(tmp_path, url="https://grid.example")
    assert door_finding(far).verdict == WARN
    assert door_finding(described(tmp_path, url="https://grid.example", data_host="10.0.0.7")).verdict == OK


def test_the_engine_of_a_running_site_is_left_alone(tmp_path: Path) -> None:
    """What an agent's engine has in its folder is not touched: another is opened beside it."""
    site = described(tmp_path)
    mine = site.folder / "engine" / "runs" / ".half-made"
    mine.mkdir(parents=True)
    engine, _ = engine_findings(site)
    assert engine is not None and mine.exists()


@pytest.mark.parametrize(
    ("verdicts", "grade"),
    [
        ({}, "A"),
        ({"power": WARN}, "B"),
        ({"power": WARN, "clock": WARN, "isolation": WARN}, "C"),
        ({"power": WARN, "clock": FAIL}, "D"),
        ({"store": FAIL}, "F"),
    ],
)
def test_grades(verdicts: dict[str, str], grade: str) -> None:
    checks = (*NEEDED, "power", "clock", "isolation")
    assert grade_of([Finding(check, verdicts.get(check, OK), "") for check in checks]) == grade
