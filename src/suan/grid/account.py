"""Who pays, what they may use, what a bid would cost, and the ledger.

Knows tenants, keys, quotas, quotes and entries. Does not know how any of them is decided.
"""

import enum

import msgspec


class Role(enum.StrEnum):
    """What a key may do; each includes the ones before it. `site` keys drive one site and nothing else."""

    VIEWER = "viewer"
    MEMBER = "member"
    OPERATOR = "operator"
    ADMIN = "admin"
    SITE = "site"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer key; only its hash is kept."""

    id: str
    hash: str  # blake2b of the secret, hex
    role: Role
    tenant: str = ""  # "" for operators, admins and sites
    site: str = ""
    label: str = ""
    one_time: bool = False  # a join token: one use, then revoked
    expires_at_s: int | None = None


ANY_KIND = "*"  # in a quota: each kind that is not named


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """Devices a tenant is guaranteed at any moment, how many more it may borrow, and how many of its idle
    ones others may use; by accelerator kind, `*` for each kind that is not named.

    A kind that nothing is said of: no guarantee; below a parent no limit to borrowing, without one none to
    borrow from; all that is idle is lent.
    """

    nominal_devices: dict[str, int] = {}
    borrow_devices: dict[str, int] = {}
    lend_devices: dict[str, int] = {}
    max_waiting_jobs: int = 100_000


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    limit_microyuan: int | None = None  # None: no limit
    warn_ratio: float = 0.8


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays. Tenants form a tree: what those below one parent leave idle, they lend to each other."""

    name: str
    parent: str = ""  # another tenant, "" for none
    weight: float = 1.0  # its share among those of the same parent
    quota: Quota = Quota()
    budget: Budget = Budget()
    waiting_microyuan_per_h: int = 1_000_000  # what an hour of waiting costs it, per job


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """The money terms of one bid, in micro-yuan, and the physical amounts behind them."""

    machine_microyuan: int = 0
    electricity_microyuan: int = 0
    carbon_microyuan: int = 0
    move_microyuan: int = 0
    wait_microyuan: int = 0
    late_microyuan: int = 0
    preemption_microyuan: int = 0
    wait_s: int = 0
    move_s: int = 0
    run_s: int = 0
    is_length_guessed: bool = False  # electricity and carbon are then means over how long it may run
    late_s: int = 0
    move_bytes: int = 0
    energy_kwh: float = 0.0
    carbon_gco2: float = 0.0
    microyuan_per_kwh: int = 0  # mean over the very hours it would run, PUE not included
    pue: float = 1.0
    power_w: float = 0.0  # IT power of its devices and their part of the host
    machine_microyuan_per_device_h: int = 0
    carbon_microyuan_per_kg: int = 0
    tariff_source: str = ""

    @property
    def total_microyuan(self) -> int:
        return (
            self.machine_microyuan
            + self.electricity_microyuan
            + self.carbon_microyuan
            + self.move_microyuan
            + self.wait_microyuan
            + self.late_microyuan
            + self.preemption_microyuan
        )

    @property
    def billed_microyuan(self) -> int:
        """What the tenant would pay: without waiting, lateness and risk, which are felt but not invoiced."""
        return (
            self.machine_microyuan + self.electricity_microyuan + self.carbon_microyuan + self.move_microyuan
        )


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one run really took, as its site metered it."""

    device_s: float = 0.0
    cpu_s: float = 0.0
    energy_kwh: float = 0.0  # IT energy, PUE not included
    energy_source: str = "modelled"  # measured | modelled
    energy_meter: str = ""  # which meter it was measured by
    peak_memory_gib: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a movement of money. The entries of a movement sum to zero.

    Accounts: `tenant:NAME`, `site:NAME:machine`, `site:NAME:electricity`, `carbon`, `link:A>B`,
    `site:NAME:lost`.
    """

    movement: str  # what it belongs to: a run, a transfer
    account: str
    amount_microyuan: int  # > 0 receives, < 0 pays
    what: str = ""
    quantity: float = 0.0
    unit: str = ""
    unit_price_microyuan: float = 0.0
    at_s: int = 0
    job: str = ""
    site: str = ""
