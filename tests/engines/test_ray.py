"""What a Ray site decides by itself: which nodes are a pool, where a run fits, what its nodes say."""

import importlib.util
import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suan.engines import supervise
from suan.engines.metering import PowerShare
from suan.engines.ray_api import RayApi, RayNode, Submission, token_of
from suan.engines.ray_pools import counted, demand, fitting, inventory, pool_nodes, pools_of, unknown_kinds
from suan.engines.ray_record import Plan, RayRecord
from suan.engines.run_folders import folder_name
from suan.grid.error import SiteTrouble
from suan.grid.job import EndCause

GIB = float(1 << 30)


def node(name: str, used: dict[str, float] | None = None, **total: float) -> RayNode:
    resources = {key.replace("__", ":"): amount for key, amount in total.items()}
    resources |= {"memory": 64 * GIB, f"node:10.0.0.{name}": 1.0}
    return RayNode(id=name, ip=f"10.0.0.{name}", head=name == "1", total=resources, used=used or {})


def h100(name: str, used: float = 0, cpus: float = 64) -> RayNode:
    return node(name, {"GPU": used, "CPU": 0}, CPU=cpus, GPU=8, accelerator_type__H100=1)


NODES = (
    node("1", CPU=16),
    h100("2"),
    h100("3"),
    node("4", CPU=192, NPU=8, accelerator_type__Ascend910B=1),
    node("5", CPU=8, GPU=4, accelerator_type__FromTheFuture=1),
    node("6", CPU=8, GPU=2),
    node("7", CPU=0),
)


# ---------------------------------------------------------------- pools


def test_alike_nodes_are_a_pool_called_by_the_table() -> None:
    found = {pool.name: pool for pool in pools_of(NODES)}
    assert list(found) == ["ascend910b2", "cpu", "h100-sxm"]
    h100s = found["h100-sxm"]
    assert (h100s.accelerator, h100s.nodes, h100s.devices_per_node) == ("H100-SXM", 2, 8)
    assert (h100s.cpus_per_node, h100s.memory_gib_per_node) == (64, 64)
    assert unknown_kinds(NODES) == ("FromTheFuture", "GPU without a name")


def test_nodes_of_another_shape_are_a_pool_of_their_own() -> None:
    pools = pools_of((h100("1"), h100("2", cpus=32)))
    assert [(pool.name, pool.nodes) for pool in pools] == [("h100-sxm", 1), ("h100-sxm-2", 1)]
    assert [pool_nodes(pool, (h100("1"), h100("2", cpus=32)))[0].id for pool in pools] == ["2", "1"]


def test_a_lost_node_is_not_counted_and_a_lost_pool_has_none() -> None:
    pools = pools_of(NODES, count=1 << 30)
    assert [pool.nodes for pool in counted(pools, NODES)] == [1, 1, 2]
    assert [pool.nodes for pool in counted(pools, (NODES[0], NODES[1]))] == [0, 1, 1]


def test_free_devices_and_whole_nodes_are_told_by_pool() -> None:
    (seen,) = inventory(pools_of((h100("1"), h100("2"))), (h100("1", used=3), h100("2")))
    assert (seen.free_nodes, seen.free_devices) == (1, 13)


def test_a_run_takes_its_share_of_the_cores() -> None:
    assert demand(h100("1"), 2) == {"GPU": 2, "CPU": 16}
    assert demand(node("1", CPU=16), 2) == {"CPU": 2}


# ---------------------------------------------------------------- where it fits


def fit(nodes: tuple[RayNode, ...], devices: int, own: dict | None = None, fresh: dict | None = None):
    (pool,) = pools_of(nodes)
    return fitting(pool, nodes, devices, own=own or {}, fresh=fresh or {})


def test_the_fullest_node_that_fits_comes_first() -> None:
    nodes = (h100("1"), h100("2", used=5), h100("3", used=7))
    assert [one.id for one in fit(nodes, 2).now] == ["2", "1"]


def test_what_others_use_is_not_given_but_may_come_free() -> None:
    found = fit((h100("1", used=7),), 2)
    assert (found.now, [one.id for one in found.soon], found.free_devices) == ((), ["1"], 1)


def test_what_this_site_has_promised_does_not_come_free() -> None:
    own = {"1": Counter({"GPU": 7})}
    found = fit((h100("1"),), 2, own=own)
    assert (found.now, found.soon) == ((), ())


