"""From cells with everything known about them to readings, rejects and duplicates. Shared by all decoders.

- Bytes of a log as numbered lines, without a Python loop per line.
- What every decoder takes and gives: where bytes came from, and the readings and rejects they hold.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

_NEWLINE = 10


@dataclass(frozen=True)
class Lines:
    """The lines of a text, or of one block of it; line n of the file is item n - 1 - before here."""

    array: pa.LargeStringArray
    damaged: bool
    """Whether any line may hold NUL bytes or bytes that were no UTF-8 (now U+FFFD)."""
    before: int = 0
    """Lines of the file in front of this block."""

    @property
    def following(self) -> int:
        """`before` of the next block."""
        return self.before + len(self.array)

    @property
    def first_position(self) -> int:
        """The 1-based number in the file of the first line here."""
        return self.before + 1

    def series(self) -> pl.Series:
        """All lines, line ends cut off."""
        return _without_ends(pl.Series("line", self.array))

    def distinct(self) -> tuple[npt.NDArray[np.int32], list[str]]:
        """(code of every line, distinct lines by code, line ends cut off): log tables repeat themselves."""
        encoded = self.array.dictionary_encode()
        # Its own to_numpy() would import pandas: a second of every worker.
        codes = np.asarray(np.from_dlpack(encoded.indices), dtype=np.int32)
        return codes, [line.rstrip("\r\n") for line in encoded.dictionary.to_pylist()]

    def texts(self, positions: pl.Series) -> pl.Series:
        """The lines at 1-based `positions` of the file, capped to the length that a reject keeps."""
        taken = self.array.take((positions - self.first_position).to_arrow())
        return _without_ends(pl.Series("raw_text", taken)).str.slice(0, MAX_RAW_TEXT_CHARS)


def read_lines(data: bytes, before: int = 0) -> Lines:
    """Split UTF-8 text (as `blocks.in_utf8` gives it) at line feeds; never raises.

    Bytes that are not UTF-8 become U+FFFD and mark the text as damaged.
    """
    text, damaged = _utf8(data)
    body = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(body == _NEWLINE) + 1
    if len(text) and (not len(ends) or ends[-1] != len(text)):
        ends = np.append(ends, len(text))
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), ends.astype(np.int64)))
    array = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
    return Lines(array, damaged, before)


def damaged_line(line: pl.Expr) -> pl.Expr:
    """Whether a line holds a NUL or a byte that was no UTF-8."""
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


IgnoredReason = Literal["unmapped", "no_value"]
Ignored = dict[tuple[str, str], int]

MAX_RAW_TEXT_CHARS = 1000

READING_SCHEMA = pa.schema(
    [
        pa.field("node_id", pa.string()),
        pa.field("device_id", pa.string(), nullable=False),
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("statistic", pa.string(), nullable=False),
        pa.field("window_s", pa.float64(), nullable=False),
        pa.field("reading_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("multiplicity", pa.int32(), nullable=False),
        pa.field("point", pa.string()),
        pa.field("sensor", pa.string(), nullable=False),
        pa.field("raw_value", pa.string(), nullable=False),
        pa.field("raw_unit", pa.string(), nullable=False),
        pa.field("source_position", pa.int64(), nullable=False),
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        pa.field("source_position", pa.int64(), nullable=False),
        pa.field("sensor", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("raw_text", pa.string(), nullable=False),
    ]
)

JOB_SCHEMA = pa.schema(
    [
        pa.field("cluster_name", pa.string()),
        pa.field("job_id", pa.string(), nullable=False),
        pa.field("step_id", pa.string()),
        pa.field("restart", pa.int32()),
        pa.field("user_name", pa.string()),
        pa.field("account", pa.string()),
        pa.field("partition", pa.string()),
        pa.field("state", pa.string()),
        pa.field("submit_time", pa.timestamp("us", tz="UTC")),
        pa.field("start_time", pa.timestamp("us", tz="UTC")),
        pa.field("end_time", pa.timestamp("us", tz="UTC")),
        pa.field("node_list", pa.string()),
        pa.field("node_count", pa.int32()),
        pa.field("cpu_count", pa.int32()),
        pa.field("gpu_count", pa.int32()),
        pa.field("memory_byte", pa.float64()),
        pa.field("consumed_energy_j", pa.float64()),
        pa.field("source_position", pa.int64(), nullable=False),
        pa.field("record", pa.string(), nullable=False),
        pa.field("node_id", pa.string()),
        pa.field("device_ids", pa.list_(pa.string())),
        pa.field("tenant_id", pa.string()),
        pa.field("cpu_time_s", pa.float64()),
    ]
)

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


@dataclass(frozen=True)
class Decoded:
    """The records of one file, or of one part of a large one.

    records == readings + jobs + rejects + duplicates + ignored.
    """

    readings: pa.Table
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

    def check(self) -> None:
        """Raise AssertionError unless every record is accounted for and the schemas are the declared ones."""
        assert self.readings.schema.equals(READING_SCHEMA), f"readings schema: {self.readings.schema}"
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
        """The records of several parts of one file together, in the parts' order."""
        together = list(parts)
        if len(together) == 1:
            return together[0]
        ignored: Counter[tuple[str, str]] = Counter()
        for part in together:
            ignored.update(part.ignored)
        return cls(
            readings=pa.concat_tables([READING_SCHEMA.empty_table(), *(part.readings for part in together)]),
            rejects=pa.concat_tables([REJECT_SCHEMA.empty_table(), *(part.rejects for part in together)]),
            records=sum(part.records for part in together),
            duplicates=sum(part.duplicates for part in together),
            ignored=dict(ignored),
            structure_lines=sum(part.structure_lines for part in together),
            jobs=pa.concat_tables([JOB_SCHEMA.empty_table(), *(part.jobs for part in together)]),
        )


