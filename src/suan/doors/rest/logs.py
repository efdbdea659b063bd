"""A run's log as raw bytes, from any offset; the end can be waited for."""

import time
from functools import partial
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from starlette.responses import Response

from suan.control.commands import unknown
from suan.doors.rest.access import Here, Viewer
from suan.doors.rest.jobs import job_of
from suan.doors.rest.parts import Parts
from suan.grid.account import Key
from suan.grid.job import RunPhase
from suan.grid.state import State

router = APIRouter(prefix="/v1", tags=["jobs"])
_LOOK_S = 5.0  # at least so often while waiting


@router.get("/jobs/{job}/log", response_class=Response)
async def read_log(
    here: Here,
    key: Viewer,
    job: str,
    *,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=0, le=4 << 20)] = 1 << 20,
    run: str = "",
    wait_s: Annotated[float, Query(ge=0, le=60)] = 0,
) -> Response:
    """Bytes of the newest run's log, or of `run`'s. X-Suan-Ended: 1 once that run has ended.

    With `wait_s` the answer waits for the first byte after `offset`, or for the run's end.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        named, ended = here.grid.read(partial(_run, key=key, job=job, run=run))
        waiter = here.news.log_waiter(named)  # before it is looked at: what comes in between wakes, too
        try:
            # After the end was looked for: a site brings the last line before it reports the end.
            data, size = await run_sync(_part, here, named, offset, limit)
            left_s = deadline_s - time.monotonic()
            if data or ended or not limit or left_s <= 0 or here.news.closed:
                break
            await waiter.wait(min(left_s, _LOOK_S))
        finally:
            here.news.leave(waiter)
    headers = {"x-suan-run": named, "x-suan-size": str(size), "x-suan-ended": "1" if ended else "0"}
    # Logs are whatever a program wrote: never to be shown as a page.
    headers["x-content-type-options"] = "nosniff"
    return Response(data, headers=headers, media_type="application/octet-stream")


def _run(state: State, key: Key, job: str, run: str) -> tuple[str, bool]:
    """(the run, whether it has ended); no run yet counts as ended only when the job has."""
    found = job_of(state, key, job)
    if run and run not in found.runs:
        raise unknown("run", run, f"suan job {job}")
    named = run or (found.runs[-1] if found.runs else "")
    if not named:
        return "", found.ended_at_s is not None
    return named, state.runs[named].phase == RunPhase.ENDED


def _part(here: Parts, run: str, offset: int, limit: int) -> tuple[bytes, int]:
    if not run:
        return b"", 0
    return here.logs.read(run, offset, limit), here.logs.size(run)
