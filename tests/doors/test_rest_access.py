"""Who may do what over REST, and what tenants see of each other."""

from pathlib import Path

import pytest
from rest_world import World, output
from starlette.testclient import TestClient

from suan.grid.error import Refused


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
    admin_keys, seen = world.client("admin").keys(), operator.keys()
    admin_key = next(key["id"] for key in admin_keys if key["role"] == "admin")
    assert admin_key not in [key["id"] for key in seen]
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


def test_sites_name_no_runs_of_others(world: World) -> None:
    run = world.place(world.submit())
    seen = {
        who: [name for site in world.client(who).sites() for name in site["open_runs"]]
        for who in ("alice", "bob", "operator")
    }
    assert seen == {"alice": [run], "bob": [], "operator": [run]}
    assert sum(pool["used_devices"] for site in world.client("bob").sites() for pool in site["pools"]) > 0


def test_another_tenants_name_cannot_be_written(world: World) -> None:
    world.submit("alice", outputs={"model": "model:poet"})
    with pytest.raises(Refused) as refused:
        world.submit("bob", outputs={"model": "model:poet"})
    assert refused.value.code == "name_taken"
