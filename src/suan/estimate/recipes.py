"""The stages of a model's life as questions to the performance model, and its answers for one kind of node.

Knows which arguments of which recipe say what is computed. Does not read models: the shape of a model that is
fine-tuned, evaluated or served is that of the task that trained it. Knows nothing useful of CPUs.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import msgspec
import numpy as np

from suan.estimate.cases import Cases, Floats, Machines, Plans, Precision, Recompute, Shapes
from suan.estimate.columns import served_columns
from suan.estimate.legal import OPEN
from suan.estimate.memory import coefficients, memory_gib
from suan.estimate.outcome import estimate_training
from suan.estimate.plans import best_plans, bound_names, one_case, reason
from suan.estimate.rates import kind_index, usual_scaleout_gbps
from suan.estimate.residual import interval, spread
from suan.estimate.serving import BOUND_BY, estimate_serving
from suan.estimate.serving_cases import ServingCases, serving_cases
from suan.estimate.serving_rates import serving_rates
from suan.estimate.serving_residual import serving_residual
from suan.estimate.serving_step import held_bytes
from suan.estimate.shapes import completed
from suan.estimate.stages import evaluation
from suan.grid.hardware import CPU_DEVICE_CLASS, accelerator
from suan.grid.work import Estimate, Work

START_S = 20.0  # interpreter, libraries, weights and the first batch, as the recipes' own estimates have it
_ASSUMED_VOCAB = 4096  # as recipe pretrain assumes where nobody names a tokenizer
_MLP_RATIO = 3  # intermediate over hidden size, where pretrain's arguments leave it open
# Tokens of a question and of each answer to choose from: a couplet or a benchmark's short text. Assumed.
_QUESTION_TOKENS, _CHOICES, _QUESTION_SETS = 256, 4, 2
_PRECISIONS = {"float32": Precision.FP32, "float16": Precision.FP16, "bfloat16": Precision.BF16}
# What transformers cannot do in a run of its own trainer: no pipeline, no context parallelism.
_NEVER = {"pp": 1, "cp": 1, "vpp": 1}
# ZeRO stages of what pretrain and sft call `sharding`; with any other word the run follows $SUAN_PLAN.
_SHARDING = {"ddp": 0, "fsdp": 3}
_TRIED = 8  # plans of each search, of which the recipe may not be able to run the first
_SIZES = {"tp": "tp_size", "ep": "ep_size", "micro_batch": "micro_rows"}  # arguments that go before any plan

Args = Mapping[str, Any]


def work_of(recipe: str, args: Args, trained: Args | None, tokenizer: Args | None) -> Work | None:
    """The question that a recipe's arguments put; None for a recipe or a model that is not known.

    `trained`: the arguments of the pretrain task that the recipe's model comes from, which may be the very
    same; `tokenizer`: of that which made the model's tokenizer.
    """
    question = _QUESTIONS.get(recipe)
    if question is None or trained is None or not {"hidden_size", "layers", "heads"} <= trained.keys():
        return None
    return question(args, _shape(trained, int((tokenizer or {}).get("vocab_size", _ASSUMED_VOCAB))))


def _shape(args: Args, vocab: int) -> dict[str, int]:
    """The model that recipe pretrain builds from its arguments."""
    hidden, heads = int(args["hidden_size"]), int(args["heads"])
    head = hidden // heads
    shape = {
        "hidden": hidden,
        "layers": int(args["layers"]),
        "heads": heads,
        "kv_heads": int(args.get("kv_heads") or heads),
        "head_dim": head,
        "value_head_dim": head,
        "ffn": int(args.get("intermediate_size") or _MLP_RATIO * hidden),
        "vocab": vocab,
        "gated": 1,
        "tied": int(args.get("tied_embeddings", True)),
    }
    if not args.get("experts"):
        return shape
    width, shared = int(args.get("expert_size") or hidden), int(args.get("shared_expert_size") or 0)
    shape |= {"experts": int(args["experts"]), "top_k": int(args["experts_per_token"]), "expert_ffn": width}
    if args.get("family") == "deepseek_v3":
        rope = max(2, head // 4 * 2)
        shape |= {
            "kv_heads": heads,
            "kv_rank": max(8, hidden // 4),
            "rope_dim": rope,
            "head_dim": head + rope,
        }
        shape |= {"shared_ffn": width * max(1, round(shared / width))}
        shape |= {"dense_layers": min(1, shape["layers"] - 1)}
    return shape


def _training(args: Args, shape: dict[str, int]) -> Work:
    fixed = _NEVER | {column: int(args[name]) for column, name in _SIZES.items() if args.get(name)}
    sharding = args.get("sharding", "plan")
    if sharding in _SHARDING:
        fixed = {"tp": 1, "ep": 1, "recompute": int(Recompute.NONE)} | fixed
        fixed["zero_stage"] = _SHARDING[sharding]
    elif args.get("fsdp_size"):
        fixed["zero_stage"] = 3
    if args.get("activation_checkpointing"):
        fixed["recompute"] = int(Recompute.FULL)
    if args.get("lora_rank"):
        fixed["adapters"] = 1
    return Work(
        stage="train",
        shape=shape,
        precision=str(args.get("dtype", "bfloat16")),
        seq_len=int(args.get("seq_len") or args["max_length"]),
        global_batch=int(args["batch_rows"]),
        steps=int(args["steps"]),
        fixed=fixed,
    )


def _evaluating(args: Args, shape: dict[str, int]) -> Work:
    shots = [1 + shots for shots in args.get("shots", (0,))]
    asked = _QUESTION_SETS * int(args.get("documents", 0)) * len(shots)
    return Work(
        stage="evaluate",
        shape=shape,
        precision="bfloat16",
        seq_len=round(_QUESTION_TOKENS * sum(shots) / max(1, len(shots))),
        questions=asked,
        choices=_CHOICES,
        answers=int(args.get("generations", 0)),
        answer_tokens=int(args.get("max_new_tokens", 1)),
    )


def _serving(args: Args, shape: dict[str, int]) -> Work:
    precision = str(args.get("dtype", "auto"))
    return Work(stage="serve", shape=shape, precision="bfloat16" if precision == "auto" else precision)


_QUESTIONS: dict[str, Callable[[Args, dict[str, int]], Work]] = {
    "pretrain": _training,
    "sft": _training,
    "evaluate": _evaluating,
    "serve": _serving,
}


# ---------------------------------------------------------------- answers


def estimated(work: Work, accelerator_name: str, devices_per_node: int, nodes: int) -> Estimate | None:
    """What the work takes on so many nodes of a kind; None where the model knows nothing: of CPUs, of a kind
    without a published peak or memory, of a batch that no plan divides.
    """
    kind = accelerator(accelerator_name)
    if kind.device_class == CPU_DEVICE_CLASS or not kind.peak_tflops or not kind.memory_gib:
        return None
    return _estimated(msgspec.json.encode(work), kind.name, devices_per_node, nodes)


@lru_cache(maxsize=4096)
def _estimated(work_json: bytes, kind: str, devices_per_node: int, nodes: int) -> Estimate | None:
    """By the work's JSON: a struct that holds dictionaries cannot be remembered by itself."""
    work = msgspec.json.decode(work_json, type=Work)
    shapes = completed(Shapes.filled(1, **work.shape))
    if work.stage == "train":
        return _trained(work, _case(work, shapes, kind, devices_per_node, nodes))
    if work.stage == "evaluate":
        return _evaluated(work, shapes, kind, devices_per_node * nodes)
    return _served(work, shapes, kind, devices_per_node)


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
    """Of the quickest plan that fits comfortably, else fits, else of that which holds least."""
    found, memory = estimate_training(cases), memory_gib(cases)
    tight = np.where(
        memory.fits_with_margin, 0, np.where(memory.fits_usually, 1, np.where(memory.fits, 2, 3))
    )
    last = np.where(tight == 3, memory.least, found.step_time_s)
    best = int(np.lexsort((last, tight))[0])
    plans = cases.plans
    plan: dict[str, int | str] = {name: int(getattr(plans, name)[best]) for name in OPEN}
    plan["recompute"] = Recompute(int(plans.recompute[best])).name.lower()
    plan["precision"] = Precision(int(plans.precision[best])).name.lower()
    step_s = np.array([found.step_time_s[best], found.low[best], found.high[best]], dtype=np.float64)
    run_s, low_s, high_s = (START_S + work.steps * step_s).tolist()
    return Estimate(
        run_s=run_s,
        low_s=low_s,
        high_s=high_s,
        memory_gib=float(memory.total[best]),
        least_gib=float(memory.least[best]),
        capacity_gib=float(memory.capacity[best]) * coefficients().usable_ratio,
        fits=bool(memory.fits[best]),
        bound_by=bound_names(found.bound_by[best : best + 1])[0],
        why=reason(found.parts, memory, best),
        kwh=work.steps * float(found.kwh_per_step[best]),
        plan=plan,
    )


