"""The inventory as the kernels need it: which row of a node holds on which day."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

DAY_US: Final = 86_400_000_000
# Beyond any date a lake will hold, and far from the end of int64.
OPEN_END_US: Final = 36_525 * 2 * DAY_US

ROSTER_COLUMNS: Final = pl.Schema(
    {
        "node_id": pl.String,
        "cluster_id": pl.String,
        "chassis_id": pl.String,
        "rated_power_w": pl.Float64,
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
    frame = pl.from_arrow(nodes)
    assert isinstance(frame, pl.DataFrame)
    rows = frame.sort("node_id", "valid_from").with_columns(
        pl.col("valid_from").dt.epoch("us").alias("from_us"),
        pl.col("valid_to").dt.epoch("us").fill_null(OPEN_END_US).alias("until_us"),
    )
    first_day = (pl.col("from_us") // DAY_US).alias("from_day")
    next_day = pl.col("from_us").shift(-1).over("node_id") // DAY_US - 1
    last_day = pl.min_horizontal((pl.col("until_us") - 1) // DAY_US, next_day).alias("until_day")
    return rows.with_columns(first_day, last_day).select(list(ROSTER_COLUMNS)).cast(ROSTER_COLUMNS)
