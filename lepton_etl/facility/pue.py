"""Hours of clusters -> what of a day is known only by the hour: facility energy, PUE, peak, shared IT.

- Facility meters -> what a site drew, its PUE with basis and category, the share of each cluster.
"""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.energy.node_hours import SHARED, UNATTRIBUTED, each_hour
from lepton_etl.schema.columns import ENERGY_SUM, Transform, exact_sum
from lepton_etl.schema.common import BOUNDARY

# ISO/IEC 30134-2 category of the point where IT energy is metered; the nearest to the IT input wins.
IT_CATEGORY: Final = {"pdu_out": 2, "ups_out": 1}
NODE_CATEGORY: Final = 3

_SITE_HOUR: Final = ("site_id", "hour_start")


def meter_hours(facility_intervals: DataFrame, days: Days, coverage_min_ratio: float) -> Transform:
    """silver/meter -> hours of top-level electricity meters; `energy_kwh` is null below the coverage limit.

    A meter below another one of the same point measures energy that its parent has counted already, so it is
    left out. `direction` is +1 or -1 for the energy that crosses the site's boundary, null for any other
    point: the meter's own sign, except that export and battery charge always leave.
    """
    hour = F.date_trunc("hour", "interval_start")

    def transform(meters: DataFrame) -> DataFrame:
        electric = meters.where(F.coalesce("carrier", F.lit("electricity")) == "electricity")
        parents = electric.select("site_id", F.col("meter_id").alias("parent_id"), "point").distinct()
        top = electric.join(parents, ["site_id", "parent_id", "point"], how="left_anti")
        sums = facility_intervals.groupBy("site_id", "meter_id", hour.alias("hour_start")).agg(
            exact_sum(F.col("energy_kwh")).alias("metered_kwh"),
            exact_sum(F.col("observed_s")).alias("observed_s"),
        )
        is_known = F.col("observed_s") >= coverage_min_ratio * F.col("expected_s")
        of_point = F.create_map(*(F.lit(part) for pair in BOUNDARY.items() for part in pair))[F.col("point")]
        direction = F.when(of_point < 0, of_point).otherwise(of_point * F.coalesce("sign", F.lit(1)))
        return (
            top.transform(each_hour(days))
            .join(sums, ["site_id", "meter_id", "hour_start"], how="left")
            .select(
                *_SITE_HOUR,
                "meter_id",
                "point",
                direction.cast("double").alias("direction"),
                F.when(is_known, F.col("metered_kwh")).alias("energy_kwh"),
                "serves",
                "class_pct",
            )
        )

    return transform


def sum_meters(meters: DataFrame) -> DataFrame:
    """Hours of meters -> hours of a site: what it drew, its IT energy at a meter, the meter's PUE category.

    facility = utility + pv + generator + battery_out - export - battery_in; it needs a utility meter. A sum
    with a silent meter in it is not known. IT is metered at the PDU outputs where the site has such meters,
    else at the UPS.
    Source: definitions of the ledger of a site-hour, docs/methodology.md section 5.
    """
    energy = F.col("energy_kwh")

    def complete_sum(chosen: Column, value: Column) -> Column:
        is_complete = F.count_if(chosen & energy.isNull()) == 0
        return F.when(is_complete, exact_sum(F.when(chosen, value)))

    at = {point: F.col("point") == point for point in (*IT_CATEGORY, "utility")}
    has_pdu = F.count_if(at["pdu_out"]) > 0
    facility = complete_sum(F.col("direction").isNotNull(), energy * F.col("direction"))
    it_metered = F.when(has_pdu, complete_sum(at["pdu_out"], energy)).otherwise(
        complete_sum(at["ups_out"], energy)
    )
    category = F.when(has_pdu, IT_CATEGORY["pdu_out"]).otherwise(IT_CATEGORY["ups_out"])
    has_utility = F.count_if(at["utility"]) > 0
    return meters.groupBy(*_SITE_HOUR).agg(
        F.when(has_utility & (facility >= 0), facility).alias("facility_metered_kwh"),
        it_metered.alias("it_metered_kwh"),
        F.when(it_metered.isNotNull(), category).alias("it_category"),
        has_utility.alias("has_utility"),
    )


def with_pue(meter_sums: DataFrame, pue_assumed: float | None) -> Transform:
    """Add facility energy and PUE to hours of sites (sums of nodes), each with its basis.

    PUE = facility / IT: `measured` with IT at a meter (category 1 or 2), `partial` with IT by node sensors
    (category 3), `assumed` where the settings give one and no utility meter stands. A ratio below 1 breaks
    the sum of sources: facility and PUE are null with basis `none`, the metered figures stay for the gate to
    warn about.
    Source: ISO/IEC 30134-2 (EN 50600-4-2), PUE = E_DC / E_IT.
    """
    metered, it_metered, it_energy = (
        F.col("facility_metered_kwh"),
        F.col("it_metered_kwh"),
        F.col("it_energy_kwh"),
    )
    has_utility = F.coalesce("has_utility", F.lit(False))
    is_assumed = ~has_utility & F.lit(pue_assumed is not None)
    quotient = F.try_divide(metered, it_energy)
    # Metered facility energy stands without IT energy; only a sum that contradicts the IT does not.
    facility = F.when(is_assumed, it_energy * F.lit(pue_assumed)).when(
        F.coalesce(quotient >= 1, F.lit(True)), metered
    )
    pue = F.when(is_assumed, F.lit(pue_assumed)).when(quotient >= 1, quotient)
    pue_basis = (
        F.when(pue.isNull(), "none")
        .when(is_assumed, "assumed")
        .when(it_metered.isNotNull(), "measured")
        .otherwise("partial")
    )
    is_ratio = pue.isNotNull() & ~is_assumed
    facility_basis = F.when(facility.isNull(), "none").when(is_assumed, "assumed").otherwise("measured")

    def transform(site_sums: DataFrame) -> DataFrame:
        it_basis = F.when(it_metered.isNotNull(), "measured").otherwise(F.col("energy_basis"))
        return (
            site_sums.join(meter_sums, list(_SITE_HOUR), how="left")
            .withColumns({"energy_basis": it_basis, "it_energy_kwh": F.coalesce(it_metered, it_energy)})
            .withColumns(
                {
                    "facility_energy_kwh": facility.cast("double"),
                    "facility_basis": facility_basis,
                    "pue_ratio": pue.cast("double"),
                    "pue_basis": pue_basis,
                    "pue_category": F.when(is_ratio, F.coalesce("it_category", F.lit(NODE_CATEGORY))),
                    "status": F.lit("provisional"),
                }
            )
        )

    return transform


