"""An agent by itself: orders by hand, a real engine and store, no grid."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from suan.engines.agent import Agent
from suan.engines.clearing import Clearing
from suan.engines.local import LocalEngine
from suan.engines.outcome import metrics_of, progress_of
from suan.engines.staging import Checkouts, RunFolder
from suan.grid.action import LaunchOrder, Orders, RunSeen, StopOrder
from suan.grid.artifact import Manifest
from suan.grid.error import Refused, SiteTrouble
from suan.grid.site import Pool
from suan.stores.artifacts import ArtifactStore, open_store

POOL = Pool(name="cpu", accelerator="CPU-x86", devices_per_node=4, nodes=1, memory_gib_per_node=4)


class WallClock:
    def now_s(self) -> int:
        return int(time.time())


class Site:
    """A folder with an agent on it; `restart` gives it a new one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(folder / "store")
        self.agent = self._new_agent()

    def _new_agent(self) -> Agent:
        engine = LocalEngine(self.folder / "engine", [POOL])
        return Agent(site="here", store=self.store, folder=self.folder, clock=WallClock(), engine=engine)

    def restart(self) -> None:
        self.agent.close()
        self.agent = self._new_agent()

    def put(self, name: str, **files: str) -> str:
        folder = self.folder / "put" / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(text)
        return self.store.put_folder(folder)[0]

    def obey(self, **orders: object) -> None:
        given = {"site": "here", "epoch": 1, "version": 1, "now_s": 0, "lease_s": 60, **orders}
        self.agent.step(Orders(**given), full=False)

    def launch(self, command: str, run: str = "j1-r1", **details: object) -> LaunchOrder:
        order = order_of(command, run, **details)
        self.obey(launch=(order,))
        return order

    def seen(self, run: str = "j1-r1") -> RunSeen | None:
        return {seen.run: seen for seen in self.agent.step(None, full=False).runs}.get(run)

    def until(self, condition: Callable[[], object], within_s: float = 15) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, self.agent.step(None, full=True)
            time.sleep(0.02)

    def ended(self, run: str = "j1-r1") -> RunSeen:
        self.until(lambda: (seen := self.seen(run)) and seen.phase == "ended")
        seen = self.seen(run)
        assert seen is not None
        return seen

    def log(self, run: str = "j1-r1") -> str:
        return self.agent.read_log(run, 0, 1 << 20).decode()

    def close(self) -> None:
        self.agent.stop_runs(0)
        self.until(lambda: all(run.phase == "ended" for run in self.agent.step(None, full=False).runs))
        self.agent.close()


def order_of(command: str, run: str, **details: object) -> LaunchOrder:
    given = {"job": run.partition("-")[0], "job_name": "task", "tenant": "team", "pool": "cpu"}
    given |= {"accelerator": "CPU-x86", "nodes": 1, "devices_per_node": 1, **details}
    return LaunchOrder(run=run, command=command, **given)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


# ---------------------------------------------------------------- orders


def test_the_same_order_again_and_again_is_one_run(site: Site, tmp_path: Path) -> None:
    order = order_of(f"echo x >> {tmp_path}/ran; sleep 0.3", "j1-r1")
    for _ in range(20):
        site.obey(launch=(order, order))
        time.sleep(0.02)
    assert site.ended().exit_code == 0
    site.restart()
    for _ in range(3):
        site.obey(launch=(order,))
    assert site.ended().exit_code == 0
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_launch_that_comes_after_its_end_was_forgotten_starts_nothing(site: Site, tmp_path: Path) -> None:
    order = site.launch(f"echo x >> {tmp_path}/ran")
    site.ended()
    site.obey(forget=("j1-r1",))
    assert site.seen() is None
    site.obey(launch=(order,))
    site.restart()
    site.obey(launch=(order,))
    time.sleep(0.3)
    assert site.seen() is None
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_stop_that_overtakes_its_launch_prevents_it(site: Site, tmp_path: Path) -> None:
    site.obey(stop=(StopOrder(run="j1-r1", why="asked"),))
    assert site.ended().cause == "stopped"
    site.launch(f"touch {tmp_path}/ran")
    time.sleep(0.3)
    assert site.ended().cause == "stopped"
    assert not (tmp_path / "ran").exists()


def test_orders_of_an_older_epoch_change_nothing(site: Site) -> None:
    site.obey(epoch=2)
    site.launch("sleep 60")
    time.sleep(0.2)
    assert site.seen() is None
    site.obey(epoch=2, launch=(order_of("true", "j2-r1"),))
    assert site.ended("j2-r1").exit_code == 0


def test_a_running_run_is_not_forgotten(site: Site) -> None:
    site.launch("sleep 60")
    site.until(lambda: (seen := site.seen()) and seen.phase == "running")
    site.obey(forget=("j1-r1",))
    assert site.seen().phase == "running"


