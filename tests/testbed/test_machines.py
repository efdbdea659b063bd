"""The bed's own promises: links are as slow as declared, a cut is a cut, and what ends leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from machines import End, Machine, Network, start
from messages import BadLine

PING = (
    "import socket, sys, time\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.settimeout(0.5)\n"
    "best = 9.0\n"
    "for _ in range(8):\n"
    "    began = time.monotonic()\n"
    "    s.sendto(b'x' * 8, (sys.argv[1], 7000))\n"
    "    try: s.recv(99); best = min(best, time.monotonic() - began)\n"
    "    except OSError: pass\n"
    "print(best)\n"
)
ECHO = (
    "import socket\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "s.bind(('0.0.0.0', 7000))\n"
    "while True:\n"
    "    data, who = s.recvfrom(99); s.sendto(data, who)\n"
)
SLEEPER = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]


def test_a_link_has_its_delay_and_can_be_cut(namespaces: None, tmp_path: Path) -> None:
    holders = [start(["unshare", "--net", "sleep", "60"], tmp_path / "log") for _ in range(2)]
    try:
        time.sleep(0.3)
        ends = [End(f"e{number}", f"10.97.0.{number + 1}", holders[number].pid) for number in range(2)]
        network = Network(ends, [{"ends": ["e0", "e1"], "delay_ms": 30.0}], tmp_path / "log")
        for end in ends:
            end.connect(100.0)
        enter = [["nsenter", "--net", f"--target={end.pid}", sys.executable, "-c"] for end in ends]
        holders.append(start([*enter[1], ECHO], tmp_path / "log"))

        def trip_s() -> float:
            return float(subprocess.check_output([*enter[0], PING, ends[1].address]))

        assert 0.059 < trip_s() < 0.2
        network.cut("e1")
        assert trip_s() == 9.0
        assert network.change()["e0>e1"]["cut"] >= 8
        network.cut("e1", up=True)
        assert trip_s() < 0.2
        network.end()
    finally:
        for process in holders:
            process.kill()
            process.wait()


def test_a_machine_ends_with_all_that_runs_on_it_however_its_maker_ends(
    namespaces: None, tmp_path: Path
) -> None:
    mark = f"bed-test-{os.getpid()}"
    program = f"setsid sleep 300 {mark} & exec -a {mark} sleep 300"
    maker = (
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from machines import start\n"
        f"start({[*SLEEPER, program]!r}, Path({str(tmp_path / 'log')!r}))\n"
        "print('made', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", maker], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    deadline_s = time.monotonic() + 10
    while not marked(mark) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert marked(mark)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while marked(mark) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not marked(mark)


def marked(mark: str) -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if arguments[0] == mark.encode():
            found.append(name)
    return found


def test_a_bad_line_sends_messages_twice_and_late_and_counts_them() -> None:
    got: Counter[str] = Counter()

    class Grid(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got[json.loads(body)["said"]] += 1
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:
            pass

    grid = ThreadingHTTPServer(("127.0.0.1", 0), Grid)
    Thread(target=grid.serve_forever, daemon=True).start()
    line = BadLine(f"http://127.0.0.1:{grid.server_address[1]}")
    with httpx.Client(base_url=line.url, trust_env=False, timeout=30) as client:
        assert client.post("/x", json={"said": "once"}).text == "ok"
        in_chunks = iter([b'{"said": "', b"in chunks", b'"}'])  # as a site relays what its services say
        assert client.post("/x", content=in_chunks).text == "ok"
        assert got == {"once": 1, "in chunks": 1}
        line.muddle(1.0)
        assert client.post("/x", json={"said": "muddled"}).text == "ok"
        deadline_s = time.monotonic() + 10
        while got["muddled"] < 3 and time.monotonic() < deadline_s:
            time.sleep(0.05)
    assert got["muddled"] == 3
    counts = line.muddle(0.0)
    assert counts == {"carried": 3, "late": 1, "twice": 1, "twice, the second late": 1}
    grid.shutdown()


def test_machines_need_their_program(namespaces: None, tmp_path: Path) -> None:
    from machines import HostFailed

    with pytest.raises(HostFailed, match="has ended"):
        Machine("m", "10.97.0.9", {"role": "none", "site": "m", "folder": str(tmp_path)}, tmp_path / "log")
