"""Hours of nodes -> sums by cluster or site, over an hour or a day; peaks and inlets from intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.energy.node_hours import by_node_interval
from lepton_etl.schema.columns import FINE_SUM, Transform, exact_sum, interval_90
from lepton_etl.uncertainty import Z

INLET_PERCENTILE: Final = 0.99
# Sums that go through the levels node -> hardware class -> group unchanged.
_SUMS: Final = (
    "nodes", "unrated", "measured_kwh", "imputed_kwh", "chassis_shared_kwh", "told_kwh", "idle_kwh", "gpu_kwh",
    "observed_s", "accounted_s", "expected_s", "observed_ws", "accounted_ws", "expected_ws", "cpu_s", "cpu_busy_s",
    "gpu_s", "gpu_busy_s", "board_s", "board_busy_s", "uncounted", "by_utilisation",
)  # fmt: skip
_LINEAR_SIGMAS: Final = {
    "gain_sigma_kwh": "gain_kwh",
    "resolution_sigma_kwh": "resolution_kwh",
    "imputed_sigma_kwh": "filled_kwh",
}
# Below half of its seconds a group is not told from the rest, however well the rest can be filled.
# Source: OpenDSM's thresholds, 0.5 for sums and 0.9 for publication.
ESTIMATE_MIN_RATIO: Final = 0.5


def sum_nodes(
    by: tuple[str, ...], coverage_min_ratio: float, shared_variance: Mapping[str, float] | None = None
) -> Transform:
    """gold/node_hour -> one row for each group of `by` (hour or day of a cluster or site).

    The total is measured + imputed energy: `measured` where coverage reaches the limit, `estimated` where it
    reaches ESTIMATE_MIN_RATIO and imputation brings it to the limit, else null with basis `insufficient`.
    Coverage is weighted by rated power where every node has one, else by node-seconds (which stands beside it).
    Errors: the gain of a sensor adds linearly over time; over nodes of one hardware class the share
    `shared_variance` of its sensor class is common to them (linear), the rest each sensor's own (quadrature); a
    class that is not named shares all of it. Resolution and imputation add linearly over time and in quadrature
    over nodes, sampling in quadrature over both. Idle energy is published where nodes whose utilisation is known
    hold the same share of the energy as the limit.
    Source: docs/methodology.md, sections 1 to 4; JCGM 100:2008 (GUM) 5.2 for correlated errors.
    """
    common = shared_ratio(shared_variance or {})

    def transform(node_hours: DataFrame) -> DataFrame:
        classes = node_hours.transform(_by_node(by)).groupBy(*by, "hardware_class")
        own = (1 - common) * F.col("gain_kwh") ** 2
        alone = own + F.col("resolution_kwh") ** 2 + F.col("sampling_kwh2") + F.col("filled_kwh") ** 2
        summed = classes.agg(
            *(exact_sum(F.col(name)).alias(name) for name in _SUMS),
            exact_sum(F.sqrt(common) * F.col("gain_kwh"), FINE_SUM).alias("common_kwh"),
            exact_sum(alone, FINE_SUM).alias("alone_kwh2"),
        )
        groups = summed.groupBy(*by).agg(
            *(exact_sum(F.col(name)).alias(name) for name in _SUMS),
            F.sqrt(
                exact_sum(F.coalesce(F.col("common_kwh"), F.lit(0.0)) ** 2, FINE_SUM)
                + exact_sum(F.col("alone_kwh2"), FINE_SUM)
            ).alias("sigma_kwh"),
        )
        return groups.transform(_figures(by, coverage_min_ratio))

    return transform


def shared_ratio(shared_variance: Mapping[str, float]) -> Column:
    """The share of a gain error's variance that sensors of one make have in common, by `sensor_class`."""
    share = F.lit(1.0)
    for sensor_class, ratio in sorted(shared_variance.items()):
        share = F.when(F.col("sensor_class") == sensor_class, F.lit(ratio)).otherwise(share)
    return share


