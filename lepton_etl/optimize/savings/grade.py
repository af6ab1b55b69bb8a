"""The grade of a change that was applied: what it was expected to save, what it saved, and whether that is proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from lepton_etl.confidence import CONFIDENCE
from lepton_etl.optimize.savings.baseline import Baseline, Period, fit_baseline
from lepton_etl.optimize.savings.bootstrap import saving_interval
from lepton_etl.optimize.savings.guideline14 import (
    Floats,
    Resolution,
    fractional_uncertainty,
    saving_error_kwh,
)

Verdict = Literal["proven", "not proven", "loss", "insufficient baseline", "outside support"]

DAYS_PER_MONTH: Final = 365.25 / 12


@dataclass(frozen=True, slots=True)
class SavingSettings:
    """Gates and limits. CV(RMSE) is that of ASHRAE Guideline 14's whole-building path for less than a year of
    reporting, the bias that of its calibrated models; both are held by parts of the baseline that were left out.
    """

    confidence: float = CONFIDENCE
    cv_rmse_max_ratio: float = 0.20
    nmbe_max_ratio: float = 0.05
    fractional_uncertainty_max_ratio: float = 0.5
    guideline14_required: bool = False
    """Whether Guideline 14's fractional uncertainty must keep the limit too, or only stands beside."""
    baseline_min_days: int = 60
    reported_min_days: int = 14
    beyond_range_ratio: float = 0.1
    """How far outside the baseline's range a point may lie: work below its minimum or above its maximum by this share
    of either (110 % and 90 %, Guideline 14), weather by this share of the range's width, having no true zero.
    """
    beyond_days_max_ratio: float = 0.1
    """Share of the reporting points that may lie further out."""
    seed: int = 2025


@dataclass(frozen=True, slots=True)
class Grade:
    """kWh over the reporting period. A figure that the verdict leaves unknown is None.

    `lower_kwh` and `upper_kwh` are the two-sided interval of the block bootstrap, `fractional_uncertainty` is half its
    width over the saving (or loss); the `guideline14_*` figures stand beside them. `reason` is empty where none is
    needed.
    """

    verdict: Verdict
    reason: str
    baseline_points: int
    reported_points: int
    realised_kwh: float
    expected_kwh: float | None = None
    saving_kwh: float | None = None
    saving_ratio: float | None = None
    lower_kwh: float | None = None
    upper_kwh: float | None = None
    block_days: int | None = None
    fractional_uncertainty: float | None = None
    guideline14_error_kwh: float | None = None
    guideline14_fractional_uncertainty: float | None = None
    cv_rmse_ratio: float | None = None
    nmbe_ratio: float | None = None
    autocorrelation: float | None = None
    model: str | None = None

    @property
    def proven(self) -> bool:
        return self.verdict == "proven"


def grade_saving(
    before: Period,
    after: Period,
    resolution: Resolution = "daily",
    settings: SavingSettings | None = None,
    baseline: Baseline | None = None,
) -> Grade:
    """Option C or D: the energy that `after` would have used by the baseline of `before`, less what it used.

    Proven: the lower bound is above 0 and half the interval's width below the limit's share of the saving. A loss is
    claimed by the same proof, mirrored. A `baseline` already fitted to `before` spares fitting it again. Raises
    ValueError where `after` does not lie wholly behind `before`.
    """
    settings = settings or SavingSettings()
    if len(before) and len(after) and after.day[0] <= before.day[-1]:
        raise ValueError("savings: the reporting period begins before the baseline ends")
    realised = float(after.energy_kwh.sum())
    counts = (len(before), len(after), realised)
    days, reported_days = len(np.unique(before.day)), len(np.unique(after.day))
    if days < settings.baseline_min_days or reported_days < settings.reported_min_days:
        return Grade("insufficient baseline", f"{days} days before, {reported_days} days after", *counts)
    baseline = baseline or fit_baseline(before)
    if baseline is None:
        return Grade("insufficient baseline", "energy cannot be told from work", *counts)
    outside = _outside(baseline, after, settings)
    refusal = _gate(baseline, settings)
    if refusal or outside:
        return Grade(
            "insufficient baseline" if refusal else "outside support", refusal or outside, *counts,
            cv_rmse_ratio=baseline.cv_rmse_ratio, nmbe_ratio=baseline.nmbe_ratio,
            autocorrelation=baseline.errors.autocorrelation, model=_name(baseline),
        )  # fmt: skip
    return _graded(baseline, after, resolution, settings)


