"""Everything that can have happened. The only thing that changes state; the order in the journal is the order
in time.

Every fact carries `at_s` from the grid's clock. A new class here needs one case in `rules/evolve.py` and one
snapshot in
`tests/replay/`. Fields are only ever added, with defaults: old journals stay readable.
"""

import msgspec

from suan.grid.account import Budget, Entry, Key, Quota, Usage
from suan.grid.action import OutputSeen
from suan.grid.artifact import Artifact
from suan.grid.job import Bid, Considered, EndCause, InputBinding, JobPhase, Task
from suan.grid.market import Clearing
from suan.grid.site import Link, Pool, Tariff
from suan.grid.work import Estimate, Work


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    at_s: int


# ---- the grid itself
class GridStarted(_Fact, frozen=True, kw_only=True, tag=True):
    """A control plane took over; every expiry clock starts anew at this moment."""

    version: str = ""


# ---- tenants and keys
class TenantSet(_Fact, frozen=True, kw_only=True, tag=True):
    tenant: str
    weight: float = 1.0
    quota: Quota = Quota()
    budget: Budget = Budget()
    waiting_microyuan_per_h: int = 1_000_000
    parent: str = ""


class KeyIssued(_Fact, frozen=True, kw_only=True, tag=True):
    key: Key


class KeyRevoked(_Fact, frozen=True, kw_only=True, tag=True):
    key: str


# ---- sites, links, tariffs
class SiteJoined(_Fact, frozen=True, kw_only=True, tag=True):
    site: str
    region: str = ""
    engine: str = "local"
    labels: dict[str, str] = {}


class SiteDescribed(_Fact, frozen=True, kw_only=True, tag=True):
    """The pools it has now, and where its data can be fetched."""

    site: str
    pools: tuple[Pool, ...]
    data_url: str = ""


class SiteSilent(_Fact, frozen=True, kw_only=True, tag=True):
    site: str


class SiteHeard(_Fact, frozen=True, kw_only=True, tag=True):
    """A silent site spoke again, within its lease: its runs are as they were."""

    site: str


class SiteFenced(_Fact, frozen=True, kw_only=True, tag=True):
    """It was silent for longer than its lease and its grace: its runs have been stopped by itself."""

    site: str


class SiteReturned(_Fact, frozen=True, kw_only=True, tag=True):
    """A fenced site spoke again and starts a new epoch."""

    site: str
    epoch: int


class SiteDraining(_Fact, frozen=True, kw_only=True, tag=True):
    site: str
    draining: bool = True


class LinkSet(_Fact, frozen=True, kw_only=True, tag=True):
    link: Link


class TariffSet(_Fact, frozen=True, kw_only=True, tag=True):
    tariff: Tariff


# ---- jobs and runs
class WorkEstimated(_Fact, frozen=True, kw_only=True, tag=True):
    """What the performance model says of a work on more kinds of nodes; jobs name the work."""

    name: str
    work: Work
    on: dict[str, Estimate]  # by `place_name`


class JobSubmitted(_Fact, frozen=True, kw_only=True, tag=True):
    job: str
    tenant: str
    task: Task
    pipeline: str = ""
    inputs: dict[str, InputBinding] = {}
    idempotency_key: str = ""
    work: str = ""


class JobStopRequested(_Fact, frozen=True, kw_only=True, tag=True):
    job: str
    by: str = ""


class JobEnded(_Fact, frozen=True, kw_only=True, tag=True):
    job: str
    phase: JobPhase
    outcome: str
    metrics: dict[str, float] = {}


class RunPlaced(_Fact, frozen=True, kw_only=True, tag=True):
    """The order to start a run, written before it is sent."""

    run: str
    job: str
    bid: Bid
    considered: Considered
    inputs: dict[str, str] = {}


class RunStarted(_Fact, frozen=True, kw_only=True, tag=True):
    run: str
    started_at_s: int


class RunEndpoint(_Fact, frozen=True, kw_only=True, tag=True):
    """A service's run answers at this address."""

    run: str
    endpoint: str


class RunStopOrdered(_Fact, frozen=True, kw_only=True, tag=True):
    run: str
    why: str


class RunEnded(_Fact, frozen=True, kw_only=True, tag=True):
    run: str
    cause: EndCause
    exit_code: int | None = None
    ended_at_s: int | None = None
    detail: str = ""
    usage: Usage = Usage()
    outputs: dict[str, OutputSeen] = {}
    metrics: dict[str, float] = {}


# ---- artifacts
class ArtifactCommitted(_Fact, frozen=True, kw_only=True, tag=True):
    """A version exists. Written only for the run that the grid holds for its job, or for a person's `put`."""

    artifact: Artifact
    output: str = ""  # the name the job gave it


class ReplicaAdded(_Fact, frozen=True, kw_only=True, tag=True):
    artifact: str
    site: str


class ReplicaRemoved(_Fact, frozen=True, kw_only=True, tag=True):
    artifact: str
    site: str


class TransferOrdered(_Fact, frozen=True, kw_only=True, tag=True):
    transfer: str
    artifact: str
    source: str
    destination: str
    job: str = ""
    considered: Considered | None = None


class TransferEnded(_Fact, frozen=True, kw_only=True, tag=True):
    transfer: str
    moved_bytes: int = 0
    failed: str = ""


# ---- the market
class MarketCleared(_Fact, frozen=True, kw_only=True, tag=True):
    """New clearing prices; they hold until the next such fact."""

    clearing: Clearing


# ---- money
class Metered(_Fact, frozen=True, kw_only=True, tag=True):
    """Use of a service that is counted while it runs: requests and tokens since the last such fact."""

    run: str
    tenant: str
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Settled(_Fact, frozen=True, kw_only=True, tag=True):
    """Balanced entries; written once for each movement."""

    entries: tuple[Entry, ...]


Fact = (
    GridStarted
    | TenantSet
    | KeyIssued
    | KeyRevoked
    | SiteJoined
    | SiteDescribed
    | SiteSilent
    | SiteHeard
    | SiteFenced
    | SiteReturned
    | SiteDraining
    | LinkSet
    | TariffSet
    | WorkEstimated
    | JobSubmitted
    | JobStopRequested
    | JobEnded
    | RunPlaced
    | RunStarted
    | RunEndpoint
    | RunStopOrdered
    | RunEnded
    | ArtifactCommitted
    | ReplicaAdded
    | ReplicaRemoved
    | TransferOrdered
    | TransferEnded
    | MarketCleared
    | Metered
    | Settled
)
