"""Measure what applied recommendations have saved: rows of gold/saving from daily energy, work and weather.

A change is graded against a baseline fitted to the days before it (IPMVP option C), or, for power caps, by the energy
per unit of work of the capped devices themselves (option B, retrofit isolation: the boundary is the device, so neither
weather nor the rest of the site has a say). A saving counts as proven only where its interval lies above 0 and is
narrow beside it; how many of a lever's promises held stands beside each row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, Final, Literal

import numpy as np
import polars as pl

from lepton_etl.recommend.baseline import (
    Baseline,
    Floats,
    Period,
    block_days,
    blocks,
    fit_baseline,
    fractional_uncertainty,
    saving_error_kwh,
    saving_interval,
    small_sample_factor,
)
from lepton_etl.uncertainty import CONFIDENCE, Estimate

Verdict = Literal["proven", "not proven", "loss", "insufficient baseline", "outside support"]


@dataclass(frozen=True, slots=True)
class SavingSettings:
    """Gates and limits. CV(RMSE) is that of ASHRAE Guideline 14's whole-building path for less than a year of
    reporting, the bias that of its calibrated models; both are held by parts of the baseline that were left out.
    """

    confidence: float = CONFIDENCE
    cv_rmse_max_ratio: float = 0.20
    nmbe_max_ratio: float = 0.05
    fractional_uncertainty_max_ratio: float = 0.5
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

    The saving's interval is that of the block bootstrap, `fractional_uncertainty` half its width over the saving (or
    loss); Guideline 14's stands beside it. `reason` is empty where none is needed.
    """

    verdict: Verdict
    reason: str
    realised_kwh: float
    expected_kwh: float | None = None
    saving_kwh: Estimate | None = None
    fractional_uncertainty: float | None = None
    guideline14_fractional_uncertainty: float | None = None
    cv_rmse_ratio: float | None = None
    nmbe_ratio: float | None = None

    @property
    def proven(self) -> bool:
        return self.verdict == "proven"


def grade_saving(
    before: Period, after: Period, settings: SavingSettings | None = None, baseline: Baseline | None = None
) -> Grade:
    """Grade by IPMVP option C or D: the energy that `after` would have used by the baseline of `before`, less its own.

    Proven: the lower bound is above 0 and half the interval's width below the limit's share of the saving. A loss is
    claimed by the same proof, mirrored. A `baseline` already fitted to `before` spares fitting it again. Raises
    ValueError where `after` does not lie wholly behind `before`.
    """
    settings = settings or SavingSettings()
    if len(before) and len(after) and after.day[0] <= before.day[-1]:
        raise ValueError("savings: the reporting period begins before the baseline ends")
    realised = float(after.energy_kwh.sum())
    if len(before) < settings.baseline_min_days or len(after) < settings.reported_min_days:
        return _too_short(len(before), len(after), realised)
    baseline = baseline or fit_baseline(before)
    if baseline is None:
        return Grade("insufficient baseline", "energy cannot be told from work", realised)
    outside, refusal = _outside(baseline, after, settings), _gate(baseline, settings)
    if refusal or outside:
        return Grade(
            "insufficient baseline" if refusal else "outside support", refusal or outside, realised,
            cv_rmse_ratio=baseline.cv_rmse_ratio, nmbe_ratio=baseline.nmbe_ratio,
        )  # fmt: skip
    expected = float(baseline.expected_kwh(after).sum())
    saving = saving_interval(
        expected - realised, baseline.form.design(baseline.period), baseline.left_out_residuals_kwh,
        baseline.form.design(after), settings.seed, settings.confidence,
    )  # fmt: skip
    error = saving_error_kwh(baseline.errors, expected, len(after), settings.confidence)
    beside = fractional_uncertainty(error, abs(saving.value))
    return replace(
        _judged(realised, expected, saving, settings),
        guideline14_fractional_uncertainty=beside if np.isfinite(beside) else None,
        cv_rmse_ratio=baseline.cv_rmse_ratio, nmbe_ratio=baseline.nmbe_ratio,
    )  # fmt: skip


def _judged(realised: float, expected: float, saving: Estimate, settings: SavingSettings) -> Grade:
    """Return the grade of a saving, kWh: a loss is claimed by the same proof, all else is not proven and says why."""
    uncertainty = fractional_uncertainty((saving.upper - saving.lower) / 2, abs(saving.value))
    verdict: Verdict
    if saving.lower <= 0 <= saving.upper:
        verdict, reason = "not proven", "the interval holds 0"
    elif uncertainty >= settings.fractional_uncertainty_max_ratio:
        verdict, reason = "not proven", f"fractional uncertainty {uncertainty:.0%}"
    else:
        verdict, reason = ("proven" if saving.lower > 0 else "loss"), ""
    known = uncertainty if np.isfinite(uncertainty) else None
    return Grade(verdict, reason, realised, expected, saving, known)


