"""How long is it from a submission to the first line of the job's own output?

A real grid and a real agent, each a process, one job at a time. Limit: 1 s, below which people feel a start
as immediate (Nielsen, Usability Engineering, 1993, chapter 5). Beside it, in the same run: the same shell
started by hand.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from report import Result, show

from suan.doors.client import Client

JOBS, LIMIT_S = 20, 1.0
SUAN = str(Path(sys.executable).with_name("suan"))
TASK = "name: stamp\nresources: {cpus: 1}\nduration: 5s\nrun: date +%s.%N\n"


def bare_s() -> float:
    """From deciding to start a shell to the shell's own clock, the median of several."""
    seen = []
    for _ in range(JOBS):
        before = time.time()
        seen.append(float(subprocess.run(["bash", "-c", "date +%s.%N"], capture_output=True).stdout) - before)
    return statistics.median(seen)


def started_at_s(client: Client, job: str) -> float:
    while client.job(job)["phase"] not in ("succeeded", "failed"):
        time.sleep(0.05)
    return float(re.findall(r"\d{9,}\.\d+", client.log(job)[0].decode())[0])


def measure(client: Client) -> list[float]:
    seen = []
    for _ in range(JOBS):
        before = time.time()
        (job,) = client.submit(TASK)
        seen.append(started_at_s(client, job["id"]) - before)
    return sorted(seen)


@contextlib.contextmanager
def standing_grid() -> Iterator[Client]:
    """A grid of its own process, for as long as this lasts."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "SUAN_CONFIG": f"{folder}/client.json"}
        run = {"env": env, "check": True, "capture_output": True, "text": True}
        up = [SUAN, "up", "--state", f"{folder}/grid", "--port", "0", "--detach", "--json"]
        url = json.loads(subprocess.run(up, **run).stdout)["url"]
        try:
            yield Client(url, Path(f"{folder}/grid/admin.key").read_text().strip())
        finally:
            subprocess.run([SUAN, "down", "--state", f"{folder}/grid"], **run)


def main() -> None:
    with standing_grid() as client, tempfile.TemporaryDirectory() as folder:
        token = client.join_token("here")
        join = [SUAN, "join", client.url, "--token", token, "--site", "here", "--state", folder]
        agent = subprocess.Popen([*join, "--pool", "cpu:CPU-x86:1x2"], stderr=subprocess.DEVNULL)
        try:
            while not any(site.get("pools") for site in client.sites()):
                time.sleep(0.1)
            seen = measure(client)
        finally:
            agent.terminate()
            agent.wait()
    bare = bare_s()
    middle, worst = statistics.median(seen), seen[-1]
    peer = "the same shell started by hand"
    show(
        "latency",
        [
            Result(
                f"submit to start, median of {JOBS}",
                middle,
                "s",
                LIMIT_S,
                "felt as immediate",
                middle / bare,
                peer,
            ),
            Result(
                f"submit to start, worst of {JOBS}",
                worst,
                "s",
                3 * LIMIT_S,
                "three times that",
                worst / bare,
                peer,
            ),
        ],
    )


if __name__ == "__main__":
    main()
