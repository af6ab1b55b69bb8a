"""Columns of a table to cells, by the settings: whose a row is, when it was, what each column says."""

from typing import Final, Protocol

import numpy as np
import polars as pl

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.assemble import number_of, value_reason
from lepton_etl.telemetry.decoded import Origin
from lepton_etl.telemetry.specs import ColumnReading, TableSpec
from lepton_etl.telemetry.stamps import MICROSECONDS_PER, UTC_TIME, parse_stamps
from lepton_etl.telemetry.units import conversion, with_value

_CENTURY_US: Final = 100 * 366 * 86_400 * 1e6


def needed_columns(spec: TableSpec) -> list[str]:
    """The columns that a file must have."""
    return [spec.time.column, *spec.identity_columns(), *(reading.column for reading in spec.readings)]


class Columns(Protocol):
    """Rows with `source_position` whose columns can be asked for as text."""

    @property
    def rows(self) -> pl.DataFrame: ...

    def column(self, name: str) -> pl.Expr: ...

    def number(self, name: str) -> pl.Expr | None:
        """The values of a column that holds numbers, not text."""


def rows_with_identity(grid: Columns, origin: Origin, spec: TableSpec) -> pl.DataFrame:
    """The rows of a grid with stamp_time, merged, row_reason, node_id, device_id."""
    path_node = pl.lit(origin.node_id, dtype=pl.String)
    node = path_node if spec.node_id is None else _filled(grid.column(spec.node_id.column))
    device = pl.lit(spec.device_id.value) if spec.device_id.column is None else _filled(
        grid.column(spec.device_id.column)
    )  # fmt: skip
    stamps = _stamps(grid.rows.select(grid.column(spec.time.column)).to_series(), origin, spec)
    rows = grid.rows.with_columns(node.alias("node_id"), device.alias("device_id"))
    rows = pl.concat([rows, stamps.rename({"time": "stamp_time", "reason": "row_reason"})], how="horizontal")
    no_node = pl.col("node_id").is_null() & pl.lit(spec.node_id is not None)
    nameless = (
        pl.when(no_node).then(pl.lit("empty_node_id"))
        .when(pl.col("device_id").is_null()).then(pl.lit("empty_device_id"))
    )  # fmt: skip
    return rows.with_columns(pl.coalesce("row_reason", nameless).alias("row_reason"))


def _stamps(texts: pl.Series, origin: Origin, spec: TableSpec) -> pl.DataFrame:
    """time, reason and merged of the time column; see `parse_stamps`."""
    time = spec.time
    zone = spec.timezone or origin.timezone
    if time.elapsed is None:
        return parse_stamps(
            texts, timezone=zone, format=time.format, epoch=time.epoch, ambiguous=time.ambiguous
        )
    micros = number_of(pl.col("text")) * MICROSECONDS_PER[time.elapsed]
    start = pl.lit(origin.path_time, dtype=UTC_TIME)
    # Beyond a century the sum is no date; so is what is no finite number.
    since = (
        pl.when(micros.is_finite() & (micros.abs() < _CENTURY_US))
        .then(micros)
        .round()
        .cast(pl.Duration("us"))
    )
    unusable = pl.lit("no_time" if origin.path_time is None else "bad_time")
    return pl.DataFrame({"text": texts}).select(
        (start + since).alias("time"),
        pl.when((start + since).is_null()).then(unusable).alias("reason"),
        pl.lit(False).alias("merged"),
    )


def _filled(cell: pl.Expr) -> pl.Expr:
    return pl.when(cell != "").then(cell)


def long_cells(base: pl.DataFrame, grid: Columns, spec: TableSpec) -> pl.DataFrame:
    """Every mapped cell, one column of the table after the other: the reading columns and `reason`.

    `base` is `rows_with_identity` of the grid.
    """
    texts = [base.select(grid.column(reading.column)).to_series() for reading in spec.readings]
    numbers = [
        _numbers(base, grid, reading, text) for reading, text in zip(spec.readings, texts, strict=True)
    ]
    rows = base.select("source_position", "node_id", "device_id", "stamp_time", "merged", "row_reason")
    cells = pl.concat(
        [
            pl.concat([rows] * len(spec.readings), rechunk=True),
            _meaning(spec)[np.repeat(np.arange(len(spec.readings)), base.height)],
            pl.DataFrame({"raw_value": pl.concat(texts).fill_null(""), "number": pl.concat(numbers)}),
        ],
        how="horizontal",
    )
    return (
        with_value(cells)
        .with_columns(
            pl.coalesce("own_device", "device_id").alias("device_id"),
            (pl.col("stamp_time") - pl.duration(microseconds="back_us")).alias("reading_time"),
            (pl.col("window_s") * pl.when("merged").then(2.0).otherwise(1.0)).alias("window_s"),
            pl.coalesce("row_reason", value_reason()).alias("reason"),
        )
        .drop(
            "row_reason", "number", "factor", "divisor", "offset", "low", "high", "own_device", "stamp_time", "merged",
            "back_us",
        )
    )  # fmt: skip


def _meaning(spec: TableSpec) -> pl.DataFrame:
    """What each mapped column says, a row a column."""
    rows = []
    for reading in spec.readings:
        quantity = QUANTITIES[reading.quantity]
        change = conversion(reading.unit, reading.quantity)
        if change is None:
            raise ValueError(f"unit {reading.unit!r} passed the settings but has no way to {quantity.unit}")
        # A stamp at the end of its window stands one (unmerged) window later than its start.
        back_us = round(reading.window_s * 1e6) if spec.time.label == "end" else 0
        rows.append(
            (reading.device, reading.quantity, reading.statistic, reading.window_s, back_us, reading.multiplicity,
             reading.point or spec.point, reading.column, reading.unit, change.factor, change.divisor, change.offset,
             quantity.ge, quantity.le)
        )  # fmt: skip
    schema = {
        "own_device": pl.String, "quantity": pl.String, "statistic": pl.String, "window_s": pl.Float64,
        "back_us": pl.Int64, "multiplicity": pl.Int32, "point": pl.String, "sensor": pl.String, "raw_unit": pl.String,
        "factor": pl.Float64, "divisor": pl.Float64, "offset": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _numbers(base: pl.DataFrame, grid: Columns, reading: ColumnReading, texts: pl.Series) -> pl.Series:
    """The numbers of one column: its own, those of its texts, or what its words stand for."""
    own = grid.number(reading.column)
    if own is not None:
        return base.select(own.alias("number")).to_series()
    frame = pl.DataFrame({"text": texts})
    number = number_of(pl.col("text"))
    if reading.words:
        words = pl.col("text").str.to_lowercase()
        said = words.replace_strict(dict(reading.words), default=None, return_dtype=pl.Float64)
        number = pl.coalesce(said, number)
    return frame.select(number.alias("number")).to_series()


def without_value(cells: pl.DataFrame, no_value: tuple[str, ...]) -> pl.Series:
    """Whether a cell holds one of the texts, in lower case, that stand for no value."""
    texts = cells.get_column("raw_value")
    return texts.is_in(["", *no_value]) if set(no_value) <= {""} else texts.str.to_lowercase().is_in(no_value)
