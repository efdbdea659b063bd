"""Tariffs out of tables: what an hour costs, and what a wrong table is told."""

import datetime
import gzip
from collections.abc import Iterable
from pathlib import Path

import pytest

from suan.feeds.tariffs import CNY_PER_USD, PriceTable, china_grid, china_tou, price_series
from suan.grid.error import Refused
from suan.grid.site import Series, Tariff, hour_rate

TARIFFS = Path(__file__).parents[2] / "examples" / "worlds" / "tariffs"
BANDS = TARIFFS / "china_tou_hubs_2026.csv"
GRIDS = TARIFFS / "china_grids.csv"


def hour(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) // 3600


def tou(grid: str, path: Path = BANDS, flat_yuan_per_kwh: float = 0.75, pue: float = 1.4) -> Tariff:
    return china_tou(path, grid, flat_yuan_per_kwh=flat_yuan_per_kwh, pue=pue, gco2_per_kwh=584.9)


# ---------------------------------------------------------------- China's bands


@pytest.mark.parametrize(
    ("local", "yuan"),
    [
        ("2026-07-01T03:00+08:00", 0.375),  # valley
        ("2026-07-01T07:00+08:00", 0.75),  # flat
        ("2026-07-01T09:00+08:00", 1.125),  # peak
        ("2026-07-01T12:00+08:00", 1.35),  # critical peak in the three hot months only
        ("2026-05-01T12:00+08:00", 0.75),
    ],
)
def test_shanghai_costs_what_its_band_says_in_local_time(local: str, yuan: float) -> None:
    price, gco2 = hour_rate(tou("Shanghai"), hour(local))
    assert price == round(yuan * 1e6)
    assert gco2 == 584.9


def test_guizhou_is_cheaper_than_shanghai_in_most_hours_and_over_the_year() -> None:
    east, west = tou("Shanghai"), tou("Guizhou", flat_yuan_per_kwh=0.5)
    new_year = hour("2026-01-01T00:00+08:00")
    cheaper = [hour_rate(west, new_year + h)[0] < hour_rate(east, new_year + h)[0] for h in range(8760)]
    assert sum(cheaper) > 8760 * 0.6
    assert sum(hour_rate(west, new_year + h)[0] for h in range(8760)) < sum(
        hour_rate(east, new_year + h)[0] for h in range(8760)
    )


def test_a_tariff_says_where_it_is_from() -> None:
    tariff = tou("Shanghai")
    assert tariff.source == "china_tou_hubs_2026.csv: Shanghai"
    assert tariff.pue == 1.4


def test_every_grid_of_the_table_has_a_flat_price_and_a_carbon_intensity() -> None:
    names = {line.split(",")[0] for line in BANDS.read_text("utf-8").splitlines()[1:]}
    for name in names:
        grid = china_grid(GRIDS, name)
        assert 0.2 < grid.flat_yuan_per_kwh < 1.2
        assert 100 < grid.gco2_per_kwh < 800
        assert grid.price_basis and grid.carbon_basis


def test_a_mistyped_grid_is_told_the_nearest_and_all() -> None:
    with pytest.raises(Refused, match="did you mean Shanghai") as refused:
        tou("Shangai")
    assert refused.value.code == "unknown_grid"
    assert "Guizhou" in refused.value.fields["known"]
    with pytest.raises(Refused, match="Guizhou"):
        china_grid(GRIDS, "guizhou ")


def test_a_month_that_nobody_restated_is_not_invented() -> None:
    with pytest.raises(Refused) as refused:
        tou("Sichuan")
    assert refused.value.code == "incomplete_tariff"
    assert refused.value.fields["missing"] == ["2"]


def test_a_band_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "bands.csv"
    wrong.write_text(BANDS.read_text("utf-8").replace("critical_peak", "sharp"), "utf-8")
    with pytest.raises(Refused, match="sharp") as refused:
        tou("Shanghai", wrong)
    assert "deep_valley" in refused.value.hint


@pytest.mark.parametrize(("flat", "pue"), [(-0.1, 1.2), (float("nan"), 1.2), (0.5, 0.9), (0.5, float("inf"))])
def test_impossible_prices_and_pues_are_refused(flat: float, pue: float) -> None:
    with pytest.raises(Refused) as refused:
        tou("Shanghai", flat_yuan_per_kwh=flat, pue=pue)
    assert refused.value.code == "bad_tariff"


# ---------------------------------------------------------------- hourly prices


def prices(path: Path, values: Iterable[tuple[str, str]], region: str = "DE-LU") -> PriceTable:
    """A price file from 2022-01-01T00:00Z on: (price, carbon) of each hour, and one row of another region."""
    start = datetime.datetime(2022, 1, 1, tzinfo=datetime.UTC)
    lines = ["region,hour_utc,price_usd_mwh,ci_direct_g_kwh", "FR,2022-01-01T00:00Z,1,1"]
    for index, (price, carbon) in enumerate(values):
        at = start + datetime.timedelta(hours=index)
        lines.append(f"{region},{at:%Y-%m-%dT%H:%MZ},{price},{carbon}")
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return PriceTable(path=path)


def series(tariff: Tariff) -> Series:
    assert isinstance(tariff.prices, Series)
    return tariff.prices


@pytest.mark.parametrize("name", ["prices.csv", "prices.csv.gz"])
def test_prices_become_microyuan_and_negative_ones_stay(tmp_path: Path, name: str) -> None:
    table = prices(tmp_path / name, [("100", "300"), ("-20.5", "250"), ("0", "200")])
    tariff = price_series(table, "DE-LU", pue=1.1)
    assert series(tariff).microyuan_per_kwh == (
        round(100 * CNY_PER_USD * 1000),
        round(-20.5 * CNY_PER_USD * 1000),
        0,
    )
    assert hour_rate(tariff, hour("2022-01-01T01:00+00:00")) == (round(-20.5 * CNY_PER_USD * 1000), 250.0)
    assert "DE-LU" in tariff.source and "price_usd_mwh" in tariff.source


