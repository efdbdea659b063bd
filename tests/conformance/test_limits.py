"""What engines cannot do is data: each limit says whether it is for ever, and why."""

import pytest
from outcomes import Outcomes, read_file

from suan.engines.table import ENGINES, limits_of


@pytest.mark.parametrize("engine", ENGINES)
def test_every_limit_has_a_time_and_a_reason(engine: str) -> None:
    limits = limits_of(engine)
    assert limits
    assert len({limit.capability for limit in limits}) == len(limits)
    for limit in limits:
        assert limit.when.startswith(("not yet", "never")), limit
        assert len(limit.why) > 10, limit


class Report:
    def __init__(self, outcome: str, when: str = "call", why: str = "") -> None:
        self.outcome, self.when, self.longrepr = outcome, when, ("file", 1, f"Skipped: {why}")


def test_the_worst_part_of_a_case_is_what_is_kept(tmp_path) -> None:
    found = Outcomes()
    for report in (Report("passed", "setup"), Report("passed"), Report("failed"), Report("passed")):
        found.note("local", "test_exit_codes", report)
    found.note(
        "slurm", "test_exit_codes", Report("skipped", "setup", "slurm cannot be started: no slurmctld")
    )
    found.write(tmp_path, "gw0")
    again = Outcomes()
    again.note("local", "test_other", Report("passed"))
    again.write(tmp_path, "gw0")
    kept = read_file(tmp_path / "gw0.json")
    assert kept["cases"]["local"]["test_exit_codes"]["outcome"] == "failed"
    assert kept["cases"]["local"]["test_other"]["outcome"] == "passed"
    assert kept["cases"]["slurm"]["test_exit_codes"]["why"] == "slurm cannot be started: no slurmctld"
    assert "slurm" not in kept["against"] and kept["against"]["local"].startswith("suan ")
