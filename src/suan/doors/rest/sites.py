"""Sites: joining, reporting, logs as they come in, links and tariffs."""

import asyncio
import time
from functools import partial
from typing import Annotated, Any

import msgspec
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from starlette.responses import Response

from suan.control.commands import (
    Joined,
    drain_site,
    issue_join_token,
    join_site,
    set_link,
    set_tariff,
    unknown,
)
from suan.doors.rest.access import FromSite, Here, Operator, Viewer, sees
from suan.doors.rest.answer import Json, Raw, answers, takes, takes_bytes
from suan.doors.rest.news import Live
from suan.doors.rest.parts import Parts
from suan.doors.schema import DrainBody, JoinBody, JoinTokenBody, LinkBody
from suan.grid.account import Key
from suan.grid.action import Observation, Orders
from suan.grid.error import Refused
from suan.grid.site import GRID_SITE, Link, Site, Tariff
from suan.grid.state import State

router = APIRouter(prefix="/v1", tags=["sites"])
_observation = msgspec.json.Decoder(Observation)
_tariff = msgspec.json.Decoder(Tariff)


@router.post("/join-tokens", status_code=201)
def make_join_token(here: Here, key: Operator, body: JoinTokenBody) -> Response:
    """A token with which the site joins, once."""
    token = here.grid.do(issue_join_token(body.site, body.expires_s, label=f"join token by {key.id}"))
    return Json({"token": token, "site": body.site, "expires_s": body.expires_s}, 201)


@router.post("/sites/join", responses=answers(Joined))
def join(here: Here, body: JoinBody) -> Response:
    """Spends a join token for the site's own key, which is shown this once. Needs no other key."""
    command = join_site(body.token, body.site, region=body.region, engine=body.engine, labels=body.labels)
    return Json(here.grid.do(command))


@router.post("/sites/{site}/report", responses=answers(Orders), openapi_extra=takes(Observation))
async def report(
    said: FromSite, site: str, *, wait_s: Annotated[float, Query(ge=0, le=60)] = 0, known: int = 0
) -> Response:
    """What the site sees; what it should be doing. With `wait_s`, once that differs from version `known`."""
    here, seen = said.here, _observation.decode(said.body)
    if seen.site != site:
        raise Refused(
            "bad_value", f"the report is about {seen.site[:80]!r}", hint=f"report {site}", path="site"
        )
    waiter = here.news.site_waiter(site)
    try:
        # No thread waits for the grid: to wake one costs more than the report.
        await asyncio.wrap_future(here.grid.begin(here.grid.heard(seen)))
        _tell_progress(here, seen)
        orders = await _orders(here, site, whole=seen.full)
        # No longer than a third of the lease: what a site says is what keeps it alive.
        deadline_s = time.monotonic() + min(wait_s, here.grid.policy.lease_s / 3)
        while orders.version == known and (left_s := deadline_s - time.monotonic()) > 0:
            if not await waiter.wait(left_s) or here.news.closed:
                break
            orders = await _orders(here, site, whole=seen.full)
    finally:
        here.news.leave_site(site, waiter)
    return Json(orders)


async def _orders(here: Parts, site: str, *, whole: bool = False) -> Orders:
    orders = here.grid.orders_at_once(site, whole=whole)
    if orders is None:
        orders = await run_sync(partial(here.grid.orders, site, whole=whole))
    return orders


def _tell_progress(here: Parts, seen: Observation) -> None:
    """Passes on what is news only: the state of a run or a transfer on its way."""
    for run_seen in seen.runs:
        run = here.grid.state.runs.get(run_seen.run)
        if run is not None and run.site == seen.site and run_seen.progress:
            told = {"job": run.job, "run": run.id, "site": run.site, "progress": run_seen.progress}
            here.news.tell(Live(run.tenant, told))
    for moved in seen.transfers:
        transfer = here.grid.state.transfers.get(moved.transfer)
        if transfer is None or transfer.destination != seen.site or moved.done or moved.failed:
            continue
        artifact = here.grid.state.artifacts[transfer.artifact]
        data: dict[str, Any] = {
            "transfer": transfer.id,
            "artifact": transfer.artifact,
            "site": seen.site,
            "job": transfer.job,
            "arrived_bytes": moved.arrived_bytes,
            "bytes": transfer.bytes,
        }
        here.news.tell(Live(artifact.tenant, data))


