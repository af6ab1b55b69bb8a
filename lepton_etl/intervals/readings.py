"""bronze/reading -> what the kernels read: narrow rows, repeated into each UTC day that needs them.

- The inventory as the kernels need it: which row of a node holds on which day.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.intervals.channels import DAY_US

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


