"""What-if against a live journal: the same grid twice, and nothing of the real one touched."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suan.control.execute import facts_of
from suan.doors.cli.main import EXIT_REFUSED, run
from suan.grid import fact as f
from suan.grid.job import Checkpoint, EndCause, JobPhase, Replicas, Resources, Task
from suan.grid.site import Pool, Series, Tariff
from suan.grid.state import State
from suan.journals.sqlite import SqliteJournal
from suan.rules.admit import admit
from suan.rules.decide import decide
from suan.rules.evolve import evolve
from suan.rules.policy import Policy

NOW_S = 1_800_000_000
Ask = Callable[..., Any]

WORLD = """
[[site]]
name = "north"
[[site.pool]]
accelerator = "H100-SXM"
devices_per_node = 8
nodes = 2
machine_microyuan_per_device_h = 1000000
[site.tariff]
flat_yuan_per_kwh = 0.3
[[site]]
name = "east"
[[site.pool]]
accelerator = "H100-SXM"
devices_per_node = 8
nodes = 1
[[link]]
from = "north"
to = "east"
gbps = 1
"""


class Live:
    """A grid's journal in a folder, as it stands while eight H100s at two sites are busy and jobs wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.journal = SqliteJournal(folder / "grid.sqlite")
        self.state = State()
        self.now_s = NOW_S
        self.tell(f.GridStarted(at_s=NOW_S), f.TenantSet(at_s=NOW_S, tenant="nlp"))
        for site, yuan in (("east", 8), ("west", 8)):
            pool = Pool(
                name="gpu",
                accelerator="H100-SXM",
                devices_per_node=8,
                nodes=1,
                cpus_per_node=64,
                device_w=700,
                machine_microyuan_per_device_h=yuan * 1_000_000,
            )
            prices = Series(start_at_s=0, microyuan_per_kwh=(450_000,), gco2_per_kwh=(500.0,))
            self.tell(
                f.SiteJoined(at_s=NOW_S, site=site),
                f.SiteDescribed(at_s=NOW_S, site=site, pools=(pool,)),
                f.TariffSet(at_s=NOW_S, tariff=Tariff(site=site, prices=prices, pue=1.2)),
            )

    def tell(self, *facts: f.Fact) -> None:
        self.journal.append(facts, self.state.sequence)
        for fact in facts:
            evolve(self.state, fact)
        self.journal.sync()

    def submit(self, name: str, **about: Any) -> str:
        need = Resources(accelerator="H100-SXM", accelerators=8, cpus=1)
        made = Task(name=name, run="true", resources=(need,), **about)
        facts = admit(self.state, "nlp", (made,), now_s=self.now_s)
        self.tell(*facts)
        return next(fact.job for fact in facts if isinstance(fact, f.JobSubmitted))

    def plan(self) -> None:
        self.tell(*facts_of(decide(self.state, Policy(), self.now_s)))
        for runs in list(self.state.open_runs.values()):
            for name in runs:
                if self.state.runs[name].started_at_s is None:
                    self.tell(f.RunStarted(at_s=self.now_s, run=name, started_at_s=self.now_s))


@pytest.fixture
def live(tmp_path: Path) -> Live:
    there = Live(tmp_path / "grid")
    for name in ("one", "two"):
        there.submit(name, duration_s=7200)
    there.plan()
    there.now_s += 1800
    for name in ("three", "four"):
        there.submit(name, duration_s=3600, deadline_s=4 * 3600)
    there.plan()
    return there


