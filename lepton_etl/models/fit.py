"""Fit a model on the earlier days of a training table and measure it on the later ones; no Spark, no storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lepton_etl.config.sections import DeviceKind, ModelSettings
from lepton_etl.models.candidates import ClassMean
from lepton_etl.models.classes import (
    ClassFit,
    ClassTask,
    Composed,
    compose,
    composed_again,
    fit_classes,
)
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
from lepton_etl.models.parity import GroupError, NoiseEffect, gaps, group_errors, noise_effects
from lepton_etl.models.promotion import (
    ForwardTest,
    ResponseDrop,
    Verdict,
    judge,
    response_drops,
    worse_beyond_chance,
    worse_scopes,
)
from lepton_etl.models.rivals import fitted_rivals, preferred
from lepton_etl.models.select import (
    OF_INVENTORY,
    ForwardSplit,
    Selected,
    before,
    held_blocks,
    inputs,
    split_forward,
)
from lepton_etl.models.stored import VerifiedModel

# The model that is registered, what validation chose where a plain rival won, and the mean, on the forward test; who is
# champion now, and the same model fitted until the champion's last hour, on the hours after that one.
MODEL: Final = "model"
LEARNED: Final = "learned"
CLASS_MEAN: Final = "class_mean"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
ON_NEWER_HOURS: Final = (CHALLENGER, CHAMPION)
# Hours that stand for the training time in explanations.
_BACKGROUND_ROWS: Final = 200

Predict = Callable[[pd.DataFrame], Values]


@dataclass(frozen=True)
class Incumbent:
    """The present champion: its mean, lower and upper end of hours (n, 3) in kWh, and the last hour it has learnt."""

    intervals: Predict
    fitted_until: datetime

    @classmethod
    def of(cls, model: VerifiedModel) -> Incumbent:
        """Take the last hour from the version's tags; before versions had it, none had learnt its own test days."""
        tags = model.version.tags
        return cls(model.intervals, datetime.fromisoformat(tags.get("fitted_until") or tags["cut_time"]))


@dataclass(frozen=True)
class Trained:
    """A fitted model, how it and its rivals did on days that they had not learnt, and what it cost.

    What was judged had learnt the `train_rows` before `cut_time`. `pipeline` is the estimator that is stored: the same
    fitted once more on all hours, those of the test too; LEARNED, that of `composed`, or the plain rival that beat it
    (`winner`). It says mean, lower and upper end; `mean` in it says the mean alone, `doubt` how its ends were found.
    Beyond `within` an input lies far outside. From `met_from` on the champion, where there is one, was met.
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
    met_from: datetime | None
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
    means_per_million: ComputeCost

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


def class_task(hours: pd.DataFrame, settings: ModelSettings, champion: Incumbent | None = None) -> ClassTask:
    """Return what whoever teaches the classes elsewhere (Spark) must know of a training on these ordered hours."""
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    assert split is not None
    met = _met_from(champion, split, settings)
    ends = (None,) if met is None or met == split.cut_time else (met, None)
    return ClassTask.of(split.train, split.cut_time, settings, ends)


def _met_from(champion: Incumbent | None, split: ForwardSplit, settings: ModelSettings) -> datetime | None:
    """Return from when on neither has learnt: of the forward test, what lies beyond the champion's last hour."""
    if champion is None:
        return None
    return max(split.cut_time, champion.fitted_until + timedelta(hours=1 + settings.embargo_hours))


def train(
    hours: pd.DataFrame,
    settings: ModelSettings,
    champion: Incumbent | None = None,
    class_fits: Sequence[ClassFit] | None = None,
) -> Trained:
    """Choose and fit on the earlier days, measure on the later ones, then fit the same once more on all of them.

    `hours` are ordered device-hours (`order_rows`) that `why_not` has nothing against. The champion has learnt its own
    test days: it meets the same model, fitted until the champion's last hour, on the hours after that one. `class_fits`
    are the classes' own models where these were taught elsewhere; without them each class is taught here on its rows of
    `hours`.
    """
    # The OpenMP runtime must be there to be limited.
    import sklearn.ensemble  # noqa: F401

    # One thread: beside other work, threads that wait for each other cost many times what they bring to so few rows.
    with threadpool_limits(1):
        return _trained(hours, settings, champion, class_fits)


