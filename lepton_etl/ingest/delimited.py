"""Tables with named columns: one row a time (and device), columns mapped to quantities by the settings.

Character-separated text is read here; `parquet` and the grid's formats share the settings and the mapping.
"""

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lepton_etl.ingest.decoded import (
    REJECT_SCHEMA,
    Decoded,
    Ignored,
    Lines,
    Origin,
    assemble,
    assembled,
    coded_readings,
    count_ignored,
    damaged_line,
    number_of,
    only_reject,
    repeated,
    value_reason,
)
from lepton_etl.ingest.registry import LogFormat, log_format, setting
from lepton_etl.ingest.sensors import MEANING, ColumnPattern, Statistic, meaning
from lepton_etl.ingest.text import drain, numbered_lines
from lepton_etl.ingest.units import (
    MICROSECONDS_PER,
    UTC_TIME,
    Ambiguous,
    EpochUnit,
    Zone,
    conversion,
    parse_stamps,
    says_a_day,
    with_value,
)
from lepton_etl.schema.common import QUANTITIES
from lepton_etl.schema.types import CODED

FOOTERS_OF_SQL_SERVER: Final = (r"\(\d+ rows? affected\)", r"Completion time: .*")
_CENTURY_US: Final = 100 * 366 * 86_400 * 1e6
QUOTE: Final = '"'
WHITESPACE: Final = "whitespace"
# The longest head of a data log that was seen has 14 lines.
MAX_PREAMBLE_LINES: Final = 200
NO_VALUE: Final = ("", "nan", "null", "none", "n/a", "na", "-", "--")
# Columns of rows: the cells of a column as text, and of one that holds numbers as these.
TEXT: Final = "text of "
NUMBER: Final = "number of "