def _graded(baseline: Baseline, after: Period, resolution: Resolution, settings: SavingSettings) -> Grade:
    realised = float(after.energy_kwh.sum())
    expected = float(baseline.expected_kwh(after).sum())
    saving = expected - realised
    interval = saving_interval(
        saving, _by_day(baseline.form.design(baseline.period), baseline.period),
        _by_day(baseline.left_out_residuals_kwh[:, None], baseline.period)[:, 0],
        _by_day(baseline.form.design(after), after), settings.seed, settings.confidence,
    )  # fmt: skip
    months = len(np.unique(after.day)) / DAYS_PER_MONTH
    error = saving_error_kwh(baseline.errors, expected, len(after), months, resolution, settings.confidence)
    uncertainty = fractional_uncertainty((interval.upper_kwh - interval.lower_kwh) / 2, abs(saving))
    beside = fractional_uncertainty(error, abs(saving))
    decisive = max(uncertainty, beside) if settings.guideline14_required else uncertainty
    verdict, reason = judged(interval.lower_kwh, interval.upper_kwh, decisive, settings)
    return Grade(
        verdict, reason, len(baseline.period), len(after), realised, expected, saving,
        saving / expected if expected > 0 else None, interval.lower_kwh, interval.upper_kwh, interval.block_days,
        _known(uncertainty), _known(error), _known(beside),
        baseline.cv_rmse_ratio, baseline.nmbe_ratio, baseline.errors.autocorrelation, _name(baseline),
    )  # fmt: skip


def judged(
    lower_kwh: float, upper_kwh: float, uncertainty: float, settings: SavingSettings
) -> tuple[Verdict, str]:
    """A saving or a loss is claimed by the same proof; all else is not proven, and says why."""
    if lower_kwh <= 0 <= upper_kwh:
        return "not proven", "the interval holds 0"
    if uncertainty >= settings.fractional_uncertainty_max_ratio:
        return "not proven", f"fractional uncertainty {uncertainty:.0%}"
    return ("proven" if lower_kwh > 0 else "loss"), ""


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _gate(baseline: Baseline, settings: SavingSettings) -> str:
    if baseline.cv_rmse_ratio > settings.cv_rmse_max_ratio:
        return f"CV(RMSE) {baseline.cv_rmse_ratio:.1%} above {settings.cv_rmse_max_ratio:.0%}"
    if abs(baseline.nmbe_ratio) > settings.nmbe_max_ratio:
        return f"NMBE {baseline.nmbe_ratio:+.1%} outside {settings.nmbe_max_ratio:.0%}"
    return ""


def _outside(baseline: Baseline, after: Period, settings: SavingSettings) -> str:
    """Which variable of the model leaves the baseline's range for too many of the reporting points; else empty."""
    checked: list[tuple[str, Floats, Floats | None]] = [("work", baseline.period.work, after.work)]
    if baseline.form.weather and baseline.period.weather_c is not None:
        checked.append(("weather", baseline.period.weather_c, after.weather_c))
    for name, known, met in checked:
        if met is None:
            return f"{name} unknown in the reporting period"
        low, high = float(known.min()), float(known.max())
        below, above = (low, high) if name == "work" else (high - low, high - low)
        beyond = settings.beyond_range_ratio
        share = float(((met < low - beyond * below) | (met > high + beyond * above)).mean())
        if share > settings.beyond_days_max_ratio:
            return f"{name} outside the baseline's range in {share:.0%} of the points"
    return ""


def _by_day(values: Floats, period: Period) -> Floats:
    """Sums by day, (days, p)."""
    _, whose = np.unique(period.day, return_inverse=True)
    sums = np.zeros((int(whose.max()) + 1, values.shape[1]))
    np.add.at(sums, whose, values)
    return sums


def _name(baseline: Baseline) -> str:
    form = baseline.form
    terms = ["work" if form.work_bend is None else f"work with a bend at {form.work_bend:.3g}"]
    if form.weather:
        warm = "weather" if form.weather_bend_c is None else f"weather above {form.weather_bend_c:.1f} degC"
        terms.append(f"{warm} times work" if form.weather_by_work else warm)
    return " + ".join(terms)
