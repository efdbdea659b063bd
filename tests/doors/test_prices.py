"""Prices as a map: electricity, device-hours and clearing prices by the hour, in the terminal and as SVG."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from rest_world import NOW_S, World

from suan.doors.cli.heat import caption, rows_of, svg, terminal_lines
from suan.doors.cli.heat_picture import draw
from suan.grid import fact as f
from suan.grid.error import Refused
from suan.grid.market import Clearing, Step
from suan.grid.site import Series, Tariff

HOUR_S = 3600


@pytest.fixture
def world(tmp_path: Path) -> World:
    there = World(tmp_path)
    prices = Series(start_at_s=0, microyuan_per_kwh=(600_000, 300_000), gco2_per_kwh=(500.0,))
    there.client("operator").set_tariff(Tariff(site="east", prices=prices, pue=1.5, source="<test>"))
    return there


def clear(world: World, *steps: Step) -> None:
    first_s = NOW_S // HOUR_S * HOUR_S
    clearing = Clearing(
        at_s=first_s,
        until_s=first_s + 24 * HOUR_S,
        prices={"east/cpu": steps},
        jobs=12,
        cost_microyuan=200_000_000,
        bound_microyuan=198_000_000,
    )
    world.grid.do(lambda state, at_s: ([f.MarketCleared(at_s=at_s, clearing=clearing)], None))


def test_every_pool_has_its_clearing_price_by_the_hour(world: World) -> None:
    first_s = NOW_S // HOUR_S * HOUR_S
    # a price of 4 for half an hour, 2 for the other half, then nought
    clear(world, Step(first_s, 4_000_000), Step(first_s + HOUR_S // 2, 2_000_000), Step(first_s + HOUR_S, 0))
    found = world.client().prices(hours=3)
    (east, west) = found["sites"]
    assert east["pools"][0]["clearing_microyuan_per_device_h"] == [3_000_000, 0, 0]
    assert west["pools"][0]["clearing_microyuan_per_device_h"] == [0, 0, 0]
    assert found["clearing"]["gap_ratio"] == pytest.approx(0.01)


def test_one_site_alone(world: World) -> None:
    assert [site["site"] for site in world.client().prices(site="west")["sites"]] == ["west"]
    with pytest.raises(Refused) as refused:
        world.client().prices(site="nowhere")
    assert refused.value.code == "unknown_site"


def test_the_caption_says_how_good_the_plan_is(world: World) -> None:
    assert "no clearing prices yet" in caption(world.client().prices())
    clear(world, Step(NOW_S, 1))
    said = caption(world.client().prices())
    assert "12 jobs" in said and "¥198.00" in said and "gap 1.0%" in said


def test_the_map_has_a_row_for_every_price(world: World) -> None:
    clear(world, Step(NOW_S // HOUR_S * HOUR_S, 5_000_000))
    found = world.client().prices(hours=30)
    rows = {(row.name, row.what) for row in rows_of(found)}
    assert rows == {
        (name, what)
        for site in ("east", "west")
        for name, what in ((site, "kWh"), (f"{site}/cpu", "device-h"), (f"{site}/cpu", "clearing"))
    }
    lines = [line.plain for line in terminal_lines(found, width=100)]
    assert max(map(len, lines)) <= 100
    assert any("0.4500 … 0.9000" in line for line in lines), "PUE is in the price"
    assert any("·" in line for line in lines), "nothing is scarce in the west"


def test_the_image_is_whole_and_safe(world: World) -> None:
    found = world.client().prices(hours=6)
    found["sites"][0]["site"] = '<script>"&'
    root = ElementTree.fromstring(svg(found))
    text = "".join(root.itertext())
    assert '<script>"&' in text and "a kWh" in text
    cells = [node for node in root.iter() if node.tag.endswith("rect")]
    assert len(cells) == 1 + 6 * 2 * 2  # the ground, and six hours of two prices at two sites
    assert not [node for node in root.iter() if node.tag.endswith(("script", "image", "use"))]


def test_the_map_as_a_picture_has_a_cell_for_every_price(world: World, tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    draw(world.client().prices(hours=30), tmp_path / "map.png")
    image = pyplot.imread(tmp_path / "map.png")
    seen = {
        tuple(round(float(part) * 255) for part in pixel[:3]) for pixel in image.reshape(-1, image.shape[2])
    }
    assert {(0x1A, 0x98, 0x50), (0xD7, 0x30, 0x27)} <= seen, "the cheapest hours are green, the dearest red"
    with pytest.raises(Refused) as refused:
        draw(world.client().prices(hours=3), tmp_path / "map.txt")
    assert refused.value.code == "bad_value"
