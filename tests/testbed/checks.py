"""What must hold after anything that happened on the bed, asked of the journal, the engines, the logs and the
books.

Knows nothing of what happened. Each check gives the lines of what is wrong; none is good.
"""

from bed import Bed

_TERMINAL = ("succeeded", "failed", "stopped")
_GONE_S = 60.0  # for the last supervisors to end, and for a fenced site to clear up


def faults_of_safety(bed: Bed) -> list[str]:
    """Every job ended once, every output was committed once, money balances, nothing is left running."""
    wrong = []
    jobs = {job["id"]: job for job in bed.persist(lambda: all_jobs(bed))}
    tally = bed.machines["grid"].ask("tally")
    for job in jobs.values():
        ends = tally["ends"].get(job["id"], 0)
        if job["phase"] not in _TERMINAL or ends != 1:
            wrong.append(f"job {job['id']} is {job['phase']} and has ended {ends} times")
        if job["phase"] == "succeeded":
            for output in job["task"]["outputs"]:
                commits = tally["outputs"].get(f"{job['id']}/{output}", 0)
                if commits != 1:
                    wrong.append(f"output {output} of job {job['id']} was committed {commits} times")
    if tally["unbalanced"]:
        wrong.append(f"{tally['unbalanced']} movements of money do not sum to zero")
    total = bed.persist(lambda: bed.client.ledger(limit=1))["sum_microyuan"]
    if total:
        wrong.append(f"the ledger sums to {total} micro-yuan")
    return wrong + _orphans(bed) + _open(bed)


def _orphans(bed: Bed) -> list[str]:
    """Processes of runs, on every machine of every site, whatever engine started them."""

    def left() -> dict[str, dict[str, int]]:
        found = {site.name: bed.machines[site.name].ask("runs") for site in bed.sites}
        return {site: runs for site, runs in found.items() if runs}

    try:
        bed.until("no process of a run is left", lambda: not left(), _GONE_S)
    except AssertionError:
        return [f"{site} still has processes of runs {sorted(runs)}" for site, runs in left().items()]
    return []


def _open(bed: Bed) -> list[str]:
    """The other way: what the grid believes to be running, all jobs being over."""
    runs = bed.persist(lambda: bed.client.request("GET", "/v1/runs", params={"limit": 1000}))["items"]
    return [
        f"the grid believes that run {entry['run']['id']} is {entry['run']['phase']}"
        for entry in runs
        if entry["run"]["phase"] != "ended"
    ]


def cut_logs(bed: Bed, jobs: list[dict[str, object]], last_line: str) -> list[str]:
    """Logs of runs that succeeded and do not end in this line, which they were to write last."""
    wrong = []
    for job in jobs:
        if job["phase"] != "succeeded":
            continue
        part = bed.persist(lambda job=job: bed.client.log(str(job["id"]), limit=1 << 22))  # type: ignore[misc]
        if not part.data.endswith(last_line.encode()):
            wrong.append(f"the log of {part.run} ends in {part.data[-60:]!r}")
    return wrong


def all_jobs(bed: Bed) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    cursor = None
    while True:
        page = bed.client.jobs(limit=200, cursor=cursor)
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found
