"""What the links into this site are like, by asking the doors at their other ends for a few bytes now and
then.

Knows probes: round trip, then rate over as many connections as a fetch uses. Does not know what a link is
for. A probe is small and rare, and none is made while this site fetches: it would measure its own fetch.
"""

import random
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from suan.grid.action import LinkSeen, ProbeOrder

PROBE_MAX_BYTES = 4 << 20  # of one connection: 16 MiB in all, 1.3 s of 100 Mbit/s every quarter of an hour
PROBE_STREAMS = 4
_ROUND_TRIPS = 3
_FIRST_S = (1.0, 30.0)  # before the first probe: sites that start together do not measure together
_EVERY_S = 900.0
_AGAIN_S = 60.0  # after a probe that failed, and until there are enough
ENOUGH = 3  # probes before anything is believed
_KEPT = 5  # probes in the median
_OLD_S = 6 * 3600.0
_LOOK_S = 1.0
_LONGEST_S = 3.0  # of one probe's bytes: a slow link is known by then
_BLOCK_BYTES = 64 << 10


@dataclass
class _Link:
    order: ProbeOrder
    due_s: float  # on the monotonic clock
    probes: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_KEPT))


class LinkProbes:
    """Measures in a thread of its own from the first order to `close`. `busy`: whether this site fetches."""

    def __init__(self, busy: Callable[[], bool], every_s: float = _EVERY_S) -> None:
        self._busy, self._every_s = busy, every_s
        self._lock = threading.Lock()
        self._links: dict[str, _Link] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self, orders: Sequence[ProbeOrder]) -> None:
        """The links to know about. A new one is measured soon, all of them at moments of their own."""
        now_s = time.monotonic()
        with self._lock:
            known, self._links = self._links, {}
            for order in orders:
                link = known.get(order.source) or _Link(order, now_s + random.uniform(*_FIRST_S))
                link.order = order
                self._links[order.source] = link
        if orders and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="links", daemon=True)
            self._thread.start()

    def seen(self) -> tuple[LinkSeen, ...]:
        """The median of each link's newest probes, sorted by source; links that were not measured often
        enough are not there.
        """
        with self._lock:
            found = [_seen(link) for _, link in sorted(self._links.items())]
        return tuple(seen for seen in found if seen is not None)

    def close(self) -> None:
        """Twice is once."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_LOOK_S):
            with self._lock:
                due = [link for link in self._links.values() if link.due_s <= time.monotonic()]
            if due and not self._busy():
                self._probe(random.choice(due))

    def _probe(self, link: _Link) -> None:
        order = link.order
        try:
            rtt_s, mbit_per_s = probe(order.source_url, order.ticket)
        except (httpx.HTTPError, httpx.InvalidURL):
            link.due_s = time.monotonic() + _AGAIN_S
            return
        with self._lock:
            if not self._busy():  # a fetch that began meanwhile had its part of the link
                link.probes.append((time.monotonic(), mbit_per_s, rtt_s * 1000))
            pause_s = _AGAIN_S if len(link.probes) < ENOUGH else self._every_s
            link.due_s = time.monotonic() + pause_s * random.uniform(1.0, 1.2)


def probe(url: str, ticket: str) -> tuple[float, float]:
    """(seconds of a round trip, Mbit/s) from the door at `url`.

    The rate is counted once every connection has begun to bring bytes; what comes in the first part of it,
    while TCP still finds its rate, does not count.

    Raises: httpx.HTTPError, httpx.InvalidURL.
    """
    headers = {"authorization": f"Bearer {ticket}", "accept-encoding": "identity"}
    address = f"{url.rstrip('/')}/probe"
    with httpx.Client(timeout=10.0, trust_env=False, headers=headers) as client:
        client.get(address, params={"bytes": 0}).raise_for_status()  # connects
        trips = []
        for _ in range(_ROUND_TRIPS):
            began_s = time.monotonic()
            client.get(address, params={"bytes": 0}).raise_for_status()
            trips.append(time.monotonic() - began_s)
        arrivals: list[tuple[float, int]] = []  # appended by all threads
        until_s = time.monotonic() + _LONGEST_S

        def stream(_: int) -> None:
            with client.stream("GET", address, params={"bytes": PROBE_MAX_BYTES}) as answer:
                answer.raise_for_status()
                for block in answer.iter_raw(_BLOCK_BYTES):
                    arrivals.append((time.monotonic(), len(block)))
                    if time.monotonic() > until_s:
                        return

        with ThreadPoolExecutor(PROBE_STREAMS) as pool:
            list(pool.map(stream, range(PROBE_STREAMS)))
    return min(trips), _rate_mbit(sorted(arrivals))


def _rate_mbit(arrivals: list[tuple[float, int]]) -> float:
    """Of the middle half of the bytes: neither the start of TCP nor the last connection alone counts."""
    total = sum(size for _, size in arrivals)
    gone, middle = 0, []
    for at_s, size in arrivals:
        gone += size
        if 0.25 * total <= gone <= 0.75 * total:
            middle.append((at_s, size))
    if len(middle) < 2:
        return 0.0
    took_s = max(middle[-1][0] - middle[0][0], 1e-6)
    return sum(size for _, size in middle[1:]) * 8 / took_s / 1e6


def _seen(link: _Link) -> LinkSeen | None:
    fresh = [one for one in link.probes if one[0] > time.monotonic() - _OLD_S]
    rates = [rate for _, rate, _ in fresh if rate > 0]
    if len(rates) < ENOUGH:
        return None
    return LinkSeen(
        source=link.order.source,
        mbit_per_s=statistics.median(rates),
        rtt_ms=statistics.median(trip for _, _, trip in fresh),
        probes=len(rates),
        age_s=int(time.monotonic() - fresh[-1][0]),
    )
