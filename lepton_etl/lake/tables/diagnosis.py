"""What is expected, what state a device is in, and what is odd."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.words import PERFORMANCE_STATES
from lepton_etl.lake.tables.declare import Table
from lepton_etl.lake.tables.jobs import RUN_KEY

FORECAST: Final = Table(
    "gold/forecast", grain="one hour of one grid zone as expected at one origin", partition="date", owner="forecast",
    key=("zone_id", "origin_time", "hour_start", "model_name", "model_version"),
    columns=(
        "date", "zone_id", "origin_time", "hour_start", "horizon_h", "carbon_intensity_gco2e_per_kwh",
        "intensity_lower_gco2e_per_kwh", "intensity_upper_gco2e_per_kwh", "forecast_basis", "model_name",
        "model_version",
    ),
    not_null=("date", "horizon_h", "forecast_basis"),
    warnings=("date is the UTC day of the origin; a later origin supersedes, it does not correct.",),
)  # fmt: skip

JOB_POWER: Final = Table(
    "gold/job_power", grain="mean power expected of one run before it started", partition="date", owner="models",
    key=(*RUN_KEY, "model_name", "model_version"),
    columns=(
        *RUN_KEY, "date", "predicted_power_w", "predicted_power_lower_w", "predicted_power_upper_w",
        "prediction_basis", "model_name", "model_version",
    ),
    not_null=("date", "prediction_basis"),
)  # fmt: skip

STATE: Final = Table(
    "gold/state", grain="the performance state of one device over one interval", partition="date", owner="states",
    key=("site_id", "cluster_id", "node_id", "device_id", "interval_start"),
    columns=(
        "date", "interval_start", "site_id", "cluster_id", "node_id", "device_id", "performance_state",
        *(f"{state}_probability_ratio" for state in PERFORMANCE_STATES), "adjustment", "adjustment_reason",
        "evidence", "unknown_inputs",
    ),
    not_null=("date", "adjustment"),
    warnings=("Adjustments are proposals to a person; nothing is carried out.",),
)  # fmt: skip

DEVICE_NOW: Final = Table(
    "gold/device_now", grain="the newest performance state of one device, by the job `watch`", owner="states",
    key=("site_id", "cluster_id", "node_id", "device_id"),
    columns=(
        "site_id", "cluster_id", "node_id", "device_id", "interval_start", "performance_state",
        *(f"{state}_probability_ratio" for state in PERFORMANCE_STATES), "adjustment", "adjustment_reason",
        "evidence", "unknown_inputs", "updated_time", "newest_reading_time", "behind_s",
    ),
    not_null=("interval_start", "adjustment", "updated_time", "newest_reading_time", "behind_s"),
    log_days=1,
    warnings=(
        "A device that falls silent keeps its last row: look at newest_reading_time.",
        "Adjustments are proposals to a person; nothing is carried out.",
    ),
)  # fmt: skip

ANOMALY: Final = Table(
    "gold/anomaly", grain="one episode of one kind of fault", partition="date", owner="anomalies",
    key=("anomaly_id",),
    columns=(
        "anomaly_id", "date", "site_id", "cluster_id", "rack_id", "node_id", "device_id", "anomaly_kind",
        "start_time", "end_time", "excess_kwh", "anomaly_score", "confidence_ratio", "explanation",
    ),
    not_null=("date", "anomaly_kind", "start_time", "end_time", "anomaly_score", "explanation"),
    warnings=("Rank by the absolute value of excess_kwh; a rack's episode has no node.",),
)  # fmt: skip
