"""The Python client: light, stubborn where that is safe, careful with folders; and the grid as it is run."""

import http.server
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from rest_world import World, serving, task, wait_until

from suan.control.config import read_config
from suan.doors.client import Client
from suan.grid.artifact import Chunk, File, Manifest
from suan.grid.error import NotNow, Refused, SiteTrouble, SuanError
from suan.grid.site import GRID_SITE
from suan.stores.manifests import hash_of, manifest_bytes


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_client_imports_nothing_heavy() -> None:
    code = "import suan.doors.client, sys; print('\\n'.join(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "msgspec",
        "pydantic",
        "httpx",
        "fastapi",
        "starlette",
        "numpy",
        "blake3",
        "obstore",
        "yaml",
        "rich",
    }
    assert not heavy & {name.partition(".")[0] for name in out}


def test_errors_come_back_as_what_they_were(world: World) -> None:
    with pytest.raises(Refused) as refused:
        world.client().submit([task(run="")])
    error = refused.value
    assert (error.code, error.status) == ("nothing_to_run", 400) and error.hint and "count" in error.what
    with pytest.raises(Refused) as refused:
        world.client().submit([{"name": "a", "run": "x", "inputs": {"d": "dataset:no"}}])
    assert refused.value.code == "unknown_artifact"


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://host:port", "http://host:99999"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Refused) as refused:
        Client(url)
    assert refused.value.code == "bad_url"


def test_a_grid_that_is_not_there_is_not_now() -> None:
    with pytest.raises(NotNow) as away:
        Client("http://127.0.0.1:1").jobs()
    assert away.value.code == "grid_unreachable" and "suan up" in away.value.hint


def test_names_cannot_change_the_path(world: World) -> None:
    client = world.client("admin")
    for name in ("../keys", "..", "", "a/b", "x?limit=1", "x#y"):
        with pytest.raises(SuanError) as error:
            client.job(name)
        assert error.value.code in ("unknown_job", "bad_name", "not_found")


