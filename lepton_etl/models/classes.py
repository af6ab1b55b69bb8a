"""Fit a model for every hardware class beside the one of all classes, and keep it where it pays.

The pooled model learns where the power lies between idle and rated (`candidates.py`) and answers for any class from its
inventory row; where a training row has no nameplate it learns kWh. A class of at least `class_min_rows` training hours
is taught a model of its own in kWh: a pure function of the class's rows, so that executors can fit one a class at once.
Beside a pool over normalised power stands one model in kWh of all known classes, which knows the class by name. For
each class that one answers which is the smallest (pooled, known classes, own) within the tolerance of the best, by
CV(RMSE) on the newest three months of the training days, each predicted by what had learnt the days before: a class
that came late is known in none of the older and longer blocks that candidates are chosen on.

All of them are stored as one scikit-learn estimator:

    kWh = g0 (idle + x (rated - idle)) + g1 m1 + g2 m2 + ...

g are 1 for the rows of a class (or of some) and 0 elsewhere, g0 for all other rows, x the pooled model over normalised
power, m the models in kWh of a class or of some. A StackingRegressor of fitted members gives g, idle, span,
x and m of every row; PolynomialFeatures makes the products, a LinearRegression with the constants 0 and 1 adds them.
So whoever has scikit-learn and skops can load it, without this package. Every member predicts every row: the price
is the sum of the members', which the card states.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import Inputs, can_be_normalised, idle_and_span, inputs_of
from lepton_etl.models.features import KEYS, TARGET, feature_names
from lepton_etl.models.fusion import energy_kwh
from lepton_etl.models.metrics import Values, errors
from lepton_etl.models.select import (
    Chosen,
    Selected,
    before,
    block_edges,
    blocks_at,
    fitted_again,
    inputs,
    newest_blocks,
    pooled_inputs,
    select,
    size_bytes,
    told_before,
)
from lepton_etl.models.stored import build

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
        """Return every class that is not left to the pooled model."""
        return sorted(name for names in self.of_classes for name in names)


def routed(routes: Routes, hours: pd.DataFrame, names: Sequence[str]) -> Any:
    """Return the estimator of all routes: the pooled model alone where nothing is to be routed or scaled.

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


@dataclass(frozen=True)
class Answer:
    """A fitted member, the rows that it answers for (positions), and kWh = scale x its prediction + offset of each."""

    member: Any
    rows: npt.NDArray[np.int64]
    scale: Values
    offset: Values


def answering(estimator: Any, inputs: pd.DataFrame) -> list[Answer]:
    """Return who answers for which rows of a `routed` estimator; nobody of any other."""
    named = dict(getattr(estimator, "named_estimators_", {}))
    if not {"row", "pooled"} <= set(named):
        return []
    said = np.asarray(named.pop("row").predict(inputs), dtype=np.float64)
    whose = said[:, : len(named)].argmax(axis=1)
    found = []
    for number, (name, member) in enumerate(named.items()):
        rows = np.flatnonzero(whose == number)
        scale, offset = np.ones(len(rows)), np.zeros(len(rows))
        if name == "pooled" and said.shape[1] > len(named):
            scale, offset = said[rows, len(named)], said[rows, len(named) + 1]
        if len(rows):
            found.append(Answer(member, rows, scale, offset))
    return found


def _of_row(routes: Routes, hours: pd.DataFrame) -> Any:
    """Return a linear map of the row: g0, g1, ..., gk and, for a normalised pool, rated minus idle and idle in kWh."""
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
    """Return the columns of each route among the members': [g0, span, idle, x] or [g0, m0], then [g, m] of classes."""
    pooled = 1 + count + (2 if normalised else 0)
    scale = [1 + count, 2 + count] if normalised else []
    return [[0, *scale, pooled], *([1 + i, pooled + 1 + i] for i in range(count))]


def _set_sum(final: Any, normalised: bool, count: int) -> None:
    """Set the constants that least squares could not find on so few rows: 1 for products in the sum, else 0."""
    wanted = {(1, 1, 0, 1), (1, 0, 1, 0)} if normalised else {(1, 1)}
    found: list[float] = []
    for i in range(1 + count):
        powers = final.named_steps["products"].named_transformers_[f"route_{i}"].powers_
        of_route = wanted if i == 0 else {(1, 1)}
        found += [float(tuple(map(int, power)) in of_route) for power in powers]
    final.named_steps["sum"].coef_ = np.array(found)
    final.named_steps["sum"].intercept_ = 0.0


