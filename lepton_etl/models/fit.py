"""Fit a model on the earlier days of a training table and measure it on the later ones; no Spark, no storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any, Final

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lepton_etl.config.sections import DeviceKind, ModelSettings
from lepton_etl.models.candidates import ClassMean, can_be_normalised
from lepton_etl.models.classes import (
    ClassFit,
    ClassTask,
    Composed,
    Recipe,
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
from lepton_etl.models.rivals import RIVALS, fitted_rivals, preferred
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

# The model that is registered, what validation chose where another won, the champion's recipe fitted anew, and the
# mean, on the forward test; who is champion now, and the same model fitted until the champion's last hour, on the hours
# after that one.
MODEL: Final = "model"
LEARNED: Final = "learned"
RECIPE: Final = "champion_recipe"
CLASS_MEAN: Final = "class_mean"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
ON_NEWER_HOURS: Final = (CHALLENGER, CHAMPION)
# The tag of a version that says how it was chosen, for the next training to fit it anew.
RECIPE_TAG: Final = "recipe"
# Hours that stand for the training time in explanations.
_BACKGROUND_ROWS: Final = 200

Predict = Callable[[pd.DataFrame], Values]


@dataclass(frozen=True)
class Incumbent:
    """The present champion: its mean, lower and upper end of hours (n, 3) in kWh, and the last hour it has learnt.

    `recipe` is how it was chosen, of a plain model its name; None of versions that do not say.
    """

    intervals: Predict
    fitted_until: datetime
    recipe: Recipe | str | None = None

    @classmethod
    def of(cls, model: VerifiedModel) -> Incumbent:
        """Take the last hour from the version's tags; before versions had it, none had learnt its own test days."""
        tags = model.version.tags
        until = datetime.fromisoformat(tags.get("fitted_until") or tags["cut_time"])
        return cls(model.intervals, until, recipe_of(tags.get(RECIPE_TAG, "")))


def recipe_of(text: str) -> Recipe | str | None:
    """Return the recipe of a version's tag, None where it is none of this code."""
    if text in RIVALS:
        return text
    try:
        return Recipe.of_text(text)
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class RefusedChoice:
    """A new choice in whose place the champion's recipe was fitted: why, and its estimator of the mean on all hours."""

    name: str
    reason: str
    mean: Any