@router.put("/sites/{site}/runs/{run}/log", openapi_extra=takes_bytes())
def append_log(said: FromSite, site: str, run: str, *, offset: Annotated[int, Query(ge=0)]) -> Response:
    """Adds to a run's log. The size tells where to go on: a gap adds nothing."""
    here = said.here
    known = here.grid.state.runs.get(run)
    if known is None or known.site != site:
        raise unknown("run", run, f"suan sites {site}")
    size = here.logs.append(run, offset, said.body)
    here.news.log_grew(run)
    return Json({"size": size})


@router.get("/sites")
def list_sites(here: Here, key: Viewer) -> Response:
    """Every compute centre, its pools and what they have free. The grid's own store is `/v1/sites/grid`."""

    def view(state: State) -> dict[str, Any]:
        return {
            "items": [
                _view(here, key, state, site) for name, site in state.sites.items() if name != GRID_SITE
            ]
        }

    return Json(here.grid.read(view))


@router.get("/sites/{site}")
def get_site(here: Here, key: Viewer, site: str) -> Response:
    """One site."""

    def view(state: State) -> dict[str, Any]:
        if site not in state.sites:
            raise unknown("site", site, "suan sites")
        return _view(here, key, state, state.sites[site])

    return Json(here.grid.read(view))


@router.post("/sites/{site}/drain")
def drain(here: Here, key: Operator, site: str, body: DrainBody) -> Response:
    """A draining site takes no new runs; those it has go on."""
    here.grid.do(drain_site(site, body.draining))
    return Json(here.grid.read(lambda state: _view(here, key, state, state.sites[site])))


@router.get("/links")
def list_links(here: Here, _: Viewer) -> Response:
    """Every link that was declared or measured."""
    return Json({"items": here.grid.read(lambda state: list(state.links.values()))})


@router.put("/links", responses=answers(Link))
def put_link(here: Here, _: Operator, body: LinkBody) -> Response:
    """Declares one direction between two sites."""
    here.grid.do(set_link(Link(**body.model_dump())))
    return Json(here.grid.read(lambda state: state.links[body.source, body.destination]))


@router.put("/sites/{site}/tariff", responses=answers(Tariff), openapi_extra=takes(Tariff))
def put_tariff(here: Here, _: Operator, site: str, body: Raw) -> Response:
    """Sets what electricity costs at the site, by the hour."""
    tariff = _tariff.decode(body)
    if tariff.site not in ("", site):
        raise Refused(
            "bad_value", f"the tariff is for {tariff.site[:80]!r}", hint=f"name {site}", path="site"
        )
    tariff = msgspec.structs.replace(tariff, site=site)
    here.grid.do(set_tariff(tariff))
    return Json(tariff)


def _view(here: Parts, key: Key, state: State, site: Site) -> dict[str, Any]:
    now_s = here.grid.now_s()
    view = msgspec.structs.asdict(site)
    view["heard_at_s"] = max(site.heard_at_s, here.grid.live.heard_at_s.get(site.name, 0))
    view["pools"] = [
        {
            **msgspec.structs.asdict(pool),
            "devices": pool.devices,
            "used_devices": state.used_devices.get((site.name, pool.name), 0),
        }
        for pool in site.pools.values()
    ]
    open_runs = state.open_runs.get(site.name, ())
    view["open_runs"] = [run for run in open_runs if sees(key, state.runs[run].tenant)]
    view["artifacts"] = sum(site.name in replicas for replicas in state.replicas.values())
    view["tariff"] = state.tariff(site.name, now_s)
    return view
