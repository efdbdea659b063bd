"""The poet's life over the test bed: raw text that stays in Beijing, training where it is cheapest, a site
cut off half way for longer than its lease, one poet all the same, and a bill.

Knows the pipeline of examples/poet/tiny.yaml and what is changed about it: where the raw text may be read,
which accelerators train, and that the model is served at the end, at a site that nobody can dial.
"""

import time
from typing import Any

import checks
import msgspec
import world
from bed import Bed

from suan.doors.cli.quickstart.poem import write_poem
from suan.doors.cli.quickstart.report import summarise
from suan.doors.cli.run import read_file
from suan.grid.job import Place, Resources, Task

Json = dict[str, Any]
HOME = "beijing"  # where the raw text is, and has to stay
SERVING = "hohhot"  # gives its data and what it serves through the grid
DATA = ("tang-poems", "raw-pages")
STEPS = 1200  # longer than a lease on a quick machine, minutes on a busy one
CUT_AT_STEP = STEPS // 20
_WHOLE_S = 420.0
_KINDS = ("H100-SXM", "Ascend910B2", "H20")


def tasks(steps: int = STEPS) -> list[Task]:
    """The pipeline as the bed runs it."""
    read = read_file(world.ROOT / "examples" / "poet" / "tiny.yaml", ())
    found = []
    for task in read.tasks:
        if task.name in ("corpus", "tokenizer"):
            task = msgspec.structs.replace(task, place=Place(sites=(HOME,)))
        if task.name == "pretrain":
            kinds = tuple(Resources(accelerator=kind, accelerators=1, cpus=1) for kind in _KINDS)
            arguments = {**task.args, "steps": steps, "eval_every": steps // 6, "checkpoint_every_steps": 100}
            task = msgspec.structs.replace(task, resources=kinds, args=arguments)
        if task.replicas is not None:
            task = msgspec.structs.replace(task, place=Place(sites=(SERVING,)))
        found.append(task)
    return found


def put_data(bed: Bed) -> None:
    """Puts the raw text; returns when only its home has it."""
    for name in DATA:
        artifact = bed.client.put(world.ROOT / "examples" / "data" / name, f"dataset:{name}", HOME)

        def only_home(artifact: Json = artifact) -> bool:
            holders = {replica["site"] for replica in bed.client.artifact(artifact["id"])["replicas"]}
            return holders == {HOME}

        bed.until(f"{artifact['id']} is at {HOME} alone", only_home)


class Poet:
    """One pipeline with one partition. `run` tells the summary."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._jobs: dict[str, str] = {}  # task -> job
        self._began_s = time.monotonic()
        self.story: Json = {}

    def run(self) -> Json:
        bed = self._bed
        put_data(bed)
        *pipeline, service = tasks()
        submitted = bed.client.submit(pipeline, pipeline="poet", idempotency_key="bed")
        self._jobs = {job["task"]["name"]: job["id"] for job in submitted}
        bed.say(f"submitted {', '.join(self._jobs)}")
        first = self._training_begins()
        self._partition(first)
        bed.until("every job has ended", lambda: all(self._ended(job) for job in self._jobs), _WHOLE_S)
        bed.network.cut(first, up=True)
        bed.until(f"{first} is back", lambda: bed.phase(first) == "ready")
        self._bring_report()
        served = self._serve(service)
        wrong = self._wrong(first)
        jobs = [bed.client.job(job) for job in (*self._jobs.values(), served)]
        more = {"partition": self.story, "wall_s": round(time.monotonic() - self._began_s, 1), "wrong": wrong}
        return summarise(bed.client, jobs, more)

    # ------------------------------------------------------------ inside

    def _job(self, task: str) -> Json:
        return self._bed.client.job(self._jobs[task])

    def _ended(self, task: str) -> bool:
        job = self._job(task)
        assert job["phase"] != "failed", f"{task}: {job['outcome']}"
        return job["ended_at_s"] is not None

    def _training_begins(self) -> str:
        """The site that trains, once it has done a part."""

        def far_enough() -> bool:
            job = self._job("pretrain")
            assert job["phase"] != "failed", job["outcome"]
            return float((job.get("progress") or {}).get("step", 0)) >= CUT_AT_STEP

        self._bed.until("the training is on its way", far_enough, _WHOLE_S)
        run = self._job("pretrain")["runs"][-1]
        considered = self._bed.client.job(self._jobs["pretrain"])["runs"][-1].get("considered") or {}
        self.story |= {"first_run": run["id"], "first_site": run["site"], "considered": considered}
        return str(run["site"])

    def _partition(self, site: str) -> None:
        """Cuts the site off until its runs have fenced themselves and the job runs elsewhere."""
        bed, run = self._bed, self.story["first_run"]
        bed.say(f"{site} trains ({run}); its links go down now")
        assert bed.machines[site].ask("runs").get(run), f"{run} is not running at {site}"
        bed.network.cut(site)
        cut_s = time.monotonic()
        quiet_s = again_s = 0.0
        while not again_s:
            assert time.monotonic() - cut_s < 180, f"{run} does not run elsewhere"
            if not quiet_s and run not in bed.machines[site].ask("runs"):
                quiet_s = time.monotonic() - cut_s
                bed.say(f"  after {quiet_s:.1f} s {site} has stopped {run} by itself")
            runs = self._job("pretrain")["runs"]
            if len(runs) > 1 and runs[-1]["started_at_s"]:
                again_s = time.monotonic() - cut_s
                bed.say(f"  after {again_s:.1f} s {runs[-1]['id']} runs at {runs[-1]['site']}")
            time.sleep(0.2)
        self.story |= {
            "silent_fence_s": round(quiet_s, 1),
            "again_s": round(again_s, 1),
            "second_site": self._job("pretrain")["runs"][-1]["site"],
            "cut_frames": sum(count["cut"] for count in bed.network.change().values()),
        }

    def _bring_report(self) -> None:
        """What the evaluation found, here: through the relay, where its site cannot be dialled."""
        report = self._job("evaluate")["outputs"]["report"]
        self._bed.client.get(report, self._bed.folder / "report", wait_s=60.0)

    def _serve(self, service: Task) -> str:
        """The job that answered once, through the relay, and was stopped."""
        bed = self._bed
        (job,) = bed.client.submit([service])
        bed.say(f"{SERVING} serves {service.name}, and is asked through the grid")
        self.story["answer"] = write_poem(bed.client.url, bed.client.key, service.name, lambda piece: None)
        endpoint = bed.client.job(job["id"])["runs"][-1]["endpoint"]
        assert endpoint.startswith("relay://"), endpoint
        bed.client.stop(job["id"])
        bed.until("the service has ended", lambda: bed.client.job(job["id"])["ended_at_s"] is not None)
        return str(job["id"])

    def _wrong(self, first: str) -> list[str]:
        bed = self._bed
        wrong = checks.faults_of_safety(bed)
        if not 0 < self.story["silent_fence_s"] <= self.story["again_s"]:
            wrong.append(f"{first} had not stopped its run when the next one began: {self.story}")
        if first == self.story["second_site"]:
            wrong.append("the job ran again where the links were down")
        for name in DATA:
            transfers = bed.client.artifact(f"dataset:{name}")["transfers"]
            wrong += [
                f"dataset:{name} went to {transfer['destination']}"
                for transfer in transfers
                if transfer["destination"] != HOME
            ]
        for task, job in self._jobs.items():
            if (found := bed.client.job(job))["phase"] != "succeeded":
                wrong.append(f"{task} is {found['phase']}: {found['outcome']}")
        return wrong
