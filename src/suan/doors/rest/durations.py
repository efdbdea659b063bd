"""How well lengths were foretold."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from suan.doors.rest.access import SEES_ALL, Here, Viewer, tenant_for
from suan.doors.rest.answer import Json, answers
from suan.doors.schema import Durations
from suan.rules.accuracy import accuracy, ended_runs, foretold

router = APIRouter(prefix="/v1", tags=["jobs"])
_MOST_RUNS = 20_000  # foretold again for one answer


@router.get("/durations", responses=answers(Durations))
def durations(
    here: Here,
    key: Viewer,
    by: Literal["all", "tenant", "recipe", "size", "estimate"] = "tenant",
    tenant: str | None = None,
    newest: Annotated[int, Query(ge=1, le=_MOST_RUNS)] = 2_000,
) -> Response:
    """How far the newest runs that ended by themselves were from what was to be expected of them."""
    whose = "" if key.role in SEES_ALL and tenant is None else tenant_for(key, tenant)
    ended = here.grid.read(ended_runs)
    rows = foretold(ended, here.grid.policy, newest=newest, tenant=whose)
    return Json(Durations(by=by, items=accuracy(rows, by)))
