"""What a sensor usually says: its typical value of each day (silver/sensor_day) -> its usual value for a day.

Each day is judged by its own past alone, so a range gives what single nights give.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.channels import DAY_US, runs_of
from lepton_etl.intervals.integrate import MICROSECONDS

# A sensor that changes its scale for good is refused while the days of its old scale are the most of these: four
# nights, longer than a weekend. Afterwards only physical bounds speak.
HISTORY_DAYS: Final = 7

SENSOR: Final = ["node_id", "device_id", "quantity", "sensor", "statistic"]
# A sensor's day: how many readings its typical value is of (of a power those of the decade that it spoke most).
SENSOR_DAY_COLUMNS: Final = pl.Schema(
    [
        ("on_day", pl.Int64()),
        *((name, pl.String()) for name in SENSOR),
        ("readings", pl.Int64()),
        ("typical", pl.Float64()),
    ]
)
# The same, for each `day` that it is the past of.
HISTORY_COLUMNS: Final = pl.Schema([("day", pl.Int64()), *SENSOR_DAY_COLUMNS.items()])

# Load moves a device's daily mean less than this; no mistaken unit is nearer (x1000).
_ONE_SCALE_RATIO: Final = 30.0
_ONE_SCALE_C: Final = 20.0
# Quantities that have a history: powers, energies, temperatures and utilisations of what is in a node.
_JUDGED: Final = r"_(power|energy|temperature|utilisation)$"


def past_days(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of silver/sensor_day as SENSOR_DAY_COLUMNS."""
    return rows.with_columns(
        pl.col("date").dt.epoch("d").cast(pl.Int64).alias("on_day"), pl.col("typical_value").alias("typical"),
        pl.col("reading_count").alias("readings"),
    ).select(list(SENSOR_DAY_COLUMNS)).cast(SENSOR_DAY_COLUMNS)  # fmt: skip


