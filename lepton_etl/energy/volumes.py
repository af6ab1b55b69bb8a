"""Readings of water and fuel meters -> rows of silver/volume_interval. A site has few, so the driver computes them."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.energy.integrate import MICROSECONDS
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables.carbon import VOLUME_INTERVAL

VOLUME_QUANTITIES: Final = ("water_volume", "fuel_volume")
VOLUME_COLUMNS: Final = (
    "meter_id", "carrier", "multiplier", "statistic", "time_us", "window_s", "value", "file_id", "source_position",
)  # fmt: skip
# A register read once an hour is usual; between two readings further apart nobody knows when the water ran.
MAX_STEP_S: Final = 4 * 3600.0


def volume_intervals(
    readings: pa.Table, site_id: str, interval_s: int, from_us: int, until_us: int
) -> pa.Table:
    """The rows of silver/volume_interval with interval_start in [from_us, until_us), sorted by key.

    `readings` has VOLUME_COLUMNS, litres. A register (`counter`) gives the difference of consecutive readings,
    spread evenly over the step; where it falls, and over steps beyond MAX_STEP_S, the step stays uncovered. Other
    readings are the volume of their window; without a window they say nothing. Of repeats the lowest file_id, then
    position wins.
    """
    frame = pl.DataFrame(readings.select(list(VOLUME_COLUMNS)))
    winners = frame.sort("meter_id", "time_us", "file_id", "source_position").unique(
        ["meter_id", "time_us", "statistic"], keep="first", maintain_order=True
    )
    segments = pl.concat([_register_steps(winners), _windows(winners)])
    step = interval_s * MICROSECONDS
    pieces = segments.with_columns(
        pl.int_ranges(pl.col("start_us") // step * step, pl.col("end_us"), step, dtype=pl.Int64).alias(
            "interval_us"
        )
    ).explode("interval_us", empty_as_null=False)
    overlap = pl.min_horizontal("end_us", pl.col("interval_us") + step) - pl.max_horizontal(
        "start_us", "interval_us"
    )
    sums = (
        pieces.filter(pl.col("interval_us").is_between(from_us, until_us, closed="left"))
        .with_columns(overlap.alias("overlap_us"))
        .with_columns(
            (pl.col("litres") * pl.col("overlap_us") / (pl.col("end_us") - pl.col("start_us"))).alias(
                "litres"
            )
        )
        .sort("meter_id", "interval_us", "start_us")
        .group_by("meter_id", "carrier", "interval_us", maintain_order=True)
        .agg(pl.col("litres").sum(), pl.col("overlap_us").sum())
    )
    return _table(sums, site_id, interval_s)


def _register_steps(rows: pl.DataFrame) -> pl.DataFrame:
    same = pl.col("meter_id") == pl.col("meter_id").shift()
    litres = (pl.col("value") - pl.col("value").shift()) * pl.col("multiplier").fill_null(1.0)
    start = pl.col("time_us").shift()
    steps = rows.filter(pl.col("statistic") == "counter").sort("meter_id", "time_us")
    return (
        steps.select("meter_id", "carrier", start.alias("start_us"), pl.col("time_us").alias("end_us"),
                     litres.alias("litres"), same.alias("same"))
        .filter("same", pl.col("litres") >= 0, pl.col("end_us") - pl.col("start_us") <= MAX_STEP_S * MICROSECONDS)
        .drop("same")
    )  # fmt: skip


def _windows(rows: pl.DataFrame) -> pl.DataFrame:
    length_us = (pl.col("window_s") * MICROSECONDS).cast(pl.Int64)
    return rows.filter((pl.col("statistic") != "counter") & (pl.col("window_s") > 0)).select(
        "meter_id",
        "carrier",
        pl.col("time_us").alias("start_us"),
        (pl.col("time_us") + length_us).alias("end_us"),
        (pl.col("value") * pl.col("multiplier").fill_null(1.0)).alias("litres"),
    )


def _table(sums: pl.DataFrame, site_id: str, interval_s: int) -> pa.Table:
    start = pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC")
    rows = sums.select(
        pl.lit(site_id).alias("site_id"),
        "meter_id",
        "carrier",
        start.alias("interval_start"),
        start.dt.date().alias("date"),
        pl.lit(interval_s).alias("interval_s"),
        pl.col("litres").alias("volume_l"),
        # Windows that overlap count once in time.
        pl.min_horizontal(pl.col("overlap_us"), interval_s * MICROSECONDS)
        .truediv(MICROSECONDS)
        .alias("observed_s"),
    ).sort("meter_id", "interval_start")
    return rows.to_arrow().select(list(VOLUME_INTERVAL.columns)).cast(arrow_schema(VOLUME_INTERVAL))
