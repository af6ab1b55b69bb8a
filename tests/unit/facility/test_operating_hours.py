"""Set points over hours: inside envelope and ramp, no dearer than any simple path, nothing promised unidentified."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lepton_etl.config.sections import FacilityModelSettings
from lepton_etl.facility.fit import FacilityFit, fit_facility
from lepton_etl.facility.set_points import (
    ENVELOPES,
    InletResponse,
    operating_hours,
    operating_point,
    relative_humidity,
)
from tests.unit.facility.plant import simulated
from tests.unit.facility.test_operating import PLANT

HOURS = 12
IT = 600 + 150 * np.sin(np.arange(HOURS) / HOURS * 2 * np.pi)
WET = 12 + 3 * np.sin(np.arange(HOURS) / HOURS * 2 * np.pi)
FANS = InletResponse(
    fan_ratio=0.08, fan_knee_c=22.0, fan_speed_per_k=0.05, fan_speed_max_ratio=2.0, leakage_per_k=0.002
)


@pytest.fixture(scope="module")
def fit() -> FacilityFit:
    made = fit_facility("here", simulated(30), FacilityModelSettings())
    return replace(made, refused=(), identified=replace(made.identified, reasons=()))


@pytest.mark.parametrize("ramp", [0.5, 2.0, 20.0])
def test_every_hour_keeps_envelope_flow_heat_and_ramp(fit: FacilityFit, ramp: float) -> None:
    made = operating_hours(fit, PLANT, IT, WET, deployable=True, ramp_k_per_h=ramp, response=FANS)
    assert made.reason is None
    supply = np.concatenate([[PLANT.supply_temp_c], made.supply_temp_c])
    assert np.abs(np.diff(supply)).max() <= ramp + 1e-6
    assert np.abs(np.diff(made.inlet_temp_c)).max() <= ramp + 1e-6
    assert made.supply_temp_c.min() >= 18 - 1e-6 and made.inlet_temp_c.max() <= 27 + 1e-6
    assert made.flow_ratio.min() >= 0.4 - 1e-9 and made.flow_ratio.max() <= 1 + 1e-9
    assert (90 * made.flow_ratio * (45 - made.supply_temp_c) >= IT * 0.99).all()
    assert made.saving_lower_kwh <= made.saving_kwh <= made.saving_upper_kwh
    assert made.saving_kwh > 0


def test_a_tighter_ramp_never_saves_more_and_the_free_figure_is_the_best(fit: FacilityFit) -> None:
    arms = [
        operating_hours(fit, PLANT, IT, WET, deployable=True, ramp_k_per_h=ramp).total_kwh
        for ramp in (0.25, 1.0, 5.0, 20.0)
    ]
    assert all(a >= b - 1e-3 * b for a, b in pairwise(arms))
    free = operating_hours(fit, PLANT, IT, WET, deployable=False)
    assert free.total_kwh <= arms[-1] * 1.001


def test_without_a_ramp_each_hour_is_its_own_best_point(fit: FacilityFit) -> None:
    made = operating_hours(fit, PLANT, IT, WET, deployable=True, ramp_k_per_h=100.0)
    points = [operating_point(fit, PLANT, float(IT[h]), float(WET[h]), deployable=True) for h in range(HOURS)]
    assert all(points)
    assert made.total_kwh == pytest.approx(sum(one.total_kwh for one in points if one is not None), rel=2e-3)


def test_it_that_answers_to_heat_is_kept_cooler(fit: FacilityFit) -> None:
    cool = operating_hours(fit, PLANT, IT, WET, deployable=True, response=replace(FANS, fan_ratio=0.15))
    plain = operating_hours(
        fit, PLANT, IT, WET, deployable=True, response=replace(FANS, fan_ratio=0.0, leakage_per_k=0.0)
    )
    assert cool.inlet_temp_c.mean() < plain.inlet_temp_c.mean()
    assert cool.saving_kwh < plain.saving_kwh


def test_fans_follow_the_cube_and_leakage_the_kelvins() -> None:
    ratio = FANS.ratio(np.array([22.0, 27.0, 60.0]))
    assert ratio[0] == pytest.approx(1.0)
    assert ratio[1] == pytest.approx(0.08 * 1.25**3 + 0.92 * 1.01)
    assert ratio[2] == pytest.approx(0.08 * 8 + 0.92 * 1.076)


def test_humid_air_asks_for_warmer_supply_and_a_bad_dew_point_is_said(fit: FacilityFit) -> None:
    dry = operating_hours(fit, PLANT, IT, WET, deployable=True, response=replace(FANS, fan_ratio=0.3))
    humid = operating_hours(
        fit,
        PLANT,
        IT,
        WET,
        deployable=True,
        response=replace(FANS, fan_ratio=0.3),
        dew_point_c=np.full(HOURS, 16.0),
    )
    assert humid.inlet_temp_c.min() > dry.inlet_temp_c.min()
    assert relative_humidity(humid.inlet_temp_c, 16.0).max() <= 0.70 + 1e-9
    assert "dew point 16.0 degC outside -9 to 15 in 12 h" in humid.warnings[0]
    assert relative_humidity(np.array([20.0]), 20.0)[0] == pytest.approx(1.0)
    # By psychrolib 2.5.0, GetRelHumFromTDewPoint: over water, and from ice to water.
    assert relative_humidity(np.array([20.0]), 10.0)[0] == pytest.approx(0.5250527333, rel=1e-9)
    assert relative_humidity(np.array([2.0]), -8.0)[0] == pytest.approx(0.4390973472, rel=1e-9)
    assert ENVELOPES["A1"].holds(np.array([14.0, 16.0, 33.0]), float("nan")).tolist() == [False, True, False]


def test_nothing_is_promised_where_the_fit_tells_no_cooling_apart(fit: FacilityFit) -> None:
    whole = fit_facility("here", simulated(30, sub_metered=False), FacilityModelSettings())
    blind = replace(fit, identified=replace(fit.identified, reasons=("wet bulb spans 1.0 K, 3 K needed",)))
    for refused, words in (
        (whole, "not told apart"),
        (blind, "wet bulb spans"),
        (replace(fit, refused=("gate",)), "gate"),
    ):
        made = operating_hours(refused, PLANT, IT, WET, deployable=True)
        assert words in str(made.reason) and np.isnan(made.saving_kwh)


def test_what_has_no_point_says_which_hour(fit: FacilityFit) -> None:
    hot = IT.copy()
    hot[3] = 9000.0
    assert "hour 3: no point takes the heat" in str(
        operating_hours(fit, PLANT, hot, WET, deployable=True).reason
    )
    cold = PLANT.model_copy(update={"supply_temp_c": 10.0})
    assert "within 2 K/h" in str(
        operating_hours(fit, cold, IT, WET, deployable=True, ramp_k_per_h=2.0).reason
    )
    unknown = operating_hours(fit, PLANT, IT, np.full(HOURS, np.nan), deployable=True)
    assert "wet bulb unknown" in str(unknown.reason)
