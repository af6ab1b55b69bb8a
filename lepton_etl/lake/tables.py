"""Every table, declared once: grain, key, partition, owner, retention, columns.

A column's type, unit, comment and bounds are the field dictionary's; here stands only which columns a table has.
Columns are only added, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lepton_etl.fields import Field, fields_of


@dataclass(frozen=True, slots=True)
class Table:
    """A Delta path table `<lake.root>/<name>`.

    `key` makes a row unique (empty: append-only log). A `partition` by date is what `Lake.replace` replaces.
    `warnings` are for the reader of the figures.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    owner: str
    partition: str | None = None
    append_only: bool = False
    not_null: tuple[str, ...] = ()
    retention_days: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[Field, ...]:
        return fields_of(*self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that are never null: the key and what the table adds to it."""
        return tuple(c for c in self.columns if c in self.key or c in self.not_null)

    @property
    def indexed(self) -> tuple[str, ...]:
        """Columns with file statistics: the key, and the times of logs."""
        named = {*self.key, "reading_time", "reading_date", "file_id", "batch", "quantity"} - {self.partition}
        return tuple(c for c in self.columns if c in named)

    def before(self, column: str) -> tuple[str, ...]:
        """The columns that stand before `column`; a transform that adds it selects them first."""
        return self.columns[: self.columns.index(column)]


ESTIMATED: Final = "Rows whose coverage_ratio is below 1 rest on fewer seconds than the day has."
IDLE_BY_UTILISATION: Final = (
    "idle_energy_kwh is told by utilisation until job accounting is loaded (idle_basis)."
)

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
        "ingest_date",
    ),
    not_null=("site_id", "job_id", "file_id"),
)  # fmt: skip

NODE: Final = Table(
    "silver/node", grain="one node while one inventory row holds", key=("site_id", "node_id", "valid_from"),
    owner="inventory",
    columns=(
        "site_id", "cluster_id", "rack_id", "chassis_id", "node_id", "node_kind", "hardware_class",
        "rated_power_w", "idle_power_w", "gpu_count", "gpu_rated_power_w", "psu_count", "sensor_gain_ratio",
        "embodied_kgco2e", "lifetime_years", "valid_from", "valid_to",
    ),
)  # fmt: skip

METER: Final = Table(
    "silver/meter", grain="one facility meter while one row holds", key=("site_id", "meter_id", "valid_from"),
    owner="inventory",
    columns=(
        "site_id", "meter_id", "parent_id", "point", "serves", "carrier", "sign", "unit", "multiplier", "kind",
        "label", "class_pct", "valid_from", "valid_to",
    ),
)  # fmt: skip

INTERVAL: Final = Table(
    "silver/interval", grain="one device over one interval that has readings", partition="date", owner="energy",
    key=("site_id", "cluster_id", "node_id", "device_id", "interval_start"),
    columns=(
        "site_id", "cluster_id", "node_id", "device_id", "interval_start", "date", "interval_s",
        "counts_in_total", "multiplicity", "energy_kwh", "power_min_w", "power_mean_w", "power_max_w",
        "device_temp_c", "inlet_temp_c", "cpu_utilisation_ratio", "gpu_utilisation_ratio",
        "memory_utilisation_ratio", "power_limit_w", "clock_hz", "fan_rpm", "observed_s", "resolution_s",
        "energy_source", "gain_sigma_kwh", "resolution_sigma_kwh", "conflicts", "flags",
    ),
    not_null=("date", "interval_s", "counts_in_total", "observed_s"),
)  # fmt: skip

FACILITY_INTERVAL: Final = Table(
    "silver/facility_interval", grain="one facility meter over one interval", partition="date", owner="energy",
    key=("site_id", "meter_id", "interval_start"),
    columns=(
        "site_id", "meter_id", "point", "interval_start", "date", "interval_s", "energy_kwh", "power_mean_w",
        "observed_s", "energy_source", "flags",
    ),
    not_null=("date", "point", "interval_s", "observed_s"),
)  # fmt: skip

GRID_HOUR: Final = Table(
    "silver/grid_hour", grain="one kind of intensity of one grid zone over one hour", partition="date",
    owner="carbon", key=("zone_id", "hour_start", "intensity_basis", "signal", "flow"),
    columns=(
        "zone_id", "hour_start", "date", "intensity_basis", "signal", "flow", "carbon_intensity_gco2e_per_kwh",
        "estimated", "source_name",
    ),
    not_null=("date",),
)  # fmt: skip

WEATHER_HOUR: Final = Table(
    "silver/weather_hour",
    grain="outdoor weather of one site over one hour",
    partition="date",
    owner="energy",
    key=("site_id", "hour_start"),
    columns=("site_id", "hour_start", "date", "outdoor_dry_bulb_temp_c", "outdoor_wet_bulb_temp_c"),
    not_null=("date",),
)

NODE_HOUR: Final = Table(
    "gold/node_hour", grain="one node of the inventory over one hour", partition="date", owner="energy",
    key=("site_id", "cluster_id", "node_id", "hour_start"), warnings=(ESTIMATED, IDLE_BY_UTILISATION),
    columns=(
        "date", "hour_start", "site_id", "cluster_id", "rack_id", "node_id", "hardware_class", "node_kind",
        "it_energy_kwh", "it_energy_measured_kwh", "it_energy_imputed_kwh", "it_energy_lower_kwh",
        "it_energy_upper_kwh", "gain_sigma_kwh", "resolution_sigma_kwh", "gpu_energy_kwh", "coverage_ratio",
        "observed_s", "expected_s", "idle_energy_kwh", "idle_basis", "cpu_utilisation_ratio",
        "gpu_utilisation_ratio", "power_mean_w", "peak_power_w", "inlet_temp_c", "device_temp_c",
        "rated_power_w", "gpu_count", "energy_source", "energy_basis", "status", "flags",
    ),
    not_null=("date", "energy_basis", "expected_s", "observed_s", "status"),
)  # fmt: skip

SITE_HOUR: Final = Table(
    "gold/site_hour", grain="one site over one hour", partition="date", owner="energy",
    key=("site_id", "hour_start"),
    columns=(
        "date", "hour_start", "site_id", "node_count", "it_energy_kwh", "it_energy_measured_kwh",
        "coverage_ratio", "it_metered_kwh", "facility_metered_kwh", "facility_energy_kwh", "facility_basis",
        "pue_ratio", "pue_basis", "pue_category", "carbon_intensity_gco2e_per_kwh", "outdoor_dry_bulb_temp_c",
        "outdoor_wet_bulb_temp_c", "energy_basis", "status",
    ),
    not_null=("date", "energy_basis", "pue_basis", "status"),
)  # fmt: skip

_CLUSTER_FIGURES: Final = (
    "site_id", "cluster_id", "node_count", "it_energy_kwh", "it_energy_measured_kwh", "it_energy_imputed_kwh",
    "it_energy_lower_kwh", "it_energy_upper_kwh", "coverage_ratio", "idle_energy_kwh", "facility_energy_kwh",
    "pue_ratio", "pue_basis", "pue_category", "cpu_utilisation_ratio", "gpu_utilisation_ratio", "peak_power_w",
    "inlet_temp_p99_c", "carbon_intensity_gco2e_per_kwh", "emissions_location_kgco2e",
    "emissions_upstream_kgco2e", "emissions_market_kgco2e", "embodied_kgco2e", "water_l", "energy_basis",
    "status", "gpu_energy_kwh", "node_second_coverage_ratio", "idle_basis", "facility_basis",
    "emissions_basis", "emissions_missing_kwh",
)  # fmt: skip
_CLUSTER_NOT_NULL: Final = (
    "date", "node_count", "energy_basis", "pue_basis", "facility_basis", "emissions_basis", "idle_basis", "status",
)  # fmt: skip

CLUSTER_HOUR: Final = Table(
    "gold/cluster_hour", grain="one cluster over one hour", partition="date", owner="energy",
    key=("site_id", "cluster_id", "hour_start"), warnings=(ESTIMATED, IDLE_BY_UTILISATION),
    columns=("date", "hour_start", *_CLUSTER_FIGURES), not_null=_CLUSTER_NOT_NULL,
)  # fmt: skip

CLUSTER_DAY: Final = Table(
    "gold/cluster_day", grain="one cluster over one UTC day", partition="date", owner="energy",
    key=("date", "site_id", "cluster_id"), warnings=(ESTIMATED, IDLE_BY_UTILISATION),
    columns=("date", *_CLUSTER_FIGURES), not_null=_CLUSTER_NOT_NULL,
)  # fmt: skip

PREDICTION: Final = Table(
    "gold/prediction", grain="one device-hour scored by one model version", partition="date", owner="models",
    key=("site_id", "cluster_id", "node_id", "device_id", "hour_start", "model_name", "model_version"),
    columns=(
        "date", "hour_start", "site_id", "cluster_id", "node_id", "device_id", "model_name", "model_version",
        "energy_kwh", "predicted_kwh",
    ),
    not_null=("date",),
)  # fmt: skip

RUN: Final = Table(
    "ops/run", grain="one run of the night, in one state", key=("run_id", "state"), owner="operations",
    columns=(
        "run_id", "state", "date_from", "date_until", "start_time", "end_time", "duration_s", "exit_code",
        "message", "code_version", "settings_hash",
    ),
)  # fmt: skip

STAGE_RUN: Final = Table(
    "ops/stage_run", grain="one stage of one run", key=("run_id", "stage"), owner="operations",
    columns=(
        "run_id", "stage", "state", "date_from", "date_until", "start_time", "end_time", "duration_s", "rows_in",
        "rows_out", "input_versions", "table_versions", "code_version", "message",
    ),
)  # fmt: skip

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        READING, REJECT, FILE, JOB, NODE, METER, INTERVAL, FACILITY_INTERVAL, GRID_HOUR, WEATHER_HOUR, NODE_HOUR,
        SITE_HOUR, CLUSTER_HOUR, CLUSTER_DAY, PREDICTION, RUN, STAGE_RUN,
    )
}  # fmt: skip
