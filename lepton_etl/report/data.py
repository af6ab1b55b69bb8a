"""Aggregate the lake's tables to the small ones that the page shows.

So a page of 2,000 nodes stays small. Every table is a pyarrow table whose columns are declared below; an
unknown value is null.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from zlib import crc32

import polars as pl
import pyarrow as pa

from lepton_etl.days import Days
from lepton_etl.report.superseded import Digests
from lepton_etl.report.unknown import Equipment, Surroundings
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.declare import JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.schema.diagnosis import ANOMALY
from lepton_etl.schema.energy import CLUSTER_DAY, MODEL_SHIFT
from lepton_etl.schema.jobs import TENANT_DAY
from lepton_etl.schema.ledger import ENERGY_LEDGER, METER_CHECK
from lepton_etl.schema.recommend import RECOMMENDATION, SAVING, TENANT_BURDEN
from lepton_etl.schema.types import arrow_columns, arrow_schema

_TIME: Final = pa.timestamp("us", "UTC")

CLUSTER_DAY_SCHEMA: Final = arrow_schema(CLUSTER_DAY)
CLUSTER_HOUR_SCHEMA: Final = arrow_columns((
    "cluster_id", "hour_start", "it_energy_kwh", "it_energy_lower_kwh", "it_energy_upper_kwh",
    "gpu_energy_kwh", "facility_energy_kwh", "emissions_location_kgco2e", "emissions_missing_kwh",
))  # fmt: skip
SITE_HOUR_SCHEMA: Final = arrow_columns((
    "date", "hour_start", "site_id", "node_count", "coverage_ratio", "it_energy_kwh", "it_metered_kwh",
    "it_energy_measured_kwh", "it_energy_modelled_kwh", "it_energy_imputed_kwh", "it_energy_lower_kwh",
    "it_energy_upper_kwh", "energy_basis", "facility_energy_kwh", "facility_basis", "grid_import_kwh",
    "emissions_location_kgco2e", "emissions_missing_kwh", "emissions_basis",
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
    ("records", pa.int64()), ("readings", pa.int64()), ("jobs", pa.int64()), ("rejects", pa.int64()),
    ("duplicates", pa.int64()), ("ignored", pa.int64()),
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
STAGE_SCHEMA: Final = arrow_columns(
    ("run_id", "stage", "date_from", "date_until", "state", "rows_in", "rows_out", "duration_s", "message")
)
ERROR_SCHEMA: Final = pa.schema([
    ("server", pa.string()), ("hours_kind", pa.string()), ("hours", pa.int64()), ("mape_ratio", pa.float64()),
    ("wape_ratio", pa.float64()), ("cv_ratio", pa.float64()), ("nmbe_ratio", pa.float64()),
    ("baseline_wape_ratio", pa.float64()),
])  # fmt: skip
RIVAL_SCHEMA: Final = pa.schema([
    ("model", pa.string()), ("rival", pa.string()), ("mape_ratio", pa.float64()), ("wape_ratio", pa.float64()),
    ("cv_ratio", pa.float64()), ("nmbe_ratio", pa.float64()),
])  # fmt: skip
GROUP_SCHEMA: Final = pa.schema([
    ("scope", pa.string()), ("group", pa.string()), ("rows", pa.int64()), ("cv_rmse_ratio", pa.float64()),
    ("nmbe_ratio", pa.float64()),
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

    `bucket_hours` is the width of one cell; a bucket's ratio is observed over expected seconds. `nodes_open` lack
    nothing but up to `open_s` seconds at the midnight to a day that was not delivered: its night closes them.
    """

    cells: pa.Table
    nodes_total: int = 0
    nodes_complete: int = 0
    nodes_open: int = 0
    open_s: float = 0.0
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
    """Errors of the model of the train stage, forward in time: by server and hours, of rivals, and by group."""

    name: str
    version: str | None
    outcome: str
    errors: pa.Table
    baseline: str = ""
    rivals: pa.Table = field(default_factory=RIVAL_SCHEMA.empty_table)
    groups: pa.Table = field(default_factory=GROUP_SCHEMA.empty_table)
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
    site_hour: pa.Table = field(default_factory=lambda: _empty(SITE_HOUR_SCHEMA))
    kpi: pa.Table = field(default_factory=lambda: _empty(arrow_schema(KPI)))
    around: Surroundings = field(default_factory=Surroundings)
    bucket_hours: int = 1
    ledger: pa.Table = field(default_factory=lambda: _empty(arrow_schema(ENERGY_LEDGER)))
    meter_check: pa.Table = field(default_factory=lambda: _empty(arrow_schema(METER_CHECK)))
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
    shifts: pa.Table = field(default_factory=lambda: _empty(arrow_schema(MODEL_SHIFT)))
    recommendations: pa.Table = field(default_factory=lambda: _empty(arrow_schema(RECOMMENDATION)))
    savings: pa.Table = field(default_factory=lambda: _empty(arrow_schema(SAVING)))
    burdens: pa.Table = field(default_factory=lambda: _empty(arrow_schema(TENANT_BURDEN)))
    footprint: OwnFootprint | None = None
    model: ModelSummary | None = None
    predictions: Sample = field(default_factory=lambda: Sample(_empty(PREDICTION_SCHEMA)))
    credits: tuple[str, ...] = ()
    made_of: Digests = field(default_factory=dict)


