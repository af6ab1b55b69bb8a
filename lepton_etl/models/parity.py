"""Hold a model's errors against each other over hardware classes, clusters and tenants, and under noise of the sensors.

A model that is good on the whole may still be bad for a class of which there is little, or for the tenant who uses it:
the gate asks for errors that do not lie too far apart. Source of the frame: Weerts et al., Fairlearn, JMLR 24 (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl

from lepton_etl.models.features import KEYS, UNKNOWN
from lepton_etl.models.metrics import MIN_DAYS, Values
from lepton_etl.models.select import with_sensor_noise
from lepton_etl.uncertainty import cv_rmse, nmbe

# Columns of hours whose values are groups; `tenant_id` stands there where the tenant of an hour is known.
SCOPES: Final = ("hardware_class", "cluster_id", "tenant_id")
TENANT: Final = "tenant_id"
_CHANCE: Final = 0.05
_DRAWS: Final = 2_000
_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class GroupError:
    """Errors of one model on the hours of one group of a scope, ratios; None where the hours hold no energy."""

    scope: str
    group: str
    rows: int
    cv_rmse_ratio: float | None
    nmbe_ratio: float | None


def group_errors(
    hours: pd.DataFrame, measured_kwh: Values, predicted_kwh: Values, min_rows: int
) -> list[GroupError]:
    """Return the errors of each group of at least `min_rows` hours, by scope and name; arrays (n,) of `hours`, kWh.

    Hours without a tenant of their own count in no tenant's group.
    """
    # Imported with the first training: a night that trains nothing needs none of it.
    from fairlearn.metrics import MetricFrame

    found = []
    for scope in SCOPES:
        if scope not in hours:
            continue
        group = hours[scope] if scope == TENANT else hours[scope].fillna(UNKNOWN)
        counts = group.value_counts()
        asked = group.isin(counts.index[counts >= min_rows]).to_numpy()
        if not asked.any():
            continue
        frame = MetricFrame(
            metrics={"cv": _or_nan(cv_rmse), "nmbe": _or_nan(nmbe)}, y_true=measured_kwh[asked],
            y_pred=predicted_kwh[asked], sensitive_features=group[asked].astype(str).to_numpy(dtype=object),
        )  # fmt: skip
        for name, row in frame.by_group.sort_index().iterrows():
            cv, bias = (None if np.isnan(row[key]) else float(row[key]) for key in ("cv", "nmbe"))
            found.append(GroupError(scope, str(name), int(counts[name]), cv, bias))
    return found


def _or_nan(metric: Callable[[Values, Values], float | None]) -> Callable[[Values, Values], float]:
    def measured(y_true: Values, y_pred: Values) -> float:
        found = metric(np.asarray(y_true), np.asarray(y_pred))
        return float("nan") if found is None else found

    return measured


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the CV(RMSE) of the worst and the best group of a scope lie apart, and how far of it is beyond chance."""

    scope: str
    worst: str
    worst_ratio: float
    best: str
    best_ratio: float
    beyond_chance_ratio: float

    def __str__(self) -> str:
        return (
            f"{self.scope} {self.worst}: CV(RMSE) {self.worst_ratio:.1%}, {self.best} has {self.best_ratio:.1%}: "
            f"{self.beyond_chance_ratio:.1%} apart beyond chance"
        )


