"""The command line against a real grid with one real site, over loopback: answers, exit codes, leftovers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from suan.doors.cli import process as processes
from suan.doors.cli.main import EXIT_FAILED, EXIT_REFUSED, run
from suan.doors.client import Client

Json = Any
SUAN = [sys.executable, "-m", "suan.doors.cli.main"]
PATIENCE_S = 60.0


class Running(NamedTuple):
    folder: Path
    env: dict[str, str]
    client: Client


def start(arguments: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(log, "ab") as output:
        return subprocess.Popen(
            [*SUAN, *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def until(what: str, is_so: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := is_so()):
        assert time.monotonic() < deadline_s, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("grid")
    env = {name: value for name, value in os.environ.items() if not name.startswith("SUAN_")}
    env |= {"SUAN_CONFIG": str(folder / "client.json"), "HOME": str(folder)}
    started = [start(["up", "--state", str(folder / "grid"), "--port", "0"], folder / "grid.log", env)]
    try:
        saved = until(
            "the grid", lambda: (folder / "client.json").exists() and (folder / "client.json").read_text()
        )
        client = Client(**json.loads(saved))
        token = client.join_token("here")
        joining = ["join", client.url, "--site", "here", "--token", token, "--state", str(folder / "here")]
        joining += ["--pool", "cpu:CPU:1x2", "--region", "lab", "--stop-runs"]
        started.append(start(joining, folder / "here.log", env))
        until("the site", lambda: any(site["pools"] for site in client.sites()))
        yield Running(folder, env, client)
    finally:
        for program in reversed(started):
            program.terminate()
        codes = [program.wait(PATIENCE_S) for program in reversed(started)]
    assert codes == [0, 0], (folder / "grid.log").read_text() + (folder / "here.log").read_text()
    assert not processes.left_in(folder)


@pytest.fixture
def suan(
    grid: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Json]:
    """Runs a command line in this process; its answer: JSON where --json is given, text where not."""
    monkeypatch.setenv("SUAN_CONFIG", grid.env["SUAN_CONFIG"])
    for name in ("SUAN_URL", "SUAN_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str, code: int = 0) -> Json:
        capsys.readouterr()
        found = run(list(arguments))
        said = capsys.readouterr()
        assert found == code, said.err
        if "--json" not in arguments:
            return said.out + said.err
        return json.loads(said.err if found == EXIT_REFUSED else said.out)

    return call


def task(folder: Path, text: str) -> str:
    path = folder / "task.yaml"
    path.write_text(text)
    return str(path)


def test_a_task_runs_and_everything_about_it_can_be_asked(suan: Callable[..., Json], tmp_path: Path) -> None:
    file = task(
        tmp_path,
        "name: greet\nenvs: {WHOM: you}\n"
        "run: |\n  echo hello $WHOM\n  sleep 1.5\n  echo '{\"loss\": 1.5}' > $SUAN_METRICS",
    )
    said = suan("run", file, "--env", "WHOM=world")
    for word in (
        "considered bids",
        "total CNY",
        "➤",
        "here",
        "why: ",
        "hello world",
        "succeeded",
        "loss 1.5",
        "next: ",
    ):
        assert word in said
    (job,) = [item for item in suan("jobs", "--json")["items"] if item["task"]["name"] == "greet"]
    assert job["phase"] == "succeeded"
    assert job["id"] in suan("jobs") and "greet" in suan("jobs", "--phase", "succeeded")
    assert suan("job", job["id"], "--json")["run_details"][0]["run"]["site"] == "here"
    assert "loss 1.5" in suan("job", job["id"])
    assert suan("why", job["id"], "--json")["considered"]["bids"]
    log = suan("logs", job["id"], "--json")
    assert log["text"] == "hello world\n" and log["ended"]
    assert "hello world" in "".join(
        json.loads(line)["text"] for line in _lines_of(suan, "logs", "-f", job["id"], "--json")
    )
    bill = suan("bill", "--job", job["id"], "--json")
    assert sum(line["amount_microyuan"] for line in bill["lines"]) == bill["total_microyuan"]
    assert "the lines add up" in suan("bill", "--job", job["id"])


def _lines_of(suan: Callable[..., Json], *arguments: str) -> list[str]:
    """One JSON document a line is not one document: read as text."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run(list(arguments)) == 0
    return out.getvalue().splitlines()


