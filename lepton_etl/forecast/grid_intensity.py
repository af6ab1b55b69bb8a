"""Forecast the grid's intensity of the hours ahead: rows of gold/forecast for the newest origin of a zone.

Four members (seasonal naive, 7-day profile, ridge on lags, boosted trees on the ridge's errors) each learn from targets
that were known at their own origin and give g/kWh of shape (origins, HORIZONS). They are stacked with weights, and the
stack gets an interval, from forecasts whose hours have come true. Every earlier origin is forecast as it would have
been then, so what is learnt of the errors is forward in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.stacking import stacking_weights
from lepton_etl.uncertainty import CONFIDENCE, conformal_ends

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
        """Return the row of the hour that begins at `at`; may lie after the series."""
        return round((at - self.first_hour) / _HOUR)

    def hour(self, position: int) -> datetime:
        return self.first_hour + position * _HOUR


def zone_series(hours: pl.DataFrame, until: datetime | None = None) -> ZoneSeries:
    """Return the series of one zone from silver/grid_hour (hour_start, carbon_intensity_gco2e_per_kwh, estimated).

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
    """Fill holes with the newest value of the same hour of the day, at most two weeks old; causal. Shape (n,)."""
    known = published.copy()
    for at in np.flatnonzero(np.isnan(published)):
        earlier = known[at - DAY_H * np.arange(1, min(_FILL_DAYS, int(at) // DAY_H) + 1)]
        found = earlier[np.isfinite(earlier)]
        if len(found):
            known[at] = found[0]
    return known


def at_hours(values: Floats, positions: NDArray[np.int64]) -> Floats:
    """Return values at positions of any shape; NaN outside the series."""
    inside = (positions >= 0) & (positions < len(values))
    if inside.all():
        return np.asarray(values[positions])
    return np.where(inside, values[np.clip(positions, 0, len(values) - 1)], np.nan)


def targets(values: Floats, origins: NDArray[np.int64], horizons: int = HORIZONS) -> Floats:
    """Return what came true for each origin, shape (origins, horizons); NaN where unknown."""
    return at_hours(values, origins[:, None] + np.arange(horizons)[None, :])


def same_hours(values: Floats, origins: NDArray[np.int64], days: int, horizons: int = HORIZONS) -> Floats:
    """Return the hour of the day of each target on the `days` newest known days, shape (days, origins, horizons)."""
    ahead = np.arange(horizons)
    newest = origins[:, None] + ahead[None, :] - DAY_H * (ahead // DAY_H + 1)[None, :]
    back = DAY_H * np.arange(days)[:, None, None]
    return at_hours(values, newest[None, :, :] - back)


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
    """Return the newest known value of the same hour of the day."""
    return np.asarray(same_hours(series.known, origins, 1)[0])


def profile(series: ZoneSeries, origins: Origins, days: int = PROFILE_DAYS) -> Floats:
    """Return the mean of the same hour over the newest known days."""
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
        """Fit from origins whose 96 hours had all ended at `until`; raises ValueError below two weeks of them."""
        origins = np.arange(WEEK_H, until - HORIZONS + 1)
        scale = float(np.nanstd(series.known[:until]))
        inputs, level = ridge_inputs(series.known, origins, scale)
        wanted = targets(series.target[:until], origins) - level[:, None]
        usable = np.isfinite(inputs).all(axis=1)
        if usable.sum() < 2 * WEEK_H:
            raise ValueError(f"{int(usable.sum())} complete origins before row {until}; {2 * WEEK_H} needed")
        # An estimated target counts as the profile's: leaving out rows would break one solve for all horizons.
        holes = ~np.isfinite(wanted)
        some = holes.any(axis=1)
        wanted[some] = np.where(holes[some], profile(series, origins[some]) - level[some, None], wanted[some])
        wanted = wanted[usable]
        known = np.isfinite(wanted).all(axis=1)
        x = inputs[usable][known]
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += RIDGE_PENALTY * np.trace(gram) / len(gram)
        return Ridge(np.asarray(np.linalg.solve(gram, x.T @ wanted[known]), dtype=np.float64), scale)

    def predict(self, series: ZoneSeries, origins: Origins) -> Floats:
        inputs, level = ridge_inputs(series.known, origins, self.scale)
        return np.asarray(inputs @ self.coefficients + level[:, None])


def ridge_inputs(known: Floats, origins: Origins, scale: float) -> tuple[Floats, Floats]:
    """Return inputs (origins, columns) and the level taken off, the mean of the last week (origins,)."""
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
        """Fit from out-of-sample ridge forecasts, `ridge[i]` of origin first + i; None below two weeks of origins."""
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
    """Return features of rows (origin, horizon), relative to the mean of the last day so that levels may drift."""
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


# Horizons (first, behind the last) that share weights, and finer ones that share an interval.
WEIGHT_BANDS: Final = ((0, 6), (6, 24), (24, 48), (48, 96))
INTERVAL_BANDS: Final = (
    (0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (6, 9), (9, 12), (12, 18), (18, 24), (24, 36), (36, 48), (48, 72), (72, 96),
)  # fmt: skip
MIN_RESIDUALS: Final = 48
# Pull towards equal weights, as a share of the members' mean square.
_SHRINKAGE: Final = 0.05


def fusion_weights(members: Floats, came_true: Floats, age_h: Floats, half_life_h: float) -> Floats:
    """Return weights of the members (members,) by stacking, from forecasts (members, rows) and targets (rows,).

    Rows halve in weight every `half_life_h`; a row in which any member or the target is NaN does not count. Too few
    rows give equal weights.
    """
    count = len(members)
    usable = np.isfinite(members).all(axis=0) & np.isfinite(came_true)
    if usable.sum() < MIN_RESIDUALS:
        return np.full(count, 1 / count)
    weight = 0.5 ** (age_h[usable] / half_life_h)
    return stacking_weights(came_true[usable], members[:, usable].T, weight, _SHRINKAGE)


MIN_HISTORY_H: Final = WEEK_H + HORIZONS + 2 * WEEK_H


@dataclass(frozen=True, slots=True)
class ForecastPolicy:
    """How often the members learn anew, and what the fusion looks back on."""

    ridge_refit_h: int = WEEK_H
    boosted_refit_h: int = 4 * WEEK_H
    weight_window_h: int = 6 * WEEK_H
    weight_half_life_h: float = 2.0 * WEEK_H
    interval_window_h: int = 6 * WEEK_H
    interval_level: float = CONFIDENCE
    interval_step: float = 0.05
    seed: int = 20250603


@dataclass(frozen=True, slots=True)
class Replay:
    """Forecasts of origins first..first+n-1: members (members, n, HORIZONS), the fusion and its interval, g/kWh."""

    first: int
    members: Floats
    fused: Floats
    lower: Floats
    upper: Floats
    weights: Floats  # (days, bands, members)


def replay(series: ZoneSeries, until: int, policy: ForecastPolicy | None = None) -> Replay:
    """Forecast from all origins that have enough history, up to and with row `until` (at most the series' length).

    A member learns at the first origin of its block from what was known then; weights and intervals move daily.
    Raises ValueError where the history is too short.
    """
    chosen = policy or ForecastPolicy()
    first = MIN_HISTORY_H + DAY_H
    if until < first or until > len(series.known):
        raise ValueError(
            f"origin at row {until}; {first} hours before it are needed, {len(series.known)} known"
        )
    origins = np.arange(first, until + 1)
    naive, week = seasonal_naive(series, origins), profile(series, origins)
    ridge = np.full_like(naive, np.nan)
    # A row is a hole where a lag is: the profile stands in for it.
    for start in range(0, len(origins), chosen.ridge_refit_h):
        block = slice(start, start + chosen.ridge_refit_h)
        ridge[block] = Ridge.fit(series, int(origins[start])).predict(series, origins[block])
    ridge = np.where(np.isfinite(ridge), ridge, week)
    boosted = ridge.copy()
    for start in range(0, len(origins), chosen.boosted_refit_h):
        block = slice(start, start + chosen.boosted_refit_h)
        trees = Boosted.fit(series, ridge[:start], first, int(origins[start]), chosen.seed)
        if trees is not None:
            boosted[block] = trees.predict(series, origins[block], ridge[block])
    members = np.stack([naive, week, ridge, boosted])
    fused, weights = _fused(members, targets(series.target, origins), chosen)
    lower, upper = _intervals(fused, targets(series.target, origins), chosen)
    return Replay(first, members, np.maximum(fused, 0.0), lower, upper, weights)


def _fused(members: Floats, came_true: Floats, policy: ForecastPolicy) -> tuple[Floats, Floats]:
    count, rows = members.shape[:2]
    fused = np.empty(members.shape[1:])
    weights = np.empty((-(-rows // DAY_H), len(WEIGHT_BANDS), count))
    for day, start in enumerate(range(0, rows, DAY_H)):
        for number, (low, high) in enumerate(WEIGHT_BANDS):
            # Every third origin: neighbours miss alike.
            seen = np.arange(max(0, start - policy.weight_window_h), max(0, start - high + 1), 3)
            columns = np.arange(low, high, max(1, (high - low) // 8))
            past = members[:, seen][:, :, columns].reshape(count, -1)
            age_h = np.repeat((start - seen).astype(np.float64), len(columns))
            share = fusion_weights(
                past, came_true[seen][:, columns].ravel(), age_h, policy.weight_half_life_h
            )
            weights[day, number] = share
            block = members[:, start : start + DAY_H, low:high]
            fused[start : start + DAY_H, low:high] = np.tensordot(share, block, axes=1)
    return fused, weights


def _intervals(fused: Floats, came_true: Floats, policy: ForecastPolicy) -> tuple[Floats, Floats]:
    """Return conformal ends of each band, moved daily; the level asked for follows how often they held of late.

    Residuals drift with the seasons, so a window of the past holds a little less than it promises: each day the missed
    share asked for moves by `interval_step` of what the newest finished day missed beside it.
    Source: Gibbs and Candes, Adaptive conformal inference under distribution shift, NeurIPS 34 (2021).
    """
    residual = came_true - fused
    lower, upper = np.full_like(fused, np.nan), np.full_like(fused, np.nan)
    wanted = 1 - policy.interval_level
    asked = np.full(len(INTERVAL_BANDS), wanted)
    for start in range(0, len(fused), DAY_H):
        block = slice(start, start + DAY_H)
        for number, (low, high) in enumerate(INTERVAL_BANDS):
            # Only forecasts whose last hour had ended when this block began.
            done = max(0, start - high + 1)
            newest = (slice(max(0, done - DAY_H), done), slice(low, high))
            truth = came_true[newest]
            judged = np.isfinite(truth) & np.isfinite(lower[newest])
            if judged.any():
                missed = ((truth < lower[newest]) | (truth > upper[newest]))[judged].mean()
                moved = asked[number] + policy.interval_step * (wanted - missed)
                asked[number] = float(np.clip(moved, wanted / 10, 3 * wanted))
            past = residual[max(0, start - policy.interval_window_h) : done, low:high]
            down, up = conformal_ends(past.ravel(), 1 - float(asked[number]), MIN_RESIDUALS)
            lower[block, low:high] = np.maximum(fused[block, low:high] + down, 0.0)
            upper[block, low:high] = np.maximum(fused[block, low:high] + up, 0.0)
    return lower, upper


MODEL_NAME: Final = "grid-intensity-fusion"
MODEL_VERSION: Final = "1"


def forecast_rows(
    hours: pl.DataFrame, zone_id: str, origin: datetime, policy: ForecastPolicy | None = None
) -> pl.DataFrame:
    """Return rows of gold/forecast for one zone and origin, from its silver/grid_hour of one basis, signal and flow.

    Hours stamped at or after the origin are not looked at. With too little history the 7-day
    profile stands alone, without an interval, and `forecast_basis` says so.
    """
    past = hours.filter(pl.col("hour_start") < origin)
    rows = {
        "date": [origin.date()] * HORIZONS, "zone_id": [zone_id] * HORIZONS, "origin_time": [origin] * HORIZONS,
        "horizon_h": list(range(1, HORIZONS + 1)), "model_name": [MODEL_NAME] * HORIZONS,
        "model_version": [MODEL_VERSION] * HORIZONS,
    }  # fmt: skip
    value: list[float | None] = [None] * HORIZONS
    lower, upper, basis = value, value, "none"
    if past.height:
        series = zone_series(past, until=origin)
        end = len(series.known)
        try:
            done = replay(series, end, policy)
            value, lower, upper = (_known(one[-1]) for one in (done.fused, done.lower, done.upper))
            basis = "fusion"
        except ValueError:
            value, basis = _known(profile(series, np.array([end]))[0]), "profile"
        if all(one is None for one in value):
            basis = "none"
    return pl.DataFrame(rows).with_columns(
        (pl.col("origin_time") + pl.duration(hours=pl.col("horizon_h") - 1)).alias("hour_start"),
        pl.Series("carbon_intensity_gco2e_per_kwh", value, dtype=pl.Float64),
        pl.Series("intensity_lower_gco2e_per_kwh", lower, dtype=pl.Float64),
        pl.Series("intensity_upper_gco2e_per_kwh", upper, dtype=pl.Float64),
        pl.lit(basis).alias("forecast_basis"),
    )


def _known(values: Floats) -> list[float | None]:
    return [float(one) if np.isfinite(one) else None for one in values]
