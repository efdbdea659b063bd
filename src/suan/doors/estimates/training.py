"""Training runs at the doors: tables of them, one run in full, and the best plans for one.

Knows how a question is put to the model and how its answer is laid out. Computes nothing but totals of a run.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from suan.doors.estimates import tables
from suan.doors.estimates.answers import PlanAnswer, PlansAnswer, TrainingAnswer
from suan.doors.estimates.model import Model
from suan.estimate.cases import Cases, Machines, Plans, Precision, Recompute
from suan.estimate.columns import PRECISIONS, precision_of, read_rows
from suan.estimate.legal import OPEN
from suan.estimate.memory import PARTS
from suan.estimate.outcome import estimate_training
from suan.estimate.plans import Ranked, best_plans, bound_names, complete, stated
from suan.estimate.rates import kind_index, kinds, usual_scaleout_gbps
from suan.grid.error import Refused

_USUAL_TOKENS = 4.2e6
PLAN_COLUMNS = (*OPEN, "sequence_parallel")


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices of one kind. What is 0 is the usual of that kind."""

    accelerator: str
    devices: int
    devices_per_node: int = 0
    scaleout_gbps_per_node: float = 0.0


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step is of. A batch of 0 is four million tokens, as large runs have them."""

    global_batch: int = 0
    seq_len: int = 4096
    precision: str = "bf16"


# ------------------------------------------------------------------ tables


def estimated_rows(columns: tables.Columns, *, residual: bool = True, where: str) -> dict[str, list[Any]]:
    """The output columns, a row for each row of `columns`. Plan columns that are empty: the best plan is
    chosen.

    Raises: Refused `bad_number`, `missing_value`, `unknown_accelerator`, `unknown_precision`, each with its
    row.
    """
    tables.check_numbers(columns, tables.TRAINING_NUMBERS, where=where)
    tables.check_words(columns, "accel", kind_index, where=where)
    tables.check_words(columns, "precision", precision_of, where=where)
    size = len(columns["accel"])
    started_s = time.process_time()
    cases = complete(read_rows(columns).cases, stated(columns, size))
    found = estimate_training(cases, residual=residual)
    spent_s = (time.process_time() - started_s) / size
    return {
        "row_id": columns.get("row_id") or [str(number) for number in range(1, size + 1)],
        "step_time_s": found.step_time_s.tolist(),
        "step_time_s_low": found.low.tolist(),
        "step_time_s_high": found.high.tolist(),
        "tokens_per_s_per_accel": found.tokens_per_s_per_accel.tolist(),
        "mfu": found.mfu.tolist(),
        "memory_gib": found.memory_gib.tolist(),
        "fits": [int(fits) for fits in found.fits],
        "bound_by": bound_names(found.bound_by),
        "kwh_per_step": found.kwh_per_step.tolist(),
        "seconds_spent": [spent_s] * size,
    }


# ------------------------------------------------------------------ one run


def _usual_batch(seq_len: int, devices: int) -> int:
    """About four million tokens, in sequences that many devices can share."""
    wanted = max(_USUAL_TOKENS / max(seq_len, 1), 1.0)
    return max(2 ** round(math.log2(wanted)), 1) if wanted >= devices else devices


def case_of(model: Model, machine: Machine, step: Step, plan: Mapping[str, int]) -> Cases:
    """The one case; `plan` are columns that stand.

    Raises: Refused `unknown_accelerator`, `bad_value`.
    """
    if step.precision.lower() not in PRECISIONS:
        raise Refused(
            "bad_value",
            f"{step.precision!r} is no precision",
            hint=f"known: {', '.join(PRECISIONS)}",
            status=422,
        )
    batch = step.global_batch or _usual_batch(step.seq_len, machine.devices)
    limits = {
        "devices": (machine.devices, 10_000_000),
        "global_batch": (batch, 10_000_000),
        "seq_len": (step.seq_len, 100_000_000),
    }
    for name, (number, most) in limits.items():
        if not 0 < number <= most:
            raise Refused("bad_value", f"{name} is {number}; it must be 1 to {most:,}", status=422, path=name)
    kind = np.array([kind_index(machine.accelerator)], dtype=np.int64)
    per_node = np.array([machine.devices_per_node or min(machine.devices, 8)], dtype=np.float64)
    network = machine.scaleout_gbps_per_node or usual_scaleout_gbps(kind, per_node)
    return Cases(
        shapes=model.shapes,
        plans=Plans.filled(1, precision=PRECISIONS[step.precision.lower()], **plan),
        machines=Machines.filled(
            1, kind=kind, devices=machine.devices, devices_per_node=per_node, scaleout_gbps_per_node=network
        ),
        seq_len=np.array([step.seq_len], dtype=np.int64),
        global_batch=np.array([batch], dtype=np.int64),
    )


def plan_of(said: Mapping[str, Any]) -> dict[str, int]:
    """Plan columns from what people say: `zero` for `zero_stage`, a policy by its name.

    Raises: Refused `bad_value`.
    """
    plan: dict[str, int] = {}
    for name, value in said.items():
        column = "zero_stage" if name == "zero" else name
        policy = str(value).upper()
        if column == "recompute" and policy in Recompute.__members__:
            plan[column] = int(Recompute[policy])
        elif column in PLAN_COLUMNS and column != "recompute" and isinstance(value, int):
            plan[column] = int(value)
        else:
            hint = f"known: {', '.join(PLAN_COLUMNS)}; recompute is none, selective or full"
            raise Refused(
                "bad_value", f"plan: {name}={value!r} is not understood", hint=hint, status=422, path=name
            )
    return plan


def best(case: Cases, plan: Mapping[str, int], count: int, *, residual: bool = True) -> Ranked:
    """The best plans that keep the columns of `plan`.

    Raises: Refused `no_plan` when nothing divides.
    """
    ranked = best_plans(case, given=dict.fromkeys(plan, True), count=count, residual=residual)
    if not len(ranked.cases):
        devices, batch = int(case.machines.devices[0]), int(case.global_batch[0])
        raise Refused(
            "no_plan",
            f"no plan divides {int(case.shapes.layers[0])} layers, {int(case.shapes.heads[0])} heads and a "
            f"batch of {batch:,} over {devices:,} devices" + (f" with {_said(plan)}" if plan else ""),
            hint="try another number of devices, or a batch that it divides",
            status=422,
        )
    return ranked


def _said(plan: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in plan.items())


def plan_answers(ranked: Ranked, *, residual: bool = True) -> list[PlanAnswer]:
    """The ranked plans with what each comes to."""
    cases, found = ranked.cases, estimate_training(ranked.cases, residual=residual)
    time_parts, memory = ranked.time.parts(), ranked.memory
    answers = []
    for row in range(len(cases)):
        chosen = {name: int(getattr(cases.plans, name)[row]) for name in PLAN_COLUMNS}
        chosen |= {
            "recompute": Recompute(chosen["recompute"]).name.lower(),
            "sequence_parallel": bool(chosen["sequence_parallel"]),
        }
        answers.append(
            PlanAnswer(
                rank=row + 1,
                **chosen,
                recompute_ratio=float(cases.plans.recompute_ratio[row]),
                step_time_s=float(found.step_time_s[row]),
                step_time_s_low=float(found.low[row]),
                step_time_s_high=float(found.high[row]),
                tokens_per_s_per_accel=float(found.tokens_per_s_per_accel[row]),
                mfu=float(found.mfu[row]),
                memory_gib=float(memory.total[row]),
                capacity_gib=float(memory.capacity[row]),
                fits=bool(memory.fits[row]),
                bound_by=bound_names(found.bound_by[row : row + 1])[0],
                reason=ranked.reasons[row],
                kwh_per_step=float(found.kwh_per_step[row]),
                seconds_by_part={name: float(seconds[row]) for name, seconds in time_parts.items()},
                gib_by_part={name: float(getattr(memory, name)[row]) for name in PARTS},
            )
        )
    return answers


def plans_answer(
    model: Model,
    machine: Machine,
    step: Step,
    *,
    plan: Mapping[str, int],
    count: int = 5,
    residual: bool = True,
) -> PlansAnswer:
    """The best plans for a model on devices.

    Raises: Refused `unknown_accelerator`, `bad_value`, `no_plan`.
    """
    started_s = time.process_time()
    case = case_of(model, machine, step, plan)
    ranked = best(case, plan, count, residual=residual)
    answers = plan_answers(ranked, residual=residual)
    notes = [] if ranked.fitting else ["no plan fits with its margin; shown is what comes nearest"]
    return PlansAnswer(
        **_subject(model, case),
        global_batch=int(case.global_batch[0]),
        seq_len=step.seq_len,
        precision=Precision(int(case.plans.precision[0])).name.lower(),
        plans=answers,
        legal=ranked.legal,
        fitting=ranked.fitting,
        seconds_spent=time.process_time() - started_s,
        notes=notes,
    )


def _subject(model: Model, case: Cases) -> dict[str, Any]:
    return {
        "model": model.name,
        "params_b": float(case.shapes.params[0]) / 1e9,
        "active_params_b": float(case.shapes.active_params[0]) / 1e9,
        "accelerator": kinds()[int(case.machines.kind[0])],
        "devices": int(case.machines.devices[0]),
    }


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is paid: a device-hour, a kWh at the meter."""

    yuan_per_device_h: float = 0.0
    yuan_per_kwh: float = 0.0
    pue: float = 1.0


