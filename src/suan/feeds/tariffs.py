"""Tariffs out of tables: China's time-of-use bands by province, and hourly market prices by region.

Knows the columns of those two kinds of CSV file (plain or gzipped) and how a gap is filled. Knows no price of
its own and fetches nothing: `examples/worlds/tariffs/README.md` says where the figures are from.
"""

import csv
import datetime
import difflib
import gzip
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from suan.grid.error import Refused
from suan.grid.site import Bands, Series, Tariff
from suan.grid.units import HOUR_S, microyuan

BAND_RATIOS = {"critical_peak": 1.8, "peak": 1.5, "flat": 1.0, "valley": 0.5, "deep_valley": 0.3}
"""Usual ratio of each band's price to the flat price. Source: restated from provincial notices of 2026."""

CHINA_UTC_OFFSET_S = 8 * HOUR_S
CNY_PER_USD = 7.17
"""Source: February 2025, FRED series DEXCHUS. Fixed, so that a replay of old prices never changes."""

LONGEST_FILLED_GAP_H = 6
"""A gap of at most this many hours takes the last value before it; a longer one is refused, not invented."""

_HOURS = tuple(f"h{hour:02d}" for hour in range(24))
_KWH_PER_MWH = 1000


class ChinaGrid(msgspec.Struct, frozen=True, kw_only=True):
    """What one provincial grid costs and emits, and on what ground that is said."""

    grid: str
    flat_yuan_per_kwh: float
    gco2_per_kwh: float
    price_basis: str
    carbon_basis: str


class PriceTable(msgspec.Struct, frozen=True, kw_only=True):
    """An hourly price file, and which of its columns to read.

    The hour column holds the start of an hour in ISO 8601, UTC unless it says otherwise.
    """

    path: Path
    price_column: str = "price_usd_mwh"
    yuan_per_kwh_per_unit: float = CNY_PER_USD / _KWH_PER_MWH  # what 1 in the price column is worth
    carbon_column: str = "ci_direct_g_kwh"  # gCO2 a kWh; "" for a tariff without carbon
    region_column: str = "region"
    hour_column: str = "hour_utc"


def china_tou(
    csv_path: Path, grid: str, *, flat_yuan_per_kwh: float, pue: float, gco2_per_kwh: float
) -> Tariff:
    """The time-of-use tariff of a province's grid by month and hour, UTC+8; its site is left empty.

    `csv_path` has the columns grid, month and h00 … h23, a band's name in each hour, and twelve rows a grid.

    Raises: Refused `no_tariff_file`, `bad_tariff_file`, `unknown_grid` (with the nearest),
        `incomplete_tariff`, `bad_tariff`.
    """
    _check_tariff(pue=pue, gco2_per_kwh=gco2_per_kwh)
    if not (math.isfinite(flat_yuan_per_kwh) and flat_yuan_per_kwh >= 0):
        raise Refused("bad_tariff", f"{flat_yuan_per_kwh} yuan a kWh is no flat price", hint="give 0 or more")
    rows = list(_rows(csv_path, ("grid", "month", *_HOURS)))
    months: dict[str, tuple[str, ...]] = {}
    for row in _of_one(rows, "grid", grid, code="unknown_grid"):
        bands = tuple(row[hour] for hour in _HOURS)
        strange = sorted(set(bands) - BAND_RATIOS.keys())
        if strange:
            raise _bad(csv_path, f"the band {strange[0]!r} for {grid}", f"bands are {', '.join(BAND_RATIOS)}")
        months[row["month"]] = bands
    missing = [str(month) for month in range(1, 13) if str(month) not in months]
    if missing:
        what = f"{csv_path} has no row for {grid} in month {', '.join(missing)}"
        raise Refused("incomplete_tariff", what, hint="add the row, or choose another grid", missing=missing)
    prices = Bands(
        flat_microyuan_per_kwh=microyuan(flat_yuan_per_kwh),
        ratios=BAND_RATIOS,
        months=tuple(months[str(month)] for month in range(1, 13)),
        utc_offset_s=CHINA_UTC_OFFSET_S,
        gco2_per_kwh=gco2_per_kwh,
    )
    return Tariff(site="", prices=prices, pue=pue, source=f"{csv_path.name}: {grid}")


def china_grid(csv_path: Path, grid: str) -> ChinaGrid:
    """Flat price and carbon intensity of a province's grid, and the basis of each.

    `csv_path` has ChinaGrid's columns, like `examples/worlds/tariffs/china_grids.csv`.

    Raises: Refused `no_tariff_file`, `bad_tariff_file`, `unknown_grid` (with the nearest).
    """
    rows = list(_rows(csv_path, ChinaGrid.__struct_fields__))
    row = _of_one(rows, "grid", grid, code="unknown_grid")[0]
    try:
        return msgspec.convert(row, ChinaGrid, strict=False)
    except msgspec.ValidationError as error:
        raise _bad(csv_path, f"no number for {grid}: {error}", "write numbers") from error


