"""The jobs of the quickstart: their data brought to the east, submitted once, followed until all that can end
has.

Knows what was submitted and how to find it again after any interruption: `submission.json`, with the
idempotency key written before anything is sent.
"""

import secrets
import time
from pathlib import Path
from typing import Any

import msgspec

from suan.doors.cli.bids import considered_text
from suan.doors.cli.jobs import last_run
from suan.doors.cli.quickstart.machines import Machines, read_json, write_json
from suan.doors.cli.quickstart.screen import Screen
from suan.doors.cli.quickstart.world import EAST
from suan.doors.cli.run import read_file, uploaded
from suan.doors.cli.session import Session
from suan.doors.client import Client
from suan.grid.error import NotNow, Refused
from suan.grid.site import GRID_SITE

Json = dict[str, Any]

POLL_S = 0.4
_AWAY_S = 120.0
_ARRIVAL_S = 120.0
_METER_S = 8.0


class Story:
    """One pipeline on one grid."""

    def __init__(self, state: Path, machines: Machines, screen: Screen) -> None:
        self._path = state / "submission.json"
        self._machines, self._screen = machines, screen
        self._bids_shown: set[str] = set()

    @property
    def submission(self) -> Json:
        """{key, pipeline, file, tasks, jobs}; empty before there is one."""
        return read_json(self._path)

    @property
    def poem(self) -> str:
        """What the service wrote, "" before it did."""
        return str(self.submission.get("poem", ""))

    def keep_poem(self, poem: str) -> None:
        """From now on the service may be stopped: it has done what it was to do."""
        write_json(self._path, {**self.submission, "poem": poem})

    def prepare(self, file: Path) -> None:
        """Reads the pipeline and writes down what is to be submitted, unless an earlier start did.

        Raises: Refused for a file that is wrong; nothing is written then.
        """
        if self.submission:
            return
        read = read_file(file, ())
        write_json(
            self._path,
            {
                "key": f"quickstart-{secrets.token_hex(8)}",
                "pipeline": read.name or file.stem,
                "file": str(file.absolute()),
                "tasks": msgspec.to_builtins(read.tasks),
                "jobs": [],
            },
        )

    def put_data(self, client: Client, root: Path) -> None:
        """Puts at the east what the pipeline reads and does not write, from examples/data, and the folders
        that its tasks bring along.

        Raises: Refused `no_data`, and what a folder that is not there refuses with.
        """
        submission = self.submission
        tasks = submission["tasks"]
        written = {series for task in tasks for series in task.get("outputs", {}).values()}
        wanted = {series for task in tasks for series in task.get("inputs", {}).values()} - written
        for series in sorted(wanted):
            folder = root / "examples" / "data" / series.partition(":")[2]
            if not folder.is_dir():
                raise Refused(
                    "no_data",
                    f"the pipeline reads {series}; there is no {folder}",
                    hint="see examples/README.md",
                )
            artifact = client.put(folder, series, EAST.name)
            self._screen.say(f"put {folder.relative_to(root)} at {EAST.name}: {artifact['id']}")
            self._wait_for_arrival(client, artifact["id"])
        file = Path(submission["file"])
        session = Session(client.url, client.key, as_json=True)
        brought = [
            msgspec.to_builtins(task)
            for task in uploaded(session, read_file(file, ()), file.parent, EAST.name)
        ]
        write_json(self._path, {**submission, "tasks": brought})

    def _wait_for_arrival(self, client: Client, artifact: str) -> None:
        """Until only the east has it: otherwise the bids would count on the copy that waits at the grid."""
        deadline_s = time.monotonic() + _ARRIVAL_S
        while time.monotonic() < deadline_s:
            self._machines.watch()
            try:
                sites = {replica["site"] for replica in client.artifact(artifact)["replicas"]}
            except NotNow:
                sites = set()
            if EAST.name in sites and GRID_SITE not in sites:
                return
            time.sleep(POLL_S)
        raise NotNow(
            "not_there_yet", f"{artifact} did not reach {EAST.name}", hint="make quickstart ARGS=--resume"
        )

    def submit(self, client: Client) -> list[str]:
        """The job ids. The key makes it happen once, however often this is interrupted and called again."""
        submission = self.submission
        if not submission["jobs"]:
            jobs = client.submit(
                submission["tasks"], pipeline=submission["pipeline"], idempotency_key=submission["key"]
            )
            submission["jobs"] = [job["id"] for job in jobs]
            write_json(self._path, submission)
        return list(submission["jobs"])

    def follow(self, client: Client, names: list[str]) -> list[Json]:
        """The jobs, once the services answer and all others have succeeded.

        Raises: Refused `stage_failed`; NotNow when the grid stays away.
        """
        jobs: dict[str, Json] = {}
        heard_s = time.monotonic()
        while True:
            if self._machines.watch():
                heard_s = time.monotonic()
            try:
                for name in names:
                    if name not in jobs or not _settled(jobs[name]):
                        jobs[name] = client.job(name)
                self._show_bids(client, jobs)
                heard_s = time.monotonic()
            except NotNow:
                if time.monotonic() - heard_s > _AWAY_S:
                    raise
            self._screen.show([jobs[name] for name in names if name in jobs])
            if failed := [job for job in jobs.values() if self._has_failed(job)]:
                raise _stage_failed(failed[0])
            if len(jobs) == len(names) and all(_settled(job) for job in jobs.values()):
                return [jobs[name] for name in names]
            time.sleep(POLL_S)

    def _has_failed(self, job: Json) -> bool:
        """A service that we stopped, after its poem, in an earlier start has not."""
        return job["phase"] == "failed" or (job["phase"] == "stopped" and not (is_service(job) and self.poem))

    def _show_bids(self, client: Client, jobs: dict[str, Json]) -> None:
        """Each job's considered bids, as soon as what it reads exists: before it runs."""
        for name, job in jobs.items():
            if name in self._bids_shown:
                continue
            writers = [
                jobs.get(bound.get("from_job", ""), {})
                for bound in job["inputs"].values()
                if not bound["artifact"]
            ]
            if job["phase"] == "waiting" and not all(
                writer.get("phase") == "succeeded" for writer in writers
            ):
                continue
            weighed = client.why(name)["considered"]
            if weighed and weighed["bids"]:
                self._bids_shown.add(name)
                self._screen.say(f"\n{job['task']['name']}: considered bids\n{considered_text(weighed)}")

    def end_services(self, client: Client, jobs: list[Json]) -> list[Json]:
        """The jobs again, every service stopped and its end confirmed."""
        for job in jobs:
            if job["ended_at_s"] is None:
                client.stop(job["id"])
        names = [job["id"] for job in jobs]
        ended: dict[str, Json] = {}
        while len(ended) < len(names):
            self._machines.watch()
            try:
                found = {name: client.job(name) for name in names if name not in ended}
                ended |= {name: job for name, job in found.items() if job["ended_at_s"] is not None}
            except NotNow:
                pass
            time.sleep(POLL_S if len(ended) < len(names) else 0)
        return [ended[name] for name in names]

    def wait_for_meter(self, client: Client) -> None:
        """Until the requests of the poem are in the bill: they are counted, and written every few seconds."""
        deadline_s = time.monotonic() + _METER_S
        while time.monotonic() < deadline_s:
            self._machines.watch()
            try:
                if client.bill()["requests"]:
                    return
            except NotNow:
                pass
            time.sleep(POLL_S)


def is_service(job: Json) -> bool:
    return bool(job["task"].get("replicas"))


def _settled(job: Json) -> bool:
    """Ended; or a service that answers."""
    return job["ended_at_s"] is not None or (is_service(job) and bool(last_run(job).get("endpoint")))


def _stage_failed(job: Json) -> Refused:
    what = f"{job['task']['name']} {job['phase']}: {job['outcome']}"
    return Refused("stage_failed", what, hint="start over: make quickstart ARGS=--fresh")
