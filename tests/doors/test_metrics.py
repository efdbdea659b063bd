"""Metrics: a scrape tells what happened, promtool agrees, names stay few, and nobody else may read it."""

import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rest_world import World, task
from starlette.testclient import TestClient

from suan.control.commands import set_tenant
from suan.doors.rest.metric_table import FAMILIES, OTHER, Few
from suan.grid import fact as f
from suan.grid.account import Tenant
from suan.grid.job import Place, Resources

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="NOT CHECKED: there is no promtool here; apt-get install prometheus"
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def scrape(world: World, who: str = "operator") -> str:
    client = TestClient(world.app)
    answer = client.get("/metrics", headers={"authorization": f"Bearer {world.keys[who]}"})
    assert answer.status_code == 200, answer.text
    return answer.text


def values(text: str, sample: str) -> dict[tuple[str, ...], float]:
    """Values by labels, in the order of the labels' names."""
    return {
        tuple(one.labels[label] for label in sorted(one.labels)): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == sample
    }


def test_a_scrape_tells_what_happened(world: World) -> None:
    first = world.submit(duration_s=600)
    run = world.place(first)
    site = world.grid.state.runs[run].site
    all_of_it = Resources(cpus=8)  # of which one core is taken
    waiting = world.submit("bob", resources=(all_of_it,), place=Place(sites=(site,)))
    world.grid.tick()
    text = scrape(world)
    assert values(text, "suan_jobs") == {("placed", "alice"): 1, ("waiting", "bob"): 1}
    assert values(text, "suan_jobs_submitted_total") == {("alice",): 1, ("bob",): 1}
    assert values(text, "suan_runs") == {("running", site): 1}
    used = {labels: count for labels, count in values(text, "suan_devices").items() if count}
    other = "east" if site == "west" else "west"
    assert used == {
        ("CPU-x86", "cpu", site, "used"): 1,
        ("CPU-x86", "cpu", site, "free"): 7,
        ("CPU-x86", "cpu", other, "free"): 8,
    }
    assert sum(values(text, "suan_queue_jobs").values()) == 1
    assert values(text, "suan_queue_jobs").keys() == {(world.grid.reason(waiting).code,)}
    assert values(text, "suan_leader") == {(): 1}
    assert values(text, "suan_journal_facts_total") == {(): world.grid.state.sequence}
    assert values(text, "suan_decide_seconds_count")[()] > 0
    assert values(text, "suan_journal_sync_seconds_count")[()] > 0

    world.finish(run)
    text = scrape(world)
    assert values(text, "suan_jobs_ended_total") == {("succeeded", "alice"): 1}
    assert values(text, "suan_runs_ended_total") == {("exited", site): 1}
    assert values(text, "suan_energy_joules_total") == {(site, "modelled"): 0.5 * 3.6e6}
    paid = -world.grid.state.balances["tenant:alice"] / 1e6
    assert values(text, "suan_tenant_paid_yuan_total")[("alice",)] == pytest.approx(paid) != 0
    assert sum(values(text, "suan_site_earned_yuan_total").values()) <= paid
    assert values(text, "suan_job_wait_seconds_count") == {("standard",): 1}


def test_a_silent_site_shows_its_age_and_its_devices_out_of_reach(world: World) -> None:
    world.clock.at_s += world.grid.policy.lease_s + 1
    world.grid.report(world.full("east"))
    world.grid.tick()
    text = scrape(world)
    assert values(text, "suan_site_lease_age_seconds")[("east",)] == 0
    assert values(text, "suan_site_lease_age_seconds")[("west",)] > world.grid.policy.lease_s
    assert values(text, "suan_devices")["CPU-x86", "cpu", "west", "out_of_reach"] == 8
    assert values(text, "suan_sites")[("silent",)] == 1


def test_totals_go_on_where_the_journal_left_off(world: World, tmp_path: Path) -> None:
    from suan.doors.rest import create_app

    world.finish(world.place(world.submit()))
    before = scrape(world)
    world.app = create_app(world.grid, logs=world.logs, store=world.store)  # the same grid, started anew
    after = scrape(world)
    for sample in ("suan_jobs_submitted_total", "suan_jobs_ended_total", "suan_energy_joules_total"):
        assert values(after, sample) == values(before, sample) != {}


def test_the_gateway_times_what_it_passes_on(world: World) -> None:
    client = TestClient(world.app)
    body = {"model": "nobody", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(2):
        client.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {world.keys['alice']}"}
        )
    text = scrape(world)
    assert values(text, "suan_gateway_request_duration_seconds_count") == {("404", ""): 2}
    run = world.place(world.submit())
    world.grid.do(
        lambda state, now_s: (
            [f.Metered(at_s=now_s, run=run, tenant="alice", requests=3, tokens_in=5, tokens_out=7)],
            None,
        )
    )
    text = scrape(world)
    assert values(text, "suan_gateway_requests_total") == {("count",): 3}
    assert values(text, "suan_gateway_tokens_total") == {("in", "count"): 5, ("out", "count"): 7}


def test_only_operators_read_it(world: World) -> None:
    client = TestClient(world.app)
    assert client.get("/metrics").status_code == 401
    for who in ("alice", "viewer", "east"):
        answer = client.get("/metrics", headers={"authorization": f"Bearer {world.keys[who]}"})
        assert answer.status_code == 403


def test_labels_are_few_whatever_comes() -> None:
    few = Few(3)
    assert [few(name) for name in "abcdab"] == ["a", "b", "c", OTHER, "a", "b"]


def test_a_thousand_tenants_are_two_hundred_series(world: World) -> None:
    for number in range(300):
        world.grid.do(set_tenant(Tenant(name=f"t{number}")))
        world.grid.do(
            lambda state, now_s, number=number: (
                [f.JobSubmitted(at_s=now_s, job=f"x{number}", tenant=f"t{number}", task=task())],
                None,
            )
        )
    submitted = values(scrape(world), "suan_jobs_submitted_total")
    assert len(submitted) == 201
    assert sum(submitted.values()) == 300 and submitted[OTHER,] == 100


def test_every_metric_of_the_table_is_told_and_no_other(world: World) -> None:
    world.finish(world.place(world.submit()))
    told = {family.name for family in text_string_to_metric_families(scrape(world))}
    own = {name for name in told if name.startswith("suan_")}
    assert own == {family.name for family in FAMILIES}
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= told


@needs_promtool
def test_promtool_finds_nothing_to_say(world: World) -> None:
    world.finish(world.place(world.submit()))
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=scrape(world), capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_scrape_does_not_hold_the_loop_up(world: World) -> None:
    """With ten thousand jobs that have ended, commands between scrapes take no longer than without them."""
    facts = []
    for number in range(10_000):
        facts.append(f.JobSubmitted(at_s=world.clock.at_s, job=f"x{number}", tenant="alice", task=task()))
        facts.append(f.JobEnded(at_s=world.clock.at_s, job=f"x{number}", phase="stopped", outcome=""))
    world.grid.do(lambda state, now_s: (facts, None))
    held_s = []
    lock = world.grid.lock

    class Watched:
        def __enter__(self) -> None:
            lock.acquire()
            held_s.append(-time.thread_time())

        def __exit__(self, *_: object) -> None:
            held_s[-1] += time.thread_time()
            lock.release()

    world.grid.lock = Watched()
    scrape(world)
    assert threading.active_count() < 50
    assert 0 <= max(held_s) < 0.02
