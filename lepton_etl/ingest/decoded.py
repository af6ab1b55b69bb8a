"""What every decoder takes and gives: numbered lines in; readings, rejects and duplicates, each counted, out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

_NEWLINE = 10


@dataclass(frozen=True)
class Lines:
    """The lines of a text, or of one block of it."""

    array: pa.LargeStringArray
    damaged: bool
    """Whether any line may hold NUL bytes or bytes that were no UTF-8 (now U+FFFD)."""
    first_position: int = 1
    """The 1-based number in the file of the first line here."""

    @property
    def following(self) -> int:
        """`first_position` of the next block."""
        return self.first_position + len(self.array)

    def series(self) -> pl.Series:
        """Return all lines, line ends cut off."""
        return _without_ends(pl.Series("line", self.array))

    def frame(self, name: str) -> pl.DataFrame:
        """Return all lines as the column `name` beside their `source_position`."""
        position = pl.int_range(self.first_position, self.following, eager=True).alias("source_position")
        return pl.DataFrame([position, self.series().alias(name)])

    def distinct(self) -> tuple[npt.NDArray[np.int32], pa.LargeStringArray]:
        """(code of every line, distinct lines by code, line ends cut off): log tables repeat themselves."""
        encoded = self.array.dictionary_encode()
        # Its own to_numpy() would import pandas: a second of every worker.
        codes = np.asarray(np.from_dlpack(encoded.indices), dtype=np.int32)
        return codes, pc.utf8_rtrim(encoded.dictionary, characters="\r\n")

    def texts(self, positions: pl.Series) -> pl.Series:
        """Return the lines at 1-based `positions` of the file, capped to the length that a reject keeps."""
        taken = self.array.take((positions - self.first_position).to_arrow())
        return _without_ends(pl.Series("raw_text", taken)).str.slice(0, MAX_RAW_TEXT_CHARS)


def read_lines(data: bytes, first_position: int = 1) -> Lines:
    """Split UTF-8 text (as `text.in_utf8` gives it) at line feeds; never raises.

    Bytes that are not UTF-8 become U+FFFD and mark the text as damaged.
    """
    text, damaged = _utf8(data)
    body = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(body == _NEWLINE) + 1
    if len(text) and (not len(ends) or ends[-1] != len(text)):
        ends = np.append(ends, len(text))
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), ends.astype(np.int64)))
    array = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
    return Lines(array, damaged, first_position)


def damaged_line(line: pl.Expr) -> pl.Expr:
    """Return whether a line holds a NUL or a byte that was no UTF-8."""
    return line.str.contains("[\x00\ufffd]")


def _utf8(data: bytes) -> tuple[bytes, bool]:
    if data.isascii():
        return data, b"\0" in data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace").encode("utf-8"), True
    return data, b"\0" in data or "\ufffd".encode() in data


def _without_ends(lines: pl.Series) -> pl.Series:
    return lines.str.strip_chars_end("\r\n")


Ignored = dict[tuple[str, str], int]

MAX_RAW_TEXT_CHARS = 1000

_TEXT, _NUMBER, _COUNT, _PLACE = pa.string(), pa.float64(), pa.int32(), pa.int64()
_TIME = pa.timestamp("us", tz="UTC")


def _schema(nullable: str, **columns: pa.DataType) -> pa.Schema:
    """Return columns of these types; those that `nullable` names may be null."""
    return pa.schema(
        [pa.field(name, kind, nullable=name in nullable.split()) for name, kind in columns.items()]
    )


READING_SCHEMA: Final = _schema(
    "node_id point",
    node_id=_TEXT, device_id=_TEXT, quantity=_TEXT, value=_NUMBER, statistic=_TEXT, window_s=_NUMBER,
    reading_time=_TIME, multiplicity=_COUNT, point=_TEXT, sensor=_TEXT, raw_value=_TEXT, raw_unit=_TEXT,
    source_position=_PLACE,
)  # fmt: skip
REJECT_SCHEMA: Final = _schema("sensor", source_position=_PLACE, sensor=_TEXT, reason=_TEXT, raw_text=_TEXT)
JOB_SCHEMA: Final = _schema(
    "cluster_name step_id restart user_name account partition state submit_time start_time end_time node_list "
    "node_count cpu_count gpu_count memory_byte consumed_energy_j node_id device_ids tenant_id cpu_time_s",
    cluster_name=_TEXT, job_id=_TEXT, step_id=_TEXT, restart=_COUNT, user_name=_TEXT, account=_TEXT, partition=_TEXT,
    state=_TEXT, submit_time=_TIME, start_time=_TIME, end_time=_TIME, node_list=_TEXT, node_count=_COUNT,
    cpu_count=_COUNT, gpu_count=_COUNT, memory_byte=_NUMBER, consumed_energy_j=_NUMBER, source_position=_PLACE,
    record=_TEXT, node_id=_TEXT, device_ids=pa.list_(_TEXT), tenant_id=_TEXT, cpu_time_s=_NUMBER,
)  # fmt: skip

EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2101, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Origin:
    """Where a file's bytes came from, as far as a decoder must know it."""

    site_id: str
    source_name: str
    path: str
    """The path as listed, for messages and identity."""
    node_id: str | None
    """The node named by the path, null when the records name their node themselves."""
    timezone: str
    """IANA zone of stamps that carry none."""
    path_time: datetime | None = None
    """The stamp taken from the path (aware), for text exposition whose samples carry none."""
    earliest: datetime = EARLIEST
    latest: datetime = LATEST
    """Readings outside [earliest, latest) are rejects (out_of_window): a window around the file's own time."""
    sampling_period_s: float | None = None
    """Declared distance of the rounds of a loop that writes no stamps."""


