"""Quotas in a tree of tenants: guarantees, borrowing, lending, taking back, and fair shares."""

import copy

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario import Scenario, task

from suan.control.execute import facts_of
from suan.grid.account import Quota, Quote, Tenant
from suan.grid.action import PlaceRun, Plan
from suan.grid.fact import JobEnded, TenantSet
from suan.grid.job import Bid, Considered, JobPhase
from suan.grid.state import State
from suan.rules.audit_quota import audit_quota
from suan.rules.decide import reason_for
from suan.rules.evolve import fold
from suan.rules.policy import Policy
from suan.rules.quota import Quotas
from suan.rules.share import Shares, shares

H100 = "H100-SXM"


def grid_of(**tenants: tuple[str, Quota]) -> State:
    """A state with these tenants: name -> (parent, quota); 1000 devices of each of two kinds."""
    state = Scenario().site("a", "H100-SXM 125x8", "A100-80GB-SXM 125x8").state
    for name, (parent, quota) in tenants.items():
        state.tenants[name] = Tenant(name=name, parent=parent, quota=quota)
    return state


def q(
    nominal: int | None = None, borrow: int | None = None, lend: int | None = None, kind: str = H100
) -> Quota:
    tables = {"nominal_devices": nominal, "borrow_devices": borrow, "lend_devices": lend}
    return Quota(**{name: {kind: value} for name, value in tables.items() if value is not None})


def use(state: State, **devices: int) -> Quotas:
    for tenant, count in devices.items():
        state.tenant_devices[tenant, H100] = count
    return Quotas.of(state)


def test_what_one_leaves_idle_its_siblings_may_use_up_to_both_limits() -> None:
    state = grid_of(lab=("", Quota()), a=("lab", q(4, borrow=3)), b=("lab", q(8, lend=2)), c=("lab", q(2)))
    quotas = Quotas.of(state)
    assert quotas.available("a", H100) == 4 + 3  # its own borrow limit
    assert quotas.available("c", H100) == 2 + 4 + 2  # no borrow limit: all that a and b lend
    assert quotas.available("b", H100) == 8 + 4 + 2
    after = quotas.with_use("c", H100, 8)
    assert after.available("a", H100) == 0  # c has borrowed what was a's
    assert after.available("b", H100) == 6  # what b does not lend is there for it whatever happens
    assert quotas.available("a", H100) == 7, "a value: what was asked before has not changed"
    assert after.with_use("c", H100, -8).available("a", H100) == 7


def test_without_a_quota_there_is_no_limit_and_a_lone_tenant_borrows_only_where_it_says_so() -> None:
    state = grid_of(
        free=("", Quota()), flat=("", q(2, borrow=1)), fixed=("", q(2)), other=("", q(3, kind="*"))
    )
    quotas = use(state, flat=1)
    assert quotas.available("free", H100) is None and quotas.reason("free", H100, 10**6) is None
    assert quotas.available("nobody", H100) is None
    assert quotas.available("flat", H100) == 2 and quotas.available("fixed", H100) == 2
    assert quotas.available("flat", "A100-80GB-SXM") is None  # nothing is said of it
    assert quotas.available("other", H100) == quotas.available("other", "A100-80GB-SXM") == 3
    assert Quotas.of(grid_of(free=("", Quota()))).available("free", H100) is None


def test_other_spellings_of_a_kind_are_the_same_kind() -> None:
    state = grid_of(a=("", q(4, kind="H100")))
    state.tenant_devices["a", "h100-sxm"] = 3
    assert Quotas.of(state).available("a", "H100") == Quotas.of(state).available("a", H100) == 1


def test_the_reason_names_the_level_that_is_full_and_two_numbers() -> None:
    state = grid_of(
        uni=("", q(16)), lab=("uni", q(8, borrow=2)), a=("lab", Quota()), b=("lab", Quota()), c=("uni", q(4))
    )
    quotas = use(state, a=7, b=2, c=1)
    reason = quotas.reason("a", H100, 4)
    assert reason is not None and (reason.need, reason.have, reason.unit) == (13, 10, "devices")
    assert "tenant a may take 1 H100-SXM, this job needs 4: lab, above it, uses 9 of 10" in reason.text
    assert "below lab" in reason.help
    full = quotas.reason("c", H100, 100)
    assert full is not None and "ask for at most 28 devices" in full.help
    kept = Quotas.of(grid_of(top=("", Quota()), d=("top", q(8, lend=3)), e=("top", q(0))))
    lent = kept.reason("e", H100, 4)
    assert lent is not None and lent.have == 3 and "5 idle ones are not lent" in lent.text