def _too_short(before_days: int, after_days: int, realised: float) -> Grade:
    return Grade("insufficient baseline", f"{before_days} days before, {after_days} days after", realised)


def _gate(baseline: Baseline, settings: SavingSettings) -> str:
    if baseline.cv_rmse_ratio > settings.cv_rmse_max_ratio:
        return f"CV(RMSE) {baseline.cv_rmse_ratio:.1%} above {settings.cv_rmse_max_ratio:.0%}"
    if abs(baseline.nmbe_ratio) > settings.nmbe_max_ratio:
        return f"NMBE {baseline.nmbe_ratio:+.1%} outside {settings.nmbe_max_ratio:.0%}"
    return ""


def _outside(baseline: Baseline, after: Period, settings: SavingSettings) -> str:
    """Return which variable leaves the baseline's range for too many of the reporting points; else empty."""
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


def grade_isolated(
    before_kwh: Floats,
    before_work: Floats,
    after_kwh: Floats,
    after_work: Floats,
    settings: SavingSettings | None = None,
) -> Grade:
    """Grade days of the capped devices in order of time, (n,) and (m,); work in one unit, days without work left out.

    Saving = (energy per work before - after) x work after. Its interval is a circular block bootstrap of both
    periods' days; the Guideline 14 figure is left None: there is no regression that it could be of. The fractional
    uncertainty is the interval's half-width over the saving.
    """
    settings = settings or SavingSettings()
    for energy, work in ((before_kwh, before_work), (after_kwh, after_work)):
        if len(energy) != len(work) or not (np.isfinite(energy).all() and np.isfinite(work).all()):
            raise ValueError("savings: days need finite energy and work of one length")
        if (work <= 0).any() or (energy < 0).any():
            raise ValueError("savings: a day without work has no energy per work; energy is not negative")
    realised = float(after_kwh.sum())
    if len(before_kwh) < settings.reported_min_days or len(after_kwh) < settings.reported_min_days:
        return _too_short(len(before_kwh), len(after_kwh), realised)
    expected = float(before_kwh.sum() / before_work.sum() * after_work.sum())
    saving = expected - realised
    random = np.random.default_rng(settings.seed)
    before, before_factor = _ratios(before_kwh, before_work, settings.confidence, random)
    after, after_factor = _ratios(after_kwh, after_work, settings.confidence, random)
    missed = (before - after) * float(after_work.sum()) - saving
    tails = np.quantile(missed, [0.5 - settings.confidence / 2, 0.5 + settings.confidence / 2])
    low, high = tails * max(before_factor, after_factor)
    interval = Estimate(saving, min(float(saving - high), saving), max(float(saving - low), saving))
    return _judged(realised, expected, interval, settings)


def _ratios(
    energy_kwh: Floats, work: Floats, confidence: float, random: np.random.Generator
) -> tuple[Floats, float]:
    """Return replicates of energy per work from whole blocks of days, (replicates,), and the factor for few blocks."""
    block = block_days(energy_kwh / work, 1)
    drawn = blocks(np.arange(len(work), dtype=np.float64), len(work), block, random).astype(np.int64)
    ratios: Floats = energy_kwh[drawn].sum(axis=1) / work[drawn].sum(axis=1)
    return ratios, small_sample_factor(len(work), block, confidence)


# How each lever is measured (IPMVP option), and why one is not.
METHODS: Final = {
    "power_cap": "ipmvp_b", "cooling": "ipmvp_c", "consolidate": "ipmvp_c", "idle": "ipmvp_c", "adjustment": "ipmvp_c",
}  # fmt: skip
NOT_MEASURED: Final = {
    "zombie": "a job that ended leaves no energy to compare with",
    "shift": "time shifting moves energy, it saves none: its emissions are in the replay",
}  # fmt: skip
# Of daily figures: date, energy_kwh, work (one unit throughout), weather_c (null: none).
DAILY: Final = pl.Schema(
    {"date": pl.Date(), "energy_kwh": pl.Float64(), "work": pl.Float64(), "weather_c": pl.Float64()}
)


@dataclass(frozen=True, slots=True)
class Spans:
    """Days before and after a change; the day of the change belongs to neither."""

    baseline_from: date
    baseline_until: date
    reporting_from: date
    reporting_until: date


def spans(row: Mapping[str, Any], day: date, baseline_days: int) -> Spans:
    """Return the periods of an applied recommendation at the end of `day`."""
    changed = row["state_time"].date()
    return Spans(
        changed - timedelta(days=baseline_days),
        changed - timedelta(days=1),
        changed + timedelta(days=1),
        day,
    )


