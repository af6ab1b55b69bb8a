"""Hours of clusters -> what of a day is known only by the hour: facility energy, PUE, peak, shared IT."""

from __future__ import annotations

from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import Transform, exact_sum
from lepton_etl.energy.facility import UNATTRIBUTED
from lepton_etl.energy.node_hours import SHARED

_DAY: Final = ("date", "site_id", "cluster_id")


def facility_days(coverage_min_ratio: float) -> Transform:
    """gold/cluster_hour -> facility energy and PUE of each cluster's day.

    Facility energy is the sum over the hours in which it is known, PUE the ratio of the sums over hours in
    which both are known (never a mean of ratios). Both are null where fewer than the limit's share of the
    hours are known. Hours of different categories make a day without a category, and `partial`.
    """
    energy, facility, pue = F.col("it_energy_kwh"), F.col("facility_energy_kwh"), F.col("pue_ratio")
    has_both = pue.isNotNull() & energy.isNotNull() & facility.isNotNull()
    enough_facility = F.count("facility_energy_kwh") >= coverage_min_ratio * F.count(F.lit(1))
    enough_pue = F.count_if(has_both) >= coverage_min_ratio * F.count(F.lit(1))
    ratio = F.try_divide(exact_sum(F.when(has_both, facility)), exact_sum(F.when(has_both, energy)))
    bases = F.array_sort(F.collect_set(F.when(has_both, F.col("pue_basis"))))
    basis = F.when(F.size(bases) == 1, F.get(bases, F.lit(0))).otherwise("partial")
    categories = F.collect_set(F.when(has_both, F.col("pue_category")))
    facility_bases = F.collect_set(F.when(facility.isNotNull(), F.col("facility_basis")))
    facility_basis = F.when(F.size(facility_bases) == 1, F.get(facility_bases, F.lit(0))).otherwise("partial")
    enough_it = F.count("it_energy_kwh") >= coverage_min_ratio * F.count(F.lit(1))

    def transform(cluster_hours: DataFrame) -> DataFrame:
        return cluster_hours.groupBy(*_DAY).agg(
            F.when(enough_it, exact_sum(energy)).alias("hours_it_kwh"),
            F.max("peak_power_w").alias("peak_power_w"),
            F.when(enough_facility, exact_sum(facility)).alias("facility_energy_kwh"),
            F.when(enough_facility, facility_basis).otherwise("none").alias("facility_basis"),
            F.when(enough_pue, ratio).alias("pue_ratio"),
            F.when(enough_pue, basis).otherwise("none").alias("pue_basis"),
            F.when(enough_pue & (F.size(categories) == 1), F.get(categories, F.lit(0))).alias("pue_category"),
        )

    return transform


def with_facility_days(days_of_facility: DataFrame) -> Transform:
    """Join sums of nodes by day with what is known by the hour; the IT energy outside clusters is of its hours.

    `_shared` at meters and `_unattributed` have no nodes, so their days exist only here.
    """

    def transform(node_sums: DataFrame) -> DataFrame:
        rows = node_sums.join(days_of_facility, list(_DAY), how="right")
        is_shared = F.col("cluster_id").isin(SHARED, UNATTRIBUTED)
        # Where `_shared` is nodes alone, the hours say the same as the nodes.
        shared_it = F.coalesce("hours_it_kwh", "it_energy_kwh")
        it_energy = F.when(is_shared, shared_it).otherwise(F.col("it_energy_kwh"))
        shared_measured = F.coalesce("hours_it_kwh", "it_energy_measured_kwh")
        has_rest = is_shared & ~shared_it.eqNullSafe(F.col("it_energy_kwh"))
        shared_basis = F.when(F.col("hours_it_kwh").isNotNull(), "measured").otherwise(
            F.coalesce("energy_basis", F.lit("insufficient"))
        )
        return rows.withColumns(
            {
                "it_energy_lower_kwh": F.when(~has_rest, F.col("it_energy_lower_kwh")),
                "it_energy_upper_kwh": F.when(~has_rest, F.col("it_energy_upper_kwh")),
                "it_energy_measured_kwh": F.when(is_shared, shared_measured).otherwise(
                    F.col("it_energy_measured_kwh")
                ),
                "it_energy_kwh": it_energy,
                "energy_basis": F.when(is_shared, shared_basis).otherwise(F.col("energy_basis")),
                "idle_basis": F.coalesce("idle_basis", F.lit("none")),
                "node_count": F.coalesce("node_count", F.lit(0.0)),
            }
        ).drop("hours_it_kwh")

    return transform
