import time

import pytest

from suan.engines import wattage
from suan.engines.staging import RunNotes
from suan.engines.wattage import Wattage
from suan.grid.account import Usage
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool
from suan.ports import EngineRun

POOLS = (
    Pool(name="cpu", accelerator="CPU-x86", devices_per_node=4, nodes=1),
    Pool(name="old", accelerator="T4", devices_per_node=2, nodes=1),
    Pool(name="new", accelerator="H100", devices_per_node=4, nodes=1, host_w_per_node=400),
)
MODELLED = Usage(device_s=20, energy_kwh=1.0, energy_source="modelled")


def run_of(phase: RunPhase, seconds: int = 10) -> EngineRun:
    ended = {"ended_at_s": 1000 + seconds, "cause": EndCause.EXITED, "usage": MODELLED}
    return EngineRun(
        run="j1-r1",
        phase=phase,
        started_at_s=1000,
        devices=(1, 2),
        **(ended if phase is RunPhase.ENDED else {}),
    )


def watched(
    pool: str, watts: float | None, for_s: float, monkeypatch: pytest.MonkeyPatch
) -> tuple[Usage | None, list[list[int]]]:
    """The usage of a run of one second that was looked at for so long, and the devices that were asked."""
    monkeypatch.setattr(wattage, "SAMPLE_S", 0.1)
    asked: list[list[int]] = []

    def read_w(devices: list[int]) -> float | None:
        asked.append(list(devices))
        return watts

    meter = Wattage(POOLS, read_w)
    notes = RunNotes(run="j1-r1", job="j1", pool=pool, nodes=1, devices_per_node=2)
    deadline_s = time.monotonic() + for_s
    while time.monotonic() < deadline_s:
        meter.look([(run_of(RunPhase.RUNNING), notes)])
        time.sleep(0.02)
    return meter.usage(run_of(RunPhase.ENDED, seconds=1), notes), asked


def test_devices_that_were_watched_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    usage, asked = watched("new", 600.0, 1.5, monkeypatch)
    assert asked[0] == [3, 4]  # after the two of the pool before it
    assert usage is not None and usage.energy_source == "measured"
    assert usage.energy_kwh == pytest.approx((600 + 200) / 1000 / 3600)  # half of the host is its part
    assert usage.device_s == 20


@pytest.mark.parametrize(
    ("pool", "watts", "for_s"), [("new", None, 1.5), ("cpu", 9.0, 0.5), ("new", 600.0, 0.3)]
)
def test_what_was_not_watched_long_enough_stays_modelled(
    pool: str, watts: float | None, for_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(pool, watts, for_s, monkeypatch)[0] == MODELLED