def saving_rows(
    applied: Sequence[Mapping[str, Any]],
    daily: Mapping[str, pl.DataFrame],
    day: date,
    baseline_days: int,
    settings: SavingSettings | None = None,
) -> list[dict[str, Any]]:
    """Return rows of gold/saving of the applied rows of gold/recommendation; `daily` is DAILY by recommendation_id.

    `hit_ratio` is of the lever's graded recommendations of this night; null where none could be graded.
    """
    rows = [
        _row(one, daily.get(one["recommendation_id"]), day, baseline_days, settings or SavingSettings())
        for one in applied
    ]
    for row in rows:
        kept = [one["kept_promise"] for one in rows if one["lever"] == row["lever"] and "kept_promise" in one]
        row["hit_ratio"] = sum(kept) / len(kept) if kept else None
    return sorted(rows, key=lambda row: str(row["recommendation_id"]))


def _row(
    row: Mapping[str, Any],
    daily: pl.DataFrame | None,
    day: date,
    baseline_days: int,
    settings: SavingSettings,
) -> dict[str, Any]:
    lever, when = row["lever"], spans(row, day, baseline_days)
    found: dict[str, Any] = {
        "date": day, "recommendation_id": row["recommendation_id"], "site_id": row["site_id"], "lever": lever,
        "cluster_id": row["cluster_id"], "node_id": row["node_id"], "device_id": row["device_id"],
        "job_id": row["job_id"], "job_class": row["job_class"], "saving_method": METHODS.get(lever, "ipmvp_c"),
        "proven": False,
    }  # fmt: skip
    if lever in NOT_MEASURED or daily is None:
        return found | {"grade_reason": NOT_MEASURED.get(lever, "no daily energy is known of it")}
    before = _part(daily, when.baseline_from, when.baseline_until)
    after = _part(daily, when.reporting_from, when.reporting_until)
    grade = _grade(METHODS[lever], before, after, settings)
    promised = _promised_ends_kwh(row, after.height)
    saving = grade.saving_kwh
    if promised is not None and saving is not None:
        found["kept_promise"] = promised[0] <= saving.value <= promised[1]
    return found | {
        "baseline_from": _end(before, first=True), "baseline_until": _end(before, first=False),
        "reporting_from": _end(after, first=True), "reporting_until": _end(after, first=False),
        "expected_kwh": grade.expected_kwh, "realised_kwh": grade.realised_kwh,
        "realised_saving_kwh": saving and saving.value, "realised_saving_lower_kwh": saving and saving.lower,
        "realised_saving_upper_kwh": saving and saving.upper,
        "savings_uncertainty_ratio": grade.fractional_uncertainty,
        "guideline14_uncertainty_ratio": grade.guideline14_fractional_uncertainty,
        "cv_rmse_ratio": grade.cv_rmse_ratio, "bias_ratio": grade.nmbe_ratio, "proven": grade.proven,
        "grade_reason": None if grade.proven else f"{grade.verdict}: {grade.reason}".rstrip(": "),
    }  # fmt: skip


def _grade(method: str, before: pl.DataFrame, after: pl.DataFrame, settings: SavingSettings) -> Grade:
    if method == "ipmvp_b":
        worked = [part.filter(pl.col("work") > 0) for part in (before, after)]
        (kwh, work), (kwh_after, work_after) = (
            (part["energy_kwh"].to_numpy(), part["work"].to_numpy()) for part in worked
        )
        return grade_isolated(kwh, work, kwh_after, work_after, settings)
    return grade_saving(_period(before), _period(after), settings)


def _part(daily: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """Return days with energy and work; the others are coverage, not energy."""
    return (
        daily.filter(pl.col("date").is_between(first, last)).drop_nulls(["energy_kwh", "work"]).sort("date")
    )


def _period(part: pl.DataFrame) -> Period:
    known = part["weather_c"].is_not_null().all() and part.height > 0
    day = np.array([one.toordinal() for one in part["date"]], dtype=np.int64)
    weather = part["weather_c"].to_numpy() if known else None
    return Period(day, part["energy_kwh"].to_numpy(), part["work"].to_numpy(), weather)


def _promised_ends_kwh(row: Mapping[str, Any], days: int) -> tuple[float, float] | None:
    """Return the ends of the promise over so many days: it was made for a window of its own."""
    window_days = (row["window_end"] - row["window_start"]).total_seconds() / 86_400
    lower, upper = row["expected_saving_lower_kwh"], row["expected_saving_upper_kwh"]
    if window_days <= 0 or lower is None or upper is None:
        return None
    return float(lower) * days / window_days, float(upper) * days / window_days


def _end(part: pl.DataFrame, *, first: bool) -> date | None:
    if not part.height:
        return None
    found = part["date"].min() if first else part["date"].max()
    assert isinstance(found, date)
    return found
