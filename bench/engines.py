"""How much longer does a job take to start through the grid than by the engine's own command?

    bench/engines.py [--jobs 10] [--json]

For each engine a real cluster of the test bed, one grid and one agent, each a process; by turns one job
through the grid and one by `sbatch`, a POST to Ray's Jobs API (what `ray job submit` does once Python has
started) or `kubectl create`. Both are timed from the submission to the job's own clock. Limit: one second
more than the engine, below which people feel a start as immediate (Nielsen, Usability Engineering, 1993,
chapter 5). Engines that this machine cannot start are named and left out; Kubernetes needs SUAN_KUBE_BIN.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latency import SUAN, standing_grid, started_at_s
from report import Result, show

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "testbed"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "conformance"))

import kube_cluster
import ray_cluster
import slurm_cluster
from clusters import CLUSTERS, short_folder
from site_parts import toml_value

from suan.doors.client import Client
from suan.engines.ray_api import Submission
from suan.grid.job import Place, Resources, Task

LIMIT_S, WITHIN_S = 1.0, 120.0
PRICES = {"gpu": 1.0, "cpu": 1.0, "npu": 1.0}
STAMP = "date +%s.%N"
MISSING: dict[str, Callable[[], str]] = {
    "slurm": slurm_cluster.missing,
    "ray": ray_cluster.missing,
    "kubernetes": kube_cluster.missing,
}
COMMANDS = {"slurm": "sbatch", "ray": "its Jobs API", "kubernetes": "kubectl create"}


def by_sbatch(cluster: Any, number: int, file: Path) -> None:
    command = ["sbatch", "--partition=cpu", "--output=/dev/null", f"--wrap={STAMP} > {file}"]
    subprocess.run(command, env=cluster._cluster.environment, cwd="/tmp", check=True, capture_output=True)


def by_jobs_api(cluster: Any, number: int, file: Path) -> None:
    entrypoint = f"bash -c '{STAMP} > {file}'"
    cluster._cluster.api().submit(Submission(entrypoint=entrypoint, submission_id=f"own-{number}"))


def by_kubectl(cluster: Any, number: int, file: Path) -> None:
    container = {"name": "own", "image": "python:3.11", "command": ["bash", "-c", f"{STAMP} > {file}"]}
    pod = {"restartPolicy": "Never", "containers": [container], "tolerations": [{"operator": "Exists"}]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"own-{number}"},
           "spec": {"backoffLimit": 0, "template": {"spec": pod}}}  # fmt: skip
    command = ["kubectl", f"--kubeconfig={cluster._cluster.kubeconfig}", "create", "-f", "-"]
    subprocess.run(command, input=json.dumps(job), text=True, check=True, capture_output=True)


OWN = {"slurm": by_sbatch, "ray": by_jobs_api, "kubernetes": by_kubectl}


def until(true: Callable[[], object]) -> None:
    end_s = time.monotonic() + WITHIN_S
    while not true():
        assert time.monotonic() < end_s, f"nothing happened in {WITHIN_S:g} s"
        time.sleep(0.02)


def through_the_grid(client: Client, engine: str) -> float:
    """Seconds from the submission to the job's own clock."""
    wanted = Resources(accelerator="Ascend910B2", accelerators=1) if engine == "ray" else Resources(cpus=1)
    task = Task(name="stamp", run=STAMP, resources=(wanted,), duration_s=5, place=Place(sites=(engine,)))
    began_s = time.time()
    (job,) = client.submit([task])
    return started_at_s(client, job["id"]) - began_s


def by_itself(engine: str, cluster: Any, number: int, folder: Path) -> float:
    file = folder / f"own-{number}"
    began_s = time.time()
    OWN[engine](cluster, number, file)
    until(lambda: file.exists() and file.read_text().endswith("\n"))
    return float(file.read_text()) - began_s


@contextlib.contextmanager
def agent(client: Client, engine: str, described: dict[str, Any], folder: Path) -> Iterator[None]:
    """The engine joins as a site of its name."""
    table = {"site": engine, "url": client.url, "state": str(folder / "agent"), **described}
    config = folder / "site.toml"
    config.write_text("".join(f"{name} = {toml_value(value)}\n" for name, value in table.items()))
    environment = {**os.environ, "SUAN_TOKEN": client.join_token(engine)}
    with open(folder / "agent.log", "ab") as log:
        process = subprocess.Popen([SUAN, "join", "--config", str(config)], env=environment, stderr=log)
    try:
        until(lambda: any(site["name"] == engine and site["pools"] for site in client.sites()))
        yield
    finally:
        process.terminate()
        process.wait()


def measure(engine: str, client: Client, jobs: int) -> Result:
    folder = short_folder()
    (folder / engine).mkdir(mode=0o755)
    cluster: Any = CLUSTERS[engine](folder / engine)
    ours, own = [], []
    try:
        described = cluster.open(PRICES)
        with agent(client, engine, described, folder / engine):
            through_the_grid(client, engine), by_itself(engine, cluster, 0, folder)  # what is cold gets warm
            for number in range(1, jobs + 1):
                own.append(by_itself(engine, cluster, number, folder))
                ours.append(through_the_grid(client, engine))
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
    middle, peer = statistics.median(ours), statistics.median(own)
    what = f"{engine}: submit to start, median of {jobs}, {middle:.2f} s, by itself {peer:.2f} s; more"
    return Result(what, middle - peer, "s", LIMIT_S, "felt as immediate", middle / peer, COMMANDS[engine])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    with standing_grid() as client:
        for engine, missing in MISSING.items():
            if lacks := missing():
                print(f"WITHOUT {engine}: {lacks}", file=sys.stderr)
            else:
                results.append(measure(engine, client, options.jobs))
    show("engines", results)


if __name__ == "__main__":
    main()
