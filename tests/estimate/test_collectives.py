"""Collectives: what messages, groups and networks do to their time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suan.estimate.cases import Machines
from suan.estimate.collectives import Fabric, all_reduce_s, dispatch_s, fabric_of, gather_s, group_of, send_s
from suan.estimate.rates import kind_index, rates


def fabric(kind: str = "H100", *, gbps: float = 3200, size: int = 1) -> Fabric:
    machines = Machines.filled(size, kind=kind_index(kind), devices=1024, scaleout_gbps_per_node=gbps)
    return fabric_of(machines, rates())


def ones(value: float) -> np.ndarray:
    return np.array([float(value)])


def test_a_large_all_reduce_in_a_node_runs_at_the_measured_rate() -> None:
    group = group_of(fabric(), ones(8), 1)
    seconds = all_reduce_s(fabric(), group, ones(2**32))[0]
    bus = 2 * 7 / 8 * 2**32 / seconds / 1e9
    assert bus == pytest.approx(475, rel=0.08)  # measured on 8 x H100


def test_alone_there_is_nothing_to_wait_for() -> None:
    alone = group_of(fabric(), ones(1), 1)
    assert all_reduce_s(fabric(), alone, ones(1e9))[0] == 0.0
    assert dispatch_s(fabric(), alone, ones(1e9), ones(8))[0] == 0.0


@given(small=st.floats(1e3, 1e9), more=st.floats(1.0, 100.0))
def test_a_larger_message_is_never_sooner_there(small: float, more: float) -> None:
    for ranks, stride in ((8, 1), (64, 1), (16, 8)):
        group = group_of(fabric(), ones(ranks), stride)
        assert (
            gather_s(fabric(), group, ones(small * more))[0]
            >= gather_s(fabric(), group, ones(small))[0] * 0.999
        )


def test_small_messages_reach_a_part_of_the_rate() -> None:
    group = group_of(fabric(), ones(8), 1)
    small, large = (gather_s(fabric(), group, ones(size))[0] / size for size in (2**20, 2**30))
    assert small > 5 * large


def test_a_thin_network_is_what_counts_between_nodes_and_not_inside() -> None:
    inside, across = ones(8), ones(64)
    for ranks, slower in ((inside, 1.0), (across, 4.0)):
        times = [gather_s(fabric(gbps=g), group_of(fabric(), ranks, 1), ones(4e9))[0] for g in (800, 200)]
        assert times[1] / times[0] == pytest.approx(slower, rel=0.02)


def test_members_of_one_node_share_its_cards() -> None:
    together = gather_s(fabric(), group_of(fabric(), ones(64), 1), ones(1e9))[0]
    apart = gather_s(fabric(), group_of(fabric(), ones(64), 8), ones(1e9))[0]  # one member a node
    assert apart > 4 * together


def test_a_rack_wide_link_domain_has_no_network_inside() -> None:
    rack = group_of(fabric("GB200"), ones(64), 1)
    node = group_of(fabric("B200"), ones(64), 1)
    assert rack.inside[0] and not node.inside[0]


def test_tokens_go_once_to_a_node_however_many_experts_are_there() -> None:
    group = group_of(fabric(), ones(16), 1)
    one, eight = (dispatch_s(fabric(), group, ones(1e8), ones(copies))[0] for copies in (1, 8))
    assert eight < 3 * one


def test_the_next_node_is_further_than_the_next_device() -> None:
    assert send_s(fabric(), ones(64), ones(1e8))[0] > 3 * send_s(fabric(), ones(1), ones(1e8))[0]
