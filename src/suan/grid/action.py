"""What `decide` wants done (Plan), what a site is told (Orders) and what it answers (Observation).

Orders and observations are levels: the whole of what should be, the whole of what is. Doing an order twice is
doing it once, because its id is the run's or the transfer's.
"""

import hashlib

import msgspec

from suan.grid.account import Usage
from suan.grid.job import Bid, Considered, Demand, EndCause, Reason, RunPhase
from suan.grid.market import Clearing
from suan.grid.site import Pool

# ---------------------------------------------------------------- the plan


class PlaceRun(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start a job now, at its chosen bid."""

    job: str
    run: str
    bid: Bid
    considered: Considered
    inputs: dict[str, str] = {}


class StopRun(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    run: str
    why: str


class MoveArtifact(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Copy an artifact over a link so that a job can run where that is best."""

    transfer: str
    artifact: str
    source: str
    destination: str
    job: str
    considered: Considered | None = None


class EndJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A job that can never run any more: its input failed, it was stopped before it began, it would cost too
    much.
    """

    job: str
    phase: str
    outcome: str


Action = PlaceRun | StopRun | MoveArtifact | EndJob


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that should happen at one instant, and why the rest must wait."""

    at_s: int
    actions: tuple[Action, ...] = ()
    reasons: dict[str, Reason] = {}  # job -> why it waits, for those looked at one by one
    demand_reasons: dict[Demand, Reason] = {}  # the same for all other jobs that ask for the same
    wake_at_s: int | None = None  # when time alone may change the answer
    clearing: Clearing | None = None  # new prices, when this plan made some


# ---------------------------------------------------------------- grid -> site


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One run that should exist. Artifacts are named by digest; the agent turns them into folders."""

    run: str
    job: str
    job_name: str
    tenant: str
    pool: str
    accelerator: str
    nodes: int
    devices_per_node: int
    command: str
    setup: str = ""
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    inputs: dict[str, str] = {}  # name -> digest
    outputs: tuple[str, ...] = ()  # names
    mounts: dict[str, str] = {}  # path in the run's folder -> digest
    workdir: str = ""  # digest
    args_json: str = ""  # the recipe's arguments
    memory_gib: float = 0.0
    checkpoint: bool = False
    max_duration_s: int | None = None
    service: bool = False
    grace_s: int = 10  # from SIGTERM to SIGKILL
    duration_s: int | None = None  # what a simulated engine needs to know


class StopOrder(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    why: str
    grace_s: int = 10


class FetchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Bring one artifact's chunks here, no faster than this site's share of the link."""

    transfer: str
    digest: str
    bytes: int
    source_url: str
    ticket: str  # bearer secret that the source honours for this digest
    bytes_per_s: float
    rtt_ms: float = 0.0


def ticket_hash(secret: str) -> str:
    """BLAKE2b-256 of a ticket's secret, hex. Secrets are random and long: no salt, no stretching."""
    return hashlib.blake2b(secret.encode(), digest_size=32).hexdigest()


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """Told to the source: whoever shows a secret with this hash may read this digest."""

    ticket_hash: str
    digest: str
    bytes_per_s: float
    rtt_ms: float = 0.0


PROBE_DIGEST = "probe"  # what a ticket for probes names in place of an artifact


class ProbeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Measure the link from this source, now and then."""

    source: str
    source_url: str
    ticket: str


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one site should be doing."""

    site: str
    epoch: int
    version: int  # of what is wanted: who waits for news is answered once it is another
    now_s: int
    lease_s: int
    launch: tuple[LaunchOrder, ...] = ()
    stop: tuple[StopOrder, ...] = ()
    fetch: tuple[FetchOrder, ...] = ()
    tickets: tuple[Ticket, ...] = ()
    forget: tuple[str, ...] = ()  # runs whose end is recorded: their remains may go
    keep: tuple[str, ...] | None = None  # digests that must stay in the store, told after a full report
    probes: tuple[ProbeOrder, ...] = ()


# ---------------------------------------------------------------- site -> grid


class OutputSeen(msgspec.Struct, frozen=True, kw_only=True):
    digest: str
    bytes: int
    files: int


class RunSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One run as its site sees it now."""

    run: str
    phase: RunPhase
    started_at_s: int | None = None
    ended_at_s: int | None = None
    cause: EndCause | None = None
    exit_code: int | None = None  # negative: ended by that signal
    detail: str = ""
    usage: Usage | None = None
    outputs: dict[str, OutputSeen] = {}
    metrics: dict[str, float] = {}
    progress: dict[str, float | str] = {}  # the newest line of $SUAN_PROGRESS
    endpoint: str = ""


class TransferSeen(msgspec.Struct, frozen=True, kw_only=True):
    transfer: str
    done: bool = False
    failed: str = ""  # why, "" while it goes on
    arrived_bytes: int = 0  # of the artifact, those already there included
    moved_bytes: int = 0  # over the link


class LinkSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The median of the newest probes of a link into this site."""

    source: str
    mbit_per_s: float
    rtt_ms: float
    probes: int
    age_s: int  # of the newest


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What is there. `full` means that a run or digest not named does not exist at this site."""

    site: str
    epoch: int
    full: bool = False
    runs: tuple[RunSeen, ...] = ()
    transfers: tuple[TransferSeen, ...] = ()
    replicas: tuple[str, ...] = ()  # digests in the store, when full
    pools: tuple[Pool, ...] = ()  # when full
    data_url: str = ""
    fenced: bool = False  # it stopped its runs because its lease ended
    knows_s: int | None = None  # `now_s` of the newest orders it had obeyed when it made this report
    links: tuple[LinkSeen, ...] = ()  # when full
