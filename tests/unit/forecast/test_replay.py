"""Forecasts see nothing of the future, beat their naive members on what repeats, and say what they rest on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lepton_etl.forecast.grid_intensity import (
    HORIZONS,
    MIN_HISTORY_H,
    Floats,
    ForecastPolicy,
    ZoneSeries,
    forecast_rows,
    replay,
    targets,
)
from lepton_etl.schema.diagnosis import FORECAST
from lepton_etl.schema.types import arrow_schema

FIRST = datetime(2025, 1, 6, tzinfo=UTC)
LENGTH = 75 * 24
POLICY = ForecastPolicy(boosted_refit_h=10_000)


def series_of(values: Floats) -> ZoneSeries:
    return ZoneSeries(FIRST, values, values)


def grid(seed: int = 1) -> Floats:
    """A daily wave, a slow wind and noise, g/kWh."""
    rng = np.random.default_rng(seed)
    hour = np.arange(LENGTH)
    wind = np.zeros(LENGTH)
    for t in range(1, LENGTH):
        wind[t] = 0.97 * wind[t - 1] + rng.normal(0, 8)
    return np.asarray(300 + 60 * np.sin(2 * np.pi * hour / 24) + wind + rng.normal(0, 3, LENGTH))


def rows_of(values: Floats) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "hour_start": [FIRST + timedelta(hours=i) for i in range(len(values))],
            "carbon_intensity_gco2e_per_kwh": values,
            "estimated": [False] * len(values),
        }
    )


def test_the_fusion_beats_the_naive_members_and_its_interval_holds() -> None:
    values = grid()
    done = replay(series_of(values), LENGTH - HORIZONS, POLICY)
    came_true = targets(values, np.arange(done.first, LENGTH - HORIZONS + 1))
    late = slice(24 * 14, None)
    for hours, ratio in ((6, 0.7), (HORIZONS, 1.0)):
        missed = [
            float(np.abs(arm[late, :hours] - came_true[late, :hours]).mean())
            for arm in (*done.members[:2], done.fused)
        ]
        assert missed[2] < ratio * min(missed[:2])
    inside = (came_true >= done.lower) & (came_true <= done.upper)
    assert 0.8 < inside[late].mean() < 0.98


def test_a_changed_future_changes_no_forecast_made_before() -> None:
    values = grid()
    origin = LENGTH - 200
    changed = values.copy()
    changed[origin:] = 999.0
    end = origin + 5
    ours, theirs = replay(series_of(values), end, POLICY), replay(series_of(changed), end, POLICY)
    upto = origin - ours.first + 1
    for name in ("members", "fused", "lower", "upper"):
        a, b = getattr(ours, name), getattr(theirs, name)
        if name == "members":
            a, b = a[:, :upto], b[:, :upto]
        np.testing.assert_array_equal(
            a[:upto] if name != "members" else a, b[:upto] if name != "members" else b
        )
    assert not np.array_equal(ours.fused[upto], theirs.fused[upto])


def test_weights_are_shares() -> None:
    done = replay(series_of(grid()), LENGTH - 400, POLICY)
    assert (done.weights >= 0).all()
    np.testing.assert_allclose(done.weights.sum(axis=2), 1.0)


def test_too_little_history_is_refused() -> None:
    with pytest.raises(ValueError, match="needed"):
        replay(series_of(grid()[:MIN_HISTORY_H]), MIN_HISTORY_H)


def test_rows_have_the_table_s_columns_and_hide_the_future() -> None:
    origin = FIRST + timedelta(hours=LENGTH - 100)
    values = grid()
    ours = forecast_rows(rows_of(values), "Z", origin, POLICY)
    assert set(ours.columns) == set(FORECAST.columns)
    ours.select(FORECAST.columns).to_arrow().cast(arrow_schema(FORECAST))
    assert ours["forecast_basis"].unique().to_list() == ["fusion"]
    assert ours["hour_start"].to_list()[0] == origin
    assert (ours["intensity_lower_gco2e_per_kwh"] <= ours["intensity_upper_gco2e_per_kwh"]).all()
    values[LENGTH - 100 :] = 1.0
    assert ours.equals(forecast_rows(rows_of(values), "Z", origin, POLICY))


def test_a_young_zone_has_a_profile_without_interval_and_an_unknown_one_has_nothing() -> None:
    young = forecast_rows(rows_of(grid()[:72]), "Z", FIRST + timedelta(hours=72))
    assert young["forecast_basis"].unique().to_list() == ["profile"]
    assert young["intensity_lower_gco2e_per_kwh"].null_count() == HORIZONS
    assert young["carbon_intensity_gco2e_per_kwh"].null_count() == 0
    unknown = forecast_rows(rows_of(grid()[:72]), "Z", FIRST - timedelta(hours=1))
    assert unknown["forecast_basis"].unique().to_list() == ["none"]
    assert unknown["carbon_intensity_gco2e_per_kwh"].null_count() == HORIZONS


def test_a_week_without_values_leaves_no_hole_in_the_forecast() -> None:
    values = grid()
    values[LENGTH - 300 : LENGTH - 240] = np.nan
    rows = forecast_rows(rows_of(values), "Z", FIRST + timedelta(hours=LENGTH), POLICY)
    assert rows["carbon_intensity_gco2e_per_kwh"].null_count() == 0
