"""Inventory, and readings brought to intervals and hours."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

NODE: Final = Table(
    "silver/node", grain="one node while one inventory row holds", key=("site_id", "node_id", "valid_from"),
    owner="inventory",
    columns=(
        "site_id", "cluster_id", "rack_id", "chassis_id", "node_id", "node_kind", "hardware_class",
        "rated_power_w", "idle_power_w", "gpu_count", "gpu_rated_power_w", "psu_count", "sensor_gain_ratio",
        "embodied_kgco2e", "lifetime_years", "valid_from", "valid_to", "core_count", "memory_total_byte",
        "cpu_idle_power_w", "memory_idle_power_w", "gpu_idle_power_w",
    ),
)  # fmt: skip

METER: Final = Table(
    "silver/meter", grain="one facility meter while one row holds", key=("site_id", "meter_id", "valid_from"),
    owner="inventory",
    columns=(
        "site_id", "meter_id", "parent_id", "point", "serves", "carrier", "sign", "unit", "multiplier", "kind",
        "label", "class_pct", "valid_from", "valid_to", "counter_max_kwh", "meter_peak_power_w",
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
        "energy_source", "gain_sigma_kwh", "resolution_sigma_kwh", "conflicts", "flags", "sensor_class",
        "sampling_sigma_kwh",
    ),
    not_null=("date", "interval_s", "counts_in_total", "observed_s"),
)  # fmt: skip

FACILITY_INTERVAL: Final = Table(
    "silver/facility_interval", grain="one facility meter over one interval", partition="date", owner="energy",
    key=("site_id", "meter_id", "interval_start"),
    columns=(
        "site_id", "meter_id", "point", "interval_start", "date", "interval_s", "energy_kwh", "power_mean_w",
        "observed_s", "energy_source", "flags", "sensor_class", "gain_sigma_kwh", "resolution_sigma_kwh",
        "sampling_sigma_kwh",
    ),
    not_null=("date", "point", "interval_s", "observed_s"),
)  # fmt: skip

SENSOR_CHECK: Final = Table(
    "silver/sensor_check", grain="two power sources of one node held against each other over one day",
    partition="date", owner="energy", key=("site_id", "node_id", "date", "check_source", "against_source"),
    columns=(
        "site_id", "node_id", "date", "check_source", "against_source", "samples", "median_ratio", "offset_w", "lag_s",
        "sensor_verdict",
    ),
    not_null=("samples", "sensor_verdict"),
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
