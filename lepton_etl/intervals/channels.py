"""Readings -> channels (one sensor of one device on one day) -> what each says about each interval.

The input of every kernel is a table of READING_COLUMNS: those of bronze/reading that energy needs, times in
microseconds, with what the settings say of the reading's source (`max_gap_s`; `counter_max_j`, where its counters
begin again; `spot_samples`, how many moments a window mean rests on) and `file_rank`, which orders files as their
file_id does. `day` (days since 1970) is the day that a reading is read for: near midnight a reading stands there
twice, once for each day, so every day is computed from its own readings alone and comes out the same whatever
range is asked.

A kernel takes the readings of many nodes at once. Names are looked at once a channel: a reading carries the number
of its channel, and what holds for all readings of a channel stands in a table of one line a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.intervals.integrate import (
    MICROSECONDS,
    Bools,
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
DAY_US: Final = 86_400_000_000
CHANNEL: Final = ["day", "node_id", "device_id", "quantity", "sensor", "statistic"]
# What a reading carries beside the number of its channel; `peak_w` where it is not the same for all of a channel.
MEASURED: Final = (
    "time_us",
    "value",
    "window_s",
    "multiplicity",
    "max_gap_s",
    "counter_max_j",
    "spot_samples",
)
WINDOWED: Final = ("mean", "min", "max")

COUNTER_WRAP: Final = "counter_wrap"
COUNTER_RESET: Final = "counter_reset"
COUNTER_DOUBLE_WRAP: Final = "counter_double_wrap"
OVERLAP: Final = "overlap"

# Up to here the combinations of two columns of codes are counted in an array, beyond by sorting.
_MOST_COMBINATIONS: Final = 1 << 24
# Two codes in one signed integer.
_KEY_BITS: Final = 62
_MOST_MILLIONTHS: Final = 2.0**62
_LAST_DIGITS: Final = tuple(10.0**power for power in range(-6, 16))


@dataclass(frozen=True)
class Channels:
    """The channels of a group.

    sensors: channel, CHANNEL columns, multiplicity, resolution_s, resolution (unit of the value; of a counter J), and
    what else the caller knows of each. values: channel, interval_us, integral, observed_s, lowest, highest, sampling.
    marks: channel, interval_us, flag: what is odd in an interval.
    """

    sensors: pl.DataFrame
    values: pl.DataFrame
    marks: pl.DataFrame


def by_channel(
    readings: pa.Table, place: Callable[[pl.DataFrame], pl.DataFrame] = lambda sensors: sensors
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the sensors (channel, CHANNEL columns), sorted, and the readings by channel and time, repeats and all.

    `place` may move sensors to other devices and add columns; what it makes alike becomes one channel, of which the
    first line holds. Of one channel and time the lowest file comes first, then the lowest position, then the lowest
    value, so the order depends neither on arrival nor on row order.
    """
    days = readings["day"].to_numpy()
    coded = [codes_of(readings[name]) for name in CHANNEL[1:]]
    number, first = _numbered([days - days.min(), *(codes for codes, _ in coded)])
    names = {
        name: pl.Series(values.take(arrow_of(codes[first])), dtype=pl.String)
        for name, (codes, values) in zip(CHANNEL[1:], coded, strict=True)
    }
    raw = place(pl.DataFrame({"day": pl.Series(days[first], dtype=pl.Int64), **names}))
    sensors = (
        raw.with_row_index("raw")
        .sort(*CHANNEL, "raw")
        .with_columns(
            (pl.struct(CHANNEL) != pl.struct(CHANNEL).shift()).fill_null(True).cum_sum().alias("channel")
        )
        .with_columns(pl.col("channel").cast(pl.Int64) - 1)
    )
    channel_of = np.empty(sensors.height, dtype=np.int64)
    channel_of[sensors["raw"].to_numpy()] = sensors["channel"].to_numpy()
    channel = channel_of[number]
    order = _order(channel, readings)
    frame = pl.DataFrame(readings.drop_columns(CHANNEL)).with_columns(channel=pl.Series(channel))[order]
    return sensors.unique("channel", keep="first", maintain_order=True).drop("raw"), frame


