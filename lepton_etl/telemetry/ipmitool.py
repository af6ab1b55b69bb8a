"""`ipmitool sdr` tables (name | reading | status), each below a line that stamps it."""

from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lepton_etl.telemetry.assemble import NUMBER, assemble, count_ignored, number_of, value_reason
from lepton_etl.telemetry.blocks import by_lines
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.specs import IpmitoolSpec
from lepton_etl.telemetry.stamps import UTC_TIME, parse_stamps
from lepton_etl.telemetry.text import damaged_line, read_lines
from lepton_etl.telemetry.units import with_value

BLANK: Final = 0
STAMP: Final = 1
BAD_LINE: Final = 2
UNMAPPED: Final = 3
NO_VALUE: Final = 4
VALUE: Final = 5


class Decoder:
    """Readings and rejects of one log of `ipmitool sdr`, block after block.

    A stamp line stamps the rows below it until the next one; rows before any stamp, or below one that cannot be
    read, are rejects (no_time, bad_time for the stamp itself). An empty table is structure. Rows say name, reading
    and status; the status is a threshold state and does not unmake a value. A day's table repeats the same few
    thousand lines, so each distinct line is understood once and the rows are gathers. Source: ipmitool(1).
    """

    def __init__(self, origin: Origin, spec: IpmitoolSpec) -> None:
        self._origin = origin
        self._spec = spec
        self._lines_before = 0
        self._time: datetime | None = None
        """Of the last stamp so far; None where there is none, or where it cannot be read."""

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        lines = read_lines(block, self._lines_before)
        self._lines_before = lines.following
        codes, texts = lines.distinct()
        known = _understand(texts, self._spec, lines.damaged)
        kind = known.get_column("kind").to_numpy()
        counts = np.bincount(codes, minlength=len(texts))
        kind_of_line = kind[codes]
        stamp_rows = np.flatnonzero(kind_of_line == STAMP)
        stamps = self._stamps(texts, codes[stamp_rows], stamp_rows + lines.first_position)
        value_rows = np.flatnonzero(kind_of_line == VALUE)
        bad_rows = np.flatnonzero(kind_of_line == BAD_LINE)
        bad_stamps = stamps.filter(pl.col("reason").is_not_null())
        structure = int(counts[kind == BLANK].sum()) + len(stamp_rows) - bad_stamps.height
        faults = [
            pl.DataFrame({"source_position": bad_rows + lines.first_position}).with_columns(
                pl.lit(None, dtype=pl.String).alias("sensor"), pl.lit("bad_line").alias("reason")
            ),
            bad_stamps.with_columns(pl.lit(None, dtype=pl.String).alias("sensor")),
        ]
        ignored = known.with_columns(pl.Series("count", counts)).filter(
            pl.col("kind").is_in([UNMAPPED, NO_VALUE])
        )
        named = pl.when(pl.col("kind") == UNMAPPED).then(pl.lit("unmapped")).otherwise(pl.lit("no_value"))
        times = pl.concat([pl.Series("time", [self._time], dtype=UTC_TIME), stamps.get_column("time")])
        above = times.gather(np.searchsorted(stamp_rows, value_rows))
        cells = known.drop("kind")[codes[value_rows]].with_columns(
            pl.Series("source_position", value_rows + lines.first_position), above.alias("reading_time")
        )
        self._time = times[-1]
        return assemble(
            _completed(cells, self._origin), faults,
            count_ignored(ignored.with_columns(named.alias("reason"))), structure, lines, self._origin,
        )  # fmt: skip

    def _stamps(
        self, texts: pl.Series, codes: npt.NDArray[np.int32], positions: npt.NDArray[np.int64]
    ) -> pl.DataFrame:
        """source_position, time and reason of every stamp line."""
        stamped = texts.gather(codes).str.slice(len(self._spec.stamp_prefix))
        return parse_stamps(stamped, timezone=self._origin.timezone).select(
            pl.Series("source_position", positions), "time", "reason"
        )


def _understand(texts: pl.Series, spec: IpmitoolSpec, damaged: bool) -> pl.DataFrame:
    """One row per distinct line: its kind, and of a row with a value everything but its time."""
    rules = spec.sensors
    fields = pl.col("line").str.splitn("|", 4)
    split = pl.DataFrame({"line": texts}).with_columns(
        fields.struct[0].str.strip_chars().alias("sensor"),
        fields.struct[1].str.strip_chars().alias("reading"),
        (fields.struct[2].is_not_null() & fields.struct[3].is_null()).alias("is_row"),
    )
    mapped = rules.map_names(split.filter("is_row").get_column("sensor"))
    line = pl.col("line")
    lower = pl.col("reading").str.to_lowercase()
    empty = lower.is_in(rules.no_value)
    if rules.no_value_pattern is not None:
        empty = empty | pl.col("reading").str.contains(f"^(?:{rules.no_value_pattern})$")
    kind = (
        pl.when(damaged_line(line) if damaged else pl.lit(False))
        .then(BAD_LINE)
        .when(line.str.starts_with(spec.stamp_prefix))
        .then(STAMP)
        .when(line.str.strip_chars() == "")
        .then(BLANK)
        .when(~pl.col("is_row") | (pl.col("sensor") == ""))
        .then(BAD_LINE)
        .when(pl.col("rule").is_null())
        .then(UNMAPPED)
        .when(empty)
        .then(NO_VALUE)
        .otherwise(VALUE)
    )
    parts = pl.col("reading").str.extract_groups(
        rf"^(?<number>{NUMBER}|(?i:[+-]?(?:nan|inf)))(?:\s+(?<unit>.*))?$"
    )
    rows = split.join(mapped, on="sensor", how="left", maintain_order="left").with_columns(
        kind.cast(pl.Int8).alias("kind"),
        parts.struct["number"].alias("digits"),
        parts.struct["unit"].fill_null("").alias("raw_unit"),
    )
    pairs = rows.filter(pl.col("kind") == VALUE)
    converted = rows.join(
        rules.convert_pairs(pairs), on=["rule", "raw_unit"], how="left", maintain_order="left"
    )
    return with_value(converted.with_columns(number_of(pl.col("digits")).alias("number"))).select(
        "kind", "sensor", "quantity", "device_id", "statistic", "point", "raw_unit", "value",
        pl.coalesce("digits", "reading").alias("raw_value"),
        value_reason().alias("reason"),
    )  # fmt: skip


def _completed(cells: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """The rows with a value, with what is the same for every reading of such a log."""
    no_time = pl.when(pl.col("reading_time").is_null()).then(pl.lit("no_time"))
    return cells.with_columns(
        pl.lit(origin.node_id, dtype=pl.String).alias("node_id"),
        pl.lit(0.0).alias("window_s"),
        pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
        pl.coalesce("reason", no_time).alias("reason"),
    )


read = by_lines(Decoder)
