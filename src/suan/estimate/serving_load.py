"""A replica under arrivals: sequences in flight, time between tokens, time to the first one.

Knows the fixed point of load and step time, and the queues before it. Does not know which plan is best.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from suan.estimate.cases import Floats
from suan.estimate.serving_cases import ServingCases
from suan.estimate.serving_rates import ServingRates
from suan.estimate.serving_step import ServingStep, mean_context, most_sequences, replicas, step

# Five points of equal weight under a normal curve: the means of its fifths.
NORMAL_FIFTHS = np.array([-1.3998, -0.5319, 0.0, 0.5319, 1.3998])
# Who offers so many times what a limit admits has another limit.
BEYOND_LIMIT = 2.0
BISECTIONS = 10  # of a logarithm; a straight line does the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What arrivals make of a replica. Milliseconds are in the caller's hands: here all is seconds."""

    sequences: Floats
    utilisation: Floats  # arrivals over the most that can be taken; 1 and more = it cannot keep up
    itl_s: Floats
    itl_p99_s: Floats
    ttft_s: Floats
    ttft_p99_s: Floats


@dataclass(frozen=True, slots=True)
class Queue:
    """Sequences in flight, their share of the places, and arrivals over the most that can be taken."""

    sequences: Floats
    fullness: Floats
    utilisation: Floats


def steady_step(cases: ServingCases, sequences: Floats, rates: ServingRates) -> ServingStep:
    """One step while `sequences` are in flight and those that end are replaced at once."""
    arriving = sequences * cases.prompt_tokens / cases.output_tokens
    return step(cases, sequences, arriving, mean_context(cases), rates)


def finished_per_s(cases: ServingCases, sequences: Floats, rates: ServingRates) -> Floats:
    """Requests a second that all replicas finish with so many sequences in flight in each."""
    stages = np.maximum(cases.pipeline_parallel, 1.0)
    took = steady_step(cases, sequences, rates).total_s * stages
    return replicas(cases) * sequences / (took * cases.output_tokens)


def sequences_for(cases: ServingCases, rate_per_s: Floats, most: Floats, rates: ServingRates) -> Floats:
    """Sequences in flight in each replica when so many requests arrive: where as many end as begin."""

    def short(sequences: Floats) -> Floats:
        return np.log(np.maximum(rate_per_s, 1e-12) / finished_per_s(cases, sequences, rates))

    return _between(short, np.full(len(cases), 1e-2), np.maximum(most, 1e-2))


def admitted(cases: ServingCases, rates: ServingRates) -> Floats:
    """Sequences that a replica takes at once: by memory, and by the limit between tokens."""
    stages = np.maximum(cases.pipeline_parallel, 1.0)
    by_memory = np.maximum(most_sequences(cases, rates), 1.0)
    if not np.isfinite(cases.itl_limit_s).any():
        return by_memory
    wanted = np.minimum(cases.itl_limit_s / rates.itl_p99_ratio, 1e6)

    def quick(sequences: Floats) -> Floats:
        return np.log(wanted / (steady_step(cases, sequences, rates).total_s * stages))

    one = np.ones(len(cases))
    # A limit that a lone sequence misses is no use: then memory alone decides.
    return np.where(quick(one) > 0, _between(quick, one, by_memory), by_memory)