def test_a_failed_job_is_exit_code_1_and_says_where_to_look(
    suan: Callable[..., Json], tmp_path: Path
) -> None:
    file = task(tmp_path, "name: broken\nrun: echo on fire; exit 3")
    said = suan("run", file, code=EXIT_FAILED)
    assert "broken failed" in said and "on fire" in said and "next: suan logs" in said
    (job,) = suan("run", file, "--json", code=EXIT_FAILED)["jobs"]
    assert job["phase"] == "failed"


def test_a_quote_shows_bids_and_stores_nothing(suan: Callable[..., Json], tmp_path: Path) -> None:
    before = suan("jobs", "--json", "--limit", "500")["items"]
    file = task(tmp_path, "name: dream\nrun: 'true'\nresources: {cpus: 2}")
    assert "total CNY" in suan("quote", file)
    (quoted,) = suan("quote", file, "--json")["quotes"]
    assert quoted["considered"]["bids"][0]["devices"] == 2
    wanting = task(tmp_path, "name: later\nrun: 'true'\nsecrets: {TOKEN: null}")
    assert "no value yet: TOKEN" in suan("quote", wanting)
    assert suan("jobs", "--json", "--limit", "500")["items"] == before


def test_what_no_pool_can_run_is_refused(suan: Callable[..., Json], tmp_path: Path) -> None:
    file = task(tmp_path, "name: huge\nrun: 'true'\nresources: {accelerators: H100:8}")
    refused = suan("run", file, "--json", code=EXIT_REFUSED)
    assert refused["code"] == "impossible" and refused["hint"]
    assert "unfit: here/cpu" in suan("quote", file)


def test_the_same_key_submits_once(suan: Callable[..., Json], tmp_path: Path) -> None:
    file = task(tmp_path, "name: once\nrun: 'true'")
    first, second = (
        suan("run", file, "--detach", "--once", "k1", "--json")["jobs"][0]["id"] for _ in range(2)
    )
    assert first == second


def test_folders_of_a_task_travel_with_it(suan: Callable[..., Json], tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.sh").write_text(
        "cat inputs/words/a.txt single/note.txt; echo from the workdir\n"
    )
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("from a mounted folder\n")
    (tmp_path / "note.txt").write_text("from a mounted file\n")
    file = task(
        tmp_path,
        "name: luggage\nworkdir: ./code\nrun: bash main.sh\n"
        "file_mounts: {inputs/words: ./words, single/note.txt: ./note.txt}\n",
    )
    said = suan("run", file)
    assert (
        said.index("from a mounted folder")
        < said.index("from a mounted file")
        < said.index("from the workdir")
    )


def test_an_artifact_goes_there_and_comes_back(suan: Callable[..., Json], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "诗.txt").write_text("床前明月光\n")
    put = suan("put", str(tmp_path / "in"), "dataset:moon", "--json")
    assert put["id"] == "dataset:moon@1"
    assert suan("put", str(tmp_path / "in"), "dataset:moon", "--json")["id"] == put["id"], "the same content"
    assert "dataset:moon@1" in suan("ls") and suan("ls", "--kind", "dataset", "--json")["items"]
    assert put["digest"] in suan("data", "dataset:moon")
    suan("get", "dataset:moon", str(tmp_path / "out"))
    assert (tmp_path / "out" / "诗.txt").read_text() == "床前明月光\n"
    assert (
        suan("get", "dataset:moon", str(tmp_path / "out"), "--json", code=EXIT_REFUSED)["code"]
        == "folder_exists"
    )
    assert (
        suan("put", str(tmp_path / "in"), "moon", "--json", code=EXIT_REFUSED)["code"] == "bad_artifact_name"
    )


