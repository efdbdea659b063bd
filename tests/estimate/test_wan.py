"""Training between centres: what a link costs, and when rarer synchronising pays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suan.estimate.wan import (
    Synchronising,
    Wan,
    break_even_every,
    change_bytes,
    exposed_s,
    gain,
    ring_s,
    step_s,
)

LOCAL_S = np.array([8.0])


def test_two_centres_exchange_their_copy_once_over_the_line() -> None:
    # 7 B parameters at 16 bits are 14 GB: over 10 Gbit/s, once each way at the same time.
    wan = Wan.of(2, 10.0, 0.0)
    assert ring_s(wan, change_bytes(np.array([7e9]), 16))[0] == pytest.approx(11.2)


def test_one_centre_waits_for_nobody() -> None:
    wan = Wan.of(1, 0.1, 0.2)
    assert exposed_s(wan, LOCAL_S, Synchronising.each_step(np.array([1e12])))[0] == 0.0


def test_synchronising_each_step_costs_the_wire_less_what_the_backward_pass_hides() -> None:
    wan = Wan.of(2, 10.0, 0.0)
    sent = change_bytes(np.array([7e9]), 16)
    open_, hidden = Synchronising.each_step(sent), Synchronising.each_step(sent, hidden_ratio=0.5)
    assert step_s(wan, LOCAL_S, open_)[0] == pytest.approx(8.0 + 11.2)
    assert step_s(wan, LOCAL_S, hidden)[0] == pytest.approx(8.0 + 11.2 - 4.0)


def test_every_hundred_steps_the_wire_is_a_hundredth_and_overlap_hides_it_all() -> None:
    wan = Wan.of(4, 1.0, 0.05)
    sent = change_bytes(np.array([7e9]))
    rare = Synchronising.rarely(sent, 100.0)
    assert exposed_s(wan, LOCAL_S, rare)[0] == pytest.approx(ring_s(wan, sent)[0] / 100.0)
    assert exposed_s(wan, LOCAL_S, Synchronising.rarely(sent, 100.0, hidden_steps=50.0))[0] == 0.0


def test_what_is_under_way_longer_than_the_interval_sets_the_pace() -> None:
    wan = Wan.of(2, 1.0, 0.0)
    sent = change_bytes(np.array([7e9]))  # 224 s on the wire, every 2 steps of 8 s
    plan = Synchronising.rarely(sent, 2.0, hidden_steps=100.0)
    assert step_s(wan, LOCAL_S, plan)[0] == pytest.approx(224.0 / 2.0)


def test_loss_over_a_long_way_leaves_less_than_the_line() -> None:
    clean, lossy = Wan.of(2, 10.0, 0.1), Wan.of(2, 10.0, 0.1, loss_ratio=1e-3, streams=16)
    # 16 streams x 1460 B x 1.2247 / (0.1 s x sqrt(0.001))
    assert lossy.bytes_per_s()[0] == pytest.approx(9.05e6, rel=0.01)
    assert clean.bytes_per_s()[0] == pytest.approx(1.25e9)


def test_the_slowest_link_of_the_ring_counts() -> None:
    ring = Wan.slowest(3, np.array([10.0, 0.5, 10.0]), np.array([0.01, 0.02, 0.09]))
    assert (ring.gbps[0], ring.rtt_s[0]) == (0.5, 0.09)


def test_break_even_is_the_first_interval_that_beats_one_centre_alone() -> None:
    wan, sent = Wan.of(2, 1.0, 0.04), change_bytes(np.array([7e9]))
    every = break_even_every(wan, LOCAL_S, Synchronising.rarely(sent, 1.0))
    assert every[0] > 1

    def gained(h: float) -> float:
        return float(gain(wan, LOCAL_S, Synchronising.rarely(sent, h))[0])

    assert gained(float(every[0])) >= 1.0 > gained(float(every[0] - 1))


def test_more_gain_than_there_are_centres_is_out_of_reach() -> None:
    plan = Synchronising.rarely(np.array([1e9]), 1.0)
    assert break_even_every(Wan.of(2, 100.0, 0.0), LOCAL_S, plan, wanted_gain=2.0)[0] == 0


def test_a_run_that_needs_more_tokens_gains_less() -> None:
    wan, plan = Wan.of(2, 100.0, 0.0), Synchronising.rarely(np.array([1e9]), 500.0)
    assert gain(wan, LOCAL_S, plan, token_ratio=1.25)[0] == pytest.approx(gain(wan, LOCAL_S, plan)[0] / 1.25)


@given(
    gbps=st.floats(0.05, 400.0),
    rtt_s=st.floats(0.0, 0.4),
    every=st.floats(1.0, 1000.0),
    hidden=st.floats(0.0, 100.0),
    centres=st.integers(2, 16),
)
def test_rarer_is_never_slower_a_faster_link_never_either(
    gbps: float, rtt_s: float, every: float, hidden: float, centres: int
) -> None:
    sent = np.array([28e9])

    def waited(rate: float, steps: float) -> float:
        plan = Synchronising.rarely(sent, steps, hidden_steps=hidden)
        return float(exposed_s(Wan.of(centres, rate, rtt_s), LOCAL_S, plan)[0])

    assert waited(gbps, every) >= 0.0
    assert waited(gbps, every * 2.0) <= waited(gbps, every) * (1 + 1e-9) or every == 1.0
    assert waited(gbps * 2.0, every) <= waited(gbps, every) * (1 + 1e-9)
