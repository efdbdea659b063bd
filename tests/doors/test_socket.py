"""The OpenAI-compatible socket: the official client on one side, an engine on loopback on the other."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from rest_world import World, output, serving, wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from suan.doors.client import Client
from suan.doors.relay import relayed_services, service_url
from suan.doors.socket import meter
from suan.grid.job import Replicas

WORDS = ["白", "日", "依", "山", "盡"]
USAGE = {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}


class Upstream:
    """A small engine: five words a completion; `slow` waits between them, `mute` counts no tokens."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.abandoned = threading.Event()
        self.slow_s = 0.0
        self.mute = False
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if body.get("temperature", 0) > 2:
            return JSONResponse({"error": {"message": "temperature is at most 2", "type": "invalid"}}, 400)
        if body.get("n", 1) > 1:
            return Response("boom", 500)
        if body.get("stream"):
            return StreamingResponse(self._events(body), media_type="text/event-stream")
        until_s = time.monotonic() + self.slow_s
        while time.monotonic() < until_s:
            if await request.is_disconnected():
                self.abandoned.set()
                return Response()
            await asyncio.sleep(0.05)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "".join(WORDS)},
        }
        return JSONResponse(
            {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"],
             "choices": [choice], "usage": USAGE}
        )  # fmt: skip

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        counts = body.get("stream_options", {}).get("include_usage") and not self.mute
        try:
            yield b": hello\n\n"
            for word in WORDS:
                choice = {"index": 0, "delta": {"content": word}, "text": word, "finish_reason": None}
                extra = {"usage": None} if counts else {}
                yield f"data: {json.dumps({**head, 'choices': [choice], **extra})}\n\n".encode()
                await asyncio.sleep(self.slow_s)
            if counts:
                yield f"data: {json.dumps({**head, 'choices': [], 'usage': USAGE})}\n\n".encode()
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.abandoned.set()
            raise


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(meter, "FLUSH_S", 0.05)
    found = World(tmp_path)
    first = found.submit("alice", outputs={"m": "model:poet"})
    found.finish(found.place(first), outputs={"m": output()})
    yield found


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def serve_poet(world: World, endpoint: str = "", **changes: Any) -> str:
    """The run of a service of model:poet; it answers at `endpoint` when there is one."""
    given = {"name": "reciter", "inputs": {"model": "model:poet"}, "replicas": Replicas()} | changes
    job = world.submit("alice", **given)
    run = world.place(job)
    if endpoint:
        world.serve_at(run, endpoint, served_model="/srv/folder")
    return run


@contextlib.contextmanager
def reached(world: World, engine: str, url: str, way: str) -> Iterator[str]:
    """The run of the poet's service; the grid at `url` dials it itself or reaches it through the site."""
    if way == "direct":
        yield serve_poet(world, engine)
        return
    run = serve_poet(world)
    site = world.grid.state.runs[run].site
    relayed = relayed_services(
        Client(url, world.keys[site]), site, lambda asked: engine if asked == run else ""
    )
    world.serve_at(run, f"{service_url(site)}/{run}", served_model="/srv/folder")
    try:
        yield run
    finally:
        relayed.close()


WAYS = pytest.mark.parametrize("way", ["direct", "relay"])


def official(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=10)


def ask(**changes: Any) -> dict[str, Any]:
    return {"model": "poet", "messages": [{"role": "user", "content": "念"}]} | changes


@WAYS
def test_the_official_client_streams_a_poem_and_it_is_metered(
    world: World, upstream: Upstream, way: str
) -> None:
    with (
        serving(upstream.app) as engine,
        serving(world.app) as url,
        reached(world, engine, url, way) as run,
    ):
        client = official(url, world.keys["alice"])
        pieces = list(client.chat.completions.create(**ask(), stream=True))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "".join(WORDS)
        assert {piece.model for piece in pieces} == {"poet"}
        assert all(piece.usage is None for piece in pieces) and len(pieces) == len(WORDS)
        assert upstream.bodies[0]["model"] == "/srv/folder"
        counted = list(
            client.chat.completions.create(**ask(), stream=True, stream_options={"include_usage": True})
        )
        assert counted[-1].usage is not None and counted[-1].usage.completion_tokens == len(WORDS)
        whole = client.chat.completions.create(**ask(model="model:poet@1"))
        assert (whole.model, whole.choices[0].message.content) == ("model:poet@1", "".join(WORDS))
        old = list(client.completions.create(model="reciter", prompt="念", stream=True))
        assert "".join(piece.choices[0].text for piece in old) == "".join(WORDS)
        wait_until(lambda: world.grid.state.tokens.get(run) == (4, 28, 20))
    used = world.grid.state.tokens[run]
    world.finish(run)
    bill = world.client().bill(job=world.grid.state.runs[run].job)
    assert (bill["requests"], bill["tokens_in"], bill["tokens_out"]) == used


