"""The members of the fusion: seasonal naive, 7-day profile, ridge on lags, and boosted trees on the ridge's errors.

Each learns from targets that were known at its own origin and gives g/kWh of shape (origins, HORIZONS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.forecast.series import (
    DAY_H,
    HORIZONS,
    WEEK_H,
    Floats,
    ZoneSeries,
    at_hours,
    same_hours,
    targets,
)

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingRegressor

Origins = NDArray[np.int64]

PROFILE_DAYS: Final = 7
# Chosen on the EIA-930 series of 2022 (four zones), see docs/forecast.md.
RIDGE_PENALTY: Final = 0.03
RIDGE_FADE_PER_DAY: Final = 0.5
RIDGE_INTERACTION: Final = 2.0
_WEEK_WAVES: Final = 3
_ORIGIN_STEP_ROWS: Final = 4  # horizons drawn for each origin that trains the trees


def seasonal_naive(series: ZoneSeries, origins: Origins) -> Floats:
    """The newest known value of the same hour of the day."""
    return np.asarray(same_hours(series.known, origins, 1)[0])


def profile(series: ZoneSeries, origins: Origins, days: int = PROFILE_DAYS) -> Floats:
    """Mean of the same hour over the newest known days."""
    seen = same_hours(series.known, origins, days)
    count = np.isfinite(seen).sum(axis=0)
    total = np.nansum(seen, axis=0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


@dataclass(frozen=True, slots=True)
class Ridge:
    """One linear map from the last week to all horizons at once, on deviations from the week's mean.

    Inputs: 168 lags, fading with age so that the penalty bears on old ones; hour of day; three waves of the week; and
    the newest deviations by hour of day. Source: Hoerl and Kennard, Technometrics 12 (1970).
    """

    coefficients: Floats
    scale: float  # g/kWh, of the calendar's columns; that of the hours it learnt from

    @staticmethod
    def fit(series: ZoneSeries, until: int) -> Ridge:
        """From origins whose 96 hours had all ended at `until`; raises ValueError below two weeks of them."""
        origins = np.arange(WEEK_H, until - HORIZONS + 1)
        scale = float(np.nanstd(series.known[:until]))
        inputs, level = ridge_inputs(series.known, origins, scale)
        wanted = targets(series.target[:until], origins) - level[:, None]
        usable = np.isfinite(inputs).all(axis=1)
        if usable.sum() < 2 * WEEK_H:
            raise ValueError(f"{int(usable.sum())} complete origins before row {until}; {2 * WEEK_H} needed")
        # An estimated target counts as the profile's: leaving out rows would break one solve for all horizons.
        stand_in = profile(series, origins) - level[:, None]
        wanted = np.where(np.isfinite(wanted), wanted, stand_in)[usable]
        known = np.isfinite(wanted).all(axis=1)
        x = inputs[usable][known]
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += RIDGE_PENALTY * np.trace(gram) / len(gram)
        return Ridge(np.asarray(np.linalg.solve(gram, x.T @ wanted[known]), dtype=np.float64), scale)

    def predict(self, series: ZoneSeries, origins: Origins) -> Floats:
        inputs, level = ridge_inputs(series.known, origins, self.scale)
        return np.asarray(inputs @ self.coefficients + level[:, None])


def ridge_inputs(known: Floats, origins: Origins, scale: float) -> tuple[Floats, Floats]:
    """Inputs (origins, columns) and the level taken off, the mean of the last week (origins,)."""
    back = np.arange(1, WEEK_H + 1)
    lags = at_hours(known, origins[:, None] - back[None, :])
    level = lags.mean(axis=1)
    deviation = lags - level[:, None]
    fade = np.exp(-RIDGE_FADE_PER_DAY * (back - 1) / DAY_H)
    hour = np.eye(DAY_H)[origins % DAY_H]
    phase = 2 * np.pi * (origins % WEEK_H) / WEEK_H
    waves = [f(k * phase) for k in range(1, _WEEK_WAVES + 1) for f in (np.sin, np.cos)]
    day = deviation[:, :DAY_H].mean(axis=1, keepdims=True)
    parts = [
        deviation * fade, hour * scale, np.column_stack(waves) * scale,
        hour * day * RIDGE_INTERACTION, hour * deviation[:, :1] * RIDGE_INTERACTION,
    ]  # fmt: skip
    return np.column_stack(parts), level


@dataclass(frozen=True, slots=True)
class Boosted:
    """Histogram gradient boosting of what the ridge forecast missed, the horizon one of its features."""

    trees: HistGradientBoostingRegressor

    @staticmethod
    def fit(series: ZoneSeries, ridge: Floats, first: int, until: int, seed: int) -> Boosted | None:
        """From out-of-sample ridge forecasts, `ridge[i]` of origin first + i; None below two weeks of origins."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        origins = np.arange(first, min(first + len(ridge), until - 1))
        if len(origins) < 2 * WEEK_H:
            return None
        rng = np.random.default_rng([seed, until])
        rows = np.repeat(np.arange(len(origins)), _ORIGIN_STEP_ROWS)
        near = rng.random(len(rows)) < 0.5
        ahead = np.where(near, rng.integers(0, DAY_H, len(rows)), rng.integers(DAY_H, HORIZONS, len(rows)))
        missed = at_hours(series.target[:until], origins[rows] + ahead) - ridge[rows, ahead]
        use = np.isfinite(missed)
        rows, ahead, missed = rows[use], ahead[use], missed[use]
        trees = HistGradientBoostingRegressor(
            max_iter=60, learning_rate=0.06, max_leaf_nodes=16, min_samples_leaf=80, l2_regularization=5.0,
            random_state=seed,
        )  # fmt: skip
        trees.fit(_boosted_inputs(series, origins[rows], ahead, ridge[rows], ridge[rows, ahead]), missed)
        return Boosted(trees)

    def predict(self, series: ZoneSeries, origins: Origins, ridge: Floats) -> Floats:
        rows = np.repeat(np.arange(len(origins)), HORIZONS)
        ahead = np.tile(np.arange(HORIZONS), len(origins))
        inputs = _boosted_inputs(series, origins[rows], ahead, ridge[rows], ridge[rows, ahead])
        return np.asarray(ridge + self.trees.predict(inputs).reshape(len(origins), HORIZONS))


def _boosted_inputs(
    series: ZoneSeries, origins: Origins, ahead: NDArray[np.int64], paths: Floats, ridge: Floats
) -> Floats:
    """Features of rows (origin, horizon), relative to the mean of the last day so that levels may drift."""
    known, target = series.known, origins + ahead
    last = at_hours(known, origins[:, None] - np.arange(1, DAY_H + 1)[None, :])
    level = last.mean(axis=1)
    newest = target - DAY_H * (ahead // DAY_H + 1)
    same = at_hours(known, newest[:, None] - DAY_H * np.arange(PROFILE_DAYS)[None, :])
    week = at_hours(known, target - WEEK_H)
    before = at_hours(known, origins[:, None] - 1 - DAY_H * np.arange(1, PROFILE_DAYS + 1)[None, :])
    return np.column_stack(
        [
            ahead, target % DAY_H, (target // DAY_H) % 7, level, ridge - level, last[:, 0] - level, last[:, 2] - level,
            last[:, 5] - level, last[:, 0] - before.mean(axis=1), same[:, 0] - level, same[:, 1] - level,
            same.mean(axis=1) - level, same.std(axis=1), week - level, ridge - paths[:, :DAY_H].mean(axis=1),
        ]
    )  # fmt: skip
