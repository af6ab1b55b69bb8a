"""The fit as a scikit-learn estimator says the same as the fit, inside and beyond what was seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.config.sections import FacilityModelSettings
from lepton_etl.facility.fit import FacilityFit, RatioCurve, RisingGrid, fit_facility, predict_overhead
from lepton_etl.facility.stored_fit import WET_BULB, Q, estimator
from tests.unit.facility.plant import simulated

SEEN = st.floats(0.5, 400.0)
WET_BULBS = st.floats(-30.0, 45.0)


@pytest.fixture(scope="module")
def fit() -> FacilityFit:
    return fit_facility("s", simulated(20), FacilityModelSettings(resamples=20))


def same(fit: FacilityFit, q_kwh: float, wet_bulb_c: float) -> None:
    said = estimator(fit).predict(pd.DataFrame({Q: [q_kwh], WET_BULB: [wet_bulb_c]}))
    expected = predict_overhead(fit, np.array([q_kwh]), np.array([wet_bulb_c])).total_kwh
    assert said == pytest.approx(expected, rel=1e-9)


@given(
    SEEN, WET_BULBS, st.lists(st.floats(0, 0.1), min_size=4, max_size=4), st.sampled_from([None, 0.0, 2.5])
)
def test_a_curve_is_held_exactly(
    fit: FacilityFit, q_kwh: float, wet_bulb_c: float, ratios: list[float], management_kwh: float | None
) -> None:
    curve = RatioCurve((5.0, 12.0, 20.0), tuple(ratios), 1.5)
    same(replace(fit, cooling=curve, management_kwh=management_kwh), q_kwh, wet_bulb_c)


@given(SEEN, WET_BULBS, st.lists(st.floats(0, 50.0), min_size=12, max_size=12))
def test_a_grid_is_held_exactly(
    fit: FacilityFit, q_kwh: float, wet_bulb_c: float, values: list[float]
) -> None:
    rows = tuple(tuple(row) for row in np.array(values).reshape(4, 3).tolist())
    grid = RisingGrid((2.0, 10.0, 60.0, 90.0), (-5.0, 8.0, 21.0), rows)
    same(replace(fit, cooling=grid), q_kwh, wet_bulb_c)


def test_the_fitted_site_is_held_too(fit: FacilityFit) -> None:
    for q_kwh in (fit.mean_it_kwh / 3, fit.mean_it_kwh, 3 * fit.mean_it_kwh):
        same(fit, q_kwh, fit.mean_wet_bulb_c)
