"""Fit a model on the earlier days of a training table and measure it on the later ones; no Spark, no storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lepton_etl.config.sections import DeviceKind, ModelSettings
from lepton_etl.models.candidates import ClassMean
from lepton_etl.models.classes import ClassFit, ClassTask, Composed, compose, fit_classes
from lepton_etl.models.features import FEATURES, KEYS, TARGET, feature_names, refuse_power_features
from lepton_etl.models.footprint import ComputeCost, joules_per_million, measured_cost, with_executors
from lepton_etl.models.interval import Doubt, doubt, limits, mean_of, with_interval
from lepton_etl.models.metrics import (
    CardRow,
    Coverage,
    ErrorRow,
    Errors,
    Values,
    coverage,
    error_card,
    error_table,
    errors,
    is_busy,
    overall,
)
from lepton_etl.models.parity import GroupError, NoiseEffect, disparities, group_errors, noise_effects
from lepton_etl.models.promotion import (
    ForwardTest,
    ResponseDrop,
    Verdict,
    judge,
    response_drops,
    worse_scopes,
)
from lepton_etl.models.rivals import fitted_rivals, preferred
from lepton_etl.models.select import (
    OF_INVENTORY,
    ForwardSplit,
    Selected,
    held_blocks,
    inputs,
    split_forward,
)

# The model that is registered, what validation chose where a plain rival won, the mean, and who is champion now.
MODEL: Final = "model"
LEARNED: Final = "learned"
CLASS_MEAN: Final = "class_mean"
CHAMPION: Final = "champion"
# Hours that stand for the training time in explanations.
_BACKGROUND_ROWS: Final = 200

Predict = Callable[[pd.DataFrame], Values]


@dataclass(frozen=True)
class Trained:
    """A fitted model, what it was fitted on, how it and its rivals did on the days after, and what it cost.

    `pipeline` is the estimator that is stored: LEARNED, that of `composed`, or the plain rival that beat it (`winner`).
    It says mean, lower and upper end; `mean` in it says the mean alone, `doubt` how its ends were found. Beyond
    `within` an input lies far outside.
    """

    composed: Composed
    winner: str
    pipeline: Any
    table_sha256: str
    train_rows: int
    test_rows: int
    cut_time: datetime
    train_from: datetime
    test_until: datetime
    errors: tuple[ErrorRow, ...]
    train_errors: Errors
    card: tuple[CardRow, ...]
    groups: tuple[GroupError, ...]
    noise: tuple[NoiseEffect, ...]
    doubt: Doubt
    within: dict[str, tuple[float, float]]
    coverage: Coverage | None
    response_drops: tuple[ResponseDrop, ...]
    verdict: Verdict
    example: pd.DataFrame
    background: pd.DataFrame
    training_cost: ComputeCost
    per_million: ComputeCost

    @property
    def selected(self) -> Selected:
        return self.composed.selected

    @property
    def name(self) -> str:
        """Return what is stored, in words of a tag."""
        return self.composed.name if self.winner == LEARNED else self.winner

    @property
    def mean(self) -> Any:
        """Return the estimator of the mean alone, for explanations and other runtimes."""
        return mean_of(self.pipeline)

    @property
    def cpu_s(self) -> float:
        return self.training_cost.cpu_s

    def refused(self, reason: str) -> Trained:
        """Return the same model with one more reason against promotion."""
        return replace(self, verdict=Verdict(False, (*self.verdict.reasons, reason)))


def order_rows(hours: pd.DataFrame) -> pd.DataFrame:
    """Return rows in time order, ties by key: the order in which a forest draws its samples must not vary."""
    return hours.sort_values(
        ["hour_start", *[k for k in KEYS if k != "hour_start"]], kind="stable"
    ).reset_index(drop=True)


def table_sha256(hours: pd.DataFrame, device: DeviceKind) -> str:
    """Return SHA-256 of keys, target and features of the ordered rows, to the last bit."""
    digest = sha256()
    for name in (*KEYS, TARGET, *feature_names(device)):
        column = hours[name]
        digest.update(f"{name}:{len(column)}\n".encode())
        if pd.api.types.is_float_dtype(column):
            digest.update(np.ascontiguousarray(column.to_numpy(dtype="<f8")).tobytes())
        elif name == "hour_start":
            digest.update(column.to_numpy(dtype="datetime64[us]").astype("<i8").tobytes())
        else:
            digest.update("\x1f".join("" if pd.isna(v) else f"={v}" for v in column).encode())
    return digest.hexdigest()


def training_key(table_hash: str, settings: ModelSettings) -> str:
    """Return what makes two trainings the same: the table, the features and the settings of the model."""
    text = "\n".join([table_hash, settings.model_dump_json(), *feature_names(settings.device)])
    return sha256(text.encode()).hexdigest()


def why_not(hours: pd.DataFrame, settings: ModelSettings) -> str | None:
    """Return why this table cannot train a model, or None."""
    if len(hours) < settings.min_rows:
        return f"{len(hours):,} {settings.device} hours with energy, {settings.min_rows:,} needed"
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    if split is None:
        return "one day of data, a forward split needs two"
    if len(split.train) < settings.min_rows // 2:
        return (
            f"{len(split.train):,} hours before {split.cut_time:%Y-%m-%d}, {settings.min_rows // 2:,} needed"
        )
    return None


def class_task(hours: pd.DataFrame, settings: ModelSettings) -> ClassTask:
    """Return what whoever teaches the classes elsewhere (Spark) must know of a training on these ordered hours."""
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    assert split is not None
    return ClassTask.of(split.train, split.cut_time, settings)


def train(
    hours: pd.DataFrame,
    settings: ModelSettings,
    champion: Predict | None = None,
    class_fits: Sequence[ClassFit] | None = None,
) -> Trained:
    """Choose and fit on the earlier days; measure the model, its baselines and the champion on the later ones.

    `hours` are ordered device-hours (`order_rows`) that `why_not` has nothing against. The model registered
    is the one that was tested: it is not fitted again on the test days. `class_fits` are the classes' own models where
    these were taught elsewhere; without them each class is taught here on its rows of `hours`.
    """
    # The OpenMP runtime must be there to be limited.
    import sklearn.ensemble  # noqa: F401

    # One thread: beside other work, threads that wait for each other cost many times what they bring to so few rows.
    with threadpool_limits(1):
        return _trained(hours, settings, champion, class_fits)


def _trained(
    hours: pd.DataFrame,
    settings: ModelSettings,
    champion: Predict | None,
    class_fits: Sequence[ClassFit] | None,
) -> Trained:
    refuse_power_features(FEATURES[settings.device])
    names = list(feature_names(settings.device))
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    assert split is not None
    with measured_cost() as cost:
        fits = class_fits
        if fits is None:
            fits = fit_classes(hours, ClassTask.of(split.train, split.cut_time, settings))
        composed = compose(split.train, settings, fits)
    if class_fits is not None:
        cost = with_executors(cost, sum(fit.cpu_s for fit in class_fits))
    measured = _target(split.test)
    contest = _contest(composed.selected.estimator, split, settings)
    answers = {name: _predict(model, names, split.test) for name, model in contest.items()}
    winner = preferred(
        {name: errors(measured, kwh).cv_rmse_ratio for name, kwh in answers.items()},
        settings.small_model_tolerance_ratio,
    )
    estimator, predicted = contest[winner], answers.pop(winner)

    def predict(rows: pd.DataFrame) -> Values:
        return _predict(estimator, names, rows)

    theirs = champion(split.test[names]) if champion is not None else None
    rows = _error_rows(split, predicted, answers, theirs, settings)
    held = composed.selected.held_kwh if winner == LEARNED else _held(winner, split.train, settings)
    of_held = split.train.loc[held.index]
    doubted = doubt(_target(of_held), np.asarray(held, dtype=np.float64), of_held["hardware_class"])
    within = limits(split.train, _watched(composed, winner, names, split.train))
    complete = with_interval(estimator, split.train, names, doubted, within)
    # Without hours that were held out nothing says how wide the interval is, and nothing is judged by it.
    groups = group_errors(split.test, measured, predicted, settings.gates.min_test_rows)
    covered = (
        coverage(measured, *doubted.ends(predicted, split.test["hardware_class"]), list(split.test["date"]))
        if np.isfinite(doubted.every).all()
        else None
    )
    drops, taught = (
        response_drops(predict, split.train, names),
        errors(_target(split.train), predict(split.train)),
    )
    result = ForwardTest(
        overall(rows, MODEL),
        taught,
        overall(rows, CLASS_MEAN),
        overall(rows, CHAMPION) if theirs is not None else None,
        tuple(_worse(split.test, measured, predicted, theirs, settings)),
        tuple(disparities(groups, split.test, settings.gates.parity_max_ratio)),
        covered,
        tuple(drops),
    )
    return Trained(
        composed=composed,
        winner=winner,
        pipeline=complete,
        table_sha256=table_sha256(hours, settings.device),
        train_rows=len(split.train),
        test_rows=len(split.test),
        cut_time=split.cut_time,
        train_from=split.train["hour_start"].min().to_pydatetime(),
        test_until=split.test["hour_start"].max().to_pydatetime(),
        errors=tuple(rows),
        train_errors=taught,
        card=tuple(error_card(split.test, measured, predicted)),
        groups=tuple(groups),
        noise=tuple(noise_effects(predict, split.test, names, settings.seed)),
        doubt=doubted,
        within=within,
        coverage=covered,
        response_drops=tuple(drops),
        verdict=judge(result, settings.gates),
        example=split.train[names].head(5),
        background=split.train[names].iloc[:: max(1, len(split.train) // _BACKGROUND_ROWS)],
        training_cost=cost,
        per_million=joules_per_million(lambda table: _predict(complete, names, table), split.test),
    )


def _target(hours: pd.DataFrame) -> Values:
    return hours[TARGET].to_numpy(dtype=np.float64)


def _predict(estimator: Any, names: list[str], rows: pd.DataFrame) -> Values:
    return np.asarray(estimator.predict(rows[names]), dtype=np.float64)


def _contest(learned: Any, split: ForwardSplit, settings: ModelSettings) -> dict[str, Any]:
    """Return who faces the forward test for the alias, from small to large: the plain models and what was learned."""
    return fitted_rivals(inputs(settings, split.train), split.train) | {LEARNED: learned}


def _error_rows(
    split: ForwardSplit,
    predicted: Values,
    rivals: dict[str, Values],
    theirs: Values | None,
    settings: ModelSettings,
) -> list[ErrorRow]:
    """Return errors of the model, its rivals and the champion; by node too but for rivals that are not the best one."""
    test, measured = split.test, _target(split.test)
    busy = is_busy(test, settings.busy_utilisation_ratio)
    mean = ClassMean().fit(split.train, _target(split.train))
    tables = {
        name: error_table(name, test, measured, kwh, busy, by_node=False)
        for name, kwh in (rivals | {CLASS_MEAN: mean.predict(test)}).items()
    }
    best = min(rivals, key=lambda name: _squares(measured, rivals[name]), default=CLASS_MEAN)
    if best in rivals:
        tables[best] = error_table(best, test, measured, rivals[best], busy)
    tables = {MODEL: error_table(MODEL, test, measured, predicted, busy)} | tables
    if theirs is not None:
        tables[CHAMPION] = error_table(CHAMPION, test, measured, theirs, busy)
    return [row for table in tables.values() for row in table]


def _squares(measured: Values, predicted: Values) -> float:
    return float(((measured - predicted) ** 2).sum())


def _held(rival: str, train: pd.DataFrame, settings: ModelSettings) -> pd.Series[float]:
    """Return what the rival, fitted before it, predicts for the newest block of the training days, kWh by row."""
    block = held_blocks(train, settings.validation_blocks)
    past, here = train[block < block.max()], train[block == block.max()]
    model = fitted_rivals(inputs(settings, past), past).get(rival)
    if model is None:
        return pd.Series(dtype=np.float64)
    return pd.Series(np.maximum(model.predict(here), 0.0), index=here.index)


def _watched(composed: Composed, winner: str, names: list[str], train: pd.DataFrame) -> list[str]:
    """Return the numbers whose range counts: a pool over normalised power is made for nameplates never seen."""
    free = OF_INVENTORY if winner == LEARNED and composed.normalised else frozenset()
    return [name for name in names if name not in free and pd.api.types.is_numeric_dtype(train[name])]


def _worse(
    test: pd.DataFrame, measured: Values, predicted: Values, theirs: Values | None, settings: ModelSettings
) -> list[str]:
    if theirs is None:
        return []
    gates = settings.gates
    return worse_scopes(
        test, measured, predicted, theirs,
        tolerance_ratio=gates.scope_tolerance_ratio, min_rows=gates.min_test_rows,
    )  # fmt: skip