def only_reject(reason: str, raw_text: str, position: int = 1, sensor: str | None = None) -> Decoded:
    """A file of which nothing could be used: one record, one reject that says why."""
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

REJECT_COLUMNS: Final = ("source_position", "sensor", "reason")
SAME_READING: Final = ("node_id", "device_id", "sensor", "point", "reading_time", "raw_value")


def number_of(text: pl.Expr) -> pl.Expr:
    """The number of a text with a decimal point; NaN and infinities by their words; null where it is none."""
    return text.cast(pl.Float64, strict=False)


def value_reason() -> pl.Expr:
    """Why a value is no reading: bad_number, unit_mismatch (no factor), not_finite, out_of_bounds; else null.

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
    """Readings in file order, only the first of exact repeats."""
    # Most files hold none, and hashes alone tell so in half the time.
    if readings.select(same).hash_rows().n_unique() == readings.height:
        return readings
    return readings.unique(subset=same, keep="first", maintain_order=True)


def reading_table(readings: pl.DataFrame) -> pa.Table:
    """Columns of READING_SCHEMA out of a frame that has them all."""
    return (
        readings.select(READING_SCHEMA.names)
        .to_arrow(compat_level=pl.CompatLevel.oldest())
        .cast(READING_SCHEMA)
    )


def reject_table(rejects: list[pl.DataFrame], lines: Lines | None) -> pa.Table:
    """Rejects (source_position, sensor, reason) of several frames by position, each with its line's text.

    Without `lines` the frames bring their own `raw_text`.
    """
    if not any(frame.height for frame in rejects):
        return REJECT_SCHEMA.empty_table()
    schema: dict[str, pl.DataType] = {
        "source_position": pl.Int64(), "sensor": pl.String(), "reason": pl.String()
    }  # fmt: skip
    if lines is None:
        schema["raw_text"] = pl.String()
    frames = [frame.select(pl.col(name).cast(kind) for name, kind in schema.items()) for frame in rejects]
    together = pl.concat([pl.DataFrame(schema=schema), *frames]).sort("source_position", maintain_order=True)
    texts = (
        lines.texts(together.get_column("source_position"))
        if lines is not None
        else together.get_column("raw_text").str.slice(0, MAX_RAW_TEXT_CHARS)
    )
    table = together.with_columns(texts.alias("raw_text")).to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.cast(REJECT_SCHEMA)


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
    """The result of one file or block.

    `cells` holds every mapped cell with a value: the reading columns and `reason` (null: usable). `faults` are other
    rejects (source_position, sensor, reason). Both bring `raw_text` where there are no `lines` to take it from. Raises
    nothing for bad input: it stands in `reason` by now.
    """
    cells = _out_of_window(cells, origin)
    usable, refused = cells, cells.clear()
    if cells.get_column("reason").null_count() < cells.height:
        usable, refused = (
            cells.filter(pl.col("reason").is_null()),
            cells.filter(pl.col("reason").is_not_null()),
        )
    kept = without_repeats(usable)
    rejects = reject_table([*faults, refused], lines)
    duplicates = usable.height - kept.height
    return Decoded(
        readings=reading_table(kept),
        rejects=rejects,
        records=kept.height + rejects.num_rows + duplicates + sum(ignored.values()),
        duplicates=duplicates,
        ignored=ignored,
        structure_lines=structure_lines,
    )


def count_ignored(sensors: pl.DataFrame) -> Ignored:
    """(sensor, reason) -> records from columns sensor, reason and count."""
    totals = sensors.group_by("sensor", "reason").agg(pl.col("count").sum()).filter(pl.col("count") > 0)
    return {
        (sensor, reason): int(count) for sensor, reason, count in totals.sort("sensor", "reason").iter_rows()
    }
