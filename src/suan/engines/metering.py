"""Energy of a local run, modelled from what it used. Knows no meter."""

import msgspec

from suan.grid import hardware
from suan.grid.account import Usage
from suan.grid.site import Pool
from suan.grid.units import BYTES_PER_GIB, HOUR_S

# An idle server still draws this part of its full power. Source: energy proportionality of servers is 50-80 %
# (Ryckbosch, Polfliet, Eeckhout, "Trends in Server Energy Proportionality", IEEE Computer 44(9), 2011); where
# power is linear in load, idle / full = 1 - proportionality, so 0.2-0.5, of which this is the middle.
IDLE_RATIO = 0.35


class PowerShare(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's part of its pool draws, kept with the run: the pool may be declared anew while it runs."""

    devices: int
    device_w: float  # one device at full load
    host_w: float  # the run's part of its nodes, besides the devices
    by_cpu_time: bool  # a CPU pool: load shows in CPU time


def power_share(pool: Pool, nodes: int, devices_per_node: int) -> PowerShare:
    """The share of a run on so many nodes of `pool`. A device of unknown power counts 0 W."""
    kind = hardware.accelerator(pool.accelerator)
    return PowerShare(
        devices=nodes * devices_per_node,
        device_w=pool.device_w if pool.device_w is not None else kind.tdp_w or 0.0,
        host_w=pool.host_w_per_node * nodes * devices_per_node / pool.devices_per_node,
        by_cpu_time=kind.device_class == hardware.CPU_DEVICE_CLASS,
    )


def metered(power: PowerShare, wall_s: float, cpu_s: float, peak_memory_bytes: int) -> Usage:
    """Usage of a run that held its devices for `wall_s`.

    CPU pools are as busy as their CPU time says. Accelerators count as fully busy while they are held:
    without a meter nothing better is known, and it errs on the dear side.
    """
    device_s = power.devices * wall_s
    busy_ratio = min(1.0, cpu_s / device_s) if power.by_cpu_time and device_s > 0 else 1.0
    device_w = power.device_w * (IDLE_RATIO + (1 - IDLE_RATIO) * busy_ratio)
    joules = device_w * device_s + power.host_w * wall_s
    return Usage(
        device_s=round(device_s, 3),
        cpu_s=round(cpu_s, 3),
        energy_kwh=joules / 1000 / HOUR_S,
        energy_source="modelled",
        peak_memory_gib=peak_memory_bytes / BYTES_PER_GIB,
    )
