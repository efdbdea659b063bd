"""Two sites on one machine: what moves, how fast, who may take it, and what a kill or a bad source does."""

import random
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import msgspec
import pytest

from suan.grid.action import FetchOrder, Ticket, ticket_hash
from suan.grid.error import Refused
from suan.stores.artifacts import open_store
from suan.stores.door import DataDoor
from suan.stores.manifests import CHUNK_BYTES
from suan.stores.mover import ChunkMover
from suan.stores.pace import Pace

FAST = 1e9
SIZE = 5_000_000
SECRET = "a-long-random-secret"


@pytest.fixture
def east(tmp_path):
    return open_store(tmp_path / "east")


@pytest.fixture
def west(tmp_path):
    return open_store(tmp_path / "west")


@pytest.fixture
def door(east):
    opened = DataDoor(east, emulate_links=True)
    yield opened
    opened.close()


@pytest.fixture
def mover(west):
    opened = ChunkMover(west, patience_s=1.0)
    yield opened
    opened.close()


def put(store, tmp_path, size=SIZE, seed=1, name="made"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "data.bin").write_bytes(random.Random(seed).randbytes(size))
    return store.put_folder(folder)


def ticket(digest, rate=FAST, rtt_ms=0.0, secret=SECRET):
    return Ticket(ticket_hash=ticket_hash(secret), digest=digest, bytes_per_s=rate, rtt_ms=rtt_ms)


def order(door, digest, size=SIZE, rate=FAST, secret=SECRET):
    return FetchOrder(
        transfer=f"t-{digest[:8]}",
        digest=digest,
        bytes=size,
        source_url=getattr(door, "url", door),
        ticket=secret,
        bytes_per_s=rate,
    )


def until(mover, reached, patience_s=30.0):
    """The only transfer, once it is as wanted."""
    deadline_s = time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        (seen,) = mover.seen()
        if reached(seen):
            return seen
        time.sleep(0.005)
    raise AssertionError(f"still {mover.seen()}")


def ended(seen):
    return seen.done or seen.failed


# ---------------------------------------------------------------- moving


