"""Every origin of a stretch of hours, forecast as it would have been: members, their fusion, and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.confidence import CONFIDENCE
from lepton_etl.forecast.fuse import INTERVAL_BANDS, WEIGHT_BANDS, conformal_ends, fusion_weights
from lepton_etl.forecast.members import Boosted, Ridge, profile, seasonal_naive
from lepton_etl.forecast.series import DAY_H, HORIZONS, WEEK_H, Floats, ZoneSeries, targets

MEMBERS: Final = ("seasonal_naive", "profile", "ridge", "boosted")
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
    """Forecasts of all origins that have enough history, up to and with row `until` (at most the series' length).

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
    """Conformal ends of each band, moved daily; the level asked for follows what the last days really held.

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
            down, up = conformal_ends(past.ravel(), 1 - float(asked[number]))
            lower[block, low:high] = np.maximum(fused[block, low:high] + down, 0.0)
            upper[block, low:high] = np.maximum(fused[block, low:high] + up, 0.0)
    return lower, upper
