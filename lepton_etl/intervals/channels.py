"""Readings -> channels (one sensor of one device on one day) -> what each says about each interval.

The input of every kernel is a frame of READING_COLUMNS: those of bronze/reading that energy needs, times in
microseconds, with what the settings say of the reading's source (`max_gap_s`; `counter_max_j`, where its counters
begin again; `spot_samples`, how many moments a window mean rests on) and `file_rank`, which orders files as their
file_id does. `day` (days since 1970) is the day that a reading is read for: near midnight a reading stands there
twice, once for each day, so every day is computed from its own readings alone and comes out the same whatever
range is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.integrate import (
    MICROSECONDS,
    Floats,
    IntervalSums,
    Ints,
    between_counts,
    between_instants,
    by_interval,
    over_windows,
)
from lepton_etl.intervals.plausibility import OUT_OF_RATED

READING_COLUMNS: Final = pl.Schema(
    {
        "day": pl.Int64,
        "node_id": pl.String,
        "device_id": pl.String,
        "quantity": pl.String,
        "sensor": pl.String,
        "statistic": pl.String,
        "value": pl.Float64,
        "window_s": pl.Float64,
        "time_us": pl.Int64,
        "multiplicity": pl.Int32,
        "max_gap_s": pl.Float64,
        "counter_max_j": pl.Float64,
        "spot_samples": pl.Int32,
        "file_rank": pl.Int64,
        "source_position": pl.Int64,
    }
)
CHANNEL: Final = ["day", "node_id", "device_id", "quantity", "sensor", "statistic"]
WINDOWED: Final = ("mean", "min", "max")

COUNTER_WRAP: Final = "counter_wrap"
COUNTER_RESET: Final = "counter_reset"
COUNTER_DOUBLE_WRAP: Final = "counter_double_wrap"
OVERLAP: Final = "overlap"


@dataclass(frozen=True)
class Channels:
    """The channels of a group.

    sensors: channel, CHANNEL columns, multiplicity, resolution_s, resolution (unit of the value; of a counter
    J).
    values: channel, interval_us, integral, observed_s, lowest, highest, sampling.
    marks: day, owner_id, device_id, interval_us, flag: what is odd in an interval.
    """

    sensors: pl.DataFrame
    values: pl.DataFrame
    marks: pl.DataFrame


def resolve_repeats(readings: pl.DataFrame, interval_us: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One reading for each sensor and time, sorted by channel and time, and the count of those that lost.

    The lowest file wins, then the lowest position, so the result depends neither on arrival nor on row order.
    Adds the column `channel`. The second frame has day, owner_id, device_id, interval_us, conflicts: losers
    of another value.
    """
    ordered = numbered(readings).sort("channel", "time_us", "file_rank", "source_position", "value")
    head = (pl.col("channel") != pl.col("channel").shift()) | (pl.col("time_us") != pl.col("time_us").shift())
    ordered = ordered.with_columns(head.fill_null(True).alias("head"))
    winners = ordered.filter(pl.col("head")).drop("head")
    if winners.height == ordered.height:
        lost = ordered.clear()
    else:
        winner_value = pl.when(pl.col("head")).then(pl.col("value")).forward_fill()
        lost = ordered.filter(~pl.col("head") & (pl.col("value") != winner_value))
    conflicts = (
        lost.group_by("day", "owner_id", "device_id", interval_of("time_us", interval_us))
        .len("conflicts")
        .with_columns(pl.col("conflicts").cast(pl.Int64))
    )
    return winners, conflicts


def numbered(readings: pl.DataFrame) -> pl.DataFrame:
    """Add `channel`, the number of the sensor in the order of CHANNEL, or make it anew."""
    keys = readings.select(CHANNEL).unique().sort(CHANNEL).with_row_index("channel")
    bare = readings.drop("channel", strict=False)
    return bare.join(keys, on=CHANNEL, how="left").with_columns(pl.col("channel").cast(pl.Int64))


