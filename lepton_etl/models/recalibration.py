"""Recalibrate nightly: correct a model of all history by how far it was off on the newest days, at similar load.

A driver, a fan curve or a mode of the firmware moves the power of one device by a level that no feature tells,
from one day to the next. When the product predicts day D it knows all that was measured up to D-1: the residuals
of the newest days, weighted by likeness of load and by age, correct the prediction:

    c(x, D) = sum_i w_i r_i / (sum_i w_i + lambda),
    w_i = exp(-1/2 sum_k ((x_k - x_ik) / h_k)^2) * exp(-(age of i in days) / tau)

with residuals r = measured - predicted, and the pseudo-weight lambda of "no correction", which holds wherever
nothing alike was seen. Measured energy enters here alone: base models never see it (docs/definitions.md section 8).
Source: Nadaraya (1964), Watson (1964), kernel regression; exponential forgetting, West & Harrison (1997) ch. 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from lepton_etl.models.metrics import Values

DEVICE: Final = ("site_id", "node_id", "device_id")
_DAY_S: Final = 86_400.0
# Within this much two hours are alike: a tenth of the range of a ratio, the step of a die sensor and a half.
WIDTH_RATIO: Final = 0.1
_WIDTH_K: Final = 1.5


@dataclass(frozen=True, slots=True)
class Recalibration:
    """How far back, how fast it forgets, how alike hours must be, and how much evidence a correction needs.

    `newest_days` bounds the history, `forgetting_days` is tau, `width` multiplies the h_k (0.1 of a ratio, 1.5 K
    of a temperature), `prior_weight` is lambda in hours. `forgetting_days` 0 is no recalibration at all.
    """

    newest_days: int = 30
    forgetting_days: float = 3.0
    width: float = 1.0
    prior_weight: float = 0.2


def is_temperature(name: str) -> bool:
    """Return whether a column is a temperature, which is alike within kelvins, and no ratio."""
    return name in ("inlet_temp_c", "device_temp_c", "device_temp_min_c", "device_temp_max_c")


def corrections(
    hours: pd.DataFrame,
    residual_kwh: Values,
    columns: Sequence[str],
    settings: Recalibration,
    first: date | None = None,
) -> Values:
    """Return what to add to the prediction of each device-hour, kWh; shaped as `residual_kwh`, 0 before `first`.

    `hours`: `site_id`, `node_id`, `device_id`, `hour_start`, `date` (the day the product books the hour on) and
    `columns`; `residual_kwh` (n,) or (n, models): measured minus predicted, NaN where not measured. A day is
    corrected from residuals of the same device on **earlier dates** only, its own and later rows never enter.
    """
    residuals = residual_kwh[:, None] if residual_kwh.ndim == 1 else residual_kwh
    found = np.zeros_like(residuals, dtype=np.float64)
    if settings.forgetting_days > 0:
        widths = np.array([_WIDTH_K if is_temperature(c) else WIDTH_RATIO for c in columns]) * settings.width
        positions = pd.Series(np.arange(len(hours)), index=hours.index)
        for _, rows in hours.groupby(list(DEVICE), sort=False, dropna=False):
            at = positions[rows.index].to_numpy()
            # Unknown is unlike nothing: it lies at the middle of what the device shows.
            table = rows[list(columns)].astype(np.float64)
            alike = table.fillna(table.median()).fillna(0.0).to_numpy() / widths
            found[at] = _of_device(rows, alike, residuals[at], settings, first)
    return found.reshape(residual_kwh.shape)


def _of_device(
    rows: pd.DataFrame, alike: Values, residuals: Values, settings: Recalibration, first: date | None
) -> Values:
    day = day_numbers(pd.to_datetime(rows["date"]))
    time = day_numbers(rows["hour_start"].dt.tz_convert(None))
    known = np.isfinite(residuals).all(axis=1)
    found = np.zeros_like(residuals)
    for today in np.unique(day if first is None else day[day >= day_number(first)]):
        now = np.flatnonzero(day == today)
        past = np.flatnonzero((day < today) & (day >= today - settings.newest_days) & known)
        if len(past) == 0:
            continue
        weights = likeness(alike[now], alike[past], today - time[past], settings.forgetting_days)
        evidence = weights.sum(axis=1, keepdims=True) + settings.prior_weight
        found[now] = weights @ residuals[past] / evidence
    return found


def day_numbers(stamps: pd.Series[pd.Timestamp]) -> Values:
    """Return days since 1970, (n,), of stamps without a zone."""
    return np.asarray(stamps.to_numpy(dtype="datetime64[s]").astype(np.int64) / _DAY_S, dtype=np.float64)


def day_number(day: date) -> float:
    """Return days since 1970."""
    return float((day - date(1970, 1, 1)).days)


def likeness(
    now: Values, past: Values, age_days: npt.NDArray[np.float64], tau: float
) -> npt.NDArray[np.float64]:
    """Return the weight of each past hour for each of now, (now, past): both alike, in their widths, and not old."""
    square = (now**2).sum(axis=1)[:, None] - 2 * now @ past.T + (past**2).sum(axis=1)[None, :]
    return np.asarray(np.exp(-0.5 * np.maximum(square, 0.0) - age_days[None, :] / tau))
