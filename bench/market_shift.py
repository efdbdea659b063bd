"""How much carbon does shifting in time alone save, against a suspend-resume oracle?

Goal: at least what the oracle saves, at the same money or less. The oracle knows how long each job takes and
the whole series, and runs it in its cleanest hours before its deadline. Each zone by itself, so that nothing
can be shifted in space; jobs of up to two hours may be 6 h late, longer ones 24 h (the queues of GAIA,
ASPLOS 2024); every job saves its work each ten minutes. Saved is against `fifo-any`, which shifts nothing.
Money is what machines and electricity cost, without the price of carbon, so that policies that weigh carbon
otherwise compare.
"""

from typing import Any

from market_runs import (
    STEADY_DAY,
    Bars,
    Run,
    Table,
    arguments,
    hours,
    load_ratio,
    million,
    percent,
    run,
    window,
    write,
)
from market_runs import world as world_of
from msgspec.structs import replace

from suan.sim.trace import JobRow

SHORT_S, SHORT_SLACK_S, LONG_SLACK_S = 2 * 3600, 6 * 3600, 24 * 3600
CHECKPOINT_S = 600
COLUMNS = (
    "policy",
    "carbon, t",
    "saved",
    "money, yuan",
    "money saved",
    "wait mean",
    "missed",
    "stops",
    "wall",
)


def with_slack(rows: list[JobRow]) -> list[JobRow]:
    """Every job may wait, and keeps its work when it is stopped."""
    return [
        replace(
            row,
            deadline_s=row.duration_s + (SHORT_SLACK_S if row.duration_s <= SHORT_S else LONG_SLACK_S),
            checkpoint_s=CHECKPOINT_S,
        )
        for row in rows
    ]


def only(site: str) -> Any:
    """A change of a world's table: this site alone."""

    def change(table: dict[str, Any]) -> None:
        table["site"] = [row for row in table["site"] if row["name"] == site]

    return change


def without_carbon(made: Run) -> int:
    """Micro-yuan for machines, electricity and links."""
    entries = made.simulation.state.entries
    return sum(one.amount_microyuan for one in entries if one.what != "pays" and one.account != "carbon")


def main() -> None:
    policies = ("fifo-any", "suspend-resume", "suspend-resume-oracle", "market", "market-oracle")
    chosen = arguments(__doc__ or "", days=3, policies=policies)
    tables, saved, groups = [], {}, []
    for trace in ("philly_a", "helios_venus_a"):
        first_day = STEADY_DAY if chosen.first_day is None else chosen.first_day
        rows = with_slack(window(chosen.data, trace, first_day, chosen.days))
        for site in ("sydney", "california"):
            place = world_of("au-cal", only(site))
            heading = (
                f"{trace} in {site}: {len(rows):,} jobs, load {load_ratio(rows, place, chosen.days):.0%}"
            )
            table = Table(heading=heading, columns=COLUMNS)
            table.begin()
            groups.append(f"{trace}\n{site}")
            base = run(place, rows, "fifo-any")
            oracle: dict[str, float] = {}
            for policy in chosen.policy:
                made = run(place, rows, policy)
                f = made.figures
                carbon = 1 - f["carbon_kg"] / base.figures["carbon_kg"]
                money = without_carbon(made)
                table.add(
                    policy,
                    f"{f['carbon_kg'] / 1000:,.3f}",
                    percent(carbon),
                    million(money),
                    percent(1 - money / without_carbon(base)),
                    hours(f["wait_s_mean"]),
                    f"{f['missed_deadlines']:,}",
                    f"{f['preemptions']:,}",
                    f"{made.wall_s:.0f} s",
                )
                saved.setdefault(policy, []).append(100 * carbon)
                if policy == "suspend-resume-oracle":
                    oracle = {"carbon": carbon, "money": money}
                elif policy.startswith("market") and oracle:
                    ok = carbon >= oracle["carbon"] and money <= oracle["money"]
                    print(f"    {'ok' if ok else 'NOT YET'}: {policy} saves {percent(carbon)} of the carbon,"
                          f" the oracle {percent(oracle['carbon'])}")  # fmt: skip
            tables.append(table)
    if chosen.write:
        plot = Bars(
            title="carbon saved by shifting, %",
            groups=tuple(groups),
            values={policy: tuple(values) for policy, values in saved.items()},
        )
        write("market-shift", "What shifting in time saves", (__doc__ or "").strip(), tables, [plot])


if __name__ == "__main__":
    main()