def test_an_artifact_arrives_whole_and_is_counted(east, west, door, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    door.allow([ticket(digest)])
    mover.want([order(door, digest)])
    seen = until(mover, ended)
    assert (seen.done, seen.failed, seen.arrived_bytes) == (True, "", SIZE)
    assert SIZE < seen.moved_bytes < SIZE + 2000, "the content and its manifest"
    west.checkout(digest, tmp_path / "out")
    assert (tmp_path / "out" / "data.bin").read_bytes() == (tmp_path / "made" / "data.bin").read_bytes()


def test_what_is_there_already_does_not_move(east, west, door, mover, tmp_path):
    digest, _ = put(east, tmp_path, 2 * CHUNK_BYTES)
    folder = tmp_path / "made"
    west.put_folder(folder)
    (folder / "more.bin").write_bytes(b"x" * 1000)
    more, _ = east.put_folder(folder)
    door.allow([ticket(more), ticket(digest)])
    mover.want([order(door, more, 2 * CHUNK_BYTES + 1000)])
    seen = until(mover, ended)
    assert seen.done and seen.arrived_bytes == 2 * CHUNK_BYTES + 1000 and seen.moved_bytes < 3000
    mover.want([order(door, digest)])
    assert until(mover, ended).moved_bytes == 0


def test_the_declared_rate_is_kept(east, door, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    rate = 20e6 / 8
    door.allow([ticket(digest, rate, rtt_ms=30)])
    began_s = time.monotonic()
    mover.want([order(door, digest, rate=FAST)])
    until(mover, ended)
    took_s = time.monotonic() - began_s
    assert 0.9 * SIZE / rate <= took_s <= 1.3 * SIZE / rate, f"{took_s:.2f} s"


def test_the_reader_paces_too_and_obeys_a_new_rate_at_once(east, door, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    door.allow([ticket(digest)])
    began_s = time.monotonic()
    mover.want([order(door, digest, rate=1e6)])
    slow = until(mover, lambda seen: seen.moved_bytes > 1_500_000)
    assert time.monotonic() - began_s > 1.0 and not slow.done
    mover.want([order(door, digest, rate=FAST)])
    assert until(mover, ended, patience_s=3.0).done
    assert time.monotonic() - began_s < 4.5, "at the first rate it takes 5 s"


def test_a_ticket_s_rate_is_shared_by_all_who_show_it(east, door, tmp_path):
    digest, manifest = put(east, tmp_path, 1_000_000)
    door.allow([ticket(digest, rate=1e6)])
    (chunk,) = manifest.files[0].chunks
    began_s = time.monotonic()
    threads = [threading.Thread(target=get, args=(door, f"/chunks/{chunk.hash}", digest)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1.8 <= time.monotonic() - began_s <= 2.6


def test_answers_wait_the_round_trip_of_the_link(east, door, tmp_path):
    digest, _ = put(east, tmp_path, 100)
    door.allow([ticket(digest, rtt_ms=200)])
    began_s = time.monotonic()
    assert get(door, f"/manifests/{digest}").status_code == 200
    assert time.monotonic() - began_s >= 0.2


def test_what_is_not_wanted_any_more_stops(east, west, door, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    door.allow([ticket(digest)])
    mover.want([order(door, digest, rate=1e6)])
    until(mover, lambda seen: seen.moved_bytes > 100_000)
    mover.want([])
    assert mover.seen() == ()
    deadline_s = time.monotonic() + 5
    while any(thread.name.startswith("fetch-t-" + digest[:8]) for thread in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert not west.has(digest)


def test_a_ticket_that_comes_after_the_order_is_waited_for(east, door, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    mover.want([order(door, digest)])
    time.sleep(0.3)
    assert not ended(mover.seen()[0])
    door.allow([ticket(digest)])
    assert until(mover, ended).done


def test_a_source_that_comes_back_is_used_again(east, west, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    mover = ChunkMover(west, patience_s=20.0)
    first = DataDoor(east)
    port = int(first.url.rpartition(":")[2])
    first.allow([ticket(digest, rate=2e6)])
    mover.want([order(first, digest)])
    until(mover, lambda seen: seen.moved_bytes > 500_000)
    first.close()
    second = DataDoor(east, port=port)
    second.allow([ticket(digest)])
    assert until(mover, ended).done
    second.close()
    mover.close()


def test_a_fetch_that_is_killed_goes_on_from_where_it_was(east, west, door, mover, tmp_path):
    size = 6 * CHUNK_BYTES
    digest, _ = put(east, tmp_path, size)
    door.allow([ticket(digest)])
    wanted = order(door, digest, size, rate=8e6)
    child = subprocess.Popen(
        [sys.executable, "-c", FETCHER, str(tmp_path / "west"), msgspec.json.encode(wanted)]
    )
    deadline_s = time.monotonic() + 30
    while whole_chunks(tmp_path / "west") < 2 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9
    there = whole_chunks(tmp_path / "west")
    assert 2 <= there < 6 and not west.has(digest)
    mover.want([order(door, digest, size)])
    seen = until(mover, ended)
    assert seen.done and seen.arrived_bytes == size
    assert (6 - there) * CHUNK_BYTES <= seen.moved_bytes < (6 - there) * CHUNK_BYTES + 3000


def whole_chunks(folder):
    return sum(len(path.name) == 64 for path in (folder / "chunks").glob("*/*"))


FETCHER = """
import sys, time, msgspec
from suan.grid.action import FetchOrder
from suan.stores.artifacts import open_store
from suan.stores.mover import ChunkMover

mover = ChunkMover(open_store(sys.argv[1]))
mover.want([msgspec.json.decode(sys.argv[2], type=FetchOrder)])
time.sleep(60)
"""


# ---------------------------------------------------------------- bad sources


def test_a_chunk_that_the_source_has_damaged_does_not_arrive(east, west, door, mover, tmp_path):
    digest, manifest = put(east, tmp_path)
    bad = manifest.files[0].chunks[1]
    (tmp_path / "east" / "chunks" / bad.hash[:2] / bad.hash).write_bytes(bytes(bad.bytes))
    door.allow([ticket(digest)])
    mover.want([order(door, digest)])
    seen = until(mover, ended)
    assert not seen.done and "404" in seen.failed
    assert not west.has(digest) and not west.has_chunk(bad.hash) and not east.has(digest)


def test_a_source_that_lies_is_given_up_with_the_reason(east, west, mover, tmp_path):
    digest, manifest = put(east, tmp_path, 1000)
    asked = []

    class Liar(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            data = east.read_manifest(digest) if "manifests" in self.path else b"wrong" * 1000
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mover.want([order(f"http://127.0.0.1:{server.server_port}", digest)])
        seen = until(mover, ended)
        server.shutdown()
    assert "came wrong 3 times" in seen.failed and not seen.done
    assert sum("chunks" in path for path in asked) == 3
    assert not west.has_chunk(manifest.files[0].chunks[0].hash)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://[", "ftp://127.0.0.1/x"])
def test_a_source_that_is_not_there_is_given_up_with_the_reason(mover, url):
    mover.want([order(url, "0" * 64)])
    assert until(mover, ended, patience_s=10).failed


def test_a_failed_fetch_begins_anew_with_a_new_ticket(east, door, mover, tmp_path):
    digest, _ = put(east, tmp_path)
    door.allow([ticket(digest)])
    mover.want([order(door, digest, secret="wrong")])
    assert "403" in until(mover, ended).failed
    mover.want([order(door, digest, secret="wrong")])
    assert mover.seen()[0].failed, "the same order stays failed"
    mover.want([order(door, digest)])
    assert until(mover, lambda seen: seen.done)


def test_a_damaged_chunk_here_is_repaired_by_a_fetch(east, west, door, mover, tmp_path):
    digest, manifest = put(east, tmp_path)
    put(west, tmp_path)
    hash = manifest.files[0].chunks[0].hash
    (tmp_path / "west" / "chunks" / hash[:2] / hash).write_bytes(b"short")
    door.allow([ticket(digest)])
    mover.want([order(door, digest)])
    seen = until(mover, ended)
    assert seen.done and seen.arrived_bytes == SIZE and seen.moved_bytes < CHUNK_BYTES + 2000
    west.checkout(digest, tmp_path / "out")


# ---------------------------------------------------------------- the door


def get(door, path, digest=None, secret=SECRET):
    headers = {"authorization": f"Bearer {secret}"} if secret is not None else {}
    return httpx.get(
        door.url + path, params={"digest": digest} if digest else None, headers=headers, trust_env=False
    )


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["code"]


def test_only_the_ticket_s_artifact_can_be_read(east, door, tmp_path):
    digest, manifest = put(east, tmp_path, 100)
    other, other_manifest = put(east, tmp_path, 100, seed=2, name="other")
    mine, theirs = (made.files[0].chunks[0].hash for made in (manifest, other_manifest))
    door.allow([ticket(digest)])
    assert get(door, f"/manifests/{digest}").content == east.read_manifest(digest)
    assert get(door, f"/chunks/{mine}", digest).content == east.read_chunk(mine)
    for secret in ("wrong", SECRET + "x", SECRET[:-1], ticket_hash(SECRET), "x" * 5000, None):
        answer = get(door, f"/chunks/{mine}", digest, secret=secret)
        assert problem(answer) == (403, "ticket_refused")
    assert problem(get(door, f"/manifests/{other}")) == (403, "ticket_refused")
    assert problem(get(door, f"/chunks/{theirs}", other)) == (403, "ticket_refused")
    assert problem(get(door, f"/chunks/{theirs}", digest)) == (404, "missing")
    assert problem(get(door, f"/chunks/{'0' * 64}", digest)) == (404, "missing")
    assert problem(get(door, f"/chunks/{mine}")) == (403, "ticket_refused")
    door.allow([ticket(other)])
    assert problem(get(door, f"/manifests/{digest}")) == (403, "ticket_refused"), (
        "a ticket ends when it is not told"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/chunks/",
        "/chunks/../../../etc/passwd",
        "/chunks/..%2f..%2fetc%2fpasswd",
        "/manifests/%2e%2e",
        "/chunks/%00",
    ],
)
def test_paths_lead_nowhere_else(east, door, tmp_path, path):
    digest, _ = put(east, tmp_path, 100)
    door.allow([ticket(digest)])
    status, _ = problem(get(door, path, digest))
    assert status in (403, 404)


def test_nothing_can_be_written_through_the_door(door):
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        assert httpx.request(method, f"{door.url}/chunks/{'0' * 64}", trust_env=False).status_code == 405


def test_a_port_in_use_is_refused_and_closing_frees_it(east):
    first = DataDoor(east)
    port = int(first.url.rpartition(":")[2])
    with pytest.raises(Refused) as refusal:
        DataDoor(east, port=port)
    assert refusal.value.code == "port_in_use"
    first.close()
    first.close()
    DataDoor(east, port=port).close()


# ---------------------------------------------------------------- the rate itself


def test_a_pace_grants_its_rate_in_order_and_follows_changes():
    now_s = [0.0]
    pace = Pace(100.0, clock=lambda: now_s[0])
    first, second = pace.ask(100), pace.ask(100)
    assert (pace.wait_s(first), pace.wait_s(second)) == (1.0, 2.0)
    now_s[0] = 1.0
    assert (pace.wait_s(first), pace.wait_s(second)) == (0.0, 1.0)
    pace.change(200.0)
    assert pace.wait_s(second) == 0.5
    now_s[0] = 1000.0
    assert pace.wait_s(pace.ask(100)) == pytest.approx(0.4), "an idle hour is no credit, only 0.1 s of it are"
    pace.change(0.0)
    assert pace.wait_s(pace.ask(100)) >= 100