def _by_node(by: tuple[str, ...]) -> Transform:
    """Hours of one node add up linearly: energies, seconds and its errors, all but that of sampling."""
    energy, observed_s, expected_s = F.col("it_energy_measured_kwh"), F.col("observed_s"), F.col("expected_s")
    cpu, gpu, gpus = F.col("cpu_utilisation_ratio"), F.col("gpu_utilisation_ratio"), F.col("gpu_count")
    accounted_s = F.least(observed_s + F.coalesce("imputed_s", F.lit(0.0)), expected_s)
    # A node whose boards alone are read has utilisation but no observed seconds of its own.
    seconds = F.when(observed_s > 0, observed_s).otherwise(expected_s)
    # ITEUsv leaves out servers that are mostly accelerators, and servers that are off.
    is_server = (
        cpu.isNotNull()
        & (F.coalesce(gpus, F.lit(0)) == 0)
        & F.coalesce(F.col("power_mean_w") > 0, F.lit(True))
    )
    has_gpu = gpu.isNotNull()
    addends: dict[str, Column] = {
        "unrated": F.col("rated_power_w").isNull().cast("int"),
        "measured_kwh": energy,
        "imputed_kwh": F.col("it_energy_imputed_kwh"),
        "chassis_shared_kwh": F.col("chassis_shared_kwh"),
        "told_kwh": F.when(F.col("idle_basis") != "none", energy),
        "by_utilisation": (F.col("idle_basis") == "utilisation").cast("int"),
        "idle_kwh": F.col("idle_energy_kwh"),
        "gpu_kwh": F.col("gpu_energy_kwh"),
        "observed_s": observed_s,
        "accounted_s": accounted_s,
        "expected_s": expected_s,
        "observed_ws": F.col("rated_power_w") * observed_s,
        "accounted_ws": F.col("rated_power_w") * accounted_s,
        "expected_ws": F.col("rated_power_w") * expected_s,
        "cpu_s": F.when(is_server, seconds),
        "cpu_busy_s": F.when(is_server, seconds * cpu),
        "gpu_s": F.when(has_gpu, seconds),
        "gpu_busy_s": F.when(has_gpu, seconds * gpu),
        "board_s": F.when(has_gpu, seconds * gpus),
        "board_busy_s": F.when(has_gpu, seconds * gpus * gpu),
        "uncounted": (has_gpu & gpus.isNull()).cast("int"),
    }

    def transform(node_hours: DataFrame) -> DataFrame:
        return node_hours.groupBy(*by, "node_id").agg(
            F.lit(1).alias("nodes"),
            F.max("hardware_class").alias("hardware_class"),
            *(exact_sum(addend).alias(name) for name, addend in addends.items()),
            F.mode(F.col("sensor_class"), deterministic=True).alias("sensor_class"),
            *(
                F.coalesce(exact_sum(F.col(sigma), FINE_SUM), F.lit(0.0)).alias(name)
                for sigma, name in _LINEAR_SIGMAS.items()
            ),
            F.coalesce(exact_sum(F.col("sampling_sigma_kwh") ** 2, FINE_SUM), F.lit(0.0)).alias(
                "sampling_kwh2"
            ),
        )

    return transform


