"""The grid's web application: REST, events and the OpenAI-compatible socket over one grid."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI

from suan import __version__
from suan.control.loop import Grid
from suan.doors import problem
from suan.doors.rest import artifacts, durations, estimates, events, jobs, members, metrics, money, sites
from suan.doors.rest import logs as job_logs
from suan.doors.rest.answer import document
from suan.doors.rest.limits import BodyLimit
from suan.doors.rest.metric_counts import GatewayTimes, Metrics
from suan.doors.rest.news import News
from suan.doors.rest.parts import GridStore, Logs, Parts
from suan.doors.rest.relay import router as relay_router
from suan.doors.socket.app import socket_routes
from suan.doors.socket.meter import Meter
from suan.grid.fact import Fact

_THREADS = 128  # commands wait in them for the journal's sync, which they share


def create_app(
    grid: Grid,
    *,
    logs: Logs,
    store: GridStore,
    history: Iterable[tuple[int, Fact]] = (),
) -> FastAPI:
    """The ASGI application over `grid`, which somebody else starts, after this, and stops.

    `store` is the grid's own. `history` are the newest facts so far, for event streams that resume.
    """
    meter = Meter(grid)
    counted = Metrics(grid)
    parts = Parts(grid, logs, store, News(grid, history), meter, counted)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        try:
            yield
        finally:
            parts.news.close()
            await meter.close()
            await parts.upstream.aclose()

    app = FastAPI(
        title="Suan",
        version=__version__,
        summary="A computing-power grid for large models: many compute centres, one socket.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.parts = parts
    problem.install(app)
    # Sites first, who speak all the time: a request is held against each module before its own.
    for module in (sites, jobs, job_logs, durations, artifacts, money, estimates, members, events, metrics):
        app.include_router(module.router)
    app.include_router(relay_router)
    app.router.routes.extend(socket_routes())
    app.add_middleware(GatewayTimes, metrics=counted)
    app.add_middleware(BodyLimit)
    document(app)
    return app
