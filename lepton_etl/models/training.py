"""From a training table to a fitted forest with its errors on later days; no Spark, no storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from lepton_etl.models.candidates import ClassMean, Regressor, forest, linear
from lepton_etl.models.features import FEATURES, KEYS, TARGET, feature_names, refuse_power_features
from lepton_etl.models.gate import Verdict, judge
from lepton_etl.models.metrics import ErrorRow, Values, error_table, is_busy, overall
from lepton_etl.models.settings import DeviceKind, ModelSettings
from lepton_etl.models.split import ForwardSplit, split_forward

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FOREST: Final = "forest"
LINEAR: Final = "linear"
CLASS_MEAN: Final = "class_mean"
CHAMPION: Final = "champion"


@dataclass(frozen=True)
class Trained:
    """A fitted forest, what it was fitted on, and how it and its rivals did on the days after."""

    pipeline: Pipeline
    table_sha256: str
    train_rows: int
    test_rows: int
    cut_time: datetime
    train_from: datetime
    test_until: datetime
    errors: tuple[ErrorRow, ...]
    verdict: Verdict
    example: pd.DataFrame
    cpu_s: float
    predict_s: float

    def refused(self, reason: str) -> Trained:
        """The same model with one more reason against promotion."""
        return replace(self, verdict=Verdict(False, (*self.verdict.reasons, reason)))


def order_rows(hours: pd.DataFrame) -> pd.DataFrame:
    """Rows in time order, ties by key: the order in which the forest draws its samples must not vary."""
    return hours.sort_values(
        ["hour_start", *[k for k in KEYS if k != "hour_start"]], kind="stable"
    ).reset_index(drop=True)


def table_sha256(hours: pd.DataFrame, device: DeviceKind) -> str:
    """SHA-256 of keys, target and features of the ordered rows, to the last bit."""
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
    """What makes two trainings the same: the table, the features and the settings of the model."""
    text = "\n".join([table_hash, settings.model_dump_json(), *feature_names(settings.device)])
    return sha256(text.encode()).hexdigest()


def why_not(hours: pd.DataFrame, settings: ModelSettings) -> str | None:
    """Why this table cannot train a model, or None."""
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


def train(
    hours: pd.DataFrame, settings: ModelSettings, champion: Callable[[pd.DataFrame], Values] | None = None
) -> Trained:
    """Fit the forest on the earlier days and measure it, its baselines and the champion on the later ones.

    `hours` are ordered device-hours (`order_rows`) that `why_not` has nothing against. The model registered
    is the one that was tested: it is not fitted again on the test days.
    """
    refuse_power_features(FEATURES[settings.device])
    names = list(feature_names(settings.device))
    split = split_forward(hours, settings.test_ratio, settings.embargo_hours)
    assert split is not None
    started = time.process_time()
    fitted = forest(settings)
    fitted.fit(split.train[names], _target(split.train))
    cpu_s = time.process_time() - started
    started = time.perf_counter()
    fitted.predict(split.test[names])
    predict_s = time.perf_counter() - started
    rivals = {LINEAR: linear(settings.device), CLASS_MEAN: ClassMean()}
    rows = _errors_of({FOREST: fitted} | _fit(rivals, split, names), split.test, settings, names)
    if champion is not None:
        rows += _errors(CHAMPION, champion(split.test[names]), split.test, settings)
    verdict = judge(
        overall(rows, FOREST),
        overall(rows, CLASS_MEAN),
        overall(rows, CHAMPION) if champion is not None else None,
        settings.gates,
    )
    return Trained(
        pipeline=fitted,
        table_sha256=table_sha256(hours, settings.device),
        train_rows=len(split.train),
        test_rows=len(split.test),
        cut_time=split.cut_time,
        train_from=split.train["hour_start"].min().to_pydatetime(),
        test_until=split.test["hour_start"].max().to_pydatetime(),
        errors=tuple(rows),
        verdict=verdict,
        example=split.train[names].head(5),
        cpu_s=cpu_s,
        predict_s=predict_s,
    )


def _target(hours: pd.DataFrame) -> Values:
    return hours[TARGET].to_numpy(dtype=np.float64)


def _fit(rivals: dict[str, Regressor], split: ForwardSplit, names: list[str]) -> dict[str, Regressor]:
    for rival in rivals.values():
        rival.fit(split.train[names], _target(split.train))
    return rivals


def _errors(model: str, predicted: Values, test: pd.DataFrame, settings: ModelSettings) -> list[ErrorRow]:
    return error_table(model, test, _target(test), predicted, is_busy(test, settings.busy_utilisation_ratio))


def _errors_of(
    models: dict[str, Regressor], test: pd.DataFrame, settings: ModelSettings, names: list[str]
) -> list[ErrorRow]:
    return [
        row
        for name, model in models.items()
        for row in _errors(name, model.predict(test[names]), test, settings)
    ]