def test_nothing_is_launched_on_an_answer_as_old_as_its_lease(site: Site) -> None:
    orders = Orders(site="here", epoch=1, version=1, now_s=0, lease_s=5, launch=(order_of("true", "j1-r1"),))
    site.agent.step(orders, full=False, age_s=5.0)
    time.sleep(0.2)
    assert site.seen() is None


def test_two_agents_do_not_share_a_folder(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="another agent"):
        Agent(site="here", store=site.store, folder=tmp_path, clock=WallClock())


# ---------------------------------------------------------------- staging


def test_a_run_finds_its_environment(site: Site) -> None:
    corpus = site.put("corpus", text="poem")
    code = site.put("code", main="print")
    settings = site.put("settings", yaml="a: 1")
    site.launch(
        "env | grep -E 'SUAN_|MINE|SECRET'; cat $SUAN_INPUT_TANG_POEMS/text main conf/settings/yaml;"
        ' echo x >> main; pwd; "$SUAN_PYTHON" -c "print(1 + 1)"; echo y > $SUAN_OUTPUT_MODEL/w || exit 1',
        inputs={"tang-poems": corpus},
        mounts={"~/conf/settings": settings},
        workdir=code,
        outputs=("model",),
        args_json='{"rank": 16}',
        env={"MINE": "1", "SUAN_SITE": "forged", "SUAN_INPUT_TANG_POEMS": "/etc"},
        secrets={"SECRET": "s3"},
    )
    assert site.ended().exit_code == 0, site.log()
    said = site.log()
    assert "poemprinta: 1" in said and "\n2\n" in said
    variables = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    expected = {
        "SUAN_JOB_ID": "j1",
        "SUAN_RUN_ID": "j1-r1",
        "SUAN_TENANT": "team",
        "SUAN_SITE": "here",
        "SUAN_POOL": "cpu",
        "SUAN_ARGS": '{"rank": 16}',
        "MINE": "1",
        "SECRET": "s3",
        "SUAN_NODE_RANK": "0",
        "SUAN_NUM_NODES": "1",
    }
    assert expected.items() <= variables.items()
    assert set(site.ended().outputs) == {"model"}


def test_runs_share_one_copy_of_an_input_and_cannot_take_it_from_each_other(site: Site) -> None:
    corpus = site.put("corpus", text="poem")
    orders = tuple(
        order_of("cat $SUAN_INPUT_C/text; stat -c %a $SUAN_INPUT_C/text", f"j{n}-r1", inputs={"c": corpus})
        for n in range(4)
    )
    site.obey(launch=orders)
    for order in orders:
        assert site.ended(order.run).exit_code == 0
        assert site.log(order.run) == "poem444\n"
        site.obey(forget=(order.run,))
    assert len(list((site.folder / "cache").iterdir())) == 1


def test_an_input_that_is_not_here_is_a_run_that_did_not_start(site: Site) -> None:
    site.launch("true", inputs={"c": "0" * 64})
    seen = site.ended()
    assert (seen.cause, seen.started_at_s) == ("not_started", None)
    assert "is not here" in seen.detail
    site.restart()
    assert site.ended() == seen


@pytest.mark.parametrize("path", ["../out", "/", "main"])
def test_mounts_that_leave_the_folder_or_cover_files_are_told(site: Site, path: str) -> None:
    code = site.put("code", main="print")
    site.launch("true", workdir=code, mounts={path: code})
    assert (seen := site.ended()).cause == "not_started" and "cannot be mounted" in seen.detail


def test_more_runs_than_devices_are_told_not_to_have_started(site: Site) -> None:
    site.obey(launch=tuple(order_of("sleep 60", f"j{n}-r1") for n in range(5)))
    site.until(lambda: sum(run.phase == "running" for run in site.agent.step(None, full=False).runs) == 4)
    refused = [run for run in site.agent.step(None, full=False).runs if run.phase == "ended"]
    assert [(run.cause, "devices" in run.detail) for run in refused] == [("not_started", True)]


# ---------------------------------------------------------------- outcomes


def test_a_restarted_agent_tells_the_same_outputs(site: Site) -> None:
    site.launch("echo x > $SUAN_OUTPUT_A/x", outputs=("a", "b"))
    seen = site.ended()
    assert list(seen.outputs) == ["a"]  # b is empty
    (site.folder / "runs/j1-r1/outputs/A/x").write_text("changed afterwards")
    site.restart()
    assert site.ended() == seen


def test_a_store_that_fails_for_a_while_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suan.engines.agent._STORE_PAUSE_S", 0.1)
    real, failures = ArtifactStore.put_folder, []

    def failing(store: ArtifactStore, folder: Path) -> tuple[str, Manifest]:
        if len(failures) < 3:
            failures.append(folder)
            raise SiteTrouble("store_failed", "no space left")
        return real(store, folder)

    monkeypatch.setattr(ArtifactStore, "put_folder", failing)
    site.launch("echo x > $SUAN_OUTPUT_A/x", outputs=("a",))
    seen = site.ended()
    assert (seen.cause, seen.exit_code, list(seen.outputs), len(failures)) == ("exited", 0, ["a"], 3)


