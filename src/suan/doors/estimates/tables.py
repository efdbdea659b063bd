"""Tables of runs in and out: CSV, gzipped or not, as columns of text.

Knows which columns there are, which hold numbers and what a row cannot do without; says which line is wrong.
Does not know what anything costs. What was measured is never handed on.
"""

import csv
import difflib
import gzip
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from suan.estimate.shapes import UNKNOWN_PARAMS
from suan.grid.error import Refused

Columns = dict[str, list[str]]

NAMES = ("row_id", "model", "kind", "accel", "precision", "attn_impl", "recompute")
SHAPE = (
    "params_b", "active_params_b", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "gated_mlp",
    "tied_emb", "vocab", "n_experts", "topk", "moe_ffn", "shared_ffn",
)  # fmt: skip
MACHINE = ("n_accel", "accel_per_node", "scaleout_gbps_per_node")
PLAN = ("dp", "tp", "pp", "vpp", "ep", "cp", "zero_stage", "seq_parallel", "micro_batch")
TRAINING_NUMBERS = (*SHAPE, *MACHINE, *PLAN, "seq_len", "global_batch", "adapters")
TRAINING = (*NAMES, *TRAINING_NUMBERS, "stage")
SERVING_NUMBERS = (
    "params_b", "active_params_b", "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "n_experts",
    "topk", "n_accel", "tp", "pp", "isl", "osl", "batch_or_concurrency", "req_rate", "requests", "kv_bytes",
    "slo_itl_ms",
)  # fmt: skip
SERVING = (
    "row_id", "model", "kind", "accel", "precision", "engine", "scenario", "ep_or_dp_attn",
    *SERVING_NUMBERS,
)  # fmt: skip
# What tables say beside: measured, or about where the row is from. Known, so that nobody is warned; never
# read.
SET_ASIDE = (
    "trust", "source", "source_detail", "derived", "notes", "holdout", "tokens_per_s_per_accel",
    "tflops_per_accel", "mfu", "hfu", "step_time_s", "memory_gib", "oom", "req_per_s", "out_tokens_per_s",
    "total_tokens_per_s", "out_tokens_per_s_per_accel", "ttft_ms_mean", "ttft_ms_p99", "tpot_ms_mean",
    "tpot_ms_p99", "latency_s_mean", "power_w",
)  # fmt: skip
UNBOUNDED = ("req_rate",)  # may be inf
NEEDED = ("accel", "n_accel")


def read_table(path: Path, known: Sequence[str]) -> tuple[Columns, list[str]]:
    """(columns of text that are `known`, notes about what was not understood).

    Raises: Refused `no_such_file`, `bad_table`, `missing_column`.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Refused(
            "no_such_file", f"{path} cannot be read: {error.strerror}", hint="check --csv"
        ) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise Refused(
            "bad_table", f"{path} is no CSV file in UTF-8: {error}", hint="CSV or CSV.GZ"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise Refused("bad_table", f"{path}, line {reader.line_num}: {error}") from error
    return columns_of(rows, known, header=reader.fieldnames or (), where=str(path))


def columns_of(
    rows: Sequence[Mapping[str | None, object]], known: Sequence[str], *, header: Sequence[str], where: str
) -> tuple[Columns, list[str]]:
    """The rows as columns of those names that are `known`; the notes name the others.

    Raises: Refused `missing_column`, `bad_table`.
    """
    missing = [name for name in NEEDED if name not in header]
    if missing or not rows:
        said = f"has no column {' and no column '.join(missing)}" if missing else "has no rows"
        hint = "the columns are in docs/reference/estimate.md"
        raise Refused("missing_column" if missing else "bad_table", f"{where} {said}", hint=hint, status=422)
    for number, row in enumerate(rows, 1):
        if None in row or any(value is None for value in row.values()):
            raise Refused("bad_table", f"{where}, row {number}: not as many cells as the header", row=number)
    notes = [_note(name, known) for name in header if name and name not in (*known, *SET_ASIDE)]
    columns = {name: [str(row.get(name, "")).strip() for row in rows] for name in header if name in known}
    return columns, notes + _silent(columns, len(rows))


def _silent(columns: Columns, size: int) -> list[str]:
    """A note where rows say nothing of how large their model is."""
    told = [columns.get(name, [""] * size) for name in ("params_b", "layers", "hidden")]
    rows = [number for number, cells in enumerate(zip(*told, strict=True), 1) if not any(cells)]
    if not rows:
        return []
    which = (
        f"row {rows[0]} says" if len(rows) == 1 else f"{len(rows):,} rows, the first is row {rows[0]}, say"
    )
    return [f"{which} nothing of the model's size: taken as {UNKNOWN_PARAMS / 1e9:g} billion parameters"]


def _note(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"column {name!r} is not read" + (f"; did you mean {near[0]!r}?" if near else "")


def check_numbers(columns: Columns, numeric: Sequence[str], *, where: str) -> None:
    """Raises: Refused `bad_number` with row and column, for a cell that holds something else or less than
    0.
    """
    for name in numeric:
        for number, cell in enumerate(columns.get(name, ()), 1):
            if cell and not _is_number(cell, unbounded=name in UNBOUNDED):
                raise Refused(
                    "bad_number",
                    f"{where}, row {number}: {name} is {cell[:40]!r}, which is no number of 0 or more",
                    hint=f"correct the cell, or leave it empty{_emptiness(name)}",
                    status=422,
                    row=number,
                    column=name,
                )
    for name in NEEDED[:1]:
        empty = next((number for number, cell in enumerate(columns[name], 1) if not cell), None)
        if empty:
            raise Refused(
                "missing_value", f"{where}, row {empty}: {name} is empty", row=empty, column=name, status=422
            )


def _is_number(cell: str, *, unbounded: bool) -> bool:
    try:
        value = float(cell)
    except ValueError:
        return False
    return value >= 0 and (unbounded or math.isfinite(value))


def _emptiness(name: str) -> str:
    return ": the best plan is then chosen" if name in PLAN else ""


def in_row(error: Refused, row: int, where: str) -> Refused:
    """The same refusal, saying which row it is about."""
    what = f"{where}, row {row}: {error.what}"
    return Refused(error.code, what, hint=error.hint, status=422, **{**error.fields, "row": row})


def check_words(columns: Columns, name: str, check: Callable[[str], object], *, where: str) -> None:
    """Raises: Refused with its row, as `check` (of one word of the column called `name`) says it."""
    words = columns.get(name, [])
    for word in dict.fromkeys(words):
        try:
            check(word)
        except Refused as error:
            raise in_row(error, words.index(word) + 1, where) from error


def write_table(path: Path, columns: Mapping[str, Sequence[object]]) -> None:
    """Writes the columns as CSV, gzipped when the name ends in .gz; all of it or nothing.

    Raises: Refused `cannot_write`.
    """
    lines = zip(*columns.values(), strict=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    data = text.getvalue().encode("utf-8")
    beside = path.with_name(path.name + ".tmp")
    try:
        beside.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
        beside.replace(path)
    except OSError as error:
        raise Refused(
            "cannot_write", f"{path} cannot be written: {error.strerror}", hint="check --out"
        ) from error


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
