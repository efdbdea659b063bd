"""What work would take, before anything runs: `/v1/estimates`. Reads nothing of the grid and stores nothing.

The model is a transformers config, sent whole: the grid opens no file and fetches nothing that a caller
names.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import anyio.to_thread
import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from suan.doors.rest.access import Viewer
from suan.doors.rest.answer import Json, Raw, answers, takes
from suan.grid.error import Refused

router = APIRouter(prefix="/v1/estimates", tags=["estimates"])

MAX_ROWS = 5_000
Asked = TypeVar("Asked", bound=msgspec.Struct)


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: dict[str, Any]
    accelerator: str
    devices: int
    name: str = "model"
    precision: str = "bf16"
    residual: bool = True


class PlanBody(_Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`model` is a config.json; `plan` are columns that stand; what is 0 is the usual."""

    global_batch: int = 0
    seq_len: int = 4096
    devices_per_node: int = 0
    scaleout_gbps_per_node: float = 0.0
    plan: dict[str, int | str] = {}
    count: int = 5


class TrainBody(PlanBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan's body, the tokens to train on, and prices in CNY where money is asked for."""

    tokens: float
    yuan_per_device_h: float | None = None
    yuan_per_kwh: float | None = None
    pue: float = 1.0


class TogetherBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step over several pools, each named by its accelerator, with its number of devices."""

    model: dict[str, Any]
    pools: list[tuple[str, int]]
    name: str = "model"
    precision: str = "bf16"
    global_batch: int = 0
    seq_len: int = 4096
    gbps_between: float = 100.0
    rtt_ms: float = 0.0


class ServeBody(_Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream of requests; a rate of 0 is as many as can be taken, a limit of 0 is none."""

    tp: int = 0
    prompt_tokens: int = 1024
    output_tokens: int = 256
    requests_per_s: float = 0.0
    ttft_slo_ms: float = 0.0
    itl_slo_ms: float = 0.0


class RowsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows with the columns that `suan estimate … --csv` reads."""

    what: Literal["train", "serve"]
    rows: list[dict[str, str | int | float | None]]
    residual: bool = True


def _response(name: str) -> dict[int | str, dict[str, Any]]:
    from suan.doors.estimates import answers as found

    return answers(getattr(found, name))


async def _thought(body: bytes, kind: type[Asked], think: Callable[[Asked], Any]) -> Response:
    """What thinking about the body, in a thread of its own, comes to."""
    asked = msgspec.json.decode(body, type=kind)
    return Json(await anyio.to_thread.run_sync(think, asked))


@router.post("/plan", responses=_response("PlansAnswer"), openapi_extra=takes(PlanBody))
async def plan(_: Viewer, body: Raw) -> Response:
    """The best parallel plans of a model on some devices, each with its reason."""
    return await _thought(body, PlanBody, _plans)


@router.post("/train", responses=_response("TrainingAnswer"), openapi_extra=takes(TrainBody))
async def train(_: Viewer, body: Raw) -> Response:
    """Hours, GiB, kWh and money of training a model on so many tokens."""
    return await _thought(body, TrainBody, _training)


@router.post("/together", responses=_response("PoolsAnswer"), openapi_extra=takes(TogetherBody))
async def together(_: Viewer, body: Raw) -> Response:
    """One training step over pools of different kinds or centres."""
    return await _thought(body, TogetherBody, _together)


@router.post("/serve", responses=_response("ServingAnswer"), openapi_extra=takes(ServeBody))
async def serve(_: Viewer, body: Raw) -> Response:
    """Throughput, latencies and replicas of serving a model."""
    return await _thought(body, ServeBody, _serving)


@router.post("/rows", responses=_response("RowsAnswer"), openapi_extra=takes(RowsBody))
async def rows(_: Viewer, body: Raw) -> Response:
    """An estimate for each row of a table."""
    return await _thought(body, RowsBody, _rows)


# ------------------------------------------------------------------ in a thread of its own


def _parts(asked: PlanBody) -> tuple[Any, Any, Any, Mapping[str, int]]:
    from suan.doors.estimates.model import Model, shape_in
    from suan.doors.estimates.training import Machine, Step, plan_of

    machine = Machine(
        accelerator=asked.accelerator,
        devices=asked.devices,
        devices_per_node=asked.devices_per_node,
        scaleout_gbps_per_node=asked.scaleout_gbps_per_node,
    )
    step = Step(global_batch=asked.global_batch, seq_len=asked.seq_len, precision=asked.precision)
    return Model(asked.name, shape_in(asked.model), "config"), machine, step, plan_of(asked.plan)


def _plans(asked: PlanBody) -> Any:
    from suan.doors.estimates.training import plans_answer

    if not 1 <= asked.count <= 100:
        raise Refused("bad_value", "count is 1 to 100", status=422, path="count")
    model, machine, step, fixed = _parts(asked)
    return plans_answer(model, machine, step, plan=fixed, count=asked.count, residual=asked.residual)


def _training(asked: TrainBody) -> Any:
    from suan.doors.estimates.training import Price, training_answer

    model, machine, step, fixed = _parts(asked)
    price = None
    if asked.yuan_per_device_h is not None or asked.yuan_per_kwh is not None:
        price = Price(
            yuan_per_device_h=asked.yuan_per_device_h or 0.0,
            yuan_per_kwh=asked.yuan_per_kwh or 0.0,
            pue=asked.pue,
        )
    return training_answer(
        model, machine, step, tokens=asked.tokens, plan=fixed, price=price, residual=asked.residual
    )


def _together(asked: TogetherBody) -> Any:
    from suan.doors.estimates.model import Model, shape_in
    from suan.doors.estimates.pools import pools_answer
    from suan.doors.estimates.training import Machine, Step

    model = Model(asked.name, shape_in(asked.model), "config")
    pools = [Machine(accelerator=kind, devices=devices) for kind, devices in asked.pools]
    step = Step(global_batch=asked.global_batch, seq_len=asked.seq_len, precision=asked.precision)
    return pools_answer(model, pools, step, gbps_between=asked.gbps_between, rtt_ms=asked.rtt_ms)


def _serving(asked: ServeBody) -> Any:
    from suan.doors.estimates.model import Model, shape_in
    from suan.doors.estimates.serving import Stream, serving_answer

    stream = Stream(
        prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens,
        requests_per_s=asked.requests_per_s,
        ttft_slo_ms=asked.ttft_slo_ms,
        itl_slo_ms=asked.itl_slo_ms,
    )
    return serving_answer(
        Model(asked.name, shape_in(asked.model), "config"),
        asked.accelerator,
        asked.devices,
        stream=stream,
        precision=asked.precision,
        tp=asked.tp,
        residual=asked.residual,
    )


def _rows(asked: RowsBody) -> Any:
    from suan.doors.estimates import serving, tables, training
    from suan.doors.estimates.answers import RowsAnswer

    if len(asked.rows) > MAX_ROWS:
        raise Refused("too_many", f"{len(asked.rows)} rows are too many", hint=f"send at most {MAX_ROWS}")
    header = list(dict.fromkeys(name for row in asked.rows for name in row))
    told = [{name: "" if row.get(name) is None else row[name] for name in header} for row in asked.rows]
    known = tables.TRAINING if asked.what == "train" else tables.SERVING
    estimated = training.estimated_rows if asked.what == "train" else serving.estimated_rows
    columns, notes = tables.columns_of(told, known, header=header, where="rows")
    found = estimated(columns, residual=asked.residual, where="rows")
    lines = zip(*found.values(), strict=True)
    cells = [dict(zip(found, (_finite(cell) for cell in line), strict=True)) for line in lines]
    return RowsAnswer(rows=cells, notes=notes)


def _finite(cell: Any) -> Any:
    return None if isinstance(cell, float) and cell != cell else cell
