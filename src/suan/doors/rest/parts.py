"""What the endpoints work on: one grid, its logs, its store, its news, its meter, its metrics, its relay."""

from dataclasses import dataclass, field
from typing import Protocol

import httpx

from suan.control.loop import Grid
from suan.doors.rest.metric_counts import Metrics
from suan.doors.rest.news import News
from suan.doors.rest.questions import Relay
from suan.doors.socket.meter import Meter
from suan.doors.socket.relayed import RelayTransport
from suan.doors.socket.upstream import new_client
from suan.grid.artifact import Manifest


class Logs(Protocol):
    """Runs' logs by offset: `stores.logs.LogFolder`."""

    def append(self, run: str, offset: int, data: bytes) -> int: ...

    def read(self, run: str, offset: int, limit: int) -> bytes: ...

    def size(self, run: str) -> int: ...


class GridStore(Protocol):
    """The part of a store that uploads and downloads need: `stores.artifacts.ArtifactStore`."""

    def has(self, digest: str) -> bool: ...

    def has_chunk(self, hash: str) -> bool: ...

    def read_chunk(self, hash: str) -> bytes: ...

    def write_chunk(self, hash: str, data: bytes) -> None: ...

    def read_manifest(self, digest: str) -> bytes: ...

    def write_manifest(self, digest: str, manifest: Manifest) -> None: ...

    def absent_chunks(self, manifest: Manifest) -> list[str]: ...


@dataclass(slots=True)
class Parts:
    grid: Grid
    logs: Logs
    store: GridStore
    news: News
    meter: Meter
    metrics: Metrics
    relay: Relay = field(default_factory=Relay)
    upstream: httpx.AsyncClient = field(init=False)  # to the engines of services

    def __post_init__(self) -> None:
        self.upstream = new_client(relayed=RelayTransport(self.relay))
