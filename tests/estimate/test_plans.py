"""Which plans there are, which is taken, what is said of it; against brute force where that can be done."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suan.estimate.cases import Cases, Machines, Plans, Recompute, Shapes
from suan.estimate.legal import OPEN, legal_plans, undominated
from suan.estimate.memory import memory_gib
from suan.estimate.plans import best_over_pools, best_plans, complete, one_case, stated
from suan.estimate.rates import kind_index
from suan.estimate.shapes import completed
from suan.estimate.training import step_time

GPT3 = {"layers": 96, "hidden": 12288, "heads": 96, "ffn": 49152, "gated": 0, "tied": 1, "vocab": 51200}
LLAMA_8B = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256}
SMALL = {"layers": 24, "hidden": 2048, "heads": 16, "kv_heads": 16, "ffn": 8192, "vocab": 50304}
MIXTURE = {
    "layers": 48,
    "hidden": 2048,
    "heads": 32,
    "kv_heads": 4,
    "head_dim": 128,
    "ffn": 6144,
    "vocab": 151936,
    "experts": 128,
    "top_k": 8,
    "expert_ffn": 768,
}


def question(
    shape: dict[str, int],
    devices: int,
    *,
    kind: str = "A100-80GB",
    per_node: int = 8,
    global_batch: int = 512,
    seq_len: int = 4096,
    **plan: int,
) -> Cases:
    machine = Machines.filled(
        1, kind=kind_index(kind), devices=devices, devices_per_node=per_node, scaleout_gbps_per_node=1600
    )
    return one_case(
        completed(Shapes.filled(1, **shape)), machine, seq_len=seq_len, global_batch=global_batch, **plan
    )


def spread(case: Cases, plans: Plans) -> Cases:
    """The case under each plan."""
    return Cases(
        case.shapes.repeat(len(plans)),
        plans,
        case.machines.repeat(len(plans)),
        np.repeat(case.seq_len, len(plans)),
        np.repeat(case.global_batch, len(plans)),
    )


# ------------------------------------------------------------------ legality


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([GPT3, LLAMA_8B, SMALL, MIXTURE]),
    devices=st.sampled_from([1, 2, 6, 8, 24, 64, 96, 512, 1000]),
    global_batch=st.sampled_from([1, 8, 48, 512, 1536]),
    seq_len=st.sampled_from([1024, 4096, 32768]),
)
def test_every_legal_plan_divides(
    shape: dict[str, int], devices: int, global_batch: int, seq_len: int
) -> None:
    case = question(shape, devices, global_batch=global_batch, seq_len=seq_len)
    found = legal_plans(case)
    assert np.all(found.dp * found.tp * found.pp * found.cp == devices)
    assert np.all(shape["heads"] % found.tp == 0)
    assert np.all(found.tp <= 8), "tensor parallelism stays in a node"
    assert np.all((global_batch % (found.dp * found.micro_batch) == 0) | (found.micro_batch == 1))
    assert np.all(found.dp * found.tp * found.cp % found.ep == 0)
    assert np.all(max(shape.get("experts", 1), 1) % found.ep == 0)
    interleaved = found.vpp > 1
    pieces = (found.pp * found.vpp)[interleaved]
    assert np.all((shape["layers"] % pieces == 0) | ((shape["layers"] + 2) % pieces == 0))
    assert np.all(found.pp[interleaved] > 1)
    assert np.all((found.zero_stage == 0) == (found.dp * found.cp == 1))
    assert np.all(found.sequence_parallel == (found.tp > 1))
    table = np.stack([getattr(found, name) for name in (*OPEN, "recompute_ratio")], axis=1)
    assert len(np.unique(table, axis=0)) == len(table), "no plan twice"


def test_tensor_parallelism_leaves_the_node_where_the_fast_links_do() -> None:
    shape = {**LLAMA_8B, "kv_heads": 32}
    in_node = legal_plans(question(shape, 64, kind="A100-80GB", per_node=8))
    rack = legal_plans(question(shape, 64, kind="GB200", per_node=4))
    assert in_node.tp.max() == 8
    assert rack.tp.max() == 32


def test_a_column_that_is_given_stands() -> None:
    case = question(GPT3, 512, tp=8, pp=16, micro_batch=2, recompute=Recompute.FULL)
    given = dict.fromkeys(("tp", "pp", "micro_batch", "recompute"), True)
    found = legal_plans(case, given)
    assert len(found) > 1
    assert {(8, 16, 2, 2)} == set(zip(found.tp, found.pp, found.micro_batch, found.recompute, strict=True))


def test_no_plan_where_nothing_divides() -> None:
    ranked = best_plans(question(LLAMA_8B, 7, dp=2), given={"dp": True})
    assert len(ranked.cases) == 0 and ranked.legal == 0


# ------------------------------------------------------------------ choice


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([LLAMA_8B, SMALL, MIXTURE]),
    devices=st.sampled_from([8, 16, 32, 64]),
    kind=st.sampled_from(["A100-80GB", "H100", "910B"]),
    seq_len=st.sampled_from([2048, 8192]),
)
def test_pruning_loses_no_plan_worth_having(
    shape: dict[str, int], devices: int, kind: str, seq_len: int
) -> None:
    """The best of all legal plans that fit, each estimated, is what the search finds."""
    case = question(shape, devices, kind=kind, seq_len=seq_len, global_batch=256)
    everything = spread(case, legal_plans(case))
    fits = memory_gib(everything).fits_with_margin
    ranked = best_plans(case, residual=False)
    if fits.any():
        least_s = step_time(everything.take(fits)).total_s.min()
        assert ranked.time.total_s[0] <= least_s * (1 + 1e-3)
        assert ranked.fitting == fits.sum()
    assert np.all(np.diff(ranked.time.total_s) >= 0)


def test_dominated_plans_are_dropped_and_others_kept() -> None:
    plans = Plans.filled(
        3, dp=8, zero_stage=[1, 1, 2], recompute=[Recompute.NONE, Recompute.FULL, Recompute.FULL]
    )
    assert undominated(plans, np.array([True, True, True])).tolist() == [0, 2], (
        "its twin fits without recompute"
    )
    assert undominated(plans, np.array([False, True, True])).tolist() == [1, 2]
    assert len(undominated(plans, np.zeros(3, dtype=bool))) == 0


def test_175b_on_4096_devices_has_a_plan_with_a_reason() -> None:
    ranked = best_plans(question(GPT3, 4096, global_batch=2048, seq_len=2048))
    best = ranked.cases.plans
    assert ranked.memory.fits_with_margin[0]
    assert best.tp[0] * best.pp[0] >= 8, "175 B parameters do not fit on a few devices"
    assert "-bound: " in ranked.reasons[0]
    assert all(" slower: " in reason for reason in ranked.reasons[1:])
    assert len({(p.tp[0], p.pp[0], p.dp[0]) for p in (best.take([i]) for i in range(len(best)))}) == len(best)


def test_what_fits_nowhere_says_by_how_much() -> None:
    ranked = best_plans(question(GPT3, 8, kind="T4", global_batch=8))
    assert ranked.fitting == 0 and not ranked.memory.fits[0]
    assert "does not fit" in ranked.reasons[0] and "short" in ranked.reasons[0]


def test_a_tighter_device_gets_a_plan_that_holds_less() -> None:
    wide, tight = (
        best_plans(question(LLAMA_8B, 16, kind=kind, seq_len=8192)) for kind in ("A100-80GB", "A100-40GB")
    )
    assert tight.memory.total[0] <= 40 < wide.memory.total[0]


# ------------------------------------------------------------------ tables with parts of the plan open


def test_what_is_stated_is_kept_and_what_is_open_is_chosen() -> None:
    cases = Cases.concat(
        [
            question(LLAMA_8B, 64, tp=2, pp=2, dp=16, micro_batch=1, zero_stage=1),
            question(LLAMA_8B, 64),
            question(LLAMA_8B, 64),
        ]
    )
    blank = np.zeros(3, dtype=bool)
    first = np.array([True, False, False])
    given = {name: first.copy() for name in OPEN} | {"recompute": blank}
    done = complete(cases, given)
    plans = done.plans
    assert (plans.tp[0], plans.pp[0], plans.dp[0], plans.micro_batch[0]) == (2, 2, 16, 1)
    assert np.all(plans.dp * plans.tp * plans.pp * plans.cp == 64)
    assert np.all(memory_gib(done).fits)
    for name in OPEN:
        assert getattr(plans, name)[1] == getattr(plans, name)[2], "equal questions, equal answers"


def test_a_stated_plan_is_left_alone_though_it_does_not_fit() -> None:
    case = question(GPT3, 8, dp=8, micro_batch=64)
    done = complete(case, {name: np.array([True]) for name in OPEN})
    assert done.plans.micro_batch[0] == 64
    assert not memory_gib(done).fits[0]


def test_a_row_with_a_layout_that_is_silent_on_the_rest_has_none_of_it() -> None:
    table = {"tp": ["8", ""], "pp": ["4", " "], "dp": ["2", ""], "micro_batch": ["", ""]}
    said = stated(table, 2)
    assert [bool(said[name][0]) for name in ("tp", "pp", "dp", "cp", "ep", "vpp")] == [True] * 6
    assert not any(said[name][1] for name in OPEN)
    assert not said["micro_batch"][0]


# ------------------------------------------------------------------ pools of several kinds


def pools() -> Machines:
    kinds = np.array([kind_index("H100"), kind_index("A100-80GB")])
    return Machines.filled(2, kind=kinds, devices=64, devices_per_node=8, scaleout_gbps_per_node=1600)


@pytest.mark.parametrize(("gbps", "count"), [(100_000.0, 2), (1.0, 1)])
def test_pools_share_a_step_where_the_link_between_them_allows(gbps: float, count: int) -> None:
    case = question(LLAMA_8B, 64, global_batch=1024)
    shares = best_over_pools(case, pools(), gbps_between=gbps)
    assert len(shares) == count
    alone_s = min(
        best_plans(question(LLAMA_8B, 64, kind=kind, global_batch=1024)).time.total_s[0]
        for kind in ("H100", "A100-80GB")
    )
    assert max(share.step_s for share in shares) <= alone_s
    assert sum(share.sequences for share in shares) >= 1024
    if count == 2:
        by_pool = {share.pool: share.sequences for share in shares}
        assert by_pool[0] > 1.5 * by_pool[1], "the faster kind takes more"


def test_no_pool_that_fits_is_no_share() -> None:
    tiny = Machines.filled(1, kind=kind_index("T4"), devices=8)
    assert best_over_pools(question(GPT3, 8), tiny, gbps_between=100.0) == ()