def test_prices_can_be_laid_at_another_moment_and_in_another_currency(tmp_path: Path) -> None:
    table = prices(tmp_path / "prices.csv", [("100", "300"), ("50", "250")])
    in_fen = PriceTable(path=table.path, yuan_per_kwh_per_unit=0.01, carbon_column="")
    tariff = price_series(in_fen, "DE-LU", pue=1.1, start_at_s=7200)
    assert hour_rate(tariff, 2) == (1_000_000, 0.0)
    assert hour_rate(tariff, 3) == (500_000, 0.0)
    assert hour_rate(tariff, 4) == (1_000_000, 0.0), "it repeats when it ends"


def test_a_short_gap_takes_the_last_value(tmp_path: Path) -> None:
    table = prices(tmp_path / "prices.csv", [("10", "300"), *[("", "")] * 6, ("20", "100")])
    kept = series(price_series(table, "DE-LU", pue=1.1))
    assert kept.microyuan_per_kwh[:7] == (kept.microyuan_per_kwh[0],) * 7
    assert kept.gco2_per_kwh == (*[300.0] * 7, 100.0)


def test_a_missing_row_is_a_gap_like_an_empty_cell(tmp_path: Path) -> None:
    table = prices(tmp_path / "prices.csv", [("10", "1"), ("20", "2"), ("30", "3")])
    lines = table.path.read_text().splitlines()
    table.path.write_text("\n".join(line for line in lines if "T01:00Z" not in line))
    assert series(price_series(table, "DE-LU", pue=1.1)).gco2_per_kwh == (1.0, 1.0, 3.0)


@pytest.mark.parametrize(
    ("values", "since"),
    [
        ([("10", "3"), *[("", "3")] * 7, ("20", "3")], "2022-01-01T01:00Z"),
        ([("", "3"), ("20", "3")], "2022-01-01T00:00Z"),  # nothing before it to take
        ([("10", "")] * 3, "2022-01-01T00:00Z"),  # no carbon at all
    ],
)
def test_a_long_gap_is_refused_not_invented(
    tmp_path: Path, values: list[tuple[str, str]], since: str
) -> None:
    table = prices(tmp_path / "prices.csv", values)
    with pytest.raises(Refused, match=since) as refused:
        price_series(table, "DE-LU", pue=1.1)
    assert refused.value.code == "series_has_gaps"
    assert "carbon_column" in refused.value.hint


def test_a_mistyped_year_does_not_lay_out_a_century(tmp_path: Path) -> None:
    table = prices(tmp_path / "prices.csv", [("10", "3"), ("20", "3")])
    table.path.write_text(table.path.read_text() + "DE-LU,9022-01-01T03:00Z,1,1\n")
    with pytest.raises(Refused) as refused:
        price_series(table, "DE-LU", pue=1.1)
    assert refused.value.code == "series_has_gaps"


def test_a_mistyped_region_or_column_is_told_the_nearest(tmp_path: Path) -> None:
    table = prices(tmp_path / "prices.csv", [("10", "3")])
    with pytest.raises(Refused, match="did you mean DE-LU") as refused:
        price_series(table, "DE-LO", pue=1.1)
    assert refused.value.code == "unknown_region"
    with pytest.raises(Refused, match="price_usd_mwh") as refused:
        price_series(PriceTable(path=table.path, price_column="price_usd_mhw"), "DE-LU", pue=1.1)
    assert refused.value.code == "bad_tariff_file"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\x00nonsense",
        b"region,hour_utc,price_usd_mwh,ci_direct_g_kwh\nDE-LU,yesterday,1,1\n",
        b"region,hour_utc,price_usd_mwh,ci_direct_g_kwh\nDE-LU,2022-01-01T00:00Z,inf,1\n",
        b"region,hour_utc,price_usd_mwh,ci_direct_g_kwh\nDE-LU,2022-01-01T00:00Z,dear,1\n",
        b"region,hour_utc,price_usd_mwh,ci_direct_g_kwh\nDE-LU,2022-01-01T00:00Z\n",
        b"region,hour_utc,price_usd_mwh,ci_direct_g_kwh\n" + b"DE-LU,2022-01-01T00:00Z,1,1\n" * 2,
    ],
    ids=["empty", "binary", "no hour", "infinite", "no number", "short row", "an hour twice"],
)
@pytest.mark.parametrize("name", ["prices.csv", "prices.csv.gz"])
def test_a_broken_file_is_refused(tmp_path: Path, text: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(text)  # under the name .gz, nothing of this is gzip
    with pytest.raises(Refused) as refused:
        price_series(PriceTable(path=path), "DE-LU", pue=1.1)
    assert refused.value.code == "bad_tariff_file"
    assert str(path) in refused.value.what and refused.value.hint


def test_a_cut_gzip_file_is_refused(tmp_path: Path) -> None:
    table = prices(tmp_path / "prices.csv.gz", [("10", "3")] * 500)
    table.path.write_bytes(table.path.read_bytes()[:200])
    with pytest.raises(Refused) as refused:
        price_series(table, "DE-LU", pue=1.1)
    assert refused.value.code == "bad_tariff_file"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        tou("Shanghai", tmp_path / "nowhere.csv")
    assert refused.value.code == "no_tariff_file"