def test_pieces_are_counted_when_the_engine_does_not_count(world: World, upstream: Upstream) -> None:
    upstream.mute = True
    with serving(upstream.app) as engine, serving(world.app) as url:
        run = serve_poet(world, engine)
        list(official(url, world.keys["alice"]).chat.completions.create(**ask(), stream=True))
        wait_until(lambda: world.grid.state.tokens.get(run) == (1, 0, 5))


def test_what_is_metered_is_written_when_the_server_ends(
    world: World, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "FLUSH_S", 60)
    with serving(upstream.app) as engine:
        with serving(world.app) as url:
            run = serve_poet(world, engine)
            official(url, world.keys["alice"]).chat.completions.create(**ask())
            assert run not in world.grid.state.tokens
        assert world.grid.state.tokens[run] == (1, 7, 5)


@WAYS
def test_words_arrive_one_by_one(world: World, upstream: Upstream, way: str) -> None:
    upstream.slow_s = 0.15
    with serving(upstream.app) as engine, serving(world.app) as url, reached(world, engine, url, way):
        arrived = []
        for _ in official(url, world.keys["alice"]).chat.completions.create(**ask(), stream=True):
            arrived.append(time.monotonic())
    assert arrived[-1] - arrived[0] > 0.4


@pytest.mark.parametrize(("stream", "way"), [(True, "direct"), (False, "direct"), (True, "relay")])
def test_a_client_that_leaves_ends_the_engines_work(
    world: World, upstream: Upstream, stream: bool, way: str
) -> None:
    upstream.slow_s = 1.0 if stream else 30.0
    with (
        serving(upstream.app) as engine,
        serving(world.app) as url,
        reached(world, engine, url, way) as run,
    ):
        headers = {"authorization": f"Bearer {world.keys['alice']}"}
        if stream:
            with httpx.stream(
                "POST", f"{url}/v1/chat/completions", json=ask(stream=True), headers=headers
            ) as response:
                next(response.iter_bytes())
            assert upstream.abandoned.wait(5)
            wait_until(lambda: world.grid.state.tokens.get(run, (0,))[0] == 1)
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/chat/completions", json=ask(), headers=headers, timeout=0.5)
            assert upstream.abandoned.wait(5)


def test_models_are_listed_to_their_tenant(world: World, upstream: Upstream) -> None:
    with serving(upstream.app) as engine, serving(world.app) as url:
        client = official(url, world.keys["alice"])
        assert client.models.list().data == []
        serve_poet(world, engine)
        assert [model.id for model in client.models.list().data] == ["poet", "reciter"]
        assert client.models.retrieve("poet@1").owned_by == "alice"
        assert official(url, world.keys["bob"]).models.list().data == []
        assert len(official(url, world.keys["operator"]).models.list().data) == 2


def test_errors_have_openais_shape_and_say_what_there_is(world: World, upstream: Upstream) -> None:
    with serving(upstream.app) as engine, serving(world.app) as url:
        alice, bob = official(url, world.keys["alice"]), official(url, world.keys["bob"])
        with pytest.raises(openai.NotFoundError):
            alice.chat.completions.create(**ask())
        run = serve_poet(world)
        with pytest.raises(openai.InternalServerError) as starting:
            alice.chat.completions.create(**ask())
        assert (starting.value.status_code, starting.value.code) == (503, "service_starting")
        world.serve_at(run, engine)
        with pytest.raises(openai.NotFoundError) as missing:
            alice.chat.completions.create(**ask(model="poe"))
        assert "there are: poet" in missing.value.message and missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError) as hidden:
            bob.chat.completions.create(**ask())
        assert "poet," not in hidden.value.message
        with pytest.raises(openai.AuthenticationError):
            official(url, "wrong").chat.completions.create(**ask())
        with pytest.raises(openai.PermissionDeniedError):
            official(url, world.keys["east"]).models.list()
        for stream in (True, False):
            with pytest.raises(openai.BadRequestError, match="at most 2"):
                alice.chat.completions.create(**ask(), temperature=3, stream=stream)
            with pytest.raises(openai.InternalServerError, match="engine"):
                alice.chat.completions.create(**ask(), n=2, stream=stream)
        for body in (b"{", b"[]", b"{}", b'{"model": 3}'):
            headers = {"authorization": f"Bearer {world.keys['alice']}"}
            answer = httpx.post(f"{url}/v1/chat/completions", content=body, headers=headers)
            assert answer.status_code == 400 and answer.json()["error"]["code"] in ("bad_json", "bad_value")
        large = httpx.post(f"{url}/v1/chat/completions", content=iter([b" " * (9 << 20)]), headers=headers)
        assert large.status_code == 413


