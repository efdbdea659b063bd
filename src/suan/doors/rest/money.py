"""Prices, bills and the ledger."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from suan.control.commands import unknown
from suan.doors.rest.access import Here, Operator, Viewer, tenant_for
from suan.doors.rest.answer import Json, answers, cursor_number
from suan.doors.rest.jobs import job_of
from suan.grid.market import Clearing
from suan.grid.site import Pool, Site, Tariff, hour_rate
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.policy import Policy
from suan.rules.quote import power_w
from suan.rules.scarcity import span_price
from suan.rules.settle import Bill, bill

router = APIRouter(prefix="/v1", tags=["money"])


@router.get("/prices")
def prices(
    here: Here, _: Viewer, hours: Annotated[int, Query(ge=1, le=24 * 14)] = 24, site: str | None = None
) -> Response:
    """By site and hour electricity, PUE included; by pool what one device costs, all in, and what it is worth
    beyond that by the newest clearing.
    """
    first = here.grid.now_s() // HOUR_S
    span = range(first, first + hours)
    policy = here.grid.policy

    def view(state: State) -> dict[str, Any]:
        if site is not None and site not in state.sites:
            raise unknown("site", site, "suan sites")
        named = [known for name, known in state.sites.items() if site in (None, name)]
        sites = [_site_prices(state, policy, known, span) for known in named if known.pools]
        clearing = _clearing(state.clearing)
        return {"from_s": first * HOUR_S, "hours": hours, "sites": sites, "clearing": clearing}

    return Json(here.grid.read(view))


def _clearing(newest: Clearing | None) -> dict[str, Any] | None:
    """What is said of the newest clearing besides its prices."""
    if newest is None:
        return None
    known = {name: getattr(newest, name) for name in newest.__struct_fields__ if name != "prices"}
    return known | {"gap_ratio": newest.gap_ratio}


def _site_prices(state: State, policy: Policy, site: Site, span: range) -> dict[str, Any]:
    # The hour that has begun counts by what is in force by now: a tariff reaches back to no earlier moment.
    hours = [(hour * HOUR_S, state.tariff(site.name, max(hour * HOUR_S, state.at_s))) for hour in span]
    tariff = hours[0][1]
    return {
        "site": site.name,
        "region": site.region,
        "pue": tariff.pue if tariff else 1.0,
        "source": tariff.source if tariff else "no tariff: electricity counts as free",
        "hours": [_hour(at_s, known) for at_s, known in hours],
        "pools": [
            {
                "pool": pool.name,
                "accelerator": pool.accelerator,
                "devices": pool.devices,
                "used_devices": state.used_devices.get((site.name, pool.name), 0),
                "microyuan_per_device_h": [_device_hour(pool, known, policy, at_s) for at_s, known in hours],
                "clearing_microyuan_per_device_h": [
                    round(span_price(state.clearing, f"{site.name}/{pool.name}", at_s, at_s + HOUR_S))
                    for at_s, _ in hours
                ],
            }
            for pool in site.pools.values()
        ],
    }


def _hour(at_s: int, tariff: Tariff | None) -> dict[str, Any]:
    """Of one kWh that devices use: what it costs and emits at the socket, which gives PUE times as much."""
    per_kwh, gco2 = hour_rate(tariff, at_s // HOUR_S) if tariff else (0, 0.0)
    pue = tariff.pue if tariff else 1.0
    return {"at_s": at_s, "microyuan_per_kwh": round(per_kwh * pue), "gco2_per_kwh": round(gco2 * pue, 3)}


def _device_hour(pool: Pool, tariff: Tariff | None, policy: Policy, at_s: int) -> int:
    """Machine, electricity and carbon of one busy device for an hour."""
    per_kwh, gco2 = hour_rate(tariff, at_s // HOUR_S) if tariff else (0, 0.0)
    kwh = power_w(pool, 1) / 1000 * (tariff.pue if tariff else 1.0)
    carbon = kwh * gco2 / 1000 * policy.carbon_microyuan_per_kg
    return round(pool.machine_microyuan_per_device_h + kwh * per_kwh + carbon)


@router.get("/bill", responses=answers(Bill))
def get_bill(
    here: Here,
    key: Viewer,
    tenant: str | None = None,
    job: Annotated[list[str], Query(max_length=200)] = [],  # noqa: B006 (FastAPI copies it)
    since_s: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """What a tenant owes, line by line, for all its jobs or those named. The lines add up to the total."""

    def view(state: State) -> Bill:
        owner = tenant_for(key, tenant)
        jobs = tuple(job_of(state, key, name).id for name in job)
        if jobs and tenant is None:
            owner = state.jobs[jobs[0]].tenant
        return bill(state, owner, since_s=since_s, jobs=jobs)

    return Json(here.grid.read(view))


@router.get("/ledger")
def ledger(
    here: Here, _: Operator, cursor: str | None = None, limit: Annotated[int, Query(ge=1, le=5000)] = 200
) -> Response:
    """Every entry, newest first, with all balances. They sum to zero."""
    before = cursor_number(cursor)

    def view(state: State) -> dict[str, Any]:
        end = len(state.entries) if before is None else min(before, len(state.entries))
        start = max(0, end - limit)
        return {
            "items": state.entries[start:end][::-1],
            "next_cursor": str(start) if start else None,
            "balances": dict(state.balances),
            "sum_microyuan": sum(state.balances.values()),
        }

    return Json(here.grid.read(view))
