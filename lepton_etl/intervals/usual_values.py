"""What a sensor usually says: bronze of the days before -> its usual value, for each day that is computed.

Each day is judged by its own past alone, so a range gives what single nights give.
"""

from __future__ import annotations

from typing import Final

import polars as pl
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.intervals.readings import DAY_US, day_number, span_days
from lepton_etl.schema.columns import Transform

# A sensor that changes its scale for good is refused while the days of its old scale are the most of these: four
# nights, longer than a weekend. Afterwards only physical bounds speak; each further day costs reading a day.
HISTORY_DAYS: Final = 7

SENSOR: Final = ["node_id", "device_id", "quantity", "sensor", "statistic"]
HISTORY_COLUMNS: Final = pl.Schema(
    {
        "day": pl.Int64,
        **dict.fromkeys(SENSOR, pl.String),
        "on_day": pl.Int64,
        "decade": pl.Int32,
        "readings": pl.Int64,
        "typical": pl.Float64,
    }
)

# Load moves a device's daily mean less than this; no mistaken unit is nearer (x1000).
_ONE_SCALE_RATIO: Final = 30.0
_ONE_SCALE_C: Final = 20.0


def day_histories(days: Days) -> Transform:
    """HISTORY_COLUMNS and `span`: what each sensor said on the days (`on_day`) before each of `days` (`day`).

    `typical` is the mean of the positive readings of one decade (0.4 and 400 never mix), a temperature's mean, the
    highest ratio, a counter's mean rate in W (null after a reset). `span` groups days as `for_each_day` does.
    """
    first, last = day_number(days.from_time.timestamp()), day_number(days.until_time.timestamp()) - 1
    step = span_days(days)
    value, time_us = F.col("value"), F.unix_micros("reading_time")
    is_power = F.col("quantity").endswith("_power")
    is_ratio = F.col("quantity").endswith("_utilisation")
    is_counter = F.col("statistic") == "counter"
    decade = F.when(is_power, F.round(F.log10(value))).otherwise(F.lit(0)).cast("int")

    def transform(readings: DataFrame) -> DataFrame:
        said = (
            readings.where(is_judged() & (~is_power | (value > 0)))
            .select(
                *SENSOR, "value", F.floor(time_us / F.lit(DAY_US)).cast("bigint").alias("on_day"),
                decade.alias("decade"), time_us.alias("time_us"),
            )
            .groupBy(*SENSOR, "on_day", "decade")
            .agg(
                F.count("value").alias("readings"), F.avg("value").alias("mean"), F.max("value").alias("highest"),
                F.min("value").alias("lowest"), F.min_by("value", "time_us").alias("first_value"),
                F.max_by("value", "time_us").alias("last_value"),
                ((F.max("time_us") - F.min("time_us")) / MICROSECONDS).alias("seconds"),
            )
        )  # fmt: skip
        rose = F.col("last_value") - F.col("first_value")
        is_whole = (F.col("highest") == F.col("last_value")) & (F.col("lowest") == F.col("first_value"))
        typical = (
            F.when(is_counter, F.when(is_whole & (rose > 0), F.try_divide(rose, F.col("seconds"))))
            .when(is_ratio, F.col("highest"))
            .otherwise(F.col("mean"))
        )
        judged_days = F.sequence(
            F.greatest(F.col("on_day") + 1, F.lit(first)),
            F.least(F.col("on_day") + HISTORY_DAYS, F.lit(last)),
        )
        return (
            said.where(F.col("on_day").between(first - HISTORY_DAYS, last - 1))
            .withColumn("typical", typical)
            .where(F.col("typical").isNotNull())
            .withColumn("day", F.explode(judged_days))
            .select(*HISTORY_COLUMNS, F.floor(F.col("day") / step).cast("bigint").alias("span"))
        )

    return transform


def is_judged() -> Column:
    """Quantities that have a history: powers, energies, temperatures and utilisations of what is in a node."""
    return F.col("node_id").isNotNull() & F.col("quantity").rlike("_(power|energy|temperature|utilisation)$")


def with_usual(readings: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
    """Add `usual`: what the sensor said before the reading's `day`, in the value's unit (counters: W), or null.

    The days of the week before vote: the scale that most of them speak is the sensor's, of equal ones the earlier;
    `usual` is the median of those days. Of a ratio it is the highest of the week, for idle days are honestly near 0.
    """
    if readings.is_empty() or history.is_empty():
        return readings.with_columns(pl.lit(None, pl.Float64).alias("usual"))
    whose = ["day", *SENSOR]
    # Of one day the decade in which most was said.
    past = history.sort(*whose, "on_day", "readings", "typical").unique(
        [*whose, "on_day"], keep="last", maintain_order=True
    )
    other = pl.col("typical_right")
    alike = (
        pl.when(pl.col("quantity").str.ends_with("_temperature"))
        .then((other - pl.col("typical")).abs() <= _ONE_SCALE_C)
        .when(pl.col("quantity").str.ends_with("_utilisation"))
        .then(True)
        .otherwise(
            other.is_between(pl.col("typical") / _ONE_SCALE_RATIO, pl.col("typical") * _ONE_SCALE_RATIO)
        )
    )
    votes = (
        past.join(past.select(*whose, "typical"), on=whose, how="inner")
        .group_by(*whose, "on_day")
        .agg(
            alike.sum().alias("votes"),
            pl.when(pl.col("quantity").first().str.ends_with("_utilisation"))
            .then(other.max())
            .otherwise(other.filter(alike).median())
            .alias("usual"),
        )
    )
    elected = votes.sort(*whose, "votes", "on_day", descending=[False] * 7 + [True]).unique(
        whose, keep="last", maintain_order=True
    )
    return readings.join(elected.select(*whose, "usual"), on=whose, how="left")
