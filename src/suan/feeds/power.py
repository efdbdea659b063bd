"""The machine's own power meters: RAPL counters for the CPU packages, nvidia-smi for NVIDIA devices.

Knows how to read them where they exist and this user may. Where it answers None, nothing was measured: the
caller models the energy and marks it as modelled. Nothing here guesses.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

POWERCAP = Path("/sys/class/powercap")
_MICROJOULES_PER_JOULE = 1_000_000
_QUERY_TIMEOUT_S = 5


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


def nvidia_w(devices: Sequence[int] = ()) -> float | None:
    """Watts that these NVIDIA devices (all, when none is named) draw now, or None where that is not known.

    One device that does not report its power makes the sum unknown.
    """
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return None
    command = [binary, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    if devices:
        command.append(f"--id={','.join(str(device) for device in devices)}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True)
        watts = [float(line) for line in answer.stdout.split("\n") if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):  # ValueError: "[N/A]"
        return None
    return sum(watts) if watts and len(watts) == (len(devices) or len(watts)) else None
