"""The operating point: allowed, no dearer than any point of a dense grid, and labelled as a model's figure."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from lepton_etl.config.sections import FacilityModelSettings, OperatingSettings
from lepton_etl.facility.fit import FacilityFit, fit_facility
from lepton_etl.facility.set_points import operating_figure, operating_point
from tests.unit.facility.plant import simulated

PLANT = OperatingSettings(
    supply_temp_c=18.0, flow_ratio=0.9, fan_power_w=60_000.0, heat_w_per_k=90_000.0, outlet_max_c=45.0,
    rise_k=12.0, flow_need_ratio=0.7, recirculation_ratio=0.6, chiller_gain_per_k=0.025, it_knee_c=25.0,
    it_rise_per_k=0.008, flow_min_ratio=0.4, flow_max_ratio=1.0, inlet_class="recommended",
)  # fmt: skip


@pytest.fixture(scope="module")
def fit() -> FacilityFit:
    return fit_facility("here", simulated(30), FacilityModelSettings())


def inlet_c(supply_c: float, flow: float) -> float:
    return supply_c + 0.6 * max(1 - flow / 0.7, 0.0) * 12.0


def total_kwh(fit: FacilityFit, supply_c: float, flow: float, it_kwh: float, wet_bulb_c: float) -> float:
    """The equations of the docstring written once more."""
    it = it_kwh * (1 + 0.008 * max(inlet_c(supply_c, flow) - 25.0, 0.0))
    cooling = float(fit.cooling.energy_kwh(np.array([it_kwh]), np.array([wet_bulb_c]))[0])
    assert fit.management_kwh is not None
    lifted = max(cooling - 60 * 0.9**3, 0.0) * max(1 - 0.025 * (supply_c - 18.0), 0.0)
    return it + lifted + 60 * flow**3 + fit.management_kwh


@pytest.mark.parametrize("wet_bulb_c", [2.0, 12.0, 16.0])
def test_no_allowed_point_of_a_dense_grid_is_cheaper(fit: FacilityFit, wet_bulb_c: float) -> None:
    it_kwh = 700.0
    best = operating_point(fit, PLANT, it_kwh, wet_bulb_c, deployable=True)
    assert best is not None
    cheapest = min(
        total_kwh(fit, supply, flow, it_kwh, wet_bulb_c)
        for supply in np.linspace(18, 27, 91)
        for flow in np.linspace(0.4, 1.0, 121)
        if inlet_c(supply, flow) <= 27.0
        and 90 * flow * (45.0 - supply) >= it_kwh * (1 + 0.008 * max(inlet_c(supply, flow) - 25.0, 0.0))
    )
    assert best.total_kwh <= cheapest + 1e-3 * it_kwh
    assert best.total_kwh == pytest.approx(
        total_kwh(fit, best.supply_temp_c, best.flow_ratio, it_kwh, wet_bulb_c), rel=1e-9
    )


def test_the_deployable_point_keeps_the_bounds_and_removes_the_heat(fit: FacilityFit) -> None:
    for it_kwh in (400.0, 700.0, 1200.0):
        point = operating_point(fit, PLANT, it_kwh, 12.0, deployable=True)
        assert point is not None
        assert point.supply_temp_c >= 18.0 and point.inlet_temp_c <= 27.0 + 1e-6
        assert 0.4 <= point.flow_ratio <= 1.0
        assert 90 * point.flow_ratio * (45.0 - point.supply_temp_c) >= point.it_kwh * (1 - 1e-6)
        free = operating_point(fit, PLANT, it_kwh, 12.0, deployable=False)
        assert free is not None and free.total_kwh <= point.total_kwh + 1e-6


def test_more_heat_than_the_air_can_take_has_no_point(fit: FacilityFit) -> None:
    assert operating_point(fit, PLANT, 5000.0, 12.0, deployable=True) is None


def test_the_present_point_is_never_beaten_by_making_less_heat(fit: FacilityFit) -> None:
    point = operating_point(fit, PLANT, 700.0, 12.0, deployable=True)
    assert point is not None
    assert point.it_kwh >= 700.0
    assert 0.0 < point.saving_ratio < 0.3


def test_the_figure_says_that_it_is_a_models(fit: FacilityFit) -> None:
    figure = operating_figure(fit, PLANT)
    assert figure["label"] == "model figure"
    assert {"unconstrained", "deployable"} <= set(figure)
    whole = fit_facility("here", simulated(30, sub_metered=False), FacilityModelSettings())
    assert "not told apart" in str(operating_figure(whole, PLANT)["reason"])
    with pytest.raises(ValueError, match="not told apart"):
        operating_point(whole, PLANT, 700.0, 12.0, deployable=True)


def test_a_fan_range_that_falls_is_refused() -> None:
    with pytest.raises(ValidationError, match="flow_min_ratio"):
        OperatingSettings.model_validate(PLANT.model_dump() | {"flow_min_ratio": 1.2})
