"""What the other stages of a model's life take, put together from training steps and serving.

Knows fine-tuning, adapters, preferences, reinforcement learning, evaluation, corpus work and quantising, each
as so many steps, forward passes or generated tokens. Does not know how fast a step or a server is: that comes
from training and serving.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from suan.estimate.cases import Cases, Floats, Shapes
from suan.estimate.energy import (
    JOULES_PER_KWH,
    Phases,
    kwh_per_step,
    node_power_w,
    serving_phases,
)
from suan.estimate.memory import memory_gib
from suan.estimate.outcome import estimate_training
from suan.estimate.rates import rates
from suan.estimate.serving import estimate_serving, with_best_plan
from suan.estimate.serving_cases import Scenario, ServingCases
from suan.estimate.serving_load import steady_step
from suan.estimate.serving_rates import serving_rates
from suan.estimate.serving_step import batch_prefill_s
from suan.estimate.training import StepTime

GIB = 2.0**30
HALF_BYTES = 2.0
# Forward and backward of every product: one against three. Source: arithmetic of back-propagation.
FORWARD_SHARE = 1.0 / 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """What n stages take. `memory_gib` is of the fullest device, nan where it hangs on the tool; `parts_s`
    are seconds by what they go to.
    """

    seconds: Floats
    devices: Floats
    kwh: Floats
    memory_gib: Floats
    parts_s: dict[str, Floats]

    @property
    def device_hours(self) -> Floats:
        return self.seconds * self.devices / 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """One step of reinforcement learning: what is generated, and by what it is judged."""

    serving: ServingCases  # the policy as a server on its devices; lengths are means
    prompts: Floats  # a step
    samples: Floats  # completions a prompt; 1 for PPO
    longest_ratio: Floats  # tokens of the longest completion over the mean: the others wait for it
    apart: bool = False  # generation has devices of its own, and runs one step ahead
    # Seconds of the host a token, where the training framework writes the answers itself; else a server does.
    host_token_s: Floats | None = None


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from importlib.resources import files

    return tomllib.loads(files("suan.estimate").joinpath("stages.toml").read_text("utf-8"))


def _step(cases: Cases) -> StepTime:
    """A training step as estimated, what measured runs taught counted in."""
    return estimate_training(cases).parts


def forward_s(step: StepTime) -> Floats:
    """Seconds of the forward passes alone of such a step: no gradients, recomputing, or optimizer."""
    passes = step.gemm_s + step.attention_s + step.memory_bound_s + step.launch_s + step.bubble_s
    between = step.tp_comm_s + step.ep_comm_s + step.cp_comm_s + step.pp_comm_s
    return FORWARD_SHARE * (passes + between)


def fine_tuning(cases: Cases, tokens: Floats, *, filled_ratio: Floats | float = 1.0) -> StageCost:
    """Supervised fine-tuning on so many tokens, all weights or (`plans.adapters`) adapters alone.

    `filled_ratio`: tokens that count in a sequence, over its length: below one where nothing is packed.
    """
    step = _step(cases)
    steps = np.ceil(tokens / (cases.tokens * filled_ratio))
    return _cost(cases, steps, step, {"train": step.total_s})


def adapters(cases: Cases, tokens: Floats, *, filled_ratio: Floats | float = 1.0) -> StageCost:
    """The same with frozen weights: their gradients are not computed, their optimizer states not kept."""
    ones = np.ones(len(cases), dtype=np.int64)
    return fine_tuning(
        cases.with_plans(cases.plans.with_columns(adapters=ones)), tokens, filled_ratio=filled_ratio
    )


def preference(cases: Cases, pairs: Floats, *, reference_before: bool = False) -> StageCost:
    """DPO on so many pairs: both answers through the policy, and forward through the reference.

    The global batch of `cases` counts answers, two a pair. With `reference_before` the reference's figures
    are computed once and kept: it takes the same time, but no memory beside the policy. Under adapters the
    reference is the frozen weights themselves.
    """
    step = _step(cases)
    steps = np.ceil(2.0 * pairs / cases.global_batch)
    beside = np.zeros(len(cases)) if reference_before else beside_gib(cases, references=1)
    parts = {"train": step.total_s, "reference": forward_s(step)}
    return _cost(cases, steps, step, parts, beside_gib=beside)


def reinforcement(
    policy: Cases,
    rollouts: Rollouts,
    steps: Floats,
    *,
    critic: Cases | None = None,
    scorers: tuple[Cases, ...] = (),
    epochs: float = 1.0,
) -> StageCost:
    """PPO (with `critic`) or GRPO (without) for so many steps: generate, score, train.

    `scorers` are the reference and, where a model judges, the reward model, each forward over all that was
    generated. A step's batch is `prompts x samples` completions, trained on `epochs` times. On the same
    devices the phases follow each other and weights move between their layouts; apart, the slower side is
    the pace.
    """
    step = _step(policy)
    completions = rollouts.prompts * rollouts.samples
    batches = completions / policy.global_batch
    trained = {"train": step.total_s * batches * epochs}
    beside = np.zeros(len(policy))
    if critic is not None:
        valued = _step(critic)
        beside = beside + memory_gib(critic).total
        trained["critic"] = (valued.total_s * epochs + forward_s(valued)) * batches
    for scorer in scorers:
        judged = forward_s(_step(scorer)) * completions / scorer.global_batch
        trained["score"] = trained.get("score", np.zeros(len(policy))) + judged
        beside = beside + _frozen_gib(scorer)
    made = {"generate": generation_s(rollouts), "move weights": _move_s(policy)}
    side, other = _sum(trained), _sum(made)
    cost = _cost(policy, steps, step, trained | made, beside_gib=beside)
    kwh = (kwh_per_step(policy, step) * side / step.total_s + serving_kwh(rollouts.serving, other)) * steps
    if rollouts.apart:
        return replace(
            cost,
            seconds=np.maximum(side, other) * steps,
            devices=policy.machines.devices + rollouts.serving.devices,
            kwh=kwh,
        )
    return replace(cost, kwh=kwh)


def generation_s(rollouts: Rollouts) -> Floats:
    """Seconds until the last completion of a step is there.

    The crowd goes at the server's full rate; after it the longest ones go on alone, as fast as few do. A
    framework without a server writes all of a device's answers together, until the longest has ended.
    """
    if rollouts.host_token_s is not None:
        return _written_together_s(rollouts, rollouts.host_token_s)
    crowd = estimate_serving(rollouts.serving)
    count = rollouts.prompts * rollouts.samples
    together = count / np.maximum(crowd.requests_per_s, 1e-12)
    few = replace(
        rollouts.serving,
        scenario=np.full(len(rollouts.serving), Scenario.BATCH),
        concurrency=np.maximum(0.02 * count, 1.0),
        rate_per_s=np.zeros(len(rollouts.serving)),
        tensor_parallel=crowd.tensor_parallel,
    )
    alone_s = estimate_serving(few).itl_ms / 1e3
    longer = np.maximum(rollouts.longest_ratio - 1.0, 0.0) * rollouts.serving.output_tokens
    return together + longer * alone_s


def _written_together_s(rollouts: Rollouts, host_token_s: Floats) -> Floats:
    batch = replace(
        rollouts.serving,
        scenario=np.full(len(rollouts.serving), Scenario.BATCH),
        concurrency=rollouts.prompts * rollouts.samples,
        rate_per_s=np.zeros(len(rollouts.serving)),
    )
    got = estimate_serving(batch)
    longest = rollouts.longest_ratio * rollouts.serving.output_tokens
    return np.asarray(got.ttft_ms / 1e3 + longest * np.maximum(got.itl_ms / 1e3, host_token_s))


def host_token_s(shapes: Shapes) -> Floats:
    """Seconds that transformers' own `generate` takes of the host a token, however fast the device is."""
    known = _table()["generate"]
    return np.asarray(known["host_s"] + known["host_s_per_layer"] * shapes.layers)