def _between(falling: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """Where a falling function crosses zero, at an end if it does not; smooth in what it depends on."""
    low, high = np.log(low), np.log(high)
    at_low, at_high = falling(np.exp(low)), falling(np.exp(high))
    end = np.where(at_high >= 0, high, low)
    inside = (at_low > 0) & (at_high < 0)
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        value = falling(np.exp(middle))
        low, at_low = np.where(value > 0, middle, low), np.where(value > 0, value, at_low)
        high, at_high = np.where(value > 0, high, middle), np.where(value > 0, at_high, value)
    part = np.where(inside, at_low, 0.0) / np.where(inside, at_low - at_high, 1.0)
    crossing = low + (high - low) * part
    return np.exp(np.where(inside, crossing, end))


def under_load(cases: ServingCases, rate_per_s: Floats, rates: ServingRates) -> Load:
    """The load that `rate_per_s` arrivals, all replicas together, make.

    The capacity is known to within `capacity_spread`, and near it everything depends on how near: means are
    taken over that uncertainty.
    """
    within_limit = admitted(cases, rates)
    taken_within = finished_per_s(cases, within_limit, rates)
    room = np.maximum(most_sequences(cases, rates), 1.0)
    most = np.where(rate_per_s > BEYOND_LIMIT * taken_within, room, within_limit)
    most_taken = finished_per_s(cases, most, rates)
    points, n = len(NORMAL_FIFTHS), len(cases)
    spread = np.exp(rates.capacity_spread * np.repeat(NORMAL_FIFTHS, n))
    scaled = np.minimum(np.tile(rate_per_s, points) * spread, np.tile(most_taken, points))
    each = cases.take(np.tile(np.arange(n), points))
    found = sequences_for(each, scaled, np.tile(most, points), rates)
    sequences = found.reshape(points, n).mean(axis=0)
    utilisation = rate_per_s / np.maximum(taken_within, 1e-12)
    return _latencies(cases, Queue(sequences, sequences / most, utilisation), rates)


def _latencies(cases: ServingCases, queue: Queue, rates: ServingRates) -> Load:
    sequences, utilisation = queue.sequences, queue.utilisation
    stages = np.maximum(cases.pipeline_parallel, 1.0)
    between = steady_step(cases, sequences, rates).total_s * stages
    # A prompt waits for the step in progress, shares its own with the others that came meanwhile, ...
    prompts = cases.prompt_tokens * np.maximum(1.0, sequences / cases.output_tokens)
    context = mean_context(cases)
    own = step(cases, sequences, prompts, context, rates).total_s * stages
    # ... and stands behind those whose prompts are still to be read, each for what it adds to a step.
    further = step(cases, sequences, prompts + cases.prompt_tokens, context, rates).total_s * stages - own
    busy = np.minimum(sequences / (between * cases.output_tokens) * further, 0.95)
    behind = busy / (1.0 - busy) * further * (1.0 + cases.prompt_spread**2)
    # A new prompt is taken up at the next step; in a full house, when a place becomes free.
    waiting = (0.5 + rates.waiting_steps * queue.fullness) * between
    ttft = waiting + own + rates.queue_weight * behind + _overflow_s(cases, utilisation, rates)
    return Load(
        sequences=sequences,
        utilisation=utilisation,
        itl_s=between,
        itl_p99_s=between * rates.itl_p99_ratio,
        ttft_s=ttft,
        ttft_p99_s=ttft * rates.ttft_p99_ratio,
    )


def _overflow_s(cases: ServingCases, utilisation: Floats, rates: ServingRates) -> Floats:
    """Mean wait of a run's requests when more arrive than are taken: from when the places are full until the
    last has come, the line grows.

    Only where the run's size is given or assumed; a tuned server's operator lets it come to no overflow.
    """
    arriving = np.maximum(cases.rate_per_s, 1e-12)
    taken = arriving / np.maximum(utilisation, 1e-12)
    growth = np.maximum(arriving - taken, 1e-12)
    lasts = cases.requests / arriving
    full_at = most_sequences(cases, rates) * replicas(cases) / growth
    grown = np.maximum(lasts - full_at, 0.0)
    return 0.5 * grown * grown / np.maximum(lasts, 1e-12) * growth / np.maximum(taken, 1e-12)


def burst_s(cases: ServingCases, rates: ServingRates) -> tuple[Floats, Floats, Floats]:
    """(sequences in flight, seconds to the first token, seconds between tokens) when all arrive at once.

    The places fill up, their prompts one behind the other; the rest wait for those before them.
    """
    stages, count = np.maximum(cases.pipeline_parallel, 1.0), replicas(cases)
    waiting = np.maximum(cases.requests / count, 1.0)
    places = np.maximum(np.minimum(most_sequences(cases, rates), waiting), 1.0)
    between = steady_step(cases, places, rates).total_s * stages
    context = mean_context(cases)
    prompts = cases.prompt_tokens
    first = step(cases, places, prompts, context, rates).total_s
    further = (step(cases, places, 2.0 * prompts, context, rates).total_s - first) * stages
    taken = places / (between * cases.output_tokens)
    late = np.maximum(waiting - places, 0.0) ** 2 / waiting
    return places, 0.5 * places * further + 0.5 * late / taken, between
