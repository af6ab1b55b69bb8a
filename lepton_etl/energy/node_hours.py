"""Intervals -> hours of nodes: one row for every node that the inventory expects, silent ones included."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.schema.columns import (
    FINE_SUM,
    Transform,
    conform,
    exact_sum,
    interval_90,
    seconds_between,
    weighted_mean,
)
from lepton_etl.schema.declare import JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.uncertainty import Z

SHARED: Final = "_shared"
UNATTRIBUTED: Final = "_unattributed"
CHASSIS: Final = "chassis"
CHASSIS_BELOW_NODES: Final = "chassis_below_nodes"
# Chassis and nodes must have been seen for the same time of the hour, up to two minutes of polling.
CHASSIS_MISMATCH_S: Final = 120.0

_NODE: Final = ("site_id", "cluster_id", "node_id")
_BOARD: Final = r"^gpu\d+$"


def each_hour(days: Days) -> Transform:
    """One row for each row of an inventory and UTC hour of `days` in which it holds.

    Needs valid_from and valid_to (null is open); adds `hour_start`, `date` and `expected_s`, the seconds of
    the hour in which the row holds (0 < expected_s <= 3600).
    """

    def transform(rows: DataFrame) -> DataFrame:
        begin = F.greatest(F.col("valid_from"), F.lit(days.from_time))
        # least() passes over the null of an open end.
        end = F.least(F.col("valid_to"), F.lit(days.until_time))
        last_hour = F.date_trunc("hour", end - F.expr("INTERVAL 1 MICROSECOND"))
        hours = F.sequence(F.date_trunc("hour", begin), last_hour, F.expr("INTERVAL 1 HOUR"))
        hour_end = F.col("hour_start") + F.expr("INTERVAL 1 HOUR")
        expected_s = seconds_between(F.greatest(begin, F.col("hour_start")), F.least(end, hour_end))
        return (
            rows.withColumn("hour_start", F.explode(F.when(begin < end, hours)))
            .withColumn("expected_s", expected_s)
            .withColumn("date", F.to_date("hour_start"))
        )

    return transform


def by_node_interval(intervals: DataFrame) -> DataFrame:
    """silver/interval -> one row a node and interval: its own power source, its GPU boards, its utilisations.

    Energy, observed seconds and sigmas are those of the node's counting row; a component never adds to its
    node. Of GPU energies single boards win over the shared mean. `busiest_ratio` is the largest utilisation
    known of any device. `weight_s` weights utilisations and temperatures: the observed seconds, or the whole
    interval of a row that has no power to observe.
    """
    is_node = F.col("device_id") == "node"
    counts = is_node & F.col("counts_in_total") & F.col("energy_kwh").isNotNull()
    is_board = F.col("device_id").rlike(_BOARD)

    def own(name: str) -> Column:
        return F.max(F.when(counts, F.col(name))).alias(name)

    def node_else_devices(name: str) -> Column:
        devices = weighted_mean(F.when(~is_node, F.col(name)), F.coalesce(F.col("multiplicity"), F.lit(1)))
        return F.coalesce(F.max(F.when(is_node, F.col(name))), devices).alias(name)

    boards = exact_sum(F.when(is_board, F.col("energy_kwh")), FINE_SUM)
    shared = F.max(F.when(F.col("device_id") == "gpu", F.col("energy_kwh")))
    seconds = F.when(F.col("observed_s") > 0, F.col("observed_s")).otherwise(F.col("interval_s"))
    keyed = intervals.withColumn("cluster_id", F.coalesce(F.col("cluster_id"), F.lit(SHARED)))
    # Shuffled once by node and hour: the sums by interval here and by hour after it both stand on that.
    hourly = keyed.withColumn("hour_start", F.date_trunc("hour", "interval_start"))
    placed = hourly.repartition(*_NODE, "hour_start")
    own_sums = (
        "energy_kwh", "observed_s", "power_mean_w", "gain_sigma_kwh", "resolution_sigma_kwh", "sampling_sigma_kwh",
    )  # fmt: skip
    return placed.groupBy(*_NODE, "hour_start", "interval_start").agg(
        *(own(name) for name in (*own_sums, "energy_source", "sensor_class")),
        F.coalesce(boards, shared).alias("gpu_energy_kwh"),
        node_else_devices("cpu_utilisation_ratio"),
        node_else_devices("gpu_utilisation_ratio"),
        node_else_devices("inlet_temp_c"),
        node_else_devices("device_temp_c"),
        F.greatest(F.max("cpu_utilisation_ratio"), F.max("gpu_utilisation_ratio")).alias("busiest_ratio"),
        F.max(seconds).alias("weight_s"),
        F.flatten(F.collect_set("flags")).alias("flags"),
    )


def sum_intervals(idle_utilisation_ratio: float) -> Transform:
    """Node-intervals -> hours of nodes that have readings, with idle energy told by utilisation."""

    def transform(node_intervals: DataFrame) -> DataFrame:
        energy, busiest = F.col("energy_kwh"), F.col("busiest_ratio")
        is_told = busiest.isNotNull() & energy.isNotNull()
        is_idle = busiest < idle_utilisation_ratio
        told_kwh = exact_sum(F.when(is_told, F.when(is_idle, energy).otherwise(0.0)), FINE_SUM)
        means = ("cpu_utilisation_ratio", "gpu_utilisation_ratio", "inlet_temp_c", "device_temp_c")
        return node_intervals.groupBy(*_NODE, "hour_start").agg(
            exact_sum(energy, FINE_SUM).alias("it_energy_measured_kwh"),
            exact_sum(F.col("gain_sigma_kwh"), FINE_SUM).alias("gain_sigma_kwh"),
            exact_sum(F.col("resolution_sigma_kwh"), FINE_SUM).alias("resolution_sigma_kwh"),
            F.sqrt(exact_sum(F.col("sampling_sigma_kwh") ** 2, FINE_SUM)).alias("sampling_sigma_kwh"),
            exact_sum(F.col("gpu_energy_kwh"), FINE_SUM).alias("gpu_energy_kwh"),
            exact_sum(F.col("observed_s")).alias("observed_s"),
            told_kwh.alias("idle_energy_kwh"),
            F.max("power_mean_w").alias("peak_power_w"),
            *(weighted_mean(F.col(name), F.col("weight_s")).alias(name) for name in means),
            F.mode(F.col("energy_source"), deterministic=True).alias("energy_source"),
            F.mode(F.col("sensor_class"), deterministic=True).alias("sensor_class"),
            F.array_sort(F.array_distinct(F.flatten(F.collect_set("flags")))).alias("flags"),
        )

    return transform


def measured_node_hours(intervals: DataFrame, days: Days, *, idle_utilisation_ratio: float) -> Transform:
    """silver/node -> every expected node-hour, joined with what silver/interval holds of it.

    A node without a reading has a row with coverage 0 and null energy: silence is not off.
    """

    def transform(nodes: DataFrame) -> DataFrame:
        measured = intervals.transform(by_node_interval).transform(sum_intervals(idle_utilisation_ratio))
        rows = nodes.transform(_expected_node_hours(days)).join(measured, [*_NODE, "hour_start"], how="left")
        observed_s = F.least(F.coalesce("observed_s", F.lit(0.0)), F.col("expected_s"))
        return (
            rows.withColumn("observed_s", observed_s)
            .withColumn("coverage_ratio", F.col("observed_s") / F.col("expected_s"))
            .withColumn("flags", F.coalesce(F.col("flags"), F.array().cast("array<string>")))
            .transform(_with_chassis_shared(intervals))
        )

    return transform


def node_hours(coverage_min_ratio: float) -> Transform:
    """Measured node-hours with `filled_*` (gaps.with_imputed, gaps.with_modelled) -> gold/node_hour.

    The total is measured + imputed energy, never measured / coverage: `measured` where coverage reaches the
    limit, `estimated` below it where the gap is filled, else null. 90 % interval: E -/+ 1.645 sqrt(G^2 + R^2 + S^2
    + I^2) by gain, resolution, sampling and imputation.
    Source: docs/methodology.md, sections 1 to 3; docs/definitions.md section 3.
    """
    energy, filled = F.col("it_energy_measured_kwh"), F.col("filled_kwh")
    is_covered = energy.isNotNull() & (F.col("coverage_ratio") >= coverage_min_ratio)
    total = F.coalesce(energy, F.lit(0.0)) + F.coalesce(filled, F.lit(0.0))
    basis = (
        F.when(is_covered, "measured")
        .when(filled.isNotNull(), "estimated")
        .when(energy.isNotNull(), "insufficient")
        .when(F.col("gpu_energy_kwh").isNotNull(), "gpu_only")
        .otherwise("none")
    )
    sigmas = ("gain_sigma_kwh", "resolution_sigma_kwh", "sampling_sigma_kwh", "imputed_sigma_kwh")
    variance = sum((F.coalesce(F.col(name), F.lit(0.0)) ** 2 for name in sigmas), F.lit(0.0))

    def transform(rows: DataFrame) -> DataFrame:
        return (
            rows.withColumns(
                {
                    "it_energy_kwh": F.when(is_covered | filled.isNotNull(), total),
                    "energy_basis": basis,
                    "it_energy_imputed_kwh": filled,
                    "imputed_sigma_kwh": F.col("filled_sigma_kwh"),
                    "imputed_s": F.col("filled_s"),
                    "imputation_basis": F.col("filled_by"),
                    "power_mean_w": F.try_divide(energy * JOULES_PER_KWH, F.col("observed_s")),
                    "idle_basis": F.when(F.col("idle_energy_kwh").isNotNull(), "utilisation").otherwise(
                        "none"
                    ),
                    "status": F.lit("provisional"),
                }
            )
            .withColumns(interval_90(Z * F.sqrt(variance)))
            .transform(conform(NODE_HOUR))
        )

    return transform


def _with_chassis_shared(intervals: DataFrame) -> Transform:
    """Add `chassis_shared_kwh`: what the chassis draws beyond its nodes, split by their energy.

    Known where the chassis and all its nodes were measured in the hour. A chassis below its nodes contradicts
    them: null and a flag, never negative. Source: docs/definitions.md section 2.
    """
    hour = F.date_trunc("hour", "interval_start")
    known = (F.col("device_id") == CHASSIS) & F.col("energy_kwh").isNotNull()
    chassis_kwh = (
        intervals.where(known)
        .groupBy("site_id", F.col("node_id").alias("chassis_id"), hour.alias("hour_start"))
        .agg(
            exact_sum(F.col("energy_kwh"), FINE_SUM).alias("chassis_kwh"),
            exact_sum(F.col("observed_s")).alias("chassis_s"),
        )
    )
    energy = F.col("it_energy_measured_kwh")
    members = Window.partitionBy("site_id", "chassis_id", "hour_start")
    nodes_kwh = F.sum(energy.cast(FINE_SUM)).over(members).cast("double")
    least_s = F.min("observed_s").over(members)
    rest = F.when(
        F.col("chassis_kwh").isNotNull()
        & (F.abs(F.col("chassis_s") - least_s) <= CHASSIS_MISMATCH_S)
        & (F.count(F.when(energy.isNull(), 1)).over(members) == 0),
        F.col("chassis_kwh") - nodes_kwh,
    )
    share = F.coalesce(F.try_divide(energy, nodes_kwh), 1 / F.count("*").over(members))
    flag = F.when(F.col("_rest") < 0, F.array(F.lit(CHASSIS_BELOW_NODES))).otherwise(
        F.array().cast("array<string>")
    )

    def transform(hours: DataFrame) -> DataFrame:
        joined = hours.join(chassis_kwh, ["site_id", "chassis_id", "hour_start"], how="left")
        return (
            joined.withColumns({"_rest": rest, "_share": share})
            .withColumn("chassis_shared_kwh", F.when(F.col("_rest") >= 0, F.col("_rest") * F.col("_share")))
            .withColumn("flags", F.array_sort(F.array_union("flags", flag)))
            .drop("_rest", "_share", "chassis_kwh", "chassis_s")
        )

    return transform


def _expected_node_hours(days: Days) -> Transform:
    """silver/node -> node-hours with what the newest inventory row of the hour says of the node.

    Two rows of one node may meet within an hour (a new rating, a move): the seconds add up in the cluster
    they name.
    """
    facts = (
        "rack_id",
        "chassis_id",
        "hardware_class",
        "node_kind",
        "rated_power_w",
        "idle_power_w",
        "gpu_count",
    )

    def transform(nodes: DataFrame) -> DataFrame:
        newest = F.max_by(F.struct(*facts), F.col("valid_from")).alias("newest")
        return (
            nodes.withColumn("cluster_id", F.coalesce(F.col("cluster_id"), F.lit(SHARED)))
            .transform(each_hour(days))
            .groupBy(*_NODE, "date", "hour_start")
            .agg(F.least(exact_sum(F.col("expected_s")), F.lit(SECONDS_PER_HOUR)).alias("expected_s"), newest)
            .select(*_NODE, "date", "hour_start", "expected_s", "newest.*")
        )

    return transform
