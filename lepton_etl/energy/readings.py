"""bronze/reading -> what the kernels read: narrow rows, repeated into each UTC day that needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import Transform
from lepton_etl.days import Days
from lepton_etl.energy.channels import READING_COLUMNS
from lepton_etl.energy.integrate import MICROSECONDS
from lepton_etl.energy.roster import DAY_US

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
    """The longest step that is bridged between readings of a source. Source: definitions.md section 3."""
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
