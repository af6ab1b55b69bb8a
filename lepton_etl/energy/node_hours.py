"""Intervals -> hours of nodes: one row for every node that the inventory expects, silent ones included."""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import FINE_SUM, Transform, conform, exact_sum, seconds_between, weighted_mean
from lepton_etl.days import Days
from lepton_etl.fields import JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.lake.tables import NODE_HOUR

SHARED: Final = "_shared"
CONFIDENCE: Final = 0.9
# Two-sided: 5 % of a normal error lie above +1.645 sigma and 5 % below -1.645 sigma.
Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

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
    own_sums = ("energy_kwh", "observed_s", "power_mean_w", "gain_sigma_kwh", "resolution_sigma_kwh")
    return placed.groupBy(*_NODE, "hour_start", "interval_start").agg(
        *(own(name) for name in (*own_sums, "energy_source")),
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
            exact_sum(F.col("gpu_energy_kwh"), FINE_SUM).alias("gpu_energy_kwh"),
            exact_sum(F.col("observed_s")).alias("observed_s"),
            told_kwh.alias("idle_energy_kwh"),
            F.max("power_mean_w").alias("peak_power_w"),
            *(weighted_mean(F.col(name), F.col("weight_s")).alias(name) for name in means),
            F.mode(F.col("energy_source"), deterministic=True).alias("energy_source"),
            F.array_sort(F.array_distinct(F.flatten(F.collect_set("flags")))).alias("flags"),
        )

    return transform


def node_hours(
    intervals: DataFrame, days: Days, *, coverage_min_ratio: float, idle_utilisation_ratio: float
) -> Transform:
    """silver/node -> gold/node_hour: every expected node-hour, joined with what silver/interval holds of it.

    A node without a reading has a row with coverage 0 and null energy: silence is not off. The total is the
    measured energy where coverage reaches the limit, never measured / coverage. 90 % interval: E -/+ 1.645
    sqrt(G^2 + R^2).
    Source: docs/methodology.md, sections 1 to 3.
    """

    def transform(nodes: DataFrame) -> DataFrame:
        measured = intervals.transform(by_node_interval).transform(sum_intervals(idle_utilisation_ratio))
        rows = nodes.transform(_expected_node_hours(days)).join(measured, [*_NODE, "hour_start"], how="left")
        energy, is_total = F.col("it_energy_measured_kwh"), F.col("coverage_ratio") >= coverage_min_ratio
        basis = (
            F.when(energy.isNotNull() & is_total, "measured")
            .when(energy.isNotNull(), "insufficient")
            .when(F.col("gpu_energy_kwh").isNotNull(), "gpu_only")
            .otherwise("none")
        )
        half_width = Z * F.sqrt(F.col("gain_sigma_kwh") ** 2 + F.col("resolution_sigma_kwh") ** 2)
        is_told = F.col("idle_energy_kwh").isNotNull()
        observed_s = F.least(F.coalesce("observed_s", F.lit(0.0)), F.col("expected_s"))
        return (
            rows.withColumn("observed_s", observed_s)
            .withColumn("coverage_ratio", F.col("observed_s") / F.col("expected_s"))
            .withColumns({"energy_basis": basis, "it_energy_kwh": F.when(is_total, energy)})
            .withColumns(interval_90(half_width))
            .withColumns(
                {
                    "it_energy_imputed_kwh": F.lit(None),
                    "power_mean_w": F.try_divide(energy * JOULES_PER_KWH, F.col("observed_s")),
                    "idle_basis": F.when(is_told, "utilisation").otherwise("none"),
                    "flags": F.coalesce(F.col("flags"), F.array().cast("array<string>")),
                    "status": F.lit("provisional"),
                }
            )
            .transform(conform(NODE_HOUR))
        )

    return transform


def interval_90(half_width: Column) -> dict[str, Column]:
    """Lower and upper end of the 90 % interval around `it_energy_kwh`; the lower end is never below 0."""
    energy = F.col("it_energy_kwh")
    lower = energy - half_width
    # greatest() passes over nulls: an unknown lower end would become 0.
    return {
        "it_energy_lower_kwh": F.when(lower.isNotNull(), F.greatest(lower, F.lit(0.0))),
        "it_energy_upper_kwh": energy + half_width,
    }


def _expected_node_hours(days: Days) -> Transform:
    """silver/node -> node-hours with what the newest inventory row of the hour says of the node.

    Two rows of one node may meet within an hour (a new rating, a move): the seconds add up in the cluster
    they name.
    """
    facts = ("rack_id", "hardware_class", "node_kind", "rated_power_w", "gpu_count")

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
