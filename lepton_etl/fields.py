"""The field dictionary: every column's name, type, unit, meaning and bounds, said once.

Spark schemas, Delta comments and CHECK constraints, Great Expectations suites, decoder bounds and
docs/data-dictionary.md all come from here. Physical columns end in their unit; ratios run from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pint

ureg: Final[pint.UnitRegistry[float]] = pint.UnitRegistry()
ureg.define("gram_co2e = gram")
ureg.define("kilogram_co2e = kilogram")

STRING: Final = "string"
DOUBLE: Final = "double"
INT: Final = "int"
LONG: Final = "bigint"
BOOLEAN: Final = "boolean"
TIMESTAMP: Final = "timestamp"
DATE: Final = "date"
STRINGS: Final = "array<string>"

SECONDS_PER_HOUR: Final = 3600.0
JOULES_PER_KWH: Final = 3.6e6
GRAMS_PER_KILOGRAM: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Field:
    """One column, the same everywhere it stands.

    `unit` is a pint unit of a physical column and None of any other. `ge`/`le` are inclusive bounds:
    they become the constraint `c IS NULL OR (c >= ge AND c <= le)`, a form that refuses NaN and infinity
    and lets the unknown pass.
    """

    name: str
    type: str
    unit: str | None
    description: str
    ge: float | None = None
    le: float | None = None
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a sensor measures: one canonical unit and the bounds outside which a value is no reading."""

    name: str
    unit: str
    ge: float
    le: float


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
    ):  # fmt: skip
        rows.append(Quantity(f"{stem}_temperature", "degree_Celsius", low, top))
    for name in (
        "cpu_utilisation", "gpu_utilisation", "gpu_memory_utilisation", "fan_duty", "relative_humidity",
        "grid_estimated",
    ):  # fmt: skip
        rows.append(Quantity(name, "dimensionless", 0.0, 1.0))
    rows += [
        Quantity("fan_speed", "revolutions_per_minute", 0.0, 100_000.0),
        Quantity("clock", "hertz", 0.0, 2e10),
        Quantity("power_limit", "watt", 0.0, 50_000.0),
        Quantity("water_volume", "liter", 0.0, 1e12),
        Quantity("fuel_volume", "liter", 0.0, 1e12),
        Quantity("flow", "liter / second", 0.0, 1e6),
        Quantity("data_transferred", "byte", 0.0, 1e21),
        # A lignite plant emits some 1,200 g/kWh; a zone above 2,000 is a unit mistake.
        Quantity("grid_intensity", "gram / kilowatt_hour", 0.0, 2_000.0),
    ]
    return {row.name: row for row in rows}


QUANTITIES: Final = _quantities()

ENERGY_SOURCES: Final = (
    "outlet_counter", "outlet_power", "psu_input", "bmc", "psu_output", "modelled_sum", "device", "meter",
    "interval_meter",
)  # fmt: skip
ENERGY_BASIS: Final = ("measured", "estimated", "insufficient", "gpu_only", "none")
PUE_BASIS: Final = ("measured", "partial", "modelled", "assumed", "none")
STATISTICS: Final = ("instant", "mean", "min", "max", "counter")

_KWH = "kilowatt_hour"
_KG = "kilogram_co2e"
_MAX_KWH = 1e9  # A 40 GW-day; above it is a unit mistake.


def _energy(name: str, description: str) -> Field:
    return Field(name, DOUBLE, _KWH, description, ge=0.0, le=_MAX_KWH)


def _ratio(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "dimensionless", description, ge=0.0, le=1.0)


def _kg(name: str, description: str) -> Field:
    return Field(name, DOUBLE, _KG, description, ge=0.0, le=1e12)


def _text(name: str, description: str, one_of: tuple[str, ...] = ()) -> Field:
    return Field(name, STRING, None, description, one_of=one_of)


def _time(name: str, description: str) -> Field:
    return Field(name, TIMESTAMP, None, description)


def _count(name: str, description: str, type_: str = LONG) -> Field:
    return Field(name, type_, None, description, ge=0)


def _temperature(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "degree_Celsius", description, ge=-70.0, le=150.0)


def _watt(name: str, description: str, top: float = 2e9) -> Field:
    return Field(name, DOUBLE, "watt", description, ge=0.0, le=top)


