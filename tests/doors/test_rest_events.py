"""What happens, as server-sent events over a real server: order, resuming, isolation, secrets, heartbeat."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest
from rest_world import World, serving, task, wait_until

from suan.doors.client import Client, Event
from suan.doors.rest import events, news
from suan.grid.action import Observation, RunSeen
from suan.grid.error import NotNow, Refused
from suan.grid.job import RunPhase


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    found.grid.start()
    yield found
    found.grid.stop()


def follow(client: Client, into: list[Event], after: int | None = None) -> None:
    def read() -> None:
        with contextlib.suppress(NotNow):  # the grid ends before its listeners
            for event in client.events(after):
                into.append(event)

    threading.Thread(target=read, daemon=True).start()


def test_a_tenant_hears_of_its_jobs_and_not_of_others(world: World) -> None:
    with serving(world.app) as url:
        alice, bob = Client(url, world.keys["alice"]), Client(url, world.keys["bob"])
        heard: list[Event] = []
        follow(alice, heard, after=world.grid.state.sequence)
        mine = alice.submit([task(secrets={"TOKEN": "hunter2"})])[0]["id"]
        theirs = bob.submit([task()])[0]["id"]
        wait_until(lambda: any(event.data.get("type") == "RunPlaced" for event in heard))
        wait_until(lambda: len(world.grid.state.runs) == 2)
        again = alice.submit([task("b")])[0]["id"]
        wait_until(lambda: any(event.data.get("job") == again for event in heard))
    jobs = {event.data["job"] for event in heard if "job" in event.data}
    assert mine in jobs and theirs not in jobs
    assert "hunter2" not in repr(heard)
    sequences = [event.sequence for event in heard if event.kind == "fact"]
    assert sequences == sorted(set(sequences))


def test_a_stream_resumes_where_it_was_and_says_when_it_cannot(world: World) -> None:
    with serving(world.app) as url:
        alice = Client(url, world.keys["alice"])
        start = world.grid.state.sequence
        for index in range(4):
            alice.submit([task(f"t{index}")])
        wait_until(lambda: len(world.grid.state.runs) == 4)
        everything = list(islice(alice.events(after=start), 8))
        half = list(islice(alice.events(after=everything[3].sequence), 4))
        assert half == everything[4:]
        first = next(alice.events(after=0))
        assert (first.kind, first.data["after"]) == ("gap", 0)
        headers = {
            "authorization": f"Bearer {world.keys['alice']}",
            "last-event-id": str(everything[3].sequence),
        }
        with httpx.stream("GET", f"{url}/v1/events", headers=headers) as response:
            lines = response.iter_lines()
            number = next(line for line in lines if line.startswith("id: "))
        assert number == f"id: {half[0].sequence}"


def test_progress_and_heartbeats_arrive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.1)
    with serving(world.app) as url:
        alice, bob = Client(url, world.keys["alice"]), Client(url, world.keys["bob"])
        job = alice.submit([task()])[0]["id"]
        wait_until(lambda: world.grid.state.jobs[job].runs)
        run = world.grid.state.jobs[job].runs[0]
        site = world.grid.state.runs[run].site
        heard: list[Event] = []
        others: list[Event] = []
        follow(alice, heard)
        follow(bob, others)
        time.sleep(0.3)
        seen = RunSeen(run=run, phase=RunPhase.RUNNING, progress={"step": 3.0, "loss": 2.5})
        Client(url, world.keys[site]).report(Observation(site=site, epoch=1, runs=(seen,)))
        wait_until(lambda: any(event.kind == "progress" for event in heard))
        told = next(event for event in heard if event.kind == "progress")
        assert told.data == {"job": job, "run": run, "site": site, "progress": {"step": 3.0, "loss": 2.5}}
        assert alice.job(job)["progress"]["step"] == 3.0
        assert not any(event.kind == "progress" for event in others)
        headers = {"authorization": f"Bearer {world.keys['alice']}"}
        with httpx.stream("GET", f"{url}/v1/events", headers=headers) as response:
            lines = response.iter_lines()
            assert [next(line for line in lines if "still here" in line) for _ in range(2)]


def test_a_revoked_keys_stream_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.1)
    with serving(world.app) as url:
        made = Client(url, world.keys["admin"]).issue_key("viewer", tenant="alice")
        with httpx.stream(
            "GET", f"{url}/v1/events", headers={"authorization": f"Bearer {made['key']}"}
        ) as response:
            Client(url, world.keys["admin"]).revoke_key(made["id"])
            assert list(response.iter_lines())  # it ends
        with pytest.raises(Refused):
            next(Client(url, made["key"]).events())


def test_only_the_newest_facts_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "KEPT_FACTS", 2)
    kept = news.News(world.grid)
    start = world.grid.state.sequence
    for index in range(3):
        world.client().submit([task(f"t{index}")])
    wait_until(lambda: kept.facts(start)[0] > start + 1)
    first, facts = kept.facts(start)
    assert [sequence for sequence, _ in facts] == [first, first + 1]


def test_a_caller_that_is_killed_in_mid_sentence_is_no_error_of_the_grid(world: World, caplog) -> None:
    with serving(world.app) as url:
        host, port = url.removeprefix("http://").split(":")
        key = world.keys["alice"]
        for path in ("/v1/jobs", "/v1/chat/completions"):
            with socket.create_connection((host, int(port))) as line:
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                line.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
                time.sleep(0.2)
        assert Client(url, key).jobs()["items"] == []
    assert "Traceback" not in caplog.text and not [r for r in caplog.records if r.exc_info]
