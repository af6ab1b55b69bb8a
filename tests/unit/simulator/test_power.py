"""Node physics: shapes and limits that any node must keep."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.simulator import power
from lepton_etl.simulator.hardware import CLASSES, GPU_400, HardwareClass
from lepton_etl.simulator.load import node_tasks
from lepton_etl.simulator.node import node_days
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import STEPS_PER_DAY, ClusterPlan, FleetPlan
from lepton_etl.simulator.weather import supply_air_c, weather

HARDWARE = pytest.mark.parametrize("hardware", CLASSES.values(), ids=CLASSES)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=300), st.floats(5, 500), st.floats(-5, 5))
def test_the_lag_equals_its_recursion(targets: list[float], tau_s: float, start: float) -> None:
    keep = np.exp(-10.0 / tau_s)
    expected = [start]
    for target in targets[1:]:
        expected.append(keep * expected[-1] + (1 - keep) * target)
    assert power.relax(np.array(targets), tau_s, start) == pytest.approx(np.array(expected), abs=1e-9)


@HARDWARE
def test_power_rises_with_load_and_is_steeper_at_low_load(hardware: HardwareClass) -> None:
    levels = [power.steady_power_w(hardware, u, u, 24.0) for u in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(low < high for low, high in pairwise(levels))
    assert levels[1] - levels[0] > levels[4] - levels[3]
    assert power.idle_power_w(hardware) < levels[1] < power.rated_power_w(hardware)
    assert levels[4] < power.rated_power_w(hardware) < 1.15 * levels[4]


@HARDWARE
def test_warmer_inlet_costs_leakage_and_fans(hardware: HardwareClass) -> None:
    cool, warm = (power.steady_power_w(hardware, 0.8, 0.8, inlet) for inlet in (18.0, 32.0))
    assert 1.005 < warm / cool < 1.25


def test_supply_losses_match_their_stated_efficiencies() -> None:
    load_w = np.array([200.0, 500.0, 1000.0])
    efficiency = load_w / (load_w + power.psu_loss(load_w, 1000.0))
    assert efficiency == pytest.approx([0.929, 0.948, 0.943], abs=0.002)


def test_leakage_doubles_every_28_kelvin() -> None:
    at_60, at_88 = power.leakage(100.0, 0.1, np.array([60.0, 60.0 + 40.0 * np.log(2)]))
    assert (at_60, at_88) == pytest.approx((10.0, 20.0))


@HARDWARE
def test_gpus_stay_within_their_rating_and_realistic_temperatures(hardware: HardwareClass) -> None:
    instants = 100
    load = power.Load(
        cpu=np.ones(instants),
        gpu=np.ones((hardware.units, instants)),
        inlet_temp_c=np.full(instants, 27.0),
        on=np.ones(instants, dtype=bool),
    )
    traits = power.Traits(1.06, 1.06, 0.0)
    day, _ = power.node_day(hardware, traits, load, power.settle(hardware, traits, load))
    assert np.all(day.gpu_power_w <= hardware.gpu_rated_w)
    assert np.all(day.gpu_temp_c < 85.0)
    assert np.all(day.cpu_temp_c < 95.0)
    assert np.all(day.fan_ratio <= 1.0)
    assert np.all(day.dc_power_w < hardware.psu_count * hardware.psu_rating_w)


def test_a_node_that_is_off_draws_standby_power_alone() -> None:
    load = power.Load(np.ones(9), np.ones((4, 9)), np.full(9, 22.0), np.zeros(9, dtype=bool))
    traits = power.Traits(1.0, 1.0, 0.0)
    day, _ = power.node_day(GPU_400, traits, load, power.settle(GPU_400, traits, load))
    assert np.all(day.ac_power_w == GPU_400.standby_w)
    assert not day.gpu_power_w.any()
    assert not day.fan_power_w.any()


def test_days_join_at_midnight() -> None:
    cluster = ClusterPlan(cluster_id="c02", nodes=1, hardware_class="gpu-400")
    plan = FleetPlan(seed=4, clusters=(cluster,), first_date=date(2025, 6, 3), days=3)
    placed, air = schedule(plan, cluster), supply_air_c(weather(plan))
    (task,) = node_tasks(cluster, placed)
    days = list(node_days(plan, task, air))
    assert len(days) == plan.days
    for before, after in pairwise(days):
        assert len(before.ac_power_w) == STEPS_PER_DAY + 1
        assert after.ac_power_w[0] == pytest.approx(before.ac_power_w[-1], rel=1e-9)
        assert after.gpu_temp_c[:, 0] == pytest.approx(before.gpu_temp_c[:, -1], rel=1e-9)
        assert after.inlet_temp_c[0] == pytest.approx(before.inlet_temp_c[-1], rel=1e-9)
