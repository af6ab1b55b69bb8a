"""Readings of grid intensity and outdoor weather -> hours."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lepton_etl.schema.columns import Transform
from lepton_etl.schema.fleet import GRID_HOUR, WEATHER_HOUR

GRID_QUANTITIES: Final = ("grid_intensity", "grid_estimated")
WEATHER_QUANTITIES: Final = ("outdoor_dry_bulb_temperature", "outdoor_wet_bulb_temperature")


def once(readings: DataFrame) -> DataFrame:
    """One reading for each device, quantity, point, sensor and time: the lowest file's first."""
    whose = ("device_id", "quantity", "point", "sensor", "reading_time")
    first = Window.partitionBy(*whose).orderBy("file_id", "source_position")
    return readings.withColumn("place", F.row_number().over(first)).where("place = 1").drop("place")


def grid_hours(intensity_basis: str, signal: str, flow: str) -> Transform:
    """Readings of GRID_QUANTITIES -> silver/grid_hour.

    A reading without a kind is of `intensity_basis`; which signal and mix the source publishes is said by the
    settings. `estimated` is null where the publisher does not say. An hour without an intensity has no row.
    """

    def transform(readings: DataFrame) -> DataFrame:
        hours = readings.transform(once).select(
            F.col("device_id").alias("zone_id"), F.date_trunc("hour", "reading_time").alias("hour_start"),
            "quantity", "value", "source_name", F.coalesce("point",
            F.lit(intensity_basis)).alias("intensity_basis"),
        )  # fmt: skip
        said = hours.where(F.col("quantity") == "grid_estimated").groupBy("zone_id", "hour_start")
        estimated = said.agg((F.max("value") > 0).alias("estimated"))
        intensity = hours.where(F.col("quantity") == "grid_intensity").groupBy(
            "zone_id", "hour_start", "intensity_basis"
        )
        return (
            intensity.agg(
                exact_mean(F.col("value")).alias("carbon_intensity_gco2e_per_kwh"),
                F.min("source_name").alias("source_name"),
            )
            .join(estimated, ["zone_id", "hour_start"], how="left")
            .withColumns({"date": F.to_date("hour_start"), "signal": F.lit(signal), "flow": F.lit(flow)})
            .select(*GRID_HOUR.columns)
        )

    return transform


def weather_hours(readings: DataFrame) -> DataFrame:
    """Readings of WEATHER_QUANTITIES -> silver/weather_hour: means over the hour, else null."""
    dry, wet = (exact_mean(F.when(F.col("quantity") == name, F.col("value"))) for name in WEATHER_QUANTITIES)
    return (
        readings.transform(once)
        .groupBy("site_id", F.date_trunc("hour", "reading_time").alias("hour_start"))
        .agg(dry.alias("outdoor_dry_bulb_temp_c"), wet.alias("outdoor_wet_bulb_temp_c"))
        .withColumn("date", F.to_date("hour_start"))
        .select(*WEATHER_HOUR.columns)
    )


def exact_mean(value: Column) -> Column:
    """Mean in decimals: a double's last digit would change with the order of rows, and the table with it."""
    return F.avg(value.cast("decimal(28,9)")).cast("double")