@dataclass(frozen=True)
class Decoded:
    """The records of one file, or of one part of a large one.

    records == readings + jobs + rejects + duplicates + ignored.
    """

    readings: pa.Table
    """READING_SCHEMA; names that repeat may be dictionaries, which nothing on the way to the lake unpacks."""
    rejects: pa.Table
    records: int
    duplicates: int
    """Exact repeats of (node, device, sensor, time, value) in this part; the first one is the reading."""
    ignored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(raw sensor name, 'unmapped' | 'no_value') -> records."""
    structure_lines: int = 0
    """Stamps, headers, comments, footers and blank lines: no records."""
    jobs: pa.Table = field(default_factory=JOB_SCHEMA.empty_table)
    """Accounting of a scheduler: one row a job, a step of one, or what one held of some nodes."""
    of_jobs: bool = False
    """Whether the text is a scheduler's: of its rejects no word is kept, since one may be a person's name."""

    def check(self) -> None:
        """Raise AssertionError unless every record is accounted for and the schemas are the declared ones."""
        assert _plain(self.readings.schema).equals(READING_SCHEMA), f"readings schema: {self.readings.schema}"
        assert self.rejects.schema.equals(REJECT_SCHEMA), f"rejects schema: {self.rejects.schema}"
        assert self.jobs.schema.equals(JOB_SCHEMA), f"jobs schema: {self.jobs.schema}"
        ignored = sum(self.ignored.values())
        kept = self.readings.num_rows + self.jobs.num_rows
        assert self.records == kept + self.rejects.num_rows + self.duplicates + ignored, (
            f"records {self.records} != readings and jobs {kept} + rejects {self.rejects.num_rows}"
            f" + duplicates {self.duplicates} + ignored {ignored}"
        )

    @classmethod
    def merge(cls, parts: Iterable["Decoded"]) -> "Decoded":
        """Return the records of several parts of one file together, in the parts' order, names as strings."""
        together = list(parts)
        ignored: Counter[tuple[str, str]] = Counter()
        for part in together:
            ignored.update(part.ignored)
        return cls(
            readings=pa.concat_tables(
                [READING_SCHEMA.empty_table(), *(part.readings.cast(READING_SCHEMA) for part in together)]
            ),
            rejects=pa.concat_tables([REJECT_SCHEMA.empty_table(), *(part.rejects for part in together)]),
            records=sum(part.records for part in together),
            duplicates=sum(part.duplicates for part in together),
            ignored=dict(ignored),
            structure_lines=sum(part.structure_lines for part in together),
            jobs=pa.concat_tables([JOB_SCHEMA.empty_table(), *(part.jobs for part in together)]),
            of_jobs=any(part.of_jobs for part in together),
        )


def only_reject(reason: str, raw_text: str, position: int = 1, sensor: str | None = None) -> Decoded:
    """Return a file of which nothing could be used: one record, one reject that says why."""
    row = {
        "source_position": position,
        "sensor": sensor,
        "reason": reason,
        "raw_text": raw_text[:MAX_RAW_TEXT_CHARS],
    }
    return Decoded(
        readings=READING_SCHEMA.empty_table(),
        rejects=pa.Table.from_pylist([row], schema=REJECT_SCHEMA),
        records=1,
        duplicates=0,
    )


NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"

SAME_READING: Final = ("node_id", "device_id", "sensor", "point", "reading_time", "raw_value")


def number_of(text: pl.Expr) -> pl.Expr:
    """Return the number of a text with a decimal point; NaN and infinities by their words; null where it is none."""
    return text.cast(pl.Float64, strict=False)