def test_a_waiting_service_says_why(world: World) -> None:
    for site in ("east", "west"):
        world.client("operator").drain(site)
    world.submit("alice", name="reciter", inputs={"model": "model:poet"}, replicas=Replicas())
    world.grid.tick()
    with serving(world.app) as url:
        with pytest.raises(openai.InternalServerError) as starting:
            official(url, world.keys["alice"]).chat.completions.create(**ask())
    assert "not ready yet" in starting.value.message and "suan why" in starting.value.message


def test_errors_of_a_relayed_engine_are_its_own(world: World, upstream: Upstream) -> None:
    with (
        serving(upstream.app) as engine,
        serving(world.app) as url,
        reached(world, engine, url, "relay"),
    ):
        client = official(url, world.keys["alice"])
        with pytest.raises(openai.BadRequestError, match="at most 2"):
            client.chat.completions.create(**ask(temperature=3))
        with pytest.raises(openai.APIStatusError, match="boom"):
            client.chat.completions.create(**ask(n=2))


def test_a_relayed_engine_that_is_gone_is_told_as_such(world: World) -> None:
    with serving(world.app) as url, reached(world, "http://127.0.0.1:9", url, "relay"):
        with pytest.raises(openai.APIStatusError, match="does not answer"):
            official(url, world.keys["alice"]).chat.completions.create(**ask())


def test_an_engine_that_is_gone_is_told_as_such(world: World, upstream: Upstream) -> None:
    with serving(upstream.app) as engine:
        serve_poet(world, engine)
    with serving(world.app) as url:
        for stream in (True, False):
            with pytest.raises(openai.InternalServerError) as gone:
                official(url, world.keys["alice"]).chat.completions.create(**ask(), stream=stream)
            assert (gone.value.status_code, gone.value.code) == (503, "engine_unreachable")


def test_the_newest_version_answers_to_the_bare_name(world: World, upstream: Upstream) -> None:
    newer = Upstream()
    with serving(upstream.app) as engine, serving(newer.app) as engine_of_newer, serving(world.app) as url:
        serve_poet(world, engine)
        second = world.submit("alice", outputs={"m": "model:poet"})
        world.finish(world.place(second), outputs={"m": output("e" * 64)})
        serve_poet(world, engine_of_newer)
        client = official(url, world.keys["alice"])
        client.chat.completions.create(**ask())
        client.chat.completions.create(**ask(model="poet@1"))
    assert (len(newer.bodies), len(upstream.bodies)) == (1, 1)


def test_what_passes_through_is_timed_by_service(world: World, upstream: Upstream) -> None:
    upstream.slow_s = 0.05
    with serving(upstream.app) as engine, serving(world.app) as grid:
        serve_poet(world, engine)
        client = official(grid, world.keys["alice"])
        said = [{"role": "user", "content": "登鸛雀樓"}]
        for _ in client.chat.completions.create(model="reciter", messages=said, stream=True):
            pass
        bearer = {"authorization": f"Bearer {world.keys['operator']}"}

        def sums() -> dict[str, float]:
            told = httpx.get(f"{grid}/metrics", headers=bearer, trust_env=False).text
            pairs = (line.rpartition(" ") for line in told.splitlines() if 'service="reciter"' in line)
            return {name: float(value) for name, _, value in pairs}

        wait_until(lambda: 'suan_gateway_tokens_total{direction="out",service="reciter"}' in sums())
        found = sums()
    labels = '{code="200",service="reciter"}'
    assert found[f"suan_gateway_request_duration_seconds_count{labels}"] == 1
    took_s = found[f"suan_gateway_request_duration_seconds_sum{labels}"]
    first_s = found[f"suan_gateway_time_to_first_byte_seconds_sum{labels}"]
    assert 0 < first_s < took_s - 0.1  # the words after the first came one by one
    assert found['suan_gateway_tokens_total{direction="out",service="reciter"}'] == len(WORDS)