def price_series(table: PriceTable, region: str, *, pue: float, start_at_s: int | None = None) -> Tariff:
    """The hourly prices of a region, in micro-yuan a kWh, negative ones included; its site is left empty.

    `start_at_s` lays the first row at that moment of the grid's clock; None leaves rows at their own dates.
    Hours without a price or carbon figure take the last one before them, up to LONGEST_FILLED_GAP_H in a row.

    Raises: Refused `no_tariff_file`, `bad_tariff_file`, `unknown_region` (with the nearest),
        `series_has_gaps`, `bad_tariff`.
    """
    _check_tariff(pue=pue, gco2_per_kwh=0.0)
    columns = [table.region_column, table.hour_column, table.price_column]
    if table.carbon_column:
        columns.append(table.carbon_column)
    rows = _of_one(_rows(table.path, columns), table.region_column, region, code="unknown_region")
    first_at_s, hours = _hours(table, rows)
    prices = _filled(table, table.price_column, first_at_s, hours)
    carbon = _filled(table, table.carbon_column, first_at_s, hours) if table.carbon_column else []
    series = Series(
        start_at_s=first_at_s if start_at_s is None else start_at_s // HOUR_S * HOUR_S,
        microyuan_per_kwh=tuple(microyuan(price * table.yuan_per_kwh_per_unit) for price in prices),
        gco2_per_kwh=tuple(carbon),
    )
    source = f"{table.path.name}: {region}, {table.price_column} x {table.yuan_per_kwh_per_unit:g} yuan a kWh"
    return Tariff(site="", prices=series, pue=pue, source=source)


def _check_tariff(*, pue: float, gco2_per_kwh: float) -> None:
    if not (math.isfinite(pue) and pue >= 1):
        raise Refused("bad_tariff", f"{pue} is no PUE", hint="a PUE is 1.0 or more")
    if not (math.isfinite(gco2_per_kwh) and gco2_per_kwh >= 0):
        raise Refused("bad_tariff", f"{gco2_per_kwh} gCO2 a kWh cannot be", hint="give 0 or more")


def _bad(path: Path, what: str, hint: str) -> Refused:
    return Refused("bad_tariff_file", f"{path} has {what}", hint=hint)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            present = reader.fieldnames or []
            for column in columns:
                if column not in present:
                    raise _bad(path, f"no column {column!r}", _hint(column, present))
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise _bad(path, f"a short row in line {reader.line_num}", "mend the row")
                yield row
    except FileNotFoundError as error:
        raise Refused("no_tariff_file", f"there is no file {path}", hint="check the path") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, f"nothing that can be read: {error}", "give a CSV file, plain or gzipped") from error


def _of_one(rows: Iterable[dict[str, str]], column: str, name: str, *, code: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    names: set[str] = set()
    for row in rows:
        names.add(row[column])
        if row[column] == name:
            found.append(row)
    if not found:
        known = sorted(names)
        raise Refused(code, f"no {column} is called {name!r}", hint=_hint(name, known), known=known)
    return found


def _hint(name: str, known: Sequence[str]) -> str:
    folded = {spelling.lower(): spelling for spelling in known}
    near = [folded[spelling] for spelling in difflib.get_close_matches(name.lower(), folded, n=2)]
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"


def _hours(table: PriceTable, rows: Sequence[dict[str, str]]) -> tuple[int, list[dict[str, str] | None]]:
    """(moment of the first hour, a row or None for every hour from the first to the last)."""
    by_hour: dict[int, dict[str, str]] = {}
    for row in rows:
        text = row[table.hour_column]
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError as error:
            raise _bad(table.path, f"{text!r} for an hour", "write ISO 8601") from error
        at = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        hour = int(at.timestamp()) // HOUR_S
        if hour in by_hour:
            raise _bad(table.path, f"two rows for {text}", "keep one row an hour")
        by_hour[hour] = row
    in_order = sorted(by_hour)
    # Before the hours are laid out one by one: a mistyped year must not lay out a century of them.
    for hour, following in itertools.pairwise(in_order):
        if following - hour - 1 > LONGEST_FILLED_GAP_H:
            raise _gap(table.path, "rows", hour + 1)
    return in_order[0] * HOUR_S, [by_hour.get(hour) for hour in range(in_order[0], in_order[-1] + 1)]


def _gap(path: Path, what: str, hour: int) -> Refused:
    since = datetime.datetime.fromtimestamp(hour * HOUR_S, datetime.UTC)
    return Refused(
        "series_has_gaps",
        f"{path} has no {what} for more than {LONGEST_FILLED_GAP_H} hours from {since:%Y-%m-%dT%H:%MZ}",
        hint='choose another region or column; carbon_column = "" does without carbon',
    )


def _filled(
    table: PriceTable, column: str, first_at_s: int, hours: Sequence[dict[str, str] | None]
) -> list[float]:
    values: list[float] = []
    gap_h = 0
    for index, row in enumerate(hours):
        text = row[column].strip() if row else ""
        gap_h = 0 if text else gap_h + 1
        if gap_h > LONGEST_FILLED_GAP_H or (gap_h and not values):
            raise _gap(table.path, column, first_at_s // HOUR_S + index + 1 - gap_h)
        values.append(_number(table.path, column, text) if text else values[-1])
    return values


def _number(path: Path, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _bad(path, f"{text!r} for {column}", "write a number, or nothing where it is not known")
    return value
