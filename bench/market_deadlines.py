"""How many strict deadlines are met and how much soft value is earned on the Chronus mix?

Beside EASY backfill and FIFO, on one cluster of as many nodes as the jobs load to 95 %. Strict jobs are worth
all or nothing; a soft job's value falls in steps from its deadline to its last (docs/reference/simulate.md).
"""

from math import ceil
from typing import Any

from market_runs import (
    Bars,
    Table,
    arguments,
    hours,
    offered_device_s,
    percent,
    run,
    window,
    world,
    write,
)

from suan.grid.units import DAY_S

LOAD_RATIO = 0.95
COLUMNS = ("policy", "strict met", "soft earned", "missed", "wait mean", "wait p99", "jct mean", "wall")


def main() -> None:
    policies = ("fifo-any", "backfill", "backfill-oracle", "sjf", "least-loaded", "market", "market-oracle")
    chosen = arguments(__doc__ or "", days=3, policies=policies)
    rows = window(chosen.data, "chronus_mix2", chosen.first_day or 0, chosen.days)
    device_s = offered_device_s(rows, chosen.days)
    nodes = ceil(device_s / (chosen.days * DAY_S) / LOAD_RATIO / 8)

    def change(table: dict[str, Any]) -> None:
        table["site"][0]["pool"][0]["nodes"] = nodes

    place = world("one-cluster", change)
    heading = f"chronus_mix2 on {nodes * 8:,} devices: {len(rows):,} jobs"
    table = Table(heading=heading, columns=COLUMNS)
    table.begin()
    figures = {}
    for policy in chosen.policy:
        made = run(place, rows, policy)
        f = figures[policy] = made.figures
        table.add(
            policy,
            percent(f["strict_met_ratio"]),
            percent(f["soft_earned_ratio"]),
            f"{f['missed_deadlines']:,}",
            hours(f["wait_s_mean"]),
            hours(f["wait_s_p99"]),
            hours(f["jct_s_mean"]),
            f"{made.wall_s:.0f} s",
        )
    if chosen.write:
        plot = Bars(
            title="of strict deadlines met, and of soft value earned, %",
            groups=("strict met", "soft earned"),
            values={
                policy: (100 * (f["strict_met_ratio"] or 0), 100 * (f["soft_earned_ratio"] or 0))
                for policy, f in figures.items()
            },
        )
        write("market-deadlines", "Deadlines", (__doc__ or "").strip(), [table], [plot])


if __name__ == "__main__":
    main()
