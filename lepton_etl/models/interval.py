"""Put the ends of a 90 % interval beside a fitted model, in one estimator of scikit-learn's own classes.

The ends are factors of the prediction, by hardware class where it has enough hours, learnt by split-conformal
prediction on the newest block of the training days: what predicted it had learnt the days before, and nothing was
chosen by it. An input far outside of what was learnt moves them apart: over the range once more the lower end falls to
0, and the upper one rises by the highest energy of an hour of the class.

    lower = m a (1 - x),   upper = m b + s x

m is the prediction, never below 0; a, b and s are constants of the class, x in 0..1 is how far outside the row lies.
All are members of one stack, PolynomialFeatures makes the products and a LinearRegression of constants adds them, so
whoever has scikit-learn and skops has mean, lower and upper end. Source: Lei et al., JASA 113 (2018) 1094.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from lepton_etl.models.features import TARGET
from lepton_etl.models.metrics import Values
from lepton_etl.uncertainty import conformal_ends

# Hours that a class needs for ends of its own; the ends of all hours stand for smaller ones and for unseen ones.
MIN_CLASS_HOURS: Final = 48
# An input is far outside a tenth of the learnt range beyond it; no range is narrower than this.
_MARGIN_RATIO: Final = 0.1
_LEAST_RANGE: Final = {"_c": 5.0, "_ratio": 0.1, "_w": 25.0}
_ENDLESS_KWH: Final = 1e9
_ROWS_TO_FIT: Final = 50
# Where the parts stand in the stack: prediction, factors of the ends, highest energy, how far outside.
_M, _A, _B, _S, _X = range(5)
_PRODUCTS: Final[tuple[dict[tuple[int, ...], float], ...]] = (
    {(_M,): 1.0},
    {(_M, _A): 1.0, (_M, _A, _X): -1.0},
    {(_M, _B): 1.0, (_S, _X): 1.0},
)


@dataclass(frozen=True)
class Doubt:
    """Ends of the interval as factors of the prediction: of all hours and by class; NaN where too few hours say so."""

    every: tuple[float, float]
    of_class: Mapping[str, tuple[float, float]]
    hours: int

    def ends(self, predicted_kwh: Values, hardware_class: pd.Series[str]) -> tuple[Values, Values]:
        """Return lower and upper end of each prediction, kWh, (n,), of rows within what was learnt."""
        factors = np.array([self.of_class.get(name, self.every) for name in hardware_class]).reshape(-1, 2)
        return predicted_kwh * factors[:, 0], predicted_kwh * factors[:, 1]


def doubt(measured_kwh: Values, predicted_kwh: Values, hardware_class: pd.Series[str]) -> Doubt:
    """Learn the factors from held-out hours, (n,) each."""
    known = predicted_kwh > 0
    ratio = (measured_kwh[known] - predicted_kwh[known]) / predicted_kwh[known]
    whose = hardware_class.to_numpy()[known]
    of_class = {
        str(name): found
        for name in sorted(set(whose))
        if np.isfinite(found := _factors(ratio[whose == name], MIN_CLASS_HOURS)).all()
    }
    return Doubt(_factors(ratio, 1), of_class, len(ratio))


def _factors(ratio: Values, least_count: int) -> tuple[float, float]:
    lower, upper = conformal_ends(ratio, least_count=least_count)
    return 1.0 + min(lower, 0.0), 1.0 + max(upper, 0.0)


def limits(hours: pd.DataFrame, numbers: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return beyond what a row lies far outside of these hours, by number that they know."""
    found = {}
    for name in numbers:
        low, high = float(hours[name].min()), float(hours[name].max())
        if np.isfinite(low):
            margin = _MARGIN_RATIO * _range(name, low, high)
            found[name] = low - margin, high + margin
    return found


def _range(name: str, low: float, high: float) -> float:
    least = next((least for end, least in _LEAST_RANGE.items() if name.endswith(end)), 1.0)
    return max(high - low, least)