@given(
    promised=st.lists(st.integers(1, 8), max_size=4),
    counted_already=st.integers(0, 4),
    others=st.integers(0, 8),
    devices=st.integers(1, 8),
)
def test_what_fits_now_can_start_however_late_ray_counts(promised, counted_already, others, devices) -> None:
    """Ray shows some of this site's newest runs and not the others; never is more given than there is."""
    used = others + sum(promised[:counted_already])
    if sum(promised) + others > 8:
        return
    held = {"1": Counter({"GPU": sum(promised)})}
    found = fit((h100("1", used=min(8, used)),), devices, own=held, fresh=held)
    if found.now:
        assert sum(promised) + others + devices <= 8


# ---------------------------------------------------------------- the record

PLAN = Plan(
    run="r",
    submission_id="suan-1-r",
    pool="pool",
    node_ids=("a", "b"),
    bundles=({"CPU": 1.0}, {"CPU": 1.0}),
    ports=(20_000, 0),
    port=0,
    grace_s=2,
    power=PowerShare(devices=2, device_w=10, host_w=1, by_cpu_time=True),
)


@pytest.fixture
def record(tmp_path: Path) -> RayRecord:
    folder = tmp_path / "r"
    folder.mkdir()
    made = RayRecord(folder)
    made.create(PLAN, [{"env": {"TOKEN": "s3cr3t"}}] * 2)
    return made


def say(record: RayRecord, rank: int, cause: str, exit_code: int | None = None, **details: object) -> None:
    word = {"cause": cause, "exit_code": exit_code, "ended_at_s": 100 + rank, "started_at_s": 50, **details}
    for name in (supervise.EXIT, "end.json"):
        supervise.write_json(str(record.node(rank) / name), word)


def test_a_run_has_ended_when_each_node_has(record: RayRecord) -> None:
    say(record, 0, "exited", 0, cpu_s=2.0, peak_memory_bytes=5, wall_s=50)
    assert record.told(2) is None
    say(record, 1, "exited", 0, cpu_s=3.0, peak_memory_bytes=6, wall_s=51)
    end = record.told(2)
    assert (end.cause, end.exit_code, end.started_at_s, end.ended_at_s) == (EndCause.EXITED, 0, 50, 101)
    assert (end.cpu_s, end.peak_memory_bytes, end.wall_s) == (5, 11, 51)


def test_an_exit_that_nobody_confirms_is_no_verdict(record: RayRecord) -> None:
    """Ray's SIGTERM reaches the shell and all that watches it at once."""
    for rank in (0, 1):
        say(record, rank, "exited", -15)
    (record.node(1) / "end.json").unlink()
    assert record.told(2) is None
    say(record, 1, "lost")
    (record.node(1) / "end.json").unlink()
    assert record.told(2).cause is EndCause.LOST


def test_the_node_that_failed_first_speaks_for_the_run(record: RayRecord) -> None:
    say(record, 0, "stopped", -15)
    say(record, 1, "exited", 3)
    supervise.write_json(str(record.folder / "failed.json"), {"rank": 1})
    end = record.told(2)
    assert (end.cause, end.exit_code, end.detail) == (EndCause.EXITED, 3, "node 1 failed first")


def test_a_stop_is_a_stop_whatever_the_others_said(record: RayRecord) -> None:
    say(record, 0, "exited", 0)
    say(record, 1, "stopped", -9)
    assert (record.told(2).cause, record.told(2).exit_code) == (EndCause.STOPPED, -9)


def test_only_one_may_have_a_run_and_a_cancelled_one_keeps_no_secrets(record: RayRecord) -> None:
    assert record.cancel() and not record.cancel() and record.is_cancelled()
    record.end(record.lost(2, EndCause.NOT_STARTED, "cancelled"))
    assert not [
        path for path in record.folder.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()
    ]


def test_a_stop_can_only_be_shortened(record: RayRecord) -> None:
    record.order_stop(5)
    first = (record.folder / "stop.json").read_text()
    record.order_stop(60)
    assert (record.folder / "stop.json").read_text() == first
    record.order_stop(1)
    assert json.loads((record.folder / "stop.json").read_text())["grace_s"] == 1
    assert -1.1 < record.stop_overdue_s() < 0


def write(record: RayRecord, rank: int, text: bytes) -> None:
    with open(record.node(rank) / supervise.LOG, "ab") as file:
        file.write(text)


def test_the_logs_of_two_nodes_are_one_whose_offsets_stay(record: RayRecord) -> None:
    write(record, 0, b"a1\na2\nhalf")
    write(record, 1, b"b1\n")
    first = record.log(2, 0, 100)
    assert first == b"a1\na2\nb1\n"  # whole lines only, while it runs
    write(record, 0, b" line\n")
    write(record, 1, b"last words")
    assert record.log(2, 0, 100) == first + b"half line\n"
    say(record, 0, "exited", 0)
    say(record, 1, "exited", 0)
    whole = record.log(2, 0, 100)
    assert whole == first + b"half line\nlast words"
    assert RayRecord(record.folder).log(2, 4, 12) == whole[4:16]
    assert b"".join(record.log(2, at, 7) for at in range(0, 40, 7)) == whole


