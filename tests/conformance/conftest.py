"""The engines under test: one row each in ENGINES. A row says how to open the engine and what it can do.

The suite speaks to `suan.ports.Engine` only. What needs real processes asks for the ability `processes`, what
needs device indices for `devices`, what looks into the local engine's own records for `supervisors`; an
engine without an ability skips those tests and no others.
"""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from engine_site import EngineSite, open_local, processes_of
from kubernetes_site import KubernetesOpener
from outcomes import FOLDER, Outcomes
from postgres_server import MISSING, PostgresServer, find_postgres, serving_postgres
from ray_site import RayOpener
from simulated_site import SimulatedOpener
from slurm_site import SlurmOpener

from suan.ports import Engine

# name -> (opens the engine on a folder, what it can do beyond the port)
ENGINES: dict[str, tuple[Callable[[Path], Engine], frozenset[str]]] = {
    "local": (open_local, frozenset({"processes", "devices", "supervisors"})),
    "slurm": (
        SlurmOpener(),
        frozenset({"processes"}),
    ),  # a real cluster; skipped where Slurm is not installed
    "ray": (RayOpener(), frozenset({"processes"})),  # a real cluster; skipped where Ray is not installed
    # A real control plane; skipped where its binaries are not found.
    "kubernetes": (KubernetesOpener(), frozenset({"processes"})),
    "simulated": (SimulatedOpener(), frozenset({"devices"})),  # its time is the suite's, so no process runs
}

_outcomes = Outcomes()


def engine_of(item: pytest.Item | None) -> str:
    """The engine under test; "" where there is none."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("engine_name", "")) if callspec else ""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was found of each engine is kept: the documentation's table is made from it."""
    report = yield
    if engine := engine_of(item):
        _outcomes.note(engine, item.originalname, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Daemons end with the last test in a row that is about them: they cost all others time."""
    if (engine := engine_of(item)) and engine_of(nextitem) != engine:
        close(engine)


def close(engine: str) -> None:
    """Ends what the engine's opener has started."""
    getattr(ENGINES[engine][0], "close", lambda: None)()


def pytest_sessionfinish(session: pytest.Session) -> None:
    worker = getattr(session.config, "workerinput", {}).get("workerid", "main")
    if cache := getattr(session.config, "cache", None):  # none with -p no:cacheprovider
        _outcomes.write(cache.mkdir(FOLDER), worker)


@pytest.fixture(scope="session", autouse=True)
def _daemons() -> Iterator[None]:
    """What openers have started ends with the session at the latest."""
    yield
    for engine in ENGINES:
        close(engine)


@pytest.fixture(scope="session")
def engines() -> dict[str, tuple[Callable[[Path], Engine], frozenset[str]]]:
    return ENGINES


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if find_postgres() is None:
        pytest.skip(MISSING)
    with serving_postgres() as server:
        yield server


# For the session, so that all tests of one engine come in a row.
@pytest.fixture(scope="session", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(engine_name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineSite]:
    opener, abilities = ENGINES[engine_name]
    needed = {name for mark in request.node.iter_markers("needs") for name in mark.args}
    if missing := needed - abilities:
        pytest.skip(f"{engine_name} has no {', '.join(sorted(missing))}")
    if absent := getattr(opener, "missing", str)():
        pytest.skip(f"{engine_name} cannot be started: {absent}")
    pass_time = getattr(opener, "pass_time", time.sleep)
    site = EngineSite(engine_name, tmp_path / "engine", abilities, opener, pass_time)
    yield site
    site.clean()
    deadline_s = time.monotonic() + 10
    while (left := processes_of(tmp_path)) and time.monotonic() < deadline_s:
        time.sleep(0.02)  # a run has ended a moment before its supervisor has
    assert not left, "a run left processes behind"
