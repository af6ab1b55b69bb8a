"""bronze/reading -> what the kernels read: narrow rows, repeated into each UTC day that needs them.

- The inventory as the kernels need it: which row of a node holds on which day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.intervals.channels import READING_COLUMNS
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.schema.columns import Transform

DAY_US: Final = 86_400_000_000
# Beyond any date a lake will hold, and far from the end of int64.
OPEN_END_US: Final = 36_525 * 2 * DAY_US

ROSTER_COLUMNS: Final = pl.Schema(
    {
        "node_id": pl.String,
        "cluster_id": pl.String,
        "chassis_id": pl.String,
        "rated_power_w": pl.Float64,
        "idle_power_w": pl.Float64,
        "gpu_rated_power_w": pl.Float64,
        "psu_count": pl.Int32,
        "sensor_gain_ratio": pl.Float64,
        "from_us": pl.Int64,
        "until_us": pl.Int64,
        "from_day": pl.Int64,
        "until_day": pl.Int64,
    }
)


def roster(nodes: pa.Table) -> pl.DataFrame:
    """silver/node -> ROSTER_COLUMNS: validity in microseconds and, one row a node and day, as days.

    What belongs to a day as a whole (chassis, ratings, number of supplies) comes from the row of that day: a
    row that begins within a day takes the day. The cluster of an interval goes by the instants.
    """
    frame = pl.DataFrame(nodes)
    rows = frame.sort("node_id", "valid_from").with_columns(
        pl.col("valid_from").dt.epoch("us").alias("from_us"),
        pl.col("valid_to").dt.epoch("us").fill_null(OPEN_END_US).alias("until_us"),
    )
    first_day = (pl.col("from_us") // DAY_US).alias("from_day")
    next_day = pl.col("from_us").shift(-1).over("node_id") // DAY_US - 1
    last_day = pl.min_horizontal((pl.col("until_us") - 1) // DAY_US, next_day).alias("until_day")
    return rows.with_columns(first_day, last_day).select(list(ROSTER_COLUMNS)).cast(ROSTER_COLUMNS)


def with_place(rows: pl.DataFrame, inventory: pl.DataFrame) -> pl.DataFrame:
    """Cluster and `listed_gain_ratio` (null: not known) by the inventory row that holds at the interval's start."""
    nodes = inventory.select("node_id", "cluster_id", "sensor_gain_ratio", "from_us", "until_us")
    chassis = (
        inventory.filter(pl.col("chassis_id").is_not_null())
        .sort("chassis_id", "from_us", "node_id")
        .unique(["chassis_id", "from_us"], keep="first", maintain_order=True)
        .select(pl.col("chassis_id").alias("node_id"), *nodes.columns[1:])
        .join(nodes.select("node_id").unique(), on="node_id", how="anti")
    )
    places = pl.concat([nodes, chassis]).sort("from_us")
    holds = pl.col("until_us").is_not_null() & (pl.col("interval_us") < pl.col("until_us"))
    placed = rows.sort("interval_us").join_asof(
        places,
        left_on="interval_us",
        right_on="from_us",
        by="node_id",
        strategy="backward",
        check_sortedness=False,
    )
    gain = pl.when(holds).then(pl.col("sensor_gain_ratio"))
    return placed.with_columns(
        pl.when(holds).then(pl.col("cluster_id")).alias("cluster_id"),
        gain.alias("listed_gain_ratio"),
    )


PERIODS_IN_MAX_GAP = 3.0
# Kernels have a fixed cost a call: over a long range of few readings a call takes a month of them.
_SHORT_RANGE_DAYS = 7
_LONG_SPAN_DAYS = 31


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the settings say of all readings of a source.

    `counter_max_j`: where its joule counters begin again at 0. `spot_samples`: how many moments one of its window means
    rests on. None: not known, and all of the window.
    """

    max_gap_s: float
    counter_max_j: float | None = None
    spot_samples: int | None = None


def longest_step_s(max_gap_s: float, sampling_period_s: float | None) -> float:
    """The longest step that is bridged between readings of a source. Source: docs/definitions.md section 3."""
    return max(max_gap_s, PERIODS_IN_MAX_GAP * (sampling_period_s or 0.0))


def of_quantities(quantities: Iterable[str], site_id: str) -> Transform:
    """Readings of one site and of these quantities."""

    def transform(readings: DataFrame) -> DataFrame:
        return readings.where((F.col("site_id") == site_id) & F.col("quantity").isin(*quantities))

    return transform


def for_each_day(
    days: Days,
    sources: Mapping[str, SourceFacts],
    unnamed: SourceFacts,
    interval_s: int,
    further: Sequence[str] = (),
) -> Transform:
    """READING_COLUMNS, `further` ones and `span`: each reading once for every day whose energy it can touch.

    A reading touches the days of [time - margin, time + window + margin), the margin being its source's
    longest step and at least one interval (a change of source is told by the interval before). `unnamed` is for sources
    that the settings no longer name. `span` groups days into calls of the kernel; it never changes a figure.
    """
    first_wanted, last_wanted = (
        day_number(days.from_time.timestamp()),
        day_number(days.until_time.timestamp()) - 1,
    )
    step = span_days(days)
    gap_s = _by_source("max_gap_s", sources, unnamed).cast("double")
    counter_max_j = _by_source("counter_max_j", sources, unnamed).cast("double")
    spot_samples = _by_source("spot_samples", sources, unnamed).cast("int")
    time_us = F.unix_micros("reading_time")
    margin_us = (F.greatest(gap_s, F.lit(float(interval_s))) * MICROSECONDS).cast("bigint")
    window_us = F.round(F.col("window_s") * MICROSECONDS).cast("bigint")

    def transform(readings: DataFrame) -> DataFrame:
        touched = readings.select(
            "node_id", "device_id", "quantity", "sensor", "statistic", "value", "window_s",
            time_us.alias("time_us"), "multiplicity", gap_s.alias("max_gap_s"),
            counter_max_j.alias("counter_max_j"), spot_samples.alias("spot_samples"),
            file_rank().alias("file_rank"), "source_position", *further, F.greatest(_day(time_us - margin_us),
            F.lit(first_wanted)).alias("first"), F.least(_day(time_us + window_us + margin_us - 1),
            F.lit(last_wanted)).alias("last"),
        ).where("first <= last")  # fmt: skip
        return touched.withColumn("day", F.explode(F.sequence("first", "last"))).select(
            *READING_COLUMNS, *further, F.floor(F.col("day") / step).cast("bigint").alias("span")
        )

    return transform


def span_days(days: Days) -> int:
    """How many days one call of a kernel takes."""
    return 1 if days.count <= _SHORT_RANGE_DAYS else _LONG_SPAN_DAYS


def file_rank() -> Column:
    """The first 60 bits of the file's SHA-256: they order files as the whole does, in fewer bytes."""
    return F.conv(F.substring("file_id", 1, 15), 16, 10).cast("bigint")


def _by_source(name: str, sources: Mapping[str, SourceFacts], unnamed: SourceFacts) -> Column:
    fact = F.lit(getattr(unnamed, name))
    for source, facts in sources.items():
        if getattr(facts, name) != getattr(unnamed, name):
            fact = F.when(F.col("source_name") == source, F.lit(getattr(facts, name))).otherwise(fact)
    return fact


def _day(time_us: Column) -> Column:
    return F.floor(time_us / F.lit(DAY_US)).cast("bigint")


def day_number(epoch_s: float) -> int:
    """Days since 1970 of an instant."""
    return int(epoch_s * MICROSECONDS) // DAY_US
