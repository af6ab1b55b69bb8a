"""A zone's hours on a gapless grid, what is known of them, and their lags."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HORIZONS: Final = 96
DAY_H: Final = 24
WEEK_H: Final = 168
_HOUR: Final = timedelta(hours=1)
# An hour with no value looks at the same hour of so many days before; beyond that it stays unknown.
_FILL_DAYS: Final = 14


@dataclass(frozen=True, slots=True)
class ZoneSeries:
    """Intensity of one zone from `first_hour` on, g/kWh, shape (n,).

    `known` feeds lags: as published, a hole filled from the same hour of the days before, never from later ones.
    `target` trains and scores: NaN where the publisher said nothing or only estimated.
    """

    first_hour: datetime
    known: Floats
    target: Floats

    def position(self, at: datetime) -> int:
        """Row of the hour that begins at `at`; may lie after the series."""
        return round((at - self.first_hour) / _HOUR)

    def hour(self, position: int) -> datetime:
        return self.first_hour + position * _HOUR


def zone_series(hours: pl.DataFrame, until: datetime | None = None) -> ZoneSeries:
    """The series of one zone from silver/grid_hour (hour_start, carbon_intensity_gco2e_per_kwh, estimated).

    Missing rows and NaN are holes; so are hours after the last row and before `until`, published late. Raises
    ValueError for no row, or two rows of one hour.
    """
    rows = hours.sort("hour_start")
    if not rows.height:
        raise ValueError("no hour of grid intensity")
    starts = rows["hour_start"]
    if starts.n_unique() != rows.height:
        raise ValueError("an hour of grid intensity stands twice: choose one basis, signal and flow")
    first: datetime = starts[0]
    at = (rows.select((pl.col("hour_start") - first).dt.total_hours()).to_series()).to_numpy()
    length: int = int(at[-1]) + 1
    if until is not None:
        length = max(round((until - first) / _HOUR), length)
    published = np.full(length, np.nan)
    published[at] = rows["carbon_intensity_gco2e_per_kwh"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    published[~np.isfinite(published)] = np.nan
    estimated = np.zeros(len(published), dtype=bool)
    estimated[at] = rows["estimated"].fill_null(False).to_numpy()
    return ZoneSeries(first, filled(published), np.where(estimated, np.nan, published))


def filled(published: Floats) -> Floats:
    """Holes take the newest value of the same hour of the day, at most two weeks old; causal. Shape (n,)."""
    known = published.copy()
    for at in np.flatnonzero(np.isnan(published)):
        earlier = known[at - DAY_H * np.arange(1, min(_FILL_DAYS, int(at) // DAY_H) + 1)]
        found = earlier[np.isfinite(earlier)]
        if len(found):
            known[at] = found[0]
    return known


def at_hours(values: Floats, positions: NDArray[np.int64]) -> Floats:
    """Values at positions of any shape; NaN outside the series."""
    inside = (positions >= 0) & (positions < len(values))
    return np.where(inside, values[np.clip(positions, 0, len(values) - 1)], np.nan)


def targets(values: Floats, origins: NDArray[np.int64], horizons: int = HORIZONS) -> Floats:
    """What came true for each origin, shape (origins, horizons); NaN where unknown."""
    return at_hours(values, origins[:, None] + np.arange(horizons)[None, :])


def same_hours(values: Floats, origins: NDArray[np.int64], days: int, horizons: int = HORIZONS) -> Floats:
    """The hour of the day of each target on the `days` newest known days, shape (days, origins, horizons)."""
    ahead = np.arange(horizons)
    newest = origins[:, None] + ahead[None, :] - DAY_H * (ahead // DAY_H + 1)[None, :]
    back = DAY_H * np.arange(days)[:, None, None]
    return at_hours(values, newest[None, :, :] - back)
