"""A training step: its parts add up, and what a user changes moves it the way it moves in the world."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suan.estimate.cases import Attention, Cases, Kind, Machines, Plans, Precision, Recompute, Shapes
from suan.estimate.energy import kwh_per_step
from suan.estimate.outcome import estimate_training
from suan.estimate.rates import kind_index, kinds, rates
from suan.estimate.shapes import counted
from suan.estimate.training import Bound, step_time


def case(
    kind: str = "A100-80GB", *, devices: int = 64, batch: int = 512, gbps: float = 1600, **plan: Any
) -> Cases:
    """GPT of 7.5 billion parameters on `devices`."""
    dims = {"layers": 36, "hidden": 4096, "heads": 32, "kv_heads": 32, "head_dim": 128, "value_head_dim": 128}
    shape = counted(Shapes.filled(1, **dims, ffn=16384, gated=0, tied=1, vocab=51200))
    split = plan.get("tp", 1) * plan.get("pp", 1) * plan.get("cp", 1)
    return Cases(
        shapes=shape,
        plans=Plans.filled(1, **{"dp": devices // split, **plan}),
        machines=Machines.filled(1, kind=kind_index(kind), devices=devices, scaleout_gbps_per_node=gbps),
        seq_len=np.array([2048]),
        global_batch=np.array([batch]),
    )


def seconds(*args: Any, **kwargs: Any) -> float:
    return float(step_time(case(*args, **kwargs)).total_s[0])


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    micro=st.sampled_from([1, 2, 4]),
    recompute=st.sampled_from(list(Recompute)),
    attention=st.sampled_from(list(Attention)),
    zero=st.sampled_from([0, 1, 3]),
    precision=st.sampled_from([Precision.BF16, Precision.FP8, Precision.NVFP4, Precision.TF32]),
    kind=st.sampled_from([name for name in kinds() if not name.startswith("CPU")]),
)
def test_parts_are_times_and_add_up(kind: str, tp: int, pp: int, micro: int, zero: int, **plan: Any) -> None:
    time = step_time(case(kind, tp=tp, pp=pp, micro_batch=micro, zero_stage=zero, **plan))
    parts = time.parts()
    assert all(np.isfinite(part).all() and (part >= 0).all() for part in parts.values())
    assert sum(part[0] for part in parts.values()) == pytest.approx(time.total_s[0])
    assert time.bound_by[0] in list(Bound)


def test_a_published_run_is_met() -> None:
    # Narayanan et al. 2021, table 1: 7.5 B on 128 A100, tp 4, batch 512, full recompute: 142 TFLOP/s.
    run = case(
        devices=128, tp=4, micro_batch=4, recompute=Recompute.FULL, attention=Attention.UNFUSED,
        precision=Precision.FP16,
    )  # fmt: skip
    assert step_time(run).total_s[0] == pytest.approx(3.70, rel=0.15)


def test_nothing_is_faster_than_the_chip() -> None:
    for kind in ("A100-80GB", "H100", "B200", "Ascend910B", "MI300X"):
        assert 0.1 < estimate_training(case(kind), residual=False).mfu[0] < 0.9


def test_what_costs_and_what_saves() -> None:
    plain = seconds(micro_batch=4)
    assert 1.2 * plain < seconds(micro_batch=4, recompute=Recompute.FULL) < 1.5 * plain
    assert seconds(micro_batch=4, attention=Attention.UNFUSED) > plain
    assert seconds("H100", micro_batch=4) < 0.6 * plain
    assert seconds(micro_batch=4, adapters=1) < 0.85 * plain
    assert seconds("H100", micro_batch=4, precision=Precision.FP8) < seconds("H100", micro_batch=4)


def test_small_micro_batches_add_gradients_more_often_and_unfused_software_pays_more_for_it() -> None:
    def memory_bound_s(micro: int, **plan: Any) -> float:
        return float(step_time(case(tp=8, pp=4, micro_batch=micro, **plan)).memory_bound_s[0])

    def lost(**plan: Any) -> float:
        return memory_bound_s(1, **plan) - memory_bound_s(4, **plan)

    assert lost(attention=Attention.UNFUSED) > 2 * lost(attention=Attention.FLASH) > 0
    assert lost(attention=Attention.UNFUSED, adapters=1) == pytest.approx(0)


def test_a_pipeline_waits_less_with_more_micro_batches_and_chunks() -> None:
    def bubble(**plan: Any) -> float:
        time = step_time(case(pp=4, **plan))
        return float(time.bubble_s[0] / time.total_s[0])

    assert bubble(batch=128) > 2 * bubble(batch=1024)
    assert bubble(batch=128, vpp=3) < bubble(batch=128)


def test_a_thin_network_hurts_what_crosses_it() -> None:
    wide, thin = (seconds(tp=1, zero_stage=3, gbps=gbps) for gbps in (3200, 50))
    assert thin > 1.3 * wide
    assert seconds(tp=16, gbps=200) > 1.5 * seconds(tp=8, gbps=200)


def test_a_capped_device_is_slower_but_not_by_the_whole_cap() -> None:
    free = case("H100")
    machines = free.machines.with_columns(power_cap_w=350.0)
    capped = Cases(free.shapes, free.plans, machines, free.seq_len, free.global_batch)
    ratio = step_time(capped).total_s[0] / step_time(free).total_s[0]
    assert 1.2 < ratio < 2.0
    drawn = [kwh_per_step(each, step_time(each))[0] / step_time(each).total_s[0] for each in (free, capped)]
    assert 0.4 < drawn[1] / drawn[0] < 0.8  # the host draws what it did


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    several = [case(tp=tp, pp=pp) for tp in (1, 4) for pp in (1, 2)]
    together = estimate_training(Cases.concat(several))
    alone = [estimate_training(each) for each in several]
    for name in ("step_time_s", "low", "high", "memory_gib", "kwh_per_step"):
        expected = [getattr(each, name)[0] for each in alone]
        assert getattr(together, name) == pytest.approx(expected)


def test_an_estimate_lies_in_its_interval_and_costs_energy() -> None:
    for residual in (True, False):
        found = estimate_training(case(tp=2), residual=residual)
        assert found.low[0] < found.step_time_s[0] < found.high[0]
        assert found.kwh_per_step[0] > 0 and found.memory_gib[0] > 0


def test_names_of_tables_find_their_kind() -> None:
    names = rates().names
    for spelling, kind in (
        ("A100-SXM-80", "A100-80GB-SXM"), ("A100-SXM-40", "A100-40GB-SXM"), ("H200-SXM-141", "H200"),
        ("H100-SXM-96-500W", "H100-SXM"), ("Ascend910B(Atlas900A2PODc)", "Ascend910B2"),
    ):  # fmt: skip
        assert names[kind_index(spelling)] == kind


def test_eight_bit_matrices_halve_what_replicas_exchange() -> None:
    wide, narrow = (
        float(step_time(case("H100-SXM", gbps=100, batch=64, precision=precision)).dp_comm_s[0])
        for precision in (Precision.BF16, Precision.FP8)
    )
    # Gradients 4 and weights 2 bytes against 2 and 1, on a network so thin that little of it is hidden.
    assert 0.45 * wide < narrow < 0.6 * wide


def test_tokens_go_to_their_experts_in_eight_bits_where_these_compute_so() -> None:
    dims = {"layers": 24, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "value_head_dim": 128}
    routed = {"experts": 64, "top_k": 8, "expert_ffn": 1024, "kind_code": Kind.MOE}
    shape = counted(Shapes.filled(1, **dims, **routed, ffn=4096, vocab=51200))
    dense = case("H100-SXM", ep=32, micro_batch=4)
    wide, narrow = (
        step_time(
            Cases(
                shape,
                dense.plans.with_columns(precision=precision),
                dense.machines,
                dense.seq_len,
                dense.global_batch,
            )
        )
        for precision in (Precision.BF16, Precision.FP8)
    )
    # Of four ways two are in half of the bytes: three quarters, and what a message costs however small.
    assert 0.75 * wide.ep_comm_s[0] <= narrow.ep_comm_s[0] < 0.8 * wide.ep_comm_s[0]
