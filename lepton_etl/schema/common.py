"""Fields that every table shares (identifiers, times), sets of names that fields choose from, and quantities."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.declare import DATE, Field, Quantity, text, time

# Energy that crosses the site's boundary, by the point of its meter: +1 adds to what the site used, -1 was passed on
# or stored.
BOUNDARY: Final = {
    "utility": 1, "pv": 1, "generator": 1, "battery_out": 1, "export": -1, "battery_in": -1,
}  # fmt: skip
# Points of meters whose sum is the energy of cooling.
COOLING_POINTS: Final = ("chiller", "crah", "pump", "tower")

PSU_OUTPUT: Final = "psu_output"
MODELLED_SUM: Final = "modelled_sum"
# A node that is known to be off, and of which nothing is read.
KNOWN_OFF: Final = "node_state"
ENERGY_SOURCES: Final = (
    "outlet_counter", "outlet_power", "psu_input", "bmc", PSU_OUTPUT, MODELLED_SUM, "device", "meter",
    "interval_meter", KNOWN_OFF,
)  # fmt: skip
# Of them those that no sensor of the node's input says: modelled, never measured.
MODELLED_SOURCES: Final = (PSU_OUTPUT, MODELLED_SUM)
ENERGY_BASIS: Final = ("measured", "modelled", "estimated", "insufficient", "gpu_only", "none")
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
NODE_STATES: Final = (
    "off", "standby", "asleep", "idle", "active", "on", "drained", "maintenance", "failed", "silent",
)  # fmt: skip
# States in which a node does no work and may draw its standby power.
OFF_STATES: Final = ("off", "standby", "asleep")
STATE_BASIS: Final = ("jobs", "power", "power_command", "scheduler", "silence")
# What a scheduler or a power command says of a node, as the value of a reading; of several at once the highest holds.
STATE_CODES: Final = {"off": 0.0, "asleep": 1.0, "failed": 2.0, "maintenance": 3.0, "drained": 4.0, "on": 5.0}
STATE_QUANTITIES: Final = {"node_state": "scheduler", "power_state": "power_command"}
SENSOR_CLASSES: Final = (
    "meter",
    "pdu",
    "outlet",
    "psu",
    "bmc",
    "rapl",
    "gpu_board",
    "psu_output",
    "modelled",
)
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
BURDEN_KINDS: Final = ("cap", "delay", "wait", "placement", "overhead")
FAIR_SHARE_BASIS: Final = ("gpu_hours", "pending_jobs", "started_jobs", "node_hours", "it_energy")
CARBON_METHODS: Final = ("location", "market", "none")
SAVING_METHODS: Final = ("ipmvp_b", "ipmvp_c", "ipmvp_d")


def _quantities() -> dict[str, Quantity]:
    node_w, rack_w, site_w = 50_000.0, 500_000.0, 2e9
    rows: list[Quantity] = []
    for stem, top in (
        ("outlet", rack_w), ("node_input", node_w), ("node", node_w), ("psu_input", node_w),
        ("psu_output", node_w), ("chassis_input", rack_w), ("cpu", 5_000.0), ("dram", 5_000.0),
        ("gpu", 5_000.0), ("fan", 5_000.0), ("facility", site_w), ("heat", site_w),
    ):  # fmt: skip
        rows.append(Quantity(f"{stem}_power", "watt", 0.0, top))
        rows.append(Quantity(f"{stem}_energy", "joule", 0.0, 1e18))
    for stem, low, top in (
        ("inlet", -20.0, 80.0), ("exhaust", -20.0, 120.0), ("cpu", -20.0, 150.0), ("gpu", -20.0, 150.0),
        ("gpu_memory", -20.0, 150.0), ("dimm", -20.0, 150.0), ("water_supply", -20.0, 100.0),
        ("water_return", -20.0, 120.0), ("outdoor_dry_bulb", -70.0, 65.0), ("outdoor_wet_bulb", -70.0, 50.0),
        ("slowdown", 30.0, 150.0),
    ):  # fmt: skip
        rows.append(Quantity(f"{stem}_temperature", "degree_Celsius", low, top))
    for name in (
        "cpu_utilisation", "gpu_utilisation", "gpu_memory_utilisation", "fan_duty", "relative_humidity",
        "grid_estimated",
    ):  # fmt: skip
        rows.append(Quantity(name, "dimensionless", 0.0, 1.0))
    rows += [Quantity(name, "dimensionless", 0.0, max(STATE_CODES.values())) for name in STATE_QUANTITIES]
    rows += [
        Quantity("fan_speed", "revolutions_per_minute", 0.0, 100_000.0),
        Quantity("clock", "hertz", 0.0, 2e10),
        Quantity("power_limit", "watt", 0.0, 50_000.0),
        # How far a board's temperature lies below that at which it slows down.
        Quantity("slowdown_margin", "kelvin", -50.0, 150.0),
        Quantity("water_volume", "liter", 0.0, 1e12),
        Quantity("fuel_volume", "liter", 0.0, 1e12),
        Quantity("flow", "liter / second", 0.0, 1e6),
        Quantity("data_transferred", "byte", 0.0, 1e21),
        # A lignite plant emits some 1,200 g/kWh; a zone above 2,000 is a unit mistake.
        Quantity("grid_intensity", "gram / kilowatt_hour", 0.0, 2_000.0),
    ]
    return {row.name: row for row in rows}


QUANTITIES: Final = _quantities()

FIELDS: Final[tuple[Field, ...]] = (
    # Identity
    text("site_id", "Site."),
    text("cluster_id", "Cluster; IT outside clusters is `_shared`."),
    text("rack_id", "Rack."),
    text("chassis_id", "Chassis that the node shares with others."),
    text("node_id", "Node; null for facility meters; of a shared chassis its chassis_id."),
    text("device_id", "Device; 'node' is the node itself."),
    text("meter_id", "Facility meter."),
    text("parent_id", "Meter upstream of this one."),
    text("hardware_class", "Hardware class of the inventory."),
    text("node_kind", "What the node does.", ("compute", "storage", "network", "service")),
    text("zone_id", "Grid zone of the intensity."),
    # Times
    Field("date", DATE, None, "UTC day."),
    time("interval_start", "Start of the interval, UTC."),
    time("hour_start", "Start of the hour, UTC."),
    time("reading_time", "Instant of the reading, or start of its window, UTC."),
    Field("reading_date", DATE, None, "UTC day of reading_time."),
    time("ingest_time", "When the batch was loaded, UTC."),
    Field("ingest_date", DATE, None, "UTC day of ingest_time; the partition of bronze."),
    time("valid_from", "First instant at which the row holds, UTC."),
    time("valid_to", "First instant at which the row no longer holds; null is open."),
    time("first_reading_time", "Earliest reading of the file."),
    time("last_reading_time", "Latest reading of the file."),
    time("start_time", "Start, UTC."),
    time("end_time", "End, UTC."),
    time("modified_time", "Modification time of the file as delivered, UTC."),
)
