"""REST as sites and operators meet it: joining, reports, logs, prices, bills."""

import threading
from pathlib import Path

import pytest
from rest_world import World, serving, task, wait_until
from starlette.testclient import TestClient

from suan.doors.client import Client
from suan.grid.action import Observation, Orders, RunSeen
from suan.grid.error import NotNow, Refused
from suan.grid.job import EndCause, Place, Resources, RunPhase
from suan.grid.site import Series, Tariff


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def http(world: World) -> TestClient:
    return TestClient(world.app, raise_server_exceptions=False)


def bearer(world: World, who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {world.keys.get(who, who)}"}


# ---------------------------------------------------------------- sites


def test_a_join_token_works_once_for_its_site_alone(world: World) -> None:
    token = world.client("operator").join_token("north")
    nobody = world.client("nobody")
    for site in ("south", "grid"):
        with pytest.raises(Refused):
            nobody.join(token, site)
    joined = nobody.join(token, "north", region="beijing")
    orders = world.client(joined["key"]).report(Observation(site="north", epoch=joined["epoch"], full=True))
    assert isinstance(orders, Orders) and orders.lease_s > 0
    with pytest.raises(Refused) as refused:
        nobody.join(token, "north")
    assert (refused.value.code, refused.value.status) == ("bad_token", 401)
    late = world.client("operator").join_token("late", expires_s=5)
    world.clock.at_s += 5
    with pytest.raises(Refused):
        nobody.join(late, "late")
    with pytest.raises(Refused):  # a token is no key
        world.client(world.client("operator").join_token("x")).whoami()


def test_a_site_that_joins_again_has_one_key(world: World) -> None:
    token = world.client("operator").join_token("east")
    key = world.client("nobody").join(token, "east")["key"]
    with pytest.raises(Refused):
        world.client("east").report(Observation(site="east", epoch=1))
    assert world.client(key).report(Observation(site="east", epoch=1)).site == "east"


def test_a_sites_key_opens_its_own_site_only(world: World) -> None:
    run = world.place(world.submit())
    site = world.grid.state.runs[run].site
    other = "east" if site == "west" else "west"
    with pytest.raises(Refused) as refused:
        world.client(other).report(Observation(site=site, epoch=1))
    assert refused.value.status == 403
    with pytest.raises(Refused):  # what the path says and what the report says must agree
        world.client(other).request("POST", f"/v1/sites/{other}/report", body=Observation(site=site, epoch=1))
    with pytest.raises(Refused):
        world.client(other).append_log(site, run, 0, b"x")
    with pytest.raises(Refused) as refused:
        world.client(other).append_log(other, run, 0, b"x")
    assert refused.value.code == "unknown_run"
    with pytest.raises(Refused):
        world.client("alice").report(Observation(site=site, epoch=1))
    with pytest.raises(Refused):
        world.client(site).append_log(site, "../../etc/passwd", 0, b"x")


def test_a_long_poll_ends_with_new_orders_and_not_before(world: World) -> None:
    world.grid.start()
    try:
        with serving(world.app) as url:
            west = Client(url, world.keys["west"])
            before = west.report(Observation(site="west", epoch=1))
            found: list[Orders] = []
            poll = threading.Thread(
                target=lambda: found.append(
                    west.report(Observation(site="west", epoch=1), wait_s=9, known=before.version)
                )
            )
            poll.start()
            poll.join(0.4)
            assert poll.is_alive() and not found
            Client(url, world.keys["alice"]).submit([task()])
            poll.join(5)
            assert [order.job_name for order in found[0].launch] == ["count"]
            assert found[0].version != before.version
    finally:
        world.grid.stop()


def test_the_answer_to_an_end_lets_the_site_forget_it_and_ends_no_long_poll(world: World) -> None:
    run = world.place(world.submit())
    site = world.grid.state.runs[run].site
    world.grid.start()
    try:
        with serving(world.app) as url:
            agent = Client(url, world.keys[site])
            known = agent.report(Observation(site=site, epoch=1)).version
            answers: list[Orders] = []
            poll = threading.Thread(
                target=lambda: answers.append(
                    agent.report(Observation(site=site, epoch=1), wait_s=9, known=known)
                )
            )
            poll.start()
            poll.join(0.4)  # one report after the other, as a site makes them
            end = RunSeen(run=run, phase=RunPhase.ENDED, cause=EndCause.EXITED, exit_code=0)
            said = agent.report(Observation(site=site, epoch=1, runs=(end,)))
            assert (said.forget, said.version) == ((run,), known)
            assert agent.report(Observation(site=site, epoch=1)).forget == ()  # it names the run no more
            poll.join(0.4)
            assert poll.is_alive() and not answers
            world.client("operator").drain("east" if site == "west" else "west")
            Client(url, world.keys["alice"]).submit([task("next")])
            poll.join(5)
            assert [order.job_name for order in answers[0].launch] == ["next"]
    finally:
        world.grid.stop()


def test_links_tariffs_and_prices(world: World) -> None:
    operator = world.client("operator")
    link = operator.set_link("east", "west", mbit_per_s=100, rtt_ms=30, microyuan_per_gb=500_000)
    assert operator.links() == [link]
    for wrong in ({"source": "nowhere"}, {"mbit_per_s": -1}, {"destination": "east"}):
        with pytest.raises(Refused):
            operator.set_link(**{"source": "east", "destination": "west", "mbit_per_s": 1} | wrong)
    prices = Series(start_at_s=0, microyuan_per_kwh=(600_000, 300_000), gco2_per_kwh=(500.0,))
    operator.set_tariff(Tariff(site="east", prices=prices, pue=1.5, source="test"))
    for wrong_prices in (Series(start_at_s=0, microyuan_per_kwh=()), prices):
        with pytest.raises(Refused):
            operator.set_tariff(Tariff(site="east", prices=wrong_prices, pue=0.5))
    east = next(site for site in world.client().prices(hours=4)["sites"] if site["site"] == "east")
    assert len(east["hours"]) == 4 and {hour["microyuan_per_kwh"] for hour in east["hours"]} == {
        900_000,
        450_000,
    }
    assert all(price > 3_000_000 for price in east["pools"][0]["microyuan_per_device_h"])


def test_a_draining_site_takes_no_runs(world: World) -> None:
    operator = world.client("operator")
    assert operator.drain("west")["phase"] == "draining"
    run = world.place(world.submit())
    assert world.grid.state.runs[run].site == "east"
    assert operator.drain("west", draining=False)["phase"] == "ready"


# ---------------------------------------------------------------- logs


def test_logs_grow_by_offset_and_a_gap_adds_nothing(world: World) -> None:
    job = world.submit()
    client = world.client()
    assert client.log(job) == (b"", "", 0, False)
    run = world.place(job)
    site = world.grid.state.runs[run].site
    agent = world.client(site)
    assert agent.append_log(site, run, 0, b"one\n") == 4
    assert agent.append_log(site, run, 9, b"lost") == 4
    assert agent.append_log(site, run, 2, b"e\ntwo\n") == 8
    assert client.log(job) == (b"one\ntwo\n", run, 8, False)
    assert client.log(job, offset=4, limit=2).data == b"tw"
    world.finish(run)
    assert client.log(job, offset=8) == (b"", run, 8, True)
    assert b"".join(client.logs(job, follow=True)) == b"one\ntwo\n"
    with pytest.raises(Refused):
        client.log(job, run="j999-r1")


def test_a_followed_log_comes_as_it_is_written_until_the_job_ends(world: World) -> None:
    world.grid.start()
    try:
        with serving(world.app) as url:
            client = Client(url, world.keys["alice"])
            job = client.submit([task()])[0]["id"]
            pieces: list[bytes] = []
            reader = threading.Thread(target=lambda: pieces.extend(client.logs(job, follow=True)))
            reader.start()
            wait_until(lambda: world.grid.state.jobs[job].runs)
            run = world.grid.state.jobs[job].runs[0]
            site = world.grid.state.runs[run].site
            agent = Client(url, world.keys[site])
            agent.report(
                Observation(
                    site=site, epoch=1, runs=(RunSeen(run=run, phase=RunPhase.RUNNING, started_at_s=1),)
                )
            )
            agent.append_log(site, run, 0, b"first\n")
            wait_until(lambda: pieces == [b"first\n"])
            agent.append_log(site, run, 6, b"last\n")
            wait_until(lambda: len(pieces) == 2)
            world.finish(run)
            reader.join(5)
            assert not reader.is_alive() and b"".join(pieces) == b"first\nlast\n"
    finally:
        world.grid.stop()


# ---------------------------------------------------------------- quotes and money


def test_quotes_show_every_bid_and_store_nothing(world: World) -> None:
    before = world.grid.state.sequence
    tasks = [
        task("a", outputs={"d": "dataset:new"}),
        task("b", inputs={"d": "dataset:new", "e": "dataset:else"}),
    ]
    first, second = world.client("viewer").quote(tasks)
    bids = first["considered"]["bids"]
    assert [bid["site"] for bid in bids] == ["west", "east"]
    assert bids[0]["quote"]["machine_microyuan"] < bids[1]["quote"]["machine_microyuan"]
    assert len(second["notes"]) == 2 and "dataset:else" in second["notes"][1]
    assert world.grid.state.sequence == before


def test_a_quote_of_what_cannot_run_gives_the_reasons(world: World) -> None:
    (found,) = world.client().quote([task(resources=(Resources(accelerator="H100", accelerators=8),))])
    assert found["considered"]["bids"] == []
    assert set(found["considered"]["unfit"]) == {"east/cpu", "west/cpu"}
    with pytest.raises(Refused) as refused:
        world.client().submit([task(resources=(Resources(accelerator="H100", accelerators=8),))])
    assert refused.value.code == "impossible"


def test_why_names_reason_and_bids(world: World) -> None:
    whole = (Resources(cpus=8),)
    blocker = [
        world.submit(name=site, resources=whole, place=Place(sites=(site,))) for site in ("east", "west")
    ]
    for job in blocker:
        world.place(job)
    job = world.submit(resources=(Resources(cpus=8),))
    world.grid.tick()
    why = world.client().why(job)
    assert why["phase"] == "waiting" and why["reason"]["code"] == "devices"
    assert why["reason"]["need"] == 8 and why["considered"]["bids"]
    assert world.client().job(job)["reason"]["code"] == "devices"
    assert world.client().why(blocker[0])["considered"]["bids"][0]["site"]


def test_the_bill_adds_up_to_the_ledger(world: World) -> None:
    operator = world.client("operator")
    prices = Series(start_at_s=0, microyuan_per_kwh=(600_000,), gco2_per_kwh=(500.0,))
    operator.set_tariff(Tariff(site="west", prices=prices, pue=1.2))
    for _ in range(3):
        world.finish(world.place(world.submit("alice")))
    world.finish(world.place(world.submit("bob")))
    bill = world.client("alice").bill()
    assert len(bill["lines"]) == 9
    assert sum(line["amount_microyuan"] for line in bill["lines"]) == bill["total_microyuan"] > 3_000_000
    assert bill["device_s"] == 3 * 3600
    for line in bill["lines"]:
        assert line["amount_microyuan"] == round(line["quantity"] * line["unit_price_microyuan"])
    ledger = operator.ledger(limit=5)
    assert ledger["sum_microyuan"] == 0 and ledger["balances"]["tenant:alice"] == -bill["total_microyuan"]
    entries, cursor = ledger["items"], ledger["next_cursor"]
    while cursor:
        page = operator.ledger(limit=5, cursor=cursor)
        entries, cursor = entries + page["items"], page["next_cursor"]
    assert len(entries) == 16 and sum(entry["amount_microyuan"] for entry in entries) == 0
    job = world.client("alice").jobs()["items"][0]["id"]
    assert world.client("alice").bill(job=job)["device_s"] == 3600


def test_a_tenants_settings_keep_what_is_not_named(world: World) -> None:
    operator = world.client("operator")
    operator.set_tenant("carol", weight=2.0)
    operator.set_tenant("carol", quota={"nominal_devices": {"*": 4}})
    carol = operator.tenant("carol")
    assert (carol["weight"], carol["quota"]["nominal_devices"]) == (2.0, {"*": 4})
    for wrong in ({"weight": -1}, {"quota": {"nominal_devices": {"*": -4}}}, {"wait": 1}):
        with pytest.raises(Refused):
            operator.set_tenant("carol", **wrong)
    for name in ("../etc", "Carol", ""):
        with pytest.raises(Refused):
            operator.set_tenant(name, weight=1.0)


def test_a_full_queue_says_when_to_come_back(world: World) -> None:
    world.client("operator").set_tenant("alice", quota={"max_waiting_jobs": 1})
    with pytest.raises(NotNow) as refused:
        world.client().submit([task(), task("b")])
    assert (refused.value.status, refused.value.code) == (429, "queue_full")


def test_the_openapi_document_names_every_shape_it_refers_to(world: World) -> None:
    with http(world) as client:
        document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]

    def refs(value: object) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(refs, value.values()))
        return set().union(*map(refs, value)) if isinstance(value, list) else set()

    assert {ref.rpartition("/")[2] for ref in refs(document)} <= set(schemas)
    assert {"Task", "Observation", "Orders", "JobPage", "Problem", "Bill"} <= set(schemas)
    posted = document["paths"]["/v1/jobs"]["post"]
    assert "text/yaml" in posted["requestBody"]["content"] and posted["tags"] == ["jobs"]
