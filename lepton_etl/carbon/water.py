"""Water and fuel of the site by the hour, and each cluster's share of the water."""

from __future__ import annotations

from typing import Final

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.schema.columns import ENERGY_SUM, Transform, exact_sum
from lepton_etl.schema.declare import SECONDS_PER_HOUR

_HOUR: Final = ("site_id", "hour_start")


def site_volumes(
    volume_intervals: DataFrame, carrier: str, name: str, days: Days, coverage_min_ratio: float
) -> Transform:
    """silver/meter -> litres of one carrier (water, fuel) in each hour: site_id, hour_start, `name`.

    Only meters that no other of the carrier stands above, signed (a return flow is -1). A silent meter, below the
    coverage limit in the hour, leaves the hour null: the sum of the others would be too little.
    Source: ISO/IEC 30134-9: water that enters the data centre's boundary.
    """
    hour = F.date_trunc("hour", "interval_start")
    first, last = F.lit(days.from_time), F.lit(days.until_time) - F.expr("INTERVAL 1 HOUR")
    each_hour = F.explode(F.sequence(first, last, F.expr("INTERVAL 1 HOUR")))
    holds = (F.col("hour_start") >= F.date_trunc("hour", "valid_from")) & (
        F.col("valid_to").isNull() | (F.col("hour_start") < F.col("valid_to"))
    )
    known = F.col("observed_s") >= coverage_min_ratio * SECONDS_PER_HOUR
    litres = F.when(known, F.col("volume_l") * F.coalesce("sign", F.lit(1)))
    is_whole = F.count("_l") == F.count(F.lit(1))

    def transform(meters: DataFrame) -> DataFrame:
        chosen = meters.where(F.col("carrier") == carrier)
        ids = chosen.select("site_id", F.col("meter_id").alias("parent_id")).distinct()
        top = chosen.join(ids, ["site_id", "parent_id"], how="left_anti")
        sums = volume_intervals.groupBy("site_id", "meter_id", hour.alias("hour_start")).agg(
            exact_sum(F.col("volume_l")).alias("volume_l"), exact_sum(F.col("observed_s")).alias("observed_s")
        )
        metered = (
            top.withColumn("hour_start", each_hour)
            .where(holds)
            .join(sums, ["site_id", "meter_id", "hour_start"], how="left")
            .withColumn("_l", litres)
        )
        return metered.groupBy(*_HOUR).agg(F.when(is_whole, exact_sum(F.col("_l"))).alias(name))

    return transform


def with_water(site_water: DataFrame) -> Transform:
    """Fill `water_l` and `water_basis` of cluster hours: the site's litres (`water_l`) by the clusters' IT energy.

    Litres belong to IT energy (WUE is litres per IT kWh); PUE has no part in it. Where one cluster of the hour has
    no IT energy, nobody's share is known.
    Source: ISO/IEC 30134-9; docs/definitions.md section 4 (overheads by IT energy).
    """
    site = Window.partitionBy(*_HOUR)
    energy = F.col("it_energy_kwh")
    all_known = F.count("it_energy_kwh").over(site) == F.count(F.lit(1)).over(site)
    total = F.sum(energy.cast(ENERGY_SUM)).over(site).cast("double")
    share = F.when(all_known, F.try_divide(energy, total))

    def transform(cluster_hours: DataFrame) -> DataFrame:
        return (
            cluster_hours.join(
                site_water.withColumnRenamed("water_l", "site_water_l"), list(_HOUR), how="left"
            )
            .withColumn("water_l", F.col("site_water_l") * share)
            .withColumn("water_basis", F.when(F.col("water_l").isNull(), "none").otherwise("measured"))
            .drop("site_water_l")
        )

    return transform