def test_an_operator_declares_prices_links_tenants_and_keys(suan: Callable[..., Json]) -> None:
    suan("tariff", "here", "--yuan-per-kwh", "0.5", "--pue", "1.3", "--gco2-per-kwh", "500")
    (site,) = suan("prices", "--hours", "3", "--json")["sites"]
    assert [hour["microyuan_per_kwh"] for hour in site["hours"]] == [650_000] * 3
    assert "0.6500" in suan("prices", "--hours", "3")
    suan("link", "set", "here", "grid", "--mbit-per-s", "1000", "--yuan-per-gb", "0.1")
    assert len(suan("link", "--json")["items"]) == 2 and "1000" in suan("links")
    suan("tenant", "set", "guests", "--weight", "0.5", "--budget-yuan", "10")
    assert "guests" in suan("tenants")
    issued = suan("key", "issue", "--role", "viewer", "--tenant", "guests", "--json")
    assert suan("jobs", "--key", issued["key"], "--json")["items"] == [], "another tenant's jobs"
    refused = suan("sites", "drain", "here", "--key", issued["key"], "--json", code=EXIT_REFUSED)
    assert refused["code"] == "forbidden"
    suan("key", "revoke", issued["id"])
    assert suan("jobs", "--key", issued["key"], "--json", code=EXIT_REFUSED)["code"] == "bad_key"
    assert len(suan("sites", "--accelerators", "--json")["items"]) >= 25
    assert "cpu" in suan("sites") and suan("sites", "--json")["items"][0]["name"] == "here"


def test_the_doctor_finds_a_working_grid_well(suan: Callable[..., Json], tmp_path: Path) -> None:
    found = suan("doctor", "--state", str(tmp_path), "--json")
    verdicts = {finding["check"]: finding["verdict"] for finding in found["findings"]}
    assert found["ok"] and {verdicts[check] for check in ("grid", "clock", "key", "site here")} == {"ok"}
    assert {"python", "state folder", "free disk", "accelerators", "torch"} <= verdicts.keys()
    assert "fail" in suan("doctor", "--url", "http://127.0.0.1:9", code=EXIT_FAILED)


def test_ctrl_c_leaves_the_job_running(grid: Running, suan: Callable[..., Json], tmp_path: Path) -> None:
    file = task(tmp_path, "name: long\nrun: echo started; sleep 120")
    log = tmp_path / "run.log"
    following = start(["run", file], log, grid.env)
    until("the job's output", lambda: "started\n" in log.read_text())
    following.send_signal(signal.SIGINT)
    assert following.wait(PATIENCE_S) == 130
    said = log.read_text()
    assert "goes on" in said and "suan stop" in said and "Traceback" not in said
    (job,) = [item for item in grid.client.jobs()["items"] if item["task"]["name"] == "long"]
    assert job["phase"] == "placed"
    assert "stopped" in suan("stop", job["id"], "--wait")
    assert grid.client.job(job["id"])["phase"] == "stopped"


def test_a_grid_is_detached_found_again_and_stopped(tmp_path: Path, grid: Running) -> None:
    env = grid.env | {"SUAN_CONFIG": str(tmp_path / "client.json")}
    state = str(tmp_path / "grid")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SUAN, *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE_S
        )

    started = call("up", "--state", state, "--port", "0", "--detach", "--json")
    found = json.loads(started.stdout)
    running = processes.this_process(found["pid"])
    assert running is not None
    try:
        assert call("jobs").returncode == 0
        again = call("up", "--state", state, "--port", "0")
        assert (
            again.returncode == EXIT_REFUSED
            and "already" not in again.stdout
            and found["url"] in again.stderr
        )
    finally:
        stopped = call("down", "--state", state)
    assert stopped.returncode == 0 and not running.alive
    assert call("down", "--state", state).returncode == EXIT_REFUSED


def test_down_never_signals_a_stranger(tmp_path: Path, grid: Running) -> None:
    """A stale note whose pid belongs to somebody else by now."""
    stranger = processes.this_process()
    assert stranger is not None
    processes.save(tmp_path / "grid.process.json", stranger._replace(started=stranger.started - 100))
    assert run(["down", "--state", str(tmp_path)]) == EXIT_REFUSED


def test_an_agent_needs_a_token_and_a_folder_of_its_own(
    suan: Callable[..., Json], grid: Running, tmp_path: Path
) -> None:
    site = ["--site", "there", "--pool", "cpu:CPU:1x1", "--json"]
    refused = suan("join", grid.client.url, "--state", str(tmp_path), *site, code=EXIT_REFUSED)
    assert refused["code"] == "no_token" and "suan join-token there" in refused["hint"]
    refused = suan(
        "join", grid.client.url, "--state", str(tmp_path), "--token", "wrong", *site, code=EXIT_REFUSED
    )
    assert refused["code"] == "bad_token"
    refused = suan("join", grid.client.url, "--state", str(grid.folder / "here"), *site, code=EXIT_REFUSED)
    assert refused["code"] == "agent_running"