def lone_token_s(cases: ServingCases, shapes: Shapes) -> Floats:
    """Seconds between tokens of one text that `generate` writes alone."""
    alone = replace(
        cases,
        scenario=np.full(len(cases), Scenario.BATCH),
        concurrency=np.ones(len(cases)),
        rate_per_s=np.zeros(len(cases)),
    )
    return np.asarray(np.fmax(estimate_serving(alone).itl_ms / 1e3, host_token_s(shapes)))


def serving_kwh(cases: ServingCases, seconds: Floats) -> Floats:
    """kWh of servers that have enough to do for so long."""
    known = serving_rates()
    laid = with_best_plan(cases, known)
    sequences = np.maximum(estimate_serving(laid).sequences, 1.0)
    phases = serving_phases(steady_step(laid, sequences, known))
    per_node = np.minimum(laid.devices, 8.0)
    nodes = np.ceil(laid.devices / per_node)
    return nodes * node_power_w(per_node, laid.tdp_w, phases) * seconds / JOULES_PER_KWH


def evaluation(cases: ServingCases, questions: Floats, *, choices: Floats | float = 0.0) -> StageCost:
    """Answers to so many questions: written out, or (`choices`) each choice's likelihood read off."""
    got = estimate_serving(cases)
    written = questions / np.maximum(got.requests_per_s, 1e-12)
    known = serving_rates()
    laid = with_best_plan(cases, known)
    read = questions * choices * batch_prefill_s(laid, known)
    seconds = np.where(np.asarray(choices) > 0, read, written)
    return StageCost(
        seconds=seconds,
        devices=cases.devices,
        kwh=serving_kwh(cases, seconds),
        memory_gib=np.where(got.fits, cases.memory_gib, np.inf),
        parts_s={"answer": seconds},
    )


