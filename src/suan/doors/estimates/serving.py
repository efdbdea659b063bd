"""Serving at the doors: tables of it, and one model on some devices under a stream of requests.

Knows how a question is put to the model and how its answer is laid out. Computes nothing itself.
"""

import math
import time
from typing import Any

import msgspec
import numpy as np

from suan.doors.estimates import tables
from suan.doors.estimates.answers import ServingAnswer
from suan.doors.estimates.model import Model
from suan.estimate.columns import served_columns
from suan.estimate.serving import BOUND_BY, estimate_serving, replicas_needed
from suan.estimate.serving_cases import ServingCases, served_on, serving_cases
from suan.estimate.serving_residual import ServingResidual, serving_residual
from suan.grid.error import Refused


def estimated_rows(columns: tables.Columns, *, residual: bool = True, where: str) -> dict[str, list[Any]]:
    """The output columns, a row for each row of `columns`; an empty `tp` means the best.

    Raises: Refused `bad_number`, `missing_value`, `unknown_accelerator`, each with its row.
    """
    tables.check_numbers(columns, tables.SERVING_NUMBERS, where=where)
    tables.check_words(columns, "accel", served_on, where=where)
    size = len(columns["accel"])
    started_s = time.process_time()
    found = estimate_serving(serving_cases(columns), residual=serving_residual() if residual else None)
    spent_s = (time.process_time() - started_s) / size
    return {
        "row_id": columns.get("row_id") or [str(number) for number in range(1, size + 1)],
        "throughput": found.tokens_per_s.tolist(),
        "throughput_low": found.tokens_per_s_low.tolist(),
        "throughput_high": found.tokens_per_s_high.tolist(),
        "ttft_ms": found.ttft_ms.tolist(),
        "ttft_ms_low": found.ttft_ms_low.tolist(),
        "ttft_ms_high": found.ttft_ms_high.tolist(),
        "itl_ms": found.itl_ms.tolist(),
        "itl_ms_low": found.itl_ms_low.tolist(),
        "itl_ms_high": found.itl_ms_high.tolist(),
        "fits": [int(fits) for fits in found.fits],
        "bound_by": [BOUND_BY[int(code)] for code in found.bound_by],
        "seconds_spent": [spent_s] * size,
    }


class Stream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What arrives, and how soon it must be answered. A rate of 0 is as many as can be taken."""

    prompt_tokens: int = 1024
    output_tokens: int = 256
    requests_per_s: float = 0.0
    ttft_slo_ms: float = 0.0
    itl_slo_ms: float = 0.0


def columns_of(
    model: Model, accelerator: str, devices: int, *, precision: str, tp: int, stream: Stream
) -> tables.Columns:
    """The question as a table of one row."""
    row: dict[str, Any] = served_columns(model.shapes, accelerator, devices) | {
        "tp": tp or "",
        "precision": precision,
        "scenario": "server" if stream.requests_per_s else "offline",
        "isl": stream.prompt_tokens,
        "osl": stream.output_tokens,
        "req_rate": stream.requests_per_s or "inf",
    }
    return {name: [str(value)] for name, value in row.items()}


def serving_answer(
    model: Model,
    accelerator: str,
    devices: int,
    *,
    stream: Stream,
    precision: str = "bf16",
    tp: int = 0,
    residual: bool = True,
) -> ServingAnswer:
    """What the model serves on so many devices, and with limits on latency the replicas that the stream
    needs.

    Raises: Refused `unknown_accelerator`, `bad_value`.
    """
    if not 0 < devices <= 10_000_000:
        raise Refused(
            "bad_value", f"devices is {devices}; it must be 1 to 10,000,000", status=422, path="devices"
        )
    started_s = time.process_time()
    chip, _ = served_on(accelerator)
    table = columns_of(model, accelerator, devices, precision=precision, tp=tp, stream=stream)
    cases = serving_cases(table)
    fitted = serving_residual() if residual else None
    found = estimate_serving(cases, residual=fitted)
    needed = _needed(cases, stream, fitted)
    notes = [] if bool(found.fits[0]) else ["the weights do not fit on these devices"]
    if needed == 0:
        notes.append("no number of replicas keeps these limits: one request alone takes longer")
    a_replica = devices // max(int(found.replicas[0]), 1)
    return ServingAnswer(
        model=model.name,
        accelerator=chip.name,
        devices=devices,
        tensor_parallel=int(found.tensor_parallel[0]),
        replicas=int(found.replicas[0]),
        fits=bool(found.fits[0]),
        output_tokens_per_s=float(found.tokens_per_s[0]),
        output_tokens_per_s_low=float(found.tokens_per_s_low[0]),
        output_tokens_per_s_high=float(found.tokens_per_s_high[0]),
        requests_per_s=float(found.requests_per_s[0]),
        ttft_ms=_there(found.ttft_ms[0]),
        ttft_p99_ms=_there(found.ttft_p99_ms[0]),
        itl_ms=_there(found.itl_ms[0]),
        itl_p99_ms=_there(found.itl_p99_ms[0]),
        kv_capacity_tokens=int(found.kv_capacity_tokens[0]),
        utilisation=float(found.utilisation[0]),
        bound_by=BOUND_BY[int(found.bound_by[0])],
        replicas_needed=needed,
        devices_needed=needed * a_replica if needed else None,
        seconds_spent=time.process_time() - started_s,
        notes=notes,
    )


def _needed(cases: ServingCases, stream: Stream, fitted: ServingResidual | None) -> int | None:
    """Replicas that keep the stream's limits; 0 where none do, None where none was asked for."""
    if not (stream.requests_per_s and (stream.ttft_slo_ms or stream.itl_slo_ms)):
        return None
    counts = replicas_needed(
        cases,
        np.array([stream.requests_per_s]),
        ttft_slo_ms=stream.ttft_slo_ms or math.inf,
        itl_slo_ms=stream.itl_slo_ms or math.inf,
        residual=fitted,
    )
    return int(counts[0])


def _there(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