def value_reason() -> pl.Expr:
    """Return why a value is no reading: bad_number, unit_mismatch (no factor), not_finite, out_of_bounds; else null.

    Of the columns number, factor, value, and the quantity's bounds of the field dictionary, low and high.
    """
    value = pl.col("value")
    return (
        pl.when(pl.col("number").is_null())
        .then(pl.lit("bad_number"))
        .when(pl.col("factor").is_null())
        .then(pl.lit("unit_mismatch"))
        .when(~value.is_finite())
        .then(pl.lit("not_finite"))
        .when(~value.is_between(pl.col("low"), pl.col("high")))
        .then(pl.lit("out_of_bounds"))
    )


def without_repeats(readings: pl.DataFrame, same: tuple[str, ...] = SAME_READING) -> pl.DataFrame:
    """Return readings in file order, only the first of exact repeats."""
    # Most files hold none, and hashes alone tell so in half the time.
    if readings.select(same).hash_rows().n_unique() == readings.height:
        return readings
    return readings.unique(subset=same, keep="first", maintain_order=True)


def as_table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return the columns of a schema out of a frame that has them all."""
    return frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the values of dictionaries instead of these."""
    return pa.schema(
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in schema
    )


REJECTS: Final = {
    "source_position": pl.Int64,
    "sensor": pl.String,
    "reason": pl.String,
    "raw_text": pl.String,
}


def with_columns_of(frame: pl.DataFrame, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return the columns of a schema; those that the frame lacks are null."""
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in schema.items()
    )


def reject_table(rejects: list[pl.DataFrame], lines: Lines | None) -> pa.Table:
    """Return rejects (source_position, reason, and where known sensor) of several frames by position, with their texts.

    Without `lines` to take them from, the frames bring their own `raw_text`.
    """
    if not any(frame.height for frame in rejects):
        return REJECT_SCHEMA.empty_table()
    frames = [with_columns_of(frame, REJECTS) for frame in rejects]
    together = pl.concat(frames).sort("source_position", maintain_order=True)
    texts = (
        together.get_column("raw_text").str.slice(0, MAX_RAW_TEXT_CHARS)
        if lines is None
        else lines.texts(together.get_column("source_position"))
    )
    return as_table(together.with_columns(texts.alias("raw_text")), REJECT_SCHEMA)


def _out_of_window(cells: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Cells whose time lies outside the file's own window are refused; what is refused already keeps its reason."""
    times = cells.get_column("reading_time")
    first, last = times.min(), times.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return cells
    if origin.earliest <= first and last < origin.latest:
        return cells
    time = pl.col("reading_time")
    inside = (time >= pl.lit(origin.earliest)) & (time < pl.lit(origin.latest))
    outside = pl.when(~inside).then(pl.lit("out_of_window"))
    return cells.with_columns(pl.coalesce("reason", outside).alias("reason"))


def assemble(
    cells: pl.DataFrame,
    faults: list[pl.DataFrame],
    ignored: Ignored,
    structure_lines: int,
    lines: Lines | None,
    origin: Origin,
) -> Decoded:
    """Return the result of one file or block.

    `cells` holds every mapped cell with a value: the reading columns and `reason` (null: usable). `faults` are other
    rejects (source_position, reason, and where known sensor). Both bring `raw_text` where there are no `lines` to take
    it from. Raises nothing for bad input: it stands in `reason` by now.
    """
    cells = _out_of_window(cells, origin)
    usable, refused = cells, cells.clear()
    if cells.get_column("reason").null_count() < cells.height:
        usable, refused = (
            cells.filter(pl.col("reason").is_null()),
            cells.filter(pl.col("reason").is_not_null()),
        )
    kept = without_repeats(usable)
    return assembled(
        as_table(kept, READING_SCHEMA),
        usable.height - kept.height,
        reject_table([*faults, refused], lines),
        ignored,
        structure_lines,
    )


def repeated(words: pa.Array, places: pa.Array) -> pa.DictionaryArray:
    """Return the words at these places as a dictionary of them."""
    coded = words.cast(pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices.take(places), coded.dictionary)


def coded_readings(columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return READING_SCHEMA's columns, dictionaries of text where they are."""
    fields = [field.with_type(columns[field.name].type) for field in READING_SCHEMA]
    return pa.table([columns[field.name] for field in fields], schema=pa.schema(fields))


def assembled(
    readings: pa.Table, duplicates: int, rejects: pa.Table, ignored: Ignored, structure_lines: int
) -> Decoded:
    """Return the parts of a result with its records counted."""
    return Decoded(
        readings=readings,
        rejects=rejects,
        records=readings.num_rows + rejects.num_rows + duplicates + sum(ignored.values()),
        duplicates=duplicates,
        ignored=dict(sorted(ignored.items())),
        structure_lines=structure_lines,
    )


def count_ignored(sensors: pl.Series, reason: str) -> Ignored:
    """(sensor, reason) -> records, from the sensor of each record."""
    counts = sensors.alias("sensor").value_counts(name="count")
    return {(sensor, reason): count for sensor, count in counts.iter_rows()}
