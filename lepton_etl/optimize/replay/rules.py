"""When a job that may wait starts: at once, in the cheapest window, below a threshold, by a forecast, by hindsight.

Hours count from the origin of a replay; series are steps of one hour, NaN where unknown, begun `past` hours before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from lepton_etl.optimize.replay.cluster import Floats, Ints, ReplayError

POLICIES: Final = ("run_at_once", "cheapest_window", "threshold", "planned", "clairvoyant")
_DAY_H: Final = 24


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """How far a rule may go: hours that a job without a deadline may wait, and the threshold's quantile of the past."""

    flexibility_h: float = 24.0
    threshold_quantile: float = 0.25
    history_h: int = 168


@dataclass(frozen=True, slots=True)
class Signals:
    """Intensity, g/kWh, and price a kWh of each hour from `past` hours before the origin on.

    `forecasts` maps a decision's hour to what was expected of that hour and the next ones, where a forecast is at hand.
    """

    intensity: Floats
    price: Floats
    past: int
    forecasts: Callable[[int], Floats | None]


def wanted_start(
    policy: str, released_h: float, latest_h: float, lasts_h: float, signals: Signals, rules: HistoryRules
) -> float:
    """The hour at which a job wants to start, from its release to its latest start; ties start sooner.

    Only `clairvoyant` looks at intensities of hours that were not over at the release, and `threshold` at each hour's
    when that hour begins (its own is taken as known, as a live signal gives it). Prices are known ahead.
    """
    if policy == "run_at_once" or latest_h <= released_h:
        return released_h
    now = int(np.floor(released_h))
    starts = np.concatenate([[released_h], np.arange(now + 1, np.floor(latest_h) + 1)])
    if policy == "threshold":
        return _below(starts, signals, rules)
    if policy == "cheapest_window":
        ahead = signals.price[signals.past + now :]
    elif policy == "clairvoyant":
        ahead = signals.intensity[signals.past + now :]
    elif policy == "planned":
        found = signals.forecasts(now)
        ahead = (
            same_hours(signals.intensity[: signals.past + now], rules.history_h) if found is None else found
        )
    else:
        raise ReplayError(f"no policy {policy!r}", remedy=f"one of {', '.join(POLICIES)}")
    mean = window_means(ahead, starts - now, lasts_h)
    known = np.isfinite(mean)
    return float(starts[known][np.argmin(mean[known])]) if known.any() else released_h


def _below(starts: Floats, signals: Signals, rules: HistoryRules) -> float:
    """The first start whose hour lies below the quantile of the hours before it; the last one where none does."""
    for start in starts:
        at = signals.past + int(np.floor(start))
        before = signals.intensity[max(at - rules.history_h, 0) : at]
        before = before[np.isfinite(before)]
        if len(before) and signals.intensity[at] <= np.quantile(before, rules.threshold_quantile):
            return float(start)
    return float(starts[-1])


def same_hours(before: Floats, history_h: int) -> Floats:
    """The mean of the same hours of the day over the last `history_h`, for two days ahead; NaN where none is known."""
    days = history_h // _DAY_H
    wanted = days * _DAY_H
    padded = np.concatenate([np.full(max(wanted - len(before), 0), np.nan), before[-wanted:]]).reshape(
        days, _DAY_H
    )
    seen = np.isfinite(padded)
    total = np.where(seen, padded, 0.0).sum(axis=0)
    day = np.where(seen.any(axis=0), total / np.maximum(seen.sum(axis=0), 1), np.nan)
    return np.tile(day, 2)


def window_means(hourly: Floats, starts_h: Floats, lasts_h: float) -> Floats:
    """Mean of an hourly step series over [start, start + lasts]; NaN where it is left or not known."""
    found = np.full(len(starts_h), np.nan)
    for place, start in enumerate(starts_h):
        hours, share = spread(start, lasts_h)
        if hours[-1] < len(hourly):
            found[place] = float((hourly[hours] * share).sum())
    return found


def spread(start_h: float, lasts_h: float) -> tuple[Ints, Floats]:
    """The hours that a run touches and the share of its time in each; shares sum to 1. An instant lies in its hour."""
    first = int(np.floor(start_h))
    end = start_h + max(lasts_h, 1e-6)
    last = max(int(np.ceil(end - 1e-9)), first + 1)
    hours = np.arange(first, last)
    inside = np.minimum(hours + 1, end) - np.maximum(hours, start_h)
    return hours, np.asarray(inside / inside.sum())
