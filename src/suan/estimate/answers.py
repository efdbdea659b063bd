"""What the performance model answers of a stage of a model's life on nodes of one kind.

Knows which plans a recipe can run, and puts steps, judges, rollouts, questions and bytes together by
`stages.py`. Of CPUs it knows how fast text is cleaned, and nothing else. Questions are made in `recipes.py`.
"""

import math
from dataclasses import replace
from functools import lru_cache
from itertools import product

import msgspec
import numpy as np

from suan.estimate.cases import Cases, Floats, Machines, Plans, Precision, Recompute, Shapes
from suan.estimate.columns import served_columns
from suan.estimate.legal import OPEN
from suan.estimate.memory import coefficients, memory_gib
from suan.estimate.outcome import estimate_training
from suan.estimate.plans import best_plans, bound_names, one_case, reason
from suan.estimate.rates import kind_index, rates, usual_scaleout_gbps
from suan.estimate.residual import interval, spread
from suan.estimate.serving import BOUND_BY, ServingEstimate, estimate_serving
from suan.estimate.serving_cases import ServingCases, serving_cases
from suan.estimate.serving_rates import serving_rates
from suan.estimate.serving_residual import serving_residual
from suan.estimate.serving_step import held_bytes
from suan.estimate.shapes import completed
from suan.estimate.stages import (
    Rollouts,
    StageCost,
    beside_gib,
    corpus,
    evaluation,
    fine_tuning,
    host_token_s,
    lone_token_s,
    preference,
    quantising,
    reinforcement,
)
from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator
from suan.grid.work import Estimate, Work

START_S = 20.0  # interpreter, libraries, weights and the first batch, as the recipes' own estimates have it
CORPUS_START_S = 3.0  # interpreter and libraries alone
CORPUS_SPREAD = 2.0  # pages and verse, dense and noisy text differ by about this; assumed
_TRIED = 8  # plans of each search, of which the recipe may not be able to run the first
_PRECISIONS = {"float32": Precision.FP32, "float16": Precision.FP16, "bfloat16": Precision.BF16}
_HELD_BITS = {"float16": 16.0, "int8": 8.0, "int4": 4.0}
_LONGEST_RATIO = 2.0  # tokens of a step's longest answer over the mean, where no limit is nearer; assumed


def estimated(work: Work, accelerator_name: str, devices_per_node: int, nodes: int) -> Estimate | None:
    """What the work takes on so many nodes of a kind; None where the model knows nothing: of most work on
    CPUs, of a kind without a published peak or memory, of a batch that no plan divides.
    """
    kind = accelerator(accelerator_name)
    on_cores, cleans = kind.device_class == CPU_DEVICE_CLASS, work.stage == "corpus"
    if on_cores != cleans or not (on_cores or (kind.peak_tflops and kind.memory_gib)):
        return None
    return _estimated(msgspec.json.encode(work), kind.name, devices_per_node, nodes)


@lru_cache(maxsize=4096)
def _estimated(work_json: bytes, kind: str, devices_per_node: int, nodes: int) -> Estimate | None:
    """By the work's JSON: a struct that holds dictionaries cannot be remembered by itself."""
    work = msgspec.json.decode(work_json, type=Work)
    if work.stage == "corpus":
        return _cleaned(work, devices_per_node * nodes)
    shapes = completed(Shapes.filled(1, **work.shape))
    match work.stage:
        case "train":
            return _trained(work, _case(work, shapes, kind, devices_per_node, nodes))
        case "evaluate":
            return _evaluated(work, shapes, kind, devices_per_node * nodes)
        case "quantise":
            return _quantised(work, shapes, kind)
    return _served(work, shapes, kind, devices_per_node)


# ---------------------------------------------------------------- steps


def _case(work: Work, shapes: Shapes, kind: str, devices_per_node: int, nodes: int) -> Cases:
    index, per_node = np.array([kind_index(kind)]), np.array([float(devices_per_node)])
    machines = Machines.filled(
        1,
        kind=index,
        devices=devices_per_node * nodes,
        devices_per_node=devices_per_node,
        scaleout_gbps_per_node=usual_scaleout_gbps(index, per_node),
    )
    return one_case(
        shapes,
        machines,
        seq_len=work.seq_len,
        global_batch=work.global_batch,
        precision=_PRECISIONS.get(work.precision, Precision.BF16),
    )


