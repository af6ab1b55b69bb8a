"""A range of days is judged as its nights would be, each day by the days before it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.diagnose import _Anomalies

FIRST = date(2025, 3, 3)
JUDGED = tuple(FIRST + timedelta(days=day) for day in (150, 151, 152))


def device_hours() -> pl.DataFrame:
    """Two boards over 153 days: a level that drifts, and one that sticks on the second judged day."""
    rng = np.random.default_rng(7)
    hour = np.arange(153 * 24)
    load = rng.uniform(0.1, 1.0, len(hour))
    frames = []
    for number in (0, 1):
        energy = (0.1 + 0.2 * load) * rng.normal(1.0, 0.01, len(hour)) * np.where(hour < 100 * 24, 1.0, 1.1)
        if number:
            energy[151 * 24 :] = energy[151 * 24]
        start = [datetime(2025, 3, 3, tzinfo=UTC) + timedelta(hours=int(one)) for one in hour]
        frames.append(
            pl.DataFrame({"hour_start": start, "energy_kwh": energy, "load_ratio": load}).with_columns(
                pl.lit("s").alias("site_id"), pl.lit("c").alias("cluster_id"), pl.lit("r1").alias("rack_id"),
                pl.lit(f"n{number}").alias("node_id"), pl.lit("gpu").alias("device_id"),
                pl.col("hour_start").cast(pl.Datetime("us", "UTC")), pl.col("hour_start").dt.date().alias("date"),
                pl.lit(None, pl.Float64).alias("predicted_kwh"),
            )
        )  # fmt: skip
    return pl.concat(frames)


@pytest.mark.parametrize("device", ["gpu", "node"])
def test_a_range_finds_what_its_nights_find(device: str) -> None:
    hours = device_hours()
    together = _Anomalies(JUDGED, device)(hours)
    nights = [_Anomalies((day,), device)(hours.filter(pl.col("date") <= day)) for day in JUDGED]
    assert together.equals(pl.concat(nights))
    if device == "gpu":
        assert set(together["node_id"]) >= {"n1"}
