"""The documentation, run: links resolve, task files parse, and the commands of tutorial and how-tos do what
the page shows, with real processes.

A page is read from top to bottom. Its fenced blocks mean:

    ```LANGUAGE file=NAME       the reader saves this file
    ```yaml …                   a task file; it must parse
    ```console                  `$ ` lines are typed, the rest is shown; `...` leaves something out
    ```console in-background    the same in a terminal of its own, left running

Lines shown are looked for one by one in what the command printed, in any order and with any spacing. Job ids
differ from run to run: the first time a page shows one, it stands for the one that was printed there.
"""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shell import Shell
from suan.doors.taskfile import read_tasks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
RUN_FROM_NOTHING = [DOCS / "tutorial" / "first-run.md"]
RUN_ON_TWO_SITES = sorted((DOCS / "how-to").glob("*.md"))

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)|!\[[^\]]*\]\((?P<image>[^)\s]+)\)")
_EXIT_CODE = re.compile(r"\s+# exit code (\d+)$")
_JOB = re.compile(r"\bj\d+\b")
_COMMAND_S = 60.0
_START_S = 30.0


class Block(NamedTuple):
    language: str
    flags: tuple[str, ...]
    body: str

    @property
    def file(self) -> str:
        return next((flag.removeprefix("file=") for flag in self.flags if flag.startswith("file=")), "")


class Step(NamedTuple):
    """A line to type and the lines that the page shows after it."""

    command: str
    exit_code: int
    shown: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _FENCE.finditer(page.read_text("utf-8")):
        words = match["info"].split()
        found.append(Block(words[0] if words else "", tuple(words[1:]), match["body"]))
    return found


def steps(body: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        code = _EXIT_CODE.search(command)
        yield Step(_EXIT_CODE.sub("", command), int(code[1]) if code else 0, tuple(filter(None, shown)))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# ---------------------------------------------------------------- pages as text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    prose = _FENCE.sub("", page.read_text("utf-8"))
    targets = [match["target"] or match["image"] for match in _LINK.finditer(prose)]
    local = [target.partition("#") for target in targets if not re.match(r"[a-z]+:", target)]
    missing = [path for path, _, _ in local if path and not (page.parent / path).exists()]
    assert not missing, f"{name_of(page)} links to {missing}"
    for path, _, anchor in local:
        target = page.parent / path if path else page
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{name_of(page)}: {path}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


TASKS = [
    pytest.param(block.body, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page), 1)
    if block.language == "yaml"
]


@pytest.mark.parametrize("text", TASKS)
def test_every_task_in_the_documentation_is_read(text: str) -> None:
    assert read_tasks(text, source="page", now_s=1_800_000_000).tasks


