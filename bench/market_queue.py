"""Does sharing idle partitions beat shortest-job-first inside them?

Goal: on philly_a by virtual cluster at half of Philly's size, `market`, which learns how long jobs take, at
or under `sjf`, which is told, in mean completion time; and its 99th percentile of waits under FIFO's. Beside
it what Helios published for the same virtual clusters at full size and another cut of Philly (Hu et al.,
SC'21, HeliosArtifact, MIT): not the same jobs, so compare ratios to FIFO only.
"""

import csv
from pathlib import Path

from market_runs import STEADY_DAY, Bars, Run, Table, arguments, hours, load_ratio, run, window, world, write

COLUMNS = ("policy", "jct mean", "to fifo", "wait mean", "to fifo", "wait p99", "cost gap", "wall")
PUBLISHED = {"fifo-any": "fifo", "sjf": "sjf"}


def published(data: Path) -> dict[str, dict[str, float]]:
    """metric -> policy -> seconds, of all virtual clusters together."""
    path = data / "peers" / "helios_qssf_philly_published.csv"
    if not path.exists():
        return {}
    with path.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["vc"] == "all"]
    return {
        row["metric"]: {name: float(row[name]) for name in ("fifo", "sjf", "srtf", "qssf")} for row in rows
    }


def by_tenant(made: Run) -> dict[str, tuple[int, float]]:
    """tenant -> jobs and their mean wait."""
    found: dict[str, list[int]] = {}
    for job in made.simulation.state.jobs.values():
        if job.started_at_s is not None:
            found.setdefault(job.tenant, []).append(job.started_at_s - job.submitted_at_s)
    return {name: (len(waits), sum(waits) / len(waits)) for name, waits in sorted(found.items())}


def main() -> None:
    policies = ("fifo-any", "sjf", "backfill", "backfill-oracle", "market", "market-oracle")
    chosen = arguments(__doc__ or "", days=5, policies=policies)
    place = world("philly-vc")
    first_day = STEADY_DAY if chosen.first_day is None else chosen.first_day
    rows = window(chosen.data, "philly_a", first_day, chosen.days)
    load = load_ratio(rows, place, chosen.days)
    table = Table(heading=f"philly_a in philly-vc: {len(rows):,} jobs, load {load:.0%}", columns=COLUMNS)
    table.begin()
    base = run(place, rows, "fifo-any").figures
    figures, tenants = {}, {}
    for policy in chosen.policy:
        made = run(place, rows, policy)
        f = figures[policy] = made.figures
        tenants[policy] = by_tenant(made)
        table.add(
            policy,
            hours(f["jct_s_mean"]),
            f"{f['jct_s_mean'] / base['jct_s_mean']:.3f}",
            hours(f["wait_s_mean"]),
            f"{f['wait_s_mean'] / max(1, base['wait_s_mean']):.3f}",
            hours(f["wait_s_p99"]),
            f"{100 * (f['gap_ratio'] or 0):.2f} %",
            f"{made.wall_s:.0f} s",
        )
        if policy.startswith("market") and "sjf" in figures:
            ok = f["jct_s_mean"] <= figures["sjf"]["jct_s_mean"] and f["wait_s_p99"] < base["wait_s_p99"]
            print(f"    {'ok' if ok else 'NOT YET'}: at or under sjf's {hours(figures['sjf']['jct_s_mean'])}")
    for metric, by_policy in published(chosen.data).items():
        ratios = ", ".join(
            f"{name} {by_policy[name] / by_policy['fifo']:.3f}" for name in ("sjf", "srtf", "qssf")
        )
        print(f"    Helios published, {metric} to FIFO's {hours(by_policy['fifo'])}: {ratios}")
    waits = Table(heading="Mean wait by virtual cluster", columns=("tenant", "jobs", *chosen.policy))
    waits.begin()
    for name, (jobs, _) in next(iter(tenants.values())).items():
        waits.add(
            name, f"{jobs:,}", *(hours(tenants[policy].get(name, (0, 0.0))[1]) for policy in chosen.policy)
        )
    if chosen.write:
        plot = Bars(
            title="mean completion time and 99th percentile of waits, hours",
            groups=("jct mean", "wait p99"),
            values={
                policy: (f["jct_s_mean"] / 3600, f["wait_s_p99"] / 3600) for policy, f in figures.items()
            },
        )
        write("market-queue", "Queues of virtual clusters", (__doc__ or "").strip(), [table, waits], [plot])


if __name__ == "__main__":
    main()
