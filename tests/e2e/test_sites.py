"""Jobs through a whole grid: loop, agents, engines, stores and data doors are real; only REST is left out."""

import os
import random
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from world import TENANT, World, cpu_pool, shell

from suan.control import commands
from suan.engines.runner import GridDoor
from suan.grid.action import Observation, Orders
from suan.grid.error import NotNow
from suan.grid.job import Place, Replicas
from suan.rules.policy import Policy
from suan.rules.settle import bill

QUICK_FENCE = Policy(lease_s=2, grace_s=1, stop_grace_s=1, clock_margin_s=1)


class BadLine:
    """A line to the grid that loses reports, or their answers, from a seed; or everything, when it is cut."""

    def __init__(self, door: GridDoor, seed: int = 0, loses_ratio: float = 0.0) -> None:
        self._door = door
        self._dice = random.Random(seed)
        self._loses_ratio = loses_ratio
        self.cut = False
        self.lost: Counter[str] = Counter()

    def report(self, observation: Observation, wait_s: float = 0, known: int = 0) -> Orders:
        self._maybe_lose("report")
        orders = self._door.report(observation, wait_s, known)
        self._maybe_lose("answer")
        return orders

    def append_log(self, site: str, run: str, offset: int, data: bytes) -> int:
        self._maybe_lose("log")
        size = self._door.append_log(site, run, offset, data)
        self._maybe_lose("log answer")
        return size

    def _maybe_lose(self, what: str) -> None:
        if self.cut or self._dice.random() < self._loses_ratio:
            self.lost[what] += 1
            raise NotNow("grid_unreachable", f"a {what} was lost")


def committed(world: World) -> list[str]:
    """Artifact versions as the journal has them, one for each commit."""
    return [
        fact.artifact.id for _, fact in world.journal.read() if type(fact).__name__ == "ArtifactCommitted"
    ]


