"""Character-separated text: one row per time (and device), columns mapped by the settings.

- Columns of a table to cells, by the settings: whose a row is, when it was, what each column says.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import polars as pl

from lepton_etl.ingest.decoded import (
    Decoded,
    Lines,
    Origin,
    assemble,
    count_ignored,
    damaged_line,
    number_of,
    only_reject,
    read_lines,
    value_reason,
)
from lepton_etl.ingest.specs import ColumnReading, DelimitedSpec, TableSpec
from lepton_etl.ingest.text import by_lines
from lepton_etl.ingest.units import MICROSECONDS_PER, UTC_TIME, conversion, parse_stamps, with_value
from lepton_etl.schema.common import QUANTITIES

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


QUOTE: Final = '"'
NO_TEXT: Final = pl.lit(None, dtype=pl.String)


@dataclass(frozen=True)
class Grid:
    """A delimited file cut into cells: one row a data line, columns by header name."""

    header: list[str]
    header_position: int
    rows: pl.DataFrame
    """source_position and cells (a list of strings), of data lines with as many cells as the header."""
    bad: pl.DataFrame
    """source_position of lines that are neither data nor structure."""
    structure_lines: int

    def column(self, name: str) -> pl.Expr:
        """The cells of one column, blanks around them cut off."""
        return pl.col("cells").list.get(self.header.index(name), null_on_oob=True).str.strip_chars()

    def number(self, name: str) -> None:
        """All columns are text here."""


class Decoder:
    """Readings and rejects of one delimited file with a header line, block after block.

    A record is one cell of a mapped column, or a cell with text of any other column (ignored, unmapped) except the
    identity and time columns. A line with too few or too many cells is one bad_line. A file that lacks a mapped
    column is one reject, missing_column. Numbers have a decimal point.

    `mapped` gives the mapping of a file's very header, for publishers whose names vary.
    """

    def __init__(
        self,
        origin: Origin,
        spec: DelimitedSpec,
        mapped: Callable[[list[str]], DelimitedSpec] | None = None,
    ) -> None:
        self._origin = origin
        self._spec = spec
        self._mapped = mapped
        self._lines_before = 0
        self._header: list[str] | None = None
        self._refused = False

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        lines = read_lines(block, self._lines_before)
        self._lines_before = lines.following
        if self._refused:
            # One reject has named the whole file.
            return Decoded.merge([])
        grid = cut(lines, self._spec.delimiter, self._spec.footers, self._header)
        if grid is None:
            self._refused = True
            return only_reject("missing_column", f"{self._origin.path}: the file has no header line")
        if self._header is None:
            self._header = grid.header
            if self._mapped is not None:
                self._spec = self._mapped(grid.header)
            refused = _unusable_header(grid, self._spec)
            if refused is not None:
                self._refused = True
                return refused
        return decode_grid(grid, lines, self._origin, self._spec)


def _unusable_header(grid: Grid, spec: DelimitedSpec) -> Decoded | None:
    """The one reject of a file whose header lacks a mapped column or has it twice."""
    for name in needed_columns(spec):
        if grid.header.count(name) != 1:
            reason = "ambiguous_column" if name in grid.header else "missing_column"
            return only_reject(reason, f"{name!r} in header {grid.header}", grid.header_position, sensor=name)
    return None


def decode_grid(grid: Grid, lines: Lines, origin: Origin, spec: DelimitedSpec) -> Decoded:
    """Readings and rejects of the cells of a grid; the part that other tabular formats share."""
    needed = needed_columns(spec)
    base = rows_with_identity(grid, origin, spec)
    cells = long_cells(base, grid, spec)
    empty = without_value(cells, spec.no_value)
    ignored = pl.concat(
        [
            cells.filter(empty).group_by("sensor").agg(pl.len().alias("count")).with_columns(
                pl.lit("no_value").alias("reason")
            ).select("sensor", "reason", pl.col("count").cast(pl.Int64)),
            _unmapped(grid, needed),
        ]
    )  # fmt: skip
    faults = [grid.bad.with_columns(NO_TEXT.alias("sensor"), pl.lit("bad_line").alias("reason"))]
    there = cells.filter(~empty) if empty.any() else cells
    return assemble(there, faults, count_ignored(ignored), grid.structure_lines, lines, origin)


def cut(
    lines: Lines, delimiter: str, footers: tuple[str, ...] = (), header: list[str] | None = None
) -> Grid | None:
    """Header, data lines and the rest; None if there is no header line.

    `header` is the file's, where an earlier block held it.
    """
    frame = pl.DataFrame({"line": lines.series()}).with_row_index(
        "source_position", offset=lines.first_position
    )
    frame = frame.with_columns(pl.col("source_position").cast(pl.Int64))
    footer = f"^(?:{'|'.join(footers)})$" if footers else "^$"
    stripped = pl.col("line").str.strip_chars()
    structure = (stripped == "") | stripped.str.contains(footer)
    content = frame.filter(~structure)
    header_position, headers = lines.first_position, 0
    if header is None:
        if content.is_empty():
            return None
        header_position, header_line = content.row(0)
        header = [cell.strip() for cell in _split_quoted(header_line, delimiter) or []]
        headers = 1
    rows = content.slice(headers).with_columns(_cells(delimiter))
    quoted = rows.filter(pl.col("line").str.contains(QUOTE, literal=True))
    if quoted.height:
        rows = _with_quotes(rows, quoted, delimiter)
    fits = pl.col("cells").list.len() == len(header)
    if lines.damaged:
        fits = fits & ~damaged_line(pl.col("line"))
    fits = fits.fill_null(False)
    return Grid(
        header=header,
        header_position=int(header_position),
        rows=rows.filter(fits).select("source_position", "cells"),
        bad=rows.filter(~fits).select("source_position"),
        structure_lines=frame.height - content.height + headers,
    )


def _cells(delimiter: str) -> pl.Expr:
    return pl.col("line").str.split(delimiter).alias("cells")


def _with_quotes(rows: pl.DataFrame, quoted: pl.DataFrame, delimiter: str) -> pl.DataFrame:
    """Cells of lines with quotes by the csv module; the only lines that are read one by one."""
    cells = [_split_quoted(line, delimiter) for line in quoted.get_column("line").to_list()]
    read = quoted.select("source_position").with_columns(pl.Series("read", cells, dtype=pl.List(pl.String)))
    has_quote = pl.col("line").str.contains(QUOTE, literal=True)
    return rows.join(read, on="source_position", how="left", maintain_order="left").with_columns(
        pl.when(has_quote).then("read").otherwise("cells").alias("cells")
    )


def _split_quoted(line: str, delimiter: str) -> list[str] | None:
    """The cells of one line; None if its quotes do not close (a quoted line break is not supported)."""
    if QUOTE not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None


def _unmapped(grid: Grid, needed: list[str]) -> pl.DataFrame:
    """sensor, reason, count: cells with text in columns that the settings do not name."""
    extra = [name for name in grid.header if name not in needed]
    by_index = [
        (pl.col("cells").list.get(index, null_on_oob=True).str.strip_chars() != "").sum().alias(str(index))
        for index, name in enumerate(grid.header)
        if name not in needed
    ]
    counts = list(zip(extra, grid.rows.select(by_index).row(0) if by_index else (), strict=True))
    frame = pl.DataFrame(counts, schema={"sensor": pl.String, "count": pl.Int64}, orient="row")
    return frame.select("sensor", pl.lit("unmapped").alias("reason"), "count")


read = by_lines(Decoder)
