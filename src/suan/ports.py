"""The contracts of everything that touches the outside: Engine, Store, Mover, Feed, Journal, Clock.

Adapters implement these and hold no decisions. One conformance suite a port runs against every adapter, the
simulated ones included. Trouble outside is raised as `SiteTrouble` and becomes an observation; nothing else
leaves an adapter.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from suan.grid.account import Usage
from suan.grid.action import FetchOrder, LaunchOrder, LinkSeen, ProbeOrder, RunSeen, TransferSeen
from suan.grid.artifact import Manifest
from suan.grid.fact import Fact
from suan.grid.job import EndCause, RunPhase
from suan.grid.site import Pool, Tariff


class Clock(Protocol):
    def now_s(self) -> int:
        """Seconds since 1970 UTC."""
        ...


# ---------------------------------------------------------------- journal


class Journal(Protocol):
    """The facts, in order, durable. One writer at a time; sequences count from 1 without gaps."""

    def head(self) -> int:
        """Sequence of the last fact, 0 when empty."""
        ...

    def append(self, facts: Sequence[Fact], after_seq: int) -> int:
        """The new head. The facts can be read by this process at once and are durable after `sync`.

        Raises: NotNow `journal_moved` when the head is not `after_seq`; nothing is written then.
        """
        ...

    def sync(self) -> None:
        """Returns when everything appended is on stable storage."""
        ...

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, Fact]]:
        """(sequence, fact) in order."""
        ...

    def close(self) -> None: ...


# ---------------------------------------------------------------- engine


class LaunchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One run, ready to start: every artifact is a folder by now, every variable is set."""

    run: str
    job: str
    pool: str
    accelerator: str
    nodes: int
    devices_per_node: int
    command: str  # shell text, run once on every node
    folder: Path  # working folder, exists
    setup: str = ""
    env: dict[str, str] = {}
    memory_gib: float = 0.0  # limit per node, 0 = none
    max_duration_s: int | None = None
    grace_s: int = 10
    port: int = 0  # where a service listens, at SUAN_HOST; 0 = the engine chooses and says so in SUAN_PORT
    service: bool = False
    duration_s: int | None = None  # simulated engines


class EngineRun(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine knows about one run: a level, not an event."""

    run: str
    phase: RunPhase  # ORDERED (accepted, not started), RUNNING, STOPPING or ENDED
    started_at_s: int | None = None
    ended_at_s: int | None = None
    exit_code: int | None = None  # of the first node that failed, else 0; -N: ended by signal N
    cause: EndCause | None = None  # when ENDED
    detail: str = ""
    usage: Usage | None = None
    address: str = "127.0.0.1"  # of its first node, as the agent's machine reaches it
    port: int = 0
    devices: tuple[int, ...] = ()  # indices on its pool, where the engine pins them itself


def spec_of(order: LaunchOrder, folder: Path, env: dict[str, str]) -> LaunchSpec:
    """The order as an engine takes it, once its artifacts are folders and its variables are set."""
    return LaunchSpec(
        run=order.run,
        job=order.job,
        pool=order.pool,
        accelerator=order.accelerator,
        nodes=order.nodes,
        devices_per_node=order.devices_per_node,
        command=order.command,
        setup=order.setup,
        folder=folder,
        env=env,
        memory_gib=order.memory_gib,
        max_duration_s=order.max_duration_s,
        grace_s=order.grace_s,
        service=order.service,
        duration_s=order.duration_s,
    )


def seen_of(run: EngineRun, progress: dict[str, float | str]) -> RunSeen:
    """The run as its engine has it, in a site's words to the grid."""
    return RunSeen(
        run=run.run,
        phase=run.phase,
        started_at_s=run.started_at_s,
        ended_at_s=run.ended_at_s,
        cause=run.cause,
        exit_code=run.exit_code,
        detail=run.detail,
        usage=run.usage,
        progress=progress,
    )


class Engine(Protocol):
    """Starts work at a site. Idempotent on the run's id; remembers ended runs until `forget`."""

    def pools(self) -> tuple[Pool, ...]:
        """What the site has."""
        ...

    def launch(self, spec: LaunchSpec) -> None:
        """Starts the run unless a run of this id is known already (running or ended).

        Raises: SiteTrouble `no_devices` when the pool has too few free devices, `launch_failed`.
        """
        ...

    def stop(self, run: str, grace_s: int) -> None:
        """SIGTERM now, SIGKILL after the grace. Unknown or ended runs: nothing. The exit shows in `runs`."""
        ...

    def runs(self) -> tuple[EngineRun, ...]:
        """Every run that exists or has ended and is not forgotten, sorted by id."""
        ...

    def log(self, run: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of the run's output from `offset`; empty at the end or for unknown runs."""
        ...

    def forget(self, run: str) -> None:
        """Drops the remains of an ended run. Unknown runs: nothing. A running run is not forgotten."""
        ...

    def renew_lease(self, seconds: int) -> None:
        """Runs may go on for `seconds` from now; when a lease ends unrenewed, the engine stops them all
        (FENCED).
        """
        ...


# ---------------------------------------------------------------- stores


class Store(Protocol):
    """Content-addressed folders at one site. Everything read is verified against its hash."""

    def put_folder(self, folder: Path) -> tuple[str, Manifest]:
        """(digest, manifest) of the folder, its chunks now in the store. Twice is once.

        Raises: Refused `bad_path` for links that leave the folder or names that cannot travel.
        """
        ...

    def checkout(self, digest: str, folder: Path) -> None:
        """Makes `folder` hold exactly this content, all or nothing, files read-only.

        Raises: SiteTrouble `missing` or `corrupt`.
        """
        ...

    def manifest(self, digest: str) -> Manifest:
        """Raises: SiteTrouble `missing` or `corrupt`."""
        ...

    def has(self, digest: str) -> bool:
        """Whether the manifest and every chunk are here."""
        ...

    def digests(self) -> tuple[str, ...]:
        """Complete artifacts here, sorted."""
        ...

    def read_chunk(self, hash: str) -> bytes:
        """Raises: SiteTrouble `missing` or `corrupt`."""
        ...

    def has_chunk(self, hash: str) -> bool: ...

    def write_chunk(self, hash: str, data: bytes) -> None:
        """Raises: SiteTrouble `corrupt` when the data do not have this hash; nothing is kept then."""
        ...

    def write_manifest(self, digest: str, manifest: Manifest) -> None:
        """Completes an artifact whose chunks are all here.

        Raises: SiteTrouble `corrupt` (digest differs) or `missing` (a chunk is not here).
        """
        ...

    def delete(self, digest: str) -> int:
        """Bytes freed: chunks that no other manifest needs. Unknown digests: 0."""
        ...


class Mover(Protocol):
    """Brings artifacts from other sites into this site's store; resumes where a kill left it."""

    def want(self, orders: Sequence[FetchOrder], probes: Sequence[ProbeOrder] = ()) -> None:
        """The fetches that should be going on: starts the new, paces the known, drops the rest. The links
        that should be measured now and then.
        """
        ...

    def seen(self) -> tuple[TransferSeen, ...]:
        """Where each wanted fetch stands."""
        ...

    def links(self) -> tuple[LinkSeen, ...]:
        """What is known of the wanted links by now."""
        ...

    def close(self) -> None: ...


class Feed(Protocol):
    """Tariffs from outside: a file, a market."""

    def tariffs(self) -> tuple[Tariff, ...]: ...
