"""A rate that many share: whoever asks first goes first, and the rate may change while they wait.

Knows bytes and seconds. Does not sleep: the caller waits in its own way, a thread or a coroutine.
"""

import threading
import time
from collections.abc import Callable

_CREDIT_S = 0.1  # of unused rate that may be caught up: a late wake-up must not lower the rate
_LEAST_BYTES_PER_S = 1.0  # a rate of nothing waits, it does not divide by zero


class Pace:
    """Grants bytes at `bytes_per_s`, in the order in which they were asked for."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = max(bytes_per_s, _LEAST_BYTES_PER_S)
        self._earned = 0.0  # bytes that the rate has allowed since the start
        self._asked = 0.0  # bytes that were asked for since the start
        self._at_s = clock()

    def change(self, bytes_per_s: float) -> None:
        """From now on at this rate, for those who wait already too."""
        with self._lock:
            self._advance()
            self._rate = max(bytes_per_s, _LEAST_BYTES_PER_S)

    def ask(self, count: int) -> float:
        """A place in the queue for `count` bytes, to be shown to `wait_s`."""
        with self._lock:
            if not self._asked:
                self._at_s = self._clock()  # the time before the first byte is no credit either
            self._advance()
            self._asked += count
            return self._asked

    def wait_s(self, place: float) -> float:
        """Seconds until the bytes of that place may go at today's rate; 0 when they may."""
        with self._lock:
            self._advance()
            return max(0.0, (place - self._earned) / self._rate)

    def _advance(self) -> None:
        now_s = self._clock()
        self._earned += (now_s - self._at_s) * self._rate
        self._earned = min(self._earned, self._asked + self._rate * _CREDIT_S)
        self._at_s = now_s
