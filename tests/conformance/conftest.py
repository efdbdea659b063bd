"""The engines under test: one row each in ENGINES. A row says how to open the engine and what it can do.

The suite speaks to `suan.ports.Engine` only. What needs real processes asks for the ability `processes`, what
needs device indices for `devices`; an engine without an ability skips those tests and no others.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_site import EngineSite, open_local, processes_of
from simulated_site import SimulatedOpener

from suan.ports import Engine

# name -> (opens the engine on a folder, what it can do beyond the port)
ENGINES: dict[str, tuple[Callable[[Path], Engine], frozenset[str]]] = {
    "local": (open_local, frozenset({"processes", "devices"})),
    "simulated": (SimulatedOpener(), frozenset({"devices"})),  # its time is the suite's, so no process runs
}


@pytest.fixture(params=ENGINES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineSite]:
    opener, abilities = ENGINES[request.param]
    needed = {name for mark in request.node.iter_markers("needs") for name in mark.args}
    if missing := needed - abilities:
        pytest.skip(f"{request.param} has no {', '.join(sorted(missing))}")
    pass_time = getattr(opener, "pass_time", time.sleep)
    site = EngineSite(request.param, tmp_path / "engine", abilities, opener, pass_time)
    yield site
    site.clean()
    deadline_s = time.monotonic() + 10
    while (left := processes_of(tmp_path)) and time.monotonic() < deadline_s:
        time.sleep(0.02)  # a run has ended a moment before its supervisor has
    assert not left, "a run left processes behind"
