"""Another site's door, asked for bytes: paced, stoppable, and asked again while there is hope.

Knows HTTP and patience. Does not know what the bytes mean; whoever asks verifies them.
"""

import random
import threading
import time
from collections.abc import Callable

import httpx

from suan.grid.action import FetchOrder
from suan.stores.pace import Pace

_BLOCK_BYTES = 64 << 10
_MANIFEST_BYTES = 256 << 20  # at most: 8 TB of chunks
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Stopped(Exception):
    """The fetch is not wanted any more."""


class Gone(Exception):
    """There is no hope of getting it from this source; says why."""


class Source:
    """One order's source. Its threads share the rate and the patience: whatever arrives renews it.

    A refused ticket is a reason to wait, too: the source hears of it only when it next asks the grid.
    """

    def __init__(
        self,
        client: httpx.Client,
        order: Callable[[], FetchOrder],
        pace: Pace,
        stopped: threading.Event,
        patience_s: float,
    ) -> None:
        self._client = client
        self._order = order
        self._pace = pace
        self._stopped = stopped
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._heard_s = time.monotonic()
        self.moved_bytes = 0  # over the link, wrong and repeated ones included

    def manifest(self, digest: str) -> bytes:
        """The bytes that the source has for this manifest, not verified.

        Raises: Stopped or Gone.
        """
        return self._ask(f"manifests/{digest}", {}, _MANIFEST_BYTES)

    def chunk(self, hash: str, size: int) -> bytes:
        """The bytes that the source has for this chunk, at most `size`, not verified.

        Raises: Stopped or Gone.
        """
        return self._ask(f"chunks/{hash}", {"digest": self._order().digest}, size)

    def _ask(self, path: str, query: dict[str, str], limit: int) -> bytes:
        pause_s = _FIRST_PAUSE_S
        while True:
            if self._stopped.is_set():
                raise Stopped
            try:
                return self._read(path, query, limit)
            except httpx.HTTPStatusError as error:
                trouble = f"answered {error.response.status_code}"
            except httpx.InvalidURL as error:
                raise Gone(f"{self._order().source_url!r} is not an address: {error}") from error
            except httpx.HTTPError as error:
                trouble = f"{type(error).__name__}: {error}"
            if time.monotonic() - self._heard_s > self._patience_s:
                raise Gone(f"{self._order().source_url} gave nothing for {self._patience_s:.0f} s: {trouble}")
            # Spread out, so that chunks and fetches that failed together do not come back together.
            self._stopped.wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _read(self, path: str, query: dict[str, str], limit: int) -> bytes:
        order = self._order()
        headers = {"authorization": f"Bearer {order.ticket}", "accept-encoding": "identity"}
        url = f"{order.source_url.rstrip('/')}/{path}"
        data = bytearray()
        with self._client.stream("GET", url, params=query, headers=headers) as response:
            response.raise_for_status()
            for block in response.iter_raw(_BLOCK_BYTES):
                data += block
                with self._lock:
                    self.moved_bytes += len(block)
                    self._heard_s = time.monotonic()
                if len(data) > limit:
                    break  # more than was promised cannot be right: the hash will say so
                self._wait_for(len(block))
        return bytes(data)

    def _wait_for(self, count: int) -> None:
        place = self._pace.ask(count)
        while (wait_s := self._pace.wait_s(place)) > 0:
            if self._stopped.wait(min(wait_s, 0.5)):
                raise Stopped