def test_what_is_owed_is_what_another_branch_holds_above_its_guarantee() -> None:
    state = grid_of(
        lab=("", Quota()), a=("lab", q(4)), b=("lab", q(4)),
        dept=("", q(8)), d1=("dept", q(4)), d2=("dept", q(4)), free=("", Quota()),
    )  # fmt: skip
    quotas = use(state, b=8, d1=2, d2=10, free=5)
    assert quotas.owed("a", "b", H100, 4) == 4
    assert quotas.owed("a", "b", H100, 5) == 0  # it asks for more than its guarantee
    assert quotas.owed("b", "a", H100, 1) == 0
    assert quotas.owed("d1", "d2", H100, 2) == 6 and quotas.owed("d1", "d2", H100, 3) == 0
    assert quotas.owed("a", "d1", H100, 1) == 0, "the lab together holds what it is guaranteed"
    idle = use(state, b=0)
    assert idle.owed("a", "d1", H100, 4) == 0  # its branch is above its guarantee, but not by d1's doing
    assert idle.owed("a", "d2", H100, 4) == 0  # 12 of 16 below dept
    assert idle.owed("a", "free", H100, 4) == 5  # who has no guarantee has only borrowed
    assert idle.borrowed("d2", H100) == 6 and idle.borrowed("dept", H100) == 0


def test_a_ring_of_parents_is_cut_and_an_unknown_parent_is_none() -> None:
    state = grid_of(a=("c", q(1)), b=("a", q(2)), c=("b", q(4)), d=("a", q(8)), e=("gone", q(3)))
    quotas = Quotas.of(state)
    assert [quotas.available(name, H100) for name in "abcde"] == [15, 15, 15, 15, 3]


TREES = st.lists(
    st.tuples(
        st.integers(-1, 6),  # the parent, if it is an earlier one
        st.none() | st.integers(0, 8),
        st.none() | st.integers(0, 6),
        st.none() | st.integers(0, 6),
    ),
    min_size=1,
    max_size=8,
)


def tree(rows: list[tuple[int, int | None, int | None, int | None]]) -> State:
    return grid_of(
        **{
            f"t{n}": (f"t{above}" if 0 <= above < n else "", q(nominal, borrow, lend))
            for n, (above, nominal, borrow, lend) in enumerate(rows)
        }
    )


def plan_for(state: State, *placed: tuple[str, int]) -> Plan:
    """A plan that gives so many devices to a job of each of these tenants."""
    actions = []
    for tenant, devices in placed:
        (job,) = Scenario(state=state).submit(task(devices=1), tenant=tenant)
        bid = Bid(site="a", pool="p0", devices=devices, nodes=1, start_s=0, finish_s=1, quote=Quote())
        actions.append(PlaceRun(job=job, run=f"{job}-r1", bid=bid, considered=Considered()))
    return Plan(at_s=0, actions=tuple(actions))


def run_devices(state: State, tenant: str, devices: int) -> None:
    """The tenant holds so many devices, as if a run of it were going on."""
    if devices:
        fold(state, facts_of(plan_for(state, (tenant, devices))))


@settings(max_examples=200, deadline=None)
@given(TREES, st.lists(st.tuples(st.integers(0, 7), st.integers(1, 12)), max_size=8), st.integers(0, 7))
def test_all_that_is_available_passes_the_audit_and_one_device_more_does_not(
    rows: list[tuple[int, int | None, int | None, int | None]], takes: list[tuple[int, int]], who: int
) -> None:
    """Two counts that share no code agree to the device, after any sequence of placements."""
    state = tree(rows)
    for number, wanted in takes:
        tenant = f"t{number % len(rows)}"
        room = Quotas.of(state).available(tenant, H100)
        run_devices(state, tenant, wanted if room is None else min(wanted, room))
    tenant = f"t{who % len(rows)}"
    quotas = Quotas.of(state)
    room = quotas.available(tenant, H100)
    if room is None:
        assert audit_quota(state, plan_for(state, (tenant, 500))) == ()
        return
    if room:
        assert quotas.reason(tenant, H100, room) is None
        assert audit_quota(state, plan_for(state, (tenant, room))) == ()
    assert quotas.reason(tenant, H100, room + 1) is not None
    assert audit_quota(state, plan_for(state, (tenant, room + 1))) != ()


@settings(max_examples=100, deadline=None)
@given(TREES, st.lists(st.tuples(st.integers(0, 7), st.integers(-3, 9)), max_size=12))
def test_arithmetic_on_quotas_is_the_same_as_counting_anew(
    rows: list[tuple[int, int | None, int | None, int | None]], steps: list[tuple[int, int]]
) -> None:
    state = tree(rows)
    quotas, held = Quotas.of(state), {}
    for number, change in steps:
        tenant = f"t{number % len(rows)}"
        change = max(change, -held.get(tenant, 0))
        held[tenant] = held.get(tenant, 0) + change
        quotas = quotas.with_use(tenant, H100, change)
    anew = use(state, **held)
    for name in state.tenants:
        assert quotas.available(name, H100) == anew.available(name, H100)
        assert quotas.held(name, H100) == anew.held(name, H100)
        assert quotas.borrowed(name, H100) == anew.borrowed(name, H100)


