"""One number an hour for each kind of fault, from that hour and the ones before; larger is odder.

All take arrays of shape (n,) on an hourly grid with NaN for the unknown and give (n,); NaN where too little is known.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lepton_etl.anomalies.hours import LOAD_EDGES, DeviceHours, Floats, Normal

STUCK_H: Final = 6
STEP_H: Final = 6
IDLE_H: Final = 4
SCALE_H: Final = 48
DRIFT_DAYS: Final = 10
RACK_H: Final = 6
_KNOWN_SHARE: Final = 0.5
# Relative change below which two readings are one: board sensors resolve 0.01 to 1 W.
_REPEAT_RATIO: Final = 1e-6
DAY_H: Final = 24


def trailing(values: Floats, length: int) -> Floats:
    """Windows (n, length) that end with each hour; NaN before the first."""
    padded = np.concatenate([np.full(length - 1, np.nan), values])
    return sliding_window_view(padded, length)


def trailing_mean(value: Floats, weight: Floats, length: int) -> Floats:
    """Weighted mean of the last `length` hours, NaN where under half of them are known."""
    known = np.isfinite(value)
    weighed = np.where(known, value, 0.0) * weight
    sums = [
        np.convolve(one, np.ones(length))[: len(one)] for one in (weighed, weight * known, known.astype(np.float64))
    ]
    enough = sums[2] >= length * _KNOWN_SHARE
    return np.divide(sums[0], sums[1], out=np.full(len(value), np.nan), where=enough & (sums[1] > 0))


def stuck(hours: DeviceHours) -> Floats:
    """How much more the expected energy moved than the measured over STUCK_H hours, in octaves; a repeat adds.

    Variance collapse: log2 of the ratio of the two standard deviations, relative to the means. A sensor that says the very
    same number for the whole window counts more the more the load moved, and is odd even at rest.
    """
    measured, expected = trailing(hours.measured_kwh, STUCK_H), trailing(hours.expected_kwh, STUCK_H)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = expected.std(axis=1) / expected.mean(axis=1)
        seen = measured.std(axis=1) / measured.mean(axis=1)
    floor = 1e-4
    with np.errstate(invalid="ignore"):
        octaves = np.log2((moved + floor) / (seen + floor))
        repeats = np.where(seen < _REPEAT_RATIO, 2.0, 0.0)
    return np.asarray(octaves + repeats)


def shifted(hours: DeviceHours, normal: Normal, length: int) -> Floats:
    """Absolute weighted mean deviation of the log ratio over the last `length` hours."""
    return np.asarray(np.abs(trailing_mean(*normal.deviation(hours), length)))


def drift(hours: DeviceHours, normal: Normal) -> Floats:
    """Absolute slope of the deviation over the last DRIFT_DAYS days, log ratio a week, as far as a line explains it.

    The slope is that of least squares on daily means at each midnight, held until the next, times their correlation:
    a step in the middle is a worse line than a drift.
    """
    daily = trailing_mean(*normal.deviation(hours), DAY_H)
    ends = np.arange(DAY_H - 1, len(daily), DAY_H)
    windows = trailing(daily[ends], DRIFT_DAYS)
    days = np.arange(DRIFT_DAYS) - (DRIFT_DAYS - 1) / 2
    known = np.isfinite(windows)
    level = np.divide(
        np.where(known, windows, 0).sum(axis=1), known.sum(axis=1), out=np.zeros(len(windows)),
        where=known.any(axis=1),
    )  # fmt: skip
    off = np.where(known, windows - level[:, None], 0.0)
    slope = off @ days / (days**2).sum()
    total = np.sqrt((off**2).sum(axis=1) * (days**2).sum())
    correlation = np.divide(np.abs(off @ days), total, out=np.zeros(len(total)), where=total > 0)
    enough = known.sum(axis=1) >= DRIFT_DAYS * 0.7
    per_week = np.where(enough, np.abs(slope) * 7 * correlation, np.nan)
    found = np.full(len(daily), np.nan)
    for number, end in enumerate(ends):
        found[end : end + DAY_H] = per_week[number]
    return found


def idle_but_drawing(hours: DeviceHours, normal: Normal) -> Floats:
    """The least excess over IDLE_H hours of no load; NaN where the device worked in any of them."""
    value, _ = normal.deviation(hours)
    idle = np.where(hours.load_ratio < LOAD_EDGES[0], value, np.nan)
    return np.asarray(trailing(idle, IDLE_H).min(axis=1))


def rack(deviations: Floats, weights: Floats) -> Floats:
    """Signed median over peers of their mean deviation of the last RACK_H hours; inputs (nodes, n), needs 3 peers."""
    means = np.stack([trailing_mean(v, w, RACK_H) for v, w in zip(deviations, weights, strict=True)])
    enough = np.isfinite(means).sum(axis=0) >= 3
    found = np.full(means.shape[1], np.nan)
    if enough.any():
        found[enough] = np.nanmedian(means[:, enough], axis=0)
    return found