def training_answer(
    model: Model,
    machine: Machine,
    step: Step,
    *,
    tokens: float,
    plan: Mapping[str, int],
    price: Price | None = None,
    residual: bool = True,
) -> TrainingAnswer:
    """What it takes to train on so many tokens.

    Raises: Refused `unknown_accelerator`, `bad_value`, `no_plan`.
    """
    if not (math.isfinite(tokens) and tokens > 0):
        raise Refused("bad_value", f"tokens is {tokens}; it must be more than 0", status=422, path="tokens")
    plans = plans_answer(model, machine, step, plan=plan, count=1, residual=residual)
    chosen = plans.plans[0]
    steps = math.ceil(tokens / (plans.global_batch * step.seq_len))
    hours = steps * chosen.step_time_s / 3600.0
    device_hours = hours * plans.devices
    kwh = steps * chosen.kwh_per_step
    cny = None
    if price is not None:
        cny = device_hours * price.yuan_per_device_h + kwh * price.pue * price.yuan_per_kwh
    return TrainingAnswer(
        model=plans.model,
        params_b=plans.params_b,
        active_params_b=plans.active_params_b,
        accelerator=plans.accelerator,
        devices=plans.devices,
        tokens=tokens,
        steps=steps,
        hours=hours,
        hours_low=steps * chosen.step_time_s_low / 3600.0,
        hours_high=steps * chosen.step_time_s_high / 3600.0,
        device_hours=device_hours,
        kwh=kwh,
        gib=chosen.memory_gib,
        cny=cny,
        plan=chosen,
        seconds_spent=plans.seconds_spent,
        notes=plans.notes,
    )
