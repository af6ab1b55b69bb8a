"""A zone's hours: holes are filled from earlier hours alone, estimates train nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.forecast.grid_intensity import filled, same_hours, targets, zone_series

FIRST = datetime(2025, 1, 6, tzinfo=UTC)


def hours(values: list[float | None], estimated: list[bool] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "hour_start": [FIRST + timedelta(hours=i) for i in range(len(values))],
            "carbon_intensity_gco2e_per_kwh": pl.Series(values, dtype=pl.Float64),
            "estimated": estimated or [False] * len(values),
        }
    )


def test_a_hole_takes_the_same_hour_of_the_day_before_and_is_no_target() -> None:
    values: list[float | None] = [float(i) for i in range(48)]
    values[30] = None
    values[31] = float("nan")
    series = zone_series(hours(values))
    assert series.known[30] == 6.0 and series.known[31] == 7.0
    assert np.isnan(series.target[[30, 31]]).all()


def test_a_missing_row_is_a_hole() -> None:
    rows = hours([float(i) for i in range(30)])
    series = zone_series(rows.filter(pl.col("hour_start") != FIRST + timedelta(hours=26)))
    assert len(series.known) == 30
    assert series.known[26] == 2.0 and np.isnan(series.target[26])


def test_an_estimate_is_an_input_and_no_target() -> None:
    series = zone_series(hours([10.0, 11.0], [False, True]))
    assert series.known[1] == 11.0
    assert np.isnan(series.target[1])


def test_hours_that_were_published_late_are_holes_up_to_the_origin() -> None:
    series = zone_series(hours([float(i) for i in range(24)]), until=FIRST + timedelta(hours=27))
    assert series.known[24:].tolist() == [0.0, 1.0, 2.0]
    assert np.isnan(series.target[24:]).all()


def test_two_rows_of_one_hour_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        zone_series(pl.concat([hours([1.0]), hours([2.0])]))


@given(st.lists(st.one_of(st.none(), st.floats(0, 1000)), min_size=25, max_size=120), st.integers(1, 24))
@settings(max_examples=50, deadline=None)
def test_filling_never_looks_ahead(values: list[float | None], cut: int) -> None:
    published = np.array([np.nan if v is None else v for v in values])
    np.testing.assert_array_equal(filled(published)[:-cut], filled(published[:-cut]))


def test_same_hours_of_a_target_were_known_at_the_origin() -> None:
    values = np.arange(400, dtype=np.float64)
    origins = np.array([300])
    seen = same_hours(values, origins, 7)
    assert (seen < 300).all()
    assert ((targets(np.arange(500, dtype=np.float64), origins)[0] - seen) % 24 == 0).all()
