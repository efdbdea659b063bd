"""Power meters: measured where there is a meter, None where there is not, never a guess."""

import os
from pathlib import Path

import pytest

from suan.feeds.power import (
    RaplReading,
    amd_w,
    ascend_w,
    cpu_busy_s,
    cpu_energy,
    joules_between,
    nvidia_w,
)


def package(powercap: Path, zone: str, name: str, energy_uj: str) -> None:
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(energy_uj + "\n")
    (folder / "max_energy_range_uj").write_text("999999\n")


def test_only_whole_packages_are_counted(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", "package-0", "100")
    package(tmp_path, "intel-rapl:0:0", "core", "60")  # part of package-0
    package(tmp_path, "intel-rapl:1", "package-1", "200")
    package(tmp_path, "intel-rapl:2", "psys", "900")  # the whole machine, packages included
    assert cpu_energy(tmp_path) == RaplReading(energy_uj=(100, 200), wraps_at_uj=(999_999, 999_999))


@pytest.mark.parametrize("content", ["", "unknown"])
def test_a_meter_that_cannot_be_read_is_no_measurement(tmp_path: Path, content: str) -> None:
    package(tmp_path, "intel-rapl:0", "package-0", content)
    assert cpu_energy(tmp_path) is None


def test_no_meter_is_no_measurement(tmp_path: Path) -> None:
    assert cpu_energy(tmp_path) is None
    assert cpu_energy(tmp_path / "nowhere") is None


def test_energy_between_readings_survives_a_wrap() -> None:
    earlier = RaplReading(energy_uj=(999_000, 0), wraps_at_uj=(999_999, 999_999))
    later = RaplReading(energy_uj=(1_000, 500_000), wraps_at_uj=(999_999, 999_999))
    assert joules_between(earlier, later) == pytest.approx(0.502)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write the program that the meter finds as nvidia-smi."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "nvidia-smi"


@pytest.mark.parametrize(
    ("script", "devices", "watts"),
    [
        ("echo 71.5; echo 300.25", (), 371.75),
        ('case "$*" in *--id=0,1*) echo 71.5; echo 300.25;; esac', (0, 1), 371.75),
        ("echo 71.5; echo '[N/A]'", (), None),  # one device that does not say
        ("echo 71.5", (0, 1), None),
        ("echo no driver; exit 9", (), None),
        ("true", (), None),
    ],
)
def test_nvidia_power_is_the_sum_or_unknown(
    nvidia_smi: Path, script: str, devices: tuple[int, ...], watts: float | None
) -> None:
    nvidia_smi.write_text(f"#!/bin/sh\n{script}\n")
    nvidia_smi.chmod(0o755)
    assert nvidia_w(devices) == watts


def test_without_nvidia_smi_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_w() is None


def tool(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Puts a program of this name first in the PATH."""
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


AVERAGE, SOCKET = "Average Graphics Package Power (W)", "Current Socket Graphics Package Power (W)"


@pytest.mark.parametrize(
    ("says", "devices", "watts"),
    [
        (f'{{"card0": {{"{AVERAGE}": "35.5"}}, "card1": {{"{AVERAGE}": "300.0"}}}}', (), 335.5),
        (f'{{"card0": {{"{SOCKET}": "133.0"}}, "card1": {{"{SOCKET}": "131.0"}}}}', (1,), 131.0),
        (f'{{"card0": {{"{SOCKET}": "133.0"}}}}', (0, 1), None),  # one device that does not say
        (f'{{"card0": {{"{SOCKET}": "N/A"}}}}', (), None),
        ('{"system": {"Driver version": "6.8"}}', (), None),
        ("WARNING: no devices", (), None),
    ],
)
def test_amd_power_is_the_sum_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, devices: tuple[int, ...], watts: float | None
) -> None:
    tool(tmp_path, monkeypatch, "rocm-smi", f"cat <<'END'\n{says}\nEND")
    assert amd_w(devices) == watts


ASCEND = """
case "$*" in
  "info -l") printf '\\tTotal Count : 2\\n\\n\\tNPU ID   : 0\\n\\tChip Count : 1\\n\\n\\tNPU ID  : 3\\n' ;;
  *"-i 0") printf '\\tNPU ID : 0\\n\\n\\tNPU Real-time Power(W)         : 103.5\\n\\tChip ID : 0\\n' ;;
  *"-i 3") printf '\\tPower Dissipation(W)           : 92.3\\n' ;;
  *) echo 'This device does not exist'; exit 1 ;;
esac"""


@pytest.mark.parametrize(("devices", "watts"), [((), 195.8), ((3,), 92.3), ((0, 7), None)])
def test_ascend_power_is_the_sum_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: tuple[int, ...], watts: float | None
) -> None:
    tool(tmp_path, monkeypatch, "npu-smi", ASCEND)
    assert ascend_w(devices) == (watts if watts is None else pytest.approx(watts))


def test_without_their_tools_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (amd_w(), ascend_w(), ascend_w((0,))) == (None, None, None)


def test_cpu_time_of_the_machine(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(
        f"cpu  {2 * ticks} {ticks} 0 {900 * ticks} {50 * ticks} 0 0 0 0 0\ncpu0 1\n"
    )
    assert cpu_busy_s(tmp_path / "stat") == 3.0  # neither idle nor waiting for a disk
    (tmp_path / "short").write_text("cpu 1 2\n")
    assert cpu_busy_s(tmp_path / "short") is None
    assert cpu_busy_s(tmp_path / "nowhere") is None
    assert (cpu_busy_s() or 0) > 0  # this very machine
