"""Readings of a channel -> integral, observed seconds, lowest and highest value of each interval.

A channel is one sensor of one device. Whatever a sensor speaks (instants, window means, a counter), its
readings become segments over which the value runs in a straight line; segments are cut at interval boundaries
and summed. Arrays are NumPy, one element a reading or segment; times are int64 microseconds since 1970 UTC,
so no second is lost or counted twice. A reading that was refused has the value NaN: it ends the segment
before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches [start, end) of linear value, sorted by channel and start, never overlapping."""

    channel: Ints
    start_us: Ints
    end_us: Ints
    value_start: Floats
    value_end: Floats


@dataclass(frozen=True, slots=True)
class IntervalSums:
    """What each channel says about each interval that it covers at least in part.

    `integral` is the value's unit times seconds (W -> J), `observed_s` never exceeds the interval.
    """

    channel: Ints
    interval_us: Ints
    integral: Floats
    observed_s: Floats
    lowest: Floats
    highest: Floats


def between_instants(channel: Ints, time_us: Ints, value: Floats, max_gap_us: Ints) -> Segments:
    """Segments between consecutive instants of a channel that are at most `max_gap_us` apart.

    Input is sorted by channel and time, without repeats. Source: definitions.md section 3 (trapezoid).
    """
    step_us = np.diff(time_us)
    joined = (channel[1:] == channel[:-1]) & (step_us <= np.maximum(max_gap_us[1:], max_gap_us[:-1]))
    left = np.flatnonzero(joined & np.isfinite(value[1:]) & np.isfinite(value[:-1]))
    right = left + 1
    return Segments(channel[left], time_us[left], time_us[right], value[left], value[right])


def over_windows(channel: Ints, start_us: Ints, window_us: Ints, value: Floats) -> tuple[Segments, Bools]:
    """Segments that cover exactly their window; a window that runs into the next one ends there.

    Returns the segments and, for each reading, whether its window was cut short.
    """
    end_us = start_us + window_us
    cut = np.zeros(len(channel), dtype=np.bool_)
    cut[:-1] = (channel[1:] == channel[:-1]) & (end_us[:-1] > start_us[1:])
    end_us[:-1] = np.where(cut[:-1], start_us[1:], end_us[:-1])
    kept = np.flatnonzero(np.isfinite(value) & (end_us > start_us))
    return Segments(channel[kept], start_us[kept], end_us[kept], value[kept], value[kept]), cut


def between_counts(
    channel: Ints, time_us: Ints, count: Floats, max_gap_us: Ints, max_rate: Floats
) -> tuple[Segments, Bools, Bools]:
    """Segments of constant rate between consecutive counts (J -> W), at most `max_gap_us` apart.

    A falling counter is a reset: the step is uncovered, never negative (a wrap needs a known maximum). A rate
    above `max_rate` (NaN: no limit known) is uncovered too. Returns the segments and, for each reading,
    whether the step that ends at it was a reset, and whether it was too steep.
    """
    step_us = np.diff(time_us)
    rise = np.diff(count)
    same = channel[1:] == channel[:-1]
    near = same & (step_us <= np.maximum(max_gap_us[1:], max_gap_us[:-1])) & np.isfinite(rise)
    rate = np.full(len(step_us), np.nan)
    np.divide(rise * MICROSECONDS, step_us, out=rate, where=near)
    steep = near & (rate > max_rate[1:])
    left = np.flatnonzero(near & (rise >= 0) & ~steep)
    reset_at = np.zeros(len(channel), dtype=np.bool_)
    reset_at[1:] = same & (rise < 0)
    steep_at = np.zeros(len(channel), dtype=np.bool_)
    steep_at[1:] = steep
    return (
        Segments(channel[left], time_us[left], time_us[left + 1], rate[left], rate[left]),
        reset_at,
        steep_at,
    )


def by_interval(segments: Segments, interval_us: int) -> IntervalSums:
    """Cut segments at interval boundaries by linear interpolation and sum them by channel and interval."""
    first = segments.start_us // interval_us
    pieces = (segments.end_us - 1) // interval_us - first + 1
    of = np.repeat(np.arange(len(first)), pieces)
    offset = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    interval = (first[of] + offset) * interval_us
    start, end = segments.start_us[of], segments.end_us[of]
    begin = np.maximum(start, interval)
    stop = np.minimum(end, interval + interval_us)
    value_start, value_end = segments.value_start[of], segments.value_end[of]
    slope = (value_end - value_start) / (end - start)
    # The ends themselves are taken as read: v0 + slope * (t1 - t0) may miss v1 in the last digit.
    value_begin = np.where(begin == start, value_start, value_start + slope * (begin - start))
    value_stop = np.where(stop == end, value_end, value_start + slope * (stop - start))
    seconds = (stop - begin) / MICROSECONDS
    channel = segments.channel[of]
    if not len(of):
        nothing = np.empty(0)
        return IntervalSums(channel, interval, nothing, nothing, nothing, nothing)
    heads = np.flatnonzero(np.r_[True, (channel[1:] != channel[:-1]) | (interval[1:] != interval[:-1])])
    return IntervalSums(
        channel=channel[heads],
        interval_us=interval[heads],
        integral=np.add.reduceat((value_begin + value_stop) / 2 * seconds, heads),
        observed_s=np.add.reduceat(stop - begin, heads) / MICROSECONDS,
        lowest=np.minimum.reduceat(np.minimum(value_begin, value_stop), heads),
        highest=np.maximum.reduceat(np.maximum(value_begin, value_stop), heads),
    )
