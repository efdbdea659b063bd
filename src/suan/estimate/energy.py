"""What work draws from the wall: node power by phase, kWh a step, carbon.

Knows that a node draws its host, its boards and its devices, and that a device draws by what it does. Does
not know prices, tariffs or how long work takes. Wall power that somebody measured is taken instead of the
model.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from suan.estimate.cases import Cases, Floats
from suan.estimate.rates import rates

if TYPE_CHECKING:  # training may ask for energy, so energy does not load training
    from suan.estimate.serving_step import ServingStep
    from suan.estimate.training import StepTime

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Shares of time by what devices do; they add up to one."""

    compute: Floats
    memory: Floats
    communication: Floats
    idle: Floats

    @staticmethod
    def of(compute: Floats, memory: Floats, communication: Floats, idle: Floats) -> "Phases":
        """Shares from seconds. Nothing at all counts as idle."""
        total = compute + memory + communication + idle
        nothing = total <= 0
        whole = np.where(nothing, 1.0, total)
        return Phases(
            compute=compute / whole,
            memory=memory / whole,
            communication=communication / whole,
            idle=np.where(nothing, 1.0, idle / whole),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Coefficients of the model; energy.toml says where each is from."""

    compute: float  # of TDP
    memory: float
    communication: float
    idle: float
    host_w: float
    board_ratio: float  # of the devices' TDP
    supply_ratio: float  # of wall power that arrives
    unknown_tdp_w: float


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("suan.estimate").joinpath("energy.toml").read_text("utf-8"))


@cache
def draw() -> Draw:
    """The coefficients of energy.toml."""
    table = _table()
    return Draw(**table["activity"], **table["node"], unknown_tdp_w=table["unknown"]["tdp_w"])


def activity(phases: Phases, known: Draw | None = None) -> Floats:
    """Share of TDP that a device draws on the average of its phases."""
    known = known or draw()
    return (
        phases.compute * known.compute
        + phases.memory * known.memory
        + phases.communication * known.communication
        + phases.idle * known.idle
    )


def node_power_w(
    devices_per_node: Floats,
    tdp_w: Floats,
    phases: Phases,
    *,
    measured_w: Floats | None = None,
    known: Draw | None = None,
) -> Floats:
    """Watts at the wall of one node, devices and host, without the building's share (PUE).

    `measured_w` is taken where it is a number. A TDP of 0 or nan counts as the usual one.
    """
    known = known or draw()
    watts = np.where(np.nan_to_num(tdp_w) > 0, tdp_w, known.unknown_tdp_w)
    drawn = devices_per_node * watts * (activity(phases, known) + known.board_ratio)
    modelled = (drawn + known.host_w) / known.supply_ratio
    if measured_w is None:
        return modelled
    return np.where(np.isfinite(measured_w), measured_w, modelled)


def training_phases(step: "StepTime") -> Phases:
    """What devices do in a training step."""
    return Phases.of(
        step.gemm_s + step.attention_s + step.recompute_s,
        step.memory_bound_s + step.optimizer_s,
        step.tp_comm_s + step.ep_comm_s + step.cp_comm_s + step.pp_comm_s + step.dp_comm_s,
        step.launch_s + step.bubble_s + step.straggler_s + step.data_s,
    )


def serving_phases(step: "ServingStep", busy: Floats | float = 1.0) -> Phases:
    """What devices do while they serve; `busy` is the share of time that there is anything to do.

    Weights and keys arrive while products run, so their time is compute to the power meter as far as it is
    overlapped: the smaller of the two draws what it draws at once.
    """
    overlapped = np.minimum(step.compute_s, step.weights_s + step.kv_s)
    compute = step.compute_s + step.attention_s + overlapped
    memory = step.weights_s + step.kv_s + step.activations_s - overlapped
    waiting = (1.0 / np.maximum(busy, 1e-6) - 1.0) * step.total_s
    return Phases.of(compute, memory, step.link_s, step.floor_s + waiting)


def kwh_per_step(
    cases: Cases, step: "StepTime", *, measured_w: Floats | None = None, pue: Floats | float = 1.0
) -> Floats:
    """kWh of one training step on all its nodes, at the meter of the hall when `pue` is given."""
    per_node = np.minimum(cases.machines.devices_per_node, cases.machines.devices).astype(np.float64)
    nodes = np.ceil(cases.machines.devices / np.maximum(per_node, 1.0))
    tdp_w, cap_w = rates().tdp_w[cases.machines.kind], cases.machines.power_cap_w
    tdp_w = np.where(cap_w > 0, np.minimum(tdp_w, cap_w), tdp_w)
    power_w = node_power_w(per_node, tdp_w, training_phases(step), measured_w=measured_w)
    return nodes * power_w * step.total_s * pue / JOULES_PER_KWH


def energy_kwh(node_w: Floats, nodes: Floats, seconds: Floats, pue: Floats | float = 1.0) -> Floats:
    """kWh of so many nodes for so long."""
    return node_w * nodes * seconds * pue / JOULES_PER_KWH


def carbon_kg(kwh: Floats, grams_per_kwh: Floats | float) -> Floats:
    """kg of CO2-equivalent of energy at the meter, by the intensity of the supply there."""
    return np.asarray(kwh * grams_per_kwh / 1e3, dtype=np.float64)
