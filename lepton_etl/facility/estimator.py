"""A site's fit as one scikit-learn estimator, exact: for registry consumers who do not have this package.

Both forms of the fit are linear between points of Q (IT energy) and wet bulb. So sums of ramps, each rising from 0 to 1
between two neighbouring points, and their products hold them without an error; a scaler that clips is such a ramp.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lepton_etl.facility.challenger import RisingGrid
from lepton_etl.facility.fit import FacilityFit
from lepton_etl.facility.hours import Floats

Q: Final = "it_energy_kwh"
WET_BULB: Final = "outdoor_wet_bulb_temp_c"
COLUMNS: Final = (
    {"name": Q, "unit": "kWh", "description": "IT energy of the hour, all of it heat.", "category": False},
    {"name": WET_BULB, "unit": "degC", "description": "Outdoor wet bulb of the hour.", "category": False},
)
TARGET: Final = {
    "name": "overhead_kwh", "unit": "kWh",
    "description": "Cooling and management energy of the hour; where only a total is metered, conversion losses too.",
}  # fmt: skip
# Where a line that goes on may end: no outdoor air is warmer or colder, no site grows so much under one fit.
_WARMEST_C: Final = 100.0
_COLDEST_C: Final = -100.0
_GROWTH: Final = 1000.0


def estimator(fit: FacilityFit) -> Any:
    """A fitted pipeline: frame with COLUMNS -> overhead of each hour, kWh, as `predict_overhead` tells it."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures

    points = {Q: _q_points(fit), WET_BULB: _wet_bulb_points(fit)}
    segments = [
        (column, low, high) for column, axis in points.items() for low, high in pairwise(axis.tolist())
    ]
    ramps = ColumnTransformer(
        [(f"{column} from {low:g}", MinMaxScaler(clip=True), [column]) for column, low, _ in segments]
    )
    products = PolynomialFeatures(degree=2, interaction_only=True, include_bias=False)
    model = Pipeline([("ramps", ramps), ("products", products), ("sum", LinearRegression())])
    model.fit(pd.DataFrame({name: axis[:2] for name, axis in points.items()}), np.zeros(2))
    # What is fitted above are the columns; the numbers are the fit's own.
    for (column, low, high), (_, ramp, _) in zip(segments, ramps.transformers_, strict=True):
        ramp.fit(pd.DataFrame({column: [low, high]}))
    grid_q, grid_t = np.meshgrid(points[Q], points[WET_BULB], indexing="ij")
    moved = fit.cooling.energy_kwh(grid_q.ravel(), grid_t.ravel()).reshape(grid_q.shape)
    values = moved + (fit.management_kwh or 0.0)
    model.named_steps["sum"].intercept_ = float(values[0, 0])
    model.named_steps["sum"].coef_ = _coefficients(values, products.powers_)
    return model


def _coefficients(values: Floats, powers: NDArray[np.int64]) -> Floats:
    """Of ramps of Q, ramps of wet bulb and their products, in the order of `powers`, from values at the points."""
    of_q, of_t = np.diff(values[:, 0]), np.diff(values[0])
    mixed = np.diff(np.diff(values, axis=0), axis=1)
    found = np.zeros(len(powers))
    for at, row in enumerate(powers):
        q, t = np.flatnonzero(row[: len(of_q)]), np.flatnonzero(row[len(of_q) :])
        if len(q) + len(t) == 1:
            found[at] = of_q[q[0]] if len(q) else of_t[t[0]]
        elif len(q) == len(t) == 1:
            found[at] = mixed[q[0], t[0]]
    return found


def _q_points(fit: FacilityFit) -> Floats:
    """Points of Q, kWh, between which the fit is linear; beyond the seen ones it goes on in proportion to Q."""
    cooling = fit.cooling
    if not isinstance(cooling, RisingGrid):
        return np.array([0.0, _GROWTH * max(fit.mean_it_kwh, 1.0)])
    axis = np.array(cooling.q_kwh)
    # At zero itself a proportion has no value: a point near it stands on the same line.
    least = axis[0] / _GROWTH
    return np.concatenate([[least] if least > 0 else [], axis, [_GROWTH * axis[-1]]])


def _wet_bulb_points(fit: FacilityFit) -> Floats:
    cooling = fit.cooling
    if isinstance(cooling, RisingGrid):
        return np.array(cooling.wet_bulb_c)
    return np.array([_COLDEST_C, *cooling.knots_c, _WARMEST_C])
