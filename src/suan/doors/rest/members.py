"""Tenants and keys, and who the caller is."""

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from suan import __version__
from suan.control.commands import Issued, issue_key, revoke_key, set_tenant, unknown
from suan.doors.rest.access import AnyKey, Here, Operator, Viewer, sees
from suan.doors.rest.answer import Json, Raw, answers, takes
from suan.doors.schema import KeyBody, KeyView, TenantBody, key_view
from suan.grid.account import Key, Role, Tenant
from suan.grid.error import Refused
from suan.grid.state import State

router = APIRouter(prefix="/v1")
_tenant = msgspec.json.Decoder(TenantBody)
_ADMINS_ONLY = frozenset({Role.OPERATOR, Role.ADMIN})


@router.get("/version", tags=["about"])
async def version() -> Response:
    """Of this grid. Needs no key."""
    return Json({"name": "suan", "version": __version__, "api": "v1"})


@router.get("/health", tags=["about"])
async def health(here: Here) -> Response:
    """Whether the grid answers and carries out its plans. Needs no key."""
    grid = here.grid
    status = "stopped" if grid.trouble else "holding" if grid.complaint else "ok"
    about = {
        "sequence": grid.state.sequence,
        "now_s": grid.now_s(),
        "trouble": grid.trouble or grid.complaint,
    }
    return Json({"status": status, **about})


@router.get("/whoami", tags=["about"], responses=answers(KeyView))
async def whoami(key: AnyKey) -> Response:
    """The key that was shown."""
    return Json(key_view(key))


@router.get("/tenants", tags=["tenants"])
def list_tenants(here: Here, key: Viewer) -> Response:
    """Tenants that the key may see."""

    def view(state: State) -> dict[str, Any]:
        return {"items": [_view(state, tenant) for name, tenant in state.tenants.items() if sees(key, name)]}

    return Json(here.grid.read(view))


@router.get("/tenants/{name}", tags=["tenants"])
def get_tenant(here: Here, key: Viewer, name: str) -> Response:
    """A tenant with its balance and the devices it holds."""

    def view(state: State) -> dict[str, Any]:
        if name not in state.tenants or not sees(key, name):
            raise unknown("tenant", name, "suan tenant")
        return _view(state, state.tenants[name])

    return Json(here.grid.read(view))


@router.put("/tenants/{name}", tags=["tenants"], openapi_extra=takes(TenantBody))
def put_tenant(here: Here, _: Operator, name: str, body: Raw) -> Response:
    """Makes a tenant or changes it; what is left out keeps its value."""
    wanted = _tenant.decode(body or b"{}")
    before = here.grid.read(lambda state: state.tenants.get(name)) or Tenant(name=name)
    given = _given(wanted)
    if wanted.quota is not None:
        given["quota"] = msgspec.structs.replace(before.quota, **_given(wanted.quota))
    here.grid.do(set_tenant(msgspec.structs.replace(before, **given)))
    return Json(here.grid.read(lambda state: _view(state, state.tenants[name])))


@router.post("/keys", status_code=201, tags=["keys"], responses=answers(Issued, 201))
def make_key(here: Here, key: Operator, body: KeyBody) -> Response:
    """A new key; its secret is shown this once. Keys of operators and admins are made by admins."""
    if body.role in _ADMINS_ONLY and key.role != Role.ADMIN:
        raise Refused("forbidden", f"only an admin makes keys with the role {body.role}", status=403)
    tenant = body.tenant or key.tenant or "default"
    return Json(here.grid.do(issue_key(body.role, tenant, body.label, body.expires_s)), 201)


@router.get("/keys", tags=["keys"])
def list_keys(here: Here, key: Operator) -> Response:
    """Every key but its secret; admins' keys are shown to admins only."""

    def view(state: State) -> dict[str, Any]:
        return {"items": [key_view(known) for known in state.keys.values() if _may_touch(key, known)]}

    return Json(here.grid.read(view))


@router.delete("/keys/{key_id}", status_code=204, tags=["keys"])
def delete_key(here: Here, key: Operator, key_id: str) -> Response:
    """The key is worth nothing from now on."""
    found = here.grid.read(lambda state: state.keys.get(key_id))
    if found is None or not _may_touch(key, found):
        raise unknown("key", key_id, "suan keys")
    here.grid.do(revoke_key(key_id))
    return Response(status_code=204)


def _may_touch(key: Key, other: Key) -> bool:
    return key.role == Role.ADMIN or other.role != Role.ADMIN


def _given(body: msgspec.Struct) -> dict[str, Any]:
    """What a body names."""
    return {key: value for key, value in msgspec.structs.asdict(body).items() if value is not None}


def _view(state: State, tenant: Tenant) -> dict[str, Any]:
    held = {
        kind: count for (name, kind), count in state.tenant_devices.items() if name == tenant.name and count
    }
    balance = state.balances.get(f"tenant:{tenant.name}", 0)
    return {**msgspec.structs.asdict(tenant), "balance_microyuan": balance, "held_devices": held}
