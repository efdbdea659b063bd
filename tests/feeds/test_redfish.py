"""A machine's management controller: its watts where it tells them, None where it does not."""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from suan.feeds.redfish import Redfish
from suan.grid.error import Refused

CHASSIS = "/redfish/v1/Chassis"


def at(path: str) -> dict[str, str]:
    return {"@odata.id": f"{CHASSIS}{path}"}


OLD = {  # Power with its PowerControl, as controllers until 2020 have it
    CHASSIS: {"Members": [at("/1")]},
    f"{CHASSIS}/1": {"Power": at("/1/Power")},
    f"{CHASSIS}/1/Power": {"PowerControl": [{"PowerConsumedWatts": 590, "PowerCapacityWatts": 1600}]},
}
NEW = {
    CHASSIS: {"Members": [at("/Node"), at("/Tray")]},
    f"{CHASSIS}/Node": {"EnvironmentMetrics": at("/Node/E"), "Power": at("/Node/Power")},
    f"{CHASSIS}/Node/E": {"PowerWatts": {"Reading": 3210.5}},
    f"{CHASSIS}/Tray": {"EnvironmentMetrics": at("/Tray/E")},
    f"{CHASSIS}/Tray/E": {"PowerWatts": {"Reading": 900.0}},
}
SILENT = {
    CHASSIS: {"Members": [at("/1")]},
    f"{CHASSIS}/1": {"Power": at("/1/Power")},
    f"{CHASSIS}/1/Power": {"PowerControl": [{"PowerConsumedWatts": None}]},
}


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[tuple[Redfish, dict[str, Any]]]:
    """A reader, and the pages that its controller has."""
    pages: dict[str, Any] = {}
    wanted = "Basic " + base64.b64encode(b"reader:s3cret").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["authorization"] == wanted and self.path in pages
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(pages[self.path]).encode() if known else b"<html>no</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    (tmp_path / "password").write_text("s3cret\n")
    reader = Redfish(f"http://reader@127.0.0.1:{server.server_address[1]}", tmp_path / "password")
    yield reader, pages
    reader.close()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("pages", "watts"), [(OLD, 590.0), (NEW, 3210.5), (SILENT, None), ({}, None)])
def test_watts_of_the_machine(
    controller: tuple[Redfish, dict[str, Any]], pages: dict[str, Any], watts: float | None
) -> None:
    reader, served = controller
    served.update(pages)
    assert reader.node_w() == watts
    assert reader.node_w() == watts


def test_a_controller_that_comes_back_is_read_again(controller: tuple[Redfish, dict[str, Any]]) -> None:
    reader, served = controller
    assert reader.node_w() is None
    served.update(OLD)
    assert reader.node_w() == 590.0
    served.clear()
    assert reader.node_w() is None


def test_what_is_no_controller_is_refused(tmp_path: Path) -> None:
    for url in ("bmc.example", "ftp://bmc.example", "https://bmc.example/redfish"):
        with pytest.raises(Refused, match="no controller"):
            Redfish(url, None)
    with pytest.raises(Refused, match="nowhere"):
        Redfish("https://root@bmc.example", tmp_path / "nowhere")
