"""Declare fields, quantities and tables: their types, the unit registry, and helpers for fields of a kind."""

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
HOURS_PER_DAY: Final = 24  # of a UTC day
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


_KWH = "kilowatt_hour"
_KG = "kilogram_co2e"
_MAX_KWH = 1e9  # A 40 GW-day; above it is a unit mistake.


def energy(name: str, description: str) -> Field:
    return Field(name, DOUBLE, _KWH, description, ge=0.0, le=_MAX_KWH)


def end_names(name: str) -> tuple[str, str]:
    """The columns of the ends of a figure's 90 % interval: said before its unit, behind an amount of money."""
    stem, _, unit = name.rpartition("_")
    if unit == "cost":
        return f"{name}_lower", f"{name}_upper"
    return f"{stem}_lower_{unit}", f"{stem}_upper_{unit}"


def ratio(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "dimensionless", description, ge=0.0, le=1.0)


def kilograms(name: str, description: str) -> Field:
    return Field(name, DOUBLE, _KG, description, ge=0.0, le=1e12)


def text(name: str, description: str, one_of: tuple[str, ...] = ()) -> Field:
    return Field(name, STRING, None, description, one_of=one_of)


def time(name: str, description: str) -> Field:
    return Field(name, TIMESTAMP, None, description)


def count(name: str, description: str, type_: str = LONG) -> Field:
    return Field(name, type_, None, description, ge=0)


def temperature(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "degree_Celsius", description, ge=-70.0, le=150.0)


def watts(name: str, description: str, top: float = 2e9) -> Field:
    return Field(name, DOUBLE, "watt", description, ge=0.0, le=top)


@dataclass(frozen=True, slots=True)
class Table:
    """A Delta path table `<lake.root>/<name>`.

    `key` makes a row unique (empty: append-only log). A `partition` by date is what `Lake.replace` replaces.
    `warnings` are for the reader of the figures. `log_days`: how far back the Delta log of a table goes that is
    replaced every minute; None: Delta's default.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    owner: str
    partition: str | None = None
    append_only: bool = False
    not_null: tuple[str, ...] = ()
    retention_days: int | None = None
    warnings: tuple[str, ...] = ()
    log_days: int | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        from lepton_etl.schema.fields import (
            fields_of,  # The dictionary is put together from the domains' fields.
        )

        return fields_of(*self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that are never null: the key and what the table adds to it."""
        return tuple(c for c in self.columns if c in self.key or c in self.not_null)

    @property
    def indexed(self) -> tuple[str, ...]:
        """Columns with file statistics: the key, and the times of logs."""
        logged = {
            "reading_time", "reading_date", "file_id", "batch", "quantity", "published_time", "date", "modified_time",
            "last_reading_time",
        }  # fmt: skip
        named = {*self.key, *logged} - {self.partition}
        return tuple(c for c in self.columns if c in named)

    def before(self, column: str) -> tuple[str, ...]:
        """The columns that stand before `column`; a transform that adds it selects them first."""
        return self.columns[: self.columns.index(column)]
