"""Serving: which engine for which folder, real engines through the socket, answers with sources, drain."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from test_recipe_index import write_documents
from test_recipe_models import lines
from tiny_stages import environment, stage_command

from suan.grid.error import Refused
from suan.grid.job import Replicas
from suan.recipes import recipe_task
from suan.recipes.serve import Args, engines

sys.path.insert(0, str(Path(__file__).parents[1] / "doors"))

from rest_world import World, serving

QUESTION = "青溪县图书馆的馆长是谁？"
START_S = 400.0


# ---------------------------------------------------------------- which engine


def test_a_gguf_file_asks_for_llama_cpp_and_says_when_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Refused) as refused:
        engines.choose(tmp_path, Args())
    assert refused.value.code == "not_installed" and "llama-server" in str(refused.value)
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
    assert engines.choose(tmp_path, Args()) == "llama.cpp"
    line = engines.command_line("llama.cpp", tmp_path, 8001, Args(options=("--parallel", "8")))
    assert line[:3] == ["/opt/llama-server", "-m", str(tmp_path / "model.gguf")]
    assert line[-2:] == ["--parallel", "8"] and "--offline" in line and "127.0.0.1" in line


def test_without_a_gpu_a_model_folder_is_served_by_transformers(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"config\.json"):
        engines.choose(tmp_path, Args())
    (tmp_path / "config.json").write_text("{}")
    assert engines.choose(tmp_path, Args()) == "transformers"
    line = engines.command_line("transformers", tmp_path, 8001, Args(cache_tokens=100))
    assert line[line.index("--cb-num-blocks") + 1] == "4", "four blocks of 32 hold a hundred tokens"
    assert "--no-continuous-batching" in engines.command_line(
        "transformers", tmp_path, 8001, Args(continuous_batching=False)
    )


def test_inputs_are_those_that_the_engine_reads() -> None:
    assert recipe_task("serve", {}).inputs == {"model": "model:model"}
    assert recipe_task("serve", {"engine": "embeddings"}).inputs == {}
    assert recipe_task("serve", {"answers": "quote"}).inputs == {"index": "dataset:index"}


# ---------------------------------------------------------------- engines that run


class Service:
    """The stage as a site starts it."""

    def __init__(self, folder: Path, inputs: dict[str, Path], args: dict[str, Any]) -> None:
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._progress = folder / "progress.jsonl"
        variables = {f"SUAN_INPUT_{name.upper()}": str(path) for name, path in inputs.items()}
        variables |= {"SUAN_PROGRESS": str(self._progress), "SUAN_RUN_ID": "run", "SUAN_PORT": str(self.port)}
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                stage_command("serve", [], **args),
                env=environment(**variables),
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self) -> "Service":
        end_s = time.monotonic() + START_S
        while not any(line["phase"] == "ready" for line in lines(self._progress)):
            assert self.process.poll() is None and time.monotonic() < end_s, "it does not get ready"
            time.sleep(0.05)
        return self

    @property
    def served_model(self) -> str:
        return str(lines(self._progress)[-1]["served_model"])

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


Start = Callable[..., Service]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    folder, started = tmp_path_factory.mktemp("services"), []

    def start_one(name: str, inputs: dict[str, Path], **args: Any) -> Service:
        started.append(Service(folder / name, inputs, args))
        return started[-1]

    yield start_one
    for service in started:
        service.end()


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory, run_stage: Any) -> Path:
    folder = tmp_path_factory.mktemp("news")
    done = run_stage("index", "--input", write_documents(folder / "documents"), "--output", folder / "index")
    assert done.returncode == 0, done.stderr
    return folder / "index"


def plug_in(world: World, name: str, service: Service) -> None:
    """A service of that name in the grid, at the engine's port."""
    run = world.place(world.submit("alice", name=name, replicas=Replicas()))
    world.serve_at(run, service.url, served_model=service.served_model)


def official(world: World, url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=world.keys["alice"], max_retries=0, timeout=60)


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], **more}


