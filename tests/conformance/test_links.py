"""Links: measured by asking the other end's door, told as facts only when they have changed."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from suan.control.observe import observe
from suan.grid.action import PROBE_DIGEST, LinkSeen, Observation, ProbeOrder, Ticket, ticket_hash
from suan.grid.site import Link, Site
from suan.grid.state import State
from suan.stores import links
from suan.stores.artifacts import open_store
from suan.stores.door import DataDoor

RATE_BYTES_PER_S = 8e6


@pytest.fixture
def door(tmp_path: Path) -> Iterator[DataDoor]:
    door = DataDoor(open_store(tmp_path))
    ticket = Ticket(ticket_hash=ticket_hash("shown"), digest=PROBE_DIGEST, bytes_per_s=RATE_BYTES_PER_S)
    door.allow([ticket])
    yield door
    door.close()


def test_a_probe_measures_the_rate_and_no_second_one_follows_at_once(
    door: DataDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PROBE_MAX_BYTES", 1 << 20)
    rtt_s, mbit_per_s = links.probe(door.url, "shown")
    assert 0.7 * 64 < mbit_per_s < 1.3 * 64
    assert 0 < rtt_s < 1
    monkeypatch.undo()
    with pytest.raises(httpx.HTTPStatusError):
        links.probe(door.url, "shown")
    with pytest.raises(httpx.HTTPStatusError):
        links.probe(door.url, "another's")


def test_links_are_told_after_enough_probes_and_none_is_made_during_a_fetch(
    door: DataDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def probe(url: str, ticket: str) -> tuple[float, float]:
        asked.append(time.monotonic())
        return 0.04, 90.0 + 10 * len(asked)

    monkeypatch.setattr(links, "probe", probe)
    monkeypatch.setattr(links, "_LOOK_S", 0.01)
    monkeypatch.setattr(links, "_AGAIN_S", 0.05)
    monkeypatch.setattr(links, "_FIRST_S", (0.0, 0.01))
    busy = True
    probes = links.LinkProbes(busy=lambda: busy)
    probes.want([ProbeOrder(source="east", source_url=door.url, ticket="shown")])
    time.sleep(0.2)
    assert not asked
    busy = False
    deadline_s = time.monotonic() + 10
    while not probes.seen() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    (seen,) = probes.seen()
    assert (seen.source, seen.mbit_per_s, seen.rtt_ms, seen.probes) == ("east", 110.0, 40.0, 3)
    probes.want([])
    assert probes.seen() == ()
    probes.close()


def facts_of(link: Link, mbit_per_s: float, rtt_ms: float) -> list[Link]:
    """The links that a report makes known."""
    state = State(sites={name: Site(name=name) for name in ("east", "west")})
    state.links["east", "west"] = link
    seen = LinkSeen(source="east", mbit_per_s=mbit_per_s, rtt_ms=rtt_ms, probes=3, age_s=0)
    report = Observation(site="west", epoch=1, full=True, links=(seen,))
    return [fact.link for fact in observe(state, report, 100) if hasattr(fact, "link")]


def test_a_link_becomes_a_fact_when_it_has_changed_and_never_exceeds_what_was_declared() -> None:
    declared = Link(source="east", destination="west", mbit_per_s=100, rtt_ms=40, microyuan_per_gb=7)
    assert facts_of(declared, 95, 43) == []
    assert facts_of(declared, 900, 41) == []
    (slower,) = facts_of(declared, 50, 40)
    assert (slower.mbit_per_s, slower.declared_mbit_per_s, slower.origin) == (50, 100, "measured")
    assert slower.microyuan_per_gb == 7
    assert facts_of(slower, 52, 40) == []
    (well_again,) = facts_of(slower, 900, 40)
    assert well_again.mbit_per_s == 100
    (farther,) = facts_of(declared, 100, 80)
    assert farther.rtt_ms == 80
    assert facts_of(declared, float("nan"), 40) == []
