"""One number an hour for each kind of fault, from that hour and the ones before; larger is odder.

All take arrays of shape (n,) on an hourly grid with NaN for the unknown and give (n,); NaN where too little is known.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lepton_etl.anomalies.hours import LOAD_EDGES, DeviceHours, Floats, Normal, bins, weighted_median

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
# Levels: how many earlier hours make one, how many must be known, and how far back `earlier` begins.
NEIGHBOURS: Final = 12
MIN_LEVEL_HOURS: Final = 120
BLOCK_H: Final = 30 * DAY_H
_DRIFT_SHARE: Final = 0.3


def trailing(values: Floats, length: int) -> Floats:
    """Windows (n, length) that end with each hour; NaN before the first."""
    padded = np.concatenate([np.full(length - 1, np.nan), values])
    return np.asarray(sliding_window_view(padded, length), dtype=np.float64)


def trailing_mean(value: Floats, weight: Floats, length: int) -> Floats:
    """Weighted mean of the last `length` hours, NaN where under half of them are known."""
    known = np.isfinite(value)
    weighed = np.where(known, value, 0.0) * weight
    sums = [
        np.convolve(one, np.ones(length))[: len(one)]
        for one in (weighed, weight * known, known.astype(np.float64))
    ]
    enough = sums[2] >= length * _KNOWN_SHARE
    where = enough & (sums[1] > 0)
    return np.asarray(np.divide(sums[0], sums[1], out=np.full(len(value), np.nan), where=where))


def stuck(hours: DeviceHours) -> Floats:
    """How much more the expected energy moved than the measured over STUCK_H hours, in octaves; a repeat adds.

    Variance collapse: log2 of the ratio of the two standard deviations, relative to the means. A sensor that says
    the very same number for the whole window counts more the more the load moved, and is odd even at rest.
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
    """Absolute weighted mean deviation of the log ratio over the last `length` hours, of hours under load."""
    value, weight = normal.deviation(hours)
    loaded = hours.load_ratio >= LOAD_EDGES[0]
    return np.asarray(np.abs(trailing_mean(np.where(loaded, value, np.nan), weight * loaded, length)))


def strange_level(hours: DeviceHours, length: int) -> Floats:
    """How far idle levels of the last `length` hours lie from any level that the device has idled at before.

    Idle power has levels (clocks, resident contexts) that come and go: a level seen before is normal however far it is
    from the mean. The distance in log energy to the NEIGHBOURS-th nearest earlier idle hour, and that in log ratio,
    whichever is less; the median over the window. Earlier means before the hour's own block of BLOCK_H hours.
    """
    idle = (hours.load_ratio < LOAD_EDGES[0]) & (hours.measured_kwh > 0)
    level = np.log(np.where(idle, hours.measured_kwh, np.nan))
    ratio = np.where(idle, hours.log_ratio, np.nan)
    strange = np.minimum(_novelty(level), _novelty(ratio))
    windows = trailing(strange, length)
    enough = np.isfinite(windows).sum(axis=1) >= length * _KNOWN_SHARE
    found = np.full(len(strange), np.nan)
    if enough.any():
        found[enough] = np.nanmedian(windows[enough], axis=1)
    return found


def _novelty(values: Floats) -> Floats:
    """Distance to the NEIGHBOURS-th nearest value of earlier blocks, (n,); counted from the end, so that the newest
    block is whole."""
    found = np.full(len(values), np.nan)
    for end in range(len(values), 0, -BLOCK_H):
        start = max(0, end - BLOCK_H)
        known = np.sort(values[:start][np.isfinite(values[:start])])
        if len(known) < MIN_LEVEL_HOURS:
            break
        asked = values[start:end]
        at = np.searchsorted(known, asked)
        best = np.full(len(asked), np.inf)
        for shift in range(NEIGHBOURS + 1):
            low = np.clip(at - shift, 0, len(known) - NEIGHBOURS)
            ends = np.maximum(np.abs(known[low] - asked), np.abs(known[low + NEIGHBOURS - 1] - asked))
            best = np.minimum(best, ends)
        found[start:end] = np.where(np.isfinite(asked), best, np.nan)
    return found


def drift(hours: DeviceHours, normal: Normal) -> Floats:
    """Absolute median change from one day to the next over the last DRIFT_DAYS days, log ratio a week.

    Hours are held against the same hour of the day before, in the same load bin, each pair weighing as its bin is calm.
    Work that starts and ends, and levels that jump, change few pairs; a gain that creeps changes all of them. After the
    idea of Theil and Sen; one value each midnight, held until the next.
    """
    value, weight = normal.deviation(hours)
    at = bins(hours.load_ratio)
    change = np.full(len(value), np.nan)
    change[DAY_H:] = np.where(at[DAY_H:] == at[:-DAY_H], value[DAY_H:] - value[:-DAY_H], np.nan)
    window = DRIFT_DAYS * DAY_H
    found = np.full(len(value), np.nan)
    for end in range(window, len(value) + 1, DAY_H):
        part = slice(end - window, end)
        known = np.isfinite(change[part])
        if known.sum() >= window * _DRIFT_SHARE:
            per_day = weighted_median(change[part][known], np.sqrt(weight[part][known]))
            found[end - 1 : end - 1 + DAY_H] = abs(per_day) * 7
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
