"""Fields and tables of what was delivered: files, readings, rejects and job accounting as logged."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import QUANTITIES, STATISTICS
from lepton_etl.schema.declare import DOUBLE, INT, Field, Table, count, text, time

FIELDS: Final[tuple[Field, ...]] = (
    # Readings
    text("quantity", "What is measured, a name of the quantity list.", tuple(QUANTITIES)),
    Field("value", DOUBLE, None, "Value in the quantity's canonical unit.", ge=-1e18, le=1e18),
    text("statistic", "What the value is over its window.", STATISTICS),
    Field(
        "window_s",
        DOUBLE,
        "second",
        "Window of a mean, min or max; 0 for an instant.",
        ge=0.0,
        le=31_622_400.0,
    ),
    Field("multiplicity", INT, None, "How many devices one shared mean stands for, else 1.", ge=1, le=4096),
    text("point", "Where a power is taken, or which kind of intensity (direct, lifecycle)."),
    text("sensor", "Sensor name as logged."),
    text("raw_value", "Value as logged."),
    text("raw_unit", "Unit as logged or as declared by the source."),
    text("source_name", "Source of the settings."),
    text("file_id", "SHA-256 of source name, node and time that the path names, and decompressed bytes."),
    text(
        "content_id",
        "The same without the time; null where the path names none, or an older release wrote the row.",
    ),
    count("source_position", "Line of the decompressed file, from 1."),
    text("reason", "Reason code."),
    text("raw_text", "The record as logged, at most 1,000 characters; of job accounting its shape alone."),
    # Files
    text("path", "Path of the file as listed."),
    text(
        "state",
        "State.",
        ("planned", "loaded", "discarded", "duplicate", "running", "done", "failed", "skipped"),
    ),
    count("size_bytes", "Size as delivered."),
    count("batch", "Ingestion batch, the application transaction version."),
    count("records", "Records in the file: readings + jobs + rejects + duplicates + ignored."),
    count("readings", "Records that became readings."),
    count("rejects", "Records that could not be used."),
    count("duplicates", "Exact repeats within the file, or the records of a file already loaded."),
    count("jobs", "Records that became rows of job accounting."),
    count("ignored", "Unmapped sensors and cells without a value."),
    text("ignored_detail", "JSON: count by sensor and reason of the ignored records."),
    count("structure_lines", "Stamps, headers, comments and blanks; not records."),
    # Job accounting
    text("cluster_name", "Cluster as the scheduler names it."),
    text("job_id", "Job of the scheduler; of an array job with its task."),
    text("step_id", "Step of the job; null is the job itself."),
    count("restart", "How often the job was started again before.", INT),
    text("user_name", "User who submitted the job, by pseudonym."),
    text("account", "Account that the job is charged to."),
    text("partition", "Partition of the scheduler."),
    text("job_state", "State as the scheduler names it."),
    time("submit_time", "When the job was submitted, UTC."),
    text("node_list", "Nodes as logged, in the scheduler's bracket notation."),
    count("cpu_count", "CPUs allocated.", INT),
    Field("memory_byte", DOUBLE, "byte", "Memory allocated.", ge=0.0, le=1e18),
    Field("consumed_energy_j", DOUBLE, "joule", "Energy by the scheduler's own plugin.", ge=0.0, le=1e18),
)

READING: Final = Table(
    "bronze/reading", grain="one sensor value as logged, in canonical unit", key=(), append_only=True,
    partition="ingest_date", owner="ingest",
    columns=(
        "site_id", "node_id", "device_id", "quantity", "value", "statistic", "window_s", "reading_time",
        "multiplicity", "point", "sensor", "raw_value", "raw_unit", "source_name", "file_id",
        "source_position", "ingest_time", "ingest_date", "reading_date",
    ),
    not_null=("site_id", "device_id", "quantity", "value", "statistic", "window_s", "reading_time", "file_id"),
)  # fmt: skip

REJECT: Final = Table(
    "bronze/reject", grain="one record that could not be used", key=(), append_only=True,
    partition="ingest_date", owner="ingest",
    columns=(
        "site_id", "node_id", "sensor", "reason", "raw_text", "path", "source_name", "file_id",
        "source_position", "ingest_time", "ingest_date",
    ),
    not_null=("reason", "file_id"),
)  # fmt: skip

FILE: Final = Table(
    "bronze/file", grain="one raw file as delivered, in one state", key=("path", "file_id"), owner="ingest",
    columns=(
        "path", "file_id", "source_name", "node_id", "size_bytes", "modified_time", "batch", "state",
        "records", "readings", "rejects", "duplicates", "ignored", "ignored_detail", "structure_lines",
        "first_reading_time", "last_reading_time", "reason", "ingest_time", "ingest_date", "jobs",
        "content_id",
    ),
    not_null=("state", "batch"),
)  # fmt: skip

JOB: Final = Table(
    "bronze/job", grain="one job, or one step of one, as accounted", key=(), append_only=True,
    partition="ingest_date", owner="ingest",
    columns=(
        "site_id", "cluster_name", "job_id", "step_id", "restart", "user_name", "account", "partition",
        "job_state", "submit_time", "start_time", "end_time", "node_list", "node_count", "cpu_count", "gpu_count",
        "memory_byte", "consumed_energy_j", "source_name", "file_id", "source_position", "ingest_time",
        "ingest_date", "record", "node_id", "device_ids", "tenant_id", "cpu_time_s",
    ),
    not_null=("site_id", "job_id", "file_id"),
)  # fmt: skip
