from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.models.metrics import Values
from lepton_etl.models.recalibration import Recalibration, corrections
from lepton_etl.models.scoring import _ALIKE, recalibrated

COLUMNS = ["cpu_utilisation_ratio", "cpu_utilisation_max_ratio", "inlet_temp_c"]
SETTINGS = Recalibration(newest_days=5, forgetting_days=2.0)


def _residuals(hours: pd.DataFrame, seed: int = 0) -> Values:
    return np.random.default_rng(seed).normal(0, 0.02, len(hours))


@settings(max_examples=25, deadline=None)
@given(day=st.integers(2, 10), seed=st.integers(0, 2**32 - 1))
def test_rows_of_the_day_and_later_change_nothing(hours: pd.DataFrame, day: int, seed: int) -> None:
    residuals = _residuals(hours)
    later = hours["hour_start"].dt.day.to_numpy() >= day
    shuffled = residuals.copy()
    shuffled[later] = np.random.default_rng(seed).permutation(residuals[later]) * 10
    today = hours["hour_start"].dt.day.to_numpy() <= day
    before = corrections(hours, residuals, COLUMNS, SETTINGS)[today]
    np.testing.assert_array_equal(before, corrections(hours, shuffled, COLUMNS, SETTINGS)[today])


def test_yesterday_does_change_it(hours: pd.DataFrame) -> None:
    residuals = _residuals(hours)
    day = hours["hour_start"].dt.day.to_numpy()
    changed = np.where(day == 4, residuals + 0.05, residuals)
    moved = corrections(hours, changed, COLUMNS, SETTINGS) - corrections(hours, residuals, COLUMNS, SETTINGS)
    assert (moved[day <= 4] == 0).all()
    assert moved[day == 5].mean() > 0.01


def test_first_day_and_none_are_uncorrected(hours: pd.DataFrame) -> None:
    residuals = _residuals(hours)
    first = hours["hour_start"].dt.day.to_numpy() == 1
    assert (corrections(hours, residuals, COLUMNS, SETTINGS)[first] == 0).all()
    assert (corrections(hours, residuals, COLUMNS, Recalibration(forgetting_days=0.0)) == 0).all()


def test_a_step_of_one_node_is_followed_and_stays_its_own(hours: pd.DataFrame) -> None:
    step = 0.03
    own = (hours["node_id"] == "a1").to_numpy()
    day = hours["hour_start"].dt.day.to_numpy()
    found = corrections(hours, np.where(own & (day >= 3), step, 0.0), COLUMNS, SETTINGS)
    assert (found[~own] == 0).all()
    assert found[own & (day == 9)].mean() == pytest.approx(step, rel=0.2)
    assert np.abs(found).max() <= step


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_correction_lies_within_the_residuals_and_zero(hours: pd.DataFrame, seed: int) -> None:
    residuals = _residuals(hours, seed)
    found = corrections(hours, residuals, COLUMNS, SETTINGS)
    assert found.min() >= min(residuals.min(), 0)
    assert found.max() <= max(residuals.max(), 0)


def test_unmeasured_hours_teach_nothing_and_are_corrected(hours: pd.DataFrame) -> None:
    residuals = _residuals(hours)
    gappy = np.where(np.arange(len(hours)) % 3 == 0, np.nan, residuals)
    assert np.isfinite(corrections(hours, gappy, COLUMNS, SETTINGS)).all()


def test_models_side_by_side_are_the_same_as_alone(hours: pd.DataFrame) -> None:
    both = np.column_stack([_residuals(hours, 1), _residuals(hours, 2)])
    side = corrections(hours, both, COLUMNS, SETTINGS)
    np.testing.assert_allclose(side[:, 0], corrections(hours, both[:, 0], COLUMNS, SETTINGS), atol=1e-12)


@pytest.mark.parametrize("column", ["device_temp_c", "inlet_temp_c", "memory_utilisation_ratio"])
def test_the_night_corrects_by_hours_of_like_load_temperature_and_memory(column: str) -> None:
    """A board that holds a context is warmer and draws 0.05 kWh more at no load; the model knows neither."""
    start, unlike = datetime(2025, 6, 1, tzinfo=UTC), 0.9 if column.endswith("_ratio") else 60.0
    holds = [hour % 3 == 0 for hour in range(48)]
    unknown = pl.lit(None, pl.Float64)
    rows = pl.DataFrame(
        {
            "hour_start": [start + timedelta(hours=hour) for hour in range(48)],
            "date": [(start + timedelta(hours=hour)).date() for hour in range(48)],
            "predicted_kwh": 0.1,
            "energy_kwh": [0.15 if one else 0.1 for one in holds],
            "load_ratio": 0.0,
            column: [unlike if one else 0.2 for one in holds],
        }
    ).with_columns(
        *(pl.lit("x").alias(name) for name in ("site_id", "node_id", "device_id")),
        *(unknown.alias(name) for name in _ALIKE if name != column),
    )
    missed = (rows["energy_kwh"] - recalibrated(rows, start.date()))[24:]
    assert missed.abs().max() < 0.005
    blind = rows.with_columns(unknown.alias(column))
    assert (rows["energy_kwh"] - recalibrated(blind, start.date()))[24:].abs().max() > 0.02
