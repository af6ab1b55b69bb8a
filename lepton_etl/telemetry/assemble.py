"""From cells with everything known about them to readings, rejects and duplicates. Shared by all decoders."""

from datetime import datetime
from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.telemetry.decoded import (
    MAX_RAW_TEXT_CHARS,
    READING_SCHEMA,
    REJECT_SCHEMA,
    Decoded,
    Ignored,
    Origin,
)
from lepton_etl.telemetry.text import Lines

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
