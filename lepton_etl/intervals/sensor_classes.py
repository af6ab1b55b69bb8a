"""Classes of sensors and their errors: which class a power is from, and what its figures may be wrong by.

The numbers are dated rows of conf/factors/sensor_classes.csv; an inventory that knows a node's sensor better wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from math import sqrt
from typing import Final

import polars as pl

from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.common import MODELLED_SOURCES, MODELLED_SUM, PSU_OUTPUT, SENSOR_CLASSES
from lepton_etl.schema.declare import JOULES_PER_KWH

_FACTOR_TABLE: Final = "sensor_classes"
GAIN: Final = "gain_sigma_ratio"
_SHARED: Final = "shared_variance_ratio"
SAMPLED: Final = "sampled_ratio"

# What a power source or a component is measured by.
_OF_SOURCE: Final = {
    "outlet_counter": "outlet", "outlet_power": "outlet", "psu_input": "psu", "bmc": "bmc",
    PSU_OUTPUT: "psu_output", MODELLED_SUM: "modelled",
}  # fmt: skip
_OF_DEVICE: Final = {
    "psu_input": "psu", "outlet": "outlet", "cpu": "rapl", "dram": "rapl", "gpu": "gpu_board",
    "chassis_input": "bmc", "fan": "bmc",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SensorClass:
    """Errors of one class of sensors.

    `gain_sigma_ratio` is one standard deviation of the relative gain error (None: a meter, whose class says it, and a
    modelled sum, whose row says it); `shared_variance_ratio` the part of its variance that all sensors of one make have
    in common; `sampled_ratio` the part of the time that a reading has seen.
    """

    gain_sigma_ratio: float | None
    shared_variance_ratio: float
    sampled_ratio: float


SensorClasses = Mapping[str, SensorClass]


def sensor_classes(factors: FactorSet, valid_on: date) -> dict[str, SensorClass]:
    """Every class by name with the factors of the day. Raises MissingFactorError."""

    def look_up(name: str, parameter: str) -> float:
        return factors.get(_FACTOR_TABLE, valid_on=valid_on, sensor_class=name, parameter=parameter).value

    return {
        name: SensorClass(
            gain_sigma_ratio=None if name in ("meter", "modelled") else look_up(name, GAIN),
            shared_variance_ratio=look_up(name, _SHARED),
            sampled_ratio=look_up(name, SAMPLED),
        )
        for name in SENSOR_CLASSES
    }


def class_of_power() -> pl.Expr:
    """The class of a row's sensor by its `energy_source` and `quantity`, null where it has no power."""
    stem = pl.col("quantity").str.replace(r"_(power|energy)$", "")
    device = stem.replace_strict(_OF_DEVICE, default=None, return_dtype=pl.String)
    source = pl.col("energy_source").replace_strict(_OF_SOURCE, default=None, return_dtype=pl.String)
    return pl.when(pl.col("energy_source") == "device").then(device).otherwise(source)


def gains_of_sources(classes: SensorClasses, sensor_gain_ratio: float | None) -> dict[str, float]:
    """One sigma of the relative gain error by power source; `sensor_gain_ratio` of the settings stands for all."""
    named = {**_OF_SOURCE, "components": "rapl"}
    found = {
        source: classes[name].gain_sigma_ratio if sensor_gain_ratio is None else sensor_gain_ratio
        for source, name in named.items()
        if name in classes
    }
    return {source: gain for source, gain in found.items() if gain is not None}


def class_of_meter() -> pl.Expr:
    """`meter` where meters.csv states a class, else `pdu` at a PDU's output, else null: its error is not known."""
    return (
        pl.when(pl.col("class_pct").is_not_null())
        .then(pl.lit("meter"))
        .when(pl.col("point") == "pdu_out")
        .then(pl.lit("pdu"))
    )


def meter_gain_ratio(classes: SensorClasses) -> pl.Expr:
    """One sigma of a meter's relative error: its class is the bound of a uniform error, else that of its sensor class.

    Source: IEC 62053-21 and -22 (limits by class); JCGM 100:2008 (GUM), 4.3.7 (uniform: bound / sqrt(3)).
    """
    return pl.coalesce(pl.col("class_pct") * (0.01 / sqrt(3)), of_class(classes, GAIN))


def of_class(classes: SensorClasses, parameter: str) -> pl.Expr:
    """A parameter by the column `sensor_class`, null for a class that has none."""
    known = {name: getattr(sensor, parameter) for name, sensor in classes.items()}
    if not known:
        return pl.lit(None, pl.Float64)
    return pl.col("sensor_class").replace_strict(known, default=None, return_dtype=pl.Float64)


def energy_and_sigmas(classes: SensorClasses, sensor_gain_ratio: float | None) -> tuple[pl.Expr, ...]:
    """Energy of all devices of a shared mean, and one sigma of its errors by gain, resolution and sampling, in kWh.

    The gain is the inventory's (`listed_gain_ratio`), else `sensor_gain_ratio`, for the node's own sensor; else that of
    the class; a modelled sum brings its own error (`model_sigma`, W s). A rounded reading errs by resolution /
    sqrt(12). A reading that has seen a part of the time errs by sampling only for the rest of it. What is not known of
    a sensor's class stays null.
    Source: JCGM 100:2008 (GUM), 4.3.7; docs/methodology.md, "Sensors and their errors".
    """
    # By multiplication: polars divides one row by a constant exactly and many by its reciprocal, so the last digit of a
    # day would change with the days that are computed beside it.
    to_kwh = pl.col("multiplicity") * (1 / JOULES_PER_KWH)
    energy = pl.col("integral") * to_kwh
    rounding = pl.col("resolution") * (1 / sqrt(12)) * to_kwh
    seconds = pl.when(pl.col("is_counter")).then(1.0).otherwise("observed_s")
    at_node = pl.coalesce("listed_gain_ratio", pl.lit(sensor_gain_ratio, pl.Float64))
    own = (pl.col("device_id") == "node") & ~pl.col("energy_source").is_in(MODELLED_SOURCES).fill_null(
        value=False
    )
    gain = pl.coalesce(pl.when(own).then(at_node), of_class(classes, GAIN))
    unseen = 1 - of_class(classes, SAMPLED)
    return (
        energy.alias("energy_kwh"),
        pl.coalesce(pl.col("model_sigma") * to_kwh, energy * gain).alias("gain_sigma_kwh"),
        (rounding * seconds).alias("resolution_sigma_kwh"),
        ((pl.col("sampling") * unseen).sqrt() * to_kwh).alias("sampling_sigma_kwh"),
    )