def with_interval(
    mean: Any,
    hours: pd.DataFrame,
    names: Sequence[str],
    found: Doubt,
    within: Mapping[str, tuple[float, float]],
) -> Any:
    """Return the estimator of mean, lower and upper end, (n, 3) in kWh, around a fitted one of the mean.

    `hours` are what it learnt, with the features `names` and the target; `within` are the `limits` that count. Where
    nothing is known of its errors the ends are NaN.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import StackingRegressor
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures

    numbers = [name for name in names if pd.api.types.is_numeric_dtype(hours[name])]
    texts = [name for name in names if name not in numbers]
    few, kwh = hours[list(names)].head(_ROWS_TO_FIT), np.zeros(len(hours[:_ROWS_TO_FIT]))
    # Times one plus nothing: integers, and None among objects, become doubles and NaN.
    same = pd.DataFrame({name: [0.0, 1.0] for name in numbers} | {name: ["", ""] for name in texts})
    columns = ColumnTransformer(
        [("numbers", MinMaxScaler(), numbers), ("texts", "passthrough", texts)],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    parts = StackingRegressor(
        [("mean", mean), ("row", _of_row(hours, names, found, within))],
        final_estimator=LinearRegression(), cv="prefit",
    ).fit(columns.fit(same[list(names)]).transform(few), kwh)  # fmt: skip
    energies = MinMaxScaler((0.0, _ENDLESS_KWH), clip=True).fit([[0.0] * _X, [_ENDLESS_KWH] * _X])
    bounded = ColumnTransformer(
        [
            ("kwh", FrozenEstimator(energies), list(range(_X))),
            ("outside", FrozenEstimator(MinMaxScaler(clip=True).fit([[0.0], [1.0]])), [_X]),
        ]
    )
    products = PolynomialFeatures(3, interaction_only=True, include_bias=False)
    steps = [("parts", parts), ("bounded", bounded), ("products", products), ("ends", LinearRegression())]
    made = Pipeline([("columns", columns), *steps])
    multiplied = products.fit_transform(bounded.fit_transform(parts.transform(columns.transform(few))))
    ends = made.named_steps["ends"].fit(multiplied, np.zeros((len(few), len(_PRODUCTS))))
    powers = [tuple(map(int, np.flatnonzero(row))) for row in products.powers_]
    ends.coef_ = np.array([[of_end.get(row, 0.0) for row in powers] for of_end in _PRODUCTS])
    ends.intercept_ = np.zeros(len(_PRODUCTS))
    if not np.isfinite(found.every).all():
        ends.intercept_[1:] = np.nan
    return made


def mean_of(estimator: Any) -> Any:
    """Return the estimator of the mean within one of `with_interval`; any other is its own."""
    steps = getattr(estimator, "named_steps", {})
    return steps["parts"].estimators_[0] if "ends" in steps else estimator


def _of_row(
    hours: pd.DataFrame, names: Sequence[str], found: Doubt, within: Mapping[str, tuple[float, float]]
) -> Any:
    """Return a linear map of the row to a, b, s and x: constants of its class, and ramps beyond the limits."""
    from sklearn.compose import ColumnTransformer
    from sklearn.frozen import FrozenEstimator
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import MinMaxScaler, OneHotEncoder

    highest = hours.groupby("hardware_class")[TARGET].max()
    classes = [str(name) for name in highest.index]
    watched = list(within)
    width = np.array([_range(name, *within[name]) for name in watched])
    low, high = np.array([within[name] for name in watched]).reshape(-1, 2).T

    def ramp(start: Values, end: Values) -> Any:
        return FrozenEstimator(MinMaxScaler(clip=True).fit([start, end]))

    # Without ends nothing depends on the factors; they have to be numbers all the same.
    every = np.nan_to_num([*found.every, float(highest.max())], nan=1.0)
    of_class = np.array([[*found.of_class.get(name, every[:2]), float(highest[name])] for name in classes])
    parts: list[tuple[str, Any, list[str]]] = []
    # To look a class up costs more than all the rest: where they do not differ, it is not asked for.
    if (of_class != every).any() or not watched:
        known = OneHotEncoder(categories=[classes], handle_unknown="ignore", sparse_output=False)
        parts.append(("classes", known, ["hardware_class"]))
    else:
        classes = []
    if watched:
        at = list(range(len(watched)))
        both = ColumnTransformer(
            [("above", ramp(high, high + width), at), ("below", ramp(low - width, low), at)]
        )
        # What is unknown is not outside: the median is within.
        parts.append(("outside", make_pipeline(SimpleImputer(strategy="median"), both), watched))
    encode = ColumnTransformer(parts, sparse_threshold=0.0)
    made = Pipeline([("encode", encode), ("map", LinearRegression())])
    made.fit(hours[list(names)], np.zeros((len(hours), 4)))
    slopes = np.zeros((4, len(classes) + 2 * len(watched)))
    if classes:
        slopes[:3, : len(classes)] = (of_class - every).T
    slopes[3, len(classes) :] = np.repeat([1.0, -1.0], len(watched))
    made.named_steps["map"].coef_ = slopes
    made.named_steps["map"].intercept_ = np.array([*every, float(len(watched))])
    return made
