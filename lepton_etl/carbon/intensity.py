"""Grid intensity of one zone, one row an hour."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import Transform


def hourly_intensity(zone_id: str | None, flow: str) -> Transform:
    """silver/grid_hour -> the hour's direct intensity, what the life cycle adds upstream, and `estimated`.

    Average signal and one flow only; a marginal or another mix never mixes in. Upstream is life cycle minus
    direct; where that is negative the two do not belong together and it is null. No zone: no rows.
    Source: GHG Protocol Scope 2 Guidance (2015), location-based method (average, combustion only).
    """
    is_direct = F.col("intensity_basis") == "direct"

    def transform(grid_hours: DataFrame) -> DataFrame:
        of_zone = grid_hours.where(
            (F.col("zone_id") == F.lit(zone_id)) & (F.col("signal") == "average") & (F.col("flow") == flow)
        )
        hours = of_zone.groupBy("hour_start").agg(
            _only(is_direct).alias("carbon_intensity_gco2e_per_kwh"),
            _only(F.col("intensity_basis") == "lifecycle").alias("lifecycle"),
            F.max(F.when(is_direct, F.col("estimated"))).alias("estimated"),
        )
        upstream = F.col("lifecycle") - F.col("carbon_intensity_gco2e_per_kwh")
        return hours.select(
            "hour_start",
            "carbon_intensity_gco2e_per_kwh",
            F.when(upstream >= 0, upstream).alias("upstream_gco2e_per_kwh"),
            "estimated",
        )

    return transform


def with_intensity(intensity_hours: DataFrame) -> Transform:
    """Add the hour's direct average intensity; null where the grid file has no such hour."""
    direct = intensity_hours.select("hour_start", "carbon_intensity_gco2e_per_kwh")

    def transform(hours: DataFrame) -> DataFrame:
        return hours.join(direct, ["hour_start"], how="left")

    return transform


def _only(chosen: Column) -> Column:
    # One row a kind: the key of silver/grid_hour.
    return F.max(F.when(chosen, F.col("carbon_intensity_gco2e_per_kwh")))
