"""A wide-area network in user space, for kernels without netem: delay, jitter, loss and cuts between
machines.

Knows one TUN device in each machine's network namespace and carries IP packets between them. Rates are not
its business: a token bucket of the kernel (tc tbf) in front of each device keeps them. Large segments pass
whole (IFF_VNET_HDR), which is what lets Python carry 100 Mbit/s with a tenth of a core; a loss therefore
takes a burst, as it does on a real queue.

Run as a program: one JSON line with the ends and the links on standard input, then a line for each change of
links; every line is answered by one with the counts so far.
"""

import contextlib
import ctypes
import fcntl
import heapq
import ipaddress
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

DEVICE = "wan0"
# Source: linux/if_tun.h, linux/virtio_net.h, linux/sched.h.
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_CLONE_NEWNET = 0x40000000
_HEADER_BYTES = 10  # struct virtio_net_hdr; the segment's size is at byte 4
_MOST_BYTES = _HEADER_BYTES + 65_536
_BATCH = 32  # frames of one end before the others get their turn
_WAKE_S = 0.0005  # a poll wakes late by up to a millisecond: the last half is waited for awake


@dataclass
class Link:
    """One direction."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0  # of packets
    up: bool = True
    carried_bytes: int = 0
    lost: int = 0  # frames, by chance
    cut: int = 0  # frames, while it was down

    def takes(self, frame: bytes) -> bool:
        if not self.up:
            self.cut += 1
            return False
        if self.loss:
            segment_bytes = struct.unpack_from("<H", frame, 4)[0]
            segments = -(-len(frame) // segment_bytes) if segment_bytes else 1
            if random.random() < 1 - (1 - self.loss) ** segments:
                self.lost += 1
                return False
        self.carried_bytes += len(frame) - _HEADER_BYTES
        return True

    def due_s(self, now_s: float) -> float:
        return now_s + (self.delay_ms + random.uniform(-self.jitter_ms, self.jitter_ms)) / 1000


class Wan:
    """Carries until its standard input ends. `ends`: name -> {pid of a process there, address}."""

    def __init__(self, ends: dict[str, dict[str, Any]], links: list[dict[str, Any]]) -> None:
        self._devices = {name: open_device(int(end["pid"])) for name, end in ends.items()}
        self._names = {device: name for name, device in self._devices.items()}
        self._routes = {ipaddress.ip_address(end["address"]).packed: name for name, end in ends.items()}
        self._links: dict[tuple[str, str], Link] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []  # (due, order, device, frame)
        self._order = 0
        self.change(links)

    def change(self, links: list[dict[str, Any]]) -> None:
        """Sets what is named, both ways: [{"ends": [a, b], "delay_ms": 20, …}]."""
        for change in links:
            a, b = change["ends"]
            for pair in ((a, b), (b, a)):
                link = self._links.setdefault(pair, Link())
                for name, value in change.items():
                    if name != "ends":
                        setattr(link, name, value)

    def counts(self) -> dict[str, dict[str, int]]:
        return {
            f"{source}>{destination}": {"bytes": link.carried_bytes, "lost": link.lost, "cut": link.cut}
            for (source, destination), link in sorted(self._links.items())
        }

    def run(self) -> None:
        poll = select.epoll()
        for device in self._names:
            poll.register(device, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            for device, _ in poll.poll(self._deliver()):
                if device:
                    self._collect(device)
                elif line := sys.stdin.readline():
                    self.change(json.loads(line))
                    print(json.dumps(self.counts()), flush=True)
                else:
                    return

    def _collect(self, device: int) -> None:
        source = self._names[device]
        for _ in range(_BATCH):
            try:
                frame = os.read(device, _MOST_BYTES)
            except BlockingIOError:
                return
            destination = self._routes.get(frame[_HEADER_BYTES + 16 : _HEADER_BYTES + 20], "")
            link = self._links.get((source, destination))
            if link is None or frame[_HEADER_BYTES] >> 4 != 4 or not link.takes(frame):
                continue
            self._order += 1
            due_s = link.due_s(time.monotonic())
            heapq.heappush(self._waiting, (due_s, self._order, self._devices[destination], frame))

    def _deliver(self) -> float:
        """Hands over what is due; seconds until more is, -1 when nothing waits."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, device, frame = heapq.heappop(waiting)
            with contextlib.suppress(OSError):  # a full queue, or a machine that is gone: lost there, too
                os.write(device, frame)
        return max(0.0, waiting[0][0] - time.monotonic() - _WAKE_S) if waiting else -1.0


def open_device(pid: int) -> int:
    """The device's file, made in the network namespace of this process.

    Raises: OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network of process {pid} cannot be entered")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), flags))
        fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    finally:
        libc.setns(here, _CLONE_NEWNET)
        os.close(here)
        os.close(there)
    return device


def main() -> None:
    with contextlib.suppress(OSError):
        os.nice(-15)  # a line does not wait for the computers at its ends
    given = json.loads(sys.stdin.readline())
    wan = Wan(given["ends"], given["links"])
    print(json.dumps(wan.counts()), flush=True)
    wan.run()


if __name__ == "__main__":
    main()
