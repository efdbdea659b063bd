"""Every metric of the grid: its name, kind, labels and meaning. docs/reference/metrics.md is made from it.

Knows names only. Units follow Prometheus: seconds, bytes, joules, ratios; money is in yuan. Labels are names
of things of which there are few: sites, pools, tenants, services. None carries a job's or a run's id, and the
names of each sort end at a number (`Few`), after which all others share the label `other`.
Source: prometheus.io/docs/practices/naming; every answer passes `promtool check metrics`.
"""

from typing import NamedTuple

OTHER = "other"


class Family(NamedTuple):
    """One metric. `kind` is gauge, counter or histogram; a counter's samples end in _total."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Few:
    """The first names of a sort as they are, all later ones as `other`: labels that cannot grow for ever."""

    def __init__(self, limit: int) -> None:
        self._limit, self._names = limit, dict[str, None]()

    def __call__(self, name: str) -> str:
        if name not in self._names:
            if len(self._names) >= self._limit:
                return OTHER
            self._names[name] = None
        return name


# Read off the state when somebody asks.
READ = (
    Family("suan_build_info", "gauge", ("version",), "1, for this version."),
    Family("suan_leader", "gauge", (), "1 while this control plane decides, 0 while it follows another."),
    Family(
        "suan_trouble", "gauge", ("what",), "1 while so: stopped (no answers), holding (no plan carried out)."
    ),
    Family(
        "suan_plan_age_seconds",
        "gauge",
        (),
        "Since the newest plan was made, which is when something changed.",
    ),
    Family(
        "suan_plan_gap_ratio", "gauge", (), "How far the plan behind the prices can be from the best one."
    ),
    Family("suan_journal_facts", "counter", (), "Facts in the journal."),
    Family("suan_jobs", "gauge", ("tenant", "phase"), "Jobs that have not ended: waiting or placed."),
    Family("suan_queue_jobs", "gauge", ("reason",), "Waiting jobs by the reason that the newest plan gives."),
    Family("suan_runs", "gauge", ("site", "phase"), "Runs not known to have ended."),
    Family("suan_sites", "gauge", ("phase",), "Sites that have joined, the grid's own store not counted."),
    Family("suan_site_lease_age_seconds", "gauge", ("site",), "Since the site was last heard."),
    Family("suan_lease_seconds", "gauge", (), "Silence after which a site counts as silent."),
    Family(
        "suan_devices",
        "gauge",
        ("site", "pool", "accelerator", "use"),
        "Devices used, free, or out_of_reach: idle at a site that is silent, fenced or draining.",
    ),
    Family(
        "suan_clearing_price_yuan_per_device_hour",
        "gauge",
        ("site", "pool"),
        "What an hour of a device is worth now beyond its cost.",
    ),
    Family(
        "suan_link_bytes_per_second",
        "gauge",
        ("source", "destination", "origin"),
        "What the link is taken to carry, as it was declared or measured.",
    ),
    Family("suan_transfers", "gauge", (), "Artifacts on their way between sites."),
    Family("suan_transfer_pending_bytes", "gauge", (), "Of these, bytes that have not arrived."),
    Family("suan_tenant_paid_yuan", "counter", ("tenant",), "What the tenant's account has paid."),
    Family(
        "suan_site_earned_yuan",
        "counter",
        ("site", "what"),
        "What the site has received: machine, electricity.",
    ),
    Family(
        "suan_site_lost_yuan", "counter", ("site",), "Cost of runs that the site lost: no tenant pays it."
    ),
)

# Counted as it happens. Totals of what the journal knows begin with the journal, the others with the process.
COUNTED = (
    Family("suan_facts", "counter", ("kind",), "Facts since this process started, by kind."),
    Family("suan_jobs_submitted", "counter", ("tenant",), "Jobs submitted."),
    Family("suan_jobs_ended", "counter", ("tenant", "phase"), "Jobs ended: succeeded, failed or stopped."),
    Family(
        "suan_runs_ended",
        "counter",
        ("site", "cause"),
        "Runs ended; only `exited` says something about the job.",
    ),
    Family("suan_device_seconds", "counter", ("site", "pool"), "Device time of ended runs."),
    Family(
        "suan_energy_joules",
        "counter",
        ("site", "source"),
        "IT energy of ended runs without PUE; modelled, or by which meter.",
    ),
    Family("suan_transfer_bytes", "counter", ("source", "destination"), "Bytes that crossed between sites."),
    Family(
        "suan_gateway_requests",
        "counter",
        ("service",),
        "Requests that engines of services answered, as billed.",
    ),
    Family("suan_gateway_tokens", "counter", ("service", "direction"), "Tokens, in or out, as billed."),
)

# Measured by this process, since it started. With the upper ends of its buckets.
TIMED: tuple[tuple[Family, tuple[float, ...]], ...] = (
    (
        Family("suan_decide_seconds", "histogram", (), "Making one plan."),
        (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    ),
    (
        Family("suan_journal_sync_seconds", "histogram", (), "One batch of facts made durable."),
        (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
    ),
    (
        Family(
            "suan_job_wait_seconds", "histogram", ("priority",), "From a job's submission to its first start."
        ),
        (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600),
    ),
    (
        Family(
            "suan_gateway_request_duration_seconds",
            "histogram",
            ("service", "code"),
            "From a request's arrival to the last byte of its answer.",
        ),
        (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
    ),
    (
        Family(
            "suan_gateway_time_to_first_byte_seconds",
            "histogram",
            ("service", "code"),
            "From a request's arrival to the first byte of its answer: a stream's first token.",
        ),
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    ),
)

FAMILIES = (*READ, *COUNTED, *(family for family, _ in TIMED))
