"""Say how far off a recalibrated prediction may be: by what those of the device's newest days missed, at similar load.

The model's own interval was learnt when the model was; what a device does since is known every night. The residuals of
the newest days (measured less recalibrated) count by likeness of load and by age; the model's own end stands for one
hour among them, so it holds where nothing alike was seen. How much each end leaves out follows how often the published
interval was missed of late: a device that has changed is doubted from the next day on.

Sources: Barber, Candes, Ramdas, Tibshirani, Annals of Statistics 51 (2023) 816, conformal prediction by weights; Gibbs
and Candes, NeurIPS 34 (2021), the level that follows the misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.models.metrics import Values
from lepton_etl.models.recalibration import DEVICE, WIDTH_RATIO, day_number, day_numbers, likeness
from lepton_etl.uncertainty import CONFIDENCE

_MISS: Final = 1.0 - CONFIDENCE
# Of the share that both ends together leave out.
_LEAST_MISS, _MOST_MISS = 0.005, 0.5
_HOURS_A_DAY: Final = 24


@dataclass(frozen=True, slots=True)
class NightInterval:
    """How far back residuals count, how fast they are forgotten, how alike loads are, and how fast the level follows.

    `newest_days` bounds the history, `forgetting_days` is the time constant of age, `width_ratio` the load within which
    hours are alike, `rate` what a day that was missed in every hour takes off the share that is left out.
    """

    newest_days: int = 30
    forgetting_days: float = 14.0
    width_ratio: float = 2 * WIDTH_RATIO
    rate: float = 0.05


def night_ends(hours: pd.DataFrame, first: date, settings: NightInterval = NightInterval()) -> Values:
    """Return lower and upper end of each row's recalibrated prediction, kWh, (n, 2), made from the day `first` on.

    `hours` are whole devices' in any order: `site_id`, `node_id`, `device_id`, `hour_start`, `date`, `load_ratio`,
    `energy_kwh` (NaN: not measured), `recalibrated_kwh`, `predicted_kwh` with the model's ends `predicted_lower_kwh`,
    `predicted_upper_kwh`, and `recalibrated_lower_kwh`, `recalibrated_upper_kwh` of the days before `first`. A day is
    judged by earlier dates alone. NaN where the model has no ends and too few alike hours were seen.
    """
    ends = hours[["recalibrated_lower_kwh", "recalibrated_upper_kwh"]].to_numpy(dtype=np.float64, copy=True)
    positions = pd.Series(np.arange(len(hours)), index=hours.index)
    for _, rows in hours.groupby(list(DEVICE), sort=False, dropna=False):
        at = positions[rows.index].to_numpy()
        ends[at] = _of_device(rows, ends[at], day_number(first), settings)
    return ends


def _of_device(rows: pd.DataFrame, ends: Values, first: float, settings: NightInterval) -> Values:
    day, time = day_numbers(pd.to_datetime(rows["date"])), day_numbers(rows["hour_start"].dt.tz_convert(None))
    measured, made = rows["energy_kwh"].to_numpy(np.float64), rows["recalibrated_kwh"].to_numpy(np.float64)
    residual = measured - made
    of_model = rows[["predicted_lower_kwh", "predicted_upper_kwh"]].to_numpy(np.float64)
    of_model = of_model - rows[["predicted_kwh"]].to_numpy(np.float64)
    load = rows[["load_ratio"]].to_numpy(np.float64) / settings.width_ratio
    for today in np.unique(day[day >= first]):
        now = np.flatnonzero((day == today) & np.isfinite(made))
        recent = (day < today) & (day >= today - settings.newest_days)
        past = np.flatnonzero(recent & np.isfinite(residual))
        order = np.argsort(residual[past], kind="stable")
        past = past[order]
        weights = likeness(load[now], load[past], today - time[past], settings.forgetting_days)
        level = 1 - _left_out(ends[recent], measured[recent], settings.rate) / 2
        far = _quantile(-residual[past][::-1], weights[:, ::-1], -of_model[now, 0], level)
        ends[now, 0] = np.maximum(made[now] - np.maximum(far, 0.0), 0.0)
        far = _quantile(residual[past], weights, of_model[now, 1], level)
        ends[now, 1] = made[now] + np.maximum(far, 0.0)
    return ends


def _left_out(ends: Values, measured_kwh: Values, rate: float) -> float:
    """Return the share that both ends leave out, after how often those of the newest hours were missed."""
    known = np.isfinite(measured_kwh) & np.isfinite(ends).all(axis=1)
    outside = (measured_kwh < ends[:, 0]) | (measured_kwh > ends[:, 1])
    excess_days = float((outside[known] - _MISS).sum()) / _HOURS_A_DAY
    return min(max(_MISS - rate * excess_days, _LEAST_MISS), _MOST_MISS)


def _quantile(far: Values, weights: Values, of_model: Values, level: float) -> Values:
    """Return the weighted quantile of rising `far` (past,) by `weights` (now, past), the model's end (now,) one more.

    A model's end that is not known lies beyond all: NaN where the quantile falls on it.
    """
    reached = np.cumsum(np.pad(weights, ((0, 0), (1, 0))), axis=1)
    enough = level * (weights.sum(axis=1) + 1.0)[:, None]
    beyond = np.concatenate([[-np.inf], far, [np.inf]])
    # Where the model's end lies farther out it has no say in what is reached before it, else it counts from there on.
    without, with_it = (beyond[(reached + own < enough).sum(axis=1)] for own in (0.0, 1.0))
    end = np.where(np.isnan(of_model), np.inf, of_model)
    found = np.where(without < end, without, np.maximum(end, with_it))
    return np.where(np.isfinite(found), found, np.nan)
