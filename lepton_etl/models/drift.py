"""Detect that the world has moved away from what a model was trained on: its inputs, or its errors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.config.sections import DeviceKind
from lepton_etl.models.features import FEATURES, TARGET
from lepton_etl.models.metrics import Values, errors
from lepton_etl.models.stored import FORWARD_ERROR_TAG, VerifiedModel

# Population stability index: below 0.1 the same, above 0.25 another population.
# Source: Siddiqi, Credit Risk Scorecards (2006); ten bins by the reference's deciles.
PSI_MAX: Final = 0.25
# The errors of the newest hours against those that the version was registered with.
ERROR_GROWTH_MAX: Final = 1.5
_NEWER_MAX_RATIO: Final = 0.1
_BINS: Final = 10
_MIN_ROWS: Final = 100
_LEAST_SHARE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Drift:
    """One sign of drift: which column (or `error`), its figure and the limit that it exceeds."""

    what: str
    value: float
    limit: float

    @property
    def is_error(self) -> bool:
        """Whether the model errs more, which asks for another: inputs that moved within what it knows do not."""
        return self.what == "error"

    def __str__(self) -> str:
        if self.is_error:
            return f"CV(RMSE) is {self.value:.1f} times that of the registered test"
        return f"{self.what} has moved (PSI {self.value:.2f} above {self.limit:g})"


def drift_since(champion: VerifiedModel, hours: pd.DataFrame, device: DeviceKind) -> list[Drift]:
    """Return what has moved since the champion's test against the hours until then: errors, then inputs."""
    tested = _tested_until(champion)
    newest, before = hours[hours["hour_start"] > tested], hours[hours["hour_start"] <= tested]
    if newest.empty or before.empty:
        return []
    registered = champion.version.tags.get(FORWARD_ERROR_TAG)
    measured_kwh = newest[TARGET].to_numpy(dtype=np.float64)
    error = error_drift(measured_kwh, champion.predict(newest), float(registered) if registered else None)
    return [*error, *input_drift(before, newest, device)]


def is_young(champion: VerifiedModel, hours: pd.DataFrame, day: date, days: int) -> bool:
    """Return whether the champion knows nearly all that could be learned on `day`, by the end of its test."""
    tested = _tested_until(champion)
    newer_ratio = float((hours["hour_start"] > tested).mean())
    return knows_nearly_all((day - tested.date()).days, days, newer_ratio)


def knows_nearly_all(age_days: int, young_days: int, newer_ratio: float) -> bool:
    """Return whether a model learnt fewer than `young_days` ago, with at most a tenth of the hours new since.

    A young site learns every night. Never in a back-fill, where the age is below 0.
    """
    return 0 <= age_days < young_days and newer_ratio <= _NEWER_MAX_RATIO


def _tested_until(champion: VerifiedModel) -> pd.Timestamp:
    return pd.Timestamp(champion.version.tags.get("test_until", "1970-01-01T00:00:00+00:00"))


def stability_index(reference: Values, newest: Values) -> float | None:
    """Return the PSI of two samples (any unit) over the reference's deciles and the unknown; None where too few."""
    if min(len(reference), len(newest)) < _MIN_ROWS:
        return None
    known = reference[~np.isnan(reference)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.zeros(0)
    before, after = (_shares(values, edges) for values in (reference, newest))
    return float(((after - before) * np.log(after / before)).sum())


def input_drift(reference: pd.DataFrame, newest: pd.DataFrame, device: DeviceKind) -> list[Drift]:
    """Return the numeric features whose population has changed, largest first."""
    found = []
    for feature in FEATURES[device]:
        if feature.category:
            continue
        index = stability_index(
            *(rows[feature.name].to_numpy(dtype=np.float64) for rows in (reference, newest))
        )
        if index is not None and index > PSI_MAX:
            found.append(Drift(feature.name, index, PSI_MAX))
    return sorted(found, key=lambda one: -one.value)


def error_drift(measured_kwh: Values, predicted_kwh: Values, registered_cv: float | None) -> list[Drift]:
    """Return whether the newest hours' CV(RMSE) has outgrown that of the registered forward test."""
    if registered_cv is None or registered_cv <= 0 or len(measured_kwh) < _MIN_ROWS:
        return []
    now = errors(measured_kwh, predicted_kwh).cv_rmse_ratio
    growth = (now or 0.0) / registered_cv
    return [Drift("error", growth, ERROR_GROWTH_MAX)] if growth > ERROR_GROWTH_MAX else []


def _shares(values: Values, edges: Values) -> Values:
    """Return shares of the bins, the unknown last; an empty one counts as 1 in 10,000 for the logarithm."""
    known = values[~np.isnan(values)]
    counts = np.bincount(np.digitize(known, edges), minlength=len(edges) + 1)
    shares = np.append(counts, len(values) - len(known)) / len(values)
    return np.maximum(shares, _LEAST_SHARE)