def interval_of(column: str, interval_us: int) -> pl.Expr:
    """The start of the interval that holds a time, as `interval_us`."""
    return (pl.col(column) // interval_us * interval_us).alias("interval_us")


def integrate_channels(readings: pl.DataFrame, interval_us: int) -> Channels:
    """Integrate repeat-free readings with `peak_w`, sorted by `channel` and time, each by its statistic."""
    statistic = readings["statistic"]
    instants = readings.filter(statistic == "instant")
    windows = readings.filter(statistic.is_in(WINDOWED))
    counts = readings.filter(statistic == "counter")
    joined = between_instants(
        _ints(instants, "channel"), _ints(instants, "time_us"), _floats(instants), _gap_us(instants)
    )
    covered, cut = over_windows(
        _ints(windows, "channel"),
        _ints(windows, "time_us"),
        _microseconds(windows, "window_s"),
        _floats(windows),
        _known(windows, "spot_samples"),
    )
    counted = between_counts(
        _ints(counts, "channel"),
        _ints(counts, "time_us"),
        _floats(counts),
        _gap_us(counts),
        _known(counts, "peak_w"),
        _known(counts, "counter_max_j"),
    )
    sums = [_frame(by_interval(segments, interval_us)) for segments in (joined, covered, counted.segments)]
    marks = [
        marks_of(windows.filter(cut), OVERLAP, interval_us),
        marks_of(counts.filter(counted.wrapped), COUNTER_WRAP, interval_us),
        *(
            # The lost step may begin in the interval before: both lose seconds by it.
            marks_of(at.filter(lost), flag, interval_us)
            for at in (counts, counts.with_columns(pl.col("time_us").shift()))
            for lost, flag in (
                (counted.reset, COUNTER_RESET),
                (counted.ambiguous, COUNTER_DOUBLE_WRAP),
                (counted.steep, OUT_OF_RATED),
            )
        ),
    ]
    return Channels(sensors=_sensors(readings), values=pl.concat(sums), marks=pl.concat(marks))


def _sensors(readings: pl.DataFrame) -> pl.DataFrame:
    """Identity of each channel, the median distance of its readings and its detected resolution."""
    identity = readings.group_by("channel", maintain_order=True).agg(
        *(pl.col(name).first() for name in CHANNEL),
        pl.col("multiplicity").max(),
        pl.when(pl.col("statistic").first().is_in(WINDOWED))
        .then(pl.col("window_s").median())
        .otherwise(pl.col("time_us").diff().median() / MICROSECONDS)
        .alias("resolution_s"),
        pl.col("supply_resolution").first(),
    )
    measured = readings.filter(pl.col("value").is_finite())
    resolution = pl.DataFrame(
        resolution_by_channel(
            _ints(measured, "channel"), _floats(measured), (measured["statistic"] == "counter").to_numpy()
        ),
        schema={"channel": pl.Int64, "detected": pl.Float64},
    )
    return identity.join(resolution, on="channel", how="left").select(
        "channel", *CHANNEL, "multiplicity", "resolution_s",
        pl.coalesce("supply_resolution", "detected").alias("resolution"),
    )  # fmt: skip


def resolution_by_channel(channel: Ints, value: Floats, is_counter: np.ndarray) -> tuple[Ints, Floats]:
    """The step in which each sensor speaks: the smallest difference between its distinct values.

    A sensor that never changes shows no difference: there the last digit of its value counts (10 W of 280 W,
    1 W of 0 W). Of a counter, whose differences are energies, it is the greatest common divisor of its steps
    in mJ.
    """
    found = np.unique(channel)
    steps = np.empty(len(found))
    order = np.lexsort((value, channel))
    bounds = (
        np.searchsorted(channel[order], found, side="left"),
        np.searchsorted(channel[order], found, side="right"),
    )
    ordered, counting = value[order], is_counter[order]
    for index, (low, high) in enumerate(zip(*bounds, strict=True)):
        distinct = np.unique(np.round(ordered[low:high], 6))
        if counting[low]:
            steps[index] = np.gcd.reduce(np.rint((distinct - distinct[0]) * 1000).astype(np.int64)) / 1000
        elif len(distinct) > 1:
            steps[index] = np.diff(distinct).min()
        else:
            steps[index] = _last_digit(float(distinct[0]))
    return found, steps


def _last_digit(value: float) -> float:
    """The power of ten of the last digit that is not 0; 1 of 0."""
    if value == 0:
        return 1.0
    whole, power = round(abs(value) * 1e6), -6
    while whole % 10 == 0:
        whole, power = whole // 10, power + 1
    return 10.0**power


def _frame(sums: IntervalSums) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "channel": sums.channel,
            "interval_us": sums.interval_us,
            "integral": sums.integral,
            "observed_s": sums.observed_s,
            "lowest": sums.lowest,
            "highest": sums.highest,
            "sampling": sums.sampling,
        }
    )


def marks_of(readings: pl.DataFrame, flag: str | pl.Expr, interval_us: int) -> pl.DataFrame:
    """A mark on the interval of each reading, for the row of its owner and device."""
    value = pl.lit(flag) if isinstance(flag, str) else flag
    return readings.select(
        "day", "owner_id", "device_id", interval_of("time_us", interval_us), value.alias("flag")
    )


def _ints(readings: pl.DataFrame, column: str) -> Ints:
    found: Ints = readings[column].to_numpy()
    return found


def _floats(readings: pl.DataFrame) -> Floats:
    return readings["value"].to_numpy()


def _known(readings: pl.DataFrame, column: str) -> Floats:
    """A column that is not always known, the unknown as NaN."""
    found: Floats = readings[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return found


def _microseconds(readings: pl.DataFrame, column: str) -> Ints:
    found: Ints = np.rint(readings[column].to_numpy() * MICROSECONDS).astype(np.int64)
    return found


def _gap_us(readings: pl.DataFrame) -> Ints:
    return _microseconds(readings, "max_gap_s")
