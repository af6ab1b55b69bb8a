"""Lake tables -> the small tables of the report, aggregated in Spark: a page of 2,000 nodes stays small.

- What the report is made from: small tables, already aggregated, in the order the page shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.schema.columns import Transform, weighted_mean
from lepton_etl.schema.declare import JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.schema.diagnosis import ANOMALY
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.fields import FIELDS
from lepton_etl.schema.jobs import TENANT_DAY
from lepton_etl.schema.ledger import ENERGY_LEDGER
from lepton_etl.schema.recommend import RECOMMENDATION, SAVING
from lepton_etl.schema.types import arrow_schema

_ARROW: Final[Mapping[str, pa.DataType]] = {
    "string": pa.string(), "double": pa.float64(), "int": pa.int32(), "bigint": pa.int64(),
    "boolean": pa.bool_(), "timestamp": pa.timestamp("us", "UTC"), "date": pa.date32(),
}  # fmt: skip


def _dictionary_schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([(name, _ARROW[FIELDS[name].type]) for name in columns])


_TIME: Final = pa.timestamp("us", "UTC")

CLUSTER_DAY_SCHEMA: Final = _dictionary_schema(CLUSTER_DAY.columns)
CLUSTER_HOUR_SCHEMA: Final = _dictionary_schema((
    "cluster_id", "hour_start", "it_energy_kwh", "it_energy_lower_kwh", "it_energy_upper_kwh",
    "gpu_energy_kwh", "facility_energy_kwh", "emissions_location_kgco2e", "emissions_missing_kwh",
))  # fmt: skip
POINT_SCHEMA: Final = pa.schema([
    ("subject", pa.string()),  # 'node' or 'GPU'
    ("node_id", pa.string()),
    ("device_id", pa.string()),
    ("hardware_class", pa.string()),
    ("hour_start", _TIME),
    ("power_w", pa.float64()),
    ("load_kind", pa.string()),  # 'CPU utilisation' or 'GPU utilisation', null without a reading
    ("load_ratio", pa.float64()),
    ("temperature_kind", pa.string()),  # 'Inlet temperature' or 'GPU temperature', null without a reading
    ("temperature_c", pa.float64()),
])  # fmt: skip
COVERAGE_SCHEMA: Final = pa.schema([
    ("node_id", pa.string()), ("bucket_start", _TIME), ("coverage_ratio", pa.float64()),
])  # fmt: skip
FILE_SCHEMA: Final = pa.schema([
    ("source_name", pa.string()), ("state", pa.string()), ("files", pa.int64()), ("size_bytes", pa.int64()),
    ("records", pa.int64()), ("readings", pa.int64()), ("rejects", pa.int64()), ("duplicates", pa.int64()),
    ("ignored", pa.int64()),
])  # fmt: skip
DISCARDED_SCHEMA: Final = pa.schema([
    ("path", pa.string()), ("source_name", pa.string()), ("state", pa.string()), ("reason", pa.string()),
])  # fmt: skip
REJECT_SCHEMA: Final = pa.schema([
    ("source_name", pa.string()), ("reason", pa.string()), ("records", pa.int64()), ("path", pa.string()),
    ("source_position", pa.int64()), ("raw_text", pa.string()),
])  # fmt: skip
IGNORED_SCHEMA: Final = pa.schema([
    ("source_name", pa.string()), ("sensor", pa.string()), ("reason", pa.string()), ("records", pa.int64()),
])  # fmt: skip
STATE_COUNT_SCHEMA: Final = pa.schema([
    ("performance_state", pa.string()), ("intervals", pa.int64()), ("devices", pa.int64()), ("nodes", pa.string()),
])  # fmt: skip
STAGE_SCHEMA: Final = _dictionary_schema(("stage", "state", "rows_in", "rows_out", "duration_s", "message"))
ERROR_SCHEMA: Final = pa.schema([
    ("server", pa.string()), ("hours_kind", pa.string()), ("hours", pa.int64()), ("mape_ratio", pa.float64()),
    ("wape_ratio", pa.float64()), ("cv_ratio", pa.float64()), ("nmbe_ratio", pa.float64()),
    ("baseline_wape_ratio", pa.float64()),
])  # fmt: skip
PREDICTION_SCHEMA: Final = pa.schema([
    ("node_id", pa.string()), ("device_id", pa.string()), ("hour_start", _TIME), ("energy_kwh", pa.float64()),
    ("predicted_kwh", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True)
class RunInfo:
    """Which run made the page, over which UTC days, and when."""

    site_id: str
    timezone: str
    days: Days
    run_id: str
    code_version: str
    generated_time: datetime


@dataclass(frozen=True)
class Coverage:
    """Coverage of nodes over time: `cells` holds at most `worst_nodes` nodes of `nodes_total`.

    `bucket_hours` is the width of one cell; a bucket's ratio is observed over expected seconds.
    """

    cells: pa.Table
    nodes_total: int = 0
    nodes_complete: int = 0
    bucket_hours: int = 1
    worst_nodes: int = 60


@dataclass(frozen=True)
class Sample:
    """Rows for a scatter: all of them, or the `limit` rows with the lowest hash of their key."""

    rows: pa.Table
    total: int = 0


@dataclass(frozen=True)
class Gate:
    """What the quality gate said: its warnings, and where its Data Docs are, relative to the page."""

    warnings: tuple[str, ...] = ()
    docs_link: str | None = None
    ran: bool = True


@dataclass(frozen=True)
class ModelSummary:
    """Errors of the model that the train stage left, forward in time, per server and kind of hours."""

    name: str
    version: str | None
    outcome: str
    errors: pa.Table
    baseline: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnFootprint:
    """What the run has cost so far on this machine: CPU-seconds of its processes, times a stated power of a core."""

    cpu_s: float
    core_power_w: float

    @property
    def energy_kwh(self) -> float:
        return self.cpu_s * self.core_power_w / JOULES_PER_KWH


def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows."""

    run: RunInfo
    cluster_day: pa.Table
    cluster_hour: pa.Table
    bucket_hours: int = 1
    ledger: pa.Table = field(default_factory=lambda: _empty(arrow_schema(ENERGY_LEDGER)))
    tenants: pa.Table = field(default_factory=lambda: _empty(arrow_schema(TENANT_DAY)))
    points: Sample = field(default_factory=lambda: Sample(_empty(POINT_SCHEMA)))
    coverage: Coverage = field(default_factory=lambda: Coverage(_empty(COVERAGE_SCHEMA)))
    files: pa.Table = field(default_factory=lambda: _empty(FILE_SCHEMA))
    discarded: pa.Table = field(default_factory=lambda: _empty(DISCARDED_SCHEMA))
    rejects: pa.Table = field(default_factory=lambda: _empty(REJECT_SCHEMA))
    ignored: pa.Table = field(default_factory=lambda: _empty(IGNORED_SCHEMA))
    gate: Gate = field(default_factory=lambda: Gate(ran=False))
    stages: pa.Table = field(default_factory=lambda: _empty(STAGE_SCHEMA))
    states: pa.Table = field(default_factory=lambda: _empty(STATE_COUNT_SCHEMA))
    anomalies: pa.Table = field(default_factory=lambda: _empty(arrow_schema(ANOMALY)))
    recommendations: pa.Table = field(default_factory=lambda: _empty(arrow_schema(RECOMMENDATION)))
    savings: pa.Table = field(default_factory=lambda: _empty(arrow_schema(SAVING)))
    footprint: OwnFootprint | None = None
    model: ModelSummary | None = None
    predictions: Sample = field(default_factory=lambda: Sample(_empty(PREDICTION_SCHEMA)))
    credits: tuple[str, ...] = ()


def bucket_hours(days: Days, most: int = 200) -> int:
    """Width of a time bucket in hours, so that a chart of `days` has at most about `most` of them.

    Widths are whole hours that divide a day, then days, weeks and blocks of 30 days.
    """
    hours = days.count * 24
    for width in (1, 3, 6, 24, 168):
        if hours <= width * most:
            return width
    return 720


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