@pytest.fixture
def ask(live: Live, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ask:
    """Runs `suan what-if`; its JSON, or what it refused with."""
    (tmp_path / "world.toml").write_text(WORLD)

    def call(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert run(["what-if", "--state", str(live.folder), "--json", *arguments]) == code
        said = capsys.readouterr()
        return json.loads(said.err if code == EXIT_REFUSED else said.out)

    return call


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")  # SQLite's map of who is reading
    }


def test_without_a_change_nothing_differs(ask: Ask) -> None:
    found = ask()
    assert found["as_it_is"] == found["changed"]
    assert set(found["difference"].values()) <= {0}
    assert (found["as_it_is"]["jobs"], found["as_it_is"]["done"]) == (4, 4)
    # two hours of eight devices twice, half an hour of which has passed; then two jobs of an hour
    assert found["as_it_is"]["device_h"] == pytest.approx(2 * 8 * 1.5 + 2 * 8, rel=0.01)
    assert found["as_it_is"]["wait_s_mean"] == pytest.approx(5400, abs=30)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_the_journal_is_left_as_it_is(live: Live, ask: Ask, running: bool) -> None:
    if not running:
        live.journal.close()
    before = content(live.folder)
    ask("--drop", "west")
    assert content(live.folder) == before
    if running:  # and its writer goes on
        live.submit("five")
        assert ask()["as_it_is"]["jobs"] == 5


def test_dearer_electricity_costs_more_and_runs_keep_their_prices(live: Live, ask: Ask) -> None:
    found = ask("--tariff", "east=+100%", "--tariff", "west=+100%")
    dearer = found["difference"]["cost_microyuan"]
    # only the two jobs that wait pay the new price: 8 devices x 0.7 kW x PUE 1.2 for an hour each
    assert dearer == pytest.approx(2 * 8 * 0.7 * 1.2 * 450_000, rel=0.01)


def test_a_tariff_from_a_file(ask: Ask, tmp_path: Path) -> None:
    prices = {"type": "series", "start_at_s": 0, "microyuan_per_kwh": [5_000_000], "gco2_per_kwh": [0.0]}
    (tmp_path / "tariff.json").write_text(json.dumps({"site": "any", "prices": prices}))
    found = ask(
        "--tariff", f"west={tmp_path / 'tariff.json'}", "--tariff", f"east={tmp_path / 'tariff.json'}"
    )
    assert found["difference"]["cost_microyuan"] > 0
    assert found["difference"]["carbon_kg"] < 0


def test_a_site_that_is_gone_loses_its_run_and_the_jobs_wait_longer(ask: Ask) -> None:
    found = ask("--drop", "west")
    assert found["difference"]["wait_s_mean"] > 0
    assert found["changed"]["done"] == 4
    assert found["changed"]["device_h_by_site"].keys() == {"east"}
    assert found["changed"]["missed_deadlines"] >= found["as_it_is"]["missed_deadlines"]


def test_a_site_that_joins_is_used_at_once(ask: Ask, tmp_path: Path) -> None:
    found = ask("--site", f"{tmp_path / 'world.toml'}#north")
    assert found["changed"]["wait_s_mean"] < 60
    assert found["changed"]["device_h_by_site"]["north"] == pytest.approx(16, rel=0.01)
    assert found["difference"]["cost_microyuan"] < 0


def test_another_policy(ask: Ask) -> None:
    found = ask("--policy", "fifo-any")
    assert found["changed"]["policy"] == "fifo-any"
    assert found["changed"]["done"] == 4


def test_what_came_in_may_come_in_again(ask: Ask) -> None:
    found = ask("--repeat-hours", "1")
    assert found["as_it_is"]["jobs"] == 8
    assert found["as_it_is"]["done"] == 8


def test_a_service_runs_on_and_is_paid_for_until_the_end(live: Live, ask: Ask) -> None:
    need = Resources(accelerator="H100-SXM", accelerators=8, cpus=1)
    live.now_s += 7200
    for name in list(live.state.runs):
        live.tell(f.RunEnded(at_s=live.now_s, run=name, cause=EndCause.EXITED, exit_code=0))
        job = live.state.runs[name].job
        live.tell(f.JobEnded(at_s=live.now_s, job=job, phase=JobPhase.SUCCEEDED, outcome="done"))
    chat = Task(name="chat", run="serve", resources=(need,), replicas=Replicas())
    live.tell(*admit(live.state, "nlp", (chat,), now_s=live.now_s))
    live.plan()
    found = ask("--hours", "10")
    assert found["as_it_is"]["simulated_h"] == pytest.approx(10)
    # the two jobs that waited go first, for an hour; then the service has a site to itself
    assert found["as_it_is"]["device_h"] == pytest.approx(8 * 9 + 16, rel=0.02)


def test_lengths_that_nobody_knows_are_the_same_on_both_sides(live: Live, ask: Ask) -> None:
    for name in ("guess-1", "guess-2", "guess-3"):
        live.submit(name, checkpoint=Checkpoint(every_s=600))
    found = ask("--tariff", "east=+1%", "--hours", "2000")
    assert found["difference"]["device_h"] == pytest.approx(0, abs=1e-6)
    assert ask("--hours", "2000")["as_it_is"] == found["as_it_is"]
    assert ask("--hours", "2000", "--seed", "1")["as_it_is"] != found["as_it_is"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--drop", "nowhere"), "unknown_site"),
        (("--tariff", "east"), "bad_tariff"),
        (("--tariff", "east=lots%"), "bad_tariff"),
        (("--tariff", "nowhere=+1%"), "unknown_site"),
        (("--site", "world.toml"), "bad_value"),
        (("--policy", "markt"), "unknown_policy"),
    ],
)
def test_what_makes_no_sense_is_refused(ask: Ask, arguments: tuple[str, ...], code: str) -> None:
    assert ask(*arguments, code=EXIT_REFUSED)["code"] == code


def test_a_folder_without_a_journal_is_refused(ask: Ask, tmp_path: Path) -> None:
    assert ask("--state", str(tmp_path / "nothing"), code=EXIT_REFUSED)["code"] == "no_journal"
