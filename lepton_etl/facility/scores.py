"""Errors of a facility model on cooling + management, and the two guesses that it must beat.

Source: ASHRAE Guideline 14 (CV(RMSE) and NMBE with p = 1; the sign is measured minus predicted).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_etl.facility.hours import Floats, PlantHours
from lepton_etl.facility.settings import FacilityGates


@dataclass(frozen=True, slots=True)
class Scores:
    """Ratios over the hours of the forward test; a baseline that the hours do not allow is None."""

    hours: int
    cv_rmse_ratio: float | None
    nmbe_ratio: float | None
    it_share_cv_rmse_ratio: float | None = None
    last_week_cv_rmse_ratio: float | None = None
    week_hours_cv_rmse_ratio: float | None = None
    """The model's own CV(RMSE) on the hours that have a week before."""


def cv_rmse(measured_kwh: Floats, predicted_kwh: Floats) -> float | None:
    """sqrt(sum (m - p)^2 / (n - 1)) / mean(m); None for fewer than two hours or no energy."""
    count, mean = len(measured_kwh), float(np.mean(measured_kwh)) if len(measured_kwh) else 0.0
    if count < 2 or mean <= 0:
        return None
    return float(np.sqrt(((measured_kwh - predicted_kwh) ** 2).sum() / (count - 1))) / mean


def nmbe(measured_kwh: Floats, predicted_kwh: Floats) -> float | None:
    """sum (m - p) / ((n - 1) mean(m)); None for fewer than two hours or no energy."""
    count, mean = len(measured_kwh), float(np.mean(measured_kwh)) if len(measured_kwh) else 0.0
    if count < 2 or mean <= 0:
        return None
    return float((measured_kwh - predicted_kwh).sum()) / ((count - 1) * mean)


def score(train: PlantHours, test: PlantHours, predicted_kwh: Floats, last_week_kwh: Floats) -> Scores:
    """Errors of a prediction for the test hours, shape (n,), beside those of the baselines.

    The IT share is the training hours' overhead over their IT energy; `last_week_kwh` is NaN where unknown.
    """
    measured = test.overhead_kwh
    share = float(train.overhead_kwh.sum() / train.it_kwh.sum())
    has_week = np.isfinite(last_week_kwh)
    return Scores(
        hours=len(test),
        cv_rmse_ratio=cv_rmse(measured, predicted_kwh),
        nmbe_ratio=nmbe(measured, predicted_kwh),
        it_share_cv_rmse_ratio=cv_rmse(measured, share * test.it_kwh),
        last_week_cv_rmse_ratio=cv_rmse(measured[has_week], last_week_kwh[has_week]),
        week_hours_cv_rmse_ratio=cv_rmse(measured[has_week], predicted_kwh[has_week]),
    )


def why_refused(scores: Scores, gates: FacilityGates) -> tuple[str, ...]:
    """Every gate that the scores do not pass; empty: accepted.

    A baseline that cannot be formed is one that the model has not beaten.
    """
    cv, bias = scores.cv_rmse_ratio, scores.nmbe_ratio
    if cv is None or bias is None:
        return ("the test hours hold no overhead",)
    reasons = []
    if cv > gates.cv_rmse_max_ratio:
        reasons.append(f"CV(RMSE) {cv:.1%} above {gates.cv_rmse_max_ratio:.0%}")
    if abs(bias) > gates.nmbe_max_ratio:
        reasons.append(f"NMBE {bias:+.1%} outside {gates.nmbe_max_ratio:.0%}")
    for name, own, baseline in (
        ("a constant share of IT energy", cv, scores.it_share_cv_rmse_ratio),
        ("the same hour a week before", scores.week_hours_cv_rmse_ratio, scores.last_week_cv_rmse_ratio),
    ):
        if own is None or baseline is None:
            reasons.append(f"{name} cannot be compared with: too few hours")
        elif own > baseline * (1.0 - gates.baseline_gain_ratio):
            reasons.append(
                f"CV(RMSE) {own:.2%} not {gates.baseline_gain_ratio:.0%} below that of {name}, {baseline:.2%}"
            )
    return tuple(reasons)
