"""Readings of a channel -> integral, observed seconds, lowest and highest value of each interval.

A channel is one sensor of one device. Whatever a sensor speaks (instants, window means, a counter), its
readings become segments over which the value runs in a straight line; segments are cut at interval boundaries
and summed. Arrays are NumPy, one element a reading or segment; times are int64 microseconds since 1970 UTC,
so no second is lost or counted twice. A reading that was refused has the value NaN: it ends the segment
before it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MICROSECONDS: Final = 1_000_000
# No device draws more than this times its rating. Source: docs/definitions.md section 8.
RATED_LIMIT_RATIO: Final = 1.5


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches [start, end) of linear value, sorted by channel and start, never overlapping."""

    channel: Ints
    start_us: Ints
    end_us: Ints
    value_start: Floats
    value_end: Floats
    # Squared error of the segment's mean by seeing the value at some moments only (unit of the value squared).
    variance: Floats


@dataclass(frozen=True, slots=True)
class Counted:
    """Segments between counts and, for each reading, what the step that ends at it was.

    wrapped: the counter passed its maximum once. reset: it began anew. ambiguous: it may have wrapped more often than
    can be told. steep: faster than the device can be. All but the first leave the step uncovered.
    """

    segments: Segments
    wrapped: Bools
    reset: Bools
    ambiguous: Bools
    steep: Bools


@dataclass(frozen=True, slots=True)
class IntervalSums:
    """What each channel says about each interval that it covers at least in part.

    `integral` is the value's unit times seconds (W -> J), `observed_s` never exceeds the interval. `sampling` is the
    squared error of `integral` by seeing the value at some moments only; it adds over intervals and channels.
    """

    channel: Ints
    interval_us: Ints
    integral: Floats
    observed_s: Floats
    lowest: Floats
    highest: Floats
    sampling: Floats


def between_instants(channel: Ints, time_us: Ints, value: Floats, max_gap_us: Ints) -> Segments:
    """Segments between consecutive instants of a channel that are at most `max_gap_us` apart.

    Input is sorted by channel and time, without repeats. The mean of the two ends errs by s / sqrt(2), s^2 being half
    the squared difference: of real BMC power taken every third to fifteenth minute that is the measured error.
    Source: docs/definitions.md section 3 (trapezoid); docs/methodology.md, "Sensors and their errors".
    """
    step_us = np.diff(time_us)
    joined = (channel[1:] == channel[:-1]) & (step_us <= np.maximum(max_gap_us[1:], max_gap_us[:-1]))
    left = np.flatnonzero(joined & np.isfinite(value[1:]) & np.isfinite(value[:-1]))
    right = left + 1
    variance = (value[right] - value[left]) ** 2 / 4
    return Segments(channel[left], time_us[left], time_us[right], value[left], value[right], variance)


def over_windows(
    channel: Ints, start_us: Ints, window_us: Ints, value: Floats, spots: Floats
) -> tuple[Segments, Bools]:
    """Segments that cover exactly their window; a window that runs into the next one ends there.

    A window whose mean rests on `spots` moments (NaN: on all of it) errs by s / sqrt(spots), s^2 being half the squared
    difference from the window before, of a channel's first window from the next.
    Returns the segments and, for each reading, whether its window was cut short.
    """
    end_us = start_us + window_us
    cut = np.zeros(len(channel), dtype=np.bool_)
    cut[:-1] = (channel[1:] == channel[:-1]) & (end_us[:-1] > start_us[1:])
    end_us[:-1] = np.where(cut[:-1], start_us[1:], end_us[:-1])
    kept = np.flatnonzero(np.isfinite(value) & (end_us > start_us))
    of, mean, count = channel[kept], value[kept], spots[kept]
    variance = np.zeros(len(kept))
    if np.isfinite(count).any():
        step = np.where(of[1:] == of[:-1], np.diff(mean), np.nan)
        change = np.r_[np.nan, step]
        first = np.isnan(change)
        change[first] = np.r_[step, np.nan][first]
        variance[:] = np.where(np.isfinite(count), change**2 / 2 / count, 0.0)
    return Segments(of, start_us[kept], end_us[kept], mean, mean, variance), cut


