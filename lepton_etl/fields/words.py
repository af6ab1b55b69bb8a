"""The words that more than one field, or code, chooses from."""

from __future__ import annotations

from typing import Final

# Energy that crosses the site's boundary, by the point of its meter: +1 adds to what the site used, -1 was passed on
# or stored.
BOUNDARY: Final = {
    "utility": 1, "pv": 1, "generator": 1, "battery_out": 1, "export": -1, "battery_in": -1,
}  # fmt: skip
# Points of meters whose sum is the energy of cooling.
COOLING_POINTS: Final = ("chiller", "crah", "pump", "tower")

ENERGY_SOURCES: Final = (
    "outlet_counter", "outlet_power", "psu_input", "bmc", "psu_output", "modelled_sum", "device", "meter",
    "interval_meter",
)  # fmt: skip
ENERGY_BASIS: Final = ("measured", "estimated", "insufficient", "gpu_only", "none")
PUE_BASIS: Final = ("measured", "partial", "modelled", "assumed", "none")
STATISTICS: Final = ("instant", "mean", "min", "max", "counter")
# Why a published figure changed.
REASONS: Final = (
    "late_readings", "late_jobs", "intensity", "weather", "meter_readings", "meters", "inventory", "instruments",
    "scope1", "tariff", "factors", "model", "settings", "code", "unknown",
)  # fmt: skip
VERDICTS: Final = ("agrees", "differs", "incomplete", "no_invoice", "no_tariff")
JOB_OUTCOMES: Final = ("completed", "failed", "cancelled", "timeout", "requeued", "running")
ATTRIBUTION_BASIS: Final = ("devices", "count", "cores", "none")
NODE_STATES: Final = ("off", "standby", "idle", "active", "drained", "maintenance", "failed", "silent")
SENSOR_CLASSES: Final = ("meter", "pdu", "outlet", "psu", "bmc", "rapl", "gpu_board")
SENSOR_VERDICTS: Final = ("agrees", "bias", "stuck", "scale", "clock_skew")
FORECAST_BASIS: Final = ("fusion", "profile", "none")
JOB_POWER_BASIS: Final = ("user", "partition", "hardware", "none")
PERFORMANCE_STATES: Final = (
    "normal", "memory_bound", "power_capped", "thermally_throttled", "idle_but_drawing", "degraded", "failing_sensor",
)  # fmt: skip
ADJUSTMENTS: Final = ("none", "raise_cap", "lower_clock", "fan_or_inlet", "drain", "release", "check_sensor")
ANOMALY_KINDS: Final = ("stuck", "drift", "scale", "step", "idle_but_drawing", "rack")
LEVERS: Final = ("shift", "consolidate", "idle", "zombie", "power_cap", "cooling", "adjustment")
RECOMMENDATION_STATES: Final = ("proposed", "accepted", "applied", "expired", "rejected")
DECISIONS: Final = ("accepted", "applied", "rejected", "withdrawn")
CARBON_METHODS: Final = ("location", "market", "none")
SAVING_METHODS: Final = ("ipmvp_b", "ipmvp_c", "ipmvp_d")
