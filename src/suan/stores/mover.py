"""Brings artifacts from other sites' doors into this site's store, chunk by chunk.

Knows orders, rates and what has arrived. Does not know why something moves or over which link. What is in the
store counts as arrived, so a fetch goes on after any kill; everything is verified before it is kept.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import httpx

from suan.grid.action import FetchOrder, LinkSeen, ProbeOrder, TransferSeen
from suan.grid.artifact import Manifest
from suan.grid.error import SiteTrouble
from suan.ports import Store
from suan.stores.links import LinkProbes
from suan.stores.manifests import chunk_sizes, hash_of, manifest_from
from suan.stores.pace import Pace
from suan.stores.source import Gone, Source, Stopped

_BAD_TRIES = 3  # how often one chunk may come wrong
CHUNKS_AT_ONCE = 12  # hides the pause before each of them; a kill wastes half of each, so no more
_ROUNDS = 3  # a chunk may be taken away while others arrive, when an artifact that shares it is deleted


class ChunkMover:
    """`ports.Mover` into `store`; one thread a fetch, and a few more for its chunks.

    A source that cannot be reached, or does not know the ticket yet, is asked again for `patience_s`; then
    the fetch has failed. It begins anew when its order names another source or ticket.
    """

    def __init__(self, store: Store, patience_s: float = 120.0) -> None:
        self._store = store
        self._patience_s = patience_s
        self._fetches: dict[str, _Fetch] = {}
        self._links = LinkProbes(busy=self._is_fetching)
        # Sites reach each other directly: a proxy in the environment is for the world outside.
        self._client = httpx.Client(
            timeout=httpx.Timeout(30.0, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=False,
        )

    def want(self, orders: Sequence[FetchOrder], probes: Sequence[ProbeOrder] = ()) -> None:
        """The fetches that should be going on: starts the new, paces the known, drops the rest. The links
        that should be measured now and then.
        """
        self._links.want(probes)
        wanted = {order.transfer: order for order in orders}
        for transfer in [known for known in self._fetches if known not in wanted]:
            self._fetches.pop(transfer).stop()
        for transfer, order in wanted.items():
            fetch = self._fetches.get(transfer)
            if fetch and not fetch.outdated(order):
                fetch.repace(order)
                continue
            if fetch:
                fetch.stop()
            self._fetches[transfer] = _Fetch(order, self._store, self._client, self._patience_s)

    def seen(self) -> tuple[TransferSeen, ...]:
        """Where each wanted fetch stands, sorted by transfer."""
        return tuple(fetch.seen() for _, fetch in sorted(self._fetches.items()))

    def links(self) -> tuple[LinkSeen, ...]:
        """What is known of the wanted links by now."""
        return self._links.seen()

    def _is_fetching(self) -> bool:
        return any(not (seen.done or seen.failed) for seen in self.seen())

    def close(self) -> None:
        """Ends every fetch; what has arrived stays. Twice is once."""
        self._links.close()
        fetches = list(self._fetches.values())
        self._fetches.clear()
        for fetch in fetches:
            fetch.stop()
        for fetch in fetches:
            fetch.join(timeout_s=5.0)
        self._client.close()


class _Fetch:
    """One order being done, from its first request to done or failed."""

    def __init__(self, order: FetchOrder, store: Store, client: httpx.Client, patience_s: float) -> None:
        self._order = order
        self._store = store
        self._stopped = threading.Event()
        self._pace = Pace(order.bytes_per_s)
        self._source = Source(client, self._current_order, self._pace, self._stopped, patience_s)
        self._lock = threading.Lock()
        self._arrived_bytes = 0
        self._done = False
        self._failed = ""
        self._thread = threading.Thread(target=self._run, name=f"fetch-{order.transfer}", daemon=True)
        self._thread.start()

    def outdated(self, order: FetchOrder) -> bool:
        """Whether the order is for something else, or names a new way after this one has failed."""
        if order.digest != self._order.digest:
            return True
        old, new = self._order, order
        return bool(self._failed) and (old.source_url, old.ticket) != (new.source_url, new.ticket)

    def repace(self, order: FetchOrder) -> None:
        if order.bytes_per_s != self._order.bytes_per_s:
            self._pace.change(order.bytes_per_s)
        self._order = order

    def stop(self) -> None:
        self._stopped.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def seen(self) -> TransferSeen:
        with self._lock:
            return TransferSeen(
                transfer=self._order.transfer,
                done=self._done,
                failed=self._failed,
                arrived_bytes=self._arrived_bytes,
                moved_bytes=self._source.moved_bytes,
            )

    def _current_order(self) -> FetchOrder:
        return self._order

    def _run(self) -> None:
        try:
            self._bring(self._order.digest)
        except Stopped:
            return
        except (Gone, SiteTrouble) as error:
            self._end(failed=str(error))
        except Exception as error:  # a bug must not look like a fetch that goes on for ever
            self._end(failed=f"{type(error).__name__}: {error}")

    def _end(self, failed: str = "") -> None:
        with self._lock:
            self._done, self._failed = not failed, failed

    def _bring(self, digest: str) -> None:
        if self._store.has(digest):
            self._count(self._store.manifest(digest).bytes)
            return self._end()
        manifest = manifest_from(self._source.manifest(digest), digest)
        absent = self._absent(manifest)
        for _ in range(_ROUNDS):
            self._bring_chunks(manifest, absent)
            try:
                self._store.write_manifest(digest, manifest)
                return self._end()
            except SiteTrouble as trouble:
                if trouble.code != "missing":
                    raise
            absent = self._unreadable(manifest)
        raise Gone("its chunks are taken away as fast as they come")

    def _bring_chunks(self, manifest: Manifest, absent: set[str]) -> None:
        weights: dict[str, int] = {}  # a chunk that a folder needs twice brings twice its bytes
        for file in manifest.files:
            for chunk in file.chunks:
                weights[chunk.hash] = weights.get(chunk.hash, 0) + chunk.bytes
        sizes = chunk_sizes(manifest)
        with self._lock:
            self._arrived_bytes = sum(weight for hash, weight in weights.items() if hash not in absent)
        pool = ThreadPoolExecutor(CHUNKS_AT_ONCE, thread_name_prefix=self._thread.name)
        try:
            jobs = [
                pool.submit(self._bring_chunk, hash, sizes[hash], weights[hash])
                for hash in sizes
                if hash in absent
            ]
            finished, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in finished:
                job.result()
        except Exception:
            self._stopped.set()  # the other chunks need not come any more
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _absent(self, manifest: Manifest) -> set[str]:
        return {hash for hash in chunk_sizes(manifest) if not self._store.has_chunk(hash)}

    def _unreadable(self, manifest: Manifest) -> set[str]:
        """As `_absent`, but by reading: a chunk that was cut short by a fault is there, and of no use."""
        unreadable = set()
        for hash in chunk_sizes(manifest):
            try:
                self._store.read_chunk(hash)
            except SiteTrouble as trouble:
                if trouble.code not in ("missing", "corrupt"):
                    raise
                unreadable.add(hash)
        return unreadable

    def _bring_chunk(self, hash: str, size: int, weight: int) -> None:
        for _ in range(_BAD_TRIES):
            data = self._source.chunk(hash, size)
            if hash_of(data) == hash:
                self._store.write_chunk(hash, data)
                return self._count(weight)
        raise Gone(f"chunk {hash[:12]} came wrong {_BAD_TRIES} times from {self._order.source_url}")

    def _count(self, count: int) -> None:
        with self._lock:
            self._arrived_bytes += count
