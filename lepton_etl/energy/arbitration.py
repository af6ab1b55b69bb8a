"""Which of a node's power sources is believed, once they have been held against each other.

The same is done twice: on the readings of a node, where it decides the source of an interval, and on the stored
intervals, where the figures go to silver/sensor_check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.energy.crosschecks import (
    BIAS,
    CLOCK_SKEW,
    COMPONENTS,
    SERIES_COLUMNS,
    Comparison,
    compare_sources,
)
from lepton_etl.energy.integrate import MICROSECONDS
from lepton_etl.energy.roster import DAY_US
from lepton_etl.energy.sources import ROW, choose_power, power_by_source
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables.silver import SENSOR_CHECK

# The device under which the sources of a node stand that were not chosen.
OTHER_SOURCE: Final = "node."
SOURCE_CHANGED: Final = "source_changed"
# An interval counts for the check if its source saw at least half of it.
LEAST_COVER: Final = 0.5
_PARTS: Final = r"^(cpu|dram|gpu)"
_DOUBT: Final = pl.Schema(
    {
        "day": pl.Int64,
        "node_id": pl.String,
        "device_id": pl.String,
        "interval_us": pl.Int64,
        "flag": pl.String,
    }
)

# Rows and columns of silver/interval that the checks read.
CHECKED_DEVICES: Final = r"^(node$|node\.|cpu|dram|gpu)"
CHECKED_COLUMNS: Final = (
    "site_id", "node_id", "device_id", "interval_start", "interval_s", "energy_source", "power_mean_w", "multiplicity",
    "observed_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Arbitration:
    """chosen: as choose_power; others: the sources not chosen, at device `node.<source>`; doubts: ROW, flag."""

    chosen: pl.DataFrame
    others: pl.DataFrame
    doubts: pl.DataFrame


def arbitrate(
    values: pl.DataFrame,
    candidates: pl.DataFrame,
    gains: Mapping[str, float],
    inventory: pl.DataFrame,
    interval_us: int,
) -> Arbitration:
    """The power of every row, without the sources of nodes that others prove wrong. `inventory` has ROSTER_COLUMNS.

    Source: definitions.md section 2 (order of the sources); docs/methodology.md, "Sensors and their errors".
    """
    first = choose_power(values, candidates)
    by_source = power_by_source(values, candidates)
    parts = first.filter(pl.col("device_id").str.contains(_PARTS))
    no_doubts = pl.DataFrame(schema=_DOUBT)
    if parts.is_empty() and by_source.select(ROW).is_unique().all():
        return Arbitration(first, by_source.clear(), no_doubts)
    mean = pl.col("integral") / pl.col("observed_s") * pl.col("multiplicity")
    told = pl.concat([by_source, parts]).with_columns(mean.alias("power_w"))
    found = compare_sources(_series(told, interval_us), gains, _rated_w(told, inventory), interval_us)
    chosen = choose_power(values, candidates, found.suspects) if found.suspects.height else first
    at_node = chosen.filter(pl.col("device_id") == "node").select(*ROW, "energy_source")
    others = by_source.join(at_node, on=[*ROW, "energy_source"], how="anti").with_columns(
        (OTHER_SOURCE + pl.col("energy_source")).alias("device_id")
    )
    before = first.select(*ROW, pl.col("energy_source").alias("before"))
    moved = at_node.join(before, on=ROW, how="inner").filter(pl.col("before") != pl.col("energy_source"))
    doubts = [moved.select(*ROW, pl.lit(SOURCE_CHANGED).alias("flag")), *_flags(found, at_node)]
    return Arbitration(chosen, others, pl.concat([no_doubts, *doubts]))


def _flags(found: Comparison, at_node: pl.DataFrame) -> list[pl.DataFrame]:
    """The verdicts as flags of the node's rows: of the whole day, or of the intervals that are suspect."""
    of_day = found.checks.filter(pl.col("sensor_verdict").is_in((BIAS, CLOCK_SKEW))).select(
        "day", "node_id", (pl.col("sensor_verdict") + "_" + pl.col("check_source")).alias("flag")
    )
    of_interval = found.suspects.select("day", "node_id", "interval_us", "flag")
    return [
        at_node.join(of_day, on=["day", "node_id"], how="inner").select(*ROW, "flag"),
        at_node.join(of_interval, on=["day", "node_id", "interval_us"], how="inner").select(*ROW, "flag"),
    ]


def _series(told: pl.DataFrame, interval_us: int) -> pl.DataFrame:
    """SERIES_COLUMNS of rows with ROW, energy_source, power_w, observed_s; a node's parts summed where all speak."""
    seen = told.filter(pl.col("observed_s") >= LEAST_COVER * interval_us / MICROSECONDS)
    stem = pl.col("device_id").str.extract(_PARTS)
    single = pl.col("device_id") != stem
    whose = ["day", "node_id", "interval_us"]
    parts = (
        seen.filter(stem.is_not_null())
        # A figure that the boards share is the same energy once more.
        .filter(single | ~single.any().over("day", "node_id", stem))
        .sort(*whose, "device_id")
        .group_by(whose, maintain_order=True).agg(pl.col("power_w").sum(), pl.len().alias("present"))
        .filter(pl.col("present") == pl.col("present").max().over("day", "node_id"))
        .with_columns(pl.lit(COMPONENTS).alias("source"))
    )  # fmt: skip
    totals = seen.filter(stem.is_null()).rename({"energy_source": "source"})
    columns = list(SERIES_COLUMNS)
    return pl.concat([totals.select(columns), parts.select(columns)])


def _rated_w(told: pl.DataFrame, inventory: pl.DataFrame) -> dict[tuple[int, str], float]:
    """Rated power by day and node where the inventory states one."""
    rated = (
        told.select("day", "node_id").unique()
        .join(inventory.drop_nulls("rated_power_w"), on="node_id", how="inner")
        .filter(pl.col("day").is_between("from_day", "until_day"))
    )  # fmt: skip
    return {
        (day, node): watts for day, node, watts in rated.select("day", "node_id", "rated_power_w").iter_rows()
    }


def sensor_checks(rows: pa.Table, inventory: pl.DataFrame, gains: Mapping[str, float]) -> pa.Table:
    """silver/interval (CHECKED_COLUMNS, whole node-days of one site) -> silver/sensor_check, sorted by key."""
    frame = pl.DataFrame(rows.select(list(CHECKED_COLUMNS)))
    if frame.is_empty():
        return arrow_schema(SENSOR_CHECK).empty_table()
    interval_us = frame.item(0, "interval_s") * MICROSECONDS
    time_us = pl.col("interval_start").dt.epoch("us")
    told = frame.filter(pl.col("power_mean_w").is_not_null()).with_columns(
        time_us.alias("interval_us"),
        (time_us // DAY_US).alias("day"),
        (pl.col("power_mean_w") * pl.col("multiplicity")).alias("power_w"),
    )
    found = compare_sources(_series(told, interval_us), gains, _rated_w(told, inventory), interval_us)
    checks = found.checks.select(
        pl.lit(frame.item(0, "site_id")).alias("site_id"),
        pl.from_epoch("day", "d").alias("date"),
        pl.exclude("day"),
    ).sort("node_id", "date", "check_source", "against_source")
    return checks.to_arrow().select(list(SENSOR_CHECK.columns)).cast(arrow_schema(SENSOR_CHECK))
