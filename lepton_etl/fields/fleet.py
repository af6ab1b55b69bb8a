"""Fields of intervals, inventory, meters, grid and weather."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import (
    BOOLEAN,
    DOUBLE,
    INT,
    STRINGS,
    Field,
    count,
    energy,
    ratio,
    temperature,
    text,
    watts,
)
from lepton_etl.fields.words import ENERGY_SOURCES, SENSOR_CLASSES, SENSOR_VERDICTS

FIELDS: Final[tuple[Field, ...]] = (
    # Intervals
    Field("interval_s", INT, "second", "Length of the interval.", ge=1, le=3600),
    Field("counts_in_total", BOOLEAN, None, "Whether the row adds to the node and cluster total."),
    energy("energy_kwh", "Measured energy over the observed seconds, all devices of a shared mean."),
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
    Field("clock_hz", DOUBLE, "hertz", "Mean clock.", ge=0.0, le=2e10),
    Field("fan_rpm", DOUBLE, "revolutions_per_minute", "Mean fan speed.", ge=0.0, le=1e5),
    Field("observed_s", DOUBLE, "second", "Seconds covered by accepted readings.", ge=0.0, le=1e9),
    Field("expected_s", DOUBLE, "second", "Seconds the inventory expects.", ge=0.0, le=1e12),
    Field("resolution_s", DOUBLE, "second", "Median distance of the readings used.", ge=0.0, le=31_622_400.0),
    text("energy_source", "Which sensor the energy is from.", ENERGY_SOURCES),
    Field("flags", STRINGS, None, "What is odd about the interval, sorted."),
    count("conflicts", "Readings of the same sensor and time with another value that lost."),
    # What the sensors of one node say about one another
    text("check_source", "The source that is checked; components: CPU, DRAM and GPU together."),
    text("against_source", "The source that it is held against."),
    count("samples", "Intervals in which both spoke."),
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
    # Inventory and meters
    watts("rated_power_w", "Rated power of the inventory.", 1e6),
    watts("idle_power_w", "Idle power of the inventory.", 1e6),
    watts("gpu_rated_power_w", "Rated board power of one GPU.", 5e3),
    Field("gpu_count", INT, None, "GPUs of the node.", ge=0, le=1024),
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
    text("kind", "How the meter speaks.", ("interval", "counter", "power")),
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
