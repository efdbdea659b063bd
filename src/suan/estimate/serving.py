"""What a model serves: tokens a second, latencies, sequences, and replicas for a stream of requests.

Knows which of these a scenario asks for, which layout to take where none was given, and how far estimates
were off. Does not know money, or where the model runs.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from suan.estimate.cases import Floats
from suan.estimate.serving_cases import Scenario, ServingCases
from suan.estimate.serving_load import Load, admitted, burst_s, finished_per_s, steady_step, under_load
from suan.estimate.serving_rates import ServingRates, serving_rates
from suan.estimate.serving_residual import ServingResidual
from suan.estimate.serving_step import (
    ServingStep,
    kv_capacity_tokens,
    mean_context,
    most_sequences,
    replica_devices,
    replicas,
    step,
)

LAYOUTS = (1.0, 2.0, 4.0, 8.0)
# Arrivals come unevenly and capacity is known roughly: a layout is taken up to here.
COMFORTABLE = 0.85
BOUND_BY = ("compute", "memory", "attention", "network", "host")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEstimate:
    """n estimates; `_low` and `_high` hold nine of ten. A latency that a scenario has not is nan."""

    fits: np.ndarray
    tensor_parallel: Floats
    replicas: Floats
    requests_per_s: Floats
    tokens_per_s: Floats  # of output
    tokens_per_s_low: Floats
    tokens_per_s_high: Floats
    tokens_per_s_per_accel: Floats
    ttft_ms: Floats
    ttft_ms_low: Floats
    ttft_ms_high: Floats
    ttft_p99_ms: Floats
    itl_ms: Floats
    itl_ms_low: Floats
    itl_ms_high: Floats
    itl_p99_ms: Floats
    kv_capacity_tokens: Floats  # one replica
    most_sequences: Floats  # one replica, by memory and the engine
    sequences: Floats  # in flight, one replica
    utilisation: Floats  # arrivals over the most that can be taken; 1 where nothing arrives by itself
    bound_by: np.ndarray  # position in BOUND_BY


def batch_s(cases: ServingCases, rates: ServingRates) -> tuple[Floats, Floats]:
    """Seconds of a batch that starts and ends together: until its first token, and between tokens."""
    n = np.maximum(cases.concurrency / replicas(cases), 1.0)
    stages = np.maximum(cases.pipeline_parallel, 1.0)
    zero = np.zeros(len(cases))
    first = step(cases, zero, n * cases.prompt_tokens, cases.prompt_tokens, rates).total_s
    context = mean_context(cases)
    each = step(cases, n, zero, context, rates).total_s
    # A batch of one goes through the stages in turn; step() has given each stage its share of the tokens.
    return first * stages, each * stages


def most_per_s(cases: ServingCases, rates: ServingRates) -> Floats:
    """Requests a second at full load; 0 where the weights do not fit."""
    room = most_sequences(cases, rates)
    steady = finished_per_s(cases, np.maximum(np.minimum(admitted(cases, rates), room), 1.0), rates)
    n = np.maximum(cases.concurrency, 1.0)
    together = np.isin(cases.scenario, (Scenario.BATCH, Scenario.FIRST_TOKEN))
    first, each = batch_s(cases, rates)
    at_once = n / (first + (cases.output_tokens - 1.0) * each)
    return np.where(room >= 1.0, np.where(together, at_once, steady), 0.0)


def with_best_plan(cases: ServingCases, rates: ServingRates) -> ServingCases:
    """The cases with tensor parallelism where none was given: the most requests a second, and among layouts
    that take the arrivals in comfort the one whose first tokens come soonest.
    """
    missing = np.flatnonzero(cases.tensor_parallel < 1.0)
    chosen = cases.tensor_parallel.copy()
    if not missing.size:
        return cases
    open_ = cases.take(missing)
    best, ranks = np.full(len(open_), -np.inf), np.ones(len(open_))
    for width in LAYOUTS:
        tried = open_.with_plan(np.full(len(open_), width))
        possible = replica_devices(tried) <= np.maximum(open_.devices, 1.0)
        got = np.where(possible, most_per_s(tried, rates), 0.0)
        comfortable = (open_.rate_per_s > 0) & (got * COMFORTABLE >= open_.rate_per_s)
        score = got.copy()
        if comfortable.any():  # above all others; among them shorter is better
            loaded = under_load(tried.take(comfortable), open_.rate_per_s[comfortable], rates)
            score[comfortable] = 1e12 / loaded.ttft_s
        better = score > best
        best, ranks = np.where(better, score, best), np.where(better, width, ranks)
    chosen[missing] = ranks
    return cases.with_plan(chosen)


def estimate_serving(
    cases: ServingCases, *, residual: ServingResidual | None = None, rates: ServingRates | None = None
) -> ServingEstimate:
    """Throughput, latencies and room of every case, with intervals. Without `residual` pure mechanics."""
    rates = rates or serving_rates()
    laid = with_best_plan(cases, rates)
    capacity, room = most_per_s(laid, rates), most_sequences(laid, rates)
    fits = room >= 1.0
    served = laid.rate_per_s > 0
    load = _load(laid, capacity, rates)
    per_s = np.where(served, _offered(laid, load, rates), capacity)
    corrected = residual or ServingResidual.none()
    factor, spread = corrected.of(laid)
    sure = served & (laid.rate_per_s < COMFORTABLE * capacity)
    tokens = per_s * laid.output_tokens * np.where(served, 1.0, factor["throughput"])
    tokens_spread = np.where(sure, spread["offered"], spread["throughput"])
    ttft, itl = load.ttft_s * 1e3 * factor["ttft"], load.itl_s * 1e3 * factor["itl"]
    blank = np.where(fits, 1.0, np.nan)
    ttft, itl = ttft * blank, itl * blank
    return ServingEstimate(
        fits=fits,
        tensor_parallel=laid.tensor_parallel,
        replicas=replicas(laid),
        requests_per_s=tokens / laid.output_tokens,
        tokens_per_s=tokens,
        tokens_per_s_low=tokens / tokens_spread,
        tokens_per_s_high=tokens * tokens_spread,
        tokens_per_s_per_accel=tokens / np.maximum(laid.devices, 1.0),
        ttft_ms=ttft,
        ttft_ms_low=ttft / spread["ttft"],
        ttft_ms_high=ttft * spread["ttft"],
        ttft_p99_ms=ttft * load.ttft_p99_s / load.ttft_s,
        itl_ms=itl,
        itl_ms_low=itl / spread["itl"],
        itl_ms_high=itl * spread["itl"],
        itl_p99_ms=itl * load.itl_p99_s / load.itl_s,
        kv_capacity_tokens=kv_capacity_tokens(laid, rates),
        most_sequences=np.floor(room),
        sequences=load.sequences,
        utilisation=load.utilisation,
        bound_by=_bound_by(steady_step(laid, np.maximum(load.sequences, 1.0), rates)),
    )


def _offered(cases: ServingCases, load: Load, rates: ServingRates) -> Floats:
    """Requests a second of a stream: those that arrive, at most those that there is room for, whatever that
    does to latencies; a run that ends also waits for its last.
    """
    unlimited = replace(cases, itl_limit_s=np.full(len(cases), np.inf))
    steady = np.minimum(cases.rate_per_s, most_per_s(unlimited, rates))
    last_s = load.ttft_s + cases.output_tokens * load.itl_s
    took = cases.requests / np.maximum(steady, 1e-12) + last_s
    return np.where(cases.requests > 0, cases.requests / took, steady)


def _load(cases: ServingCases, capacity: Floats, rates: ServingRates) -> Load:
    """Latencies by scenario: arrivals, one batch, a burst; nan for what is only counted by its throughput."""
    blank = np.full(len(cases), np.nan)
    busiest = np.maximum(np.minimum(admitted(cases, rates), most_sequences(cases, rates)), 1.0)
    found = {f.name: blank.copy() for f in fields(Load)}
    found["sequences"], found["utilisation"] = busiest, np.ones(len(cases))
    together = np.isin(cases.scenario, (Scenario.BATCH, Scenario.FIRST_TOKEN))
    kinds: list[tuple[NDArray[np.bool_], Callable[[ServingCases, Floats], Load]]] = [
        (np.isin(cases.scenario, (Scenario.SERVER, Scenario.INTERACTIVE)), partial(_arrivals, rates=rates)),
        (together, partial(_batch, rates=rates)),
        (cases.scenario == Scenario.BURST, partial(_burst, rates=rates)),
    ]
    for mask, of_kind in kinds:
        if mask.any():
            got = of_kind(cases.take(mask), capacity[mask])
            for name, values in found.items():
                values[mask] = getattr(got, name)
    return Load(**found)


def _arrivals(cases: ServingCases, capacity: Floats, rates: ServingRates) -> Load:
    """Under the rate given, or under as much as can be taken."""
    given = cases.rate_per_s > 0
    got = under_load(cases, np.where(given, cases.rate_per_s, capacity), rates)
    return replace(got, utilisation=np.where(given, got.utilisation, 1.0))


def _batch(cases: ServingCases, capacity: Floats, rates: ServingRates) -> Load:
    first, each = batch_s(cases, rates)
    n = np.maximum(cases.concurrency / replicas(cases), 1.0)
    return Load(
        sequences=n,
        utilisation=np.ones(len(cases)),
        itl_s=each,
        itl_p99_s=each,
        ttft_s=first,
        ttft_p99_s=first,
    )


def _burst(cases: ServingCases, capacity: Floats, rates: ServingRates) -> Load:
    """The last of an even line waits twice as long as the middle."""
    places, first, each = burst_s(cases, rates)
    return Load(
        sequences=places,
        utilisation=np.ones(len(cases)),
        itl_s=each,
        itl_p99_s=each,
        ttft_s=first,
        ttft_p99_s=2.0 * first,
    )


def _bound_by(step_: ServingStep) -> np.ndarray:
    """Which of BOUND_BY takes most of a step."""
    memory = step_.weights_s + step_.kv_s + step_.activations_s
    parts = (step_.compute_s, memory, step_.attention_s, step_.link_s, step_.floor_s)
    return np.asarray(np.argmax(np.stack(parts), axis=0), dtype=np.int64)


def replicas_needed(
    cases: ServingCases,
    arrivals_per_s: Floats,
    *,
    ttft_slo_ms: float,
    itl_slo_ms: float,
    most_replicas: int = 4096,
    residual: ServingResidual | None = None,
) -> np.ndarray:
    """The fewest replicas that serve each stream within both limits for 99 of 100 requests; 0 = no number
    does.

    A stream is its arrival rate and its lengths: means and spreads (`isl_cv`, `osl_cv`) of both.
    """
    rates = serving_rates()
    laid = with_best_plan(cases, rates)
    width = replica_devices(laid)
    arrivals = np.broadcast_to(np.asarray(arrivals_per_s, dtype=np.float64), (len(cases),))

    def enough(count: Floats) -> np.ndarray:
        tried = replace(laid, devices=count * width, rate_per_s=arrivals)
        got = estimate_serving(tried, residual=residual, rates=rates)
        within = (got.ttft_p99_ms <= ttft_slo_ms) & (got.itl_p99_ms <= itl_slo_ms)
        return got.fits & within & (got.utilisation <= COMFORTABLE)

    low, high = np.zeros(len(cases)), np.full(len(cases), float(most_replicas))
    possible = enough(high)
    while np.any(high - low > 1):
        middle = np.ceil(0.5 * (low + high))
        fine = enough(middle)
        low, high = np.where(fine, low, middle), np.where(fine, middle, high)
    return np.where(possible, high, 0.0).astype(np.int64)
