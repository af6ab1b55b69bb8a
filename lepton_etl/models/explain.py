"""Explain a prediction: its additive parts, sensitivities, and a check by a local surrogate.

The parts are SHAP values: with the base value they add up to the prediction. Trees give them exactly (TreeSHAP), any
other estimator by permutation of the same background rows. Sources: Lundberg et al., Nature Machine Intelligence 2
(2020) 56-67 (TreeSHAP); Ribeiro et al., KDD 2016 (LIME).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.models.classes import answering
from lepton_etl.models.interval import mean_of
from lepton_etl.models.metrics import Values
from lepton_etl.models.stored import FittedModel, model_inputs

Matrix = npt.NDArray[np.float64]

TREE_SHAP: Final = "TreeSHAP, path dependent"
ROUTED_TREE_SHAP: Final = "TreeSHAP, path dependent, of the member that answers for the class"
PERMUTATION_SHAP: Final = "SHAP by permutation"
# Steps of the central difference, about the noise of the sensor: below it a tree's prediction is a flat stair.
STEPS: Final = {"degree_Celsius": 2.0, "dimensionless": 0.05, "watt": 25.0}
# A part below this share of the largest one has no sign worth comparing.
_SILENT_SHARE: Final = 0.05
_NEIGHBOURS: Final = 400
# Of SHAP by permutation: orders of the features, and background rows that are averaged over.
_ORDERS: Final = 10
_BACKGROUND: Final = 50


@dataclass(frozen=True)
class Explanation:
    """Of n rows: `base_kwh` (n,), parts (n, features) in kWh with base + parts = prediction, and the method.

    Rows have one base, but where members answer for classes: then it is that of the member, and the class has no part.
    """

    names: tuple[str, ...]
    base_kwh: Values
    parts_kwh: Matrix
    predicted_kwh: Values
    method: str

    def importance_kwh(self) -> dict[str, float]:
        """Return the mean absolute part of each feature over the rows, largest first: the global view."""
        means = np.abs(self.parts_kwh).mean(axis=0)
        order = np.argsort(-means, kind="stable")
        return {self.names[i]: float(means[i]) for i in order}


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Change of the prediction with one input, by central difference; kWh of an hour for each unit."""

    name: str
    unit: str
    step: float
    kwh_per_unit: float


@dataclass(frozen=True)
class SurrogateCheck:
    """A weighted linear surrogate around one row, and whether its signs agree with SHAP's parts.

    `r2` says how far a line describes the model there; `agree` maps each feature with a part worth comparing to
    whether both give it the same direction.
    """

    r2: float
    agree: dict[str, bool]

    @property
    def agrees(self) -> bool | None:
        """Return whether all signs are the same; None where no part was worth comparing."""
        return all(self.agree.values()) if self.agree else None


def explain(
    model: FittedModel, rows: pd.DataFrame, background: pd.DataFrame, *, seed: int = 0
) -> Explanation:
    """Return SHAP values of the rows, a frame with the model's columns; `background` are rows of its training time."""
    names, inputs = model.feature_names, model_inputs(model.columns, rows)
    estimator = mean_of(model.pipeline)
    found: tuple[float | Values, Matrix] | None = _tree_parts(estimator, inputs, names)
    method = TREE_SHAP
    if found is None:
        found, method = _routed_parts(estimator, inputs, names), ROUTED_TREE_SHAP
    if found is None:
        found, method = _by_permutation(model, rows, background, seed), PERMUTATION_SHAP
    base, parts = found
    return Explanation(names, np.broadcast_to(base, len(rows)), parts, model.predict(rows), method)


def sensitivities(model: FittedModel, row: pd.DataFrame) -> list[Sensitivity]:
    """Return dE/dx of every known number of one row (a frame of one row): how E answers to P rated, T and L.

    A load moves with its minimum and maximum of the hour, as in reality; what cannot move beyond its bounds is
    stepped within them. Source: docs/definitions.md section 8 (T is the inlet's for any decision).
    """
    units = {column["name"]: column["unit"] for column in model.columns}
    return [
        Sensitivity(name, units[name], STEPS[units[name]], float(found[0]))
        for name, found in slopes(model, row).items()
        if not np.isnan(found[0])
    ]


def slopes(model: FittedModel, rows: pd.DataFrame) -> dict[str, Values]:
    """Return dE/dx of each number that the model takes, kWh of an hour for each unit, one array of a value a row.

    NaN where the input is unknown. By central difference over STEPS: of a tree's prediction it is the mean slope over
    the step.
    """
    found = {}
    for column in model.columns:
        name, unit = column["name"], column["unit"]
        is_count = unit == "dimensionless" and not name.endswith("_ratio")
        if unit not in STEPS or is_count or _is_extreme(name):
            continue
        low, high = _moved(model, rows, name, -STEPS[unit]), _moved(model, rows, name, STEPS[unit])
        width = (high[name] - low[name]).to_numpy(dtype=np.float64)
        known = width > 0
        found[name] = np.full(len(rows), np.nan)
        if known.any():
            change = model.predict(high[known]) - model.predict(low[known])
            found[name][known] = change / width[known]
    return found


