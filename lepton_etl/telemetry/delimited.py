"""Character-separated text: one row per time (and device), columns mapped by the settings."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import polars as pl

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.assemble import assemble, count_ignored, number_of, value_reason
from lepton_etl.telemetry.blocks import by_lines
from lepton_etl.telemetry.decoded import READING_SCHEMA, REJECT_SCHEMA, Decoded, Origin, only_reject
from lepton_etl.telemetry.specs import ColumnReading, DelimitedSpec, TableSpec
from lepton_etl.telemetry.stamps import MICROSECONDS_PER, UTC_TIME, parse_stamps
from lepton_etl.telemetry.text import Lines, damaged_line, read_lines
from lepton_etl.telemetry.units import conversion, with_value

QUOTE: Final = '"'
NO_TEXT: Final = pl.lit(None, dtype=pl.String)
_CENTURY_US: Final = 100 * 366 * 86_400 * 1e6


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
            return Decoded(READING_SCHEMA.empty_table(), REJECT_SCHEMA.empty_table(), records=0, duplicates=0)
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


def needed_columns(spec: TableSpec) -> list[str]:
    """The columns that a file must have."""
    return [spec.time.column, *spec.identity_columns(), *(reading.column for reading in spec.readings)]


def decode_grid(grid: Grid, lines: Lines, origin: Origin, spec: DelimitedSpec) -> Decoded:
    """Readings and rejects of the cells of a grid; the part that other tabular formats share."""
    needed = needed_columns(spec)
    base = rows_with_identity(grid, origin, spec)
    cells = pl.concat([cells_of(base, grid, reading, spec) for reading in spec.readings])
    empty = cells.get_column("raw_value").str.to_lowercase().is_in(spec.no_value)
    ignored = pl.concat(
        [
            cells.filter(empty).group_by("sensor").agg(pl.len().alias("count")).with_columns(
                pl.lit("no_value").alias("reason")
            ).select("sensor", "reason", pl.col("count").cast(pl.Int64)),
            _unmapped(grid, needed),
        ]
    )  # fmt: skip
    faults = [grid.bad.with_columns(NO_TEXT.alias("sensor"), pl.lit("bad_line").alias("reason"))]
    in_order = cells.filter(~empty).sort("source_position", maintain_order=True)
    return assemble(in_order, faults, count_ignored(ignored), grid.structure_lines, lines, origin)


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


class Columns(Protocol):
    """Rows with `source_position` whose columns can be asked for as text."""

    @property
    def rows(self) -> pl.DataFrame: ...

    def column(self, name: str) -> pl.Expr: ...


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


def cells_of(
    base: pl.DataFrame, grid: Columns, reading: ColumnReading, spec: TableSpec, number: pl.Expr | None = None
) -> pl.DataFrame:
    """One mapped column as cells: the reading columns and `reason`.

    `number` gives the values of a column that holds numbers, not text.
    """
    quantity = QUANTITIES[reading.quantity]
    change = conversion(reading.unit, reading.quantity)
    if change is None:
        raise ValueError(f"unit {reading.unit!r} passed the settings but has no way to {quantity.unit}")
    window = pl.lit(reading.window_s) * pl.when("merged").then(2.0).otherwise(1.0)
    # A stamp at the end of its window stands one (unmerged) window later than its start.
    back = pl.duration(microseconds=round(reading.window_s * 1e6) if spec.time.label == "end" else 0)
    text = grid.column(reading.column).fill_null("")
    given = () if number is None else (number.alias("given"),)
    number = number_of(pl.col("raw_value")) if number is None else pl.col("given")
    if reading.words:
        words = pl.col("raw_value").str.to_lowercase()
        said = words.replace_strict(dict(reading.words), default=None, return_dtype=pl.Float64)
        number = pl.coalesce(said, number)
    cells = base.select(
        "source_position",
        "node_id",
        (pl.lit(reading.device) if reading.device else pl.col("device_id")).alias("device_id"),
        pl.lit(reading.quantity).alias("quantity"),
        pl.lit(reading.statistic).alias("statistic"),
        window.alias("window_s"),
        (pl.col("stamp_time") - back).alias("reading_time"),
        pl.lit(reading.multiplicity, dtype=pl.Int32).alias("multiplicity"),
        pl.lit(reading.point or spec.point, dtype=pl.String).alias("point"),
        pl.lit(reading.column).alias("sensor"),
        text.alias("raw_value"),
        pl.lit(reading.unit).alias("raw_unit"),
        "row_reason",
        pl.lit(change.factor).alias("factor"),
        pl.lit(change.divisor).alias("divisor"),
        pl.lit(change.offset).alias("offset"),
        pl.lit(quantity.ge).alias("low"),
        pl.lit(quantity.le).alias("high"),
        *given,
    ).with_columns(number.alias("number"))
    return (
        with_value(cells)
        .with_columns(pl.coalesce("row_reason", value_reason()).alias("reason"))
        .drop("row_reason", "number", "factor", "divisor", "offset", "low", "high", *("given" for _ in given))
    )


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