def test_ids_of_any_spelling_name_a_folder() -> None:
    assert [folder_name(run) for run in ("..", "a/b", "诗")] == ["%2E.", "a%2Fb", "%E8%AF%97"]
    with pytest.raises(SiteTrouble):
        folder_name("x" * 300)


# ---------------------------------------------------------------- the program on the nodes


@pytest.fixture
def program(monkeypatch) -> ModuleType:
    """ray_node.py as the nodes run it: with supervise.py for a neighbour."""
    monkeypatch.setitem(sys.modules, "supervise", supervise)
    path = Path(supervise.__file__).with_name("ray_node.py")
    spec = importlib.util.spec_from_file_location("ray_node", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(supervise, "boot_clock_s", clock)
    return clock


def renew(path: Path, seconds: int, text: str) -> None:
    supervise.write_json(str(path), {"seconds": seconds, "text": text})


def test_a_lease_is_counted_from_before_it_was_seen(program, clock, tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    lease = program.Lease(str(path), str(tmp_path / "pulse"))
    assert not lease.look() and lease.end_s == float("inf")  # no lease yet
    renew(path, 30, "first")
    assert lease.look() and lease.end_s == pytest.approx(1030, abs=0.5)
    clock.now_s = 1010
    assert not lease.look()
    renew(path, 30, "second")  # written at any time after that look
    clock.now_s = 1025
    assert lease.look() and lease.end_s == 1040


def test_a_run_that_starts_late_gets_what_is_left_of_the_lease(program, clock, tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    renew(path, 30, "old")
    aged_s = path.stat().st_mtime - 20
    os.utime(path, (aged_s, aged_s))
    lease = program.Lease(str(path), str(tmp_path / "pulse"))
    assert lease.look() and lease.end_s == pytest.approx(1010, abs=0.5)


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_stepped_clock_cannot_lengthen_a_lease(program, clock, tmp_path: Path, step_s: int) -> None:
    path = tmp_path / "lease.json"
    renew(path, 30, "old")
    stepped_s = path.stat().st_mtime + step_s
    os.utime(path, (stepped_s, stepped_s))
    lease = program.Lease(str(path), str(tmp_path / "pulse"))
    lease.look()
    assert 1000 <= lease.end_s <= 1030


def test_a_lease_that_cannot_be_read_runs_out(program, clock, tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    lease = program.Lease(str(path), str(tmp_path / "pulse"))
    renew(path, 30, "first")
    lease.look()
    end_s = lease.end_s
    path.unlink()
    clock.now_s = 5000
    assert not lease.look() and lease.end_s == end_s


def test_a_taken_port_is_not_given(program) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        assert program.free_port(port) != port


# ---------------------------------------------------------------- HTTP


def api_that(answer) -> RayApi:
    api = RayApi("http://head:8265", "secret")
    api._http = httpx.Client(base_url=api.address, transport=httpx.MockTransport(answer))
    return api


def test_a_submission_whose_answer_was_lost_is_looked_for() -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "POST":
            raise httpx.ReadTimeout("the answer was lost")
        return httpx.Response(200, json={"submission_id": "suan-1-r", "status": "PENDING"})

    api_that(answer).submit(Submission(entrypoint="true", submission_id="suan-1-r"))
    assert asked == ["POST", "GET"]


def test_a_refused_submission_is_said() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500 if request.method == "POST" else 404, text="Traceback\nbad entrypoint")

    with pytest.raises(SiteTrouble, match="bad entrypoint"):
        api_that(answer).submit(Submission(entrypoint="true", submission_id="suan-1-r"))


@pytest.mark.parametrize("body", [b"<html>a proxy</html>", b'{"result": true}', b"[]"])
def test_what_is_no_ray_head_is_site_trouble(body: bytes) -> None:
    with pytest.raises(SiteTrouble):
        api_that(lambda _: httpx.Response(200, content=body)).nodes()


def test_the_token_is_found_where_rays_tools_find_it(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from home\n")
    (tmp_path / "other").write_text("from path\n")
    home = {"HOME": str(tmp_path)}
    assert token_of(home) == "from home"
    assert token_of(home | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}) == "from path"
    assert token_of(home | {"RAY_AUTH_TOKEN": "given"}) == "given"
    assert token_of({"HOME": str(tmp_path / "nowhere")}) == ""
