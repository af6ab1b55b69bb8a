"""Build the candidates by name: unfitted scikit-learn estimators of E = f(P, T, L) on a pandas frame.

Only classes of scikit-learn: what is fitted here can be stored with skops and read by consumers who do not have
this package. Trees and histogram boosting split on unknown (NaN) by themselves; the others take the median.

Devices of different classes look alike on the scale from idle to rated: a pooled model learns
x = (P - P_idle) / (P_rated - P_idle) and predicts for a class that it has never seen from its inventory row.
Source: Fan, Weber, Barroso, ISCA 2007 (power between idle and peak as a function of utilisation alone).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from lepton_etl.models.metrics import Values

_WATT_PER_KILOWATT: Final = 1000.0


def idle_and_span(hours: pd.DataFrame) -> tuple[Values, Values]:
    """Return idle energy of an hour and rated minus idle, kWh, (n,) each, from the rows' nameplate.

    An unknown idle is 0: the model then learns idle as a share of rated. The span is NaN where rated is unknown or
    not above idle.
    """
    idle_kwh = hours["idle_power_w"].fillna(0.0).to_numpy(dtype=np.float64) / _WATT_PER_KILOWATT
    span_kwh = hours["rated_power_w"].to_numpy(dtype=np.float64) / _WATT_PER_KILOWATT - idle_kwh
    return idle_kwh, np.where(span_kwh > 0, span_kwh, np.nan)


def can_be_normalised(hours: pd.DataFrame) -> bool:
    """Return whether every one of these hours has a scale; one class without a nameplate spoils a pool."""
    return len(hours) > 0 and bool(np.isfinite(idle_and_span(hours)[1]).all())


@dataclass(frozen=True, slots=True)
class Inputs:
    """The columns of a model: numbers (NaN for unknown), categories (text), and which numbers are load.

    In a monotone candidate more of a `load` column never lowers the prediction, the others held. `normalised` models
    learn (P - idle) / (rated - idle) instead of kWh: `scale.py`.
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    seed: int = 20250603
    normalised: bool = False

    @property
    def names(self) -> list[str]:
        return [*self.numbers, *self.categories]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named way to learn: `build` gives the unfitted estimator; monotone ones keep the sign of load.

    One of `positive` targets has no deviance at or under 0 (the inventory's idle power of a normalised one): such hours
    do not teach it. An hour `half_life_days` older than the newest counts half, None: all count alike.
    """

    name: str
    what: str
    build: Callable[[Inputs], Any]
    monotone: bool = False
    positive: bool = False
    half_life_days: float | None = None


def recency_weights(hours: pd.DataFrame, half_life_days: float) -> Values:
    """Return the weight of each hour (n,), 1 for the newest, half for one that is `half_life_days` older.

    Source: exponential forgetting, West & Harrison, Bayesian Forecasting and Dynamic Models (1997), chapter 6.
    """
    age_days = (hours["hour_start"].max() - hours["hour_start"]) / pd.Timedelta(days=1)
    return np.asarray(np.exp2(-age_days.to_numpy(dtype=np.float64) / half_life_days))


def inputs_of(columns: list[str], table: pd.DataFrame, seed: int = 20250603) -> Inputs:
    """Return inputs of the columns that the table knows anything of; utilisation of the hour itself is load."""
    known = [name for name in columns if table[name].notna().any()]
    categories = tuple(name for name in known if not pd.api.types.is_numeric_dtype(table[name]))
    numbers = tuple(name for name in known if name not in categories)
    load = tuple(
        name
        for name in numbers
        if name.endswith(("_utilisation_ratio", "_utilisation_min_ratio", "_utilisation_max_ratio"))
        and not name.startswith("memory")
    )
    return Inputs(numbers, categories, load, seed)


def monotone(model: Any, inputs: Inputs, hours: pd.DataFrame) -> Any:
    """Return the unfitted model with trees that are monotone in load; what has signs already, or no trees, as it is.

    `hours` are those that it will learn: trees see a column for each class in them.
    """
    if model.get_params().get("model__monotonic_cst", "none") is None:
        of_classes = sum(hours[name].nunique(dropna=False) for name in inputs.categories)
        model.set_params(model__monotonic_cst=[*_signs(inputs), *[0] * of_classes])
    return model


def _signs(inputs: Inputs) -> list[int]:
    return [int(name in inputs.load) for name in inputs.numbers]


def _encoded(inputs: Inputs, numbers: Any, model: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder

    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encode = ColumnTransformer(
        [("numbers", numbers, list(inputs.numbers)), ("categories", one_hot, list(inputs.categories))],
        sparse_threshold=0.0,
    )
    return Pipeline([("encode", encode), ("model", model)])


def _filled(*steps: Any) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *steps)


def linear(inputs: Inputs) -> Any:
    """Return least squares on all inputs."""
    from sklearn.linear_model import LinearRegression

    return _encoded(inputs, _filled(), LinearRegression())


def _splines(degree: int, knots: int, alpha: float) -> Callable[[Inputs], Any]:
    def build(inputs: Inputs) -> Any:
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import SplineTransformer, StandardScaler

        # Beyond the knots a straight line: a month warmer than any before must not leave the earth.
        curves = SplineTransformer(n_knots=knots, degree=degree, extrapolation="linear", include_bias=False)
        return _encoded(inputs, _filled(StandardScaler(), curves), Ridge(alpha=alpha))

    return build


def _neighbours(inputs: Inputs) -> Any:
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    return _encoded(
        inputs, _filled(StandardScaler()), KNeighborsRegressor(n_neighbors=25, weights="distance")
    )


def forest(trees: int = 40, min_samples_leaf: int = 5) -> Callable[[Inputs], Any]:
    """Return a random forest; its trees split on unknown by themselves, so nothing is imputed."""

    def build(inputs: Inputs) -> Any:
        from sklearn.ensemble import RandomForestRegressor

        grown = RandomForestRegressor(
            n_estimators=trees, min_samples_leaf=min_samples_leaf, max_features=0.5, random_state=inputs.seed
        )
        return _encoded(inputs, "passthrough", grown)

    return build


def pruned_tree() -> Callable[[Inputs], Any]:
    """Return one regression tree of at most 256 leaves; its teacher sets the alpha of its cost-complexity pruning."""

    def build(inputs: Inputs) -> Any:
        from sklearn.tree import DecisionTreeRegressor

        tree = DecisionTreeRegressor(min_samples_leaf=10, max_leaf_nodes=256, random_state=inputs.seed)
        return _encoded(inputs, "passthrough", tree)

    return build


def _extra_trees(inputs: Inputs) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(
        n_estimators=40, min_samples_leaf=3, max_features=0.6, random_state=inputs.seed
    )
    return _encoded(inputs, "passthrough", trees)


def boosting(**changed: Any) -> Callable[[Inputs], Any]:
    """Return histogram gradient boosting, monotone in load; `changed` are parameters other than the house's.

    Source: scikit-learn HistGradientBoostingRegressor, `monotonic_cst`.
    """

    def build(inputs: Inputs) -> Any:
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import OrdinalEncoder

        settings: dict[str, Any] = {
            "max_iter": 100, "learning_rate": 0.1, "max_leaf_nodes": 31, "min_samples_leaf": 20,
        } | changed  # fmt: skip
        model = HistGradientBoostingRegressor(
            monotonic_cst=[*_signs(inputs), *[0] * len(inputs.categories)],
            # A class is a number here: marked as a category the model would carry a function into the file.
            categorical_features=None,
            early_stopping=False,
            random_state=inputs.seed,
            **settings,
        )
        codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=float("nan"))
        encode = ColumnTransformer(
            [("numbers", "passthrough", list(inputs.numbers)), ("categories", codes, list(inputs.categories))]
        )
        return Pipeline([("encode", encode), ("model", model)])

    return build


_GENTLE: Final = {"max_iter": 150, "learning_rate": 0.06, "max_leaf_nodes": 12, "min_samples_leaf": 40}
CANDIDATES: Final[dict[str, Candidate]] = {
    one.name: one
    for one in (
        Candidate("linear", "least squares", linear),
        Candidate("piecewise_linear", "broken lines, ridge", _splines(1, 5, 1.0)),
        Candidate("gam", "additive cubic splines, ridge", _splines(3, 6, 10.0)),
        Candidate("knn", "25 neighbours, by distance", _neighbours),
        Candidate("forest", "random forest", forest(), monotone=True),
        Candidate("extra_trees", "extremely randomised trees", _extra_trees, monotone=True),
        Candidate("boosting", "squared error", boosting(), monotone=True),
        Candidate("boosting_gentle", "small trees, L2", boosting(**_GENTLE, l2_regularization=5.0), True),
        Candidate("boosting_absolute", "absolute error", boosting(loss="absolute_error"), monotone=True),
        Candidate("boosting_log", "gamma deviance, log link", boosting(loss="gamma"), True, positive=True),
    )
}


class ClassMean:
    """The mean energy of the hardware class, known without a sensor; of unseen classes that of all."""

    def fit(self, X: pd.DataFrame, y: Values) -> ClassMean:
        self._mean_kwh = float(np.mean(y))
        self._by_class = pd.Series(y).groupby(X["hardware_class"].to_numpy()).mean().to_dict()
        return self

    def predict(self, X: pd.DataFrame) -> Values:
        means = X["hardware_class"].map(self._by_class).fillna(self._mean_kwh)
        return np.asarray(means, dtype=np.float64)
