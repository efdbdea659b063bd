"""What each kind of device achieves: matrix multiplication, memory, links, launches; a row a kind, as arrays.

Knows peaks (the accelerators' table) and how much of a peak work reaches (rates.toml: measured, or fitted
and said so). Does not know models or plans. A new chip is a table in accelerators.toml, and nothing here.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from suan.estimate.cases import Floats, Ints, Precision
from suan.grid.error import Refused
from suan.grid.hardware import Accelerator, accelerator, accelerators

# dtypes to read a precision's peak from, best first, with what to multiply by.
# A chip without fp8 or fp4 units computes such a model in the next wider format it has.
PEAK_FROM: dict[Precision, tuple[tuple[str, float], ...]] = {
    Precision.FP32: (("fp32", 1.0), ("tf32", 0.5), ("bf16", 0.0625)),
    Precision.TF32: (("tf32", 1.0), ("bf16", 0.5), ("fp16", 0.5), ("fp32", 1.0)),
    Precision.FP16: (("fp16", 1.0), ("bf16", 1.0), ("tf32", 2.0), ("fp32", 1.0)),
    Precision.BF16: (("bf16", 1.0), ("fp16", 1.0), ("tf32", 2.0), ("fp32", 1.0)),
    Precision.FP8: (("fp8", 1.0), ("bf16", 1.0), ("fp16", 1.0), ("fp32", 1.0)),
    Precision.MXFP8: (("fp8", 1.0), ("bf16", 1.0), ("fp16", 1.0), ("fp32", 1.0)),
    Precision.NVFP4: (("fp4", 1.0), ("fp8", 1.0), ("bf16", 1.0), ("fp16", 1.0), ("fp32", 1.0)),
    Precision.INT8: (("int8", 1.0), ("fp8", 1.0), ("bf16", 1.0), ("fp16", 1.0), ("fp32", 1.0)),
    Precision.INT4: (("bf16", 1.0), ("fp16", 1.0), ("fp32", 1.0)),
}


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates by kind; [kind] or [kind, precision]."""

    names: tuple[str, ...]
    families: tuple[str, ...]
    family: Ints  # position in families
    peak_flops: Floats  # [kind, precision], FLOP/s
    gemm_flops: Floats  # [kind, precision], what the best large multiplication reaches
    sustained_ratio: Floats  # of that, in a training loop at power and temperature
    narrow: Floats  # [kind, precision]: 1 where the chip computes in fewer than 16 bits
    flash_ratio: Floats  # of the 16-bit gemm rate, in fused attention
    tuned_ratio: Floats  # the same, in a kernel made for the chip
    units: Floats  # cores that take a tile of a multiplication each
    memory_bytes_per_s: Floats
    memory_bytes: Floats
    link_bytes_per_s: Floats  # one direction, bus bandwidth of a large all-reduce in the scale-up domain
    link_latency_s: Floats
    link_domain: Floats
    network_ratio: Floats  # of the network cards' line rate, in a large all-reduce
    network_latency_s: Floats
    launch_s: Floats  # host time a kernel
    tdp_w: Floats


@cache
def table() -> dict[str, Any]:
    """rates.toml."""
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("suan.estimate").joinpath("rates.toml").read_text("utf-8"))


@cache
def coefficients() -> dict[str, float]:
    """The model's free coefficients by name, as fitted."""
    return {name: float(entry["value"]) for name, entry in table()["coefficients"].items()}


@cache
def kinds() -> tuple[str, ...]:
    """Names of all kinds of device, in the order of every table by kind: that of the accelerators' table."""
    return tuple(accelerators())


def family_of(device: Accelerator) -> str:
    """The family of chips a device is of, whose software and habits it shares."""
    for family, entry in table()["families"].items():
        if re.match(entry["names"], device.name):
            return str(family)
    return "other"


@cache
def kind_index(name: str) -> int:
    """Position of the kind called `name` in kinds(). Published tables spell kinds freely; what is in
    brackets, a memory size without unit and a form factor nobody knows do not matter.

    Raises: Refused `unknown_accelerator`.
    """
    for spelling in _spellings(name):
        try:
            return kinds().index(accelerator(spelling).name)
        except Refused:
            continue
    for pattern, stand_in in table()["stand_ins"].items():
        if re.search(pattern, name.lower()):
            return kinds().index(stand_in)
    return kinds().index(accelerator(name).name)