def test_a_store_that_fails_for_good_is_no_verdict_on_the_job(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(store: ArtifactStore, folder: Path) -> tuple[str, Manifest]:
        raise SiteTrouble("store_failed", "no space left")

    monkeypatch.setattr("suan.engines.agent._STORE_PAUSE_S", 0.01)
    monkeypatch.setattr("suan.engines.agent._STORE_TRIES", 3)
    monkeypatch.setattr(ArtifactStore, "put_folder", failing)
    site.launch("echo x > $SUAN_OUTPUT_A/x", outputs=("a",))
    seen = site.ended()
    assert seen.cause == "lost" and "no space left" in seen.detail


def test_an_output_that_cannot_travel_is_left_out_with_the_reason(site: Site) -> None:
    site.launch("ln -s /etc/passwd $SUAN_OUTPUT_A/link", outputs=("a",))
    seen = site.ended()
    assert seen.outputs == {} and "leaves the folder" in seen.detail


def test_bad_metrics_are_a_note_and_not_a_failure(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "j1-r1")
    folder.path.mkdir(parents=True)
    assert metrics_of(folder) == ({}, "")
    folder.metrics.write_text('{"loss": 1, "ok": true, "name": "x", "nan": NaN}')
    assert metrics_of(folder) == ({"loss": 1.0}, "SUAN_METRICS: no finite numbers: name, nan, ok")
    folder.metrics.write_text("[1")
    assert metrics_of(folder)[0] == {} and "could not be read" in metrics_of(folder)[1]


def test_progress_is_the_newest_whole_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "j1-r1")
    folder.path.mkdir(parents=True)
    assert progress_of(folder) == {}
    lines = [json.dumps({"step": step, "phase": "train"}) for step in range(5000)]
    folder.progress.write_text("\n".join(lines) + '\nnot json\n{"step": 99')
    assert progress_of(folder) == {"step": 4999.0, "phase": "train"}


def test_a_checkpoint_goes_with_success_and_stays_without(site: Site) -> None:
    site.launch("echo x > $SUAN_CHECKPOINT/x; exit 1")
    site.ended()
    site.obey(forget=("j1-r1",))
    site.launch("cat $SUAN_CHECKPOINT/x", run="j1-r2")
    assert site.ended("j1-r2").exit_code == 0

    def cleared(folder: str) -> bool:
        site.obey(forget=("j1-r2",))  # as often as the grid says it
        return not list((site.folder / folder).iterdir())

    site.until(lambda: cleared("checkpoints"))
    site.until(lambda: cleared("runs"))


def test_a_checkpoint_stays_while_another_run_of_the_job_uses_it(site: Site) -> None:
    """The grid did not take the first run's success: it fenced the site, or an output was missing."""
    site.launch("echo x > $SUAN_CHECKPOINT/x")
    site.ended()
    again = order_of("sleep 1; cat $SUAN_CHECKPOINT/x", "j1-r2")
    site.obey(launch=(again,), forget=("j1-r1",))
    assert site.ended("j1-r2").exit_code == 0


# ---------------------------------------------------------------- clearing


def test_what_nobody_needs_goes_after_hours_and_nothing_else_does(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    digests = {}
    for name in ("kept", "used", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        digests[name] = store.put_folder(tmp_path / name)[0]
    used = {digests["used"]}
    clearing = Clearing(tmp_path, store, Checkouts(store, tmp_path / "cache"), lambda: frozenset(used))
    clearing.need(frozenset([digests["kept"]]))
    assert clearing.clear(now_s=0.0) == ()
    assert clearing.clear(now_s=3600.0) == ()
    clearing.need(frozenset(digests.values()))
    assert clearing.clear(now_s=8000.0) == ()
    clearing.need(frozenset([digests["kept"]]))
    assert clearing.clear(now_s=9000.0) == ()  # its time begins anew
    clearing.need(None, moving=frozenset([digests["old"]]))  # what must stay is as it was
    assert clearing.clear(now_s=10_000.0) == ()
    clearing.need(None)  # it has moved: whether it must stay is for the grid to say
    assert clearing.clear(now_s=18_000.0) == ()
    clearing.need(frozenset([digests["kept"]]))
    assert clearing.clear(now_s=20_000.0) == ()
    used.add(digests["old"])  # as the output of a run made again
    clearing.need(None)
    used.discard(digests["old"])  # the grid has it, and said so no more than by letting the run be forgotten
    assert clearing.clear(now_s=30_000.0) == ()
    clearing.need(frozenset([digests["kept"]]))
    assert clearing.clear(now_s=31_000.0) == ()
    assert clearing.clear(now_s=38_000.0) == ()
    assert clearing.clear(now_s=39_000.0) == (digests["old"],)
    assert store.digests() == tuple(sorted([digests["kept"], digests["used"]]))
