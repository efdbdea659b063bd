"""The machine's own power meters: RAPL counters of its CPU packages, and what the tools of NVIDIA, AMD and
Ascend say of their devices. `redfish.py` asks the machine's management controller.

Knows how to read them where they exist and this user may. Where it answers None, nothing was measured: the
caller models the energy and marks it as modelled. Nothing here guesses.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

POWERCAP = Path("/sys/class/powercap")
_MICROJOULES_PER_JOULE = 1_000_000
_QUERY_TIMEOUT_S = 5
_STAT = Path("/proc/stat")
# What rocm-smi calls it: an average on older devices, the socket's present draw on MI300.
_AMD_POWER = ("Current Socket Graphics Package Power (W)", "Average Graphics Package Power (W)")
# What npu-smi calls it: the first on newer drivers, the second on 910B's. Source: Huawei, npu-smi Command
# Reference, "info -t power".
_ASCEND_POWER = re.compile(
    r"^\s*(?:NPU Real-time Power|Power Dissipation)\s*\(W\)\s*:\s*([\d.]+)\s*$", re.MULTILINE
)


class RaplReading(msgspec.Struct, frozen=True, kw_only=True):
    """Energy counters of the CPU packages at one moment, in microjoules; they wrap at `wraps_at_uj`."""

    energy_uj: tuple[int, ...]
    wraps_at_uj: tuple[int, ...]


def cpu_energy(powercap: Path = POWERCAP) -> RaplReading | None:
    """The counters of every CPU package now, or None where there are none or this user may not read them.

    Source: Linux Documentation/power/powercap/powercap.rst: `intel-rapl:N` is a package (AMD's too),
    `intel-rapl:N:M` a part of it.
    """
    energy_uj, wraps_at_uj = [], []
    try:
        for package in sorted(powercap.glob("intel-rapl:*")):
            if package.name.count(":") == 1 and (package / "name").read_text().startswith("package"):
                energy_uj.append(int((package / "energy_uj").read_text()))
                wraps_at_uj.append(int((package / "max_energy_range_uj").read_text()))
    except (OSError, ValueError):
        return None
    return RaplReading(energy_uj=tuple(energy_uj), wraps_at_uj=tuple(wraps_at_uj)) if energy_uj else None


def joules_between(earlier: RaplReading, later: RaplReading) -> float:
    """Energy that all CPU packages drew between two readings, at most one wrap apart."""
    pairs = zip(earlier.energy_uj, later.energy_uj, earlier.wraps_at_uj, strict=True)
    return sum((new - old) % (wrap + 1) for old, new, wrap in pairs) / _MICROJOULES_PER_JOULE


def cpu_busy_s(stat: Path = _STAT) -> float | None:
    """CPU seconds that all processes of the machine have used since it started, None where that is not told.

    Source: proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, in ticks; a guest's time
    is in user's already.
    """
    try:
        words = stat.read_text("ascii").split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1:9]]
    except (OSError, ValueError):
        return None
    if words[:1] != ["cpu"] or len(ticks) < 8:
        return None
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def nvidia_w(devices: Sequence[int] = ()) -> float | None:
    """Watts that these NVIDIA devices (all, when none is named) draw now, or None where that is not known.

    One device that does not report its power makes the sum unknown.
    """
    command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    if devices:
        command.append(f"--id={','.join(str(device) for device in devices)}")
    try:
        watts = [float(line) for line in (_said(command) or "").split("\n") if line.strip()]
    except ValueError:  # "[N/A]"
        return None
    return sum(watts) if watts and len(watts) == (len(devices) or len(watts)) else None


def amd_w(devices: Sequence[int] = ()) -> float | None:
    """The same of AMD devices, by rocm-smi."""
    try:
        cards = json.loads(_said(["rocm-smi", "--showpower", "--json"]) or "{}")
        found = {
            int(card.removeprefix("card")): float(told[name])
            for card, told in cards.items()
            if card.startswith("card")
            for name in _AMD_POWER
            if name in told
        }
    except (ValueError, AttributeError, TypeError):
        return None
    return _sum_of(found, devices)


def ascend_w(devices: Sequence[int] = ()) -> float | None:
    """The same of Ascend devices, by npu-smi; a device is a card of one chip."""
    numbers = devices or _ascend_cards()
    found = {}
    for number in numbers:
        told = _ASCEND_POWER.findall(_said(["npu-smi", "info", "-t", "power", "-i", str(number)]) or "")
        with contextlib.suppress(ValueError):
            if told:
                found[number] = float(told[0])
    return _sum_of(found, numbers) if numbers else None


# vendor in accelerators.toml -> (what the meter is called, how it is read)
DEVICE_METERS: Mapping[str, tuple[str, Callable[[Sequence[int]], float | None]]] = {
    "NVIDIA": ("nvidia-smi", nvidia_w),
    "AMD": ("rocm-smi", amd_w),
    "Huawei": ("npu-smi", ascend_w),
}


def _ascend_cards() -> tuple[int, ...]:
    told = _said(["npu-smi", "info", "-l"]) or ""
    return tuple(int(number) for number in re.findall(r"^\s*NPU ID\s*:\s*(\d+)\s*$", told, re.MULTILINE))


def _sum_of(found: Mapping[int, float], devices: Sequence[int]) -> float | None:
    """Of these devices, of all when none is named; None when one of them says nothing."""
    wanted = devices or tuple(found)
    if not wanted or any(device not in found for device in wanted):
        return None
    return sum(found[device] for device in wanted)


def _said(command: Sequence[str]) -> str | None:
    """What the tool prints, None where there is none or where it fails."""
    binary = shutil.which(command[0])
    if binary is None:
        return None
    try:
        return subprocess.run(
            [binary, *command[1:]], capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
