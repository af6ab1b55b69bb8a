"""What people read."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

ESTIMATED: Final = "Rows whose coverage_ratio is below 1 rest on fewer seconds than the day has."
IDLE_BY_UTILISATION: Final = (
    "idle_energy_kwh is told by utilisation until job accounting is loaded (idle_basis)."
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
        "rated_power_w", "gpu_count", "energy_source", "energy_basis", "status", "flags", "sampling_sigma_kwh",
        "sensor_class", "imputed_s", "imputed_sigma_kwh", "imputation_basis", "chassis_shared_kwh", "idle_power_w",
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
        "outdoor_wet_bulb_temp_c", "energy_basis", "status", "it_energy_imputed_kwh", "it_energy_lower_kwh",
        "it_energy_upper_kwh", "it_energy_sigma_kwh", "utility_kwh", "pv_kwh", "generator_kwh", "battery_out_kwh",
        "battery_in_kwh", "export_kwh", "overhead_kwh", "shared_load_kwh", "unattributed_kwh", "residual_kwh",
        "residual_sigma_kwh", "balance_state",
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
    "emissions_basis", "emissions_missing_kwh", "emissions_location_lower_kgco2e",
    "emissions_location_upper_kgco2e", "emissions_scope1_kgco2e", "market_basis", "embodied_basis", "water_basis",
    "grid_import_kwh",
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
        "energy_kwh", "predicted_kwh", "load_ratio", "recalibrated_kwh",
    ),
    not_null=("date",),
)  # fmt: skip