# Who may answer for a class, from small to large.
POOLED: Final = "pooled"
KNOWN: Final = "known classes"
OWN: Final = "own"
_PREDICTED: Final = "predicted_kwh"
# All members in one file: safe_load refuses what unpacks to more than a GiB.
_MOST_BYTES: Final = 3 << 28
# Classes that are left out one by one to say what an unseen one may expect, the largest first; rows of each fit.
_MOST_LEFT_OUT: Final = 5
_LEFT_OUT_ROWS: Final = 10_000


@dataclass(frozen=True)
class ClassTask:
    """What teaching a class must know beside its rows: settings, end of the training time, first day of each block.

    Candidates are chosen on the blocks of `edges`, who answers on those of `newest`.

    What was chosen before `cut_time` is fitted once more before each of `ends`, None for all hours; what answers for a
    class in the champion, `champion` by class, before the cut too.
    """

    settings: ModelSettings
    cut_time: datetime
    edges: npt.NDArray[np.datetime64]
    newest: npt.NDArray[np.datetime64]
    ends: tuple[datetime | None, ...] = (None,)
    champion: Mapping[str, Chosen] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        training: pd.DataFrame,
        cut_time: datetime,
        settings: ModelSettings,
        ends: tuple[datetime | None, ...] = (None,),
        champion: Mapping[str, Chosen] | None = None,
    ) -> ClassTask:
        """Take the blocks of all classes from the pooled model's training rows: then their errors compare."""
        blocks = settings.validation_blocks
        edges, newest = block_edges(training, blocks), newest_blocks(training, blocks)
        return cls(settings, cut_time, edges, newest, ends, champion or {})


@dataclass(frozen=True)
class ClassFit:
    """A class's model as skops bytes, rows, what was chosen, validated and held-out hours (KEYS, kWh), CPU-seconds.

    `again` are the bytes of the same choice fitted before each end of the task, `champions` those of the champion's.
    """

    hardware_class: str
    rows: int
    data: bytes
    again: Mapping[datetime | None, bytes]
    champions: Mapping[datetime | None, bytes]
    chosen: Chosen
    validated: pd.DataFrame
    held: pd.DataFrame
    cpu_s: float


@dataclass(frozen=True, slots=True)
class ClassOutcome:
    """CV(RMSE) of POOLED, KNOWN and OWN, where there are such, on the hours that all validated, and which answers."""

    hardware_class: str
    rows: int
    chosen: str
    validated_rows: int
    cv_rmse_ratio: dict[str, float]
    answers: str

    @property
    def has_own(self) -> bool:
        return self.answers == OWN


