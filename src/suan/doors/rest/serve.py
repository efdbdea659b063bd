"""A grid with its web server around it, until a signal ends it.

Knows sockets, uvicorn and when to stop. FOLDER/grid.json says where the grid answers, while it does.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from suan.control.config import GridConfig, open_grid
from suan.control.fact_log import tell_facts
from suan.control.leader import Plane
from suan.control.logs import write_logs
from suan.control.traces import traces_to
from suan.doors.rest.app import create_app
from suan.doors.rest.forward import Forward
from suan.grid.error import Refused

_GRACE_S = 3  # for requests that are being answered when the signal comes
_KEEP_ALIVE_S = 75
# Objects. At Python's 700 a tenth of the processor time went into looking at a thousand sites that wait.
_MADE_BETWEEN_COLLECTIONS = 50_000
_SETTLE_S = 10  # for one of several planes to lead or to see another lead, before it says that it is there


class _Server(uvicorn.Server):
    """uvicorn that says when it answers, and lets go of those who wait for news before it waits for them."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_ready, self._on_end = on_ready, on_end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_end()
        await super().shutdown(sockets)


def serve(config: GridConfig, on_ready: Callable[[str], None] = lambda url: None) -> None:
    """Runs the grid until SIGINT or SIGTERM. `on_ready` is called with its URL once it answers.

    Raises: Refused `port_in_use`, `journal_in_use` …
    """
    write_logs(config.log)
    listener = _listen(config.host, config.port)
    note = config.folder / "grid.json"
    try:
        opened = open_grid(config)
        traces = None
        try:
            traces = traces_to(config.trace_url, opened.grid) if config.trace_url else None
            if config.log == "json":
                opened.grid.listen(tell_facts(opened.grid))
            app = create_app(opened.grid, logs=opened.logs, store=opened.store, history=opened.history)
            url = config.public_url.rstrip("/") or _url(config, listener)
            served: ASGIApp = app
            if isinstance(opened.grid, Plane):
                opened.grid.url = config.plane_url.rstrip("/") or _url(config, listener)
                served = Forward(app, opened.grid)

            def ready() -> None:
                _note(note, url)
                on_ready(url)

            server = _Server(_settings(config, served), ready, app.state.parts.news.close)
            opened.start()
            if isinstance(opened.grid, Plane):
                opened.grid.settled(_SETTLE_S)
            gc.freeze()  # the journal's state lives as long as this process
            gc.set_threshold(_MADE_BETWEEN_COLLECTIONS, 10, 10)
            with _signals_noted():
                server.run(sockets=[listener])
        finally:
            note.unlink(missing_ok=True)
            opened.close()
            if traces is not None:
                traces.close()
    finally:
        listener.close()


@contextlib.contextmanager
def _signals_noted() -> Iterator[None]:
    """uvicorn raises the signal that ended it again, for whoever was there before: not to end us here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _settings(config: GridConfig, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,  # paths and keys of tenants are nobody's business
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ssl_certfile=config.tls_certificate,
        ssl_keyfile=config.tls_key,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol by name: only where asyncio sees TCP it switches Nagle off, and 40 ms of delay with it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise Refused(
            "port_in_use",
            f"{host}:{port} cannot be listened on: {error.strerror or error}",
            hint="name another port, or 0 for a free one",
        ) from error
    return listener


def _url(config: GridConfig, listener: socket.socket) -> str:
    scheme = "https" if config.tls_certificate else "http"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"


def _note(path: Path, url: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n", "utf-8")
    fresh.replace(path)
