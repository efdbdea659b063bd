"""Follows jobs from waiting to their end and says what happens: why they wait, the bids, progress, what they
print.

Knows the order in which things are worth saying. Asks with short polls and outlives a grid that is away for a
while; `quickstart` follows with the same eyes and shows more.
"""

import sys
import time
from typing import Any

from suan.doors.cli import render
from suan.doors.cli.bids import considered_text, reason_text
from suan.doors.cli.jobs import last_run, metrics_text, progress_text, span_text
from suan.doors.cli.session import Session
from suan.grid.error import NotNow

Json = dict[str, Any]
POLL_S = 0.5
_PATIENCE_S = 120.0
_QUIET_S = 5.0  # between two lines of progress where there is no terminal


class Follower:
    """Some jobs, until all have ended (a service: until it answers)."""

    def __init__(self, session: Session, jobs: list[str]) -> None:
        self._session = session
        self._jobs: dict[str, Json] = {job: {} for job in jobs}
        self._said: dict[str, set[str]] = {job: set() for job in jobs}
        self._logs: dict[str, tuple[str, int]] = {}  # job -> run, offset
        self._progress: dict[str, tuple[float, str]] = {}

    def follow(self) -> list[Json]:
        """The jobs as they ended.

        Raises: NotNow when the grid has been away for two minutes.
        """
        heard_s = time.monotonic()
        while True:
            try:
                for name in self._jobs:
                    if not _done(self._jobs[name]):
                        self._look(name)
                heard_s = time.monotonic()
            except NotNow as error:
                if time.monotonic() - heard_s > _PATIENCE_S:
                    raise
                self._once("", "away", f"{error.what}; waiting for it to come back")
            if all(_done(job) for job in self._jobs.values()):
                return list(self._jobs.values())
            time.sleep(POLL_S)

    def _look(self, name: str) -> None:
        client = self._session.client
        job = client.job(name)
        if not self._session.as_json:
            self._tell(name, job)
            if job.get("started_at_s") is not None:
                self._print_log(name)
        self._jobs[name] = job
        if _done(job) and not self._session.as_json:
            while self._print_log(name):
                pass
            self._tell_end(job)

    def _tell(self, name: str, job: Json) -> None:
        title = f"{name} {job['task']['name']}"
        if job["phase"] == "waiting":
            if reason := reason_text(job.get("reason")):
                self._once(name, reason.split(";")[0], f"{title} waits: {reason}")
            return
        if "bids" not in self._said[name] and (
            considered := self._session.client.why(name).get("considered")
        ):
            self._once(name, "bids", f"{title}: considered bids\n{considered_text(considered)}")
        progress = progress_text(job.get("progress") or {})
        shown_s, shown = self._progress.get(name, (0.0, ""))
        if progress and progress != shown and time.monotonic() - shown_s >= _QUIET_S:
            self._progress[name] = (time.monotonic(), progress)
            print(render.paint(f"{title}: {progress}", render.DIM), flush=True)

    def _tell_end(self, job: Json) -> None:
        colour = render.PHASE_COLOURS.get(job["phase"], "0")
        said = [f"{job['id']} {job['task']['name']} {job['phase']}", span_text(job), job.get("outcome", "")]
        print(render.paint("  ".join(part for part in said if part), colour))
        if job.get("metrics"):
            print(f"  {metrics_text(job['metrics'])}")
        if endpoint := last_run(job).get("endpoint"):
            print(f"  answers at {endpoint}; through the grid: {self._session.client.url}/v1")
        if job["phase"] == "failed":
            print(f"  next: suan logs {job['id']} · suan why {job['id']}")
        elif job.get("ended_at_s") is not None:
            print(f"  next: suan job {job['id']} · suan bill --job {job['id']}")

    def _print_log(self, name: str) -> bool:
        """Prints what is new; whether there was anything."""
        run, offset = self._logs.get(name, ("", 0))
        part = self._session.client.log(name, offset=offset if run else 0)
        if part.run != run:
            run, part = part.run, part if not offset else self._session.client.log(name, run=part.run)
            offset = 0
        self._logs[name] = (run, offset + len(part.data))
        if part.data:
            prefix = f"[{self._jobs[name].get('task', {}).get('name', name)}] " if len(self._jobs) > 1 else ""
            for line in part.data.decode("utf-8", "replace").splitlines():
                print(prefix + render.clean(line), flush=True)
        return bool(part.data)

    def _once(self, name: str, what: str, text: str) -> None:
        said = self._said.setdefault(name, set())
        if what not in said:
            said.add(what)
            print(text, file=sys.stdout if name else sys.stderr, flush=True)


def _done(job: Json) -> bool:
    """Whether it has ended; a service is done with starting once it answers."""
    if not job:
        return False
    return job.get("ended_at_s") is not None or bool(
        job["task"].get("replicas") and last_run(job).get("endpoint")
    )
