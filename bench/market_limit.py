"""How far from the least possible cost is a month of real jobs, and does anybody wait or miss for it?

Goal: `market` within 5 % of the lower bound of the jobs' cost; and against the best baseline, in one run,
lower cost, a lower 99th percentile of waits and fewer missed deadlines. The traces have no deadlines: every
third job gets one, as long after its submission as 1.2 to 1.6 times its length and ten minutes (what the
Chronus mix gives its strict jobs).
"""

from market_runs import (
    STEADY_DAY,
    Bars,
    Table,
    arguments,
    draw,
    hours,
    load_ratio,
    million,
    percent,
    run,
    window,
    world,
    write,
)
from msgspec.structs import replace

from suan.sim.trace import JobRow

GOAL_GAP_RATIO = 0.05
BASELINES = ("fifo", "fifo-any", "backfill", "cheapest-now", "greenest-now", "least-loaded", "suspend-resume")
COLUMNS = (
    "policy",
    "gap",
    "cost, yuan",
    "objective gap",
    "wait mean",
    "wait p99",
    "missed",
    "carbon, t",
    "wall",
)


def with_deadlines(rows: list[JobRow]) -> list[JobRow]:
    """Every third job, by a draw of its name, has a deadline."""
    return [
        replace(row, deadline_s=row.duration_s * (1.2 + 0.4 * draw(row, "slack")) + 600)
        if draw(row, "deadline") < 1 / 3
        else row
        for row in rows
    ]


def main() -> None:
    chosen = arguments(__doc__ or "", days=3, policies=(*BASELINES, "market", "market-oracle"))
    tables, gaps, waits = [], {}, {}
    groups = []
    for trace in ("philly_a", "helios_venus_a"):
        first_day = STEADY_DAY if chosen.first_day is None else chosen.first_day
        rows = with_deadlines(window(chosen.data, trace, first_day, chosen.days))
        for name in ("five-zones", "twelve-hubs"):
            place = world(name)
            load = load_ratio(rows, place, chosen.days)
            due = sum(row.deadline_s is not None for row in rows)
            heading = f"{trace} in {name}: {len(rows):,} jobs, {due:,} with a deadline, load {load:.0%}"
            table = Table(heading=heading, columns=COLUMNS)
            table.begin()
            groups.append(f"{trace}\n{name}")
            best: dict[str, float] = {}
            for policy in chosen.policy:
                made = run(place, rows, policy)
                f = made.figures
                table.add(
                    policy,
                    percent(f["gap_ratio"]),
                    million(f["cost_microyuan"]),
                    percent(f["objective_gap_ratio"]),
                    hours(f["wait_s_mean"]),
                    hours(f["wait_s_p99"]),
                    f"{f['missed_deadlines']:,}",
                    f"{f['carbon_kg'] / 1000:,.2f}",
                    f"{made.wall_s:.0f} s",
                )
                gaps.setdefault(policy, []).append(100 * (f["gap_ratio"] or 0))
                waits.setdefault(policy, []).append((f["wait_s_p99"] or 0) / 3600)
                for key in ("cost_microyuan", "wait_s_p99", "missed_deadlines"):
                    if policy in BASELINES:
                        best[key] = min(best.get(key, float("inf")), f[key] or 0)
                    elif policy == "market" and best:
                        mark = "below" if (f[key] or 0) < best[key] else "NOT below"
                        print(f"    {key}: {f[key]:,} is {mark} the least of any baseline, {best[key]:,}")
                if policy == "market":
                    mark = "ok" if (f["gap_ratio"] or 0) <= GOAL_GAP_RATIO else "OVER"
                    print(f"    {mark}: gap {percent(f['gap_ratio'])}, goal {percent(GOAL_GAP_RATIO)}")
            tables.append(table)
    if chosen.write:
        plots = [
            Bars(
                title="cost above the lower bound, %",
                groups=tuple(groups),
                values={policy: tuple(values) for policy, values in gaps.items()},
                goal=100 * GOAL_GAP_RATIO,
            ),
            Bars(
                title="99th percentile of waits, hours",
                groups=tuple(groups),
                values={policy: tuple(values) for policy, values in waits.items()},
            ),
        ]
        write("market-limit", "How close to the least possible cost", (__doc__ or "").strip(), tables, plots)


if __name__ == "__main__":
    main()
