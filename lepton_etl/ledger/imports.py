"""What the site drew from the grid, from the intervals of its utility meters.

A figure over a bucket (an hour, a quarter) is known where every meter was observed for the coverage limit's share of
it; it is the sum of what was measured, never divided by coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

HOUR_S: Final = 3600
QUARTER_S: Final = 900
UTILITY: Final = "utility"
_UTC_US: Final = pl.Datetime("us", "UTC")


def import_meters(meters: pa.Table) -> pl.DataFrame:
    """The electricity meters at the utility that no other utility meter has counted: meter_id, valid_from, valid_to."""
    frame = pl.DataFrame(meters).filter(
        (pl.col("point") == UTILITY) & (pl.col("carrier").fill_null("electricity") == "electricity")
    )
    below = pl.col("parent_id").fill_null("").is_in(frame["meter_id"].unique().to_list())
    return frame.filter(~below).select(
        "site_id",
        "meter_id",
        pl.col("valid_from").cast(_UTC_US),
        pl.col("valid_to").cast(_UTC_US),
    )


def import_intervals(meters: pa.Table, intervals: pa.Table) -> pl.DataFrame:
    """Intervals of the import meters: site_id, meter_id, start, interval_s, energy_kwh, observed_s."""
    return (
        pl.DataFrame(intervals)
        .join(import_meters(meters).select("site_id", "meter_id").unique(), on=["site_id", "meter_id"])
        .select(
            "site_id",
            "meter_id",
            pl.col("interval_start").cast(_UTC_US).alias("start"),
            "interval_s",
            "energy_kwh",
            "observed_s",
        )
    )


def bucket_imports(
    meters: pl.DataFrame, intervals: pl.DataFrame, starts: Sequence[datetime], bucket_s: int, limit: float
) -> pl.DataFrame:
    """The import of each bucket: `start`, `import_kwh`, `power_w` (mean over what was observed); null where unknown.

    `starts` are instants that are `bucket_s` apart; `meters` is what `import_meters` gives of one site. A bucket in
    which no meter is valid is unknown.
    """
    grid = pl.DataFrame({"start": pl.Series(starts, dtype=_UTC_US)}).sort("start")
    expected = grid.join(meters, how="cross").filter(
        (pl.col("start") >= pl.col("valid_from"))
        & (pl.col("valid_to").is_null() | (pl.col("start") < pl.col("valid_to")))
    )
    sums = (
        in_buckets(intervals, grid, bucket_s)
        .sort("meter_id", "start")
        .group_by("meter_id", "bucket", maintain_order=True)
        .agg(pl.col("energy_kwh").sum(), pl.col("observed_s").sum())
    )
    observed = pl.col("observed_s")
    is_known = (observed >= limit * bucket_s).fill_null(value=False)
    found = (
        expected.join(sums, left_on=["meter_id", "start"], right_on=["meter_id", "bucket"], how="left")
        .sort("start", "meter_id")
        .group_by("start", maintain_order=True)
        .agg(
            is_known.all().alias("known"),
            pl.col("energy_kwh").sum().alias("import_kwh"),
            (pl.col("energy_kwh") * 3.6e6 / observed).sum().alias("power_w"),
        )
    )
    return (
        grid.join(found, on="start", how="left")
        .sort("start")
        .select(
            "start",
            *(pl.when("known").then(name).alias(name) for name in ("import_kwh", "power_w")),
        )
    )


def in_buckets(intervals: pl.DataFrame, grid: pl.DataFrame, bucket_s: int) -> pl.DataFrame:
    """Intervals with the `bucket` that their start lies in; those outside every bucket are left out."""
    return (
        intervals.sort("start")
        .join_asof(grid.select("start", bucket="start").sort("start"), on="start", strategy="backward")
        .filter(pl.col("start") < pl.col("bucket") + timedelta(seconds=bucket_s))
    )


def bucket_starts(start: datetime, end: datetime, bucket_s: int) -> list[datetime]:
    """The starts of whole buckets from `start` up to, not including, `end`."""
    count = int((end - start).total_seconds() // bucket_s)
    return [start + timedelta(seconds=bucket_s * number) for number in range(count)]


def local_bounds(first: date, last: date, zone: str) -> tuple[datetime, datetime]:
    """The instants (UTC) at which the local days begin and have ended."""
    at, day = ZoneInfo(zone), timedelta(days=1)
    bounds = (datetime.combine(first, time(), at), datetime.combine(last + day, time(), at))
    return bounds[0].astimezone(UTC), bounds[1].astimezone(UTC)
