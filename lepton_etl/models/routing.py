"""One scikit-learn estimator of many models: who predicts is told by the hardware class, and on which scale.

    kWh = g0 (idle + x (rated - idle)) + g1 m1 + g2 m2 + ...

g are 1 for the rows of a class (or of some) and 0 elsewhere, g0 for all other rows, x the pooled model over normalised
power, m the models in kWh of a class or of some. A StackingRegressor of fitted members gives g, idle, span,
x and m of every row; PolynomialFeatures makes the products, a LinearRegression with the constants 0 and 1 adds them.
So whoever has scikit-learn and skops can load it, without this package. Every member predicts every row: the price
is the sum of the members', which the card states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from lepton_etl.models.features import TARGET

_WATT_TO_KWH: Final = 1e-3
# Rows on which the constant parts are "fitted" before their constants are set: they only learn columns.
_ROWS_TO_FIT: Final = 50


@dataclass(frozen=True)
class Routes:
    """A fitted `pooled` model of all classes, `normalised` or in kWh, and models in kWh by the classes they serve."""

    pooled: Any
    normalised: bool
    of_classes: Mapping[tuple[str, ...], Any]

    @property
    def classes(self) -> list[str]:
        """Every class that is not left to the pooled model."""
        return sorted(name for names in self.of_classes for name in names)


def routed(routes: Routes, hours: pd.DataFrame, names: Sequence[str]) -> Any:
    """The estimator of all routes: the pooled model alone where nothing is to be routed or scaled.

    `hours` are training rows with the features `names` and the target. A row without a nameplate is taken at the median
    rated power of these rows, one without an idle power at 0 (a pooled model in kWh asks for neither).
    """
    if not routes.normalised and not routes.of_classes:
        return routes.pooled
    from sklearn.ensemble import StackingRegressor

    count = len(routes.of_classes)
    of_class = [(f"classes_{i}", model) for i, model in enumerate(routes.of_classes.values())]
    table = hours[list(names)]
    stack = StackingRegressor(
        [("row", _of_row(routes, table)), ("pooled", routes.pooled), *of_class],
        final_estimator=_sum(routes.normalised, count),
        cv="prefit",
    ).fit(table.head(_ROWS_TO_FIT), hours[TARGET].to_numpy(dtype=np.float64)[:_ROWS_TO_FIT])
    _set_sum(stack.final_estimator_, routes.normalised, count)
    return stack


def _of_row(routes: Routes, hours: pd.DataFrame) -> Any:
    """A linear map of the row: g0, g1, ..., gk and, for a normalised pool, rated minus idle and idle in kWh."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    count, classes = len(routes.of_classes), routes.classes
    parts: list[tuple[str, Any, list[str]]] = []
    if count:
        known = OneHotEncoder(categories=[classes], handle_unknown="ignore", sparse_output=False)
        parts.append(("classes", known, ["hardware_class"]))
    if routes.normalised:
        nought = SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)
        parts += [
            ("rated", SimpleImputer(strategy="median"), ["rated_power_w"]),
            ("idle", nought, ["idle_power_w"]),
        ]
    outputs = 1 + count + (2 if routes.normalised else 0)
    made = Pipeline([("encode", ColumnTransformer(parts, sparse_threshold=0.0)), ("map", LinearRegression())])
    made.fit(hours, np.zeros((len(hours), outputs)))
    known_count = len(classes)
    slopes = np.zeros((outputs, known_count + (2 if routes.normalised else 0)))
    slopes[0, :known_count] = -1.0
    for number, served in enumerate(routes.of_classes):
        slopes[1 + number, :known_count] = [name in served for name in classes]
    if routes.normalised:
        slopes[1 + count, known_count:] = (_WATT_TO_KWH, -_WATT_TO_KWH)
        slopes[2 + count, known_count + 1] = _WATT_TO_KWH
    made.named_steps["map"].coef_ = slopes
    made.named_steps["map"].intercept_ = np.eye(outputs)[0]
    return made


def _sum(normalised: bool, count: int) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import PolynomialFeatures

    def products(columns: Sequence[int]) -> Any:
        return PolynomialFeatures(3 if len(columns) > 2 else 2, interaction_only=True, include_bias=False)

    routes = _columns(normalised, count)
    parts = [(f"route_{i}", products(columns), columns) for i, columns in enumerate(routes)]
    return Pipeline([("products", ColumnTransformer(parts)), ("sum", LinearRegression())])


def _columns(normalised: bool, count: int) -> list[list[int]]:
    """Columns of each route in what the members say: [g0, span, idle, x] or [g0, m0], then [g, m] of the classes."""
    pooled = 1 + count + (2 if normalised else 0)
    scale = [1 + count, 2 + count] if normalised else []
    return [[0, *scale, pooled], *([1 + i, pooled + 1 + i] for i in range(count))]


def _set_sum(final: Any, normalised: bool, count: int) -> None:
    """Constants instead of what least squares found on the few rows: 1 for the products that the sum is of, else 0."""
    wanted = {(1, 1, 0, 1), (1, 0, 1, 0)} if normalised else {(1, 1)}
    found: list[float] = []
    for i in range(1 + count):
        powers = final.named_steps["products"].named_transformers_[f"route_{i}"].powers_
        of_route = wanted if i == 0 else {(1, 1)}
        found += [float(tuple(map(int, power)) in of_route) for power in powers]
    final.named_steps["sum"].coef_ = np.array(found)
    final.named_steps["sum"].intercept_ = 0.0