def alive(world: World, run: str) -> list[int]:
    """Processes that belong to the run in this world: tests beside this one have runs of the same id."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        here = any(entry.startswith(f"SUAN_RUN_FOLDER={world.folder}/".encode()) for entry in environment)
        if here and f"SUAN_RUN_ID={run}".encode() in environment:
            found.append(int(name))
    return found


def test_a_job_runs_and_its_output_becomes_one_version(world: World) -> None:
    world.start("east")
    began_s = time.monotonic()
    (job,) = world.submit(
        shell(
            "write",
            'echo hello; echo out > "$SUAN_OUTPUT_RESULT/file.txt"; echo \'{"loss": 1.5}\' > "$SUAN_METRICS"',
            outputs={"result": "dataset:words"},
        )
    )
    (ended,) = world.ended(job)
    assert time.monotonic() - began_s < 5  # 0.3 s where nothing else runs
    assert ended.phase == "succeeded", ended
    assert ended.outputs == {"result": "dataset:words@1"}
    assert ended.metrics == {"loss": 1.5}
    artifact = world.grid.state.artifacts["dataset:words@1"]
    assert (artifact.bytes, artifact.files, artifact.run) == (4, 1, ended.runs[0])
    assert committed(world) == ["dataset:words@1"]
    assert world.sites["east"].agent.store.has(artifact.digest)
    assert world.log(ended.runs[0]) == b"hello\n"
    world.until(lambda: world.sites["east"].agent.step(None, full=False).runs == ())  # forgotten
    world.until(lambda: not list((world.folder / "east" / "runs").iterdir()))


def test_data_moves_over_the_link_at_its_rate_and_is_billed(world: World) -> None:
    world.start("east")
    world.start("west")
    world.link("east", "west", mbit_per_s=24, microyuan_per_gb=1_000_000)
    size_bytes = 6_000_000
    make = shell(
        "make",
        f'head -c {size_bytes} /dev/urandom > "$SUAN_OUTPUT_DATA/blob"',
        outputs={"data": "dataset:blob"},
        place=Place(sites=("east",)),
    )
    count = shell(
        "count",
        'echo "{\\"bytes\\": $(cat "$SUAN_INPUT_DATA/blob" | wc -c)}" > "$SUAN_METRICS"',
        inputs={"data": "dataset:blob"},
        place=Place(sites=("west",)),
    )
    first, second = world.ended(*world.submit(make, count))
    assert (first.phase, second.phase) == ("succeeded", "succeeded"), (first, second)
    assert second.metrics == {"bytes": size_bytes}
    starts = [world.grid.state.runs[job.runs[0]] for job in (first, second)]
    moved_s = starts[1].started_at_s - starts[0].ended_at_s  # 2.0 s at 3 MB/s, in whole seconds
    assert 1 <= moved_s <= 6
    owed = bill(world.grid.state, TENANT)
    assert size_bytes <= owed.moved_bytes <= size_bytes * 1.01  # the manifest travels, too
    assert sum(world.grid.state.balances.values()) == 0


def test_a_stopped_job_ends_and_its_processes_with_it(world: World) -> None:
    world.start("east")
    (job,) = world.submit(shell("sleep", "echo started; sleep 600 & wait"))
    world.until(lambda: world.log(f"{job}-r1") == b"started\n")
    world.grid.do(commands.stop_jobs((job,)))
    (ended,) = world.ended(job)
    assert ended.phase == "stopped"
    assert not alive(world, f"{job}-r1")


def test_a_job_stopped_while_it_is_staged_never_starts(world: World) -> None:
    world.start("east")
    (job,) = world.submit(shell("touch", f"touch {world.folder}/ran; sleep 600"))
    world.grid.do(commands.stop_jobs((job,)))
    (ended,) = world.ended(job)
    assert ended.phase == "stopped"
    assert not alive(world, f"{job}-r1")


def test_a_failing_job_is_restarted_as_often_as_it_says(world: World) -> None:
    world.start("east")
    tries = shell(
        "tries",
        'echo x >> "$SUAN_CHECKPOINT/tries"; [ "$(wc -l < "$SUAN_CHECKPOINT/tries")" = 3 ] || exit 7',
        max_restarts=2,
    )
    hopeless = shell("hopeless", "echo no such luck; exit 7", max_restarts=1)
    first, second = world.ended(*world.submit(tries, hopeless))
    assert (first.phase, len(first.runs)) == ("succeeded", 3)  # the checkpoint is kept from run to run
    assert (second.phase, len(second.runs)) == ("failed", 2)
    assert "code 7" in second.outcome and "no such luck" in second.outcome


def test_an_output_that_was_not_written_fails_the_job_and_says_so(world: World) -> None:
    world.start("east")
    (job,) = world.submit(shell("forgets", "true", outputs={"model": "model:none"}))
    (ended,) = world.ended(job)
    assert ended.phase == "failed"
    assert "without its output model" in ended.outcome
    assert not committed(world)


def test_a_restarted_agent_finds_its_run(world: World) -> None:
    world.start("east")
    (job,) = world.submit(
        shell("long", 'echo one; sleep 2; echo two; echo x > "$SUAN_OUTPUT_D/x"', outputs={"d": "dataset:d"})
    )
    world.until(lambda: world.log(f"{job}-r1") == b"one\n")
    world.sites["east"].end()
    world.start("east")
    (ended,) = world.ended(job)
    assert ended.phase == "succeeded"
    assert ended.runs == (f"{job}-r1",)
    assert committed(world) == ["dataset:d@1"]
    assert world.log(f"{job}-r1") == b"one\ntwo\n"


def test_lost_reports_and_answers_change_nothing(world: World) -> None:
    lines: list[BadLine] = []

    def through(door: GridDoor) -> GridDoor:
        lines.append(BadLine(door, seed=len(lines), loses_ratio=0.2))
        return lines[-1]

    for site in ("east", "west"):
        world.start(site, through=through)
    tasks = [
        shell(
            f"t{index}",
            f'echo {index} | tee "$SUAN_OUTPUT_D/x"; echo ran >> {world.folder}/ran-{index}',
            outputs={"d": f"dataset:d{index}"},
        )
        for index in range(16)
    ]
    ended = world.ended(*world.submit(*tasks), within_s=60)
    assert {job.phase for job in ended} == {"succeeded"}
    assert [len(job.runs) for job in ended] == [1] * len(tasks)
    assert sorted(committed(world)) == sorted(f"dataset:d{index}@1" for index in range(len(tasks)))
    for index, job in enumerate(ended):
        assert (world.folder / f"ran-{index}").read_text() == "ran\n"
        # An end waits a while for its log, the memory of it at the site for ever.
        world.until(lambda run=job.runs[0], said=f"{index}\n": world.log(run) == said.encode())
    kinds = ("report", "answer", "log", "log answer")

    def lost() -> Counter[str]:
        return sum((line.lost for line in lines), Counter())

    # Chance decides what is lost: a few more jobs, until everything has been lost a few times.
    for index in range(len(tasks), 200):
        if all(lost()[what] >= 3 for what in kinds):
            break
        (more,) = world.ended(*world.submit(shell(f"t{index}", "echo more")), within_s=60)
        assert (more.phase, len(more.runs)) == ("succeeded", 1)
    assert all(lost()[what] >= 3 for what in kinds), lost()


def test_a_site_that_is_cut_off_stops_its_runs_and_they_run_once_more_elsewhere(
    world_of: Callable[[Policy], World],
) -> None:
    world = world_of(QUICK_FENCE)
    lines: list[BadLine] = []

    def through(door: GridDoor) -> GridDoor:
        lines.append(BadLine(door))
        return lines[-1]

    world.start("east", through=through)
    slow_here = f"[ $SUAN_SITE = east ] && sleep 600; date >> {world.folder}/done; date > $SUAN_OUTPUT_D/x"
    (job,) = world.submit(shell("careful", slow_here, outputs={"d": "dataset:d"}))
    world.until(lambda: alive(world, f"{job}-r1"))
    world.start("west")
    lines[0].cut = True
    cut_s = time.monotonic()
    world.until(lambda: not alive(world, f"{job}-r1"))
    fenced_s = time.monotonic() - cut_s
    world.until(lambda: len(world.job(job).runs) == 2)
    assert fenced_s < time.monotonic() - cut_s  # gone there before it began here
    (ended,) = world.ended(job)
    assert (ended.phase, ended.outcome) == ("succeeded", "finished at west")
    lines[0].cut = False
    world.until(lambda: world.grid.state.sites["east"].phase == "ready")
    assert world.grid.state.sites["east"].epoch == 2
    world.until(lambda: world.sites["east"].agent.step(None, full=False).runs == ())
    (again,) = world.ended(*world.submit(shell("again", "true", place=Place(sites=("east",)))))
    assert again.phase == "succeeded"
    assert committed(world) == ["dataset:d@1"]
    assert len((world.folder / "done").read_text().splitlines()) == 1


def test_a_short_cut_is_not_noticed(world_of: Callable[[Policy], World]) -> None:
    world = world_of(Policy(lease_s=6, grace_s=1, stop_grace_s=1, clock_margin_s=1))
    lines: list[BadLine] = []

    def through(door: GridDoor) -> GridDoor:
        lines.append(BadLine(door))
        return lines[-1]

    world.start("east", through=through)
    (job,) = world.submit(shell("steady", 'sleep 3; echo x > "$SUAN_OUTPUT_D/x"', outputs={"d": "dataset:d"}))
    world.until(lambda: alive(world, f"{job}-r1"))
    lines[0].cut = True
    time.sleep(2)
    lines[0].cut = False
    (ended,) = world.ended(job)
    assert (ended.phase, ended.runs) == ("succeeded", (f"{job}-r1",))


def test_a_killed_job_leaves_its_whole_log(world: World) -> None:
    world.start("east")
    (job,) = world.submit(shell("chatty", "seq 1 200000; echo last words; kill -9 $$"))
    (ended,) = world.ended(job)
    assert ended.phase == "failed"
    assert "signal 9" in ended.outcome and "last words" in ended.outcome
    lines = world.log(f"{job}-r1").splitlines()
    assert (len(lines), lines[-1]) == (200_001, b"last words")


def test_a_service_is_reachable_once_it_answers(world: World) -> None:
    world.start("east")
    serve = 'sleep 1; echo ok > health; exec "$SUAN_PYTHON" -m http.server --bind 127.0.0.1 "$SUAN_PORT"'
    (job,) = world.submit(shell("serve", serve, replicas=Replicas()))
    run = f"{job}-r1"
    world.until(lambda: world.grid.state.runs[run].started_at_s if run in world.grid.state.runs else None)
    assert not world.grid.state.runs[run].endpoint
    world.until(lambda: world.grid.state.runs[run].endpoint)
    with urllib.request.urlopen(f"{world.grid.state.runs[run].endpoint}/health", timeout=5) as answer:
        assert answer.read() == b"ok\n"
    world.grid.do(commands.stop_jobs((job,)))
    assert world.ended(job)[0].phase == "stopped"


def test_progress_is_seen_while_it_runs(world: World) -> None:
    world.start("east")
    steps = 'for i in 1 2 3; do echo "{\\"step\\": $i}" >> "$SUAN_PROGRESS"; sleep 1; done; sleep 9'
    (job,) = world.submit(shell("steps", steps))
    seen: set[float] = set()

    def all_steps() -> bool:
        seen.add(world.grid.live.progress.get(f"{job}-r1", {}).get("step", 0))
        return seen >= {1.0, 2.0, 3.0}

    world.until(all_steps)
    world.grid.do(commands.stop_jobs((job,)))
    world.ended(job)


def test_a_closed_site_stops_its_runs_and_other_sites_take_them_over(world: World) -> None:
    world.start("east")
    (job,) = world.submit(shell("moves on", "[ $SUAN_SITE = east ] && sleep 600; true"))
    world.until(lambda: alive(world, f"{job}-r1"))
    world.start("west")
    world.grid.do(commands.drain_site("east", True))
    world.sites["east"].close()
    assert not alive(world, f"{job}-r1")
    (ended,) = world.ended(job)
    assert (ended.phase, ended.outcome) == ("succeeded", "finished at west")


def test_a_killed_supervisor_is_a_lost_run_not_a_failed_job(world: World) -> None:
    world.start("east")
    (job,) = world.submit(
        shell("unlucky", f"[ -e {world.folder}/second ] || {{ touch {world.folder}/second; sleep 600; }}")
    )
    world.until(lambda: (world.folder / "second").exists())
    (process, *_) = alive(world, f"{job}-r1")
    supervisor = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    (ended,) = world.ended(job)
    assert (ended.phase, len(ended.runs)) == ("succeeded", 2)


def test_many_jobs_share_a_site(world: World) -> None:
    world.start("east", cpu_pool(8))
    ended = world.ended(*world.submit(*(shell(f"t{index}", "sleep 0.2") for index in range(40))), within_s=60)
    assert {job.phase for job in ended} == {"succeeded"}
