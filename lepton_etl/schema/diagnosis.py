"""Fields and tables of forecasts, device states and anomalies."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import (
    ADJUSTMENTS,
    ANOMALY_KINDS,
    FORECAST_BASIS,
    JOB_POWER_BASIS,
    PERFORMANCE_STATES,
)
from lepton_etl.schema.declare import DOUBLE, INT, STRINGS, Field, Table, ratio, text, time, watts
from lepton_etl.schema.jobs import RUN_KEY


def _intensity(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "gram_co2e / kilowatt_hour", description, ge=0.0, le=2_000.0)


FIELDS: Final[tuple[Field, ...]] = (
    # Forecast of a zone
    time("origin_time", "Instant of the forecast, UTC; it has seen only hours stamped before."),
    Field("horizon_h", INT, "hour", "Hours from the origin to the end of the hour forecast.", ge=1, le=96),
    _intensity("intensity_lower_gco2e_per_kwh", "Lower end of the 90 % conformal interval of the intensity."),
    _intensity("intensity_upper_gco2e_per_kwh", "Upper end of the 90 % conformal interval of the intensity."),
    text("forecast_basis", "What the forecast rests on; profile: too little history.", FORECAST_BASIS),
    # Power of a job before it starts
    watts("predicted_power_w", "Mean power expected of the run over all its nodes.", 1e9),
    watts("predicted_power_lower_w", "Lower end of the 90 % conformal interval of the run's mean power.", 1e9),
    watts("predicted_power_upper_w", "Upper end of the 90 % conformal interval of the run's mean power.", 1e9),
    text("prediction_basis", "Whose earlier runs the expectation rests on.", JOB_POWER_BASIS),
    # State of a device
    text("performance_state", "Most likely state, with hysteresis; null where nothing is known.", PERFORMANCE_STATES),
    *(
        ratio(f"{state}_probability_ratio", f"Probability of state {state}, from the interval and the last ones.")
        for state in PERFORMANCE_STATES
    ),
    text("adjustment", "What the operator may do about it.", ADJUSTMENTS),
    text("adjustment_reason", "Reason, as a sentence with numbers."),
    Field("evidence", STRINGS, None, "Evidence for the state, strongest first."),
    Field("unknown_inputs", STRINGS, None, "Inputs that were not known."),
    time("updated_time", "When the row was written, UTC."),
    time("newest_reading_time", "Stamp of the device's newest reading, UTC."),
    Field(
        "behind_s", DOUBLE, "second",
        "Updated time less the newest reading's; less than 0: the logging clock is ahead.", ge=-1e9, le=1e9,
    ),
    # Anomalies
    text("anomaly_id", "Hash of site, cluster, node, device, kind and begin; the same every night."),
    text("anomaly_kind", "What kind of fault it looks like.", ANOMALY_KINDS),
    Field(
        "excess_kwh", DOUBLE, "kilowatt_hour",
        "Measured minus expected energy over the episode; less than 0: below what was expected.", ge=-1e9, le=1e9,
    ),
    Field("anomaly_score", DOUBLE, None, "How far beyond its bound: 1 is at the bound.", ge=0.0, le=1e6),
    ratio("confidence_ratio", "One less the share of earlier quiet hours that scored as high."),
    text("explanation", "What was observed, as a sentence with numbers."),
)  # fmt: skip

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
    warnings=("A weighted mean of earlier runs by user, partition and size, with its interval; no registered model.",),
)  # fmt: skip

STATE: Final = Table(
    "gold/state", grain="the performance state of one device over one interval", partition="date", owner="diagnosis",
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
    "gold/device_now", grain="the newest performance state of one device, by the job `watch`", owner="diagnosis",
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
    "gold/anomaly", grain="one episode of one kind of fault", partition="date", owner="diagnosis",
    key=("anomaly_id",),
    columns=(
        "anomaly_id", "date", "site_id", "cluster_id", "rack_id", "node_id", "device_id", "anomaly_kind",
        "start_time", "end_time", "excess_kwh", "anomaly_score", "confidence_ratio", "explanation",
    ),
    not_null=("date", "anomaly_kind", "start_time", "end_time", "anomaly_score", "explanation"),
    warnings=("Rank by the absolute value of excess_kwh; a rack's episode has no node.",),
)  # fmt: skip
