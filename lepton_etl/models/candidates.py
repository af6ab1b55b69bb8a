"""What is fitted: the random forest that may become champion, and the two baselines that it has to face.

All take a pandas frame with the feature columns (numbers as float64 with NaN for unknown, categories as text)
and predict kWh of a device-hour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from lepton_etl.models.features import FEATURES
from lepton_etl.models.metrics import Values
from lepton_etl.models.settings import DeviceKind, ModelSettings

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


class Regressor(Protocol):
    """What a candidate can do; sklearn pipelines are regressors."""

    def fit(self, X: pd.DataFrame, y: Values) -> object: ...

    def predict(self, X: pd.DataFrame) -> Values: ...


def forest(settings: ModelSettings) -> Pipeline:
    """Random forest on the raw features.

    Trees split on "unknown" by themselves (NaN goes to the side that fits better), so nothing is imputed and
    an unknown temperature stays unknown. Leaves of ten hours keep it to some megabytes at the same error.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import Pipeline

    numbers, categories = _columns(settings.device)
    encode = ColumnTransformer(
        [("numbers", "passthrough", numbers), ("categories", _one_hot(), categories)], sparse_threshold=0.0
    )
    trees = RandomForestRegressor(
        n_estimators=settings.trees,
        min_samples_leaf=settings.min_samples_leaf,
        max_features=0.7,
        random_state=settings.seed,
    )
    return Pipeline([("encode", encode), ("forest", trees)])


def linear(device: DeviceKind) -> Pipeline:
    """Least squares on the same features; unknown numbers become the median and an indicator."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline

    numbers, categories = _columns(device)
    impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    encode = ColumnTransformer(
        [("numbers", impute, numbers), ("categories", _one_hot(), categories)], sparse_threshold=0.0
    )
    return Pipeline([("encode", encode), ("linear", LinearRegression())])


class ClassMean:
    """The mean energy of the hardware class, known without a sensor; of unseen classes that of all."""

    def fit(self, X: pd.DataFrame, y: Values) -> ClassMean:
        self._mean_kwh = float(np.mean(y))
        self._by_class = pd.Series(y).groupby(X["hardware_class"].to_numpy()).mean().to_dict()
        return self

    def predict(self, X: pd.DataFrame) -> Values:
        means = X["hardware_class"].map(self._by_class).fillna(self._mean_kwh)
        return np.asarray(means, dtype=np.float64)


def _columns(device: DeviceKind) -> tuple[list[str], list[str]]:
    numbers = [f.name for f in FEATURES[device] if not f.category]
    categories = [f.name for f in FEATURES[device] if f.category]
    return numbers, categories


def _one_hot() -> object:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(handle_unknown="ignore", sparse_output=False)