@dataclass(frozen=True)
class Recipe:
    """A composed choice without what it has learnt: the pooled model's, and who answers for which other classes."""

    pooled: Chosen
    normalised: bool
    known: Chosen | None
    by_known: tuple[str, ...]
    own: Mapping[str, Chosen]

    @property
    def name(self) -> str:
        """Return what was chosen, in words of a tag."""
        over = " over normalised power" if self.normalised else ""
        of_classes = ((self.by_known, "one in kWh"), (self.own, "their own"))
        counted = (f", {len(names)} classes by {by}" for names, by in of_classes if names)
        return f"{self.pooled.name}{over}" + "".join(counted)

    @property
    def candidates(self) -> frozenset[str]:
        """Return the names of all candidates in it."""
        every = (self.pooled, *self.own.values(), *([self.known] if self.known else []))
        return frozenset(name for chosen in every for name in chosen.weights)

    @property
    def text(self) -> str:
        """Return it as JSON: a tag of the version that is fitted by it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of_text(cls, text: str) -> Recipe:
        """Return what `text` wrote. Raises ValueError, KeyError or TypeError of anything else."""
        found = json.loads(text)
        return cls(
            Chosen(**found["pooled"]),
            bool(found["normalised"]),
            Chosen(**found["known"]) if found["known"] else None,
            tuple(found["by_known"]),
            {name: Chosen(**chosen) for name, chosen in found["own"].items()},
        )


@dataclass(frozen=True)
class Composed:
    """The product: the pooled choice with the one estimator of all routes in its place, and how the classes fared.

    `left_out_cv_rmse_ratio` is the error on a class by the pooled choice taught on all others, by class.
    """

    selected: Selected
    recipe: Recipe
    outcomes: tuple[ClassOutcome, ...]
    left_out_cv_rmse_ratio: dict[str, float]


def fit_class(hours: pd.DataFrame, task: ClassTask) -> ClassFit | None:
    """Teach one class: `hours` are its device-hours in time order; None where it has too few before the cut."""
    settings = task.settings
    training = before(hours, task.cut_time, settings.embargo_hours)
    if len(training) < settings.class_min_rows:
        return None
    started = time.process_time()
    # One thread: classes are taught beside each other, and sums of one thread have the same bits everywhere.
    with threadpool_limits(1):
        found = select(
            training, settings, _class_inputs, blocks_at(training, task.edges), len(task.edges) - 1
        )
        name = str(training["hardware_class"].iloc[0])

        def fitted_before(end: datetime | None, chosen: Chosen) -> bytes:
            rows = before(hours, end, settings.embargo_hours)
            return _bytes_of(fitted_again(chosen, rows, settings, _class_inputs(settings, rows)))

        again = {end: fitted_before(end, found.chosen) for end in task.ends}
        champions = {
            end: fitted_before(end, task.champion[name])
            for end in ((task.cut_time, *task.ends) if name in task.champion else ())
        }
        told = told_before(found.chosen, training, task.newest, settings, _class_inputs)
    validated = training.loc[told.index, list(KEYS)].assign(**{_PREDICTED: told})
    return ClassFit(
        name,
        len(training),
        _bytes_of(found.estimator),
        again,
        champions,
        found.chosen,
        validated.reset_index(drop=True),
        training.loc[found.held_kwh.index, list(KEYS)]
        .assign(**{_PREDICTED: found.held_kwh})
        .reset_index(drop=True),
        time.process_time() - started,
    )


def _bytes_of(estimator: Any) -> bytes:
    import skops.io

    return bytes(skops.io.dumps(estimator, compression=zipfile.ZIP_DEFLATED, compresslevel=1))


def fit_classes(hours: pd.DataFrame, task: ClassTask) -> list[ClassFit]:
    """Fit every class of these ordered hours, one after the other in this process."""
    groups = (rows.reset_index(drop=True) for _, rows in hours.groupby("hardware_class"))
    return [fit for fit in (fit_class(rows, task) for rows in groups) if fit is not None]


def compose(training: pd.DataFrame, settings: ModelSettings, fits: Sequence[ClassFit]) -> Composed:
    """Choose the pooled model on the training rows, let classes keep their own where it pays, make one estimator."""
    normalised = can_be_normalised(training)
    inputs_for = pooled_inputs if normalised else inputs
    pooled = select(training, settings, inputs_for)
    counts = training["hardware_class"].value_counts()
    # With one class there is nothing to pool: a model of its own is the pooled one in another unit.
    names = sorted(counts.index[counts >= settings.class_min_rows]) if len(counts) > 1 else []
    known = select(training, settings) if normalised and names else None
    told = {}
    if names:
        newest = newest_blocks(training, settings.validation_blocks)
        told[POOLED] = told_before(pooled.chosen, training, newest, settings, inputs_for)
        if known is not None:
            told[KNOWN] = told_before(known.chosen, training, newest, settings, inputs)
    validated = training[list(KEYS)].join(pd.DataFrame(told), how="inner")
    by_class = {fit.hardware_class: fit for fit in fits}
    taken = size_bytes(pooled.estimator) + (size_bytes(known.estimator) if known else 0)
    held_kwh = pooled.held_kwh.copy()
    outcomes: list[ClassOutcome] = []
    for name in sorted(names, key=lambda name: -int(counts[name])):
        here = validated[training.loc[validated.index, "hardware_class"] == name]
        fit = by_class.get(name)
        fits_in = fit is not None and taken + _unpacked_bytes(fit.data) <= _MOST_BYTES
        outcome = _judge(name, int(counts[name]), here, fit if fits_in else None, training, settings)
        outcomes.append(outcome)
        of_class = held_kwh.index[training.loc[held_kwh.index, "hardware_class"] == name]
        if outcome.answers == KNOWN and known is not None:
            held_kwh.loc[of_class] = known.held_kwh.loc[of_class]
        elif outcome.has_own and fit is not None:
            both = training.loc[of_class, list(KEYS)].merge(fit.held, how="left", on=list(KEYS))
            held_kwh.loc[of_class] = both[_PREDICTED].to_numpy()
        if outcome.has_own and fit is not None:
            taken += _unpacked_bytes(fit.data)
    outcomes.sort(key=lambda one: one.hardware_class)
    own = {one.hardware_class: by_class[one.hardware_class] for one in outcomes if one.has_own}
    by_known = tuple(one.hardware_class for one in outcomes if one.answers == KNOWN)
    recipe = Recipe(
        pooled.chosen,
        normalised,
        known.chosen if known and by_known else None,
        by_known,
        {name: fit.chosen for name, fit in own.items()},
    )
    of_own = {name: fit.data for name, fit in own.items()}
    selected = replace(
        pooled,
        estimator=_routed(recipe, pooled.estimator, known and known.estimator, of_own, training, settings),
        held_kwh=held_kwh.dropna(),
    )
    left_out = _left_out(training, pooled, settings, inputs_for) if names and normalised else {}
    return Composed(selected, recipe, tuple(outcomes), left_out)


def composed_again(
    recipe: Recipe, rows: pd.DataFrame, settings: ModelSettings, own: Mapping[str, bytes]
) -> Any:
    """Return the one estimator of the recipe, its members fitted on `rows`; `own` are the classes' own by class.

    A class of the recipe that has no model of its own any more is left to the pooled one.
    """
    inputs_for = pooled_inputs if recipe.normalised else inputs
    # A class that came without a nameplate after the cut has no place between idle and rated.
    scaled = rows[np.isfinite(idle_and_span(rows)[1])] if recipe.normalised else rows
    pooled = fitted_again(recipe.pooled, scaled, settings, inputs_for(settings, scaled))
    known = (
        None if recipe.known is None else fitted_again(recipe.known, rows, settings, inputs(settings, rows))
    )
    of_recipe = {name: data for name, data in own.items() if name in recipe.own}
    return _routed(recipe, pooled, known, of_recipe, rows, settings)


def _routed(
    recipe: Recipe,
    pooled: Any,
    known: Any,
    own: Mapping[str, bytes],
    hours: pd.DataFrame,
    settings: ModelSettings,
) -> Any:
    of_classes: dict[tuple[str, ...], Any] = {(name,): build(data) for name, data in own.items()}
    if known is not None and recipe.by_known:
        of_classes[recipe.by_known] = known
    return routed(Routes(pooled, recipe.normalised, of_classes), hours, feature_names(settings.device))


def _class_inputs(settings: ModelSettings, hours: pd.DataFrame) -> Inputs:
    names = [name for name in feature_names(settings.device) if name != "hardware_class"]
    return inputs_of(names, hours, settings.seed)


def _judge(
    name: str,
    rows: int,
    validated: pd.DataFrame,
    fit: ClassFit | None,
    training: pd.DataFrame,
    settings: ModelSettings,
) -> ClassOutcome:
    """Return the outcome of a class by the hours that were predicted before they were learnt."""
    table = validated.assign(measured=training.loc[validated.index, TARGET])
    if fit is not None and len(fit.validated):
        own = fit.validated[[*KEYS, _PREDICTED]].rename(columns={_PREDICTED: OWN})
        both = table.merge(own, how="inner", on=list(KEYS))
        table = both if len(both) else table
    cv = {
        who: found
        for who in (POOLED, KNOWN, OWN)
        if who in table
        and (found := errors(_values(table["measured"]), _values(table[who])).cv_rmse_ratio) is not None
    }
    limit = min(cv.values(), default=0.0) * (1 + settings.small_model_tolerance_ratio)
    answers = next((who for who, ratio in cv.items() if ratio <= limit), POOLED)
    chosen = fit.chosen.name if fit is not None else "-"
    return ClassOutcome(name, rows, chosen, len(table), cv, answers)


def _unpacked_bytes(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _values(column: pd.Series[float]) -> Values:
    return np.asarray(column, dtype=np.float64)


def _left_out(
    training: pd.DataFrame,
    pooled: Selected,
    settings: ModelSettings,
    inputs_for: Callable[[ModelSettings, pd.DataFrame], Inputs],
) -> dict[str, float]:
    chosen = replace(pooled.chosen, is_even=False)
    found: dict[str, float] = {}
    for name in training["hardware_class"].value_counts().index[:_MOST_LEFT_OUT]:
        others, own = (
            training[training["hardware_class"] != name],
            training[training["hardware_class"] == name],
        )
        others = others.iloc[:: -(-len(others) // _LEFT_OUT_ROWS)]
        what = inputs_for(settings, others)
        model = fitted_again(chosen, others, settings, what)
        cv = errors(_values(own[TARGET]), energy_kwh(model, what, own)).cv_rmse_ratio
        if cv is not None:
            found[str(name)] = cv
    return found
