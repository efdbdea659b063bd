"""Campaigns on the test bed: for each fault a batch of jobs at every site, the fault while they run, and
checks.

Knows what is done to whom, and counts it. A batch is over when every job has ended; all of them have to have
succeeded, because no fault of ours is a verdict on a job.
"""

import time
from collections.abc import Callable
from typing import Any

import checks
import world
from bed import Bed
from machines import HostFailed

from suan.grid.job import Place, Resources, Task

Json = dict[str, Any]
_A_SITE = 3  # jobs at each site in a batch
_LINES = 60
_STEP_S = 3600
_WITHIN_S = 300.0
_SHORT_CUT_S = world.POLICY["lease_s"] / 3
_LONG_CUT_S = world.POLICY["lease_s"] + world.POLICY["clock_margin_s"] + 10
_HANGS_S = (2.0, 4.0, 2.0, 4.0, world.POLICY["lease_s"] * 0.7)
_MUDDLED = 0.25
_RUN = (
    f"for i in $(seq {_LINES}); do echo line $i; sleep 0.1; done; "
    'echo out of $SUAN_JOB_ID > "$SUAN_OUTPUT_D/x"; echo end of $SUAN_RUN_ID'
)


def campaign(bed: Bed, only: tuple[str, ...]) -> Json:
    """What was done how often, and what was wrong after it."""
    found: Json = {}
    wrong: list[str] = []
    for name, fault in _faults(bed).items():
        if only and not any(name.startswith(wanted) for wanted in only):
            continue
        began_s = time.monotonic()
        batch = _Batch(bed, name)
        count, trouble = 0, []
        try:
            batch.begin()
            count = fault(batch)
            trouble = batch.finish()
        except (AssertionError, HostFailed) as error:
            trouble = [str(error)[:2000]]
        took_s = round(time.monotonic() - began_s, 1)
        found[name] = {"count": count, "jobs": len(batch.jobs), "runs": batch.runs, "took_s": took_s}
        bed.say(f"  {name}: {count} times, {batch.runs} runs for {len(batch.jobs)} jobs, {took_s:.0f} s"
                + "".join(f"\n    WRONG: {line}" for line in trouble))  # fmt: skip
        wrong += [f"{name}: {line}" for line in trouble]
    return {"faults": found, "wrong": wrong}


class _Batch:
    """Jobs at every site."""

    def __init__(self, bed: Bed, name: str) -> None:
        self.bed, self._name = bed, name
        self.jobs: list[str] = []
        self.runs = 0

    def begin(self) -> None:
        """Returns when something runs at every site."""
        bed, name = self.bed, self._name
        label = "".join(letter if letter.isalnum() else "-" for letter in name)
        tasks = [
            _task(f"{label}-{site.name}-{number}", site) for site in bed.sites for number in range(_A_SITE)
        ]
        key = f"{label}-{time.time_ns()}"
        submitted = bed.persist(lambda: bed.client.submit(tasks, idempotency_key=key))
        self.jobs = [job["id"] for job in submitted]
        bed.until("a run at every site", lambda: {site.name for site in bed.sites} <= self._running())

    def _running(self) -> set[str]:
        jobs = [self.bed.client.job(job) for job in self.jobs]
        assert not (failed := [job["outcome"] for job in jobs if job["phase"] == "failed"]), failed
        return {run["site"] for job in jobs for run in job["runs"] if run["started_at_s"]}

    def finish(self) -> list[str]:
        """What is wrong once all have ended."""
        bed = self.bed

        def over() -> bool:
            return all(bed.client.job(job)["ended_at_s"] is not None for job in self.jobs)

        bed.until("every job has ended", over, _WITHIN_S)
        jobs = [bed.persist(lambda job=job: bed.client.job(job)) for job in self.jobs]  # type: ignore[misc]
        self.runs = sum(len(job["runs"]) for job in jobs)
        failed = [job for job in jobs if job["phase"] != "succeeded"]
        wrong = [f"{job['id']} {job['phase']}: {job['outcome']}" for job in failed]
        for job in jobs:
            wrong += _cut_log(bed, job) if job["phase"] == "succeeded" else []
        return wrong + checks.faults_of_safety(bed)


def _task(name: str, site: world.BedSite) -> Task:
    kind = Resources(cpus=1) if "cpu" in site.prices else Resources(accelerator="Ascend910B2", accelerators=1)
    return Task(
        name=name,
        run=_RUN,
        duration_s=8,
        resources=(kind,),
        place=Place(sites=(site.name,)),
        outputs={"d": f"dataset:{name}"},
    )


