"""What a training run will be: seconds with their interval, speed, memory, energy, and what bounds it.

Knows how mechanics, correction, memory and energy go together. Each of them is a module of its own.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from suan.estimate.cases import Bools, Cases, Floats, Ints
from suan.estimate.energy import kwh_per_step
from suan.estimate.memory import memory_gib
from suan.estimate.rates import rates
from suan.estimate.residual import correction, interval, spread
from suan.estimate.shapes import train_flops_per_token
from suan.estimate.training import StepTime, step_time


@dataclass(frozen=True, slots=True)
class Estimate:
    """A training run a case."""

    step_time_s: Floats
    low: Floats  # 90 % of measured times lie between these
    high: Floats
    tokens_per_s_per_accel: Floats
    mfu: Floats  # model FLOPs, causal attention counted once, over the peak of the plan's precision
    memory_gib: Floats  # on the fullest device
    fits: Bools
    bound_by: Ints  # training.Bound
    kwh_per_step: Floats  # of all nodes, at the wall
    parts: StepTime  # what the step is spent on; adds up to step_time_s


def estimate_training(cases: Cases, *, residual: bool = True) -> Estimate:
    """Every case's estimate. Without `residual` it is mechanics alone."""
    mechanics = step_time(cases)
    learned = correction(cases)
    time = _scaled(mechanics, learned.factor) if residual else mechanics
    low, high = interval(time.total_s, learned.doubt, spread(corrected=residual))
    tokens_per_s = cases.tokens / time.total_s / cases.machines.devices
    table = rates()
    peak = table.peak_flops[cases.machines.kind, cases.plans.precision]
    flops = train_flops_per_token(cases.shapes, cases.seq_len)
    memory = memory_gib(cases)
    return Estimate(
        step_time_s=time.total_s,
        low=low,
        high=high,
        tokens_per_s_per_accel=tokens_per_s,
        mfu=tokens_per_s * flops / peak,
        memory_gib=memory.total,
        fits=np.asarray(memory.fits, dtype=bool),
        bound_by=time.bound_by,
        kwh_per_step=kwh_per_step(cases, time),
        parts=time,
    )


def _scaled(time: StepTime, factor: Floats) -> StepTime:
    """The same step, every part `factor` times as long."""
    seconds = {f.name: getattr(time, f.name) * factor for f in fields(time) if f.name != "bound_by"}
    return replace(time, **seconds)