_ALL: tuple[Field, ...] = (
    # Identity
    _text("site_id", "Site."),
    _text("cluster_id", "Cluster; IT outside clusters is `_shared`."),
    _text("rack_id", "Rack."),
    _text("chassis_id", "Chassis that the node shares with others."),
    _text("node_id", "Node; null for facility meters; a shared chassis stands under its chassis_id."),
    _text("device_id", "Device; 'node' is the node itself."),
    _text("meter_id", "Facility meter."),
    _text("parent_id", "Meter upstream of this one."),
    _text("hardware_class", "Hardware class of the inventory."),
    _text("node_kind", "What the node does.", ("compute", "storage", "network", "service")),
    _text("zone_id", "Grid zone of the intensity."),
    # Times
    Field("date", DATE, None, "UTC day."),
    _time("interval_start", "Start of the interval, UTC."),
    _time("hour_start", "Start of the hour, UTC."),
    _time("reading_time", "Instant of the reading, or start of its window, UTC."),
    Field("reading_date", DATE, None, "UTC day of reading_time."),
    _time("ingest_time", "When the batch was loaded, UTC."),
    Field("ingest_date", DATE, None, "UTC day of ingest_time; the partition of bronze."),
    _time("valid_from", "First instant at which the row holds, UTC."),
    _time("valid_to", "First instant at which the row no longer holds; null is open."),
    _time("first_reading_time", "Earliest reading of the file."),
    _time("last_reading_time", "Latest reading of the file."),
    _time("start_time", "Start, UTC."),
    _time("end_time", "End, UTC."),
    _time("modified_time", "Modification time of the file as delivered, UTC."),
    # Readings
    _text("quantity", "What is measured, a name of the quantity list.", tuple(QUANTITIES)),
    Field("value", DOUBLE, None, "Value in the quantity's canonical unit.", ge=-1e18, le=1e18),
    _text("statistic", "What the value is over its window.", STATISTICS),
    Field(
        "window_s",
        DOUBLE,
        "second",
        "Window of a mean, min or max; 0 for an instant.",
        ge=0.0,
        le=31_622_400.0,
    ),
    Field("multiplicity", INT, None, "How many devices one shared mean stands for, else 1.", ge=1, le=4096),
    _text("point", "Where a power is taken, or which kind of intensity (direct, lifecycle)."),
    _text("sensor", "Sensor name as logged."),
    _text("raw_value", "Value as logged."),
    _text("raw_unit", "Unit as logged or as declared by the source."),
    _text("source_name", "Source of the settings."),
    _text("file_id", "SHA-256 of source name, identity taken from the path, and decompressed bytes."),
    _count("source_position", "Line of the decompressed file, from 1."),
    _text("reason", "Reason code."),
    _text("raw_text", "The record as logged, at most 1,000 characters."),
    # Files
    _text("path", "Path of the file as listed."),
    _text(
        "state",
        "State.",
        ("planned", "loaded", "discarded", "duplicate", "running", "done", "failed", "skipped"),
    ),
    _count("size_bytes", "Size as delivered."),
    _count("batch", "Ingestion batch, the application transaction version."),
    _count("records", "Records in the file: readings + jobs + rejects + duplicates + ignored."),
    _count("readings", "Records that became readings."),
    _count("rejects", "Records that could not be used."),
    _count("duplicates", "Exact repeats within the file, or the records of a file already loaded."),
    _count("jobs", "Records that became rows of job accounting."),
    _count("ignored", "Unmapped sensors and cells without a value."),
    _text("ignored_detail", "JSON: count by sensor and reason of the ignored records."),
    _count("structure_lines", "Stamps, headers, comments and blanks; not records."),
    # Job accounting
    _text("cluster_name", "Cluster as the scheduler names it."),
    _text("job_id", "Job of the scheduler; of an array job with its task."),
    _text("step_id", "Step of the job; null is the job itself."),
    _count("restart", "How often the job was started again before.", INT),
    _text("user_name", "User who submitted the job."),
    _text("account", "Account that the job is charged to."),
    _text("partition", "Partition of the scheduler."),
    _text("job_state", "State as the scheduler names it."),
    _time("submit_time", "When the job was submitted, UTC."),
    _text("node_list", "Nodes as logged, in the scheduler's bracket notation."),
    _count("cpu_count", "CPUs allocated.", INT),
    Field("memory_byte", DOUBLE, "byte", "Memory allocated.", ge=0.0, le=1e18),
    Field("consumed_energy_j", DOUBLE, "joule", "Energy by the scheduler's own plugin.", ge=0.0, le=1e18),
    # Intervals
    Field("interval_s", INT, "second", "Length of the interval.", ge=1, le=3600),
    Field("counts_in_total", BOOLEAN, None, "Whether the row adds to the node and cluster total."),
    _energy("energy_kwh", "Measured energy over the observed seconds, all devices of a shared mean."),
    _energy("gain_sigma_kwh", "One standard deviation by sensor gain; adds linearly over time."),
    _energy("resolution_sigma_kwh", "One standard deviation by sensor resolution; adds linearly over time."),
    _watt("power_min_w", "Lowest power."),
    _watt("power_mean_w", "Time-weighted mean power over the observed seconds, per device."),
    _watt("power_max_w", "Highest power."),
    _temperature("device_temp_c", "Time-weighted mean die or component temperature; follows power."),
    _temperature("inlet_temp_c", "Mean temperature of the air or water entering the node."),
    _ratio("memory_utilisation_ratio", "Memory in use over memory present."),
    _watt("power_limit_w", "Power limit in force.", 1e5),
    Field("clock_hz", DOUBLE, "hertz", "Mean clock.", ge=0.0, le=2e10),
    Field("fan_rpm", DOUBLE, "revolutions_per_minute", "Mean fan speed.", ge=0.0, le=1e5),
    Field("observed_s", DOUBLE, "second", "Seconds covered by accepted readings.", ge=0.0, le=1e9),
    Field("expected_s", DOUBLE, "second", "Seconds the inventory expects.", ge=0.0, le=1e12),
    Field("resolution_s", DOUBLE, "second", "Median distance of the readings used.", ge=0.0, le=31_622_400.0),
    _text("energy_source", "Which sensor the energy is from.", ENERGY_SOURCES),
    Field("flags", STRINGS, None, "What is odd about the interval, sorted."),
    _count("conflicts", "Readings of the same sensor and time with another value that lost."),
    # Inventory and meters
    _watt("rated_power_w", "Rated power of the inventory.", 1e6),
    _watt("idle_power_w", "Idle power of the inventory.", 1e6),
    _watt("gpu_rated_power_w", "Rated board power of one GPU.", 5e3),
    Field("gpu_count", INT, None, "GPUs of the node.", ge=0, le=1024),
    Field("psu_count", INT, None, "Power supplies of the node.", ge=0, le=64),
    _ratio("sensor_gain_ratio", "One standard deviation of the node power sensor's relative gain error."),
    Field("lifetime_years", DOUBLE, "year", "Service life for embodied carbon.", ge=0.0, le=100.0),
    _text("serves", "What the meter's loop serves."),
    _text("carrier", "Energy carrier.", ("electricity", "heat", "cooling", "gas", "fuel", "water")),
    Field("sign", INT, None, "+1 drawn, -1 fed back.", ge=-1, le=1),
    _text("unit", "Unit of the meter's readings."),
    Field("multiplier", DOUBLE, None, "Transformer ratio that the logged value still lacks.", ge=0.0, le=1e6),
    _text("kind", "How the meter speaks.", ("interval", "counter", "power")),
    _text("label", "Whether the stamp is the start or the end of the window.", ("start", "end")),
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
    _text("intensity_basis", "Direct stack emissions or life cycle.", ("direct", "lifecycle")),
    _text("signal", "Average or marginal.", ("average", "marginal")),
    _text("flow", "Production or consumption mix.", ("production", "consumption")),
    Field("estimated", BOOLEAN, None, "The publisher marked the hour as estimated; null if it does not say."),
    _temperature("outdoor_dry_bulb_temp_c", "Outdoor dry bulb temperature."),
    _temperature("outdoor_wet_bulb_temp_c", "Outdoor wet bulb temperature."),
    # Gold
    _count("node_count", "Nodes that the inventory expects."),
    _energy(
        "it_energy_kwh", "Energy into IT equipment, measured plus imputed; null below the coverage limit."
    ),
    _energy("it_energy_measured_kwh", "The part from accepted readings."),
    _energy("it_energy_imputed_kwh", "The part filled by a model; null while there is none."),
    _energy("it_energy_lower_kwh", "Lower end of the 90 % interval by sensor gain and resolution."),
    _energy("it_energy_upper_kwh", "Upper end of the 90 % interval by sensor gain and resolution."),
    _energy("gpu_energy_kwh", "Energy of GPU boards, all devices; never added to the node."),
    _ratio("coverage_ratio", "Observed over expected, weighted by rated power where every node has one."),
    _ratio("node_second_coverage_ratio", "Observed node-seconds over expected node-seconds."),
    _energy("idle_energy_kwh", "Energy of node-intervals without work; see idle_basis."),
    _text(
        "idle_basis",
        "How idle was told: by utilisation below the limit, by jobs, or not.",
        ("utilisation", "jobs", "none"),
    ),
    _energy("facility_energy_kwh", "IT energy plus the share of overheads."),
    _energy("facility_metered_kwh", "Energy at the utility meter."),
    _energy("it_metered_kwh", "Energy at the meter nearest to the IT input."),
    Field(
        "pue_ratio",
        DOUBLE,
        "dimensionless",
        "Facility energy over IT energy, a ratio of sums.",
        ge=1.0,
        le=100.0,
    ),
    _text("pue_basis", "Where the PUE comes from.", PUE_BASIS),
    Field("pue_category", INT, None, "1 at UPS output, 2 at PDU output, 3 at IT input.", ge=1, le=3),
    _ratio(
        "cpu_utilisation_ratio",
        "Mean CPU utilisation of powered-on servers that are not mostly accelerators.",
    ),
    _ratio("gpu_utilisation_ratio", "Mean GPU utilisation."),
    _watt("peak_power_w", "Maximum of the summed interval means."),
    _temperature("inlet_temp_p99_c", "99th percentile of inlet temperature over node-intervals."),
    _kg(
        "emissions_location_kgco2e", "Location-based: facility energy by the hour's direct average intensity."
    ),
    _kg("emissions_upstream_kgco2e", "Life-cycle minus direct intensity, on the same energy."),
    _kg("emissions_market_kgco2e", "Market-based; null while no contract table exists."),
    _energy("emissions_missing_kwh", "Facility energy in hours without an intensity."),
    _text("emissions_basis", "Where emissions come from.", ("measured", "estimated", "partial", "none")),
    _kg("embodied_kgco2e", "Embodied carbon; of a node in the inventory, of a period its amortised share."),
    Field("water_l", DOUBLE, "liter", "Water drawn.", ge=0.0, le=1e12),
    _text("energy_basis", "What the energy figure rests on.", ENERGY_BASIS),
    _text("facility_basis", "What the facility figure rests on.", PUE_BASIS),
    _text("status", "Life of a published figure.", ("provisional", "closed", "restated")),
    # Predictions
    _text("model_name", "Registered model."),
    _text("model_version", "Version in the registry."),
    _energy("predicted_kwh", "Predicted energy of the device over the hour."),
    # Runs
    _text("run_id", "Run of the pipeline."),
    _text("stage", "Stage of the night."),
    _text("code_version", "Version of lepton_etl, with the git commit where there is one."),
    _text("settings_hash", "SHA-256 of the settings in force, secrets left out."),
    Field("date_from", DATE, None, "First UTC day of the run."),
    Field("date_until", DATE, None, "Last UTC day of the run."),
    Field("exit_code", INT, None, "Exit code.", ge=0, le=255),
    _text("message", "The last line for the operator."),
    _count("rows_in", "Rows read."),
    _count("rows_out", "Rows written."),
    Field("duration_s", DOUBLE, "second", "Wall time.", ge=0.0, le=1e9),
    _text("table_versions", "JSON: table -> Delta version after the stage."),
    _text("input_versions", "JSON: table -> Delta version that the stage read."),
)

FIELDS: Final[dict[str, Field]] = {field.name: field for field in _ALL}


def fields_of(*names: str) -> tuple[Field, ...]:
    """The named fields, in this order; a name that the dictionary lacks raises KeyError."""
    return tuple(FIELDS[name] for name in names)
