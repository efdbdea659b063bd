"""Training between centres: how long a step takes when the copies of the model are joined by a WAN.

Knows a ring over links with delay and loss, synchronising every step and every so many steps, and how much of
it computing hides. Does not know what rarer synchronising does to the model's quality: who asks gives the
tokens that it costs.
"""

from dataclasses import dataclass

import numpy as np

from suan.estimate.cases import Bools, Floats

BITS = 8.0
GIGA = 1e9
# One stream of TCP gets at most this many segments a round trip over the root of the loss.
# Source: Mathis, Semke, Mahdavi and Ott, The macroscopic behavior of the TCP congestion avoidance algorithm,
# CCR 27(3), 1997: sqrt(3/2).
MATHIS = 1.2247
SEGMENT_BYTES = 1460.0  # an Ethernet frame without its headers
LARGEST_INTERVAL = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wan:
    """n ways to be joined: a ring of centres, whose slowest link counts."""

    centres: Floats
    gbps: Floats  # gigabit a second, one direction, of the slowest link on the ring
    rtt_s: Floats  # there and back, of the slowest
    loss_ratio: Floats  # of packets
    streams: Floats  # TCP connections that share the work

    @staticmethod
    def of(
        centres: Floats | float,
        gbps: Floats | float,
        rtt_s: Floats | float,
        *,
        loss_ratio: Floats | float = 0.0,
        streams: Floats | float = 64.0,
    ) -> "Wan":
        """Rings from numbers or arrays."""
        columns = np.broadcast_arrays(*map(np.float64, (centres, gbps, rtt_s, loss_ratio, streams)))
        names = ("centres", "gbps", "rtt_s", "loss_ratio", "streams")
        return Wan(**{name: np.array(column, ndmin=1) for name, column in zip(names, columns, strict=True)})

    @staticmethod
    def slowest(centres: float, gbps: np.ndarray, rtt_s: np.ndarray) -> "Wan":
        """One ring from its links, one entry a link."""
        return Wan.of(centres, float(np.min(gbps)), float(np.max(rtt_s)))

    def bytes_per_s(self) -> Floats:
        """What the slowest link carries: its rate, or what loss and delay leave to the streams."""
        line = self.gbps * GIGA / BITS
        lossy = (self.loss_ratio > 0) & (self.rtt_s > 0)
        denominator = np.where(lossy, self.rtt_s * np.sqrt(self.loss_ratio), 1.0)
        allowed = self.streams * SEGMENT_BYTES * MATHIS / denominator
        return np.where(lossy, np.minimum(line, allowed), line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronising:
    """What is sent, and when."""

    sent_bytes: Floats  # of one copy: gradients or the change of weights, as sent
    every: Floats  # steps; 1 = each step's gradients
    hidden_steps: Floats  # steps that go on while the change is under way
    hidden_ratio: Floats  # of the last step that may run beside sending, when every step synchronises
    outer_s: Floats  # of the outer optimizer, at each synchronising

    @staticmethod
    def each_step(sent_bytes: Floats, *, hidden_ratio: Floats | float = 0.0) -> "Synchronising":
        """Gradients after every step; the backward pass, two thirds of a step, may hide part of it."""
        n = np.atleast_1d(np.asarray(sent_bytes, dtype=np.float64))
        zero = np.zeros_like(n)
        return Synchronising(
            sent_bytes=n, every=zero + 1.0, hidden_steps=zero, hidden_ratio=zero + hidden_ratio, outer_s=zero
        )

    @staticmethod
    def rarely(
        sent_bytes: Floats,
        every: Floats | float,
        *,
        hidden_steps: Floats | float = 0.0,
        outer_s: Floats | float = 0.0,
    ) -> "Synchronising":
        """The change of weights every so many steps (DiLoCo, local SGD), `hidden_steps` late if overlapped.

        Source: DiLoCo, arXiv 2311.08105; the overlapped form, arXiv 2501.18512.
        """
        n = np.atleast_1d(np.asarray(sent_bytes, dtype=np.float64))
        zero = np.zeros_like(n)
        return Synchronising(
            sent_bytes=n,
            every=np.maximum(zero + every, 1.0),
            hidden_steps=zero + hidden_steps,
            hidden_ratio=zero,
            outer_s=zero + outer_s,
        )


def ring_s(wan: Wan, sent_bytes: Floats) -> Floats:
    """Seconds of an all-reduce over the ring: each part goes round twice, less one hop."""
    hops = np.maximum(wan.centres - 1.0, 0.0)
    carried = 2.0 * hops / np.maximum(wan.centres, 1.0) * sent_bytes / wan.bytes_per_s()
    # A hop takes half of a round trip; its parts are on their way one behind the other.
    return carried + hops * wan.rtt_s


def exposed_s(wan: Wan, local_s: Floats, plan: Synchronising) -> Floats:
    """Seconds a step, on the average, that nothing is computed for waiting on the WAN."""
    sending = ring_s(wan, plan.sent_bytes)
    cover = np.where(plan.every > 1, plan.hidden_steps, plan.hidden_ratio) * local_s
    # What is under way may not outlast the steps until the next one: then the link is the pace.
    waited = np.maximum(sending - np.minimum(cover, plan.every * local_s), 0.0) + plan.outer_s
    return np.where(wan.centres > 1, waited / plan.every, 0.0)


def step_s(wan: Wan, local_s: Floats, plan: Synchronising) -> Floats:
    """Seconds of a step, every centre doing its own in `local_s`."""
    return local_s + exposed_s(wan, local_s, plan)


def gain(wan: Wan, local_s: Floats, plan: Synchronising, *, token_ratio: Floats | float = 1.0) -> Floats:
    """How much faster all centres together are than one alone; below 1, alone is better.

    `token_ratio`: tokens that the joint run needs, over those of a run in one place, for the same quality.
    """
    return wan.centres * local_s / (step_s(wan, local_s, plan) * token_ratio)


def break_even_every(
    wan: Wan, local_s: Floats, plan: Synchronising, *, wanted_gain: Floats | float = 1.0
) -> np.ndarray:
    """The fewest steps between two synchronisings that gain `wanted_gain`; 0 = no number is enough.

    From exposure: `local + wait / every = centres x local / gain`, so `every` follows; the wait itself is
    shorter while steps hide it.
    """
    budget = wan.centres * local_s / wanted_gain - local_s
    reachable = budget > 0
    sending = ring_s(wan, plan.sent_bytes)
    spare = np.where(reachable, budget, 1.0)

    def enough(every: Floats) -> Bools:
        hidden = np.minimum(np.minimum(plan.hidden_steps, every) * local_s, every * local_s)
        waited = np.maximum(sending - hidden, 0.0) + plan.outer_s
        return np.asarray(waited <= spare * every * (1.0 + 1e-12))

    low, high = np.zeros_like(sending), np.full_like(sending, float(LARGEST_INTERVAL))
    possible = reachable & enough(high)
    while np.any(high - low > 1.0):
        middle = np.ceil(0.5 * (low + high))
        fine = enough(middle)
        low, high = np.where(fine, low, middle), np.where(fine, middle, high)
    return np.where(possible, high, 0.0).astype(np.int64)


def change_bytes(params: Floats, bits: Floats | float = 32.0) -> Floats:
    """Bytes of one copy's gradients or change of weights, at so many bits a number."""
    return np.asarray(params * bits / BITS, dtype=np.float64)
