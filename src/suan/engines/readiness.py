"""Whether a service answers yet. Knows ports and one page, /health; does not know what is served.

A service is ready when /health answers 200, when it has no such page, or when what answers is no HTTP. One
that waits to be spoken to in its own language has to say so itself: {"phase": "ready"} in its progress.
"""

import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from suan.ports import EngineRun

_TIMEOUT_S = 2.0
_PAUSE_S = 0.3
_NO_SUCH_PAGE = frozenset({404, 405, 501})


class Readiness:
    """Asks services in the background, until each has answered once.

    `relay` is what the endpoints of ready services begin with where nobody else can dial them, "" where the
    grid can.
    """

    def __init__(self, relay: str = "") -> None:
        self._relay = relay
        self._lock = threading.Lock()
        self._ready: dict[str, str] = {}  # run -> its service's URL, as this machine calls it
        self._asked_s: dict[str, float] = {}  # run -> when it was last asked; inf while it is being asked
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="readiness")

    def endpoint(self, run: EngineRun, progress: dict[str, float | str]) -> str:
        """Where the run's service answers; "" while it does not. Returns at once."""
        if not run.port:
            return ""
        name, authority = run.run, _authority(run)
        with self._lock:
            if progress.get("phase") == "ready":
                self._ready[name] = f"http://{authority}"
            if name in self._ready:
                return f"{self._relay}/{name}" if self._relay else self._ready[name]
            if time.monotonic() - self._asked_s.get(name, 0.0) > _PAUSE_S:
                self._asked_s[name] = float("inf")
                self._workers.submit(self._ask, name, authority)
        return ""

    def url(self, run: str) -> str:
        """Where this machine reaches the run's service; "" while it is not ready."""
        with self._lock:
            return self._ready.get(run, "")

    def forget(self, run: str) -> None:
        with self._lock:
            self._ready.pop(run, None)
            self._asked_s.pop(run, None)

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _ask(self, run: str, authority: str) -> None:
        ready = answers(authority)
        with self._lock:
            self._asked_s[run] = time.monotonic()
            if ready:
                self._ready[run] = f"http://{authority}"


def _authority(run: EngineRun) -> str:
    return f"[{run.address}]:{run.port}" if ":" in run.address else f"{run.address}:{run.port}"


def answers(authority: str) -> bool:
    """Whether the service at this HOST:PORT is ready."""
    connection = http.client.HTTPConnection(authority, timeout=_TIMEOUT_S)
    try:
        connection.connect()
    except OSError:
        return False
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
        return status == 200 or status in _NO_SUCH_PAGE
    except http.client.BadStatusLine as error:
        # Nothing at all: it hung up while it was starting. Anything else is another language than HTTP.
        return not isinstance(error, http.client.RemoteDisconnected)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
