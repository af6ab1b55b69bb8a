"""What was delivered, as logged."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

READING: Final = Table(
    "bronze/reading", grain="one sensor value as logged, in canonical unit", key=(), append_only=True,
    partition="ingest_date", owner="telemetry",
    columns=(
        "site_id", "node_id", "device_id", "quantity", "value", "statistic", "window_s", "reading_time",
        "multiplicity", "point", "sensor", "raw_value", "raw_unit", "source_name", "file_id",
        "source_position", "ingest_time", "ingest_date", "reading_date",
    ),
    not_null=("site_id", "device_id", "quantity", "value", "statistic", "window_s", "reading_time", "file_id"),
)  # fmt: skip

REJECT: Final = Table(
    "bronze/reject", grain="one record that could not be used", key=(), append_only=True,
    partition="ingest_date", owner="telemetry",
    columns=(
        "site_id", "node_id", "sensor", "reason", "raw_text", "path", "source_name", "file_id",
        "source_position", "ingest_time", "ingest_date",
    ),
    not_null=("reason", "file_id"),
)  # fmt: skip

FILE: Final = Table(
    "bronze/file", grain="one raw file as delivered, in one state", key=("path", "file_id"), owner="telemetry",
    columns=(
        "path", "file_id", "source_name", "node_id", "size_bytes", "modified_time", "batch", "state",
        "records", "readings", "rejects", "duplicates", "ignored", "ignored_detail", "structure_lines",
        "first_reading_time", "last_reading_time", "reason", "ingest_time", "ingest_date", "jobs",
    ),
    not_null=("state", "batch"),
)  # fmt: skip

JOB: Final = Table(
    "bronze/job", grain="one job, or one step of one, as accounted", key=(), append_only=True,
    partition="ingest_date", owner="telemetry",
    columns=(
        "site_id", "cluster_name", "job_id", "step_id", "restart", "user_name", "account", "partition",
        "job_state", "submit_time", "start_time", "end_time", "node_list", "node_count", "cpu_count", "gpu_count",
        "memory_byte", "consumed_energy_j", "source_name", "file_id", "source_position", "ingest_time",
        "ingest_date", "record", "node_id", "device_ids", "tenant_id", "cpu_time_s",
    ),
    not_null=("site_id", "job_id", "file_id"),
)  # fmt: skip
