"""How much carbon does shifting in time alone save, against a suspend-resume oracle?

Goal: at least what the oracle saves, at the same money or less. The oracle knows how long each job takes and
the whole series, and runs it in its cleanest hours before its deadline. Each zone by itself, so that nothing
can be shifted in space; jobs of up to two hours may be 6 h late, longer ones 24 h (the queues of GAIA,
ASPLOS 2024); every job saves its work each ten minutes. Saved is against `fifo-any`, which shifts nothing.
Money is what machines and electricity cost, without the price of carbon, so that policies that weigh carbon
otherwise compare.

The last table tells what is possible: for each job by itself the cheapest way to run it in whole hours up to
its deadline, pauses and their restarts counted, at several prices of carbon. No device is short in it, and
the future is known. China's national market paid 90 yuan a tonne in 2024; 1,360 is what the US EPA put the
damage at in 2023 (190 USD). The oracle minds carbon alone, and no restart: the column on the right.

`market` weighs carbon at its price of 90 yuan a tonne, at which the schedule of least cost saves money and
little carbon. `market-green` is the same with 1,000 yuan more a kilogram in its own decisions, for which
nobody is billed, and with time that is free until the deadline: the greenest hours before it, and of nearly
equal ones the cheapest; jobs with checkpoints rest in hours that cost more than those left before their ends.

Texas in September is a zone and a season that nothing was chosen by.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
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
from numpy.typing import NDArray

from suan.grid.site import hour_rate
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy
from suan.rules.quote import power_w
from suan.sim.trace import JobRow
from suan.sim.world import World

SHORT_S, SHORT_SLACK_S, LONG_SLACK_S = 2 * 3600, 6 * 3600, 24 * 3600
CHECKPOINT_S = 600
SITES = ("sydney", "california")
APART = {"texas": "2022-09-01T00:00:00Z"}  # seen for the first time when all else was settled
REGIONS = {"texas": "US-TEX-ERCO"}
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
        rows = [row for row in table["site"] if row["name"] == site]
        if site in REGIONS:
            rows = [{**table["site"][0], "name": site}]
            rows[0]["tariff"] = {**rows[0]["tariff"], "region": REGIONS[site], "start": APART[site]}
        table["site"] = rows

    return change


def without_carbon(made: Run) -> int:
    """Micro-yuan for machines, electricity and links."""
    entries = made.simulation.state.entries
    return sum(one.amount_microyuan for one in entries if one.what != "pays" and one.account != "carbon")


# ---------------------------------------------------------------- what is possible

CARBON_YUAN_PER_TONNE = (90.0, 1_360.0, 5_000.0, 15_000.0, math.inf)
LEAST_S = 600  # shorter jobs have no hours to choose among
Floats = NDArray[np.float64]


def cheapest_hours(rates: Floats, hours: int, restart: float) -> NDArray[np.bool_]:
    """Which of these hours a job of so many runs in at least cost, where each pause but the first wait costs
    `restart`. By dynamic programming over (hour, hours done, whether it runs).
    """
    done = np.arange(hours + 1)
    running, resting = np.full(hours + 1, math.inf), np.where(done == 0, 0.0, math.inf)
    went_on, rested_on = [], []
    for rate in rates:
        goes_on, starts = running[:-1] + rate, resting[:-1] + rate + np.where(done[:-1] > 0, restart, 0.0)
        went_on.append(np.concatenate([[False], goes_on <= starts]))
        rested_on.append(resting <= running)
        resting = np.minimum(running, resting)
        running = np.concatenate([[math.inf], np.minimum(goes_on, starts)])
    runs, left, is_running = np.zeros(len(rates), bool), hours, bool(running[hours] <= resting[hours])
    for hour in range(len(rates) - 1, -1, -1):
        runs[hour] = is_running
        if is_running:
            is_running = bool(went_on[hour][left])
            left -= 1
        else:
            is_running = not rested_on[hour][left]
    return runs


def possible(place: World, rows: Sequence[JobRow], yuan_per_tonne: float) -> tuple[float, float]:
    """(carbon, money) that is saved where each job runs in its cheapest hours, against running at once."""
    (site,) = place.sites
    (pool,) = site.pools
    assert site.tariff is not None
    last = 1 + max(math.ceil((row.submit_s + (row.deadline_s or 0)) / HOUR_S) for row in rows)
    kw, first = power_w(pool, 1) / 1000 * site.tariff.pue, place.start_s // HOUR_S
    known = np.array([hour_rate(site.tariff, first + hour) for hour in range(last)])
    power, carbon = kw * known[:, 0] / 1e6, kw * known[:, 1] / 1000  # yuan and kg a device-hour
    machine = pool.machine_microyuan_per_device_h / 1e6
    restart_h = (Policy().restore_s + 60) / HOUR_S  # and the work since the last checkpoint
    rates = carbon if math.isinf(yuan_per_tonne) else power + carbon * yuan_per_tonne / 1000
    restart = 0.0 if math.isinf(yuan_per_tonne) else restart_h * machine
    before, after = np.zeros(2), np.zeros(2)
    for row in rows:
        if row.duration_s < LEAST_S or row.deadline_s is None:
            continue
        begin, end = int(row.submit_s // HOUR_S), math.ceil((row.submit_s + row.deadline_s) / HOUR_S)
        hours = max(1, round(row.duration_s / HOUR_S))
        chosen = cheapest_hours(rates[begin:end], hours, restart)
        pauses = int((chosen[1:] & ~chosen[:-1]).sum()) - int(not chosen[0])
        work = row.gpus * row.duration_s / HOUR_S / hours
        at_once = np.arange(end - begin) < hours
        for sums, runs, again_h in ((before, at_once, 0.0), (after, chosen, pauses * restart_h)):
            sums[0] += work * carbon[begin:end][runs].sum()
            sums[1] += work * power[begin:end][runs].sum() + row.gpus * machine * again_h
        # The machine costs the same either way, but for the restarts.
        before[1] += row.gpus * machine * row.duration_s / HOUR_S
        after[1] += row.gpus * machine * row.duration_s / HOUR_S
    saved = 1 - after / before
    return float(saved[0]), float(saved[1])


def what_is_possible(rows_of: dict[str, list[JobRow]], sites: Sequence[str]) -> Table:
    """Carbon and money saved at each price of carbon."""
    names = ("carbon alone" if math.isinf(price) else f"{price:,.0f}" for price in CARBON_YUAN_PER_TONNE)
    heading = "What is possible, by the price of carbon in yuan a tonne: carbon saved, money saved"
    table = Table(heading=heading, columns=("jobs", *names))
    table.begin()
    for trace, rows in rows_of.items():
        for site in sites:
            saved = [possible(world_of("au-cal", only(site)), rows, price) for price in CARBON_YUAN_PER_TONNE]
            cells = (f"{percent(carbon)}, {percent(money)}" for carbon, money in saved)
            table.add(f"{trace} in {site}", *cells)
    return table


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One trace in one zone, and what each policy came to there."""

    name: str
    table: Table
    saved: dict[str, float]  # policy -> % of carbon
    verdicts: tuple[str, ...]


