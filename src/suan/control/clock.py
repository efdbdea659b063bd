"""The machine's clock, as a grid needs it: it says the date and never jumps."""

import time


class SystemClock:
    """`ports.Clock`: the wall's time at the start, and from then on the monotonic clock.

    Somebody who sets the machine's date ends no lease by it; the grid follows at its next start.
    """

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now_s(self) -> int:
        return int(self._offset_s + time.monotonic())