def gaps(hours: pd.DataFrame, measured_kwh: Values, predicted_kwh: Values, min_rows: int) -> list[Gap]:
    """Return the gap of each scope of two groups or more.

    Beyond chance is the lower end of its one-sided interval of about 95 % (t, by the spread over draws of the days;
    wider of more groups, since each pair might have been the worst and the best: Bonferroni). Hours of a day resemble
    each other, so days are drawn, and groups with hours on fewer than MIN_DAYS are not compared. Source: Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993.
    """
    from scipy.stats import t

    groups = group_errors(hours, measured_kwh, predicted_kwh, min_rows)
    days, day = np.unique(hours["date"].to_numpy(), return_inverse=True)
    weights = np.random.default_rng(_SEED).multinomial(len(days), np.full(len(days), 1 / len(days)), _DRAWS)
    found = []
    for scope in SCOPES:
        errors = []
        for one in groups:
            if one.scope != scope or one.cv_rmse_ratio is None:
                continue
            own = (hours[scope].fillna(UNKNOWN) == one.group).to_numpy()
            count = len(np.unique(day[own]))
            if count >= MIN_DAYS:
                sums = _of_days(day[own], len(days), measured_kwh[own], predicted_kwh[own])
                errors.append((one.cv_rmse_ratio, one.group, count, _cv(weights @ sums)))
        errors.sort(key=lambda error: error[:2])
        if len(errors) > 1:
            (least, best, few, of_best), (most, worst, many, of_worst) = errors[0], errors[-1]
            chance, count = _CHANCE / (len(errors) * (len(errors) - 1)), min(few, many)
            spread = float(np.nanstd(of_worst - of_best)) * sqrt(count / (count - 1))
            beyond = most - least - float(t.ppf(1 - chance, count - 1)) * spread
            found.append(Gap(scope, worst, most, best, least, beyond))
    return found


def _of_days(day: npt.NDArray[np.intp], days: int, measured_kwh: Values, predicted_kwh: Values) -> Values:
    """Return (days, 3): hours, energy and squared error of each day."""
    parts = (np.ones(len(day)), measured_kwh, (measured_kwh - predicted_kwh) ** 2)
    return np.column_stack([np.bincount(day, weights=part, minlength=days) for part in parts])


def _cv(sums: Values) -> Values:
    """Return the CV(RMSE) of hours, energy and squared error (n, 3); NaN of fewer than two hours or no energy."""
    hours, energy, squared = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((hours > 1) & (energy > 0), np.sqrt(squared / (hours - 1)) / (energy / hours), np.nan)


def with_sole_tenants(hours: pd.DataFrame, held: pl.DataFrame) -> pd.DataFrame:
    """Return the hours with `tenant_id`, the tenant that alone held something of the node in that hour, else None.

    `held` are rows of silver/job_node: site_id, cluster_id, node_id, tenant_id, from_time, to_time.
    """
    key = ["site_id", "cluster_id", "node_id", "hour_start"]
    spans = held.filter(pl.col("to_time") > pl.col("from_time")).with_columns(
        pl.datetime_ranges(
            pl.col("from_time").dt.truncate("1h"), pl.col("to_time"), "1h", closed="left"
        ).alias("hour_start")
    )
    sole = (
        spans.explode("hour_start")
        .group_by(key)
        .agg(pl.when(pl.col(TENANT).n_unique() == 1).then(pl.col(TENANT).first()))
    )
    asked = pl.from_pandas(hours[list(KEYS)]).with_columns(
        pl.col("hour_start").cast(pl.Datetime("us", "UTC"))
    )
    joined = asked.join(
        sole.cast({"hour_start": pl.Datetime("us", "UTC")}), on=key, how="left", nulls_equal=True
    )
    return hours.assign(**{TENANT: joined[TENANT].to_numpy()})


@dataclass(frozen=True, slots=True)
class NoiseEffect:
    """How far a class's predictions move under sensor noise over its mean prediction: mean and 95th percentile."""

    hardware_class: str
    rows: int
    mean_change_ratio: float
    p95_change_ratio: float


def noise_effects(
    predict: Callable[[pd.DataFrame], Values], hours: pd.DataFrame, columns: Sequence[str], seed: int
) -> list[NoiseEffect]:
    """Return how the predictions of each class change where temperatures and loads are off by what sensors resolve."""
    quiet = predict(hours)
    numbers = [name for name in columns if pd.api.types.is_numeric_dtype(hours[name])]
    moved = np.abs(predict(with_sensor_noise(hours, numbers, seed)) - quiet)
    found = []
    for name, rows in hours.groupby(
        hours["hardware_class"].fillna(UNKNOWN).astype(str), sort=True
    ).indices.items():
        level = float(quiet[rows].mean())
        if level > 0:
            change = moved[rows] / level
            found.append(
                NoiseEffect(str(name), len(rows), float(change.mean()), float(np.quantile(change, 0.95)))
            )
    return found
