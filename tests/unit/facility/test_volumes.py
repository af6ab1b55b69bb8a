"""Water and fuel meters by the interval."""

from __future__ import annotations

from typing import Any

import polars as pl

from lepton_etl.facility.meter_hours import VOLUME_COLUMNS, volume_intervals

MINUTE = 60_000_000
DAY = 24 * 60 * MINUTE


def litres(
    *readings: tuple[float, float], statistic: str = "counter", window_s: float = 0.0, multiplier: float = 1.0
) -> list[tuple[int, float, float]]:
    """(interval minute, litres, observed s) of readings of (minute, litres)."""
    rows = [
        dict(
            zip(
                VOLUME_COLUMNS,
                ("w", "water", multiplier, statistic, int(minute * MINUTE), window_s, value, "f", n),
                strict=True,
            )
        )
        for n, (minute, value) in enumerate(readings)
    ]
    schema: dict[str, Any] = {"value": pl.Float64, "time_us": pl.Int64}
    table = pl.DataFrame(rows, schema_overrides=schema).to_arrow()
    found = volume_intervals(table, "s", 300, 0, DAY).to_pylist()
    return [
        (
            row["interval_start"].hour * 60 + row["interval_start"].minute,
            round(row["volume_l"], 9),
            row["observed_s"],
        )
        for row in found
    ]


def test_a_register_is_the_difference_of_its_readings_spread_over_the_step() -> None:
    assert litres((2, 100), (12, 120)) == [
        (0, 6.0, 180), (5, 10.0, 300), (10, 4.0, 120),
    ]  # fmt: skip


def test_a_register_that_falls_leaves_the_step_uncovered() -> None:
    assert litres((0, 100), (5, 3), (10, 8)) == [(5, 5.0, 300)]


def test_a_long_silence_is_not_bridged() -> None:
    assert litres((0, 100), (300, 1000)) == []


def test_a_window_is_its_volume() -> None:
    assert litres((0, 30), statistic="mean", window_s=600.0, multiplier=2.0) == [
        (0, 30.0, 300), (5, 30.0, 300),
    ]  # fmt: skip


def test_repeats_count_once_and_midnight_parts_the_step() -> None:
    assert litres((-5, 0), (5, 10), (5, 10)) == [(0, 5.0, 300)]
