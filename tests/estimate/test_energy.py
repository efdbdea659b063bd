"""Power at the wall, kWh and carbon."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_shapes import llama_8b

from suan.estimate.cases import Cases, Machines, Plans
from suan.estimate.energy import (
    Phases,
    carbon_kg,
    energy_kwh,
    kwh_per_step,
    node_power_w,
    training_phases,
)
from suan.estimate.rates import kind_index
from suan.estimate.training import step_time

EIGHT = np.array([8.0])


def shares(compute: float, memory: float = 0.0, communication: float = 0.0, idle: float = 0.0) -> Phases:
    return Phases.of(*(np.array([value]) for value in (compute, memory, communication, idle)))


def training(devices: int = 16, kind: str = "H100-SXM") -> Cases:
    machine = Machines.filled(1, kind=kind_index(kind), devices=devices, scaleout_gbps_per_node=3200)
    plan = Plans.filled(1, dp=devices, zero_stage=3)
    return Cases(llama_8b(), plan, machine, np.array([8192]), np.array([devices * 2]))


def test_a_computing_node_of_eight_h100_draws_what_meters_showed() -> None:
    # MLPerf Training 4.0 power traces, one node: 6.7 to 7.2 kW.
    assert 6300 < node_power_w(EIGHT, np.array([700.0]), shares(1.0))[0] < 7600


def test_waiting_for_the_network_draws_less_than_computing_and_more_than_nothing() -> None:
    tdp_w = np.array([700.0])
    computing = node_power_w(EIGHT, tdp_w, shares(1.0))[0]
    waiting = node_power_w(EIGHT, tdp_w, shares(0.0, communication=1.0))[0]
    idle = node_power_w(EIGHT, tdp_w, shares(0.0))[0]
    assert idle < waiting < computing


def test_a_meter_is_believed_before_the_model_and_a_silent_one_is_not() -> None:
    both, tdp_w = np.array([8.0, 8.0]), np.array([700.0, 700.0])
    phases = Phases.of(*(np.array([share, share]) for share in (1.0, 0.0, 0.0, 0.0)))
    watts = node_power_w(both, tdp_w, phases, measured_w=np.array([5000.0, np.nan]))
    assert watts[0] == 5000.0
    assert watts[1] == node_power_w(EIGHT, np.array([700.0]), shares(1.0))[0]


@pytest.mark.parametrize("unknown", [0.0, float("nan")])
def test_a_chip_whose_tdp_nobody_published_still_draws(unknown: float) -> None:
    assert node_power_w(EIGHT, np.array([unknown]), shares(1.0))[0] > 1000.0


def test_a_step_takes_the_power_of_all_its_nodes_for_its_time() -> None:
    cases = training()
    step = step_time(cases)
    node_w = node_power_w(EIGHT, np.array([700.0]), training_phases(step))[0]
    assert kwh_per_step(cases, step)[0] == pytest.approx(2 * node_w * step.total_s[0] / 3.6e6)
    assert kwh_per_step(cases, step, pue=1.5)[0] == pytest.approx(1.5 * kwh_per_step(cases, step)[0])


def test_part_of_a_node_is_counted_as_a_node_with_so_many_devices() -> None:
    cases = training(devices=4)
    step = step_time(cases)
    node_w = node_power_w(np.array([4.0]), np.array([700.0]), training_phases(step))[0]
    assert kwh_per_step(cases, step)[0] == pytest.approx(node_w * step.total_s[0] / 3.6e6)


def test_hours_of_a_node_and_the_grams_of_its_supply() -> None:
    kwh = energy_kwh(np.array([7000.0]), np.array([2.0]), np.array([3600.0]), pue=1.2)
    assert kwh[0] == pytest.approx(16.8)
    assert carbon_kg(kwh, 500.0)[0] == pytest.approx(8.4)


@given(parts=st.lists(st.floats(0.0, 1e6), min_size=4, max_size=4), devices=st.integers(1, 16))
def test_power_lies_between_idle_and_the_busiest_phase(parts: list[float], devices: int) -> None:
    count, tdp_w = np.array([float(devices)]), np.array([400.0])
    drawn = node_power_w(count, tdp_w, shares(*parts))[0]
    idle, busiest = (node_power_w(count, tdp_w, shares(*p))[0] for p in ((0, 0, 0, 1), (1, 0, 0, 0)))
    assert idle * (1 - 1e-9) <= drawn <= busiest * (1 + 1e-9)
