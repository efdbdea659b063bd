"""A site that nobody can dial gives its data and its services all the same: through the grid."""

import os
import time
from pathlib import Path

import httpx
from rest_world import World, serving

from suan.doors.client import Client
from suan.doors.relay import on_this_machine, relayed_door, relayed_url
from suan.grid.action import FetchOrder, Ticket, ticket_hash
from suan.stores.artifacts import open_store
from suan.stores.door import DataDoor
from suan.stores.mover import ChunkMover


def test_an_artifact_comes_through_the_grid_and_only_with_its_ticket(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "blob").write_bytes(os.urandom(20 << 20))  # five chunks
    source, destination = open_store(tmp_path / "source"), open_store(tmp_path / "destination")
    digest, manifest = source.put_folder(tmp_path / "data")
    world = World(tmp_path)
    door = DataDoor(source)
    door.allow([Ticket(ticket_hash=ticket_hash("shown"), digest=digest, bytes_per_s=1e9)])
    with serving(world.app) as url:
        nobody = httpx.get(f"{url}/v1/relay/east/manifests/{digest}", trust_env=False)
        assert nobody.status_code == 503  # the site asks for no questions
        site = Client(url, world.keys["east"])
        relayed, relayed_at = relayed_door(site, "east", door.url), relayed_url(site, "east")
        mover = ChunkMover(destination)
        order = FetchOrder(
            transfer="t", digest=digest, bytes=manifest.bytes, source_url=relayed_at, ticket="shown",
            bytes_per_s=1e9,
        )  # fmt: skip
        mover.want([order])
        deadline_s = time.monotonic() + 40
        while not (seen := mover.seen()[0]).done and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert seen.done, seen
        assert destination.has(digest)
        wrong = {"authorization": "Bearer another"}
        refused = httpx.get(f"{relayed_at}/manifests/{digest}", headers=wrong, trust_env=False, timeout=30)
        assert refused.status_code == 403
        stranger = Client(url, world.keys["west"]).request
        try:
            stranger("POST", "/v1/sites/east/relay/door")
            raise AssertionError("another site took questions that were not its own")
        except Exception as error:
            assert getattr(error, "status", None) == 403, error
        mover.close()
        relayed.close()
    door.close()


def test_only_a_grid_on_the_same_machine_dials_a_service_itself() -> None:
    assert on_this_machine("http://127.0.0.1:8080") and on_this_machine("http://localhost")
    assert not on_this_machine("https://grid.example.org") and not on_this_machine("http://10.0.0.7:8080")
