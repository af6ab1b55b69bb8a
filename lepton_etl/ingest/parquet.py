"""Parquet files: one row per time (and device), columns mapped by the settings as those of a delimited file."""

import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import IO, Any, Final, Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lepton_etl.ingest.decoded import (
    MAX_RAW_TEXT_CHARS,
    REJECT_SCHEMA,
    Decoded,
    Ignored,
    Origin,
    assemble,
    assembled,
    count_ignored,
    only_reject,
)
from lepton_etl.ingest.delimited import (
    NUMBER,
    TEXT,
    Table,
    TimeColumn,
    Words,
    mapped_cells,
    named_rows,
    plain_readings,
    stamps_of,
    without_value,
)
from lepton_etl.ingest.registry import log_format
from lepton_etl.ingest.units import EARLIEST_YEAR, LATEST_YEAR

# Held in memory up to here, beyond it in a file of the worker's scratch folder: the footer is at the end.
SPOOL_BYTES: Final = 64 << 20
# A batch is some hundred megabytes of cells, however many columns are mapped.
BATCH_CELLS: Final = 500_000
READ_BYTES: Final = 1 << 20
# What a damaged file makes pyarrow raise.
DAMAGE: Final = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


@log_format
class Parquet(Table):
    """Parquet files with columns of plain types."""

    format: Literal["parquet"] = "parquet"
    followed_by = "whole files"

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode a batch of rows after another; a position is the number of the row.

        A record is a cell of a mapped column, or a cell with a value of any other (ignored, unmapped). A stamp of a
        column with a zone is an instant, one without is local in the zone of the settings; integers and texts are
        stamps as in a delimited file. A file that is no Parquet, is cut short, or fails the checksum of a page is one
        reject (unreadable_file), and rows before the damage are kept. Source: Apache Parquet format 2.
        """
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            for chunk in chunks:
                spool.write(chunk)
            spool.seek(0)
            yield from _parts(spool, origin, self)


def _parts(spool: IO[bytes], origin: Origin, settings: Parquet) -> Iterator[Decoded]:
    try:
        file = _opened(spool, [])
        file = _opened(spool, _texts(file.metadata))
        refused = _unusable(file, settings)
    except DAMAGE as error:
        yield only_reject("unreadable_file", f"{origin.path}: {error}")
        return
    if refused is not None:
        yield refused
        return
    parts = _batches(file, origin, settings)
    first = next(parts, None)
    # A file without rows has a part too.
    yield _decode(file.schema_arrow.empty_table(), 0, origin, settings) if first is None else first
    yield from parts


def _opened(spool: IO[bytes], texts: list[str]) -> pq.ParquetFile:
    return pq.ParquetFile(
        spool,
        read_dictionary=texts,
        pre_buffer=False,
        buffer_size=READ_BYTES,
        page_checksum_verification=True,
    )


def _texts(footer: pq.FileMetaData) -> list[str]:
    """Return columns of text: read as dictionaries, so that one long text is not repeated for each of its rows."""
    columns = [footer.schema.column(number) for number in range(footer.num_columns)]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.max_repetition_level == 0
        and "." not in column.path
    ]


def _batches(file: pq.ParquetFile, origin: Origin, settings: Parquet) -> Iterator[Decoded]:
    # All columns are read: how many values the others hold is said nowhere but in the footer's chunk metadata, and
    # pyarrow 25 ends the process (an exception of C++ that nobody catches) where that is damaged.
    rows = max(1, BATCH_CELLS // max(len(file.schema_arrow), len(settings.readings)))
    before = 0
    batches = file.iter_batches(rows, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                # A page header that was damaged may say that it holds fewer values, or none; no checksum covers it.
                if before != file.metadata.num_rows:
                    raise pa.ArrowInvalid(
                        f"{file.metadata.num_rows} rows by the footer, {before} by the pages"
                    )
                return
            batch.validate(full=True)
        except DAMAGE as error:
            yield only_reject("unreadable_file", f"{origin.path}: after row {before}: {error}", before + 1)
            return
        yield _decode(pa.Table.from_batches([batch]), before, origin, settings)
        before += batch.num_rows


def _unusable(file: pq.ParquetFile, settings: Parquet) -> Decoded | None:
    """Return the one reject of a file whose columns are not those of the settings."""
    schema = file.schema_arrow
    for name in settings.needed:
        places = schema.get_all_field_indices(name)
        if len(places) != 1:
            reason = "ambiguous_column" if places else "missing_column"
            return only_reject(reason, f"{name!r} in columns {schema.names}", sensor=name)
        kind = schema.field(name).type
        if not _is_plain(kind):
            return only_reject(
                "missing_column", f"column {name!r} holds {kind}, no plain values", sensor=name
            )
    return None


def _is_plain(kind: pa.DataType) -> bool:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    return _is_number(values) or _is_time(values) or any(test(values) for test in texts)


def _decode(table: pa.Table, before: int, origin: Origin, settings: Parquet) -> Decoded:
    """Return readings and rejects of the rows of one batch."""
    ignored: Ignored = {}
    needed = settings.needed
    for name, values in zip(table.column_names, table.columns, strict=True):
        if name not in needed and values.null_count < len(values):
            there = ignored.get((name, "unmapped"), 0)
            ignored[(name, "unmapped")] = there + len(values) - values.null_count
    if not settings.time.columns and _is_time(table.schema.field(settings.time.column).type):
        time = TimeColumn(
            column=settings.time.column, label=settings.time.label, ambiguous=settings.time.ambiguous
        )
        settings = settings.model_copy(update={"time": time})  # A column of times needs no format.
    no_value_words = tuple({"", *settings.no_value})
    instants = None if settings.time.columns else _instants(table[settings.time.column])
    of_rows = [*(settings.time.names if instants is None else ()), *settings.identity_columns()]
    frame = _with_stamp(_rows(table.select(list(dict.fromkeys(of_rows))), before), settings)
    given = stamps_of(frame, origin, settings) if instants is None else instants
    named = named_rows(frame, given, origin, settings)
    words = {reading.key: _words(table[reading.key]) for reading in settings.readings}
    plain = plain_readings(words, named, no_value_words, origin, settings)
    if plain is not None:
        readings, silent = plain
        return assembled(readings, 0, REJECT_SCHEMA.empty_table(), ignored | silent, 0)
    frame = _with_stamp(_rows(table.select(list(dict.fromkeys(needed))), before), settings)
    cells = mapped_cells(frame, origin, settings)
    empty = without_value(cells, no_value_words)
    no_value = count_ignored(cells.filter(empty).get_column("sensor"), "no_value")
    stamps = pl.concat([frame.get_column(TEXT + settings.time.key)] * len(settings.readings)).alias("stamp")
    text = pl.format("{} = {} at {}", "sensor", "raw_value", stamps.fill_null("no time"))
    refused = pl.when(pl.col("reason").is_not_null()).then(text)
    valued = cells.with_columns(refused.alias("raw_text")).filter(~empty)
    return assemble(valued, [], ignored | no_value, 0, None, origin)


def _instants(values: pa.ChunkedArray) -> pl.DataFrame | None:
    """Return `stamps_of` of a column of instants that are all there and believed in; else None."""
    if not pa.types.is_timestamp(values.type) or values.type.tz is None or values.null_count:
        return None
    times = pl.Series("stamp_time", pc.cast(values, pa.timestamp("us", "UTC"), safe=False))
    first, last = times.min(), times.max()
    if (
        not isinstance(first, datetime)
        or not isinstance(last, datetime)
        or first.year < EARLIEST_YEAR
        or last.year > LATEST_YEAR
    ):
        return None
    return times.to_frame().with_columns(
        pl.lit(None, dtype=pl.String).alias("row_reason"), pl.lit(False).alias("merged")
    )


def _rows(table: pa.Table, before: int) -> pl.DataFrame:
    """Return source_position, and the columns as TEXT and, of numbers, as NUMBER."""
    columns: dict[str, Any] = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        columns[TEXT + name] = _text(values)
        if _is_number(values.type):
            columns[NUMBER + name] = pc.cast(values, pa.float64(), safe=False)
    position = pl.int_range(before + 1, before + 1 + table.num_rows, eager=True).alias("source_position")
    return pl.DataFrame([position, *pl.DataFrame(pa.table(columns)).get_columns()])


def _with_stamp(frame: pl.DataFrame, settings: Parquet) -> pl.DataFrame:
    """Add the stamp where it stands in several columns."""
    if not settings.time.columns:
        return frame
    stamp = pl.concat_str([TEXT + name for name in settings.time.columns], separator=" ")
    return frame.with_columns(stamp.alias(TEXT + settings.time.key))


def _words(values: pa.ChunkedArray) -> Words:
    kind = values.type
    if kind == pa.float16():  # Arrow has no dictionaries of it.
        values = pc.cast(values, pa.float32())
    coded = values if pa.types.is_dictionary(kind) else values.dictionary_encode()
    return Words.of(coded.unify_dictionaries().combine_chunks(), _text, numeric=_is_number(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _text(values: Any) -> Any:
    """Values as a delimited file would hold them; null stays null."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        chunks = [_shortened(chunk.dictionary).take(chunk.indices) for chunk in values.chunks]
        return pa.chunked_array(chunks, type=pa.string())
    if _is_time(kind):
        zone = "UTC" if pa.types.is_timestamp(kind) and kind.tz is not None else None
        return pc.cast(pc.cast(values, pa.timestamp("us", zone), safe=False), pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _shortened(values)
    return pc.cast(pc.cast(values, pa.float32()) if kind == pa.float16() else values, pa.string())


def _shortened(texts: Any) -> Any:
    """Texts without blanks around them, no longer than a reject keeps."""
    return pc.utf8_trim_whitespace(
        pc.utf8_slice_codeunits(pc.cast(texts, pa.string()), 0, MAX_RAW_TEXT_CHARS)
    )
