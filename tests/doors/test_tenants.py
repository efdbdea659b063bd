"""Tenants in a tree over REST: parents, lending, what is refused, and what stays when it is not named."""

from pathlib import Path

import pytest
from rest_world import World

from suan.grid.error import Refused


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_tenant_may_be_below_another_and_lend_to_it(world: World) -> None:
    operator = world.client("operator")
    operator.set_tenant("lab")
    made = operator.set_tenant("vision", parent="lab", quota={"nominal_devices": {"H100": 16}})
    assert (made["parent"], made["quota"]["nominal_devices"]) == ("lab", {"H100-SXM": 16})
    made = operator.set_tenant("vision", quota={"lend_devices": {"*": 4}})
    assert made["parent"] == "lab", "what is left out stays"
    assert made["quota"]["nominal_devices"] == {"H100-SXM": 16} and made["quota"]["lend_devices"] == {"*": 4}
    made = operator.set_tenant("vision", parent="", quota={"lend_devices": {}})
    assert (made["parent"], made["quota"]["lend_devices"]) == ("", {})


def test_rings_strangers_and_unknown_kinds_are_refused_with_what_to_do(world: World) -> None:
    operator = world.client("operator")
    for name, parent in (("a", ""), ("b", "a"), ("c", "b")):
        operator.set_tenant(name, parent=parent)
    with pytest.raises(Refused, match="a cannot be below c: a below b below c below a") as refused:
        operator.set_tenant("a", parent="c")
    assert refused.value.code == "cycle" and "--parent none" in refused.value.hint
    with pytest.raises(Refused, match="a below a"):
        operator.set_tenant("a", parent="a")
    with pytest.raises(Refused) as refused:
        operator.set_tenant("d", parent="nobody")
    assert (refused.value.status, refused.value.code) == (404, "unknown_tenant")
    with pytest.raises(Refused) as refused:
        operator.set_tenant("d", quota={"nominal_devices": {"H101": 4}})
    assert refused.value.code == "unknown_accelerator"
    with pytest.raises(Refused):
        operator.set_tenant("d", quota={"lend_devices": {"*": -1}})
    assert "d" not in [tenant["name"] for tenant in operator.tenants()], "nothing was made"
    operator.set_tenant("a", parent="")