def _questions(work: Work, shapes: Shapes, kind: str, devices: int, output_tokens: int) -> ServingCases:
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
    work_s = float(cost.seconds[0] + answers.seconds[0])
    got = estimate_serving(written, residual=serving_residual())
    low, high = interval(np.array([work_s]), np.ones(1), spread(corrected=True))
    fits = bool(got.fits[0])
    return Estimate(
        run_s=START_S + work_s,
        low_s=START_S + float(low[0]),
        high_s=START_S + float(high[0]),
        memory_gib=_weights_gib(written),
        least_gib=_weights_gib(written),
        capacity_gib=_usable_gib(written),
        fits=fits,
        bound_by=BOUND_BY[int(got.bound_by[0])],
        why=f"{work.questions:,} questions read off, {work.answers:,} answers written",
        kwh=float(cost.kwh[0] + answers.kwh[0]) if math.isfinite(cost.kwh[0] + answers.kwh[0]) else 0.0,
    )


def _served(work: Work, shapes: Shapes, kind: str, devices: int) -> Estimate | None:
    """One replica under as many requests as it takes."""
    cases = _questions(work, shapes, kind, devices, 256)
    got = estimate_serving(cases, residual=serving_residual())
    fits = bool(got.fits[0])
    per_s, first_ms = float(got.tokens_per_s[0]), float(got.ttft_ms[0])
    first = f", the first token after {first_ms:,.0f} ms" if math.isfinite(first_ms) else ""
    return Estimate(
        run_s=0.0,
        memory_gib=_weights_gib(cases),
        least_gib=_weights_gib(cases),
        capacity_gib=_usable_gib(cases),
        fits=fits,
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


def _count(number: int) -> Floats:
    return np.array([float(number)])
