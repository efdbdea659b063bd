"""A bad line between an agent and its grid: passes requests on, some of them twice, some late, some twice and
late.

Knows HTTP and chance. A copy that comes late carries what was true a while ago, behind what is true now.
"""

import contextlib
import http.client
import http.server
import random
import threading
import time
from collections import Counter
from typing import NamedTuple
from urllib.parse import urlsplit

_LATE_S = (0.3, 3.0)
_TIMEOUT_S = 90.0
_KEPT = ("authorization", "content-type", "idempotency-key")


class _Message(NamedTuple):
    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class BadLine:
    """Listens at `here` for `url`. `muddle` says how often each fault happens."""

    def __init__(self, url: str, here: str = "127.0.0.1") -> None:
        self.counts: Counter[str] = Counter()
        self._grid = urlsplit(url)
        self._ratio = 0.0
        self._lock = threading.Lock()
        line = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            do_GET = do_POST = do_PUT = lambda self: line.carry(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer((here, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{here}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def muddle(self, ratio: float) -> dict[str, int]:
        """From now on this part of the messages suffers each of the faults; the counts so far."""
        self._ratio = ratio
        return dict(self.counts)

    def carry(self, request: http.server.BaseHTTPRequestHandler) -> None:
        # As it is now: the same object stands for the next request of its connection.
        headers = {name: value for name, value in request.headers.items() if name.lower() in _KEPT}
        body = _body(request)
        message = _Message(request.command, request.path, body, headers)
        self._count("carried")
        if self._suffers("late"):
            time.sleep(random.uniform(*_LATE_S))
        if self._suffers("twice"):
            with contextlib.suppress(OSError):
                self._send(message)
        if self._suffers("twice, the second late"):
            threading.Timer(random.uniform(*_LATE_S), self._send_late, (message,)).start()
        try:
            status, said, answer = self._send(message)
        except OSError:
            request.close_connection = True  # as when the line itself breaks
            return
        request.send_response(status)
        for name, value in said:
            if name.lower() in ("content-type", "retry-after") or name.lower().startswith("x-suan"):
                request.send_header(name, value)
        request.send_header("content-length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def _send_late(self, message: "_Message") -> None:
        with contextlib.suppress(OSError):
            self._send(message)

    def _send(self, message: "_Message") -> tuple[int, list[tuple[str, str]], bytes]:
        """Raises: OSError."""
        assert self._grid.hostname is not None
        connection = http.client.HTTPConnection(self._grid.hostname, self._grid.port, timeout=_TIMEOUT_S)
        try:
            connection.request(*message)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def _suffers(self, fault: str) -> bool:
        if random.random() >= self._ratio:
            return False
        self._count(fault)
        return True

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    """The whole of it, also of one that was sent in chunks while it came: what a site relays."""
    if request.headers.get("transfer-encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("content-length") or 0))
    parts = []
    while size := int(request.rfile.readline().partition(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    while request.rfile.readline().strip():
        pass  # trailers
    return b"".join(parts)
