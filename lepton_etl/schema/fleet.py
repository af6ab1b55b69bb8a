"""Fields and tables of the inventory, and of readings brought to intervals and hours."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import ENERGY_SOURCES, SENSOR_CLASSES, SENSOR_VERDICTS
from lepton_etl.schema.declare import (
    BOOLEAN,
    DOUBLE,
    INT,
    STRINGS,
    Field,
    Table,
    count,
    energy,
    ratio,
    temperature,
    text,
    watts,
)

FIELDS: Final[tuple[Field, ...]] = (
    # Intervals
    Field("interval_s", INT, "second", "Length of the interval.", ge=1, le=3600),
    Field("counts_in_total", BOOLEAN, None, "Whether the row adds to the node and cluster total."),
    energy(
        "energy_kwh", "Energy over the observed seconds, all devices of a shared mean; see energy_source."
    ),
    energy("gain_sigma_kwh", "One standard deviation by sensor gain; adds linearly over time."),
    energy("resolution_sigma_kwh", "One standard deviation by sensor resolution; adds linearly over time."),
    energy(
        "sampling_sigma_kwh",
        "One standard deviation by seeing power only now and then; adds in quadrature over time and devices.",
    ),
    text(
        "sensor_class", "Class of the sensor that the energy is from; its errors are factors.", SENSOR_CLASSES
    ),
    watts("power_min_w", "Lowest power."),
    watts("power_mean_w", "Time-weighted mean power over the observed seconds, per device."),
    watts("power_max_w", "Highest power."),
    temperature("device_temp_c", "Time-weighted mean die or component temperature; follows power."),
    temperature("inlet_temp_c", "Mean temperature of the air or water entering the node."),
    ratio("memory_utilisation_ratio", "Memory in use over memory present."),
    watts("power_limit_w", "Power limit in force.", 1e5),
    temperature("slowdown_temp_c", "Temperature at which the device slows down, as it reports it."),
    Field(
        "slowdown_margin_k",
        DOUBLE,
        "kelvin",
        "How far the device's temperature lies below that at which it slows down, as it reports it.",
        ge=-50.0,
        le=150.0,
    ),
    Field("clock_hz", DOUBLE, "hertz", "Mean clock.", ge=0.0, le=2e10),
    Field("fan_rpm", DOUBLE, "revolutions_per_minute", "Mean fan speed.", ge=0.0, le=1e5),
    Field("observed_s", DOUBLE, "second", "Seconds covered by accepted readings.", ge=0.0, le=1e9),
    Field("expected_s", DOUBLE, "second", "Seconds the inventory expects.", ge=0.0, le=1e12),
    Field("resolution_s", DOUBLE, "second", "Median distance of the readings used.", ge=0.0, le=31_622_400.0),
    text("energy_source", "Which sensor the energy is from.", ENERGY_SOURCES),
    Field("flags", STRINGS, None, "What is odd about the interval, sorted."),
    count("conflicts", "Readings of the same sensor and time with another value, which were not taken."),
    # What the sensors of one node say about one another
    text("check_source", "The source that is checked; components: CPU, DRAM and GPU together."),
    text("against_source", "The source that it is compared with."),
    count("samples", "Intervals in which both were read."),
    Field("median_ratio", DOUBLE, "dimensionless", "Median of checked over other power.", ge=0.0, le=1e9),
    Field("offset_w", DOUBLE, "watt", "Median of checked minus other power.", ge=-1e9, le=1e9),
    Field(
        "lag_s",
        DOUBLE,
        "second",
        "How much later the checked source moves; null where too little moves.",
        ge=-86_400.0,
        le=86_400.0,
    ),
    text("sensor_verdict", "What the checked source is found to be.", SENSOR_VERDICTS),
    # What a sensor said on a day
    Field(
        "typical_value",
        DOUBLE,
        None,
        "Unit of the quantity: mean of the positive powers of the most frequent decade, mean temperature, highest "
        "ratio; of a counter its mean rate in W.",
        ge=-1e18,
        le=1e18,
    ),
    count("reading_count", "Readings that the typical value is of."),
    # Inventory and meters
    watts("rated_power_w", "Rated power of the inventory.", 1e6),
    watts("idle_power_w", "Idle power of the inventory.", 1e6),
    watts(
        "standby_power_w",
        "What the node draws while it is off or asleep (its controller); empty: taken as 0.",
        1e4,
    ),
    watts("gpu_rated_power_w", "Rated board power of one GPU.", 5e3),
    watts(
        "rest_power_w",
        "What the node draws less 1.14 times its CPUs, memory and GPUs (boards, fans, disks), for a node without a "
        "sensor of its own.",
        1e5,
    ),
    Field("gpu_count", INT, None, "GPUs of the node.", ge=0, le=1024),
    Field("cpu_socket_count", INT, None, "CPU sockets of the node, for the embodied archetype.", ge=0, le=64),
    Field("ssd_count", INT, None, "Solid-state drives of the node, likewise.", ge=0, le=256),
    Field("hdd_count", INT, None, "Hard disks of the node, likewise.", ge=0, le=256),
    Field("psu_count", INT, None, "Power supplies of the node.", ge=0, le=64),
    ratio("sensor_gain_ratio", "One standard deviation of the node power sensor's relative gain error."),
    Field("lifetime_years", DOUBLE, "year", "Service life for embodied carbon.", ge=0.0, le=100.0),
    text("serves", "What the meter's loop serves."),
    text("carrier", "Energy carrier.", ("electricity", "heat", "cooling", "gas", "fuel", "water")),
    Field("sign", INT, None, "+1 drawn, -1 fed back.", ge=-1, le=1),
    text("unit", "Unit of the meter's readings."),
    Field("multiplier", DOUBLE, None, "Transformer ratio that the logged value still lacks.", ge=0.0, le=1e6),
    energy(
        "counter_max_kwh", "Where the meter's counter begins again at 0, as logged (before the multiplier)."
    ),
    watts("meter_peak_power_w", "Highest power that the meter can pass, as logged (before the multiplier)."),
    text(
        "kind",
        "What the meter reports: means of intervals, a counter, or momentary power.",
        ("interval", "counter", "power"),
    ),
    text("label", "Whether the stamp is the start or the end of the window.", ("start", "end")),
    Field("class_pct", DOUBLE, None, "Accuracy class in percent of the reading.", ge=0.0, le=100.0),
    # Grid and weather
    Field(
        "carbon_intensity_gco2e_per_kwh",
        DOUBLE,
        "gram_co2e / kilowatt_hour",
        "Average direct intensity; over a period, emissions over energy.",
        ge=0.0,
        le=2_000.0,
    ),
    text("intensity_basis", "Direct stack emissions or life cycle.", ("direct", "lifecycle")),
    text("signal", "Average or marginal.", ("average", "marginal")),
    text("flow", "Production or consumption mix.", ("production", "consumption")),
    Field("estimated", BOOLEAN, None, "The publisher marked the hour as estimated; null if it does not say."),
    temperature("outdoor_dry_bulb_temp_c", "Outdoor dry bulb temperature."),
    temperature("outdoor_wet_bulb_temp_c", "Outdoor wet bulb temperature."),
)

NODE: Final = Table(
    "silver/node", grain="one node while one inventory row holds", key=("site_id", "node_id", "valid_from"),
    owner="registers",
    columns=(
        "site_id", "cluster_id", "rack_id", "chassis_id", "node_id", "node_kind", "hardware_class",
        "rated_power_w", "idle_power_w", "gpu_count", "gpu_rated_power_w", "psu_count", "sensor_gain_ratio",
        "embodied_kgco2e", "lifetime_years", "valid_from", "valid_to", "core_count", "memory_total_byte",
        "cpu_idle_power_w", "memory_idle_power_w", "gpu_idle_power_w", "rest_power_w",
        "cpu_socket_count", "ssd_count", "hdd_count", "standby_power_w",
    ),
)  # fmt: skip

METER: Final = Table(
    "silver/meter", grain="one facility meter while one row holds", key=("site_id", "meter_id", "valid_from"),
    owner="registers",
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
        "sampling_sigma_kwh", "slowdown_temp_c", "slowdown_margin_k",
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

TRANSFER_INTERVAL: Final = Table(
    "silver/transfer_interval", grain="all network ports of one node over one interval", partition="date",
    owner="energy", key=("site_id", "node_id", "interval_start"),
    columns=(
        "site_id", "node_id", "date", "interval_start", "interval_s", "received_byte", "transmitted_byte",
        "observed_s", "port_count",
    ),
    not_null=("date", "interval_s", "received_byte", "transmitted_byte", "observed_s", "port_count"),
    warnings=("An interval in which a port of the day is silent has no row.",),
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

SENSOR_DAY: Final = Table(
    "silver/sensor_day", grain="what one sensor of a node typically said on one day", partition="date", owner="energy",
    key=("site_id", "node_id", "device_id", "quantity", "sensor", "statistic", "date"),
    columns=(
        "site_id", "node_id", "device_id", "quantity", "sensor", "statistic", "date", "typical_value", "reading_count",
    ),
    not_null=("typical_value", "reading_count"),
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