def chain_rule(of_inputs: Sequence[Sensitivity], change_per_hour: Mapping[str, float]) -> float | None:
    """Return dE/dt = dE/dP dP/dt + dE/dT dT/dt + dE/dL dL/dt in kWh of an hour for each hour.

    `change_per_hour` are the inputs' own changes; None where that of an input is not known. Source: the brief.
    """
    if any(one.name not in change_per_hour for one in of_inputs):
        return None
    return sum(one.kwh_per_unit * change_per_hour[one.name] for one in of_inputs)


def surrogate_check(
    model: FittedModel, row: pd.DataFrame, parts_kwh: Values, background: pd.DataFrame, *, seed: int = 0
) -> SurrogateCheck:
    """Fit a weighted ridge to the model around one row and compare its directions with SHAP's parts.

    The neighbours are drawn from the background and pulled towards the row; weights fall with distance in standard
    deviations. A surrogate's effect is its slope times the row's distance from the background's mean.
    """
    from sklearn.linear_model import Ridge

    numbers = [c["name"] for c in model.columns if not c["category"] and not pd.isna(row[c["name"]].iloc[0])]
    known = background[numbers].apply(pd.to_numeric).dropna()
    if known.empty:
        return SurrogateCheck(float("nan"), {})
    spread = known.std(ddof=0).replace(0.0, np.nan)
    numbers = [name for name in numbers if spread[name] > 0]
    rng = np.random.default_rng(seed)
    centre = row[numbers].to_numpy(dtype=np.float64)[0]
    drawn = known[numbers].to_numpy()[rng.integers(0, len(known), _NEIGHBOURS)]
    pull = rng.uniform(0.0, 1.0, (_NEIGHBOURS, 1))
    near = centre + (drawn - centre) * pull
    scaled = (near - centre) / spread[numbers].to_numpy()
    weight = np.exp(-(scaled**2).mean(axis=1))
    neighbours = pd.concat([row] * _NEIGHBOURS, ignore_index=True)
    neighbours[numbers] = near
    answer = model.predict(neighbours)
    ridge = Ridge(alpha=1e-3).fit(scaled, answer, sample_weight=weight)
    from_mean = (centre - known[numbers].mean().to_numpy()) / spread[numbers].to_numpy()
    effect = dict(zip(numbers, ridge.coef_ * from_mean, strict=True))
    part = dict(zip(model.feature_names, parts_kwh, strict=True))
    loud = _SILENT_SHARE * max((abs(v) for v in part.values()), default=0.0)
    agree = {
        name: bool(effect[name] * part[name] > 0)
        for name in numbers
        if abs(part[name]) > loud and abs(effect[name]) > loud
    }
    return SurrogateCheck(float(ridge.score(scaled, answer, sample_weight=weight)), agree)


def in_words(explanation: Explanation, model: FittedModel, row: pd.DataFrame, most: int = 6) -> list[str]:
    """Return the largest parts of the first row as sentences for a person, in Wh."""
    parts = explanation.parts_kwh[0]
    lines = [f"the model expects {1000 * explanation.predicted_kwh[0]:.1f} Wh in this hour; "
             f"over its training hours {1000 * explanation.base_kwh[0]:.1f} Wh is usual"]  # fmt: skip
    units = {column["name"]: column["unit"] for column in model.columns}
    for i in np.argsort(-np.abs(parts), kind="stable")[:most]:
        name, value = explanation.names[i], row[explanation.names[i]].iloc[0]
        shown = "unknown" if pd.isna(value) else f"{value:.3g}" if isinstance(value, float) else str(value)
        unit = {"degree_Celsius": " degC", "watt": " W"}.get(units[name], "")
        verb = "adds" if parts[i] >= 0 else "takes away"
        lines.append(
            f"{name} = {shown}{unit if shown != 'unknown' else ''} {verb} {1000 * abs(parts[i]):.1f} Wh"
        )
    return lines


def _is_extreme(name: str) -> bool:
    return name.endswith(("_min_ratio", "_max_ratio"))


def _moved(model: FittedModel, row: pd.DataFrame, name: str, step: float) -> pd.DataFrame:
    """Return the row with one input moved; of a load its minimum and maximum too, all within 0..1."""
    moved = row.copy()
    together = [name]
    if name.endswith("_ratio"):
        stem = name.removesuffix("_ratio")
        together += [n for n in (f"{stem}_min_ratio", f"{stem}_max_ratio") if n in model.feature_names]
    for one in together:
        value = moved[one].astype(float) + step
        moved[one] = value.clip(0.0, 1.0) if one.endswith("_ratio") else value
    return moved


def _routed_parts(estimator: Any, inputs: pd.DataFrame, names: Sequence[str]) -> tuple[Values, Matrix] | None:
    """Return base (n,) and parts of what answers for each row, by TreeSHAP; None where it is no stack of such trees."""
    base, parts = np.zeros(len(inputs)), np.zeros((len(inputs), len(names)))
    answers = answering(estimator, inputs)
    for one in answers:
        found = _tree_parts(one.member, inputs.iloc[one.rows], names)
        if found is None:
            return None
        base[one.rows] = one.scale * found[0] + one.offset
        parts[one.rows] = one.scale[:, None] * found[1]
    return (base, parts) if answers else None