def cell(trace: str, site: str, rows: list[JobRow], days: float, policies: Sequence[str]) -> Cell:
    """Runs the policies one after the other."""
    place = world_of("au-cal", only(site))
    heading = f"{trace} in {site}: {len(rows):,} jobs, load {load_ratio(rows, place, days):.0%}"
    table, saved, verdicts = Table(heading=heading, columns=COLUMNS), {}, []
    base, oracle = run(place, rows, "fifo-any"), (0.0, 0)
    for policy in policies:
        made = run(place, rows, policy)
        f = made.figures
        carbon, money = 1 - f["carbon_kg"] / base.figures["carbon_kg"], without_carbon(made)
        table.rows.append(
            (
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
        )
        saved[policy] = 100 * carbon
        if policy == "suspend-resume-oracle":
            oracle = carbon, money
        elif policy.startswith("market") and oracle[1]:
            mark = "ok" if carbon >= oracle[0] and money <= oracle[1] else "NOT YET"
            verdicts.append(
                f"{mark}: {policy} saves {percent(carbon)} of the carbon, the oracle {percent(oracle[0])}"
            )
    return Cell(name=f"{trace}\n{site}", table=table, saved=saved, verdicts=tuple(verdicts))


def main() -> None:
    policies = ("suspend-resume-oracle", "market", "market-oracle", "market-green", "market-green-oracle")
    chosen = arguments(__doc__ or "", days=3, policies=policies)
    first_day = STEADY_DAY if chosen.first_day is None else chosen.first_day
    rows_of = {
        trace: with_slack(window(chosen.data, trace, first_day, chosen.days))
        for trace in ("philly_a", "helios_venus_a")
    }
    asked = [(trace, site) for site in (*SITES, *APART) for trace in rows_of]
    cells: list[Cell] = []
    with ProcessPoolExecutor(max_workers=3) as workers:  # of CPU-seconds only the ratios count here
        going_on = [
            workers.submit(cell, trace, site, rows_of[trace], chosen.days, chosen.policy)
            for trace, site in asked
        ]
        for one in going_on:
            made = one.result()
            cells.append(made)
            print(f"\n{made.table.markdown()}" + "\n".join(made.verdicts), flush=True)
    tables = [made.table for made in cells]
    tables.append(what_is_possible(rows_of, (*SITES, *APART)))
    if chosen.write:
        plot = Bars(
            title="carbon saved by shifting, %",
            groups=tuple(made.name for made in cells),
            values={policy: tuple(made.saved[policy] for made in cells) for policy in chosen.policy},
        )
        write("market-shift", "What shifting in time saves", (__doc__ or "").strip(), tables, [plot])


if __name__ == "__main__":
    main()
