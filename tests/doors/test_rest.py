"""REST, as a user meets it: keys, tenants, submitting, paging, problems, reports, logs, quotes and bills."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from rest_world import World, output, serving, task, wait_until
from starlette.testclient import TestClient

from suan.doors.client import Client
from suan.grid.action import Observation, Orders, RunSeen
from suan.grid.error import NotNow, Refused
from suan.grid.job import Place, Resources, RunPhase
from suan.grid.site import Series, Tariff


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def http(world: World) -> TestClient:
    return TestClient(world.app, raise_server_exceptions=False)


def bearer(world: World, who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {world.keys.get(who, who)}"}


# ---------------------------------------------------------------- who may do what

VIEWER, MEMBER, OPERATOR = 0, 1, 2
RANKS = {"viewer": 0, "alice": 1, "operator": 2, "admin": 3}
ENDPOINTS = [
    ("GET", "/v1/jobs", VIEWER, None),
    ("GET", "/v1/jobs/j1", VIEWER, None),
    ("GET", "/v1/jobs/j1/why", VIEWER, None),
    ("GET", "/v1/jobs/j1/log", VIEWER, None),
    ("GET", "/v1/runs", VIEWER, None),
    ("GET", "/v1/sites", VIEWER, None),
    ("GET", "/v1/links", VIEWER, None),
    ("GET", "/v1/prices", VIEWER, None),
    ("GET", "/v1/bill", VIEWER, None),
    ("GET", "/v1/artifacts", VIEWER, None),
    ("GET", "/v1/tenants", VIEWER, None),
    ("POST", "/v1/quotes", VIEWER, {"tasks": []}),
    ("POST", "/v1/jobs", MEMBER, {"tasks": []}),
    ("POST", "/v1/jobs/j1/stop", MEMBER, None),
    ("POST", "/v1/artifacts", MEMBER, {}),
    ("POST", "/v1/data/missing", MEMBER, {"chunks": []}),
    ("PUT", "/v1/data/chunks/" + "0" * 64, MEMBER, None),
    ("POST", "/v1/join-tokens", OPERATOR, {"site": "north"}),
    ("POST", "/v1/sites/east/drain", OPERATOR, {"draining": False}),
    ("PUT", "/v1/links", OPERATOR, {}),
    ("PUT", "/v1/sites/east/tariff", OPERATOR, {}),
    ("GET", "/v1/ledger", OPERATOR, None),
    ("PUT", "/v1/tenants/carol", OPERATOR, {}),
    ("GET", "/v1/keys", OPERATOR, None),
    ("POST", "/v1/keys", OPERATOR, {"role": "viewer", "tenant": "alice"}),
    ("DELETE", "/v1/keys/k999", OPERATOR, None),
]


@pytest.mark.parametrize(("method", "path", "needed", "body"), ENDPOINTS, ids=lambda value: str(value)[:40])
def test_every_endpoint_asks_for_its_role(
    world: World, method: str, path: str, needed: int, body: object
) -> None:
    with http(world) as client:
        for who in (None, "wrong", "east"):
            headers = bearer(world, who) if who else {}
            answer = client.request(method, path, json=body, headers=headers)
            assert answer.status_code == (403 if who == "east" else 401), (who, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
        for who, rank in RANKS.items():
            answer = client.request(method, path, json=body, headers=bearer(world, who))
            assert (answer.status_code == 403) == (rank < needed), (who, answer.status_code, answer.text)
            assert answer.status_code not in (401, 500)


def test_version_and_health_need_no_key(world: World) -> None:
    with http(world) as client:
        assert client.get("/v1/version").json()["api"] == "v1"
        assert client.get("/v1/health").json()["status"] == "ok"


def test_operators_make_no_admins_and_see_none(world: World) -> None:
    operator = world.client("operator")
    for role in ("operator", "admin"):
        with pytest.raises(Refused) as refused:
            operator.issue_key(role)
        assert refused.value.status == 403
    admin_key = next(key["id"] for key in world.client("admin").keys() if key["role"] == "admin")
    assert admin_key not in [key["id"] for key in operator.keys()]
    with pytest.raises(Refused):
        operator.revoke_key(admin_key)
    assert world.client("admin").whoami()["role"] == "admin"


def test_a_revoked_key_and_one_whose_time_is_over_open_nothing(world: World) -> None:
    admin = world.client("admin")
    revoked = admin.issue_key("member", tenant="alice")
    short = admin.issue_key("member", tenant="alice", expires_s=10)
    assert world.client(short["key"]).whoami()["tenant"] == "alice"
    admin.revoke_key(revoked["id"])
    world.clock.at_s += 10
    for secret in (revoked["key"], short["key"]):
        with pytest.raises(Refused) as refused:
            world.client(secret).whoami()
        assert refused.value.status == 401


def test_no_answer_ever_holds_a_keys_hash_or_secret(world: World) -> None:
    made = world.client("admin").issue_key("member", tenant="alice")
    with http(world) as client:
        listed = client.get("/v1/keys", headers=bearer(world, "admin")).text
    assert made["key"] not in listed and "hash" not in listed


def test_tenants_do_not_see_each_other(world: World) -> None:
    job = world.submit("alice", outputs={"model": "model:poet"})
    world.finish(world.place(job), outputs={"model": output()})
    alice, bob, operator = world.client("alice"), world.client("bob"), world.client("operator")
    for ask in (bob.job, bob.why, bob.stop, bob.log, lambda name: bob.runs(name)):
        with pytest.raises(Refused) as refused:
            ask(job)
        assert (refused.value.status, refused.value.code) == (404, "unknown_job")
    for ask in (bob.artifact, bob.fetch):
        with pytest.raises(Refused) as refused:
            ask("model:poet@1")
        assert refused.value.status == 404
    with pytest.raises(Refused):
        bob.request("GET", "/v1/data/manifests/" + "d" * 64)
    with pytest.raises(Refused):
        bob.bill(tenant="alice")
    assert bob.jobs()["items"] == bob.artifacts()["items"] == bob.runs() == []
    assert [tenant["name"] for tenant in bob.tenants()] == ["bob"]
    assert alice.job(job)["phase"] == operator.job(job)["phase"] == "succeeded"
    assert operator.jobs(tenant="alice")["items"][0]["id"] == job


def test_another_tenants_name_cannot_be_written(world: World) -> None:
    world.submit("alice", outputs={"model": "model:poet"})
    with pytest.raises(Refused) as refused:
        world.submit("bob", outputs={"model": "model:poet"})
    assert refused.value.code == "name_taken"


# ---------------------------------------------------------------- submitting


def test_a_task_file_becomes_a_pipeline(world: World) -> None:
    text = (
        "name: speech\n---\nname: first\nrun: echo 1\noutputs: {text: dataset:words}\n"
        "---\nname: second\nrun: echo 2\ninputs: {text: dataset:words}\n"
    )
    first, second = world.client().submit(text)
    assert (first["pipeline"], first["task"]["name"]) == ("speech", "first")
    assert second["inputs"]["text"]["from_job"] == first["id"]


def test_local_folders_in_a_task_file_are_refused_over_rest(world: World) -> None:
    with pytest.raises(Refused) as refused:
        world.client().submit("name: a\nworkdir: .\nrun: ls\n")
    assert refused.value.code == "local_files"


def test_the_same_idempotency_key_gives_the_same_jobs_even_at_once(world: World) -> None:
    world.grid.start()
    try:
        with serving(world.app) as url, ThreadPoolExecutor(8) as pool:
            clients = [Client(url, world.keys["alice"]) for _ in range(8)]
            made = list(pool.map(lambda c: c.submit([task(), task("b")], idempotency_key="once"), clients))
            assert len({tuple(job["id"] for job in jobs) for jobs in made}) == 1
            assert len(clients[0].jobs()["items"]) == 2
            other = Client(url, world.keys["bob"]).submit([task()], idempotency_key="once")
            assert other[0]["id"] not in {job["id"] for job in made[0]}
            with pytest.raises(Refused) as refused:
                clients[0].submit([task("c")], idempotency_key="once")
            assert refused.value.code == "key_reused"
    finally:
        world.grid.stop()


def test_secrets_of_a_task_are_never_shown(world: World) -> None:
    job = world.submit("alice", secrets={"TOKEN": "hunter2"})
    client = world.client()
    shown = [
        client.job(job),
        client.jobs(),
        client.why(job),
        client.quote([task(secrets={"TOKEN": "hunter2"})]),
    ]
    assert "hunter2" not in msgspec.json.encode(shown).decode()
    assert client.job(job)["task"]["secrets"] == {"TOKEN": "***"}


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"{", "bad_json", ""),
        (b'"hello"', "bad_value", ""),
        (b"{}", "bad_value", ""),
        (b'{"tasks": [{"name": "a", "run": "x", "num_nodes": "two"}]}', "bad_value", "tasks[0].num_nodes"),
        (b'{"tasks": [{"name": "a", "run": "x", "num_node": 2}]}', "unknown_key", "tasks[0].num_node"),
        (b'{"tasks": [{"name": "a", "run": "x", "resources": [{"cpu": 2}]}]}', "unknown_key", "tasks[0].resources[0].cpu"),
        (b'{"tasks": [{"name": "", "run": "x"}]}', "bad_value", "tasks[0].name"),
        (b'{"tasks": [{"name": "a\\nb", "run": "x"}]}', "bad_value", "tasks[0].name"),
        (b'{"tasks": [{"name": "a", "run": "x", "num_nodes": -1}]}', "out_of_range", None),
        (b'{"tasks": [{"name": "a", "run": "x", "inputs": {"d": "dataset:../../etc"}}]}', "bad_artifact_name", None),
        (b'{"tasks": [{"name": "a", "run": "x", "inputs": {"d": "dataset:nothing"}}]}', "unknown_artifact", None),
        (b'{"tasks": []}', "empty", None),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_a_wrong_body_is_refused_with_its_path_and_nothing_is_stored(
    world: World, body: bytes, code: str, path: str | None
) -> None:
    before = world.grid.state.sequence
    with http(world) as client:
        headers = bearer(world, "alice") | {"content-type": "application/json"}
        answer = client.post("/v1/jobs", content=body, headers=headers)
    problem = answer.json()
    assert 400 <= answer.status_code < 500 and problem["status"] == answer.status_code
    assert problem["code"] == code and problem["type"] == f"urn:suan:problem:{code}" and problem["detail"]
    if path is not None:
        assert problem["fields"].get("path", "") == path
    assert world.grid.state.sequence == before


def test_problems_have_one_shape_for_wrong_paths_methods_and_values(world: World) -> None:
    cases = [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("PATCH", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs?limit=0", 422, "bad_value"),
        ("GET", "/v1/jobs?cursor=x", 400, "bad_cursor"),
        ("GET", "/v1/jobs?phase=asleep", 422, "bad_value"),
        ("GET", "/v1/jobs/nobody", 404, "unknown_job"),
        ("GET", "/v1/artifacts/model:..%2F..%2Fetc", 404, None),
        ("GET", "/v1/artifacts/etc", 400, "bad_artifact_name"),
        ("GET", "/v1/sites/nowhere", 404, "unknown_site"),
    ]
    with http(world) as client:
        for method, path, status, code in cases:
            answer = client.request(method, path, headers=bearer(world, "alice"))
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (status, code or problem["code"]), path
            assert answer.headers["content-type"] == "application/problem+json"
            assert set(problem) == {"type", "title", "status", "code", "detail", "hint", "fields"}


def test_an_unknown_media_type_and_text_that_is_not_utf8_are_refused(world: World) -> None:
    with http(world) as client:
        for kind, body, status in (("image/png", b"x", 415), ("text/yaml", b"\xff\xfe", 400)):
            headers = bearer(world, "alice") | {"content-type": kind}
            assert client.post("/v1/jobs", content=body, headers=headers).status_code == status


def test_bodies_that_are_too_large_are_refused_however_they_come(world: World) -> None:
    big = b" " * (9 << 20)
    headers = bearer(world, "alice") | {"content-type": "application/json"}
    with http(world) as client:
        known = client.post("/v1/jobs", content=big, headers=headers)
        streamed = client.post("/v1/jobs", content=iter([big[: 5 << 20], big[: 4 << 20]]), headers=headers)
        token = client.post("/v1/join-tokens", content=iter([big]), headers=bearer(world, "admin"))
        chunk = client.put("/v1/data/chunks/" + "0" * 64, content=b"x" * ((4 << 20) + 1), headers=headers)
    for answer in (known, streamed, token, chunk):
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large"), answer.text


# ---------------------------------------------------------------- lists


def test_pages_show_every_job_once_newest_first(world: World) -> None:
    made = [world.submit("alice", name=f"t{index}") for index in range(7)]
    client, seen, cursor = world.client(), [], None
    while True:
        found = client.jobs(limit=3, cursor=cursor)
        seen += [job["id"] for job in found["items"]]
        if len(seen) == 3:
            world.submit("alice", name="late")  # must not move what comes after
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    assert client.jobs(phase="succeeded")["items"] == []


def test_artifacts_have_pages_and_lineage(world: World) -> None:
    first = world.submit("alice", outputs={"d": "dataset:tang"})
    world.finish(world.place(first), outputs={"d": output("a" * 64)})
    second = world.submit("alice", inputs={"d": "dataset:tang"}, outputs={"m": "model:poet"})
    world.finish(world.place(second), outputs={"m": output("b" * 64)})
    client = world.client()
    page = client.artifacts(limit=1)
    assert [item["id"] for item in page["items"]] == ["model:poet@1"]
    assert [item["id"] for item in client.artifacts(limit=1, cursor=page["next_cursor"])["items"]] == [
        "dataset:tang@1"
    ]
    dataset = client.artifact("dataset:tang")
    assert dataset["used_by"] == ["model:poet@1"] and dataset["replicas"][0]["site"] == "west"
    assert client.artifact("model:poet")["inputs"] == ["dataset:tang@1"]


# ---------------------------------------------------------------- sites


def test_a_join_token_works_once_for_its_site_alone(world: World) -> None:
    token = world.client("operator").join_token("north")
    nobody = world.client("nobody")
    for site in ("south", "grid"):
        with pytest.raises(Refused):
            nobody.join(token, site)
    joined = nobody.join(token, "north", region="beijing")
    orders = world.client(joined["key"]).report(Observation(site="north", epoch=joined["epoch"], full=True))
    assert isinstance(orders, Orders) and orders.lease_s > 0
    with pytest.raises(Refused) as refused:
        nobody.join(token, "north")
    assert (refused.value.code, refused.value.status) == ("bad_token", 401)
    late = world.client("operator").join_token("late", expires_s=5)
    world.clock.at_s += 5
    with pytest.raises(Refused):
        nobody.join(late, "late")
    with pytest.raises(Refused):  # a token is no key
        world.client(world.client("operator").join_token("x")).whoami()


def test_a_site_that_joins_again_has_one_key(world: World) -> None:
    token = world.client("operator").join_token("east")
    key = world.client("nobody").join(token, "east")["key"]
    with pytest.raises(Refused):
        world.client("east").report(Observation(site="east", epoch=1))
    assert world.client(key).report(Observation(site="east", epoch=1)).site == "east"


def test_a_sites_key_opens_its_own_site_only(world: World) -> None:
    run = world.place(world.submit())
    site = world.grid.state.runs[run].site
    other = "east" if site == "west" else "west"
    with pytest.raises(Refused) as refused:
        world.client(other).report(Observation(site=site, epoch=1))
    assert refused.value.status == 403
    with pytest.raises(Refused):  # what the path says and what the report says must agree
        world.client(other).request("POST", f"/v1/sites/{other}/report", body=Observation(site=site, epoch=1))
    with pytest.raises(Refused):
        world.client(other).append_log(site, run, 0, b"x")
    with pytest.raises(Refused) as refused:
        world.client(other).append_log(other, run, 0, b"x")
    assert refused.value.code == "unknown_run"
    with pytest.raises(Refused):
        world.client("alice").report(Observation(site=site, epoch=1))
    with pytest.raises(Refused):
        world.client(site).append_log(site, "../../etc/passwd", 0, b"x")


def test_a_long_poll_ends_with_new_orders_and_not_before(world: World) -> None:
    world.grid.start()
    try:
        with serving(world.app) as url:
            west = Client(url, world.keys["west"])
            before = west.report(Observation(site="west", epoch=1))
            found: list[Orders] = []
            poll = threading.Thread(
                target=lambda: found.append(
                    west.report(Observation(site="west", epoch=1), wait_s=9, known=before.version)
                )
            )
            poll.start()
            poll.join(0.4)
            assert poll.is_alive() and not found
            Client(url, world.keys["alice"]).submit([task()])
            poll.join(5)
            assert [order.job_name for order in found[0].launch] == ["count"]
            assert found[0].version != before.version
    finally:
        world.grid.stop()


def test_links_tariffs_and_prices(world: World) -> None:
    operator = world.client("operator")
    link = operator.set_link("east", "west", mbit_per_s=100, rtt_ms=30, microyuan_per_gb=500_000)
    assert operator.links() == [link]
    for wrong in ({"source": "nowhere"}, {"mbit_per_s": -1}, {"destination": "east"}):
        with pytest.raises(Refused):
            operator.set_link(**{"source": "east", "destination": "west", "mbit_per_s": 1} | wrong)
    prices = Series(start_at_s=0, microyuan_per_kwh=(600_000, 300_000), gco2_per_kwh=(500.0,))
    operator.set_tariff(Tariff(site="east", prices=prices, pue=1.5, source="test"))
    for wrong_prices in (Series(start_at_s=0, microyuan_per_kwh=()), prices):
        with pytest.raises(Refused):
            operator.set_tariff(Tariff(site="east", prices=wrong_prices, pue=0.5))
    east = next(site for site in world.client().prices(hours=4)["sites"] if site["site"] == "east")
    assert len(east["hours"]) == 4 and {hour["microyuan_per_kwh"] for hour in east["hours"]} == {
        900_000,
        450_000,
    }
    assert all(price > 3_000_000 for price in east["pools"][0]["microyuan_per_device_h"])


def test_a_draining_site_takes_no_runs(world: World) -> None:
    operator = world.client("operator")
    assert operator.drain("west")["phase"] == "draining"
    run = world.place(world.submit())
    assert world.grid.state.runs[run].site == "east"
    assert operator.drain("west", draining=False)["phase"] == "ready"


# ---------------------------------------------------------------- logs


def test_logs_grow_by_offset_and_a_gap_adds_nothing(world: World) -> None:
    job = world.submit()
    client = world.client()
    assert client.log(job) == (b"", "", 0, False)
    run = world.place(job)
    site = world.grid.state.runs[run].site
    agent = world.client(site)
    assert agent.append_log(site, run, 0, b"one\n") == 4
    assert agent.append_log(site, run, 9, b"lost") == 4
    assert agent.append_log(site, run, 2, b"e\ntwo\n") == 8
    assert client.log(job) == (b"one\ntwo\n", run, 8, False)
    assert client.log(job, offset=4, limit=2).data == b"tw"
    world.finish(run)
    assert client.log(job, offset=8) == (b"", run, 8, True)
    assert b"".join(client.logs(job, follow=True)) == b"one\ntwo\n"
    with pytest.raises(Refused):
        client.log(job, run="j999-r1")


def test_a_followed_log_comes_as_it_is_written_until_the_job_ends(world: World) -> None:
    world.grid.start()
    try:
        with serving(world.app) as url:
            client = Client(url, world.keys["alice"])
            job = client.submit([task()])[0]["id"]
            pieces: list[bytes] = []
            reader = threading.Thread(target=lambda: pieces.extend(client.logs(job, follow=True)))
            reader.start()
            wait_until(lambda: world.grid.state.jobs[job].runs)
            run = world.grid.state.jobs[job].runs[0]
            site = world.grid.state.runs[run].site
            agent = Client(url, world.keys[site])
            agent.report(
                Observation(
                    site=site, epoch=1, runs=(RunSeen(run=run, phase=RunPhase.RUNNING, started_at_s=1),)
                )
            )
            agent.append_log(site, run, 0, b"first\n")
            wait_until(lambda: pieces == [b"first\n"])
            agent.append_log(site, run, 6, b"last\n")
            wait_until(lambda: len(pieces) == 2)
            world.finish(run)
            reader.join(5)
            assert not reader.is_alive() and b"".join(pieces) == b"first\nlast\n"
    finally:
        world.grid.stop()


# ---------------------------------------------------------------- quotes and money


def test_quotes_show_every_bid_and_store_nothing(world: World) -> None:
    before = world.grid.state.sequence
    tasks = [
        task("a", outputs={"d": "dataset:new"}),
        task("b", inputs={"d": "dataset:new", "e": "dataset:else"}),
    ]
    first, second = world.client("viewer").quote(tasks)
    bids = first["considered"]["bids"]
    assert [bid["site"] for bid in bids] == ["west", "east"]
    assert bids[0]["quote"]["machine_microyuan"] < bids[1]["quote"]["machine_microyuan"]
    assert len(second["notes"]) == 2 and "dataset:else" in second["notes"][1]
    assert world.grid.state.sequence == before


def test_a_quote_of_what_cannot_run_gives_the_reasons(world: World) -> None:
    (found,) = world.client().quote([task(resources=(Resources(accelerator="H100", accelerators=8),))])
    assert found["considered"]["bids"] == []
    assert set(found["considered"]["unfit"]) == {"east/cpu", "west/cpu"}
    with pytest.raises(Refused) as refused:
        world.client().submit([task(resources=(Resources(accelerator="H100", accelerators=8),))])
    assert refused.value.code == "impossible"


def test_why_names_reason_and_bids(world: World) -> None:
    whole = (Resources(cpus=8),)
    blocker = [
        world.submit(name=site, resources=whole, place=Place(sites=(site,))) for site in ("east", "west")
    ]
    for job in blocker:
        world.place(job)
    job = world.submit(resources=(Resources(cpus=8),))
    world.grid.tick()
    why = world.client().why(job)
    assert why["phase"] == "waiting" and why["reason"]["code"] == "devices"
    assert why["reason"]["need"] == 8 and why["considered"]["bids"]
    assert world.client().job(job)["reason"]["code"] == "devices"
    assert world.client().why(blocker[0])["considered"]["bids"][0]["site"]


def test_the_bill_adds_up_to_the_ledger(world: World) -> None:
    operator = world.client("operator")
    prices = Series(start_at_s=0, microyuan_per_kwh=(600_000,), gco2_per_kwh=(500.0,))
    operator.set_tariff(Tariff(site="west", prices=prices, pue=1.2))
    for _ in range(3):
        world.finish(world.place(world.submit("alice")))
    world.finish(world.place(world.submit("bob")))
    bill = world.client("alice").bill()
    assert len(bill["lines"]) == 9
    assert sum(line["amount_microyuan"] for line in bill["lines"]) == bill["total_microyuan"] > 3_000_000
    assert bill["device_s"] == 3 * 3600
    for line in bill["lines"]:
        assert line["amount_microyuan"] == round(line["quantity"] * line["unit_price_microyuan"])
    ledger = operator.ledger(limit=5)
    assert ledger["sum_microyuan"] == 0 and ledger["balances"]["tenant:alice"] == -bill["total_microyuan"]
    entries, cursor = ledger["items"], ledger["next_cursor"]
    while cursor:
        page = operator.ledger(limit=5, cursor=cursor)
        entries, cursor = entries + page["items"], page["next_cursor"]
    assert len(entries) == 16 and sum(entry["amount_microyuan"] for entry in entries) == 0
    job = world.client("alice").jobs()["items"][0]["id"]
    assert world.client("alice").bill(job=job)["device_s"] == 3600


def test_a_tenants_settings_keep_what_is_not_named(world: World) -> None:
    operator = world.client("operator")
    operator.set_tenant("carol", weight=2.0)
    operator.set_tenant("carol", quota={"nominal_devices": {"*": 4}})
    carol = operator.tenant("carol")
    assert (carol["weight"], carol["quota"]["nominal_devices"]) == (2.0, {"*": 4})
    for wrong in ({"weight": -1}, {"quota": {"nominal_devices": {"*": -4}}}, {"wait": 1}):
        with pytest.raises(Refused):
            operator.set_tenant("carol", **wrong)
    for name in ("../etc", "Carol", ""):
        with pytest.raises(Refused):
            operator.set_tenant(name, weight=1.0)


def test_a_full_queue_says_when_to_come_back(world: World) -> None:
    world.client("operator").set_tenant("alice", quota={"max_waiting_jobs": 1})
    with pytest.raises(NotNow) as refused:
        world.client().submit([task(), task("b")])
    assert (refused.value.status, refused.value.code) == (429, "queue_full")


def test_the_openapi_document_names_every_shape_it_refers_to(world: World) -> None:
    with http(world) as client:
        document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]

    def refs(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(refs, value.values()))
        return set().union(*map(refs, value)) if isinstance(value, list) else set()

    assert {ref.rpartition("/")[2] for ref in refs(document)} <= set(schemas)
    assert {"Task", "Observation", "Orders", "JobPage", "Problem", "Bill"} <= set(schemas)
    posted = document["paths"]["/v1/jobs"]["post"]
    assert "text/yaml" in posted["requestBody"]["content"] and posted["tags"] == ["jobs"]