@settings(max_examples=100, deadline=None)
@given(TREES, st.lists(st.integers(0, 12), min_size=8, max_size=8), st.integers(1, 8))
def test_nobody_is_owed_what_its_holder_is_guaranteed(
    rows: list[tuple[int, int | None, int | None, int | None]], held: list[int], need: int
) -> None:
    state = tree(rows)
    quotas = use(state, **{name: held[n] for n, name in enumerate(state.tenants)})
    for claimant in state.tenants:
        for debtor in state.tenants:
            owed = quotas.owed(claimant, debtor, H100, need)
            if owed:
                assert owed <= quotas.borrowed(debtor, H100) or owed <= held[int(debtor[1:])]
                back = quotas.with_use(debtor, H100, -owed)
                assert back.owed(claimant, debtor, H100, need) == 0
                assert quotas.owed(debtor, claimant, H100, 1) == 0, "both cannot owe each other"


def test_a_tenant_is_below_its_parent_once_it_is_told() -> None:
    grid = Scenario().site("a", "H100-SXM 4x8")
    grid.tenant("lab")
    grid.tell(
        TenantSet(at_s=grid.now_s, tenant="a", parent="lab", quota=q(8)),
        TenantSet(at_s=grid.now_s, tenant="b", parent="lab", quota=q(8, lend=4)),
    )
    assert grid.state.tenants["a"].parent == "lab"
    assert Quotas.of(grid.state).available("a", H100) == 12


@settings(max_examples=60, deadline=None)
@given(
    TREES,
    st.lists(st.tuples(st.integers(0, 7), st.integers(1, 8), st.integers(0, 2)), min_size=1, max_size=12),
)
def test_whatever_is_placed_keeps_every_limit_and_what_waits_has_a_reason(
    rows: list[tuple[int, int | None, int | None, int | None]], steps: list[tuple[int, int, int]]
) -> None:
    grid = Scenario(policy=Policy(market=False)).site("a", "H100-SXM 3x8").site("b", "H100-SXM 2x8")
    for name, tenant in tree(rows).tenants.items():
        grid.tenant(name, parent=tenant.parent, quota=tenant.quota)
    for number, devices, ends in steps:
        tenant = f"t{number % len(rows)}"
        (job,) = grid.submit(task(devices=devices, duration_s=600), tenant=tenant)
        before = copy.deepcopy(grid.state)
        plan = grid.plan()
        assert audit_quota(before, plan) == ()
        reason = reason_for(plan, grid.state, job)
        if reason is not None and reason.code == "quota":
            room = Quotas.of(grid.state).available(tenant, H100)
            assert room is not None and room < devices
            assert reason.need is not None and reason.have is not None and reason.need > reason.have
        for run in [run for runs in grid.state.open_runs.values() for run in runs][:ends]:
            grid.started(run).ended(run)
            done = grid.state.runs[run].job
            grid.tell(JobEnded(at_s=grid.now_s, job=done, phase=JobPhase.SUCCEEDED, outcome=""))
        grid.now_s += 60


def test_old_facts_are_read_as_before() -> None:
    old = b'{"type":"TenantSet","at_s":1,"tenant":"x","quota":{"nominal_devices":{"*":2}}}'
    fact = msgspec.json.decode(old, type=TenantSet)
    assert (fact.parent, fact.quota.lend_devices) == ("", {})


def test_a_share_is_the_largest_part_of_any_kind_over_the_weight() -> None:
    state = grid_of(lab=("", Quota()), a=("lab", Quota()), b=("lab", Quota()), c=("", Quota()))
    state.tenants["c"] = msgspec.structs.replace(state.tenants["c"], weight=4.0)
    state.tenant_devices = {("a", H100): 100, ("a", "A100-80GB-SXM"): 300, ("b", H100): 200, ("c", H100): 800}
    known = shares(state)
    assert known == pytest.approx({"lab": 0.3, "a": 0.3, "b": 0.2, "c": 0.2})
    order = sorted("abc", key=Shares.of(state).line)
    assert order == ["c", "b", "a"]  # c before the lab, and within the lab b
    after = Shares.of(state).with_use("c", H100, 200).with_use("b", "A100-80GB-SXM", 700)
    assert after.share("b") == pytest.approx(0.7) and after.share("lab") == pytest.approx(1.0)
    assert after.with_use("b", "A100-80GB-SXM", -700).share("b") == pytest.approx(0.2)


def test_who_is_above_its_fair_share_is_decided_at_every_level() -> None:
    state = grid_of(
        lab=("", Quota()), a=("lab", Quota()), b=("lab", Quota()), c=("", Quota()), d=("", Quota())
    )
    state.tenants["c"] = msgspec.structs.replace(state.tenants["c"], weight=4.0)
    state.tenant_devices = {("a", H100): 150, ("c", H100): 700}
    known = Shares.of(state)
    fair = known.fair(["a", "b", "c"])
    assert fair == pytest.approx({"lab": 0.2, "a": 0.1, "b": 0.1, "c": 0.2})
    assert [known.is_above(name, fair) for name in "abc"] == [True, False, False]
    assert not known.is_above("a", known.fair(["a", "c"])), "b asks for nothing"
    more = known.with_use("b", H100, 90)
    assert more.is_above("b", fair), "with what a holds the lab is above its own"