def arrow_of(values: np.ndarray) -> pa.Array:
    """Return an array as Arrow, NaN as it is; pyarrow's own way imports pandas, a second of each process."""
    return pl.Series(values).to_arrow()


def coded(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """Return a column of names as one dictionary array."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array: pa.DictionaryArray = encoded.unify_dictionaries().combine_chunks()
    return array


def codes_of(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """Return the code of each row of a column of names, and the names by code, of which the last is null."""
    if not len(column):
        return np.empty(0, dtype=np.int64), pa.nulls(1, pa.string())
    array = coded(column)
    values = pa.concat_arrays([array.dictionary.cast(pa.string()), pa.nulls(1, pa.string())])
    codes: Ints = pl.Series(array.indices).fill_null(len(values) - 1).cast(pl.Int64).to_numpy()
    return codes, values


def _numbered(parts: Sequence[Ints]) -> tuple[Ints, Ints]:
    """The number of each row's combination of codes, and for each number a row that has it."""
    number = parts[0]
    for part in parts[1:]:
        number = _dense(number * (int(part.max()) + 1) + part)
    first = np.empty(int(number.max()) + 1, dtype=np.int64)
    first[number[::-1]] = np.arange(len(number) - 1, -1, -1)
    return number, first


def _dense(code: Ints) -> Ints:
    """The codes without the numbers that nobody has, in their order."""
    top = int(code.max()) + 1
    if top > max(_MOST_COMBINATIONS, len(code)):
        return np.unique(code, return_inverse=True)[1].astype(np.int64)
    present = np.zeros(top, dtype=np.bool_)
    present[code] = True
    dense: Ints = np.cumsum(present, dtype=np.int64)
    return dense[code] - 1


def _order(channel: Ints, readings: pa.Table) -> Ints:
    """Rows by channel, time, file, position and value."""
    time_us = readings["time_us"].to_numpy()
    since = time_us - time_us.min()
    bits = int(since.max()).bit_length()
    if int(channel.max()).bit_length() + bits > _KEY_BITS:
        return np.lexsort([*_ties(readings, slice(None)), time_us, channel])
    key = (channel << bits) | since
    order = np.argsort(key)
    ordered = key[order]
    again = ordered[1:] == ordered[:-1]
    if again.any():
        # Few readings are repeats: only they need the other columns.
        tied = np.zeros(len(order), dtype=np.bool_)
        tied[1:] = again
        tied[:-1] |= again
        rows = order[tied]
        order[tied] = rows[np.lexsort([*_ties(readings, rows), key[rows]])]
    return order


def _ties(readings: pa.Table, rows: Ints | slice) -> list[np.ndarray]:
    return [readings[name].to_numpy()[rows] for name in ("value", "source_position", "file_rank")]


def resolve_repeats(ordered: pl.DataFrame, interval_us: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One reading for each channel and time, of what `by_channel` gave, and the count of those that lost.

    The lowest file wins, then the lowest position. The second frame has channel, interval_us, conflicts: losers of
    another value.
    """
    channel, time_us = ordered["channel"].to_numpy(), ordered["time_us"].to_numpy()
    head = np.ones(len(channel), dtype=np.bool_)
    head[1:] = (channel[1:] != channel[:-1]) | (time_us[1:] != time_us[:-1])
    if head.all():
        lost = ordered.clear()
        winners = ordered
    else:
        winners = ordered.filter(head)
        value = ordered["value"].to_numpy()
        of_winner = winners["value"].to_numpy()[np.cumsum(head) - 1]
        lost = ordered.filter(~head & (value != of_winner))
    conflicts = (
        lost.group_by("channel", interval_of("time_us", interval_us))
        .len("conflicts")
        .with_columns(pl.col("conflicts").cast(pl.Int64))
    )
    return winners.drop("file_rank", "source_position"), conflicts


def interval_of(column: str, interval_us: int) -> pl.Expr:
    """The start of the interval that holds a time, as `interval_us`."""
    return (pl.col(column) // interval_us * interval_us).alias("interval_us")


def runs_of(channel: Ints) -> Ints:
    """Where each run of one channel begins."""
    starts: Ints = np.flatnonzero(np.r_[True, channel[1:] != channel[:-1]]) if len(channel) else channel
    return starts


def integrate_channels(readings: pl.DataFrame, sensors: pl.DataFrame, interval_us: int) -> Channels:
    """Integrate repeat-free readings (channel, MEASURED), by channel and time, each by its statistic.

    `sensors` has a line for each channel in the order of its number, with `statistic`, `peak_w` (where readings do not
    say it) and `supply_resolution`; it comes back with multiplicity, resolution_s and resolution.
    """
    channel = readings["channel"].to_numpy()
    statistic = sensors["statistic"]
    windowed, counting = (statistic.is_in(names).to_numpy()[channel] for names in (WINDOWED, ("counter",)))
    instants = _chosen(readings, ~windowed & ~counting & (statistic == "instant").to_numpy()[channel])
    windows, counts = _chosen(readings, windowed), _chosen(readings, counting)
    if "peak_w" in counts.columns:
        peak = _known(counts, "peak_w")
    else:
        peak = _known(sensors, "peak_w")[_ints(counts, "channel")]
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
        peak,
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
    return Channels(with_resolutions(sensors, readings), values=pl.concat(sums), marks=pl.concat(marks))


def _chosen(readings: pl.DataFrame, chosen: Bools) -> pl.DataFrame:
    return readings if chosen.all() else readings.filter(chosen)


def with_resolutions(sensors: pl.DataFrame, readings: pl.DataFrame) -> pl.DataFrame:
    """Add the multiplicity of each channel, the median distance of its readings and its resolution."""
    channel = readings["channel"].to_numpy()
    starts = runs_of(channel)
    of_channel = (
        readings.group_by("channel", maintain_order=True).agg(pl.col("multiplicity").max())
        .with_columns(
            window_s=pl.Series(_medians(_microseconds(readings, "window_s"), starts)) / MICROSECONDS,
            step_s=pl.Series(_steps(channel, readings["time_us"].to_numpy(), starts), nan_to_null=True) / MICROSECONDS,
        )
    )  # fmt: skip
    counting = (sensors["statistic"] == "counter").to_numpy()
    measured = np.isfinite(readings["value"].to_numpy())
    numbers, steps = resolution_by_channel(channel[measured], _floats(readings)[measured], counting)
    resolution = pl.DataFrame({"channel": numbers, "detected": steps})
    windowed = pl.col("statistic").is_in(WINDOWED)
    return (
        sensors.join(of_channel, on="channel", how="left", maintain_order="left")
        .join(resolution, on="channel", how="left", maintain_order="left")
        .with_columns(
            pl.when(windowed).then("window_s").otherwise("step_s").alias("resolution_s"),
            pl.coalesce("supply_resolution", "detected").alias("resolution"),
        )
        .drop("window_s", "step_s", "detected", "supply_resolution")
    )


def _steps(channel: Ints, time_us: Ints, starts: Ints) -> Floats:
    """The median distance of the readings of each channel; NaN where there is one reading."""
    later = np.ones(len(channel), dtype=np.bool_)
    later[starts] = False
    step = np.diff(time_us, prepend=0)[later]
    found = np.full(len(starts), np.nan)
    several = np.diff(starts, append=len(channel)) > 1
    found[several] = _medians(step, (starts - np.arange(len(starts)))[several])
    return found


def _medians(value: Ints, starts: Ints) -> Floats:
    """The median of each run of values."""
    if not len(value):
        return np.empty(0)
    sizes = np.diff(starts, append=len(value))
    if (np.maximum.reduceat(value, starts) == np.minimum.reduceat(value, starts)).all():
        return value[starts].astype(np.float64)
    _, ordered = _sorted(np.repeat(np.arange(len(starts)), sizes), value)
    median: Floats = (ordered[starts + (sizes - 1) // 2] + ordered[starts + sizes // 2]) / 2
    return median


def _sorted(channel: Ints, value: Ints) -> tuple[Ints, Ints]:
    """Both by channel and value: one sort of integers where they fit into one, in a fifth of the time of two."""
    low = int(value.min())
    bits = (int(value.max()) - low).bit_length()
    if int(channel.max()).bit_length() + bits > _KEY_BITS:
        order = np.lexsort((value, channel))
        return channel[order], value[order]
    key = np.sort((channel << bits) | (value - low))
    return key >> bits, (key & ((1 << bits) - 1)) + low


def resolution_by_channel(channel: Ints, value: Floats, counting: Bools) -> tuple[Ints, Floats]:
    """The channels and the step in which each speaks: the smallest difference between its distinct values.

    Readings come channel by channel. A sensor that never changes shows no difference: there the last digit of its
    value counts (10 W of 280 W, 1 W of 0 W). Of a counter (`counting` by channel), whose differences are energies, it
    is the greatest common divisor of its steps in mJ.
    """
    if not len(channel):
        return channel, value
    millionths = np.rint(np.clip(value * 1e6, -_MOST_MILLIONTHS, _MOST_MILLIONTHS)).astype(np.int64)
    of, whole = _sorted(*_without_repeats(channel, millionths))
    of, whole = _without_repeats(of, whole)
    said = whole / 1e6
    starts = runs_of(of)
    numbers = of[starts]
    sizes = np.diff(starts, append=len(of))
    step = np.diff(said, prepend=0.0)
    step[starts] = np.inf
    steps = np.minimum.reduceat(step, starts)
    single = sizes == 1
    steps[single] = _last_digits(said[starts[single]])
    counts = counting[numbers]
    if counts.any():
        since_first = np.rint((said - np.repeat(said[starts], sizes)) * 1000)
        millijoules = np.where(np.repeat(counts, sizes), since_first, 0.0).astype(np.int64)
        steps[counts] = np.gcd.reduceat(millijoules, starts)[counts] / 1000
    return numbers, steps


def _without_repeats(channel: Ints, value: Ints) -> tuple[Ints, Ints]:
    """Both without what was said right before: most sensors repeat themselves."""
    new = np.ones(len(channel), dtype=np.bool_)
    new[1:] = (channel[1:] != channel[:-1]) | (value[1:] != value[:-1])
    return channel[new], value[new]


def _last_digits(values: Floats) -> Floats:
    """The power of ten of the last digit that is not 0 of each value; 1 of 0."""
    whole = np.rint(np.abs(values) * 1e6)
    found = np.ones(len(values))
    open_ = whole > 0
    for power in _LAST_DIGITS:
        found[open_] = power
        open_ &= whole % 10 == 0
        if not open_.any():
            break
        whole = np.where(open_, whole / 10, whole)
    return found


def _frame(sums: IntervalSums) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "channel": sums.channel,
            "interval_us": sums.interval_us,
            "integral": sums.integral,
            "observed_s": sums.observed_s,
            "lowest": sums.lowest,
            "highest": sums.highest,
            # A lone window of spot samples has no other to differ from: its error is not known.
            "sampling": pl.Series(sums.sampling, nan_to_null=True),
        }
    )


def marks_of(readings: pl.DataFrame, flag: str | pl.Expr, interval_us: int) -> pl.DataFrame:
    """A mark on the interval of each reading."""
    value = pl.lit(flag) if isinstance(flag, str) else flag
    return readings.select("channel", interval_of("time_us", interval_us), value.alias("flag"))


def _ints(readings: pl.DataFrame, column: str) -> Ints:
    found: Ints = readings[column].to_numpy()
    return found


def _floats(readings: pl.DataFrame) -> Floats:
    return readings["value"].to_numpy()


def _known(readings: pl.DataFrame, column: str) -> Floats:
    """A column that is not always known, the unknown as NaN."""
    values = readings[column]
    if values.null_count() == len(values):
        return np.full(len(values), np.nan)
    found: Floats = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return found


def _microseconds(readings: pl.DataFrame, column: str) -> Ints:
    found: Ints = np.rint(readings[column].to_numpy() * MICROSECONDS).astype(np.int64)
    return found


def _gap_us(readings: pl.DataFrame) -> Ints:
    return _microseconds(readings, "max_gap_s")