class _Flaky(http.server.BaseHTTPRequestHandler):
    """Breaks the connection of the first two requests, and closes kept-alive ones without saying so."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str | None]]] = []
    break_first = 2

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.asked.append((self.command, self.headers.get("idempotency-key")))
        if len(self.asked) <= self.break_first:
            self.connection.close()
            self.close_connection = True
            return
        body = json.dumps({"jobs": [], "items": [], "token": "t"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True  # without saying so

    do_GET = do_POST = _serve

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[str]:
    _Flaky.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Flaky)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_what_may_be_sent_twice_is_sent_again(flaky: str) -> None:
    client = Client(flaky)
    client.submit("run: echo")
    keys = {key for _, key in _Flaky.asked}
    assert len(_Flaky.asked) == 3 and len(keys) == 1 and None not in keys
    for _ in range(3):  # each on a connection that the server has closed meanwhile
        client.jobs()


def test_what_must_not_be_sent_twice_is_not(flaky: str) -> None:
    with pytest.raises(NotNow):
        Client(flaky).join_token("north")
    assert len(_Flaky.asked) == 1


# ---------------------------------------------------------------- folders


def make_folder(path: Path) -> Path:
    (path / "deep" / "er").mkdir(parents=True)
    (path / "a.txt").write_text("春眠不覺曉")
    (path / "deep" / "er" / "big.bin").write_bytes(os.urandom(1 << 20) * 9)
    (path / "deep" / "run.sh").write_text("#!/bin/sh\n")
    (path / "deep" / "run.sh").chmod(0o755)
    (path / "empty").touch()
    return path


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_goes_to_the_grid_and_back(world: World, tmp_path: Path) -> None:
    folder, client = make_folder(tmp_path / "in"), world.client()
    told: list[tuple[int, int]] = []
    made = client.put(
        folder, "dataset:tang", GRID_SITE, progress=lambda done, whole: told.append((done, whole))
    )
    assert (made["id"], made["files"], made["tenant"]) == ("dataset:tang@1", 4, "alice")
    assert told[-1] == (made["bytes"], made["bytes"]) and told == sorted(told)
    again = client.put(folder, "dataset:tang", GRID_SITE)
    assert again["id"] == "dataset:tang@1"
    (folder / "a.txt").write_text("處處聞啼鳥")
    assert client.put(folder, "dataset:tang", GRID_SITE)["id"] == "dataset:tang@2"
    client.get("dataset:tang@1", tmp_path / "out")
    found = content(tmp_path / "out")
    assert found.pop("a.txt").decode() == "春眠不覺曉"
    assert found == {name: data for name, data in content(folder).items() if name != "a.txt"}
    assert os.access(tmp_path / "out" / "deep" / "run.sh", os.X_OK)
    with pytest.raises(Refused) as refused:
        client.get("dataset:tang", tmp_path / "out")
    assert refused.value.code == "folder_exists"
    with pytest.raises(Refused):
        world.client("bob").get("dataset:tang", tmp_path / "stolen")
    digest = made["digest"]
    for path in (f"/v1/data/manifests/{digest}", f"/v1/data/chunks/{hash_of(b'x')}?digest={digest}"):
        with pytest.raises(Refused):
            world.client("bob").request("GET", path)


def test_a_put_goes_on_to_the_only_site_or_asks_which(world: World, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in")
    with pytest.raises(Refused) as refused:
        world.client().put(folder, "dataset:tang")
    assert refused.value.code == "which_site" and refused.value.fields["sites"] == ["east", "west"]
    world.client().put(folder, "dataset:tang", "east")
    (order,) = world.grid.orders("east").fetch
    assert order.bytes == sum(len(data) for data in content(folder).values())
    with pytest.raises(Refused):
        world.client().put(folder, "dataset:tang", "nowhere")


@pytest.mark.parametrize("name", ["tang", "dataset:../x", "dataset:tang@1", "secret:x"])
def test_a_put_under_a_wrong_name_is_refused(world: World, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(Refused):
        world.client().put(tmp_path / "in", name, GRID_SITE)
    assert not world.grid.state.artifacts


def test_links_out_of_the_folder_are_not_followed(world: World, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(Refused) as refused:
        world.client().put(tmp_path / "in", "dataset:tang", GRID_SITE)
    assert refused.value.code == "bad_path"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", ""])
def test_a_manifest_that_leaves_its_folder_is_refused_at_both_ends(
    world: World, tmp_path: Path, path: str
) -> None:
    data = b"evil"
    client = world.client()
    client.request("PUT", f"/v1/data/chunks/{hash_of(data)}", body=data)
    manifest = Manifest(files=(File(path, len(data), (Chunk(hash_of(data), len(data)),)),))
    with pytest.raises(Refused) as refused:
        client.request(
            "POST", "/v1/artifacts", body={"name": "dataset:evil", "manifest": manifest, "site": "grid"}
        )
    assert refused.value.code == "bad_manifest"

    class Lying(Client):
        def artifact(self, name: str) -> dict[str, Any]:
            return {"id": name}

        def fetch(self, name: str) -> dict[str, Any]:
            return {"ready": True, "digest": hash_of(manifest_bytes(manifest))}

        def request(self, method: str, path: str, **_: Any) -> Any:
            return manifest_bytes(manifest) if "manifests" in path else data

    with pytest.raises(SiteTrouble):
        Lying("http://grid.invalid").get("dataset:evil", tmp_path / "a" / "out")
    assert not list(tmp_path.rglob("evil")) and not (tmp_path / "a" / "out").exists()


def test_chunks_must_be_what_their_hash_says(world: World) -> None:
    for hash in (hash_of(b"other"), "..", "0" * 63, "G" * 64):
        with pytest.raises(Refused):
            world.client().request("PUT", f"/v1/data/chunks/{hash}", body=b"data")
    manifest = Manifest(files=(File("a", 4, (Chunk(hash_of(b"data"), 4),)),))
    with pytest.raises(NotNow) as missing:
        world.client().request(
            "POST", "/v1/artifacts", body={"name": "dataset:a", "manifest": manifest, "site": "grid"}
        )
    assert missing.value.fields["missing"] == [hash_of(b"data")]


# ---------------------------------------------------------------- a grid as it is run


class Served:
    """`serve` in a process of its own over `folder`."""

    def __init__(self, folder: Path) -> None:
        code = (
            "import sys; from suan.control.config import read_config;"
            "from suan.doors.rest.serve import serve;"
            "serve(read_config(folder=sys.argv[1], port=0))"
        )
        self.folder = folder
        (folder / "grid.json").unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
        wait_until(lambda: (folder / "grid.json").exists() or self.process.poll() is not None, 30)
        self.url = json.loads((folder / "grid.json").read_text())["url"]
        self.client = Client(self.url, (folder / "admin.key").read_text().strip())

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.mark.slow
def test_a_grid_survives_being_killed_and_stops_when_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = Served(state)
    try:
        assert stat.S_IMODE((state / "admin.key").stat().st_mode) == 0o600
        assert stat.S_IMODE((state / "secret").stat().st_mode) == 0o600
        assert first.client.whoami()["role"] == "admin"
        wait_until(lambda: first.client.site("grid")["data_url"])
        job = first.client.submit("run: echo hello")[0]["id"]
        made = first.client.put(make_folder(tmp_path / "in"), "dataset:tang", GRID_SITE)
        assert first.process.poll() is None
        rival = subprocess.run(
            [sys.executable, "-c", "import sys; from suan.control.config import *;"
             "open_grid(read_config(folder=sys.argv[1]))", str(state)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert "is being written by process" in rival.stderr
    finally:
        first.end(signal.SIGKILL)
    second = Served(state)
    try:
        assert second.client.key == first.client.key
        assert second.client.job(job)["phase"] == "waiting"
        assert second.client.get("dataset:tang", tmp_path / "out")["id"] == made["id"]
        assert content(tmp_path / "out") == content(tmp_path / "in")
        stream = second.client.events(after=1)
        assert next(stream).kind == "fact"
    finally:
        assert second.end(signal.SIGTERM) == 0
    assert not (state / "grid.json").exists()


def test_settings_come_from_file_environment_and_caller(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('folder = "/a"\nport = 1\nhost = "10.0.0.1"\n[policy]\nlease_s = 60\n')
    found = read_config(file, environment={"SUAN_GRID_PORT": "2", "SUAN_GRID_HOST": "10.0.0.2"}, port=3)
    assert (str(found.folder), found.port, found.host, found.policy) == ("/a", 3, "10.0.0.2", {"lease_s": 60})
    for text in (
        'folder = "a"\nprot = 1\n',
        'folder = "a"\nport = 99999\n',
        "[",
        'folder = "a"\npolicy = {lease = 1}\n',
    ):
        file.write_text(text)
        with pytest.raises(Refused) as refused:
            read_config(file, environment={})
        assert refused.value.code == "bad_config"


def test_structs_travel_as_json(world: World) -> None:
    with serving(world.app) as url:
        made = Client(url, world.keys["alice"]).submit([task(), msgspec.to_builtins(task("b"))])
        assert [job["task"]["name"] for job in made] == ["count", "b"]
