"""The state of the whole grid: dictionaries of immutable nouns, and the indices that decisions need.

Only `rules/evolve.py` writes it. Everything iterated over is a dict, in the order in which things happened.
"""

from dataclasses import dataclass, field

from suan.grid.account import Entry, Key, Tenant, Usage
from suan.grid.artifact import Artifact, Transfer
from suan.grid.history import History
from suan.grid.job import Demand, Job, Run
from suan.grid.market import Clearing
from suan.grid.queue import Queue
from suan.grid.site import Link, Site, Tariff
from suan.grid.work import Estimates


@dataclass(slots=True)
class State:
    sequence: int = 0  # facts folded so far
    at_s: int = 0  # of the last fact
    started_at_s: int = 0  # when the present control plane took over
    tenants: dict[str, Tenant] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)  # by id
    key_by_hash: dict[str, str] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    links_at: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)  # site -> in and out of it
    tariffs: dict[str, tuple[Tariff, ...]] = field(
        default_factory=dict
    )  # site -> as they were set, newest last
    works: dict[str, Estimates] = field(default_factory=dict)  # what the performance model said
    jobs: dict[str, Job] = field(default_factory=dict)
    waiting: dict[str, Demand] = field(default_factory=dict)  # jobs in phase WAITING
    queues: dict[Demand, Queue] = field(default_factory=dict)  # the same, by demand
    stop_requested: dict[str, None] = field(default_factory=dict)  # jobs that somebody stopped, not ended yet
    runs: dict[str, Run] = field(default_factory=dict)
    open_runs: dict[str, dict[str, None]] = field(
        default_factory=dict
    )  # site -> runs not known to have ended
    runs_to_order: dict[str, dict[str, None]] = field(
        default_factory=dict
    )  # site -> of those, the runs that it is still to start or to stop
    valley_runs: dict[str, None] = field(default_factory=dict)  # of the open runs, those of valley jobs
    flexible_runs: dict[str, None] = field(
        default_factory=dict
    )  # of the open runs, those that may pause or change their size
    used_devices: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # (site, pool) -> devices of open runs
    tenant_devices: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # (tenant, accelerator) -> devices
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    latest: dict[str, int] = field(default_factory=dict)  # kind:name -> newest version
    writers: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # kind:name -> {unfinished job: output name}
    replicas: dict[str, dict[str, int]] = field(default_factory=dict)  # artifact -> {site: since}
    held: dict[str, dict[str, None]] = field(
        default_factory=dict
    )  # the same the other way: site -> artifacts
    nowhere: dict[str, None] = field(default_factory=dict)  # artifacts whose last copy has gone
    transfers: dict[str, Transfer] = field(default_factory=dict)
    open_transfers: dict[str, None] = field(default_factory=dict)
    transfers_at: dict[str, dict[str, None]] = field(default_factory=dict)  # site -> open ones in and out
    submissions: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)  # (tenant, key) -> jobs
    clearing: Clearing | None = None  # the newest prices
    history: History = field(default_factory=History)  # how long jobs took
    usage: dict[str, Usage] = field(default_factory=dict)  # run -> as metered at its end
    tokens: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # run -> requests, tokens in, out
    entries: list[Entry] = field(default_factory=list)
    balances: dict[str, int] = field(default_factory=dict)  # account -> micro-yuan
    settled: dict[str, None] = field(default_factory=dict)  # movements already in the ledger

    def tariff(self, site: str, at_s: int) -> Tariff | None:
        """The tariff in force at a site at a moment: the newest set whose validity covers it."""
        for tariff in reversed(self.tariffs.get(site, ())):
            if tariff.valid_from_s <= at_s and (tariff.valid_until_s is None or at_s < tariff.valid_until_s):
                return tariff
        return None

    def artifact(self, kind: str, name: str, version: int = 0) -> Artifact | None:
        """The artifact version, the newest when `version` is 0; None when there is none."""
        series = f"{kind}:{name}"
        return self.artifacts.get(f"{series}@{version or self.latest.get(series, 0)}")
