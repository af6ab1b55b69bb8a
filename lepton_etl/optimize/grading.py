"""Applied recommendations and the daily energy, work and weather of what they changed -> rows of gold/saving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import polars as pl

from lepton_etl.optimize.savings.baseline import Period
from lepton_etl.optimize.savings.grade import Grade, SavingSettings, grade_saving
from lepton_etl.optimize.savings.isolation import grade_isolated
from lepton_etl.optimize.savings.track import Promise, track_record

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
    """The periods of an applied recommendation at the end of `day`."""
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
    """Rows of gold/saving of the applied rows of gold/recommendation; `daily` is DAILY by recommendation_id.

    `hit_ratio` is of the lever's graded recommendations of this night; null where none could be graded.
    """
    rows = [
        _row(one, daily.get(one["recommendation_id"]), day, baseline_days, settings or SavingSettings())
        for one in applied
    ]
    for lever in {row["lever"] for row in rows}:
        own = [row for row in rows if row["lever"] == lever]
        kept = track_record([promise for row in own if (promise := row["_promise"]) is not None])
        for row in own:
            row["hit_ratio"] = kept.hit_ratio
    for row in rows:
        del row["_promise"]
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
        "proven": False, "_promise": None,
    }  # fmt: skip
    if lever in NOT_MEASURED or daily is None:
        return found | {"grade_reason": NOT_MEASURED.get(lever, "no daily energy is known of it")}
    before = _part(daily, when.baseline_from, when.baseline_until)
    after = _part(daily, when.reporting_from, when.reporting_until)
    grade = _grade(METHODS[lever], before, after, settings)
    promised = _promised(row, after.height)
    if promised is not None and grade.saving_kwh is not None:
        expected, lower, upper = promised
        found["_promise"] = Promise(expected, lower, upper, grade.saving_kwh)
        found["kept_promise"] = lower <= grade.saving_kwh <= upper
    return found | {
        "baseline_from": _end(before, first=True), "baseline_until": _end(before, first=False),
        "reporting_from": _end(after, first=True), "reporting_until": _end(after, first=False),
        "expected_kwh": grade.expected_kwh, "realised_kwh": grade.realised_kwh,
        "realised_saving_kwh": grade.saving_kwh, "realised_saving_lower_kwh": grade.lower_kwh,
        "realised_saving_upper_kwh": grade.upper_kwh,
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
    return grade_saving(_period(before), _period(after), settings=settings)


def _part(daily: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """Days with energy and work; the others are coverage, not energy."""
    return (
        daily.filter(pl.col("date").is_between(first, last)).drop_nulls(["energy_kwh", "work"]).sort("date")
    )


def _period(part: pl.DataFrame) -> Period:
    known = part["weather_c"].is_not_null().all() and part.height > 0
    day = np.array([one.toordinal() for one in part["date"]], dtype=np.int64)
    weather = part["weather_c"].to_numpy() if known else None
    return Period(day, part["energy_kwh"].to_numpy(), part["work"].to_numpy(), weather)


def _promised(row: Mapping[str, Any], days: int) -> tuple[float, float, float] | None:
    """The promise over so many days: it was made for a window of its own."""
    window_days = (row["window_end"] - row["window_start"]).total_seconds() / 86_400
    ends = tuple(row[f"expected_saving{end}_kwh"] for end in ("", "_lower", "_upper"))
    if window_days <= 0 or any(value is None for value in ends):
        return None
    expected, lower, upper = (float(value) * days / window_days for value in ends)
    return expected, lower, upper


def _end(part: pl.DataFrame, *, first: bool) -> date | None:
    if not part.height:
        return None
    found = part["date"].min() if first else part["date"].max()
    assert isinstance(found, date)
    return found
