"""Classes of sensors and their errors: which class a power is from, and what its figures may be wrong by.

The numbers are dated rows of conf/factors/sensor_classes.csv; an inventory that knows a node's sensor better wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Final

import polars as pl

from lepton_etl.fields.words import SENSOR_CLASSES

FACTOR_TABLE: Final = "sensor_classes"
GAIN: Final = "gain_sigma_ratio"
SHARED: Final = "shared_variance_ratio"
SAMPLED: Final = "sampled_ratio"

# What a power source or a component is measured by.
_OF_SOURCE: Final = {
    "outlet_counter": "outlet", "outlet_power": "outlet", "psu_input": "psu", "psu_output": "psu", "bmc": "bmc",
}  # fmt: skip
_OF_DEVICE: Final = {
    "psu_input": "psu", "outlet": "outlet", "cpu": "rapl", "dram": "rapl", "gpu": "gpu_board",
    "chassis_input": "bmc", "fan": "bmc",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SensorClass:
    """Errors of one class of sensors.

    `gain_sigma_ratio` is one standard deviation of the relative gain error (None: a meter, whose class says it);
    `shared_variance_ratio` the part of its variance that all sensors of one make have in common; `sampled_ratio` the
    part of the time that a reading has seen.
    """

    gain_sigma_ratio: float | None
    shared_variance_ratio: float
    sampled_ratio: float


SensorClasses = Mapping[str, SensorClass]


def sensor_classes(look_up: Callable[[str, str], float]) -> dict[str, SensorClass]:
    """Every class by name; `look_up(sensor_class, parameter)` gives a factor or raises MissingFactorError."""
    return {
        name: SensorClass(
            gain_sigma_ratio=None if name == "meter" else look_up(name, GAIN),
            shared_variance_ratio=look_up(name, SHARED),
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