def corpus(
    megabytes: Floats, passes: tuple[str, ...], cores: Floats, *, busy_ratio: float = 0.9
) -> StageCost:
    """Corpus work of these passes (names of stages.toml), one behind the other, on so many cores."""
    table = _table()["corpus"]
    parts = {name: megabytes / (table[name]["mb_per_s_per_core"] * cores * busy_ratio) for name in passes}
    seconds = _sum(parts)
    watts = cores * _table()["core"]["wall_w"]
    return StageCost(
        seconds=seconds,
        devices=cores,
        kwh=watts * seconds / JOULES_PER_KWH,
        memory_gib=np.full_like(seconds, np.nan),
        parts_s=parts,
    )


def corpus_passes() -> tuple[str, ...]:
    """Names of the passes that corpus() knows."""
    return tuple(_table()["corpus"])


def quantising(
    params: Floats,
    *,
    bits: float,
    peak_tflops: Floats,
    tdp_w: Floats,
    calibrated: bool = True,
    disk_gb_per_s: float = 0.0,
) -> StageCost:
    """One model to so many bits on one device of this 16-bit peak: layer by layer with calibration, or
    rounding alone, which is the disk's time.
    """
    known = _table()["quantise"]
    disk = (disk_gb_per_s or known["disk_gb_per_s"]) * 1e9
    moved = params * (HALF_BYTES + bits / 8.0) / disk
    solved = params * known["calibrated_s_per_param"] * known["calibrated_peak_tflops"] / peak_tflops
    parts = {"read and write": moved, "calibrate": solved if calibrated else np.zeros_like(moved)}
    seconds, none = _sum(parts), np.zeros_like(params)
    phases = Phases.of(parts["calibrate"], none, none, parts["read and write"])
    node_w = node_power_w(np.ones_like(seconds), tdp_w, phases)
    return StageCost(
        seconds=seconds,
        devices=np.ones_like(seconds),
        kwh=node_w * seconds / JOULES_PER_KWH,
        memory_gib=np.full_like(seconds, np.nan),
        parts_s=parts,
    )


def _sum(parts: dict[str, Floats]) -> Floats:
    return np.asarray(sum(parts.values()), dtype=np.float64)


def beside_gib(cases: Cases, *, references: int = 0, judges: int = 0, critics: int = 0) -> Floats:
    """GiB a device of models of the policy's shape beside it: frozen references and judges, trained critics.
    Under adapters the reference is the policy's own frozen weights.
    """
    frozen = np.where(cases.plans.adapters > 0, 0, references) + judges
    trained = memory_gib(cases).total if critics else np.zeros(len(cases))
    return np.asarray(frozen * _frozen_gib(cases) + critics * trained)


def _frozen_gib(cases: Cases) -> Floats:
    """GiB a device of weights that only run forward, split as the plan splits them."""
    split = cases.plans.tp * cases.plans.pp * np.where(cases.plans.zero_stage >= 3, cases.plans.dp, 1)
    routed = np.where(cases.shapes.experts > 0, np.maximum(cases.plans.ep, 1), 1)
    return np.asarray(cases.shapes.params * HALF_BYTES / (split * routed) / GIB, dtype=np.float64)


def _move_s(policy: Cases) -> Floats:
    """Seconds that weights take from the layout of training to that of serving: each device's share of them,
    gathered over its link.
    """
    table = rates()
    whole = policy.shapes.params * HALF_BYTES
    received = whole / np.maximum(policy.plans.tp, 1)
    return np.asarray(received / table.link_bytes_per_s[policy.machines.kind], dtype=np.float64)


def _cost(
    cases: Cases,
    steps: Floats,
    step: StepTime,
    parts: dict[str, Floats],
    *,
    beside_gib: Floats | float = 0.0,
) -> StageCost:
    """A stage of so many steps whose parts follow each other; energy as if all of it were training."""
    each = _sum(parts)
    return StageCost(
        seconds=each * steps,
        devices=cases.machines.devices.astype(np.float64),
        kwh=kwh_per_step(cases, step) * each / step.total_s * steps,
        memory_gib=memory_gib(cases).total + beside_gib,
        parts_s={name: seconds * steps for name, seconds in parts.items()},
    )
