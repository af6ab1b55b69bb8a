"""The plain models that a learned one must beat on the forward test; where one wins, it is what is promoted.

Rated power x load has nothing to learn: 1,000 W at 80 % is 0.8 kWh in an hour, whatever the temperature. The other two
are least squares on all known inputs, straight in utilisation or with bends. All are built of classes that a stored
model may hold, so that whichever wins is served like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd

from lepton_etl.models.candidates import Inputs, linear, recency_weights
from lepton_etl.models.features import TARGET

RATED_X_LOAD: Final = "rated_x_load"
LINEAR: Final = "linear"
PIECEWISE_LINEAR: Final = "piecewise_linear"
# From small to large: within the tolerance the first one wins.
RIVALS: Final = (RATED_X_LOAD, LINEAR, PIECEWISE_LINEAR)
# Of a device with both the accelerator is what its energy follows.
LOADS: Final = ("gpu_utilisation_ratio", "cpu_utilisation_ratio")
# Where the lines in utilisation bend.
BENDS: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_WATT_TO_KWH: Final = 1e-3


def fitted_rivals(inputs: Inputs, hours: pd.DataFrame, half_life_days: float | None = None) -> dict[str, Any]:
    """Fit each rival on these device-hours, from small to large; one whose inputs nobody knows is absent.

    Older hours count less by the half-life, as they do for what is learned: the rival must be beaten at its best.
    """
    kwh = hours[TARGET].to_numpy(dtype=np.float64)
    weights = None if half_life_days is None else recency_weights(hours, half_life_days)
    found: dict[str, Any] = {}
    if "rated_power_w" in inputs.numbers and any(name in inputs.load for name in LOADS):
        found[RATED_X_LOAD] = _rated_times_load(inputs, hours)
    found[LINEAR] = linear(inputs).fit(hours[inputs.names], kwh, model__sample_weight=weights)
    if inputs.load:
        found[PIECEWISE_LINEAR] = _bent(inputs).fit(hours[inputs.names], kwh, model__sample_weight=weights)
    return found


def preferred(cv_rmse_ratio: Mapping[str, float | None], tolerance_ratio: float) -> str:
    """Return the first name, from small to large, within the tolerance of the least error; the last of none."""
    known = {name: cv for name, cv in cv_rmse_ratio.items() if cv is not None}
    limit = min(known.values(), default=0.0) * (1 + tolerance_ratio)
    return next((name for name, cv in known.items() if cv <= limit), list(cv_rmse_ratio)[-1])


def _rated_times_load(inputs: Inputs, hours: pd.DataFrame) -> Any:
    """Return rated power x load in kWh of an hour; an unknown rated power is taken at the median of these rows.

    Load is that of the accelerator, of the processor where the accelerator's is unknown, 0 where neither is known.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import PolynomialFeatures

    loads = [name for name in LOADS if name in inputs.load]
    nought = SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)
    parts = [("rated", SimpleImputer(strategy="median"), ["rated_power_w"]), ("load", nought, loads[:1])]
    wanted: set[tuple[int, ...]] = {(1, 1)}
    if len(loads) > 1:
        parts += [("unknown", MissingIndicator(features="all"), loads[:1]), ("other", nought, loads[1:])]
        wanted = {(1, 1, 0, 0), (1, 0, 1, 1)}
    products = PolynomialFeatures(3, interaction_only=True, include_bias=False)
    made = Pipeline(
        [("encode", ColumnTransformer(parts)), ("products", products), ("sum", LinearRegression())]
    )
    # Fitting only records the columns and the median: the constants are known.
    made.fit(hours[inputs.names], np.zeros(len(hours)))
    of_product = [float(tuple(map(int, power)) in wanted) for power in products.powers_]
    made.named_steps["sum"].coef_ = _WATT_TO_KWH * np.array(of_product)
    made.named_steps["sum"].intercept_ = 0.0
    return made


def _bent(inputs: Inputs) -> Any:
    """Return least squares, each load in ramps that rise from 0 to 1 between two bends."""
    from sklearn.compose import ColumnTransformer
    from sklearn.frozen import FrozenEstimator
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

    def filled(*steps: Any) -> Any:
        return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)

    loads = list(inputs.load)
    ramps = [MinMaxScaler(clip=True).fit([[end] * len(loads) for end in ends]) for ends in pairwise(BENDS)]
    others = [name for name in inputs.numbers if name not in loads]
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encode = ColumnTransformer(
        [
            *((f"ramp_{i}", filled(FrozenEstimator(ramp)), loads) for i, ramp in enumerate(ramps)),
            ("others", filled(), others),
            ("categories", one_hot, list(inputs.categories)),
        ],
        sparse_threshold=0.0,
    )
    return Pipeline([("encode", encode), ("model", LinearRegression())])