def _spellings(name: str) -> list[str]:
    """`name` and what else it may be called, closest first."""
    bare = re.sub(r"\(.*$", "", name).strip()
    found = [name, bare]
    parts = re.split(r"[-_ ]+", bare)
    if parts[-1].isdigit() and len(parts) > 1:
        size = parts[-1] + "GB"
        found += ["-".join([*parts[:-1], size]), "-".join([parts[0], size, *parts[1:-1]])]
        found += ["-".join([parts[0], size]), "-".join(parts[:-1])]
    found += ["-".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
    return list(dict.fromkeys(found))


def usual_scaleout_gbps(kind: Ints, devices_per_node: Floats) -> Floats:
    """Gigabit a second of network a node of that kind usually has: one card a device, by the chip's
    generation.
    """
    each = np.array([_number(name, "network_gbps_per_device") for name in kinds()])
    return np.asarray(each[kind] * devices_per_node, dtype=np.float64)


def _number(name: str, key: str) -> float:
    own = table()["kinds"].get(name, {})
    family = table()["families"].get(family_of(accelerators()[name]), {})
    return float(own.get(key, family.get(key, table()["otherwise"][key])))


def _peaks(device: Accelerator, precision: Precision) -> tuple[float, float, str]:
    """(peak, best measured multiplication, dtype it is of), FLOP/s. A rate nobody measured is the part that
    the device reaches in bf16, or that its family usually does.
    """
    usual = _number(device.name, "gemm_ratio")
    if "bf16" in device.peak_tflops and "bf16" in device.measured_matmul_tflops:
        usual = device.measured_matmul_tflops["bf16"] / device.peak_tflops["bf16"]
    for dtype, factor in PEAK_FROM[precision]:
        own = table()["kinds"].get(device.name, {}).get(f"{dtype}_tflops", 0.0)
        peak = device.peak_tflops.get(dtype, own)
        measured = device.measured_matmul_tflops.get(dtype, 0.0)
        if peak or measured:
            peak = peak or measured / usual
            return peak * factor * 1e12, (measured or peak * usual) * factor * 1e12, dtype
    return 1e12, usual * 1e12, "fp32"


@cache
def rates() -> Rates:
    """The rates of every kind."""
    names = kinds()
    devices = list(accelerators().values())
    families = (*table()["families"], "other")

    def by_family(key: str) -> Floats:
        return np.array([_number(name, key) for name in names])

    def of(key: str, otherwise: float) -> Floats:
        return np.array([getattr(device, key) or otherwise for device in devices], dtype=np.float64)

    peaks = [[_peaks(device, precision) for precision in Precision] for device in devices]
    link = of("link_gb_per_s", 16.0) * 1e9
    return Rates(
        names=names,
        families=families,
        family=np.array([families.index(family_of(device)) for device in devices], dtype=np.int64),
        peak_flops=np.array([[peak for peak, _, _ in row] for row in peaks]),
        gemm_flops=np.array([[best for _, best, _ in row] for row in peaks]),
        narrow=np.array([[float(dtype in ("fp8", "fp4", "int8")) for _, _, dtype in row] for row in peaks]),
        sustained_ratio=by_family("sustained_ratio"),
        flash_ratio=by_family("flash_ratio"),
        tuned_ratio=by_family("tuned_ratio"),
        units=by_family("units"),
        memory_bytes_per_s=of("memory_gb_per_s", 800.0) * 1e9 * by_family("memory_ratio"),
        memory_bytes=of("memory_gib", 32.0) * 2.0**30,
        link_bytes_per_s=link * by_family("link_ratio"),
        link_latency_s=by_family("link_latency_us") * 1e-6,
        link_domain=of("link_domain", 8.0),
        network_ratio=by_family("network_ratio"),
        network_latency_s=by_family("network_latency_us") * 1e-6,
        launch_s=by_family("launch_us") * 1e-6,
        tdp_w=of("tdp_w", 350.0),
    )
