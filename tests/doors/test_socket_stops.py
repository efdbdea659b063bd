"""Stop strings end an answer through the socket, also where the engine does not know them."""

from pathlib import Path

import openai
import pytest
from rest_world import World, output, serving
from test_socket import WORDS, Upstream, ask, official, serve_poet

from suan.doors.socket.stops import Stops

TEXT = "白日依山盡，黃河入海流。欲窮千里目"


def streamed(pieces: list[str], stop: object) -> tuple[str, list[str | None]]:
    """(the text that came through, the reasons it ended) of pieces, then the engine's own end."""
    stops, said, ends = Stops(stop), "", []
    events = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    for choice in [*events, {"index": 0, "delta": {}, "finish_reason": "length"}]:
        if stops.pass_on(choice):
            said += choice["delta"].get("content", "")
            ends += [choice["finish_reason"]] if choice["finish_reason"] else []
    return said, ends


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("，黃", "白日依山盡"),
        (["流。", "入海"], "白日依山盡，黃河"),
        ("欲窮千里目也", TEXT),
        ("目", TEXT[:-1]),
        ("白", ""),
        (["不在"], TEXT),
    ],
)
def test_a_stop_string_is_found_however_the_text_is_cut(size: int, stop: object, expected: str) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    assert streamed(pieces, stop) == (expected, ["length" if expected == TEXT else "stop"])


def test_nothing_is_held_back_that_cannot_begin_a_stop_string() -> None:
    stops = Stops("山盡")
    choice = {"index": 0, "delta": {"content": "白日"}, "finish_reason": None}
    assert stops.pass_on(choice) and choice["delta"]["content"] == "白日"
    assert not stops.pass_on({"index": 0, "delta": {"content": "山"}, "finish_reason": None})


def test_the_official_client_sees_an_engine_that_knows_stop(tmp_path: Path) -> None:
    world, engine = World(tmp_path), Upstream()
    world.finish(world.place(world.submit("alice", outputs={"m": "model:poet"})), outputs={"m": output()})
    with serving(engine.app) as upstream, serving(world.app) as url:
        serve_poet(world, upstream)
        client: openai.OpenAI = official(url, world.keys["alice"])
        whole = client.chat.completions.create(**ask(stop=[WORDS[2]])).choices[0]
        assert (whole.message.content, whole.finish_reason) == ("".join(WORDS[:2]), "stop")
        pieces = list(client.chat.completions.create(**ask(stop=WORDS[2]), stream=True))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "".join(WORDS[:2])
        assert pieces[-1].choices[0].finish_reason == "stop"
