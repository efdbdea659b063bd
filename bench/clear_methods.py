"""Ways to move prices that were compared for the clearing; `clearing/dual.py` has the one that was kept."""

import numpy as np

from suan.rules.clearing.dual import Field, climb
from suan.rules.clearing.layout import Layout
from suan.rules.clearing.question import Question

METHODS = ("kept: paced, momentum, hope", "subgradient, Polyak steps", "volume", "exponentiated gradient",
           "paced (AdaGrad), best fixed step")  # fmt: skip


def climb_by(method: str, question: Question, ceiling: float, rounds: int) -> list[float]:
    """The best bound after each round, from prices of nought."""
    if method == METHODS[0]:
        return _kept(question, ceiling, rounds)
    field = Field(Layout(question))
    if method == METHODS[4]:
        rate = float(np.median(question.waiting_microyuan_per_s / question.devices.max(axis=1)))
        traces = [_paced(field, rounds, rate * factor) for factor in (0.25, 1.0, 4.0)]
        return max(traces, key=lambda trace: trace[-1])
    if method == METHODS[3]:
        return _exponentiated(field, question, rounds)
    return _polyak(field, ceiling, rounds) if method == METHODS[1] else _volume(field, ceiling, rounds)


def _kept(question: Question, ceiling: float, rounds: int) -> list[float]:
    layout, trace = Layout(question), []
    nought = np.zeros(question.free.shape)
    for most in (20, 60, rounds):
        found = climb(layout, nought, ceiling, rounds=most, gap_ratio=0.0, out_of_time=lambda: False)
        trace += [found.value.bound] * (most - len(trace))
    return trace


def _polyak(field: Field, ceiling: float, rounds: int) -> list[float]:
    """Along the excess, as far as the ceiling would need; shorter after ten rounds in vain."""
    lengths, trace = field.layout.lengths, []
    prices = best_prices = np.zeros(field.supply.shape)
    best, vain, reach = -np.inf, 0, 1.0
    for _ in range(rounds):
        value = field.value(prices)
        best, best_prices, vain = (
            (value.bound, prices, 0) if value.bound > best else (best, best_prices, vain + 1)
        )
        trace.append(best)
        if vain >= 10:
            reach, vain, prices = reach * 0.6, 0, best_prices
            continue
        excess = field.wanted(value) - field.supply
        excess = np.where((prices <= 0) & (excess < 0), 0.0, excess)
        size = max(float((excess * excess / lengths).sum()), 1e-12)
        prices = np.maximum(0.0, prices + reach * (ceiling - value.bound) / size * excess / lengths)
    return trace


def _volume(field: Field, ceiling: float, rounds: int) -> list[float]:
    """The volume algorithm (Barahona and Anbil, Mathematical Programming 87, 2000)."""
    lengths, trace = field.layout.lengths, []
    prices = centre = np.zeros(field.supply.shape)
    best, vain, reach, mean = -np.inf, 0, 1.0, None
    for _ in range(rounds):
        value = field.value(prices)
        use = field.wanted(value)
        mean = use if mean is None else 0.2 * use + 0.8 * mean
        if value.bound > best:
            best, centre, vain, reach = value.bound, prices, 0, min(2.0, reach * 1.1)
        elif (vain := vain + 1) >= 8:
            reach, vain = reach * 0.66, 0
        trace.append(best)
        excess = mean - field.supply
        excess = np.where((centre <= 0) & (excess < 0), 0.0, excess)
        size = max(float((excess * excess / lengths).sum()), 1e-12)
        prices = np.maximum(0.0, centre + reach * (ceiling - best) / size * excess / lengths)
    return trace


def _exponentiated(field: Field, question: Question, rounds: int) -> list[float]:
    """Each price times the exponential of its relative excess, slower from round to round."""
    rate = float(np.median(question.waiting_microyuan_per_s / question.devices.max(axis=1))) + 1e-9
    prices, best, trace = np.full(field.supply.shape, rate * 0.02), -np.inf, []
    for turn in range(rounds):
        value = field.value(prices)
        best = max(best, value.bound)
        trace.append(best)
        excess = (field.wanted(value) - field.supply) / np.maximum(field.supply, 1.0)
        step = np.exp(np.clip(excess / np.sqrt(turn + 1), -1, 1))
        prices = np.clip(prices * step, rate * 1e-4, rate * 1e3)
    return trace


def _paced(field: Field, rounds: int, step: float) -> list[float]:
    prices = seen = np.zeros(field.supply.shape)
    best, trace = -np.inf, []
    for _ in range(rounds):
        value = field.value(prices)
        best = max(best, value.bound)
        trace.append(best)
        excess = (field.wanted(value) - field.supply) / field.layout.lengths
        seen = seen + excess * excess
        prices = np.maximum(0.0, prices + step * excess / np.sqrt(seen + 1e-9))
    return trace