def bucket_hours(days: Days, most: int = 200) -> int:
    """Width of a time bucket in hours, so that a chart of `days` has at most about `most` of them.

    Widths are whole hours that divide a day, then days, weeks and blocks of 30 days.
    """
    hours = days.count * 24
    for width in (1, 3, 6, 24, 168):
        if hours <= width * most:
            return width
    return 720


# What sums of seconds may be off by.
_ROUNDING_S: Final = 1e-3


def node_points(node_hours: pl.DataFrame) -> pl.DataFrame:
    """gold/node_hour -> power, load and inlet temperature of node-hours whose power is known.

    The load of a node with GPUs is its GPU utilisation, of any other its CPU utilisation: two axes.
    """
    is_gpu = pl.col("gpu_count").fill_null(0) > 0
    load = pl.when(is_gpu).then("gpu_utilisation_ratio").otherwise("cpu_utilisation_ratio")
    kind = pl.when(is_gpu).then(pl.lit("GPU utilisation")).otherwise(pl.lit("CPU utilisation"))
    inlet = pl.col("inlet_temp_c")
    return node_hours.filter(pl.col("power_mean_w").is_not_null()).select(
        pl.lit("node").alias("subject"),
        "node_id",
        pl.lit("node").alias("device_id"),
        "hardware_class",
        "hour_start",
        pl.col("power_mean_w").alias("power_w"),
        pl.when(load.is_not_null()).then(kind).alias("load_kind"),
        load.alias("load_ratio"),
        pl.when(inlet.is_not_null()).then(pl.lit("Inlet temperature")).alias("temperature_kind"),
        inlet.alias("temperature_c"),
    )


GPU_POINT_COLUMNS: Final = (
    "site_id", "node_id", "device_id", "interval_start", "observed_s", "power_mean_w", "gpu_utilisation_ratio",
    "device_temp_c",
)  # fmt: skip


def gpu_points(intervals: pl.DataFrame, classes: pl.DataFrame) -> pl.DataFrame:
    """GPU_POINT_COLUMNS of silver/interval -> power, load and die temperature of GPU-hours.

    `classes` has site_id, node_id and the node's hardware_class.
    """
    gpus = intervals.filter(pl.col("device_id").str.starts_with("gpu") & pl.col("power_mean_w").is_not_null())
    hours = gpus.group_by(
        "site_id", "node_id", "device_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start")
    ).agg(
        _weighted_mean("power_mean_w").alias("power_w"),
        _weighted_mean("gpu_utilisation_ratio").alias("load_ratio"),
        _weighted_mean("device_temp_c").alias("temperature_c"),
    )
    load, temperature = pl.col("load_ratio"), pl.col("temperature_c")
    return hours.join(classes, on=["site_id", "node_id"], how="left").select(
        pl.lit("GPU").alias("subject"),
        "node_id",
        "device_id",
        "hardware_class",
        "hour_start",
        "power_w",
        pl.when(load.is_not_null()).then(pl.lit("GPU utilisation")).alias("load_kind"),
        "load_ratio",
        pl.when(temperature.is_not_null()).then(pl.lit("GPU temperature")).alias("temperature_kind"),
        "temperature_c",
    )