def _tree_parts(estimator: Any, inputs: pd.DataFrame, names: Sequence[str]) -> tuple[float, Matrix] | None:
    from sklearn.ensemble import VotingRegressor
    from sklearn.frozen import FrozenEstimator
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, VotingRegressor):
        members = [_tree_parts(one, inputs, names) for one in estimator.estimators_]
        known = [one for one in members if one is not None]
        if len(known) < len(members):
            return None
        weights = estimator.weights if estimator.weights is not None else [1.0] * len(known)
        share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        base = float(sum(w * one[0] for w, one in zip(share, known, strict=True)))
        return base, np.asarray(sum(w * one[1] for w, one in zip(share, known, strict=True)))
    if isinstance(estimator, FrozenEstimator):
        return _tree_parts(estimator.estimator, inputs, names)
    if not isinstance(estimator, Pipeline) or len(estimator.steps) != 2:
        return None
    encoder, trees = estimator.steps[0][1], estimator.steps[1][1]
    explainer = _tree_explainer(trees)
    if explainer is None or not hasattr(encoder, "get_feature_names_out"):
        return None
    encoded = np.asarray(encoder.transform(inputs), dtype=np.float64)
    values = np.asarray(explainer.shap_values(encoded, check_additivity=False))
    whose = [_feature_of(str(column), names) for column in encoder.get_feature_names_out()]
    parts = np.zeros((len(inputs), len(names)))
    for column, feature in enumerate(whose):
        parts[:, feature] += values[:, column]
    base = float(np.ravel(explainer.expected_value)[0])
    return base, parts


def _tree_explainer(trees: Any) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor

    known = ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor, DecisionTreeRegressor
    if not isinstance(trees, known):
        return None
    import shap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return shap.TreeExplainer(trees)


def _feature_of(column: str, names: Sequence[str]) -> int:
    """Return the feature of an encoded column: `<transformer>__<feature>`, a category behind it or not."""
    plain = column.partition("__")[2] or column
    found = [i for i, name in enumerate(names) if plain == name] or [
        i for i, name in enumerate(names) if plain.startswith((f"{name}_", f"missingindicator_{name}"))
    ]
    return max(found, key=lambda i: len(names[i]))


def _by_permutation(
    model: FittedModel, rows: pd.DataFrame, background: pd.DataFrame, seed: int
) -> tuple[float, Matrix]:
    """Explain by permutation: what the mean prediction gains as the row's values replace the background's, one by one.

    Each of `_ORDERS` random orders is walked forward and back. What a background row and the replaced values that
    differ from its own have in common is predicted once, all rows in one call: a routed model costs by the call.
    Source: Castro, Gomez, Tejada, Computers & Operations Research 36 (2009) 1726-1730.
    """
    rng = np.random.default_rng(seed)
    known = model_inputs(model.columns, background.iloc[_spread(len(background), _BACKGROUND)])
    wanted = model_inputs(model.columns, rows)
    count = len(model.columns)
    bits = 1 << np.arange(count)
    # The features that are replaced by then, as bits: (orders, forward or back, steps).
    orders = np.argsort(rng.random((len(wanted), _ORDERS, count)), axis=-1)
    replaced = np.concatenate([np.zeros((*orders.shape[:2], 1), np.int64), np.cumsum(bits[orders], -1)], -1)
    walks = np.stack([replaced, bits.sum() - replaced], axis=2)
    differing = np.stack([_differs(known[name], wanted[name]) for name in known], axis=-1) @ bits
    pairs = np.arange(differing.size).reshape(differing.shape)
    keys = (walks[..., None] & differing[:, None, None, None]) | pairs[:, None, None, None] << count
    asked, where = np.unique(keys, return_inverse=True)
    row, of_background = np.divmod(asked >> count, len(known))
    mixed = {
        name: np.where(asked & bit, wanted[name].to_numpy()[row], known[name].to_numpy()[of_background])
        for name, bit in zip(known, bits, strict=True)
    }
    means = model.predict(pd.DataFrame(mixed))[where].reshape(keys.shape).mean(axis=-1)
    gains = np.diff(means, axis=-1)
    parts = np.zeros((len(wanted), count))
    for one, order, gained in zip(
        parts, orders, (gains[:, :, 0] - gains[:, :, 1]) / (2 * _ORDERS), strict=True
    ):
        np.add.at(one, order, gained)
    return float(means[0, 0, 0, 0]), parts


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most so many of the first `count` whole numbers, evenly spread."""
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))


def _differs(known: pd.Series[Any], wanted: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """Return whether each wanted value is another one than each known, shape (wanted, known); unknown is unknown."""
    ours, theirs = wanted.to_numpy()[:, None], known.to_numpy()[None, :]
    return np.asarray((ours != theirs) & ~(pd.isna(ours) & pd.isna(theirs)))
