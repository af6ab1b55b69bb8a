"""Readings of grid intensity and outdoor weather -> hours."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.schema.fleet import GRID_HOUR, WEATHER_HOUR

GRID_QUANTITIES: Final = ("grid_intensity", "grid_estimated")
WEATHER_QUANTITIES: Final = ("outdoor_dry_bulb_temperature", "outdoor_wet_bulb_temperature")
# Means are taken of billionths, as whole numbers: a double's last digit would change with the order of rows, and the
# table with it.
_BILLION: Final = 1e9


def once(readings: pl.DataFrame) -> pl.DataFrame:
    """Return one reading for each device, quantity, point, sensor and time: the lowest file's first."""
    whose = ["device_id", "quantity", "point", "sensor", "reading_time"]
    return readings.sort("file_id", "source_position", "value").unique(
        whose, keep="first", maintain_order=True
    )


def grid_hours(readings: pl.DataFrame, intensity_basis: str, signal: str, flow: str) -> pl.DataFrame:
    """Readings of GRID_QUANTITIES -> silver/grid_hour, sorted by key.

    A reading without a kind is of `intensity_basis`; which signal and mix the source publishes is said by the
    settings. `estimated` is null where the publisher does not say. An hour without an intensity has no row.
    """
    hours = once(readings).select(
        pl.col("device_id").alias("zone_id"), pl.col("reading_time").dt.truncate("1h").alias("hour_start"),
        "quantity", "value", "source_name", pl.coalesce("point", pl.lit(intensity_basis)).alias("intensity_basis"),
    )  # fmt: skip
    estimated = (
        hours.filter(pl.col("quantity") == "grid_estimated")
        .group_by("zone_id", "hour_start")
        .agg((pl.col("value").max() > 0).alias("estimated"))
    )
    intensity = hours.filter(pl.col("quantity") == "grid_intensity").group_by(
        "zone_id", "hour_start", "intensity_basis"
    )
    return (
        intensity.agg(
            exact_mean(pl.col("value")).alias("carbon_intensity_gco2e_per_kwh"), pl.col("source_name").min()
        )
        .join(estimated, on=["zone_id", "hour_start"], how="left")
        .with_columns(pl.col("hour_start").dt.date().alias("date"), signal=pl.lit(signal), flow=pl.lit(flow))
        .select(list(GRID_HOUR.columns))
        .sort(list(GRID_HOUR.key))
    )


def weather_hours(readings: pl.DataFrame) -> pl.DataFrame:
    """Readings of WEATHER_QUANTITIES -> silver/weather_hour, sorted by key: means over the hour, else null."""
    dry, wet = (exact_mean(pl.col("value").filter(pl.col("quantity") == name)) for name in WEATHER_QUANTITIES)
    return (
        once(readings)
        .group_by("site_id", pl.col("reading_time").dt.truncate("1h").alias("hour_start"))
        .agg(dry.alias("outdoor_dry_bulb_temp_c"), wet.alias("outdoor_wet_bulb_temp_c"))
        .with_columns(pl.col("hour_start").dt.date().alias("date"))
        .select(list(WEATHER_HOUR.columns))
        .sort(list(WEATHER_HOUR.key))
    )


def exact_mean(value: pl.Expr) -> pl.Expr:
    """Mean whatever the order of rows, null of none."""
    billionths = (value * _BILLION).round().cast(pl.Int64)
    return pl.when(value.count() > 0).then((billionths.sum() / value.count() / _BILLION).round(13))
