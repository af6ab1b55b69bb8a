"""A ridge that learns from other zones too: what follows a shape of the last week is much alike where the sun is.

Every zone is taken relative to its own week and its own spread, by its solar hour; other zones count less than the
own one. Nothing stamped at or after an origin is looked at, in any zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.forecast.grid_intensity import (
    DAY_H,
    RIDGE_FADE_PER_DAY,
    RIDGE_INTERACTION,
    RIDGE_PENALTY,
    WEEK_H,
    Floats,
    ZoneSeries,
    at_hours,
    targets,
)

# Chosen on the EIA-930 series of 2022 alone: see bench/savings_shift.py.
OTHERS_WEIGHT: Final = 0.2
REFIT_H: Final = WEEK_H
_WEEK_WAVES: Final = 3
_LEVEL_WEEKS: Final = 4
_LEAST_H: Final = 3 * WEEK_H


@dataclass(frozen=True, slots=True)
class PooledZone:
    """A zone's series and by how many whole hours its solar time is behind UTC (west is positive)."""

    series: ZoneSeries
    behind_utc_h: int


def pooled_ridge(zone: PooledZone, others: Sequence[PooledZone], first: int, horizons: int = DAY_H) -> Floats:
    """Forecasts (origins, horizons) of origins `first` to the series' length, g/kWh; NaN where a lag is unknown.

    Learns anew every week from all origins whose `horizons` had come true. Zones with less than three weeks before
    `first` are left out. Source: Hoerl and Kennard, Technometrics 12 (1970), on weighted rows.
    """
    length = len(zone.series.known)
    own = _Rows.of(zone, zone.series, first, horizons)
    if own is None:
        raise ValueError(f"origin at row {first}; {_LEAST_H} hours before it are needed")
    pool = [(1.0, own)] + [
        (OTHERS_WEIGHT, rows)
        for rows in (_Rows.of(other, zone.series, first, horizons) for other in others)
        if rows is not None
    ]
    found = np.full((length + 1 - first, horizons), np.nan)
    columns = own.x.shape[1]
    gram, moment = np.zeros((columns, columns)), np.zeros((columns, horizons))
    done = -(10**9)
    for start in range(first, length + 1, REFIT_H):
        for weight, rows in pool:
            new = (rows.known_at > done) & (rows.known_at <= start)
            gram += weight * rows.x[new].T @ rows.x[new]
            moment += weight * rows.x[new].T @ rows.y[new]
        done = start
        stiff = gram.copy()
        stiff[np.diag_indices_from(stiff)] += RIDGE_PENALTY * np.trace(gram) / columns
        origins = np.arange(start, min(start + REFIT_H, length + 1))
        x, level = _inputs(zone, origins, own.scale)
        found[origins - first] = x @ np.linalg.solve(stiff, moment) * own.scale + level[:, None]
    return found


@dataclass(frozen=True, slots=True)
class _Rows:
    """Inputs and targets of a zone, in its own spread; `known_at` is the row of the asking zone by which they are."""

    x: Floats
    y: Floats
    known_at: NDArray[np.int64]
    scale: float

    @staticmethod
    def of(zone: PooledZone, asking: ZoneSeries, first: int, horizons: int) -> _Rows | None:
        series = zone.series
        shift = asking.position(series.first_hour)
        before = series.known[: max(first - shift, 0)]
        if np.isfinite(before).sum() < _LEAST_H:
            return None
        scale = float(np.nanstd(before)) or 1.0
        origins = np.arange(WEEK_H, len(series.known) - horizons + 1)
        x, level = _inputs(zone, origins, scale)
        y = (targets(series.target, origins, horizons) - level[:, None]) / scale
        usable = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1)
        return _Rows(x[usable], y[usable], (origins + horizons + shift)[usable], scale)


def _inputs(zone: PooledZone, origins: NDArray[np.int64], scale: float) -> tuple[Floats, Floats]:
    """Inputs (origins, columns) in the zone's spread, and the mean of the last week, g/kWh."""
    known, back = zone.series.known, np.arange(1, WEEK_H + 1)
    lags = at_hours(known, origins[:, None] - back[None, :])
    level = lags.mean(axis=1)
    deviation = (lags - level[:, None]) / scale
    fade = np.exp(-RIDGE_FADE_PER_DAY * (back - 1) / DAY_H)
    solar = origins - zone.behind_utc_h
    hour = np.eye(DAY_H)[solar % DAY_H]
    phase = 2 * np.pi * (solar % WEEK_H) / WEEK_H
    waves = [f(k * phase) for k in range(1, _WEEK_WAVES + 1) for f in (np.sin, np.cos)]
    day = deviation[:, :DAY_H].mean(axis=1, keepdims=True)
    # Where the week lies among the last four; a shorter past counts as it is.
    weeks = at_hours(known, origins[:, None] - np.arange(1, _LEVEL_WEEKS * WEEK_H + 1)[None, :])
    count = np.maximum(np.isfinite(weeks).sum(axis=1), 1)
    drift = ((level - np.nansum(weeks, axis=1) / count) / scale)[:, None]
    parts = [
        deviation * fade, hour, np.column_stack(waves), hour * day * RIDGE_INTERACTION,
        hour * deviation[:, :1] * RIDGE_INTERACTION, drift, hour * drift,
    ]  # fmt: skip
    return np.column_stack(parts), level