@dataclass(frozen=True)
class Trained:
    """A fitted model, how it and its rivals did on days that they had not learnt, and what it cost.

    What was judged had learnt the `train_rows` before `cut_time`. `pipeline` is the estimator that is stored: the same
    fitted once more on all hours, those of the test too, by `recipe`; LEARNED, that of `composed`, the plain rival that
    beat it, or RECIPE, the champion's, where the new choice was refused (`winner`, `refused_choice`). It says mean,
    lower and upper end; `mean` in it says the mean alone, `doubt` how its ends were found. Beyond `within` an input
    lies far outside. From `met_from` on the champion, where there is one, was met.
    """

    composed: Composed
    winner: str
    recipe: Recipe | str
    refused_choice: RefusedChoice | None
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
        return _name(self.recipe)

    @property
    def decision(self) -> str:
        """Return what became of it, in words."""
        if not self.verdict.promoted:
            return f"refused: {self.verdict.reason}"
        if self.refused_choice is None:
            return "is champion"
        new = self.refused_choice
        again = "is champion by the champion's recipe, fitted anew on all days"
        return f"{again}; new choice ({new.name}) refused: {new.reason}"

    @property
    def recipe_text(self) -> str:
        """Return the recipe as the text of RECIPE_TAG."""
        return self.recipe if isinstance(self.recipe, str) else self.recipe.text

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
    recipe = champion.recipe if champion else None
    own = recipe.own if isinstance(recipe, Recipe) and _can_be_fitted(recipe, split, settings) else {}
    return ClassTask.of(split.train, split.cut_time, settings, ends, own)


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
    test days: it meets the same model, fitted until the champion's last hour, on the hours after that one. Its recipe
    is tried where the new choice is refused, so that the newer hours are learnt all the same. `class_fits`
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
        contest = _Contest.of(hours, split, composed, fits, champion, settings)
        tried = contest.tried(LEARNED)
        if not tried.verdict.promoted and (of_recipe := contest.with_recipe()) is not None:
            # What is refused is the new choice: a champion that is kept never learns the newer hours.
            kept = of_recipe.tried(RECIPE)
            is_recipe = champion is not None and kept.recipe == champion.recipe
            tried = replace(kept, refused=tried) if is_recipe and kept.verdict.promoted else tried
    if class_fits is not None:
        cost = with_executors(cost, sum(fit.cpu_s for fit in class_fits))
    measured, predicted = _target(split.test), tried.predicted
    held = tried.held(composed, split.train, settings)
    of_held = split.train.loc[held.index]
    held_kwh = np.asarray(held, dtype=np.float64)
    doubted = doubt(_target(of_held), held_kwh, of_held["hardware_class"])
    # What is registered rests on all that was predicted before it was learnt: the test hours tell of newer days.
    told = doubt(
        np.concatenate([_target(of_held), measured]),
        np.concatenate([held_kwh, predicted]),
        pd.concat([of_held["hardware_class"], split.test["hardware_class"]]),
    )
    within = limits(hours, _watched(tried.recipe, names, hours))
    complete = with_interval(tried.final, hours, names, told, within)
    # Without hours that were held out nothing says how wide the interval is.
    covered = (
        coverage(measured, *doubted.ends(predicted, split.test["hardware_class"]), list(split.test["date"]))
        if np.isfinite(doubted.every).all()
        else None
    )
    return Trained(
        composed=composed,
        winner=tried.winner,
        recipe=tried.recipe,
        refused_choice=None if tried.refused is None else tried.refused.as_refused(),
        pipeline=complete,
        table_sha256=table_sha256(hours, settings.device),
        train_rows=len(split.train),
        test_rows=len(split.test),
        cut_time=split.cut_time,
        train_from=split.train["hour_start"].min().to_pydatetime(),
        test_until=split.test["hour_start"].max().to_pydatetime(),
        met_from=tried.met.begins if tried.met else None,
        errors=tuple(tried.errors),
        train_errors=tried.taught,
        card=tuple(error_card(split.test, measured, predicted)),
        groups=tuple(group_errors(split.test, measured, predicted, settings.gates.min_test_rows)),
        noise=tuple(
            noise_effects(lambda rows: _predict(tried.judged, names, rows), split.test, names, settings.seed)
        ),
        doubt=told,
        within=within,
        coverage=covered,
        response_drops=tried.drops,
        verdict=tried.verdict,
        example=split.train[names].head(5),
        background=split.train[names].iloc[:: max(1, len(split.train) // _BACKGROUND_ROWS)],
        training_cost=cost,
        per_million=joules_per_million(lambda table: _predict(complete, names, table), split.test),
        means_per_million=joules_per_million(lambda table: _predict(tried.final, names, table), split.test),
    )


@dataclass(frozen=True)
class _Tried:
    """Who won among the plain models and one other, and the verdict on it; `refused` is what was tried before.

    `judged` is fitted on the hours before the test, `predicted` what it says of those of the test, kWh; `final` is
    fitted on all.
    """

    winner: str
    recipe: Recipe | str
    judged: Any
    final: Any
    predicted: Values
    errors: list[ErrorRow]
    taught: Errors
    met: _Met | None
    drops: tuple[ResponseDrop, ...]
    verdict: Verdict
    refused: _Tried | None = None

    @property
    def name(self) -> str:
        return _name(self.recipe)

    def as_refused(self) -> RefusedChoice:
        return RefusedChoice(self.name, self.verdict.reason, self.final)

    def held(self, composed: Composed, train: pd.DataFrame, settings: ModelSettings) -> pd.Series[float]:
        """Return what was predicted for the newest block of the training days from those before, kWh by row.

        Of the champion's recipe it is not known: its ends rest on the test alone.
        """
        if self.winner == LEARNED:
            return composed.selected.held_kwh
        return pd.Series(dtype=np.float64) if self.winner == RECIPE else _held(self.winner, train, settings)


@dataclass(frozen=True)
class _Contest:
    """All that face the forward test, fitted on the hours before it, and what each predicts for its hours.

    The plain models, what was learned, and the champion's recipe where it is asked for.
    """

    hours: pd.DataFrame
    split: ForwardSplit
    composed: Composed
    fits: Sequence[ClassFit]
    champion: Incumbent | None
    settings: ModelSettings
    names: list[str]
    fitted: Mapping[str, Any]
    answers: Mapping[str, Values]

    @classmethod
    def of(
        cls,
        hours: pd.DataFrame,
        split: ForwardSplit,
        composed: Composed,
        fits: Sequence[ClassFit],
        champion: Incumbent | None,
        settings: ModelSettings,
    ) -> _Contest:
        fitted = fitted_rivals(inputs(settings, split.train), split.train, settings.half_life_days)
        fitted[LEARNED] = composed.selected.estimator
        names = list(feature_names(settings.device))
        answers = {name: _predict(model, names, split.test) for name, model in fitted.items()}
        return cls(hours, split, composed, fits, champion, settings, names, fitted, answers)

    def with_recipe(self) -> _Contest | None:
        """Return the same with the champion's recipe, None where that is the new one too or cannot be fitted."""
        recipe = self.champion.recipe if self.champion else None
        is_plain = isinstance(recipe, str) and recipe in self.fitted
        is_other = recipe != self.composed.recipe and _can_be_fitted(recipe, self.split, self.settings)
        if not is_plain and not is_other:
            return None
        model = self.again(RECIPE, self.split.cut_time)
        kwh = _predict(model, self.names, self.split.test)
        return replace(self, fitted={**self.fitted, RECIPE: model}, answers={**self.answers, RECIPE: kwh})

    def recipe(self, name: str) -> Recipe | str:
        if name == RECIPE:
            assert self.champion is not None and self.champion.recipe is not None
            return self.champion.recipe
        return self.composed.recipe if name == LEARNED else name

    def again(self, name: str, end: datetime | None) -> Any:
        """Return the same fitted on all hours before the end, all of them where there is none."""
        settings, recipe = self.settings, self.recipe(name)
        rows = before(self.hours, end, settings.embargo_hours)
        if isinstance(recipe, str):
            return fitted_rivals(inputs(settings, rows), rows, settings.half_life_days)[recipe]
        of_class = [(fit.hardware_class, fit.champions if name == RECIPE else fit.again) for fit in self.fits]
        return composed_again(
            recipe, rows, settings, {whose: found[end] for whose, found in of_class if found}
        )

    def tried(self, name: str) -> _Tried:
        """Judge `name`, or the plain model that is preferred to it."""
        settings, split, names = self.settings, self.split, self.names
        measured, gates = _target(split.test), self.settings.gates
        facing = {one: kwh for one, kwh in self.answers.items() if one in (*RIVALS, name)}
        winner = preferred(
            {one: errors(measured, kwh).cv_rmse_ratio for one, kwh in facing.items()},
            settings.small_model_tolerance_ratio,
        )
        judged, predicted, final = self.fitted[winner], self.answers[winner], self.again(winner, None)
        others = {one: kwh for one, kwh in self.answers.items() if one != winner}
        met = _met(self.champion, judged, partial(self.again, winner), split, settings)
        rows = [*_error_rows(split, predicted, others, settings), *(met.errors(settings) if met else [])]
        drops = tuple(response_drops(lambda table: _predict(final, names, table), self.hours, names))
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
                for one in gaps(split.test, measured, predicted, gates.min_test_rows)
                if one.beyond_chance_ratio > gates.parity_max_ratio
            ),
            drops,
        )
        verdict, recipe = judge(result, gates), self.recipe(winner)
        return _Tried(winner, recipe, judged, final, predicted, rows, taught, met, drops, verdict)


def _can_be_fitted(recipe: Recipe | str | None, split: ForwardSplit, settings: ModelSettings) -> bool:
    """Return whether the settings still have its candidates, and the hours the nameplates that it may ask for."""
    return (
        isinstance(recipe, Recipe)
        and recipe.candidates <= set(settings.candidates)
        and (not recipe.normalised or can_be_normalised(split.train))
    )


def _name(recipe: Recipe | str) -> str:
    return recipe if isinstance(recipe, str) else recipe.name


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


def _watched(recipe: Recipe | str, names: list[str], train: pd.DataFrame) -> list[str]:
    """Return the numbers whose range counts: a pool over normalised power is made for nameplates never seen."""
    free = OF_INVENTORY if isinstance(recipe, Recipe) and recipe.normalised else frozenset()
    return [name for name in names if name not in free and pd.api.types.is_numeric_dtype(train[name])]