class Part(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(Part):
    """A column by its name in the header."""

    column: str = Field(min_length=1)


class ColumnOrValue(Part):
    """A column, or one value for the whole source."""

    column: str | None = Field(default=None, min_length=1)
    value: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either column or value")
        return self


class TimeColumn(Part):
    """Where the stamp stands and how it is written."""

    column: str = setting("", "Column of the stamp.")
    columns: tuple[str, ...] = setting(
        (), "Columns whose texts, joined by a blank, are the stamp (a date and a time); in place of `column`."
    )
    format: str | None = setting(None, "chrono format as polars takes it; without it and `epoch`: ISO 8601.")
    epoch: EpochUnit | None = setting(None, "Unit of a stamp counted from 1970-01-01 UTC.")
    elapsed: EpochUnit | None = setting(None, "Unit of a stamp counted from the time that the path names.")
    label: Literal["start", "end"] = setting("start", "Which end of its window a stamp names.")
    ambiguous: Ambiguous = setting(
        "reject",
        "The local hour that happens twice: `reject` its rows, or `merged` where one row is the window of "
        "both hours (definitions.md section 9).",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that a file must have for it."""
        return self.columns or (self.column,)

    @property
    def key(self) -> str:
        """What the stamp's texts are called."""
        return " ".join(self.names)

    @model_validator(mode="before")
    @classmethod
    def _list_of_columns(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("column"), list):
            return {
                **{key: value for key, value in given.items() if key != "column"},
                "columns": given["column"],
            }
        return given

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.column == "") == (not self.columns) or "" in self.columns:
            raise ValueError("give either column or columns")
        if self.elapsed is not None and self.columns:
            raise ValueError("seconds elapsed stand in one column")
        if sum(given is not None for given in (self.format, self.epoch, self.elapsed)) > 1:
            raise ValueError("give one of format, epoch and elapsed")
        if self.format is not None and not says_a_day(self.format):
            raise ValueError(f"format {self.format!r} does not give back the day that it writes")
        return self


class ColumnReading(Column):
    """One column that holds a quantity."""

    occurrence: int | None = setting(
        None, "Which of several columns of this name, from 1; null: the name must be there once.", ge=1
    )
    quantity: str
    unit: str = Field(
        description="Unit of the column, in pint's names (W, kW, degC, percent, ratio, kWh, g/kWh)."
    )
    statistic: Statistic = "instant"
    window_s: float = setting(0.0, "Window of a mean, min or max.", ge=0.0, allow_inf_nan=False)
    multiplicity: int = setting(1, "How many devices one shared mean stands for.", ge=1)
    point: str | None = setting(None, "Where a power is taken; null takes the source's.")
    device: str | None = setting(None, "Device of this column; null takes the source's.")
    words: Mapping[str, float] = Field(
        default_factory=dict, description="Words (lower case) that stand for numbers."
    )

    @property
    def key(self) -> str:
        """What the column is called where its name repeats: the name, and its place among them from the second on."""
        return _numbered(self.column, self.occurrence or 1)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity {self.quantity!r} is not in the field dictionary")
        if conversion(self.unit, self.quantity) is None:
            raise ValueError(f"unit {self.unit!r} cannot be brought to {QUANTITIES[self.quantity].unit}")
        if (self.window_s > 0) != (self.statistic in ("mean", "min", "max")):
            raise ValueError("window_s belongs to mean, min and max, and to these always")
        return self


def _numbered(name: str, occurrence: int) -> str:
    return name if occurrence == 1 else f"{name} ({occurrence})"


class Table(LogFormat):
    """A table with named columns: one row per time (and device), columns mapped to quantities."""

    timezone: Zone | None = setting(
        None, "Zone of stamps that carry none; null takes the origin's, the source's or site's."
    )
    time: TimeColumn
    node_id: Column | None = setting(None, "Column of the node; null takes the path's, if any.")
    device_id: ColumnOrValue = ColumnOrValue(value="node")
    point: str | None = None
    readings: tuple[ColumnReading, ...] = Field(min_length=1)
    no_value: tuple[str, ...] = setting(NO_VALUE, "Texts, in lower case, of a cell without a value.")
    decimal: Literal[".", ","] = setting(".", "Decimal mark of numbers written as text.")
    thousands: Literal[",", ".", " ", "'"] | None = setting(None, "Mark between groups of three digits.")

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError("decimal and thousands are one mark")
        for reading in self.readings:
            if self.needed.count(reading.key) > 1:
                raise ValueError(f"column {reading.key!r} is mapped twice")
        return self

    def identity_columns(self) -> list[str]:
        """Return the columns that say whose a row is."""
        named = (self.node_id.column if self.node_id else None, self.device_id.column)
        return [name for name in named if name is not None]

    @property
    def needed(self) -> list[str]:
        """The columns that a file must have, by their keys."""
        return [*self.time.names, *self.identity_columns(), *(reading.key for reading in self.readings)]

    def lacking(self, header: list[str]) -> tuple[str, str] | None:
        """Return the first column that a header lacks or has too often, and the reason of the reject; else None."""
        wanted: list[tuple[str, int | None]] = [
            *((name, None) for name in (*self.time.names, *self.identity_columns())),
            *((reading.column, reading.occurrence) for reading in self.readings),
        ]
        for name, occurrence in wanted:
            there = header.count(name)
            if there < (occurrence or 1):
                return name, "missing_column"
            if there > 1 and occurrence is None:
                return name, "ambiguous_column"
        return None


@log_format
class Delimited(Table):
    """Character-separated text with a header line."""

    format: Literal["delimited"] = "delimited"
    followed_by = "lines below a header"
    delimiter: str = setting(
        ",",
        "One character between cells, or `whitespace`: any number of blanks.",
        pattern=r"^(?:[^\"\r\n]|whitespace)$",
    )
    footers: tuple[ColumnPattern, ...] = setting(
        FOOTERS_OF_SQL_SERVER, "Regular expressions of whole lines that are no data, such as a row count."
    )

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode a file with a header line; a record is a cell, as `read_delimited` says."""
        return read_delimited(chunks, origin, self)


def read_delimited(
    chunks: Iterable[bytes],
    origin: Origin,
    settings: Delimited,
    columns_of: Callable[[list[str]], Delimited] | None = None,
) -> Iterator[Decoded]:
    """Decode one delimited file, block after block.

    A record is one cell of a mapped column, or a cell with text of any other column (ignored, unmapped) except the
    identity and time columns. The header is the first line that has all mapped columns; what stands before it is
    structure. A line with too few or too many cells is one bad_line, empty ones at its end apart. A file that lacks a
    mapped column is one reject, missing_column. `columns_of` gives the mapping of a file's very header, for publishers
    whose names vary.
    """
    given = settings

    def has_all(names: list[str]) -> bool:
        return (given if columns_of is None else columns_of(names)).lacking(names) is None

    header: list[str] | None = None
    blocks = numbered_lines(chunks)
    for lines in blocks:
        plain = _plain_block(lines, header, origin, settings) if columns_of is None else None
        if plain is not None:
            header, decoded = plain
            yield decoded
            continue
        grid = cut(lines, settings.delimiter, settings.footers, header, has_all)
        if grid is None:
            drain(blocks)
            yield only_reject("missing_column", f"{origin.path}: the file has no header line")
            return
        if header is None:
            header = grid.header
            settings = settings if columns_of is None else columns_of(header)
            wrong = settings.lacking(header)
            if wrong is not None:
                drain(blocks)
                name, reason = wrong
                which = "say which by `occurrence`: " if reason == "ambiguous_column" else ""
                text = f"{which}{name!r} in header {header}, cut at {settings.delimiter!r}"
                yield only_reject(reason, text, grid.header_position, sensor=name)
                return
        yield _decoded(grid, lines, origin, settings)


def _plain_block(
    lines: Lines, header: list[str] | None, origin: Origin, settings: Delimited
) -> tuple[list[str], Decoded] | None:
    """Return the header, and of a block that holds lines of data alone below it what `_decoded` gives; else None."""
    if lines.damaged or settings.footers != FOOTERS_OF_SQL_SERVER or len(settings.delimiter.encode()) > 1:
        return None
    before = 0
    if header is None:
        head = replace(lines, array=lines.array.slice(0, MAX_PREAMBLE_LINES))
        grid = cut(head, settings.delimiter, is_header=lambda names: settings.lacking(names) is None)
        if grid is None or settings.lacking(grid.header) is not None:
            return None
        header, before = grid.header, grid.header_position - lines.first_position + 1
    _, offsets, data = lines.array.buffers()
    text = data.slice(int(np.frombuffer(offsets, np.int64)[before])).to_pybytes()
    keys, stamps = _keys(header), settings.time.names
    if not text or QUOTE.encode() in text or len(set(keys)) < len(keys):
        return None
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(text),
            arrow_csv.ReadOptions(use_threads=False, block_size=len(text), column_names=keys),
            arrow_csv.ParseOptions(delimiter=settings.delimiter, quote_char=False),
            arrow_csv.ConvertOptions(
                check_utf8=False,
                column_types={name: pa.string() if name in stamps else CODED for name in keys},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:  # A line of another number of cells.
        return None
    position = pl.int_range(lines.first_position + before, lines.following, eager=True).alias(
        "source_position"
    )
    if table.num_rows != len(position):
        return None
    words = {
        name: Words.of(table[name].combine_chunks(), lambda texts: texts)
        for name in keys
        if name not in stamps
    }
    every_text = pl.concat([one.texts for one in words.values()])
    if (every_text.str.strip_chars() != every_text).any():
        return None
    whose = dict.fromkeys((*stamps, *settings.identity_columns()))
    rows = pl.DataFrame(
        [
            position,
            *(pl.Series(TEXT + name, table[name].cast(pa.string())).str.strip_chars() for name in whose),
        ]
    )
    if settings.time.columns:
        stamp = pl.concat_str([TEXT + name for name in stamps], separator=" ")
        rows = rows.with_columns(stamp.alias(TEXT + settings.time.key))
    named = named_rows(rows, stamps_of(rows, origin, settings), origin, settings)
    found = plain_readings(words, named, settings.no_value, origin, settings)
    if found is None:
        return None
    readings, ignored = found
    for name in set(words) - set(settings.needed):
        filled = int(np.count_nonzero((words[name].texts != "").to_numpy()[words[name].codes]))
        if filled:
            ignored[name, "unmapped"] = filled
    return header, assembled(readings, 0, REJECT_SCHEMA.empty_table(), ignored, before)


def _decoded(grid: "Grid", lines: Lines, origin: Origin, settings: Delimited) -> Decoded:
    """Return readings and rejects of the cells of one block."""
    needed = settings.needed
    rows = grid.rows.select("source_position", *(grid.column(name).alias(TEXT + name) for name in needed))
    if settings.time.columns:
        stamp = pl.concat_str([TEXT + name for name in settings.time.columns], separator=" ")
        rows = rows.with_columns(stamp.alias(TEXT + settings.time.key))
    cells = mapped_cells(rows, origin, settings)
    empty = without_value(cells, settings.no_value)
    ignored = count_ignored(cells.filter(empty).get_column("sensor"), "no_value") | _unmapped(grid, needed)
    faults = [grid.bad.with_columns(reason=pl.lit("bad_line"))]
    valued = cells.filter(~empty) if empty.any() else cells
    return assemble(valued, faults, ignored, grid.structure_lines, lines, origin)


def mapped_cells(rows: pl.DataFrame, origin: Origin, settings: Table) -> pl.DataFrame:
    """Return every mapped cell, one column of the table after the other: the reading columns and `reason`.

    `rows` has `source_position`, and as TEXT (and where they are numbers NUMBER) the needed columns.
    """
    named = named_rows(rows, stamps_of(rows, origin, settings), origin, settings)
    count = len(settings.readings)
    texts = [rows.get_column(TEXT + reading.key) for reading in settings.readings]
    numbers = [_numbers(rows, reading, settings) for reading in settings.readings]
    cells = pl.concat(
        [
            pl.concat([named] * count, rechunk=True),
            _meaning(settings)[np.repeat(np.arange(count), named.height)],
            pl.DataFrame({"raw_value": pl.concat(texts).fill_null(""), "number": pl.concat(numbers)}),
        ],
        how="horizontal",
    )
    return with_value(cells).select(
        "source_position", "node_id", "quantity", "statistic", "multiplicity", "point", "sensor", "raw_unit",
        "raw_value", "value",
        pl.coalesce("own_device", "device_id").alias("device_id"),
        (pl.col("stamp_time") - pl.duration(microseconds="back_us")).alias("reading_time"),
        (pl.col("window_s") * pl.when("merged").then(2.0).otherwise(1.0)).alias("window_s"),
        pl.coalesce("row_reason", value_reason()).alias("reason"),
    )  # fmt: skip


def named_rows(rows: pl.DataFrame, stamps: pl.DataFrame, origin: Origin, settings: Table) -> pl.DataFrame:
    """Return whose each row is, and when: source_position, node_id, device_id, stamp_time, row_reason, merged."""
    filled = {
        name: pl.when(pl.col(TEXT + name) != "").then(pl.col(TEXT + name))
        for name in settings.identity_columns()
    }
    node, device = settings.node_id, settings.device_id
    no_node = pl.col("node_id").is_null() & pl.lit(node is not None)
    no_device = pl.when(pl.col("device_id").is_null()).then(pl.lit("empty_device_id"))
    named = rows.select(
        "source_position",
        (filled[node.column] if node else pl.lit(origin.node_id, dtype=pl.String)).alias("node_id"),
        (filled[device.column] if device.column else pl.lit(device.value)).alias("device_id"),
    )
    return pl.concat([named, stamps], how="horizontal").with_columns(
        pl.coalesce("row_reason", pl.when(no_node).then(pl.lit("empty_node_id")), no_device).alias(
            "row_reason"
        )
    )


@dataclass(frozen=True)
class Words:
    """The cells of one column by their distinct texts: sensors repeat themselves, and a text is understood once."""

    codes: npt.NDArray[np.int32]
    """Place of each row's text."""
    texts: pl.Series
    numbers: pl.Series | None = None
    """What a column of numbers holds, a number a text; null: the texts say it."""

    @classmethod
    def of(
        cls, coded: pa.DictionaryArray, text: Callable[[pa.Array], pa.Array], *, numeric: bool = False
    ) -> Self:
        """Return a dictionary's words, `text` of its values; a null is the empty text."""
        values, codes = coded.dictionary, coded.indices.cast(pa.int32())
        if coded.null_count:
            codes = codes.fill_null(len(values))
            values = pa.concat_arrays([values, pa.nulls(1, values.type)])
        texts = pl.Series("text", text(values), dtype=pl.String)
        if texts.null_count():
            texts = texts.fill_null("")
        numbers = pl.Series("number", pc.cast(values, pa.float64(), safe=False)) if numeric else None
        return cls(np.asarray(np.from_dlpack(codes), dtype=np.int32), texts, numbers)


def plain_readings(
    columns: Mapping[str, Words],
    named: pl.DataFrame,
    no_value: tuple[str, ...],
    origin: Origin,
    settings: Table,
) -> tuple[pa.Table, Ignored] | None:
    """Return the readings of mapped columns, names and texts as dictionaries, and the cells without a value.

    They are what `mapped_cells` and `assemble` give where no cell is refused or repeated, as in nearly all blocks; else
    None. `named` has source_position, node_id, device_id, stamp_time, row_reason and merged of each row, `columns` the
    cells of each reading by its key.
    """
    readings, meanings = settings.readings, _meaning(settings)
    # A reading's own device goes before the one for the whole source; null where a column says it.
    devices = [reading.device or settings.device_id.value for reading in readings]
    words = [columns[reading.key] for reading in readings]
    sizes = [len(one.texts) for one in words]
    said = pl.concat([one.texts for one in words]).alias("raw_value")
    if any(reading.words or one.numbers is not None for reading, one in zip(readings, words, strict=True)):
        numbers = pl.concat(
            _numbers(pl.DataFrame({TEXT + reading.key: one.texts}), reading, settings)
            if one.numbers is None
            else one.numbers
            for reading, one in zip(readings, words, strict=True)
        )
    else:
        number = number_of(_with_point(pl.col("raw_value"), settings.decimal, settings.thousands))
        numbers = said.to_frame().select(number).to_series()
    meant = with_value(
        meanings[np.repeat(np.arange(len(readings)), sizes)].with_columns(numbers.alias("number"), said)
    ).with_columns(value_reason().alias("reason"))
    empty = without_value(meant, no_value)
    if (
        meant.filter(~empty).get_column("reason").count()
        or not _are_certain(named, devices, origin, settings)
        # Parquet's writer takes each word of a dictionary once.
        or any(one.texts.n_unique() < len(one.texts) for one in words)
    ):
        return None
    value, is_empty = meant.get_column("value").to_numpy(), empty.to_numpy()
    first = np.cumsum([0, *sizes])
    rows: list[npt.NDArray[np.int64]] = []
    values, texts = [], []
    ignored: Ignored = {}
    every = np.arange(named.height)
    for reading, one, start, end in zip(readings, words, first[:-1], first[1:], strict=True):
        codes, kept = one.codes, every
        if is_empty[start:end].any():
            kept = np.flatnonzero(~is_empty[start:end][codes])
            codes = codes[kept]
            if len(kept) < named.height:
                ignored[reading.key, "no_value"] = named.height - len(kept)
        rows.append(kept)
        values.append(value[start:end][codes])
        texts.append(pa.DictionaryArray.from_arrays(pa.array(codes), one.texts.to_arrow().cast(pa.string())))
    counts = [len(kept) for kept in rows]
    of_column = pa.array(np.repeat(np.arange(len(readings), dtype=np.int32), counts))
    of_row = np.concatenate(rows)
    shift_us = np.repeat(meanings.get_column("back_us").to_numpy(), counts)
    time_us = named.get_column("stamp_time").to_physical().to_numpy()[of_row] - shift_us
    of_rows = {
        name: repeated(named.get_column(name).to_arrow(), pa.array(of_row))
        for name in ("node_id", *(["device_id"] if None in devices else []))
    }
    table = coded_readings(
        {
            name: repeated(meanings.get_column(name).to_arrow(), of_column)
            for name in ("quantity", "statistic", "point", "sensor", "raw_unit")
        }
        | {"device_id": repeated(pa.array(devices, pa.string()), of_column)}
        | of_rows
        | {
            "value": pa.array(np.concatenate(values)),
            "window_s": pa.array(np.repeat(meanings.get_column("window_s").to_numpy(), counts)),
            "reading_time": pa.array(time_us).cast(pa.timestamp("us", "UTC")),
            "multiplicity": pa.array(np.repeat(meanings.get_column("multiplicity").to_numpy(), counts)),
            "raw_value": pa.chunked_array(texts),
            "source_position": pa.array(named.get_column("source_position").to_numpy()[of_row]),
        }
    )
    return table, ignored


def _are_certain(named: pl.DataFrame, devices: Sequence[str | None], origin: Origin, settings: Table) -> bool:
    """Return whether every row has its time, node and device, and no two rows the same."""
    time = named.get_column("stamp_time")
    first, last = time.min(), time.max()
    if (
        named.get_column("row_reason").count()
        or named.get_column("merged").any()
        or (None in devices and any(devices))
        or not isinstance(first, datetime)
        or not isinstance(last, datetime)
    ):
        return False
    back_us = [round(r.window_s * 1e6) if settings.time.label == "end" else 0 for r in settings.readings]
    earliest, latest = (
        first - timedelta(microseconds=max(back_us)),
        last - timedelta(microseconds=min(back_us)),
    )
    if not (origin.earliest <= earliest and latest < origin.latest):
        return False
    whose = ["stamp_time", *(["node_id"] if settings.node_id else [])]
    if None in devices:
        whose.append("device_id")
    return named.select(whose).hash_rows().n_unique() == named.height


def stamps_of(rows: pl.DataFrame, origin: Origin, settings: Table) -> pl.DataFrame:
    """Return stamp_time, row_reason and merged of the time column; see `parse_stamps`."""
    time = settings.time
    texts = rows.get_column(TEXT + time.key)
    if time.elapsed is None:
        zone = settings.timezone or origin.timezone
        stamps = parse_stamps(
            texts, timezone=zone, format=time.format, epoch=time.epoch, ambiguous=time.ambiguous
        )
        return stamps.rename({"time": "stamp_time", "reason": "row_reason"})
    micros = number_of(pl.col("text")) * MICROSECONDS_PER[time.elapsed]
    # Beyond a century the sum is no date; so is what is no finite number.
    sane = micros.is_finite() & (micros.abs() < _CENTURY_US)
    stamp = pl.lit(origin.path_time, dtype=UTC_TIME) + pl.when(sane).then(micros).round().cast(
        pl.Duration("us")
    )
    unusable = pl.lit("no_time" if origin.path_time is None else "bad_time")
    return pl.DataFrame({"text": texts}).select(
        stamp.alias("stamp_time"),
        pl.when(stamp.is_null()).then(unusable).alias("row_reason"),
        pl.lit(False).alias("merged"),
    )


def _meaning(settings: Table) -> pl.DataFrame:
    """Return what each mapped column says, a row a column."""
    rows = [
        (
            reading.key, reading.device, reading.window_s,
            # A stamp at the end of its window stands one (unmerged) window later than its start.
            round(reading.window_s * 1e6) if settings.time.label == "end" else 0,
            reading.multiplicity,
            *meaning(
                reading.quantity, reading.statistic, reading.point or settings.point, reading.unit,
                conversion(reading.unit, reading.quantity),
            ),
        )
        for reading in settings.readings
    ]  # fmt: skip
    own = {"sensor": pl.String, "own_device": pl.String, "window_s": pl.Float64, "back_us": pl.Int64}
    return pl.DataFrame(rows, schema={**own, "multiplicity": pl.Int32, **MEANING}, orient="row")


def _numbers(rows: pl.DataFrame, reading: ColumnReading, settings: Table) -> pl.Series:
    """Return the numbers of one column: its own, those of its texts, or what its words stand for."""
    if NUMBER + reading.key in rows.columns:
        return rows.get_column(NUMBER + reading.key).alias("number")
    text = pl.col(TEXT + reading.key)
    number = number_of(_with_point(text, settings.decimal, settings.thousands))
    if reading.words:
        meant = text.str.to_lowercase().replace_strict(
            dict(reading.words), default=None, return_dtype=pl.Float64
        )
        number = pl.coalesce(meant, number)
    return rows.select(number.alias("number")).to_series()


def _with_point(text: pl.Expr, decimal: str, thousands: str | None) -> pl.Expr:
    """Return texts of numbers with a decimal point and without groups; null where the marks stand elsewhere."""
    if decimal == "." and thousands is None:
        return text
    mark = re.escape(decimal)
    groups = rf"|\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+" if thousands else ""
    fits = text.str.contains(
        rf"^[+-]?(?:\d+{groups}|)(?:{mark}\d*)?(?:[eE][+-]?\d+)?$|^(?i:[+-]?(?:nan|inf))$"
    )
    plain = text.str.replace_all(thousands, "", literal=True) if thousands else text
    return pl.when(fits).then(plain.str.replace(decimal, ".", literal=True))


def without_value(cells: pl.DataFrame, no_value: tuple[str, ...]) -> pl.Series:
    """Return whether a cell holds one of the texts, in lower case, that stand for no value."""
    texts = cells.get_column("raw_value")
    words = ["", *no_value]
    if any(_is_finite(word) for word in no_value):
        return texts.str.to_lowercase().is_in(words)
    # A cell that holds a number says none of the words.
    odd = np.flatnonzero(~np.isfinite(cells.get_column("value").to_numpy()))
    silent = np.zeros(len(texts), np.bool_)
    silent[odd] = texts[odd].str.to_lowercase().is_in(words).to_numpy()
    return pl.Series("raw_value", silent)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


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
        """Return the cells of one column by its key, blanks around them cut off."""
        return pl.col("cells").list.get(self.keys.index(name), null_on_oob=True).str.strip_chars()

    @cached_property
    def keys(self) -> list[str]:
        """The header with the names that repeat numbered from the second on."""
        return _keys(self.header)


def _keys(header: list[str]) -> list[str]:
    seen: Counter[str] = Counter()
    keys = []
    for name in header:
        seen[name] += 1
        keys.append(_numbered(name, seen[name]))
    return keys


def cut(
    lines: Lines,
    delimiter: str,
    footers: tuple[str, ...] = (),
    header: list[str] | None = None,
    is_header: Callable[[list[str]], bool] = lambda _: True,
) -> Grid | None:
    """Return header, data lines and the rest; None if there is no header line.

    `header` is the file's, where an earlier block held it; else the first line that `is_header` takes, else the first
    one. Of a name that repeats, columns from the second on are numbered.
    """
    frame = lines.frame("line")
    footer = f"^(?:{'|'.join(footers)})$" if footers else "^$"
    stripped = pl.col("line").str.strip_chars()
    structure = (stripped == "") | stripped.str.contains(footer)
    content = frame.filter(~structure)
    if delimiter == WHITESPACE:
        content = content.with_columns(stripped.str.replace_all(r"\s+", " "))
        delimiter = " "
    header_position, headers = lines.first_position, 0
    if header is None:
        if content.is_empty():
            return None
        first = [_names(line, delimiter) for line in content.head(MAX_PREAMBLE_LINES).get_column("line")]
        place = next((number for number, names in enumerate(first) if is_header(names)), 0)
        header, headers = first[place], place + 1
        header_position = content.row(place)[0]
    rows = content.slice(headers).with_columns(pl.col("line").str.split(delimiter).alias("cells"))
    quoted = rows.filter(pl.col("line").str.contains(QUOTE, literal=True))
    if quoted.height:
        rows = _with_quotes(rows, quoted, delimiter)
    cells = pl.col("cells").list
    longer = cells.len() > len(header)
    if rows.select(longer.any()).item():  # Empty cells at the end of a line are its delimiters' alone.
        no_more = cells.slice(len(header)).list.eval(pl.element().str.strip_chars() == "").list.all()
        rows = rows.with_columns(
            pl.when(longer & no_more).then(cells.head(len(header))).otherwise("cells").alias("cells")
        )
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


def _names(line: str, delimiter: str) -> list[str]:
    """Return the cells of a header; a delimiter at its end adds none."""
    names = [cell.strip() for cell in _split_quoted(line, delimiter) or []]
    while len(names) > 1 and not names[-1]:
        names.pop()
    return names


def _with_quotes(rows: pl.DataFrame, quoted: pl.DataFrame, delimiter: str) -> pl.DataFrame:
    """Return cells of lines with quotes by the csv module; the only lines that are read one by one."""
    cells = [_split_quoted(line, delimiter) for line in quoted.get_column("line").to_list()]
    read = quoted.select("source_position").with_columns(pl.Series("read", cells, dtype=pl.List(pl.String)))
    has_quote = pl.col("line").str.contains(QUOTE, literal=True)
    return rows.join(read, on="source_position", how="left", maintain_order="left").with_columns(
        pl.when(has_quote).then("read").otherwise("cells").alias("cells")
    )


def _split_quoted(line: str, delimiter: str) -> list[str] | None:
    """Return the cells of one line; None if its quotes do not close (a quoted line break is not supported)."""
    if QUOTE not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None


def _unmapped(grid: Grid, needed: list[str]) -> Ignored:
    """Return how many cells of each column that the settings do not name hold text."""
    extra = [(place, name) for place, name in enumerate(grid.keys) if name not in needed]
    cell = pl.col("cells").list
    filled = [
        (cell.get(place, null_on_oob=True).str.strip_chars() != "").sum().alias(str(place))
        for place, _ in extra
    ]
    counts: Counter[tuple[str, str]] = Counter()
    for (_, name), count in zip(extra, grid.rows.select(filled).row(0) if filled else (), strict=True):
        counts[(name, "unmapped")] += count
    return dict(+counts)