def _weighted_mean(name: str) -> pl.Expr:
    """The mean of the known values by observed seconds; null where none is known."""
    seconds = pl.when(pl.col(name).is_not_null()).then("observed_s").sum()
    return pl.when(seconds > 0).then((pl.col(name) * pl.col("observed_s")).sum() / seconds)


def lowest_hashes(rows: pl.DataFrame, limit: int, *key: str) -> pl.DataFrame:
    """Return the `limit` rows with the lowest hash of their key: the same rows give the same sample."""
    if rows.height <= limit:
        return rows.sort(key)
    texts = rows.select(
        pl.concat_str([pl.col(name).cast(pl.String) for name in key], separator="\0")
    ).to_series()
    order = pl.Series("_order", [crc32(text.encode()) for text in texts])
    return rows.sort(order, *key).head(limit)


def node_coverage(node_hours: pl.DataFrame, open_intervals: pl.DataFrame) -> pl.DataFrame:
    """gold/node_hour -> observed over expected seconds of all hours of a node, least covered first.

    With `missing_s`, and `open_s`, what of it lies in `open_intervals` (rows of silver/interval of nodes, of intervals
    beside a day that was not delivered).
    """
    unread = (pl.col("interval_s") - pl.col("observed_s")).clip(lower_bound=0.0).sum().alias("unread_s")
    opened = open_intervals.filter(pl.col("observed_s") > 0).group_by("node_id").agg(unread)
    missing = (pl.col("expected_s").sum() - pl.col("observed_s").sum()).clip(lower_bound=0.0)
    return (
        node_hours.group_by("node_id")
        .agg(_coverage().alias("coverage_ratio"), missing.alias("missing_s"))
        .filter(pl.col("coverage_ratio").is_not_null())
        .join(opened, on="node_id", how="left")
        .with_columns(pl.min_horizontal("missing_s", pl.col("unread_s").fill_null(0.0)).alias("open_s"))
        .drop("unread_s")
        .sort("coverage_ratio", "node_id")
    )


def is_complete() -> pl.Expr:
    """Whether a row of node_coverage lacks nothing."""
    return pl.col("missing_s") <= _ROUNDING_S


def is_open() -> pl.Expr:
    """Whether a row of node_coverage lacks nothing but what is open."""
    return ~is_complete() & (pl.col("missing_s") - pl.col("open_s") <= _ROUNDING_S)


def equipment(node_hours: pl.DataFrame) -> dict[tuple[str, str], Equipment]:
    """gold/node_hour -> what stands in each (site, cluster) and what of it was read."""
    gpus = pl.col("gpu_count").max().over("site_id", "cluster_id", "node_id")

    def nodes(which: pl.Expr) -> pl.Expr:
        return pl.col("node_id").filter(which).n_unique()

    rows = node_hours.with_columns(gpus.alias("_gpus")).group_by("site_id", "cluster_id").agg(
        nodes(pl.col("_gpus") == 0).alias("servers"),
        nodes(pl.col("_gpus") > 0).alias("gpu_nodes"),
        nodes(pl.col("_gpus").is_null()).alias("untold_nodes"),
        pl.col("cpu_utilisation_ratio").count().alias("cpu_hours"),
        pl.col("gpu_utilisation_ratio").count().alias("gpu_hours"),
        pl.col("inlet_temp_c").count().alias("inlet_hours"),
    )  # fmt: skip
    return {(site, cluster): Equipment(*counts) for site, cluster, *counts in rows.iter_rows()}


