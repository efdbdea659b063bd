"""What does it cost to be watched: a fact counted, a job traced, a scrape of an old and full grid?

Beside each: the same work unwatched, in the same run. What is counted is counted in the thread that writes;
traces are made in another one, which costs CPU all the same.
"""

import itertools
import time
from collections.abc import Callable

from report import Result, show

from suan.control.loop import Grid
from suan.control.traces import Traces
from suan.doors.rest.metric_counts import Metrics
from suan.doors.rest.metric_readings import readings
from suan.grid import fact as f
from suan.grid.account import Quote, Usage
from suan.grid.fact import Fact
from suan.grid.job import Bid, Considered, EndCause, JobPhase, Resources, Task
from suan.grid.site import Pool
from suan.journals.memory import MemoryJournal
from suan.rules.policy import Policy

NOW_S = 1_800_000_000
JOBS, SITES, POOLS, OPEN_RUNS, TENANTS = 50_000, 20, 50, 10_000, 100
FACTS_OF_A_JOB = 5
COUNTED_JOBS, TRACED_JOBS = 5_000, 1_000  # the latter are traced within the time that closing has


class _Clock:
    def now_s(self) -> int:
        return NOW_S


class _Nowhere:
    """An exporter that sends nothing: what is measured is the making of spans."""

    def export(self, spans: object) -> None:
        return None

    def shutdown(self) -> None: ...


def sites() -> list[Fact]:
    facts: list[Fact] = [f.TenantSet(at_s=NOW_S, tenant=f"t{number}") for number in range(TENANTS)]
    for site in range(SITES):
        pools = tuple(
            Pool(name=f"p{pool}", accelerator="H100", devices_per_node=8, nodes=64) for pool in range(POOLS)
        )
        facts += [
            f.SiteJoined(at_s=NOW_S, site=f"s{site}"),
            f.SiteDescribed(at_s=NOW_S, site=f"s{site}", pools=pools),
        ]
    return facts


def life(number: int, *, ended: bool = True) -> list[Fact]:
    """The facts of a job that ran and, unless it still does, ended."""
    job, run, site = f"j{number}", f"j{number}-r1", f"s{number % SITES}"
    bid = Bid(site=site, pool=f"p{number % POOLS}", devices=1, nodes=1, start_s=0, finish_s=0, quote=Quote())
    resources = (Resources(accelerator="H100", accelerators=1),)
    task = Task(name="bench", run="true", resources=resources)
    begun: list[Fact] = [
        f.JobSubmitted(at_s=NOW_S, job=job, tenant=f"t{number % TENANTS}", task=task),
        f.RunPlaced(at_s=NOW_S, run=run, job=job, bid=bid, considered=Considered()),
        f.RunStarted(at_s=NOW_S, run=run, started_at_s=NOW_S),
    ]
    if not ended:
        return begun
    exited = f.RunEnded(at_s=NOW_S, run=run, cause=EndCause.EXITED, exit_code=0, usage=Usage(device_s=1))
    return [*begun, exited, f.JobEnded(at_s=NOW_S, job=job, phase=JobPhase.SUCCEEDED, outcome="")]


def cpu_s(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def written(watch: Callable[[Grid], object], jobs: int) -> float:
    """CPU seconds to take the facts of so many jobs, watched like this."""
    grid = Grid(MemoryJournal(), _Clock(), Policy())
    grid.do(lambda state, now_s: (sites(), None))
    watching = watch(grid)
    lives = [life(number) for number in range(jobs)]

    def work() -> None:
        for facts in lives:
            grid.do(lambda state, now_s, facts=facts: (facts, None))
        if isinstance(watching, Traces):
            watching.close()

    return cpu_s(work)


def full_grid() -> Grid:
    """A grid with many ended jobs and many runs that go on."""
    grid = Grid(MemoryJournal(), _Clock(), Policy())
    facts = list(itertools.chain.from_iterable(life(number) for number in range(JOBS)))
    going = (life(number, ended=False) for number in range(JOBS, JOBS + OPEN_RUNS))
    grid.do(lambda state, now_s: ([*sites(), *facts, *itertools.chain.from_iterable(going)], None))
    return grid


def main() -> None:
    from suan.doors.rest.metrics import choose_encoder

    counted_s, plain_s = written(Metrics, COUNTED_JOBS), written(lambda grid: None, COUNTED_JOBS)
    traced_s = written(lambda grid: Traces(grid, _Nowhere()), TRACED_JOBS)
    untraced_s = plain_s * TRACED_JOBS / COUNTED_JOBS
    grid = full_grid()
    metrics = Metrics(grid)
    encode, _ = choose_encoder("")
    scrape_s = min(cpu_s(lambda: encode(metrics.registry)) for _ in range(5))
    held_s = min(cpu_s(lambda: readings(grid, metrics.names)) for _ in range(5))
    per_fact_us = 1e6 * (counted_s - plain_s) / COUNTED_JOBS / FACTS_OF_A_JOB
    per_job_us = 1e6 * (traced_s - untraced_s) / TRACED_JOBS
    size = f"{OPEN_RUNS:,} open runs, {SITES * POOLS:,} pools, {JOBS:,} jobs ended"
    results = [
        Result(
            "counting a fact",
            per_fact_us,
            "CPU-µs",
            25,
            "a quarter of a core at 10,000 facts a second",
            counted_s / plain_s,
            "facts that nobody counts, on a journal in memory",
        ),
        Result(
            "tracing a job",
            per_job_us,
            "CPU-µs",
            1000,
            "1,000 jobs a second end with one core",
            traced_s / untraced_s,
            "jobs that nobody traces",
        ),
        Result(
            f"lock held by a scrape, {size}",
            1000 * held_s,
            "CPU-ms",
            50,
            "a submission is answered within 50 ms",
            held_s / scrape_s,
            "the whole scrape",
        ),
        Result(
            f"scrape, {size}",
            1000 * scrape_s,
            "CPU-ms",
            150,
            "a hundredth of the 15 s between scrapes",
            scrape_s / held_s,
            "reading the state",
        ),
    ]
    show("observe", results)


if __name__ == "__main__":
    main()
