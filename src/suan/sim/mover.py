"""Transfers that take virtual time: `ports.Mover` over a clock.

Each fetch goes at the pace its order names, so sharing a link is the grid's arithmetic and not repeated
here. Bytes
are only counted. Knows one site's store as a set of digests.
"""

from collections.abc import Callable, Sequence

import msgspec

from suan.grid.action import FetchOrder, LinkSeen, ProbeOrder, TransferSeen
from suan.ports import Clock


class _Fetch(msgspec.Struct, kw_only=True):
    order: FetchOrder
    since_s: int  # when `arrived_bytes` was true
    arrived_bytes: float = 0.0
    kept_bytes: float = 0.0  # of those, what an earlier attempt left
    ends_at_s: int | None = None  # None: never, at this pace
    failed: str = ""
    done: bool = False
    moved_bytes: int = 0


class SimulatedMover:
    """`ports.Mover` in virtual time."""

    def __init__(self, clock: Clock, store: dict[str, int]) -> None:
        """`store` maps the digests that are at the site to their sizes; what arrives is added."""
        self._clock, self._store = clock, store
        self._fetches: dict[str, _Fetch] = {}
        self._part_bytes: dict[str, float] = {}  # digest -> what broken or dropped fetches left here
        self.refusal: Callable[[FetchOrder], str] = _no_refusal  # "": it can be fetched

    # ---------------------------------------------------------------- the port

    def want(self, orders: Sequence[FetchOrder], probes: Sequence[ProbeOrder] = ()) -> None:
        """A fetch of another attempt (another ticket) starts anew; what had arrived of the first stays."""
        now_s = self._advance()
        before, self._fetches = self._fetches, {}
        for known in before.values():
            self._keep_part(known, now_s)
        for order in orders:
            fetch = before.get(order.transfer)
            if fetch is None or (fetch.order.ticket != order.ticket and not fetch.done):
                kept_bytes = self._part_bytes.get(order.digest, 0.0)
                fetch = _Fetch(order=order, since_s=now_s, arrived_bytes=kept_bytes, kept_bytes=kept_bytes)
                self._schedule(fetch, order.rtt_ms / 1000)
            elif fetch.order.bytes_per_s != order.bytes_per_s and not (fetch.done or fetch.failed):
                self._note_arrived(fetch, now_s)
                fetch.order = order
                self._schedule(fetch, 0.0)
            self._fetches[order.transfer] = fetch
        self._advance()

    def links(self) -> tuple[LinkSeen, ...]:
        """None: links of a world are as they are declared."""
        return ()

    def seen(self) -> tuple[TransferSeen, ...]:
        now_s = self._advance()
        for fetch in self._fetches.values():
            if not (fetch.done or fetch.failed):
                self._note_arrived(fetch, now_s)
        return tuple(
            TransferSeen(
                transfer=name,
                done=fetch.done,
                failed=fetch.failed,
                arrived_bytes=int(fetch.arrived_bytes),
                moved_bytes=fetch.moved_bytes,
            )
            for name, fetch in sorted(self._fetches.items())
        )

    def close(self) -> None:
        """Nothing to do."""

    # ---------------------------------------------------------------- for the site and its faults

    @property
    def is_idle(self) -> bool:
        """Whether nothing is wanted."""
        return not self._fetches

    def next_s(self) -> int | None:
        """When the next fetch ends; None when none will."""
        ends = [f.ends_at_s for f in self._fetches.values() if not (f.done or f.failed)]
        return min((at_s for at_s in ends if at_s is not None), default=None)

    def going_on(self) -> tuple[str, ...]:
        """The transfers that have neither arrived nor failed."""
        self._advance()
        return tuple(name for name, fetch in self._fetches.items() if not (fetch.done or fetch.failed))

    def fail(self, transfer: str) -> None:
        """The connection breaks now."""
        fetch = self._fetches[transfer]
        self._note_arrived(fetch, self._advance())
        fetch.failed = "the connection broke"
        fetch.moved_bytes = int(fetch.arrived_bytes - fetch.kept_bytes)

    # ---------------------------------------------------------------- time

    def _schedule(self, fetch: _Fetch, delay_s: float) -> None:
        left_bytes = max(0.0, fetch.order.bytes - fetch.arrived_bytes)
        if fetch.order.digest in self._store:
            fetch.ends_at_s = fetch.since_s
        elif fetch.order.bytes_per_s > 0:
            takes_s = left_bytes / fetch.order.bytes_per_s + delay_s
            fetch.ends_at_s = fetch.since_s - int(-takes_s // 1)
        else:
            fetch.ends_at_s = None

    def _note_arrived(self, fetch: _Fetch, now_s: int) -> None:
        came_bytes = (now_s - fetch.since_s) * fetch.order.bytes_per_s
        fetch.arrived_bytes = min(float(fetch.order.bytes), fetch.arrived_bytes + came_bytes)
        fetch.since_s = now_s

    def _keep_part(self, fetch: _Fetch, now_s: int) -> None:
        """Chunks that arrived stay, whatever becomes of the fetch."""
        if not (fetch.done or fetch.failed):
            self._note_arrived(fetch, now_s)
        self._part_bytes[fetch.order.digest] = fetch.arrived_bytes

    def _advance(self) -> int:
        now_s = self._clock.now_s()
        for fetch in self._fetches.values():
            ends_at_s = fetch.ends_at_s
            if fetch.done or fetch.failed or ends_at_s is None or ends_at_s > now_s:
                continue
            if fetch.order.digest not in self._store and (why := self.refusal(fetch.order)):
                fetch.failed, fetch.arrived_bytes = why, fetch.kept_bytes
                continue
            fetch.done = True
            came_bytes = fetch.order.bytes - int(fetch.kept_bytes)
            fetch.moved_bytes = 0 if fetch.order.digest in self._store else came_bytes
            fetch.arrived_bytes = float(fetch.order.bytes)
            self._store[fetch.order.digest] = fetch.order.bytes
        return now_s


def _no_refusal(order: FetchOrder) -> str:
    return ""