def with_shared_it(site_hours: DataFrame) -> Transform:
    """Add the site's IT energy outside clusters to the hours of clusters.

    `_shared` takes the metered network, storage and service equipment of the ledger beside its nodes (in place of
    its nodes of that kind: the ledger counts either). `_unattributed` is what the IT meter saw beyond every owner,
    where sensor errors do not explain it; it has no nodes and no interval.
    """
    key = [*_SITE_HOUR, "cluster_id"]
    figures = ("it_energy_kwh", "it_energy_measured_kwh")
    outside = {SHARED: "shared_load_kwh", UNATTRIBUTED: "unattributed_kwh"}

    def transform(clusters: DataFrame) -> DataFrame:
        loads = [
            site_hours.where(F.col(column) > 0).select(
                *_SITE_HOUR,
                F.lit(cluster).alias("cluster_id"),
                F.col("date").alias("_date"),
                F.col(column).alias("_load"),
            )
            for cluster, column in outside.items()
        ]
        has_load = F.col("_load").isNotNull()
        with_load = {
            name: F.when(has_load, F.coalesce(F.col(name), F.lit(0.0)) + F.col("_load")).otherwise(
                F.col(name)
            )
            for name in figures
        }
        # The interval was around what the nodes sensed, not around a meter's load.
        no_interval = {
            name: F.when(~has_load, F.col(name)) for name in ("it_energy_lower_kwh", "it_energy_upper_kwh")
        }
        return (
            clusters.join(loads[0].unionByName(loads[1]), key, how="full")
            .withColumns(with_load | no_interval)
            .withColumns(
                {
                    "date": F.coalesce("date", "_date"),
                    "node_count": F.coalesce("node_count", F.lit(0.0)),
                    "energy_basis": F.when(has_load, "measured").otherwise(F.col("energy_basis")),
                    "idle_basis": F.coalesce("idle_basis", F.lit("none")),
                }
            )
            .drop("_date", "_load")
        )

    return transform


def with_overhead(site_hours: DataFrame) -> Transform:
    """Add each cluster's facility energy: its IT energy and its share of the overhead, pro rata by IT energy.

    The overhead is the ledger's: conversion loss, cooling and management, where all are known; else what the site
    drew beyond its IT energy, at the IT meter where there is one. So clusters with `_shared` and `_unattributed` sum
    to the site without its residual, which is nobody's. Shares are by the sum of the clusters' own IT energies; where
    one is unknown, by the site's IT energy, so that its share is not charged to the others. An assumed PUE
    multiplies each cluster's own IT energy.
    Source: docs/definitions.md section 4.
    """
    facts = ("facility_energy_kwh", "it_energy_kwh", "overhead_kwh", "pue_ratio", "pue_basis")
    site = {name: F.col(f"site_{name}") for name in facts}
    is_assumed = site["pue_basis"] == "assumed"
    rest = site["facility_energy_kwh"] - site["it_energy_kwh"]
    overhead = F.coalesce(site["overhead_kwh"], F.when(rest >= 0, rest))
    own, all_of_them = F.col("it_energy_kwh"), Window.partitionBy(*_SITE_HOUR)
    known = F.sum(own.cast(ENERGY_SUM)).over(all_of_them).cast("double")
    is_whole = F.count_if(own.isNull()).over(all_of_them) == 0
    share = F.try_divide(own, F.when(is_whole, known).otherwise(site["it_energy_kwh"]))
    facility = F.when(is_assumed, own * site["pue_ratio"]).when(
        site["pue_basis"] != "none", own + overhead * share
    )
    pue = F.try_divide(F.col("facility_energy_kwh"), own)
    basis = F.when(F.col("facility_energy_kwh").isNull(), "none").otherwise(site["pue_basis"])

    def transform(clusters: DataFrame) -> DataFrame:
        shares = site_hours.select(
            *_SITE_HOUR, *(F.col(name).alias(f"site_{name}") for name in facts),
            F.col("pue_category").alias("site_pue_category"),
        )  # fmt: skip
        return (
            clusters.join(shares, list(_SITE_HOUR), how="left")
            .withColumn("facility_energy_kwh", facility)
            .withColumns(
                {
                    "facility_basis": basis,
                    "pue_ratio": F.when(is_assumed & F.col("facility_energy_kwh").isNotNull(),
                                        site["pue_ratio"]).otherwise(pue),
                    "pue_basis": basis,
                    "pue_category": F.when(
                        F.col("facility_energy_kwh").isNotNull(), F.col("site_pue_category")
                    ),
                }
            )
            .drop(*(f"site_{name}" for name in facts), "site_pue_category")
        )  # fmt: skip

    return transform


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