def sensor_days(readings: pl.DataFrame, sensors: pl.DataFrame) -> pl.DataFrame:
    """Return SENSOR_DAY_COLUMNS: what each sensor said on its own `day`, repeats and all.

    `readings` have channel, time_us and value, by channel and time; `sensors` a line for each channel in the order of
    its number. `typical` is the mean of the positive readings of one decade (0.4 and 400 never mix), of the decade in
    which most was said; a temperature's mean, the highest ratio, a counter's mean rate in W (none after a reset).
    """
    judged = sensors["quantity"].str.contains(_JUDGED).to_numpy()
    powers = sensors["quantity"].str.ends_with("_power").to_numpy()
    channel, time_us, value = (readings[name].to_numpy() for name in ("channel", "time_us", "value"))
    is_power = powers[channel]
    chosen = np.flatnonzero(
        judged[channel]
        & (time_us // DAY_US == sensors["day"].to_numpy()[channel])
        & (~is_power | (value > 0))
    )
    if not len(chosen):
        return pl.DataFrame(schema=SENSOR_DAY_COLUMNS)
    channel, time_us, value, is_power = channel[chosen], time_us[chosen], value[chosen], is_power[chosen]
    decade = np.zeros(len(channel), dtype=np.int64)
    decade[is_power] = np.rint(np.log10(value[is_power])).astype(np.int64)
    key = channel * 1024 + decade
    if (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        channel, time_us, value, key = channel[order], time_us[order], value[order], key[order]
    starts = runs_of(key)
    ends = np.r_[starts[1:], len(key)] - 1
    count = ends - starts + 1
    lowest, highest = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
    first, last = value[starts], value[ends]
    seconds = (time_us[ends] - time_us[starts]) / MICROSECONDS
    rises = (highest == last) & (lowest == first) & (last > first) & (seconds > 0)
    rate = np.divide(last - first, seconds, out=np.full(len(starts), np.nan), where=rises)
    said = pl.DataFrame(
        {
            "channel": channel[starts], "readings": count, "highest": highest, "rate": rate,
            "mean": np.add.reduceat(value, starts) / count,
        }
    ).join(sensors.select("channel", pl.col("day").alias("on_day"), *SENSOR), on="channel", how="left")  # fmt: skip
    typical = (
        pl.when(pl.col("statistic") == "counter").then(pl.col("rate").fill_nan(None))
        .when(pl.col("quantity").str.ends_with("_utilisation")).then("highest")
        .otherwise("mean")
    )  # fmt: skip
    return (
        said.with_columns(typical.alias("typical"))
        .filter(pl.col("typical").is_not_null())
        .sort("channel", "readings", "typical")
        .unique("channel", keep="last", maintain_order=True)
        .select(list(SENSOR_DAY_COLUMNS))
    )


def histories(said: pl.DataFrame, days: Iterable[int]) -> pl.DataFrame:
    """Return HISTORY_COLUMNS: what each sensor said on the week before each of `days`, of SENSOR_DAY_COLUMNS."""
    wanted = pl.Series(list(days), dtype=pl.Int64).implode()
    past = [
        said.with_columns((pl.col("on_day") + ago).alias("day")).filter(pl.col("day").is_in(wanted))
        for ago in range(1, HISTORY_DAYS + 1)
    ]
    return pl.concat(past).select(list(HISTORY_COLUMNS))


def with_usual(sensors: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """Add `usual`: what a sensor said before its `day`, in the value's unit (counters: W), or null.

    The days of the week before vote: the scale that most of them speak is the sensor's, of equal ones the earlier;
    `usual` is the median of those days. Of a ratio it is the highest of the week, for idle days are honestly near 0.
    `history` has HISTORY_COLUMNS; of one day that stands in it twice the line with most readings counts.
    """
    if sensors.is_empty() or history.is_empty():
        return sensors.with_columns(pl.lit(None, pl.Float64).alias("usual"))
    whose = ["day", *SENSOR]
    numbered = sensors.with_row_index("whose")
    past = (
        history.join(numbered.select("whose", *whose), on=whose, how="inner")
        .select("whose", "quantity", "on_day", "readings", "typical")
        .sort("whose", "on_day", "readings", "typical")
        .unique(["whose", "on_day"], keep="last", maintain_order=True)
    )
    is_ratio = pl.col("quantity").str.ends_with("_utilisation")
    low, high = pl.col("typical").min(), pl.col("typical").max()
    # Nearly all sensors speak one scale all week: then every day has every day's vote.
    is_one = (
        pl.when(pl.col("quantity").first().str.ends_with("_temperature"))
        .then(high - low < 0.9 * _ONE_SCALE_C)
        .otherwise((low > 0) & (high < 0.9 * _ONE_SCALE_RATIO * low))
    )
    alone = past.group_by("whose").agg(
        pl.when(is_ratio.first()).then(high).otherwise(pl.col("typical").median()).alias("usual"),
        (is_ratio.first() | is_one).alias("is_one"),
    )
    mixed = past.join(alone.filter(~pl.col("is_one")), on="whose", how="semi")
    elected = pl.concat([alone.filter("is_one").select("whose", "usual"), _elected(mixed)])
    return numbered.join(elected, on="whose", how="left", maintain_order="left").drop("whose")


def _elected(past: pl.DataFrame) -> pl.DataFrame:
    """`usual` of sensors (`whose`) whose days do not all speak one scale, by their votes."""
    other = pl.col("typical_right")
    alike = (
        pl.when(pl.col("quantity").str.ends_with("_temperature"))
        .then((other - pl.col("typical")).abs() <= _ONE_SCALE_C)
        .otherwise(
            other.is_between(pl.col("typical") / _ONE_SCALE_RATIO, pl.col("typical") * _ONE_SCALE_RATIO)
        )
    )
    votes = (
        past.join(past.select("whose", "typical"), on="whose", how="inner")
        .group_by("whose", "on_day")
        .agg(alike.sum().alias("votes"), other.filter(alike).median().alias("usual"))
    )
    return (
        votes.sort("whose", "votes", "on_day", descending=[False, False, True])
        .unique("whose", keep="last", maintain_order=True)
        .select("whose", "usual")
    )