def between_counts(
    channel: Ints, time_us: Ints, count: Floats, max_gap_us: Ints, peak: Floats, maximum: Floats
) -> Counted:
    """Segments of constant rate between consecutive counts (J -> W), at most `max_gap_us` apart.

    `peak` is the highest power of the device, `maximum` where its counter begins again at 0; NaN: not known. A falling
    counter has wrapped only if both are known, the step is shorter than maximum / peak, and the energy is at most
    RATED_LIMIT_RATIO x peak x step; else it was reset and the step is uncovered, never negative. A step too long for
    that says nothing, falling or rising. A rate above RATED_LIMIT_RATIO x peak is uncovered too.
    Source: docs/definitions.md section 3.
    """
    step_s = np.diff(time_us) / MICROSECONDS
    rise = np.diff(count)
    same = channel[1:] == channel[:-1]
    gap_s = np.maximum(max_gap_us[1:], max_gap_us[:-1]) / MICROSECONDS
    near = same & (step_s <= gap_s) & np.isfinite(rise)
    # A count above the stated maximum proves it wrong. NaN compares false: nothing is told of the unknown.
    span = np.where(np.maximum(count[1:], count[:-1]) < maximum[1:], maximum[1:], np.nan)
    once = near & (step_s * peak[1:] < span)
    ambiguous = near & (step_s * peak[1:] >= span)
    wrapped = once & (rise < 0) & (rise + span <= RATED_LIMIT_RATIO * peak[1:] * step_s)
    energy = np.where(wrapped, rise + span, rise)
    rate = np.full(len(step_s), np.nan)
    np.divide(energy, step_s, out=rate, where=near)
    steep = near & ~ambiguous & (rate > RATED_LIMIT_RATIO * peak[1:])
    left = np.flatnonzero(near & (energy >= 0) & ~ambiguous & ~steep)

    def at_end(steps: Bools) -> Bools:
        found = np.zeros(len(channel), dtype=np.bool_)
        found[1:] = steps
        return found

    return Counted(
        Segments(
            channel[left], time_us[left], time_us[left + 1], rate[left], rate[left], np.zeros(len(left))
        ),
        wrapped=at_end(wrapped),
        reset=at_end(same & (rise < 0) & ~wrapped & ~ambiguous),
        ambiguous=at_end(ambiguous),
        steep=at_end(steep),
    )


# Segments that are cut at once: temporary arrays of this length stay in the cache of a core.
_BLOCK: Final = 1 << 15


def by_interval(segments: Segments, interval_us: int) -> IntervalSums:
    """Cut segments at interval boundaries by linear interpolation and sum them by channel and interval."""
    channel = segments.channel
    if not len(channel):
        nothing = np.empty(0)
        return IntervalSums(channel, segments.start_us, nothing, nothing, nothing, nothing, nothing)
    # Blocks end between channels, so no sum is torn.
    ends = np.flatnonzero(np.r_[channel[1:] != channel[:-1], True]) + 1
    blocks = ends[np.r_[np.diff(ends // _BLOCK) > 0, True]].tolist()
    parts = [_cut(segments, low, high, interval_us) for low, high in pairwise([0, *blocks])]
    return IntervalSums(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _cut(segments: Segments, low: int, high: int, interval_us: int) -> tuple[Any, ...]:
    """The columns of IntervalSums of the segments from `low` to `high`, whole channels."""
    channel, start, end, value_start, value_end, variance = (
        getattr(segments, name)[low:high] for name in _SEGMENT_COLUMNS
    )
    first = start // interval_us
    pieces = (end - 1) // interval_us - first + 1
    slope = (value_end - value_start) / (end - start)
    if pieces.max() > 1:
        of = np.repeat(np.arange(len(first)), pieces)
        offset = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        channel, start, end, value_start, value_end, variance, slope, first = (
            column[of] for column in (channel, start, end, value_start, value_end, variance, slope, first)
        )
        first = first + offset
    interval = first * interval_us
    begin = np.maximum(start, interval)
    stop = np.minimum(end, interval + interval_us)
    # The ends themselves are taken as read: v0 + slope * (t1 - t0) may miss v1 in the last digit.
    value_begin = np.where(begin == start, value_start, value_start + slope * (begin - start))
    value_stop = np.where(stop == end, value_end, value_start + slope * (stop - start))
    span_us = stop - begin
    seconds = span_us / MICROSECONDS
    heads = np.flatnonzero(np.r_[True, (channel[1:] != channel[:-1]) | (interval[1:] != interval[:-1])])
    return (
        channel[heads],
        interval[heads],
        np.add.reduceat((value_begin + value_stop) / 2 * seconds, heads),
        np.add.reduceat(span_us, heads) / MICROSECONDS,
        np.minimum.reduceat(np.minimum(value_begin, value_stop), heads),
        np.maximum.reduceat(np.maximum(value_begin, value_stop), heads),
        # A segment's error is one; its square is shared by the intervals as its time is.
        np.add.reduceat(variance * ((end - start) / MICROSECONDS) * seconds, heads),
    )


_SEGMENT_COLUMNS: Final = tuple(field.name for field in fields(Segments))