def _trained(
    hours: pd.DataFrame,
    settings: ModelSettings,
    champion: Incumbent | None,
    class_fits: Sequence[ClassFit] | None,
) -> Trained:
    refuse_power_features(FEATURES[settings.device])
    names = list(feature_names(settings.device))
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    assert split is not None
    task = class_task(hours, settings, champion)
    with measured_cost() as cost:
        fits = fit_classes(hours, task) if class_fits is None else class_fits
        composed = compose(split.train, settings, fits)
        measured = _target(split.test)
        contest = _contest(composed.selected.estimator, split, settings)
        answers = {name: _predict(model, names, split.test) for name, model in contest.items()}
        winner = preferred(
            {name: errors(measured, kwh).cv_rmse_ratio for name, kwh in answers.items()},
            settings.small_model_tolerance_ratio,
        )
        judged, predicted = contest[winner], answers.pop(winner)

        def again(end: datetime | None) -> Any:
            rows = before(hours, end, settings.embargo_hours)
            if winner == LEARNED:
                return composed_again(composed, rows, end, settings, fits)
            return fitted_rivals(inputs(settings, rows), rows, settings.half_life_days)[winner]

        final = again(None)
        met = _met(champion, judged, again, split, settings)
    if class_fits is not None:
        cost = with_executors(cost, sum(fit.cpu_s for fit in class_fits))
    rows = [*_error_rows(split, predicted, answers, settings), *(met.errors(settings) if met else [])]
    held = composed.selected.held_kwh if winner == LEARNED else _held(winner, split.train, settings)
    of_held = split.train.loc[held.index]
    held_kwh = np.asarray(held, dtype=np.float64)
    doubted = doubt(_target(of_held), held_kwh, of_held["hardware_class"])
    # What is registered rests on all that was predicted before it was learnt: the test hours tell of newer days.
    told = doubt(
        np.concatenate([_target(of_held), measured]),
        np.concatenate([held_kwh, predicted]),
        pd.concat([of_held["hardware_class"], split.test["hardware_class"]]),
    )
    within = limits(hours, _watched(composed, winner, names, hours))
    complete = with_interval(final, hours, names, told, within)
    # Without hours that were held out nothing says how wide the interval is.
    groups = group_errors(split.test, measured, predicted, settings.gates.min_test_rows)
    covered = (
        coverage(measured, *doubted.ends(predicted, split.test["hardware_class"]), list(split.test["date"]))
        if np.isfinite(doubted.every).all()
        else None
    )
    drops = response_drops(lambda rows: _predict(final, names, rows), hours, names)
    taught = errors(_target(split.train), _predict(judged, names, split.train))
    result = ForwardTest(
        overall(rows, MODEL),
        taught,
        overall(rows, CLASS_MEAN),
        (overall(rows, CHALLENGER), overall(rows, CHAMPION)) if met else None,
        met is None or met.beyond_chance(),
        tuple(met.worse(settings)) if met else (),
        tuple(
            str(one)
            for one in gaps(split.test, measured, predicted, settings.gates.min_test_rows)
            if one.beyond_chance_ratio > settings.gates.parity_max_ratio
        ),
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
        met_from=met.begins if met else None,
        errors=tuple(rows),
        train_errors=taught,
        card=tuple(error_card(split.test, measured, predicted)),
        groups=tuple(groups),
        noise=tuple(
            noise_effects(lambda rows: _predict(judged, names, rows), split.test, names, settings.seed)
        ),
        doubt=told,
        within=within,
        coverage=covered,
        response_drops=tuple(drops),
        verdict=judge(result, settings.gates),
        example=split.train[names].head(5),
        background=split.train[names].iloc[:: max(1, len(split.train) // _BACKGROUND_ROWS)],
        training_cost=cost,
        per_million=joules_per_million(lambda table: _predict(complete, names, table), split.test),
        means_per_million=joules_per_million(lambda table: _predict(final, names, table), split.test),
    )


@dataclass(frozen=True)
class _Met:
    """The hours from `begins` on, which neither has learnt, with what challenger and champion predict for them, kWh."""

    begins: datetime
    hours: pd.DataFrame
    challenger_kwh: Values
    champion_kwh: Values

    def errors(self, settings: ModelSettings) -> list[ErrorRow]:
        measured, busy = _target(self.hours), is_busy(self.hours, settings.busy_utilisation_ratio)
        both = zip(ON_NEWER_HOURS, (self.challenger_kwh, self.champion_kwh), strict=True)
        return [row for name, kwh in both for row in error_table(name, self.hours, measured, kwh, busy)]

    def beyond_chance(self) -> bool:
        both = self.challenger_kwh, self.champion_kwh
        return len(self.hours) > 0 and worse_beyond_chance(self.hours, _target(self.hours), *both)

    def worse(self, settings: ModelSettings) -> list[str]:
        gates = settings.gates
        return worse_scopes(
            self.hours, _target(self.hours), self.challenger_kwh, self.champion_kwh,
            tolerance_ratio=gates.scope_tolerance_ratio, min_rows=gates.min_test_rows,
        )  # fmt: skip


def _met(
    champion: Incumbent | None,
    judged: Any,
    again: Callable[[datetime | None], Any],
    split: ForwardSplit,
    settings: ModelSettings,
) -> _Met | None:
    begins = _met_from(champion, split, settings)
    if champion is None or begins is None:
        return None
    names = list(feature_names(settings.device))
    hours = split.test[split.test["hour_start"] >= begins].reset_index(drop=True)
    if hours.empty:
        return _Met(begins, hours, np.zeros(0), np.zeros(0))
    challenger = judged if begins == split.cut_time else again(begins)
    theirs = champion.intervals(hours[names])[:, 0]
    return _Met(begins, hours, _predict(challenger, names, hours), theirs)


def _target(hours: pd.DataFrame) -> Values:
    return hours[TARGET].to_numpy(dtype=np.float64)


def _predict(estimator: Any, names: list[str], rows: pd.DataFrame) -> Values:
    return np.asarray(estimator.predict(rows[names]), dtype=np.float64)


def _contest(learned: Any, split: ForwardSplit, settings: ModelSettings) -> dict[str, Any]:
    """Return who faces the forward test for the alias, from small to large: the plain models and what was learned."""
    return fitted_rivals(inputs(settings, split.train), split.train, settings.half_life_days) | {
        LEARNED: learned
    }


def _error_rows(
    split: ForwardSplit,
    predicted: Values,
    rivals: dict[str, Values],
    settings: ModelSettings,
) -> list[ErrorRow]:
    """Return errors of the model and its rivals; by node too but for rivals that are not the best one."""
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
    return [row for table in tables.values() for row in table]


def _squares(measured: Values, predicted: Values) -> float:
    return float(((measured - predicted) ** 2).sum())


def _held(rival: str, train: pd.DataFrame, settings: ModelSettings) -> pd.Series[float]:
    """Return what the rival, fitted before it, predicts for the newest block of the training days, kWh by row."""
    block = held_blocks(train, settings.validation_blocks)
    past, here = train[block < block.max()], train[block == block.max()]
    model = fitted_rivals(inputs(settings, past), past, settings.half_life_days).get(rival)
    if model is None:
        return pd.Series(dtype=np.float64)
    return pd.Series(np.maximum(model.predict(here), 0.0), index=here.index)


def _watched(composed: Composed, winner: str, names: list[str], train: pd.DataFrame) -> list[str]:
    """Return the numbers whose range counts: a pool over normalised power is made for nameplates never seen."""
    free = OF_INVENTORY if winner == LEARNED and composed.normalised else frozenset()
    return [name for name in names if name not in free and pd.api.types.is_numeric_dtype(train[name])]
