"""The command line without a grid: what it imports, how it refuses, and the parts that it is made of."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from suan import __version__
from suan.doors.cli import process as processes
from suan.doors.cli import render
from suan.doors.cli.main import EXIT_REFUSED, EXIT_TEMPFAIL, run
from suan.doors.cli.session import read_config, write_config
from suan.doors.cli.site_config import read_site
from suan.doors.cli.verbs import ALIASES, VERBS, suan
from suan.grid.error import Refused

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
HEAVY = {
    "rich",
    "msgspec",
    "pydantic",
    "numpy",
    "fastapi",
    "httpx",
    "ruamel",
    "suan.grid.job",
    "suan.grid.account",
}
EXPLODING = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in itertools.pairwise("abcdefgh")
)


@pytest.fixture(autouse=True)
def no_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUAN_CONFIG", str(tmp_path / "client.json"))
    for name in ("SUAN_URL", "SUAN_KEY"):
        monkeypatch.delenv(name, raising=False)


def imported_by(*arguments: str) -> set[str]:
    """Modules in memory after this command line, in a process of its own."""
    code = (
        "import sys, atexit, runpy\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        f"sys.argv = ['suan', *{list(arguments)!r}]\n"
        "runpy.run_module('suan.doors.cli.main', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return set(done.stderr.splitlines())


def test_the_version_imports_nothing_but_python() -> None:
    found = imported_by("--version")
    assert "suan" in found
    assert not found & (HEAVY | {"click", "http.client", "json"})


def test_listing_jobs_imports_nothing_heavy() -> None:
    found = imported_by("jobs", "--url", NOWHERE)
    assert "http.client" in found
    assert not found & HEAVY
    assert not {name for name in found if name.startswith(("suan.rules", "suan.engines", "suan.control"))}


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"suan {__version__}\n"


def test_without_any_grid_it_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs"]) == EXIT_REFUSED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no grid is known here\nhint: suan up")


def test_a_grid_that_is_away_may_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "--url", NOWHERE]) == EXIT_TEMPFAIL
    assert "hint: start one: suan up" in capsys.readouterr().err


def test_json_errors_are_problems_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sites", "--url", NOWHERE, "--json"]) == EXIT_TEMPFAIL
    said = capsys.readouterr()
    assert said.out == ""
    problem = json.loads(said.err)
    assert (problem["code"], problem["status"]) == ("grid_unreachable", 503)
    assert {"type", "title", "detail", "hint", "fields"} <= problem.keys()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jbos"], "did you mean jobs?"),
        (["jobs", "--phaze", "failed"], "phaze"),
        (["jobs", "--phase", "sleeping"], "sleeping"),
        (["stop"], "name a job"),
        (["--url", NOWHERE], "url"),
    ],
)
def test_misspelt_commands_are_refused_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == EXIT_REFUSED
    error, hint = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ") and said in error
    assert hint.startswith("hint: suan")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (EXPLODING, "too_big"),
        ("run: [unclosed", "bad_yaml"),
        ("name: x\nrun: echo\nresources: {accelerators: H1000:8}", "unknown_accelerator"),
        ("name: x\nrunn: echo", "bad_key"),
        ("name: x\nrun: echo\nnum_nodes: -1", "bad_value"),
        ("", "empty_task_file"),
        ("name: x\nrun: echo\nworkdir: ./not-there", "missing_file"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "quote"])
def test_a_wrong_file_is_refused_before_anything_is_sent(
    verb: str, text: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if verb == "quote" and code == "missing_file":
        pytest.skip("a quote uploads nothing")
    file = tmp_path / "task.yaml"
    file.write_text(text)
    # the grid does not answer: had anything been sent, the exit code would say so
    assert run([verb, str(file), "--url", NOWHERE, "--json"]) == EXIT_REFUSED
    assert json.loads(capsys.readouterr().err)["code"] == code


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "nothing.yaml", "--url", NOWHERE]) == EXIT_REFUSED
    assert "there is no file nothing.yaml" in capsys.readouterr().err


def test_every_verb_explains_itself_and_speaks_json() -> None:
    context = click.Context(suan)
    for name in VERBS:
        command = suan.get_command(context, name)
        assert command is not None and command.help, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert "--json" in options or name == "completion", name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert "_SUAN_COMPLETE" in capsys.readouterr().out


def test_a_shell_that_asks_is_told_the_verbs() -> None:
    asking = {"_SUAN_COMPLETE": "bash_complete", "COMP_WORDS": "suan jo", "COMP_CWORD": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['suan']; from suan.doors.cli.main import main; main()",
        ],
        env=os.environ | asking,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert {"plain,job", "plain,jobs", "plain,join"} <= set(done.stdout.split())


def test_every_hint_names_a_verb_that_exists() -> None:
    wrong = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for hint in re.findall(r'hint=f?"([^"]*)"', path.read_text("utf-8")):
            for verb in re.findall(r"(?<!of )\bsuan ([a-z][a-z-]*)", hint):
                if verb not in VERBS and verb not in ALIASES:
                    wrong.append(f"{path.name}: {hint}")
    assert not wrong


def test_the_reference_page_is_made_from_the_commands() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs/reference/make_cli.py")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (ROOT / "docs/reference/cli.md").read_text("utf-8") == made.stdout, "run: make docs"


# ---------------------------------------------------------------- parts


def test_the_client_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = write_config("http://127.0.0.1:1", "secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_config() == {"url": "http://127.0.0.1:1", "key": "secret"}
    path.write_text("[]")
    with pytest.raises(Refused, match="not a JSON object"):
        read_config()


def test_what_others_named_cannot_drive_the_terminal() -> None:
    shown = render.table(("name",), [["\x1b[2Jgone\r\nover"]])
    assert "\x1b" not in shown and "\r" not in shown and shown.count("\n") == 1
    assert "\x1b" not in render.clean("loud\x1b[31m")


def test_columns_stay_aligned_under_han_characters() -> None:
    first, second, third = render.table(("name", "n"), [("诗人", 1), ("poet", 22)], right="n").splitlines()
    assert render.width(first) == render.width(second) == render.width(third)


def test_sums_of_any_size_can_be_told_from_zero() -> None:
    sums = (0, 3, 51_200, 12_300_000, None)
    assert [render.cny(amount) for amount in sums] == [
        "0.00",
        "0.000003",
        "0.0512",
        "12.30",
        "–",
    ]


def test_a_process_is_known_by_more_than_its_pid() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = processes.this_process(child.pid)
        assert found is not None and found.alive
        stranger = found._replace(started=found.started - 1)
        assert not stranger.alive
        stranger.signal(signal.SIGKILL)
        assert not stranger._replace(pid=os.getpid()).alive
        assert child.poll() is None, "a process with another start time was signalled"
        assert found.end(5.0)
        assert not found.alive
    finally:
        child.kill()
        child.wait()


GIVEN = {"url": None, "site": "east", "folder": None, "pools": None}


def test_a_site_is_read_from_its_file_and_options_win(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text(
        f'site = "west"\nurl = "http://grid:1"\nstate = "{tmp_path}"\n'
        '[[pool]]\nname = "cpu"\naccelerator = "CPU"\n'
        "devices_per_node = 4\nmachine_yuan_per_device_h = 0.25\n"
    )
    found = read_site(config, GIVEN)
    (pool,) = found.pools_of_nouns()
    assert (found.site, found.url, pool.machine_microyuan_per_device_h) == ("east", "http://grid:1", 250_000)
    assert (pool.devices, pool.cpus_per_node) == (4, 4.0) and pool.memory_gib_per_node > 0
    (other,) = read_site(config, GIVEN | {"pools": ("gpu:h100:2x8",)}).pools_of_nouns()
    assert (other.name, other.accelerator, other.devices) == ("gpu", "H100-SXM", 16)


def test_a_site_without_pools_has_what_the_machine_has(tmp_path: Path) -> None:
    found = read_site(None, GIVEN | {"url": NOWHERE, "folder": tmp_path, "pools": None})
    cpu = found.pools_of_nouns()[0]
    assert cpu.devices == len(os.sched_getaffinity(0)) and cpu.machine_microyuan_per_device_h == 0


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"pools": ("cpu:CPU:8",)}, "bad_pool"),
        ({"pools": ("cpu:CPU:1x8", "cpu:CPU:1x4")}, "bad_pool"),
        ({"pools": ("gpu:H1000:1x8",)}, "unknown_accelerator"),
        ({"pools": ("gpu:H100:0x8",)}, "bad_site"),
        ({"site": None}, "bad_site"),
        ({"pools": ("cpu:CPU:1x8",), "url": None}, "bad_site"),
    ],
)
def test_impossible_sites_are_refused(given: dict[str, object], code: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_site(None, GIVEN | {"url": NOWHERE, "folder": tmp_path} | given)
    assert refused.value.code == code and refused.value.hint
