"""What `ipmitool` prints (and ipmiutil, its twin), each table below a line that stamps it."""

from collections import Counter
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from lepton_etl.telemetry import ipmi_dialects as dialects
from lepton_etl.telemetry.assemble import NUMBER, assemble, number_of, value_reason
from lepton_etl.telemetry.blocks import by_lines
from lepton_etl.telemetry.decoded import Decoded, Ignored, Origin
from lepton_etl.telemetry.specs import IpmitoolSpec
from lepton_etl.telemetry.stamps import UTC_TIME, parse_stamps
from lepton_etl.telemetry.text import damaged_line, read_lines
from lepton_etl.telemetry.units import with_value
from lepton_etl.telemetry.vocabulary import Same, Vocabulary

BLANK: Final = 0
STAMP: Final = 1
BAD_LINE: Final = 2
UNMAPPED: Final = 3
NO_VALUE: Final = 4
VALUE: Final = 5
_HEAD_LINES: Final = 200
_ENOUGH: Final = 0.5


class Decoder:
    """Readings and rejects of one log of `ipmitool` tables, block after block.

    A stamp line stamps the rows below it until the next one; rows before any stamp have the time of the path. Without
    that, or below a stamp that cannot be read, they are rejects (no_time, bad_time for the stamp
    itself). An empty table is structure. The status of a row is a threshold state and does not unmake a value.
    """

    def __init__(self, origin: Origin, spec: IpmitoolSpec) -> None:
        self._origin = origin
        self._spec = spec
        self._vocabulary = _vocabulary(Same(spec))
        self._lines_before = 0
        self._time = origin.path_time
        """Of the last stamp so far; None where there is none, or where it cannot be read."""

    def decode(self, block: bytes) -> Decoded:
        """The records of the next block of whole lines."""
        lines = read_lines(block, self._lines_before)
        self._lines_before = lines.following
        codes, texts = lines.distinct()
        prefix = self._spec.stamp_prefix
        # Stamps are new in every file: they are parsed together here and leave the vocabulary to the rows.
        is_stamp = np.fromiter((text.startswith(prefix) for text in texts), np.bool_, len(texts))
        ids = np.zeros(len(texts), np.int64)
        ids[~is_stamp] = self._vocabulary.ids([text for text in texts if not text.startswith(prefix)])
        known = self._vocabulary.rows
        kind_of_text = np.full(len(texts), STAMP, np.int8)
        kind_of_text[~is_stamp] = known.get_column("kind").to_numpy()[ids[~is_stamp]]
        kind_of_line = kind_of_text[codes]
        stamp_rows = np.flatnonzero(kind_of_line == STAMP)
        value_rows = np.flatnonzero(kind_of_line == VALUE)
        stamps = self._stamps([texts[code] for code in codes[stamp_rows].tolist()])
        times = pl.concat([pl.Series("time", [self._time], dtype=UTC_TIME), stamps.get_column("time")])
        self._time = times[-1]
        cells = self._cells(
            known.drop("kind")[ids[codes[value_rows]]],
            value_rows + lines.first_position,
            times.gather(np.searchsorted(stamp_rows, value_rows)),
        )
        counts = np.bincount(codes, minlength=len(texts))
        bad_stamps = stamps.get_column("reason").is_not_null().to_numpy()
        bad_lines = np.flatnonzero(kind_of_line == BAD_LINE)
        faults = [
            _faults(bad_lines + lines.first_position, pl.Series("reason", ["bad_line"] * len(bad_lines))),
            _faults(stamp_rows[bad_stamps] + lines.first_position, stamps.get_column("reason").drop_nulls()),
        ]
        structure = int(counts[kind_of_text == BLANK].sum() + np.count_nonzero(~bad_stamps))
        ignored = self._ignored(ids, kind_of_text, counts)
        return assemble(cells, faults, ignored, structure, lines, self._origin)

    def _stamps(self, texts: list[str]) -> pl.DataFrame:
        """time and reason of each stamp line."""
        stamped = pl.Series("stamp", texts, dtype=pl.String).str.slice(len(self._spec.stamp_prefix))
        stamps = parse_stamps(stamped, timezone=self._origin.timezone)
        # No stamp is damaged and yet readable: a NUL or U+FFFD is no digit.
        return stamps.select("time", "reason")

    def _cells(self, rows: pl.DataFrame, positions: npt.NDArray[np.int64], times: pl.Series) -> pl.DataFrame:
        """The rows with a value, with what is the same for every reading of such a log."""
        no_time = pl.when(times.is_null()).then(pl.lit("no_time"))
        return rows.with_columns(
            pl.Series("source_position", positions),
            times.alias("reading_time"),
            pl.lit(self._origin.node_id, dtype=pl.String).alias("node_id"),
            pl.lit(0.0).alias("window_s"),
            pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
            pl.coalesce("reason", no_time).alias("reason") if times.null_count() else pl.col("reason"),
        )

    def _ignored(
        self, ids: npt.NDArray[np.int64], kinds: npt.NDArray[np.int8], counts: npt.NDArray[np.int64]
    ) -> Ignored:
        """How often a sensor stood there that no rule names, or that had no value."""
        found: Counter[tuple[str, str]] = Counter()
        sensors = self._vocabulary.rows.get_column("sensor")
        for kind, reason in ((UNMAPPED, "unmapped"), (NO_VALUE, "no_value")):
            chosen = kinds == kind
            for sensor, count in zip(sensors[ids[chosen]].to_list(), counts[chosen].tolist(), strict=True):
                found[(sensor, reason)] += count
        return dict(sorted(found.items()))


def looks_like(head: bytes) -> bool:
    """Whether most lines are stamps or rows of ipmitool."""
    text = head[: head.rfind(b"\n") + 1] or head
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()][:_HEAD_LINES]
    fitting = sum(dialects.LINE.fullmatch(line) is not None for line in lines)
    return fitting > 0 and fitting >= _ENOUGH * len(lines)


@lru_cache(maxsize=8)
def _vocabulary(spec: Same[IpmitoolSpec]) -> Vocabulary:
    return Vocabulary(lambda texts: _understand(texts, spec.value))


def _understand(texts: pl.Series, spec: IpmitoolSpec) -> pl.DataFrame:
    """One row per distinct line: its kind, and of a row with a value everything but its time."""
    rules = spec.sensors
    split = dialects.split(texts)
    mapped = rules.map_names(split.filter("is_row").get_column("sensor"))
    line = pl.col("line")
    kind = (
        pl.when(damaged_line(line))
        .then(BAD_LINE)
        .when((line.str.strip_chars() == "") | pl.col("is_heading"))
        .then(BLANK)
        .when(~pl.col("is_row") | (pl.col("sensor") == ""))
        .then(BAD_LINE)
        .when(pl.col("rule").is_null())
        .then(UNMAPPED)
        .when(rules.says_no_value(pl.col("reading")))
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
    ).with_columns(number_of(pl.col("digits")).alias("number"))
    return with_value(converted).select(
        "kind", "sensor", "quantity", "device_id", "statistic", "point", "raw_unit", "value",
        pl.coalesce("digits", "reading").alias("raw_value"),
        value_reason().alias("reason"),
    )  # fmt: skip


def _faults(positions: npt.NDArray[np.int64], reasons: pl.Series) -> pl.DataFrame:
    """Rejects that name no sensor."""
    return pl.DataFrame(
        {"source_position": positions, "sensor": [None] * len(positions), "reason": reasons},
        schema_overrides={"sensor": pl.String, "reason": pl.String},
    )


read = by_lines(Decoder)
