import time

import pytest
from msgspec.structs import replace

from suan.engines import wattage
from suan.engines.staging import RunNotes
from suan.engines.wattage import CommonMeter, Wattage
from suan.feeds.power import RaplReading
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

    meter = Wattage(POOLS, read_w, CommonMeter(cpu_energy=lambda: None))
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
    assert usage.energy_meter == "nvidia-smi"


@pytest.mark.parametrize(
    ("pool", "watts", "for_s"), [("new", None, 1.5), ("cpu", 9.0, 0.5), ("new", 600.0, 0.3)]
)
def test_what_was_not_watched_long_enough_stays_modelled(
    pool: str, watts: float | None, for_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watched(pool, watts, for_s, monkeypatch)[0] == MODELLED


def shared(
    common: CommonMeter, cpu_s: float, monkeypatch: pytest.MonkeyPatch, for_s: float = 1.5
) -> Usage | None:
    """The usage of a run on CPU cores of a machine whose common meter is `common`."""
    monkeypatch.setattr(wattage, "SAMPLE_S", 0.1)
    meter = Wattage(POOLS, common=common)
    notes = RunNotes(run="j1-r1", job="j1", pool="cpu", nodes=1, devices_per_node=2)
    deadline_s = time.monotonic() + for_s
    while time.monotonic() < deadline_s:
        meter.look([(run_of(RunPhase.RUNNING), notes)])
        time.sleep(0.02)
    ended = run_of(RunPhase.ENDED, seconds=1)
    return meter.usage(replace(ended, usage=replace(MODELLED, cpu_s=cpu_s)), notes)


def test_cpu_runs_share_the_packages_energy_by_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine draws 100 W with two cores busy: half of that is a run's that kept one of them busy."""

    def cpu_energy() -> RaplReading:
        return RaplReading(energy_uj=(int(time.monotonic() * 100e6) % 10**9,), wraps_at_uj=(10**9 - 1,))

    usage = shared(CommonMeter(None, cpu_energy, lambda: 2 * time.monotonic()), 1.0, monkeypatch)
    assert usage is not None
    assert (usage.energy_source, usage.energy_meter) == ("measured", "RAPL by CPU time")
    assert usage.energy_kwh == pytest.approx(50 / 1000 / 3600, rel=0.05)


def test_a_machines_controller_sees_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    four_cores = CommonMeter(lambda: 400.0, lambda: None, lambda: 4 * time.monotonic())
    usage = shared(four_cores, 1.0, monkeypatch)
    assert usage is not None and usage.energy_meter == "Redfish by CPU time"
    assert usage.energy_kwh == pytest.approx(100 / 1000 / 3600, rel=0.05)


@pytest.mark.parametrize("cpu_s", [0.0, 1.0])
def test_cpu_runs_without_a_meter_stay_modelled(cpu_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    none = CommonMeter(None, lambda: None, lambda: time.monotonic())
    usage = shared(none, cpu_s, monkeypatch, 0.6)
    assert usage is not None and usage.energy_source == "modelled" and usage.energy_meter == ""


def test_vendors_count_their_devices_apart() -> None:
    pools = (
        Pool(name="amd", accelerator="MI300X", devices_per_node=8, nodes=1),
        Pool(name="npu", accelerator="Ascend910B1", devices_per_node=8, nodes=1),
        Pool(name="npu2", accelerator="Ascend910B2", devices_per_node=4, nodes=1),
        Pool(name="cpu", accelerator="CPU-x86", devices_per_node=4, nodes=1),
    )
    assert wattage._first_devices(pools) == {"amd": 0, "npu": 0, "npu2": 8}