def _cut_log(bed: Bed, job: Json) -> list[str]:
    """The log that the grid has of the run that succeeded: every line once, in order, to the last one."""
    run = job["runs"][-1]["id"]
    wanted = "".join(f"line {number}\n" for number in range(1, _LINES + 1)) + f"end of {run}\n"

    def whole() -> bool:
        return bed.client.log(job["id"], run=run).data == wanted.encode()

    try:
        bed.until("the whole log", whole, 20.0)
        return []
    except AssertionError:
        had = bed.client.log(job["id"], run=run).data
        return [f"the log of {run} has {len(had)} of {len(wanted)} bytes and ends in {had[-40:]!r}"]


# ---------------------------------------------------------------- what is done


def _faults(bed: Bed) -> dict[str, Callable[[_Batch], int]]:
    first, *_ = bed.sites
    kills = {
        f"kill -9 {part}": _killing("grid", part, times, pause_s)
        for part, times, pause_s in (("grid", 3, 2.0), ("postgres", 2, 2.0), ("s3", 2, 3.0))
    }
    kills |= {f"kill -9 agent of {site.name}": _killing(site.name, "agent", 2, 1.0) for site in bed.sites}
    kills |= {
        f"kill -9 {daemon} of {site.name}": _killing(site.name, daemon, 1, 3.0)
        for site in bed.sites
        for daemon in bed.daemons[site.name]
    }
    return kills | {
        "cut, shorter than a lease": _cutting(_SHORT_CUT_S),
        "cut, longer than a lease": _cutting(_LONG_CUT_S),
        "clock an hour ahead": _stepping(first.name, _STEP_S),
        "clock an hour behind": _stepping(first.name, -_STEP_S),
        "disk full": _filling,
        "disk of the journal hangs": _hanging,
        "messages twice and late": _muddling,
    }


def _killing(machine: str, part: str, times: int, pause_s: float) -> Callable[[_Batch], int]:
    def fault(batch: _Batch) -> int:
        bed = batch.bed
        for _ in range(times):
            bed.machines[machine].ask("kill", part)
            time.sleep(pause_s)
            bed.machines[machine].ask("restore", part)
            time.sleep(pause_s)
        if machine == "grid":
            bed.until("the grid answers", lambda: bed.client.whoami(), 60.0)
        assert bed.machines[machine].ask("alive"), f"{machine} has ended: {bed.log(machine)[-500:]}"
        return times

    return fault


def _cutting(seconds: float) -> Callable[[_Batch], int]:
    def fault(batch: _Batch) -> int:
        bed = batch.bed
        for site in bed.sites:
            bed.network.cut(site.name)
        time.sleep(seconds)
        for site in bed.sites:
            bed.network.cut(site.name, up=True)
        return len(bed.sites)

    return fault


def _stepping(site: str, seconds: int) -> Callable[[_Batch], int]:
    """Steps the clock while runs go on, and back only once the batch is over."""

    def fault(batch: _Batch) -> int:
        batch.bed.machines[site].ask("set_clock", seconds)
        bed = batch.bed
        try:
            bed.until(
                "every job has ended",
                lambda: all(bed.client.job(job)["ended_at_s"] is not None for job in batch.jobs),
                _WITHIN_S,
            )
        finally:
            bed.machines[site].ask("set_clock", 0)
        return 2  # there and back

    return fault


def _filling(batch: _Batch) -> int:
    """No output can be stored at one site for a while."""
    bed = batch.bed
    site = next(site.name for site in bed.sites if site.store_mib)
    assert bed.machines[site].ask("fill_store") > 0, "the disk was full already"
    time.sleep(15)
    bed.machines[site].ask("empty_store")
    return 1


def _hanging(batch: _Batch) -> int:
    """Commits that take seconds, and one that takes most of a lease."""
    for seconds in _HANGS_S:
        assert batch.bed.machines["grid"].ask("hang", seconds) > 1
        time.sleep(1.0)
    return len(_HANGS_S)


def _muddling(batch: _Batch) -> int:
    bed = batch.bed
    before = sum(sum(_muddles(bed, site.name, _MUDDLED).values()) for site in bed.sites)
    bed.until(
        "every job has ended",
        lambda: all(bed.client.job(job)["ended_at_s"] is not None for job in batch.jobs),
        _WITHIN_S,
    )
    return sum(sum(_muddles(bed, site.name, 0.0).values()) for site in bed.sites) - before


def _muddles(bed: Bed, site: str, ratio: float) -> dict[str, int]:
    counts: dict[str, int] = bed.machines[site].ask("muddle", ratio)
    return {fault: count for fault, count in counts.items() if fault != "carried"}
