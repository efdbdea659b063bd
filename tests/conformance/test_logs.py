"""What the logs of runs promise about offsets."""

import pytest

from suan.grid.error import Refused
from suan.stores.logs import LogFolder


def refusal(work) -> Refused:
    with pytest.raises(Refused) as raised:
        work()
    return raised.value


def test_a_log_grows_by_offset_and_takes_each_byte_once(tmp_path):
    logs = LogFolder(tmp_path / "logs")
    assert logs.append("j1-r1", 0, b"hello ") == 6
    assert logs.append("j1-r1", 6, b"world") == 11
    assert logs.append("j1-r1", 0, b"hello world!") == 12, "an agent that lost an answer sends again"
    assert logs.append("j1-r1", 3, b"lo") == 12
    assert logs.append("j1-r1", 40, b"after a gap") == 12, "it is told where to go on"
    assert logs.append("j1-r1", 12, b"") == 12
    assert LogFolder(tmp_path / "logs").read("j1-r1", 0, 100) == b"hello world!"
    assert (logs.read("j1-r1", 6, 5), logs.read("j1-r1", 99, 5), logs.read("other", 0, 5)) == (
        b"world",
        b"",
        b"",
    )
    assert (logs.size("j1-r1"), logs.size("other")) == (12, 0)


@pytest.mark.parametrize(
    "run", ["", "..", "../x", "a/b", "/etc/passwd", "a\x00", "a..b", ".hidden", "x" * 300, "a\n"]
)
def test_a_run_that_is_a_path_is_refused(tmp_path, run):
    logs = LogFolder(tmp_path / "logs")
    for work in (lambda: logs.append(run, 0, b"x"), lambda: logs.read(run, 0, 1), lambda: logs.size(run)):
        assert refusal(work).code == "bad_run"
    assert list((tmp_path / "logs").iterdir()) == []


def test_offsets_below_zero_are_refused(tmp_path):
    logs = LogFolder(tmp_path / "logs")
    assert refusal(lambda: logs.append("r", -1, b"x")).code == "bad_offset"
    assert refusal(lambda: logs.read("r", -1, 1)).code == "bad_offset"