def test_what_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.(?:py|toml|md))?)`", text))
    assert len(named) > 25, "ARCHITECTURE.md is a map of files"
    places = (ROOT, ROOT / "src" / "suan")
    assert [path for path in sorted(named) if not any((place / path).exists() for place in places)] == []
    folders = {path.name for path in (ROOT / "src" / "suan").iterdir() if (path / "__init__.py").exists()}
    assert {folder for folder in folders if f"`{folder}/`" not in text} == set(), "folders the map leaves out"


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_make_targets_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", text))
    assert {"quickstart", "test"} <= named
    assert named <= targets


def test_every_page_can_be_found_from_the_index() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"README.md"}
    assert {page for page in pages if f"({page})" not in index} == set()


# ---------------------------------------------------------------- pages as programs


class Reader(Shell):
    """Somebody who types what a page says, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        super().__init__(folder, SUAN_GRID_PORT=str(self.port), COLUMNS="200")
        self.job_ids: dict[str, str] = {}

    def follow(self, page: Path) -> None:
        for block in blocks(page):
            if block.file:
                (self.folder / block.file).write_text(self._as_here(block.body), "utf-8")
            elif block.language == "console":
                for step in steps(block.body):
                    if "in-background" in block.flags:
                        self.open_terminal(self._as_here(step.command))
                    else:
                        self._do(step)
                if "in-background" in block.flags:
                    self.wait_for_sites()

    def _do(self, step: Step) -> None:
        done = self.type(step.command)
        said = f"$ {step.command}\n{done.stdout}"
        assert done.returncode == step.exit_code, f"exit code {done.returncode}\n{said}"
        for line in step.shown:
            match = re.search(self._pattern(line), done.stdout)
            assert match, f"the page shows {line!r}\n{said}"
            self.job_ids |= {name: found for name, found in match.groupdict().items() if found}

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", self._as_here(command)],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )

    def wait_for_sites(self) -> None:
        """Until every site whose agent was started is ready and has said which pools it has."""
        deadline_s = time.monotonic() + _START_S
        while self._sites_that_joined() < len(self.terminals):
            logs = [path.read_text("utf-8", "replace") for path in self.folder.glob("terminal-*.log")]
            assert time.monotonic() < deadline_s, f"{self.type('suan sites').stdout}\n{logs}"
            time.sleep(0.2)

    def _sites_that_joined(self) -> int:
        return len(re.findall(r" (?:ready|draining) .* CPU-", self.type("suan sites").stdout))

    def leave(self) -> None:
        """Ctrl-C everywhere, and `suan down`; waits until all has ended."""
        self.close_terminals(30)
        self.type("suan down")

    def _as_here(self, text: str) -> str:
        """With the port and the job ids that this reader has."""
        text = text.replace("8700", str(self.port))
        return _JOB.sub(lambda match: self.job_ids.get(match[0], match[0]), text)

    def _pattern(self, line: str) -> str:
        """A shown line as what to look for."""
        parts = []
        for word in line.replace("...", " ... ").split():
            if word == "...":
                parts.append(r"[^\n]*")
                continue
            pattern, end = "", 0
            for match in _JOB.finditer(word):
                known = self.job_ids.get(match[0])
                named = any(f"(?P<{match[0]}>" in part for part in [*parts, pattern])
                new = rf"(?P={match[0]})" if named else rf"(?P<{match[0]}>j\d+)"
                pattern += re.escape(word[end : match.start()].replace("8700", str(self.port))) + (
                    re.escape(known) if known else new
                )
                end = match.end()
            parts.append(pattern + re.escape(word[end:].replace("8700", str(self.port))))
        return r"[^\S\n]*".join(parts)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    somebody = Reader(tmp_path)
    yield somebody
    somebody.leave()


SITE = """
site = "{name}"
url = "http://127.0.0.1:{port}"
state = "state/{name}"
region = "cn-{name}"
[[pool]]
name = "cpu"
accelerator = "CPU"
devices_per_node = 2
machine_yuan_per_device_h = 0.1
"""


@pytest.fixture(scope="module")
def shared_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader with a grid and the sites east and west."""
    somebody = Reader(tmp_path_factory.mktemp("how-to"))
    assert somebody.type("suan up --detach").returncode == 0
    for name in ("east", "west"):
        (somebody.folder / f"{name}.toml").write_text(SITE.format(name=name, port=somebody.port), "utf-8")
        token = somebody.type(f"suan join-token {name} 2>/dev/null").stdout.strip()
        somebody.open_terminal(f"suan join --config {name}.toml --token {token}")
    yield somebody
    somebody.leave()


@pytest.fixture
def reader_with_sites(shared_reader: Reader) -> Reader:
    """That reader, its grid up and its sites ready, as the how-tos assume."""
    if shared_reader.type("suan sites").returncode:
        assert shared_reader.type("suan up --detach").returncode == 0
    shared_reader.wait_for_sites()
    shared_reader.job_ids.clear()
    return shared_reader


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_FROM_NOTHING, ids=name_of)
def test_the_tutorial_runs(page: Path, reader: Reader) -> None:
    reader.follow(page)
    assert reader.job_ids, "the tutorial runs a job"


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_ON_TWO_SITES, ids=name_of)
def test_a_how_to_runs(page: Path, reader_with_sites: Reader) -> None:
    reader_with_sites.follow(page)