def _figures(by: tuple[str, ...], coverage_min_ratio: float) -> Transform:
    by_seconds = F.try_divide(F.col("observed_s"), F.col("expected_s"))
    by_rating = F.when(F.col("unrated") == 0, F.try_divide(F.col("observed_ws"), F.col("expected_ws")))
    accounted = F.coalesce(
        F.when(F.col("unrated") == 0, F.try_divide(F.col("accounted_ws"), F.col("expected_ws"))),
        F.try_divide(F.col("accounted_s"), F.col("expected_s")),
    )
    measured, coverage = F.col("it_energy_measured_kwh"), F.col("coverage_ratio")
    imputed = F.col("it_energy_imputed_kwh")
    is_measured = measured.isNotNull() & (coverage >= coverage_min_ratio)
    is_estimate = (coverage >= ESTIMATE_MIN_RATIO) & (F.col("accounted_ratio") >= coverage_min_ratio)
    total = F.coalesce(measured, F.lit(0.0)) + F.coalesce(imputed, F.lit(0.0))
    basis = (
        F.when(is_measured, "measured")
        .when(is_estimate & imputed.isNotNull(), "estimated")
        .when(measured.isNotNull() | imputed.isNotNull(), "insufficient")
        .when(F.col("gpu_energy_kwh").isNotNull(), "gpu_only")
        .otherwise("none")
    )
    told_by = F.when(F.col("by_utilisation") == 0, "jobs").otherwise("utilisation")
    is_told = F.col("told_kwh") >= coverage_min_ratio * F.col("measured_kwh")
    by_board = F.when(F.col("uncounted") == 0, F.try_divide(F.col("board_busy_s"), F.col("board_s")))
    by_node = F.try_divide(F.col("gpu_busy_s"), F.col("gpu_s"))

    def transform(groups: DataFrame) -> DataFrame:
        figures = groups.select(
            *by,
            F.col("nodes").alias("node_count"),
            F.col("measured_kwh").alias("it_energy_measured_kwh"),
            F.col("imputed_kwh").alias("it_energy_imputed_kwh"),
            "chassis_shared_kwh",
            accounted.alias("accounted_ratio"),
            F.col("gpu_kwh").alias("gpu_energy_kwh"),
            F.least(F.coalesce(by_rating, by_seconds), F.lit(1.0)).alias("coverage_ratio"),
            F.least(by_seconds, F.lit(1.0)).alias("node_second_coverage_ratio"),
            F.when(is_told, F.col("idle_kwh")).alias("idle_energy_kwh"),
            F.when(is_told, told_by).otherwise("none").alias("idle_basis"),
            F.try_divide(F.col("cpu_busy_s"), F.col("cpu_s")).alias("cpu_utilisation_ratio"),
            F.coalesce(by_board, by_node).alias("gpu_utilisation_ratio"),
            "sigma_kwh",
        )
        return (
            figures.withColumn("energy_basis", basis)
            .withColumn("it_energy_kwh", F.when(F.col("energy_basis").isin("measured", "estimated"), total))
            .withColumns(interval_90(Z * F.col("sigma_kwh")))
            .withColumnRenamed("sigma_kwh", "it_energy_sigma_kwh")
            .drop("accounted_ratio")
        )

    return transform


def with_peak_power(intervals: DataFrame) -> Transform:
    """Add `peak_power_w`: the largest sum over the cluster's nodes of one interval's mean powers.

    Null where the hour's energy is not published: a sum over a part of the nodes is no peak.
    """
    key = ("site_id", "cluster_id")

    def transform(cluster_hours: DataFrame) -> DataFrame:
        means = intervals.transform(by_node_interval).groupBy(*key, "hour_start", "interval_start")
        sums = means.agg(exact_sum(F.col("power_mean_w")).alias("power_w"))
        peaks = sums.groupBy(*key, "hour_start").agg(F.max("power_w").alias("_peak_w"))
        peak = F.when(F.col("it_energy_kwh").isNotNull(), F.col("_peak_w"))
        return (
            cluster_hours.join(peaks, [*key, "hour_start"], how="left")
            .withColumn("peak_power_w", peak)
            .drop("_peak_w")
        )

    return transform


def with_inlet_p99(intervals: DataFrame, period: str) -> Transform:
    """Add `inlet_temp_p99_c`: the exact 99th percentile over node-intervals of `period` (hour_start, date).

    Temperatures are rounded to 0.01 degC first. The exact percentile counts distinct values, so this bounds
    its memory at thousands of nodes; percentile_approx would depend on partitioning.
    """
    key = ["site_id", "cluster_id", period]

    def transform(clusters: DataFrame) -> DataFrame:
        inlets = intervals.transform(by_node_interval).withColumn("date", F.to_date("interval_start"))
        p99 = F.percentile(F.round("inlet_temp_c", 2), INLET_PERCENTILE).alias("inlet_temp_p99_c")
        return clusters.join(inlets.groupBy(*key).agg(p99), key, how="left")

    return transform
