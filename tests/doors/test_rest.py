"""REST as a user meets it: submitting, problems, pages."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from rest_world import World, output, serving, task
from starlette.testclient import TestClient

from suan.doors.client import Client
from suan.grid.error import Refused


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def http(world: World) -> TestClient:
    return TestClient(world.app, raise_server_exceptions=False)


def bearer(world: World, who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {world.keys.get(who, who)}"}


# ---------------------------------------------------------------- submitting


def test_a_task_file_becomes_a_pipeline(world: World) -> None:
    text = (
        "name: speech\n---\nname: first\nrun: echo 1\noutputs: {text: dataset:words}\n"
        "---\nname: second\nrun: echo 2\ninputs: {text: dataset:words}\n"
    )
    first, second = world.client().submit(text)
    assert (first["pipeline"], first["task"]["name"]) == ("speech", "first")
    assert second["inputs"]["text"]["from_job"] == first["id"]


def test_an_operator_submits_for_a_tenant_that_exists(world: World) -> None:
    operator = world.client("operator")
    assert operator.submit([task()], tenant="bob")[0]["tenant"] == "bob"
    for who, tenant in (("operator", "nobody"), ("alice", "bob")):
        with pytest.raises(Refused) as refused:
            world.client(who).submit([task()], tenant=tenant)
        assert refused.value.code == "unknown_tenant"


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
        (b'{"tasks": [{"name": "a", "place": {"site": 2}}]}', "unknown_key", "tasks[0].place.site"),
        (b'{"tasks": [{"name": "", "run": "x"}]}', "bad_value", "tasks[0].name"),
        (b'{"tasks": [{"name": "a\\nb", "run": "x"}]}', "bad_value", "tasks[0].name"),
        (b'{"tasks": [{"name": "a", "run": "x", "num_nodes": -1}]}', "out_of_range", None),
        (b'{"tasks": [{"name": "a", "run": "x", "inputs": {"d": "model:../x"}}]}', "bad_artifact_name", None),
        (b'{"tasks": [{"name": "a", "run": "x", "inputs": {"d": "dataset:no"}}]}', "unknown_artifact", None),
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
