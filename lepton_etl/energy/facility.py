"""Facility meters -> what a site drew, its PUE with basis and category, the share of each cluster."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import ENERGY_SUM, Transform, exact_sum
from lepton_etl.days import Days
from lepton_etl.energy.node_hours import SHARED, each_hour

# Energy that crosses the site's boundary: +1 adds to what the site used, -1 was passed on or stored.
BOUNDARY: Final = {"utility": 1, "pv": 1, "generator": 1, "battery_out": 1, "export": -1, "battery_in": -1}
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
                direction.alias("direction"),
                F.when(is_known, F.col("metered_kwh")).alias("energy_kwh"),
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
    """Give `_shared` the IT energy of the site's IT meter that no cluster has.

    Only where every cluster of the site is known in the hour: else the meter's rest would hold a silent
    cluster. The row is made where there is a rest and no node outside clusters. It contains what gaps and
    sensor errors leave.
    """
    key = [*_SITE_HOUR, "cluster_id"]

    def transform(clusters: DataFrame) -> DataFrame:
        owned = clusters.where(F.col("cluster_id") != SHARED).groupBy(*_SITE_HOUR)
        total = owned.agg(
            F.sum(F.col("it_energy_kwh").cast(ENERGY_SUM)).alias("owned_kwh"),
            F.count_if(F.col("it_energy_kwh").isNull()).alias("unknown"),
        )
        # In decimals, so that a meter that agrees with its nodes leaves no rest of 1e-16.
        rest = (
            F.col("it_metered_kwh").cast(ENERGY_SUM) - F.coalesce("owned_kwh", F.lit(0).cast(ENERGY_SUM))
        ).cast("double")
        rests = (
            site_hours.where(F.col("it_metered_kwh").isNotNull())
            .join(total, list(_SITE_HOUR), how="left")
            .where((F.coalesce("unknown", F.lit(0)) == 0) & (rest > 0))
            .select(
                *_SITE_HOUR,
                F.lit(SHARED).alias("cluster_id"),
                F.col("date").alias("_date"),
                rest.alias("_rest"),
            )
        )
        has_rest = F.col("_rest").isNotNull()
        own_or_rest = {
            name: F.coalesce(F.col("_rest"), F.col(name))
            for name in ("it_energy_kwh", "it_energy_measured_kwh")
        }
        # The interval was around what the nodes sensed, not around the rest of a meter.
        no_interval = {
            name: F.when(~has_rest, F.col(name)) for name in ("it_energy_lower_kwh", "it_energy_upper_kwh")
        }
        return (
            clusters.join(rests, key, how="full")
            .withColumns(own_or_rest | no_interval)
            .withColumns(
                {
                    "date": F.coalesce("date", "_date"),
                    "node_count": F.coalesce("node_count", F.lit(0.0)),
                    "energy_basis": F.when(has_rest, "measured").otherwise(F.col("energy_basis")),
                    "idle_basis": F.coalesce("idle_basis", F.lit("none")),
                }
            )
            .drop("_date", "_rest")
        )

    return transform


def with_overhead(site_hours: DataFrame) -> Transform:
    """Add each cluster's facility energy: its IT energy and its share of the overhead, pro rata by IT energy.

    IT_c + (F - IT) x IT_c / IT = F x IT_c / IT, so clusters with `_shared` sum to the site. Where the nodes'
    sensors add up to more than the IT meter, their sum is the denominator: shares never exceed the whole. An
    assumed PUE multiplies each cluster's own IT energy.
    """
    facts = (
        "facility_energy_kwh",
        "it_energy_kwh",
        "it_energy_measured_kwh",
        "it_metered_kwh",
        "pue_ratio",
        "pue_basis",
    )
    site = {name: F.col(f"site_{name}") for name in facts}
    is_assumed = site["pue_basis"] == "assumed"
    metered_it = F.greatest(site["it_metered_kwh"], site["it_energy_measured_kwh"])
    whole_it = F.when(site["it_metered_kwh"].isNotNull(), metered_it).otherwise(site["it_energy_kwh"])
    quotient = F.try_divide(site["facility_energy_kwh"], whole_it)
    pue = F.when(is_assumed, site["pue_ratio"]).when(quotient >= 1, quotient)
    facility = F.col("it_energy_kwh") * pue
    basis = F.when(facility.isNull(), "none").otherwise(site["pue_basis"])

    def transform(clusters: DataFrame) -> DataFrame:
        shares = site_hours.select(
            *_SITE_HOUR, *(F.col(name).alias(f"site_{name}") for name in facts),
            F.col("pue_category").alias("site_pue_category"),
        )  # fmt: skip
        return (
            clusters.join(shares, list(_SITE_HOUR), how="left")
            .withColumns(
                {
                    "facility_energy_kwh": facility,
                    "facility_basis": basis,
                    "pue_ratio": F.when(facility.isNotNull(), pue),
                    "pue_basis": basis,
                    "pue_category": F.when(facility.isNotNull(), F.col("site_pue_category")),
                }
            )
            .drop(*(f"site_{name}" for name in facts), "site_pue_category")
        )

    return transform
