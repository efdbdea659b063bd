"""A clock that stands still until it is moved. Knows nothing of what happens in its time."""


class VirtualClock:
    """`ports.Clock` for simulations. Keeps fractions, so that small steps add up; answers whole seconds."""

    def __init__(self, start_s: float = 0) -> None:
        self._now_s = float(start_s)

    def now_s(self) -> int:
        return int(self._now_s)

    def advance_to(self, at_s: float) -> None:
        """Moves on to `at_s`; a moment that has passed changes nothing."""
        self._now_s = max(self._now_s, float(at_s))

    def advance(self, seconds: float) -> None:
        """Moves on by so many seconds."""
        self._now_s += max(0.0, seconds)
