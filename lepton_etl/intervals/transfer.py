"""Byte counters of network ports -> bytes through a node's ports by interval (silver/transfer_interval)."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.intervals.channels import DAY_US, by_channel, integrate_channels, resolve_repeats
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.intervals.readings import is_one_of, only
from lepton_etl.schema.fleet import TRANSFER_INTERVAL
from lepton_etl.schema.types import arrow_schema

TRANSFER_QUANTITIES: Final = ("data_transferred",)
# No port is faster: 1.6 Tbit/s. Source: IEEE P802.3dj.
_PORT_BYTE_PER_S: Final = 2e11
_PORT: Final = ["day", "node_id", "device_id"]
_INTERVAL: Final = ["day", "node_id", "interval_us"]


def transfer_intervals(readings: pa.Table, site_id: str, interval_s: int) -> pa.Table:
    """Return the rows of silver/transfer_interval of the days in `readings` (READING_COLUMNS by `for_each_day`).

    Counters are differenced as those of energy are: a fall is a reset and its step uncovered. Of two sensors of one
    port the one that saw more of the interval speaks. `observed_s` is that of the port seen least; an interval in
    which a port of the day is silent has no row.
    """
    counters = only(readings, is_one_of(readings["statistic"], ("counter",)))
    if not counters.num_rows:
        return arrow_schema(TRANSFER_INTERVAL).empty_table()
    sensors, ordered = by_channel(counters)
    winners, _ = resolve_repeats(ordered, interval_s * MICROSECONDS)
    # Where counters begin again at 0 is said of a source's joules.
    unlimited = winners.with_columns(pl.lit(None, pl.Float64).alias("counter_max_j"))
    known = sensors.with_columns(
        pl.lit(_PORT_BYTE_PER_S).alias("peak_w"), pl.lit(None, pl.Float64).alias("supply_resolution")
    )
    seen = integrate_channels(unlimited, known, interval_s * MICROSECONDS).values
    ports = (
        seen.join(sensors.select("channel", *_PORT, "sensor"), on="channel")
        .sort(*_PORT, "interval_us", "observed_s", "sensor", descending=[*[False] * 4, True, False])
        .unique([*_PORT, "interval_us"], keep="first", maintain_order=True)
    )
    expected = sensors.group_by("day", "node_id").agg(pl.col("device_id").n_unique().alias("port_count"))
    receives = pl.col("device_id").str.ends_with("_rx")
    rows = (
        ports.filter(pl.col("interval_us") // DAY_US == pl.col("day"))
        .group_by(_INTERVAL, maintain_order=True)
        .agg(
            pl.col("integral").filter(receives).sum().alias("received_byte"),
            pl.col("integral").filter(~receives).sum().alias("transmitted_byte"),
            pl.col("observed_s").min(),
            pl.len().alias("seen"),
        )
        .join(expected, on=["day", "node_id"])
        .filter(pl.col("seen") == pl.col("port_count"))
        .select(
            pl.lit(site_id).alias("site_id"), "node_id", pl.from_epoch("day", "d").alias("date"),
            pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC").alias("interval_start"),
            pl.lit(interval_s).alias("interval_s"), "received_byte", "transmitted_byte", "observed_s", "port_count",
        )
        .sort(TRANSFER_INTERVAL.key)
    )  # fmt: skip
    return rows.to_arrow().select(list(TRANSFER_INTERVAL.columns)).cast(arrow_schema(TRANSFER_INTERVAL))
