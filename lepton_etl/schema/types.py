"""Translate a declared table to Delta types, Arrow types, comments and constraints."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Final

import polars as pl
import pyarrow as pa
from deltalake import Field as DeltaField
from deltalake import Schema as DeltaSchema
from deltalake.schema import ArrayType, PrimitiveType

from lepton_etl.schema.declare import (
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    LONG,
    STRING,
    STRINGS,
    TIMESTAMP,
    Field,
    Table,
)
from lepton_etl.schema.fields import FIELDS

_DELTA: Final[dict[str, str]] = {INT: "integer", LONG: "long"}
_ARROW: Final[dict[str, pa.DataType]] = {
    STRING: pa.string(),
    DOUBLE: pa.float64(),
    INT: pa.int32(),
    LONG: pa.int64(),
    BOOLEAN: pa.bool_(),
    TIMESTAMP: pa.timestamp("us", tz="UTC"),
    DATE: pa.date32(),
    STRINGS: pa.list_(pa.string()),
}
CODED: Final = pa.dictionary(pa.int32(), pa.string())
"""Text that repeats itself as it travels."""


def delta_schema(table: Table) -> DeltaSchema:
    """The table's columns as the Delta log says them, in order; comments are the dictionary's."""
    return DeltaSchema(
        [
            DeltaField(
                f.name,
                _delta_type(f.type),
                nullable=f.name not in table.required,
                metadata={"comment": comment(f)},
            )
            for f in table.fields
        ]
    )


def _delta_type(name: str) -> PrimitiveType | ArrayType:
    if name == STRINGS:
        return ArrayType(PrimitiveType("string"), contains_null=True)
    return PrimitiveType(_DELTA.get(name, name))


@cache
def arrow_schema(table: Table) -> pa.Schema:
    """The table's columns as Arrow types, in order; times are microseconds in UTC."""
    return pa.schema([pa.field(f.name, _ARROW[f.type]) for f in table.fields])


def arrow_columns(names: Iterable[str]) -> pa.Schema:
    """Columns of the dictionary as Arrow types, in order."""
    return pa.schema([pa.field(name, _ARROW[FIELDS[name].type]) for name in names])


def arrow_rows(table: Table, frame: pl.DataFrame) -> pa.Table:
    """The frame's rows in the table's columns and types; a frame without rows may lack columns, then there are none."""
    schema = arrow_schema(table)
    found: pa.Table = (
        frame.select(schema.names).to_arrow().cast(schema) if frame.height else schema.empty_table()
    )
    return found


def comment(field: Field) -> str:
    """The description with its unit, as readers of the Delta table see it."""
    return f"{field.description} [{field.unit}]" if field.unit else field.description


def constraint(field: Field) -> str | None:
    """The CHECK expression of a field, or None.

    Both bounds in one expression: NaN is larger than any number in Spark, so only an upper bound refuses it.
    """
    if field.one_of:
        allowed = ", ".join(f"'{value}'" for value in field.one_of)
        return f"{field.name} IS NULL OR {field.name} IN ({allowed})"
    parts = []
    if field.ge is not None:
        parts.append(f"{field.name} >= {field.ge!r}")
    if field.le is not None:
        parts.append(f"{field.name} <= {field.le!r}")
    return f"{field.name} IS NULL OR ({' AND '.join(parts)})" if parts else None


def constraints(table: Table) -> dict[str, str]:
    """Constraint name -> CHECK expression, for every bounded column of the table."""
    found = {f"{field.name}_bounds": constraint(field) for field in table.fields}
    return {name: expression for name, expression in found.items() if expression}