def coverage_cells(node_hours: pl.DataFrame, nodes: pl.DataFrame, hours: int) -> pl.DataFrame:
    """gold/node_hour -> coverage of these nodes by node and bucket of `hours` (from the epoch, UTC)."""
    width_us = int(hours * SECONDS_PER_HOUR * 1_000_000)
    since_us = pl.col("hour_start").dt.epoch("us")
    bucket = (since_us - since_us % width_us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return (
        node_hours.join(nodes.select("node_id"), on="node_id", how="semi")
        .group_by("node_id", bucket.alias("bucket_start"))
        .agg(_coverage().alias("coverage_ratio"))
        .sort("node_id", "bucket_start")
    )


def _coverage() -> pl.Expr:
    expected = pl.col("expected_s").sum()
    ratio = (pl.col("observed_s").sum() / expected).clip(upper_bound=1.0)
    return pl.when(expected > 0).then(ratio)


def files_of(files: pl.DataFrame, days: Days) -> pl.DataFrame:
    """Return the files of bronze/file whose readings touch the days, and the files without readings that belong.

    A file without readings belongs to the day that its path names; where it names none, to the newest batch.
    """
    touches = (pl.col("first_reading_time") < days.until_time) & (
        pl.col("last_reading_time") >= days.from_time
    )
    # Days as text: ISO dates sort as text, and a name such as 2025-99-99 must not stop the report.
    named_day = pl.col("path").str.extract_all(r"\d{4}-\d{2}-\d{2}").list.last()
    named = named_day.is_between(pl.lit(str(days.start)), pl.lit(str(days.end)))
    nameless = named_day.is_null() & (pl.col("batch") == pl.col("batch").max())
    without = pl.col("first_reading_time").is_null() & (named.fill_null(False) | nameless)
    return files.filter(touches.fill_null(False) | without)


def file_counts(files: pl.DataFrame) -> pl.DataFrame:
    """bronze/file -> files, bytes and records by source and state."""
    counts = ("size_bytes", "records", "readings", "jobs", "rejects", "duplicates", "ignored")
    known = [pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in counts]
    return (
        files.group_by("source_name", "state")
        .agg(pl.len().alias("files"), *known)
        .sort("source_name", "state")
    )


def discarded(files: pl.DataFrame) -> pl.DataFrame:
    """bronze/file -> the files of which nothing could be used, with the reason."""
    return (
        files.filter(pl.col("state") == "discarded")
        .select("path", "source_name", "state", "reason")
        .sort("source_name", "path")
    )


def reject_counts(rejects: pl.DataFrame, files: pl.DataFrame) -> pl.DataFrame:
    """bronze/reject -> records of these files by source and reason, most first, with the first of each."""
    first = ("path", "source_position", "raw_text")
    return (
        rejects.join(files.select("path", "file_id"), on=["path", "file_id"], how="semi")
        .sort(first, nulls_last=False)
        .group_by("source_name", "reason", maintain_order=True)
        .agg(pl.len().alias("records"), *(pl.col(name).first() for name in first))
        .sort(["records", "source_name", "reason"], descending=[True, False, False])
    )


def ignored_sensors(files: pl.DataFrame) -> pl.DataFrame:
    """bronze/file -> ignored records by source, sensor and reason, most frequent first.

    `ignored_detail` is a JSON list of [sensor, reason, count].
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    loaded = files.filter((pl.col("state") == "loaded") & pl.col("ignored_detail").is_not_null())
    for source, detail in loaded.select("source_name", "ignored_detail").iter_rows():
        for sensor, reason, count in json.loads(detail):
            counts[source, sensor, reason] += count
    rows = [(*key, count) for key, count in counts.items()]
    schema = {"source_name": pl.String, "sensor": pl.String, "reason": pl.String, "records": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort(
        ["records", "source_name", "sensor", "reason"], descending=[True, False, False, False]
    )