def test_embeddings_of_a_real_model_through_the_socket(tmp_path: Path, start: Start) -> None:
    world, engine = World(tmp_path), start("embeddings", {}, engine="embeddings").ready()
    with serving(world.app) as url:
        plug_in(world, "e5", engine)
        client = official(world, url)
        texts = ["大模型的算力网络", "把计算任务送到便宜的机房", "番茄炒蛋的做法"]
        found = client.embeddings.create(model="e5", input=texts, extra_body={"input_type": "passage"})
        asked = client.embeddings.create(model="e5", input="在哪里训练模型最省钱？", encoding_format="float")
        assert found.model == "e5" and found.usage.prompt_tokens > 10 and len(found.data[0].embedding) == 384
        near = [
            sum(a * b for a, b in zip(one.embedding, asked.data[0].embedding, strict=True))
            for one in found.data
        ]
        assert max(near[:2]) > near[2], "compute is nearer to the question than cooking"
        assert [model.id for model in client.models.list().data] == ["e5"]
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="e5", input=[])


@pytest.mark.slow
def test_what_the_bare_model_cannot_answer_is_answered_with_its_source(
    tmp_path: Path, start: Start, trained: Path, news: Path
) -> None:
    reader = start("reader", {"model": trained / "model", "index": news})
    quoter = start("quoter", {"index": news}, answers="quote")
    world = World(tmp_path)
    with serving(world.app) as url:
        plug_in(world, "reader", reader.ready())
        plug_in(world, "quoter", quoter.ready())
        client = official(world, url)
        bare = client.completions.create(model="reader", prompt=QUESTION, max_tokens=24, temperature=0)
        assert "林晓舟" not in bare.choices[0].text
        quoted = client.chat.completions.create(**ask("quoter")).choices[0].message
        assert "馆长是林晓舟" in (quoted.content or "") and "青溪日报 2026-03-02" in (quoted.content or "")
        assert [note.url_citation.url for note in quoted.annotations or ()] == ["青溪日报"]
        pieces = client.chat.completions.create(**ask("quoter", stream=True))
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == quoted.content
        later = ask("quoter", extra_body={"retrieval": {"since": "2026-06-01"}})
        assert "没有找到" in (client.chat.completions.create(**later).choices[0].message.content or "")
        with pytest.raises(openai.BadRequestError, match="yesterday"):
            client.chat.completions.create(**ask("quoter", extra_body={"retrieval": {"since": "yesterday"}}))
        # A model that can read would answer from the passages: here it is seen that it gets them.
        read = client.chat.completions.create(**ask("reader", max_tokens=4))
        assert read.usage is not None and read.usage.prompt_tokens > 60
        assert "青溪日报" in (read.choices[0].message.content or "")
        streamed = list(client.chat.completions.create(**ask("reader", max_tokens=4, stream=True)))
        assert "青溪日报" in "".join(
            piece.choices[0].delta.content or "" for piece in streamed if piece.choices
        )
        assert streamed[-1].choices[0].finish_reason == "length"
        stops_and_drains(client, reader)


def stops_and_drains(client: openai.OpenAI, reader: Service) -> None:
    """A stop string ends an answer; a service told to end finishes the answer that it is giving."""
    plain: dict[str, Any] = {"model": "reader", "prompt": "床前明月光", "temperature": 0}
    free = client.completions.create(**plain, max_tokens=12).choices[0].text
    stopped = client.completions.create(**plain, max_tokens=12, stop=free[:3]).choices[0]
    assert stopped.finish_reason == "stop" and free.startswith(stopped.text) and len(stopped.text) < 3
    pieces = iter(client.chat.completions.create(**ask("reader", max_tokens=48, stream=True)))
    next(pieces)
    reader.process.send_signal(signal.SIGTERM)
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] in ("stop", "length")
    assert reader.process.wait(30) is not None
    with pytest.raises(ProcessLookupError):  # the engine behind it is gone too
        os.killpg(reader.process.pid, 0)


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("SUAN_TEST_GGUF") and shutil.which("llama-server")),
    reason="name a folder with a GGUF model in SUAN_TEST_GGUF, and install llama-server",
)
def test_a_gguf_model_answers_with_log_probabilities(tmp_path: Path, start: Start) -> None:
    engine = start("gguf", {"model": Path(os.environ["SUAN_TEST_GGUF"])}).ready()
    world = World(tmp_path)
    with serving(world.app) as url:
        plug_in(world, "gguf", engine)
        chat = ask("gguf", max_tokens=8, logprobs=True, top_logprobs=2)
        choice = official(world, url).chat.completions.create(**chat).choices[0]
        assert choice.message.content and choice.logprobs and choice.logprobs.content
