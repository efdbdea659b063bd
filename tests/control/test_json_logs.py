"""Logs as JSON lines: one set of fields, whatever is logged by whom."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from suan.control.fact_log import tell_facts
from suan.control.logs import write_logs
from suan.control.loop import Grid
from suan.grid import fact as f
from suan.grid.error import Refused
from suan.grid.job import JobPhase, Task
from suan.journals.memory import MemoryJournal
from suan.rules.policy import Policy


class Clock:
    def now_s(self) -> int:
        return 1_800_000_000


@pytest.fixture
def errors(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What went to standard error."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:], root.level = before, level


def test_a_line_is_an_object_with_the_same_fields_everywhere(errors: Callable[[], str]) -> None:
    write_logs("json", "beijing")
    log = logging.getLogger("suan.agent")
    log.warning("run %s could\nnot be started: 诗", "r1", extra={"run": "r1", "job": "j1"})
    try:
        raise ValueError("so it is")
    except ValueError:
        log.exception("stumbled", extra={"event": "stumble", "site": "guian"})
    first, second = map(json.loads, errors().splitlines())
    assert first.pop("at").endswith("Z")
    assert first == {
        "level": "warning",
        "event": "run %s could\nnot be started: 诗",
        "message": "run r1 could\nnot be started: 诗",
        "logger": "suan.agent",
        "site": "beijing",
        "job": "j1",
        "run": "r1",
    }
    assert (second["event"], second["site"], second["level"]) == ("stumble", "guian", "error")
    assert "ValueError: so it is" in second["error"]


def test_text_stays_what_people_read(errors: Callable[[], str]) -> None:
    write_logs("text", "beijing")
    logging.getLogger("suan.agent").warning("the grid answers again")
    assert errors()[8:] == " beijing: the grid answers again\n"
    with pytest.raises(Refused, match="no format of logs"):
        write_logs("xml")


def test_what_happens_to_jobs_is_told_by_name(errors: Callable[[], str]) -> None:
    write_logs("json")
    grid = Grid(MemoryJournal(), Clock(), Policy())
    grid.listen(tell_facts(grid))
    task = Task(name="count", run="true")
    facts = [
        f.TenantSet(at_s=1, tenant="alice"),  # no news of a job or site
        f.JobSubmitted(at_s=1, job="j1", tenant="alice", task=task),
        f.JobEnded(at_s=1, job="j1", phase=JobPhase.STOPPED, outcome="on request"),
    ]
    grid.do(lambda state, now_s: (facts, None))
    lines = [json.loads(line) for line in errors().splitlines()]
    told = [(line["event"], line["job"], line["message"]) for line in lines]
    assert told == [
        ("JobSubmitted", "j1", "count of alice"),
        ("JobEnded", "j1", "stopped: on request"),
    ]