def _trained(work: Work, case: Cases) -> Estimate | None:
    """Under the best plan that the recipe can run: whole weights everywhere or a shard of them, all of the
    forward pass done again or none.
    """
    devices = int(case.machines.devices[0])
    zero_stages = [0] if devices == 1 else [0, 3]
    found: list[Cases] = []
    for zero, recompute in product(zero_stages, (Recompute.NONE, Recompute.FULL)):
        plan = {"zero_stage": zero, "recompute": int(recompute)} | work.fixed
        if "tp" in work.fixed and "micro_batch" not in plan and work.fixed.get("zero_stage") is not None:
            # The recipe lays out the step itself: all rows of a rank go through at once.
            plan["micro_batch"] = max(1, work.global_batch * plan["tp"] // devices)
        ranked = best_plans(
            case.with_plans(case.plans.with_columns(**plan)), given=dict.fromkeys(plan, True), count=_TRIED
        )
        found += [
            ranked.cases.take([row]) for row in range(len(ranked.cases)) if _runs(ranked.cases.plans, row)
        ]
    return _best(work, Cases.concat(found)) if found else None


def _runs(plans: Plans, row: int) -> bool:
    """Whether the recipe accepts it: experts go over whole tensor-parallel groups, within one shard group."""
    tp, ep, dp = (int(getattr(plans, name)[row]) for name in ("tp", "ep", "dp"))
    group = tp * (dp if plans.zero_stage[row] >= 3 else 1)
    return ep == 1 or (ep % tp == 0 and group % ep == 0)


def _best(work: Work, cases: Cases) -> Estimate:
    """Of the quickest plan that fits comfortably, else fits, else of that which holds least; the judges and
    critics beside the policy counted.
    """
    found, memory, known = estimate_training(cases), memory_gib(cases), coefficients()
    beside = beside_gib(cases, references=work.references, judges=work.judges, critics=work.critics)
    held, least, usable = memory.total + beside, memory.least + beside, memory.capacity * known.usable_ratio
    comfortable = held <= memory.capacity * known.planned_ratio
    tight = np.select([comfortable, held <= usable, least <= usable], [0, 1, 2], 3)
    best = int(np.lexsort((np.where(tight == 3, least, found.step_time_s), tight))[0])
    plans, chosen = cases.plans, cases.take([best])
    plan: dict[str, int | str] = {name: int(getattr(plans, name)[best]) for name in OPEN}
    plan["recompute"] = Recompute(int(plans.recompute[best])).name.lower()
    plan["precision"] = Precision(int(plans.precision[best])).name.lower()
    cost = _cost(work, chosen)
    seconds = float(cost.seconds[0])
    why = reason(found.parts, memory, best)
    if len(cost.parts_s) > 1:
        shares = ", ".join(f"{part[0] / seconds:.0%} {name}" for name, part in cost.parts_s.items())
        why = f"{shares}; training is {why}"
    return Estimate(
        run_s=START_S + seconds,
        low_s=START_S + seconds * float(found.low[best] / found.step_time_s[best]),
        high_s=START_S + seconds * float(found.high[best] / found.step_time_s[best]),
        memory_gib=float(held[best]),
        least_gib=float(least[best]),
        capacity_gib=float(usable[best]),
        fits=bool(tight[best] < 3),
        bound_by=bound_names(found.bound_by[best : best + 1])[0],
        why=why,
        kwh=float(cost.kwh[0]),
        plan=plan,
    )


def _cost(work: Work, case: Cases) -> StageCost:
    """The whole work under the one plan of `case`."""
    steps = _count(work.steps)
    if work.answers:
        rollouts = _rollouts(work, case)
        critic = case if work.critics else None
        scorers = (case,) * (work.references + work.judges)
        return reinforcement(case, rollouts, steps, critic=critic, scorers=scorers, epochs=work.passes)
    if work.references:
        return preference(case, steps * case.global_batch / 2.0)
    return fine_tuning(case, steps * case.tokens)


def _rollouts(work: Work, case: Cases) -> Rollouts:
    """A step's answers as the trainer itself writes them: as long as allowed at most, a batch a device."""
    kind, devices = rates().names[int(case.machines.kind[0])], int(case.machines.devices[0])
    mean = max(1.0, work.answer_tokens / _LONGEST_RATIO)
    prompts = msgspec.structs.replace(work, seq_len=max(1, work.seq_len - work.answer_tokens))
    return Rollouts(
        serving=_questions(prompts, case.shapes, kind, devices, mean),
        prompts=_count(work.answers),
        samples=_count(1),
        longest_ratio=np.array([work.answer_tokens / mean]),
        host_token_s=host_token_s(case.shapes),
    )


# ---------------------------------------------------------------- questions


def _questions(work: Work, shapes: Shapes, kind: str, devices: int, output_tokens: float) -> ServingCases:
    row = served_columns(shapes, kind, devices) | {
        "precision": "fp32" if work.precision == "float32" else "bf16",
        "scenario": "offline",
        "isl": str(work.seq_len or 1024),
        "osl": str(output_tokens),
        "req_rate": "inf",
    }
    return serving_cases({name: [value] for name, value in row.items()})


def _evaluated(work: Work, shapes: Shapes, kind: str, devices: int) -> Estimate | None:
    """Questions whose answers are read off, then answers that are written."""
    read = _questions(work, shapes, kind, devices, 1)
    written = _questions(work, shapes, kind, devices, work.answer_tokens)
    cost = evaluation(read, _count(work.questions), choices=work.choices)
    answers = evaluation(written, _count(work.answers))
    got = estimate_serving(written, residual=serving_residual())
    why = f"{work.questions:,} questions read off, {work.answers:,} answers written"
    return _read_and_written(written, got, (cost, answers), why)


def _quantised(work: Work, shapes: Shapes, kind: str) -> Estimate | None:
    """On one device: rounded on the way from disk to disk, then both models read the documents and write one
    text each.
    """
    chip = accelerator(kind)
    reading = _questions(work, shapes, kind, 1, 1)
    rounding = quantising(
        shapes.params,
        bits=_HELD_BITS[work.precision],
        peak_tflops=reading.attention_tflops,
        tdp_w=np.array([float(chip.tdp_w or 0.0)]),
        calibrated=False,
    )
    read = evaluation(reading, _count(work.questions), choices=work.choices)
    got = estimate_serving(reading, residual=serving_residual())
    written_s = work.answers * work.answer_tokens * lone_token_s(reading, shapes)
    writing = replace(read, seconds=written_s, kwh=read.kwh / np.maximum(read.seconds, 1e-9) * written_s)
    why = f"{float(rounding.seconds[0]):,.0f} s reading, rounding and writing weights, the rest comparing"
    return _read_and_written(reading, got, (rounding, read, writing), why)


def _read_and_written(
    cases: ServingCases, got: ServingEstimate, costs: tuple[StageCost, ...], why: str
) -> Estimate:
    """The parts of `costs` one after the other."""
    seconds = np.array([sum(float(cost.seconds[0]) for cost in costs)])
    kwh = sum(float(cost.kwh[0]) for cost in costs)
    low, high = interval(seconds, np.ones(1), spread(corrected=True))
    return Estimate(
        run_s=START_S + float(seconds[0]),
        low_s=START_S + float(low[0]),
        high_s=START_S + float(high[0]),
        memory_gib=_weights_gib(cases),
        least_gib=_weights_gib(cases),
        capacity_gib=_usable_gib(cases),
        fits=bool(got.fits[0]),
        bound_by=BOUND_BY[int(got.bound_by[0])],
        why=why,
        kwh=kwh if math.isfinite(kwh) else 0.0,
    )


def _served(work: Work, shapes: Shapes, kind: str, devices: int) -> Estimate | None:
    """One replica under as many requests as it takes."""
    cases = _questions(work, shapes, kind, devices, 256)
    got = estimate_serving(cases, residual=serving_residual())
    per_s, first_ms = float(got.tokens_per_s[0]), float(got.ttft_ms[0])
    first = f", the first token after {first_ms:,.0f} ms" if math.isfinite(first_ms) else ""
    return Estimate(
        run_s=0.0,
        memory_gib=_weights_gib(cases),
        least_gib=_weights_gib(cases),
        capacity_gib=_usable_gib(cases),
        fits=bool(got.fits[0]),
        bound_by=BOUND_BY[int(got.bound_by[0])],
        why=f"{per_s:,.0f} tokens/s at most, all requests together{first}",
        plan={"tp": int(got.tensor_parallel[0])},
    )


def _weights_gib(cases: ServingCases) -> float:
    """Of the weights alone, spread over all devices: what no layout gets below."""
    return float(held_bytes(cases)[0] / cases.devices[0]) / 2.0**30


def _usable_gib(cases: ServingCases) -> float:
    known = serving_rates()
    return float(cases.memory_gib[0]) * known.memory_share - known.reserve_gib


# ---------------------------------------------------------------- text


def _cleaned(work: Work, cores: int) -> Estimate:
    """All passes of recipe corpus over its input, on as many cores as its engine uses."""
    used = min(cores, work.fixed.get("cores", cores))
    cost = corpus(_count(work.read_bytes) / 1e6, ("recipe",), _count(used), busy_ratio=1.0)
    seconds = float(cost.seconds[0])
    return Estimate(
        run_s=CORPUS_START_S + seconds,
        low_s=CORPUS_START_S + seconds / CORPUS_SPREAD,
        high_s=CORPUS_START_S + seconds * CORPUS_SPREAD,
        bound_by="compute",
        why=f"{work.read_bytes / 1e6:,.1f} MB on {used:,} cores",
        kwh=float(cost.kwh[0]),
    )


def _count(number: float) -> Floats:
    return np.array([float(number)])
