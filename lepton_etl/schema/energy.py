"""Fields and tables of energy by node, site and cluster, and of the predictions of a model."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import ENERGY_BASIS, PUE_BASIS
from lepton_etl.schema.declare import (
    DOUBLE,
    INT,
    Field,
    Table,
    count,
    end_names,
    energy,
    kilograms,
    ratio,
    temperature,
    text,
    watts,
)

_KWH: Final = "kilowatt_hour"


def _slope(name: str, unit: str, description: str) -> Field:
    return Field(name, DOUBLE, unit, description, ge=-1e6, le=1e6)


def _bytes(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "byte", description, ge=0.0, le=1e21)


FIELDS: Final[tuple[Field, ...]] = (
    Field(
        "off_s",
        DOUBLE,
        "second",
        "Seconds in which nodes were off, in standby or asleep (silver/node_state).",
        ge=0.0,
        le=1e12,
    ),
    energy(
        "off_saved_kwh",
        "What nodes would have drawn at their idle power while they were off, less what they drew.",
    ),
    count("node_count", "Nodes that the inventory expects."),
    energy(
        "it_energy_kwh",
        "Energy into IT equipment, measured plus modelled plus imputed; null below the coverage limit.",
    ),
    energy("it_energy_measured_kwh", "The part from accepted readings of a sensor of the node's input."),
    energy(
        "it_energy_modelled_kwh",
        "The part of nodes without such a sensor, modelled from supplies' outputs or components; not measured.",
    ),
    energy("it_energy_imputed_kwh", "The part filled by a model or by the node's own history."),
    energy(
        "it_energy_lower_kwh",
        "Lower end of the 90 % interval by sensor gain, resolution; of IT meters by class.",
    ),
    energy(
        "it_energy_upper_kwh",
        "Upper end of the 90 % interval by sensor gain, resolution; of IT meters by class.",
    ),
    energy("gpu_energy_kwh", "Energy of GPU boards, all devices; never added to the node."),
    ratio("coverage_ratio", "Observed over expected, weighted by rated power where every node has one."),
    ratio("node_second_coverage_ratio", "Observed node-seconds over expected node-seconds."),
    energy("idle_energy_kwh", "Energy of node-intervals without work; see idle_basis."),
    text(
        "idle_basis",
        "How idle energy was found: by utilisation below the limit, by jobs, or not at all.",
        ("utilisation", "jobs", "none"),
    ),
    energy(
        "facility_energy_kwh",
        "IT energy plus the share of overheads; electricity and weighted other carriers.",
    ),
    energy("facility_energy_lower_kwh", "Lower end of the 90 % interval by sensors and meters."),
    energy("facility_energy_upper_kwh", "Upper end of the 90 % interval by sensors and meters."),
    energy(
        "facility_metered_kwh", "Energy that entered the site by its meters, and weighted other carriers."
    ),
    energy(
        "carrier_energy_kwh",
        "The part of heat, cooling, gas and fuel, each with its weight; 0 where the site lists no such meter.",
    ),
    energy("it_metered_kwh", "Energy at the meter nearest to the IT input."),
    Field(
        "pue_ratio",
        DOUBLE,
        "dimensionless",
        "Facility energy over IT energy, a ratio of sums.",
        ge=1.0,
        le=100.0,
    ),
    text("pue_basis", "Where the PUE comes from.", PUE_BASIS),
    Field("pue_category", INT, None, "1 at UPS output, 2 at PDU output, 3 at IT input.", ge=1, le=3),
    ratio(
        "cpu_utilisation_ratio",
        "Mean CPU utilisation of powered-on servers that are not mostly accelerators.",
    ),
    ratio("gpu_utilisation_ratio", "Mean GPU utilisation."),
    Field(
        "server_observed_h",
        DOUBLE,
        "hour",
        "Hours over which `cpu_utilisation_ratio` is the mean: what ITEUsv is divided by.",
        ge=0.0,
        le=1e12,
    ),
    Field(
        "server_busy_h",
        DOUBLE,
        "hour",
        "The same hours, each times the server's CPU utilisation.",
        ge=0.0,
        le=1e12,
    ),
    Field(
        "gpu_observed_h",
        DOUBLE,
        "hour",
        "Hours over which `gpu_utilisation_ratio` is the mean.",
        ge=0.0,
        le=1e12,
    ),
    Field("gpu_busy_h", DOUBLE, "hour", "The same hours, each times the utilisation.", ge=0.0, le=1e12),
    watts("peak_power_w", "Maximum of the summed interval means."),
    temperature("inlet_temp_p99_c", "99th percentile of inlet temperature over node-intervals."),
    kilograms(
        "emissions_location_kgco2e", "Location-based: facility energy by the hour's direct average intensity."
    ),
    kilograms("emissions_upstream_kgco2e", "Life-cycle minus direct intensity, on the same energy."),
    kilograms(
        "emissions_market_kgco2e",
        "Market-based: energy that instruments match by their factors, the rest by the residual mix; see market_basis.",
    ),
    energy("emissions_missing_kwh", "Facility energy in hours without an intensity."),
    text("emissions_basis", "Where emissions come from.", ("measured", "estimated", "partial", "none")),
    kilograms(
        "embodied_kgco2e", "Embodied carbon; of a node in the inventory, of a period its amortised share."
    ),
    Field("water_l", DOUBLE, "liter", "Water drawn.", ge=0.0, le=1e12),
    text("energy_basis", "What the energy figure rests on.", ENERGY_BASIS),
    _slope(
        "rated_power_kwh_per_w",
        "kilowatt_hour / watt",
        "dE/dP: energy of an hour for each watt of rated power.",
    ),
    _slope(
        "inlet_temp_kwh_per_k",
        "kilowatt_hour / kelvin",
        "dE/dT: energy of an hour for each kelvin at the inlet.",
    ),
    _slope("cpu_load_slope_kwh", _KWH, "dE/dL of CPU utilisation: energy of an hour from no to full load."),
    _slope("gpu_load_slope_kwh", _KWH, "dE/dL of GPU utilisation: energy of an hour from no to full load."),
    _slope("memory_load_slope_kwh", _KWH, "dE/dL of memory in use: energy of an hour from no to full load."),
    _slope("power_term_kwh", _KWH, "dE/dP times the change of rated power since the hour before."),
    _slope("temp_term_kwh", _KWH, "dE/dT times the change of inlet temperature since the hour before."),
    _slope("load_term_kwh", _KWH, "Sum of dE/dL times the change of each known load since the hour before."),
    _slope("chain_rule_kwh", _KWH, "Sum of the three terms: dE/dt by the chain rule; null where one is."),
    text(
        "sensitivity_basis",
        "model: slopes for power, inlet temperature and load; partial: an input is unknown; else why there are none.",
        ("model", "partial", "no_inputs", "no_model"),
    ),
    text("facility_basis", "What the facility figure rests on.", PUE_BASIS),
    # Data transfer
    _bytes("received_byte", "Bytes that the network ports received, as seen."),
    _bytes("transmitted_byte", "Bytes that the network ports sent, as seen."),
    _bytes("data_transferred_byte", "Received and sent bytes; between two nodes a byte counts at both."),
    count("port_count", "Network ports whose counters speak on the day, each with its directions.", INT),
    count("transfer_node_count", "Nodes whose bytes are known."),
    text(
        "transfer_basis",
        "Of a cluster: measured (all nodes), partial (the least coverage), insufficient, none. Of a run: alone on its "
        "nodes, shared with others, no_counters.",
        ("measured", "partial", "insufficient", "none", "alone", "shared", "no_counters"),
    ),
    energy("network_energy_by_bytes_kwh", "Transferred bytes times the stated energy of a gigabyte."),
    text(
        "network_by_bytes_basis",
        "stated (energy.transfer_kwh_per_gbyte), no_factor, or no_bytes.",
        ("stated", "no_factor", "no_bytes"),
    ),
    energy(
        "network_energy_by_feed_kwh", "What feeds and nodes of the network draw: the ledger's data_transfer."
    ),
    text(
        "network_by_feed_basis",
        "The ledger's basis; `unmetered`: no feed or node; `shared`: stands at `_shared`.",
        ("measured", "modelled", "derived", "assumed", "partial", "silent", "unmetered", "shared"),
    ),
    energy(
        "transfer_energy_kwh",
        "The run's bytes times the stated energy of a gigabyte; null where one is unknown.",
    ),
    text("status", "State of a published figure.", ("provisional", "closed", "restated")),
)

ESTIMATED: Final = "Rows whose coverage_ratio is below 1 rest on fewer seconds than the day has."
IDLE_BY_UTILISATION: Final = (
    "idle_energy_kwh is judged by utilisation until job accounting is loaded (idle_basis)."
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
        "it_energy_modelled_kwh", "off_s", "off_saved_kwh",
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
        "residual_sigma_kwh", "balance_state", "it_energy_modelled_kwh",
        "facility_energy_lower_kwh", "facility_energy_upper_kwh", "overhead_sigma_kwh", "carrier_energy_kwh",
        "grid_import_kwh", "emissions_location_kgco2e", "emissions_upstream_kgco2e", "emissions_missing_kwh",
        "emissions_scope1_kgco2e", "emissions_basis",
    ),
    not_null=("date", "energy_basis", "pue_basis", "status"),
)  # fmt: skip

# Ends of the 90 % intervals of market-based, upstream and embodied emissions and of water.
CARBON_ENDS: Final = tuple(
    end
    for name in ("emissions_market_kgco2e", "emissions_upstream_kgco2e", "embodied_kgco2e", "water_l")
    for end in end_names(name)
)

_CLUSTER_FIGURES: Final = (
    "site_id", "cluster_id", "node_count", "it_energy_kwh", "it_energy_measured_kwh", "it_energy_imputed_kwh",
    "it_energy_lower_kwh", "it_energy_upper_kwh", "coverage_ratio", "idle_energy_kwh", "facility_energy_kwh",
    "pue_ratio", "pue_basis", "pue_category", "cpu_utilisation_ratio", "gpu_utilisation_ratio", "peak_power_w",
    "inlet_temp_p99_c", "carbon_intensity_gco2e_per_kwh", "emissions_location_kgco2e",
    "emissions_upstream_kgco2e", "emissions_market_kgco2e", "embodied_kgco2e", "water_l", "energy_basis",
    "status", "gpu_energy_kwh", "node_second_coverage_ratio", "idle_basis", "facility_basis",
    "emissions_basis", "emissions_missing_kwh", "emissions_location_lower_kgco2e",
    "emissions_location_upper_kgco2e", "emissions_scope1_kgco2e", "market_basis", "embodied_basis", "water_basis",
    "grid_import_kwh", "it_energy_modelled_kwh", "factor_age_years", "factor_flags",
    "facility_energy_lower_kwh", "facility_energy_upper_kwh", *CARBON_ENDS,
)  # fmt: skip
_CLUSTER_NOT_NULL: Final = (
    "date", "node_count", "energy_basis", "pue_basis", "facility_basis", "emissions_basis", "idle_basis", "status",
)  # fmt: skip

CLUSTER_HOUR: Final = Table(
    "gold/cluster_hour", grain="one cluster over one hour", partition="date", owner="energy",
    key=("site_id", "cluster_id", "hour_start"), warnings=(ESTIMATED, IDLE_BY_UTILISATION),
    columns=(
        "date", "hour_start", *_CLUSTER_FIGURES, "server_observed_h", "server_busy_h", "gpu_observed_h", "gpu_busy_h",
    ),
    not_null=_CLUSTER_NOT_NULL,
)  # fmt: skip

TRANSFER_HOUR: Final = Table(
    "gold/transfer_hour", grain="one cluster over one hour: bytes through its nodes' ports, and the network's energy",
    partition="date", owner="energy", key=("site_id", "cluster_id", "hour_start"),
    columns=(
        "date", "hour_start", "site_id", "cluster_id", "node_count", "transfer_node_count", "received_byte",
        "transmitted_byte", "data_transferred_byte", "transfer_basis", "network_energy_by_bytes_kwh",
        "network_by_bytes_basis", "network_energy_by_feed_kwh", "network_by_feed_basis",
    ),
    not_null=(
        "date", "node_count", "transfer_node_count", "transfer_basis", "network_by_bytes_basis",
        "network_by_feed_basis",
    ),
    warnings=("Two estimates of one energy: never add by_bytes to by_feed, nor to the ledger.",),
)  # fmt: skip

CLUSTER_DAY: Final = Table(
    "gold/cluster_day", grain="one cluster over one UTC day", partition="date", owner="energy",
    key=("date", "site_id", "cluster_id"), warnings=(ESTIMATED, IDLE_BY_UTILISATION),
    columns=("date", *_CLUSTER_FIGURES, "off_s", "off_saved_kwh"), not_null=_CLUSTER_NOT_NULL,
)  # fmt: skip

SENSITIVITY: Final = Table(
    "gold/sensitivity", grain="one node-hour (device-hour): how its modelled energy answers to power, heat and load",
    partition="date", owner="models", key=("site_id", "cluster_id", "node_id", "device_id", "hour_start"),
    columns=(
        "date", "hour_start", "site_id", "cluster_id", "node_id", "device_id", "model_name", "model_version",
        "rated_power_kwh_per_w", "inlet_temp_kwh_per_k", "cpu_load_slope_kwh", "gpu_load_slope_kwh",
        "memory_load_slope_kwh", "power_term_kwh", "temp_term_kwh", "load_term_kwh", "chain_rule_kwh",
        "sensitivity_basis",
    ),
    not_null=("date", "sensitivity_basis"),
    warnings=("Slopes of a fitted model, by finite differences: they say what it learnt, not what causes what.",),
)  # fmt: skip

PREDICTION: Final = Table(
    "gold/prediction", grain="one device-hour scored by one model version", partition="date", owner="models",
    key=("site_id", "cluster_id", "node_id", "device_id", "hour_start", "model_name", "model_version"),
    columns=(
        "date", "hour_start", "site_id", "cluster_id", "node_id", "device_id", "model_name", "model_version",
        "energy_kwh", "predicted_kwh", "load_ratio", "recalibrated_kwh", "predicted_lower_kwh", "predicted_upper_kwh",
        "outside_inputs", "recalibrated_lower_kwh", "recalibrated_upper_kwh", "shift_since", "inlet_temp_c",
        "device_temp_c", "memory_utilisation_ratio",
    ),
    not_null=("date",),
)  # fmt: skip

MODEL_SHIFT: Final = Table(
    "gold/model_shift", grain="one device on one UTC day: what the night's residuals say of its model",
    partition="date", owner="models",
    key=("site_id", "cluster_id", "node_id", "device_id", "date", "model_name", "model_version"),
    columns=(
        "date", "site_id", "cluster_id", "node_id", "device_id", "model_name", "model_version", "compared_hours",
        "residual_level", "residual_spread", "more_sum", "less_sum", "spread_sum", "more_since", "less_since",
        "spread_since", "shift_kind", "shift_since", "shift_found",
    ),
    not_null=("date", "compared_hours"),
    warnings=("A shift says that the model no longer holds for the device, not why: load, firmware, board or sensor.",),
)  # fmt: skip
