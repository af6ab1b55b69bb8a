"""Character-separated text: one row per time (and device), columns mapped by the settings."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import polars as pl

from lepton_etl.telemetry.assemble import assemble, count_ignored
from lepton_etl.telemetry.blocks import by_lines
from lepton_etl.telemetry.decoded import Decoded, Origin, only_reject
from lepton_etl.telemetry.specs import DelimitedSpec
from lepton_etl.telemetry.tabular import long_cells, needed_columns, rows_with_identity, without_value
from lepton_etl.telemetry.text import Lines, damaged_line, read_lines

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
