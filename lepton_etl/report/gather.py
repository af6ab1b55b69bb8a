"""Lake tables -> the small tables of the report, aggregated in Spark: a page of 2,000 nodes stays small."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import Transform, weighted_mean
from lepton_etl.days import Days
from lepton_etl.fields import SECONDS_PER_HOUR

COMPLETE_RATIO: Final = 0.9995  # What rounds to 100.0 %.


def node_points(node_hours: DataFrame) -> DataFrame:
    """gold/node_hour -> power, load and inlet temperature of node-hours whose power is known.

    The load of a node with GPUs is its GPU utilisation, of any other its CPU utilisation: two axes.
    """
    is_gpu = F.coalesce(F.col("gpu_count"), F.lit(0)) > 0
    load = F.when(is_gpu, F.col("gpu_utilisation_ratio")).otherwise(F.col("cpu_utilisation_ratio"))
    kind = F.when(is_gpu, F.lit("GPU utilisation")).otherwise(F.lit("CPU utilisation"))
    return node_hours.where(F.col("power_mean_w").isNotNull()).select(
        F.lit("node").alias("subject"),
        "node_id",
        F.lit("node").alias("device_id"),
        "hardware_class",
        "hour_start",
        F.col("power_mean_w").alias("power_w"),
        F.when(load.isNotNull(), kind).alias("load_kind"),
        load.alias("load_ratio"),
        F.when(F.col("inlet_temp_c").isNotNull(), F.lit("Inlet temperature")).alias("temperature_kind"),
        F.col("inlet_temp_c").alias("temperature_c"),
    )


def gpu_points(node_hours: DataFrame) -> Transform:
    """silver/interval -> power, load and die temperature of GPU-hours; the hardware class is the node's."""
    classes = node_hours.groupBy("site_id", "node_id").agg(F.max("hardware_class").alias("hardware_class"))

    def transform(intervals: DataFrame) -> DataFrame:
        gpus = intervals.where(F.col("device_id").startswith("gpu") & F.col("power_mean_w").isNotNull())
        hours = gpus.groupBy(
            "site_id", "node_id", "device_id", F.date_trunc("hour", "interval_start").alias("hour_start")
        ).agg(
            weighted_mean(F.col("power_mean_w"), F.col("observed_s")).alias("power_w"),
            weighted_mean(F.col("gpu_utilisation_ratio"), F.col("observed_s")).alias("load_ratio"),
            weighted_mean(F.col("device_temp_c"), F.col("observed_s")).alias("temperature_c"),
        )
        return hours.join(classes, ["site_id", "node_id"], how="left").select(
            F.lit("GPU").alias("subject"),
            "node_id",
            "device_id",
            "hardware_class",
            "hour_start",
            "power_w",
            F.when(F.col("load_ratio").isNotNull(), F.lit("GPU utilisation")).alias("load_kind"),
            "load_ratio",
            F.when(F.col("temperature_c").isNotNull(), F.lit("GPU temperature")).alias("temperature_kind"),
            "temperature_c",
        )

    return transform


def lowest_hashes(limit: int, *key: str) -> Transform:
    """The `limit` rows with the lowest hash of their key: the same rows give the same sample."""

    def transform(rows: DataFrame) -> DataFrame:
        return rows.orderBy(F.xxhash64(*key), *key).limit(limit)

    return transform


def node_coverage(node_hours: DataFrame) -> DataFrame:
    """gold/node_hour -> observed over expected seconds of all hours of a node, least covered first."""
    return (
        node_hours.groupBy("node_id")
        .agg(_coverage().alias("coverage_ratio"))
        .where(F.col("coverage_ratio").isNotNull())
        .orderBy("coverage_ratio", "node_id")
    )


def coverage_cells(nodes: DataFrame, hours: int) -> Transform:
    """gold/node_hour -> coverage of these nodes by node and bucket of `hours` (from the epoch, UTC)."""
    width = int(hours * SECONDS_PER_HOUR)

    def transform(node_hours: DataFrame) -> DataFrame:
        seconds = F.unix_timestamp("hour_start")
        bucket = F.timestamp_seconds(seconds - seconds % F.lit(width))
        return (
            node_hours.join(F.broadcast(nodes.select("node_id")), "node_id", how="left_semi")
            .groupBy("node_id", bucket.alias("bucket_start"))
            .agg(_coverage().alias("coverage_ratio"))
            .orderBy("node_id", "bucket_start")
        )

    return transform


def _coverage() -> Column:
    ratio = F.try_divide(F.sum("observed_s"), F.sum("expected_s"))
    return F.least(ratio, F.lit(1.0))


def files_of(days: Days) -> Transform:
    """bronze/file -> the files whose readings touch the days, and the files without readings that belong.

    A file without readings belongs to the day that its path names; where it names none, to the newest batch.
    """

    def transform(files: DataFrame) -> DataFrame:
        newest = files.agg(F.max("batch").alias("newest_batch"))
        touches = (F.col("first_reading_time") < F.lit(days.until_time)) & (
            F.col("last_reading_time") >= F.lit(days.from_time)
        )
        named_day = F.regexp_extract("path", r"(\d{4}-\d{2}-\d{2})(?!.*\d{4}-\d{2}-\d{2})", 1)
        # Days as text: ISO dates sort as text, and a name such as 2025-99-99 must not stop the report.
        named = named_day.between(str(days.start), str(days.end))
        nameless = (named_day == "") & (F.col("batch") == F.col("newest_batch"))
        without = F.col("first_reading_time").isNull() & (named | nameless)
        return files.crossJoin(F.broadcast(newest)).where(touches | without).drop("newest_batch")

    return transform


def file_counts(files: DataFrame) -> DataFrame:
    """bronze/file -> files, bytes and records by source and state."""
    counts = ("size_bytes", "records", "readings", "rejects", "duplicates", "ignored")
    return (
        files.groupBy("source_name", "state")
        .agg(F.count(F.lit(1)).alias("files"), *(F.sum(name).alias(name) for name in counts))
        .orderBy("source_name", "state")
    )


def discarded(files: DataFrame) -> DataFrame:
    """bronze/file -> the files of which nothing could be used, with the reason."""
    return (
        files.where(F.col("state") == "discarded")
        .select("path", "source_name", "state", "reason")
        .orderBy("source_name", "path")
    )


def reject_counts(files: DataFrame) -> Transform:
    """bronze/reject -> records of these files by source and reason, most first, with the first of each."""

    def transform(rejects: DataFrame) -> DataFrame:
        first = F.min(F.struct("path", "source_position", "raw_text"))
        return (
            rejects.join(files.select("path", "file_id"), ["path", "file_id"], how="left_semi")
            .groupBy("source_name", "reason")
            .agg(F.count(F.lit(1)).alias("records"), first.alias("first"))
            .select("source_name", "reason", "records", "first.*")
            .orderBy(F.desc("records"), "source_name", "reason")
        )

    return transform


def ignored_sensors(files: DataFrame) -> DataFrame:
    """bronze/file -> ignored records by source, sensor and reason, most frequent first.

    `ignored_detail` is a JSON list of [sensor, reason, count].
    """
    entry = F.explode(F.from_json("ignored_detail", "array<array<string>>"))
    return (
        files.where(F.col("state") == "loaded")
        .select("source_name", entry.alias("entry"))
        .groupBy("source_name", F.col("entry")[0].alias("sensor"), F.col("entry")[1].alias("reason"))
        .agg(F.sum(F.col("entry")[2].cast("bigint")).alias("records"))
        .orderBy(F.desc("records"), "source_name", "sensor", "reason")
    )
