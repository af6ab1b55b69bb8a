"""Uncertainty of a saving where neighbouring hours or days err alike.

Source: ASHRAE Guideline 14-2014, annex B; Sun and Baltazar, ASHRAE Transactions 119 (2013), for the factor k of daily
and monthly models; the form of eemeter's common metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from lepton_etl.confidence import CONFIDENCE

Floats = npt.NDArray[np.float64]
Resolution = Literal["hourly", "daily", "monthly"]

HOURLY_K: Final = 1.26


@dataclass(frozen=True, slots=True)
class ModelErrors:
    """What a baseline model missed on its own points: `points` n, `parameters` p, SSE in kWh squared."""

    points: int
    parameters: int
    sse_kwh2: float
    autocorrelation: float
    mean_kwh: float


def autocorrelation(residuals: Floats) -> float:
    """Lag-1 autocorrelation of residuals in order of time, (n,); 0 for fewer than three or none that differ."""
    if len(residuals) < 3:
        return 0.0
    centred = residuals - residuals.mean()
    total = float(centred @ centred)
    return float(centred[1:] @ centred[:-1]) / total if total > 0 else 0.0


def effective_points(points: int, autocorrelation: float) -> float:
    """n' = n (1 - rho) / (1 + rho). A negative rho counts as 0: no more points than there are."""
    rho = min(max(autocorrelation, 0.0), 1.0)
    return points * (1.0 - rho) / (1.0 + rho)


def factor_k(resolution: Resolution, months: float) -> float:
    """What the simplified formula falls short by, for a reporting period of so many months."""
    if resolution == "hourly":
        return HOURLY_K
    if resolution == "daily":
        return -0.00024 * months**2 + 0.03535 * months + 1.00286
    return -0.00022 * months**2 + 0.03306 * months + 0.94054


def saving_error_kwh(
    model: ModelErrors,
    expected_kwh: float,
    reported_points: int,
    months: float,
    resolution: Resolution,
    confidence: float = CONFIDENCE,
) -> float:
    """Half-width, kWh: k t E_pred CV' sqrt(n / (m n') (1 + 2 / n')), CV' = sqrt(SSE / (n' - p)) / mean.

    t is Student's, two-sided, of n' - p degrees. Infinite where n' does not exceed p: such a baseline says nothing.
    """
    from scipy.stats import t

    effective = effective_points(model.points, model.autocorrelation)
    freedom = effective - model.parameters
    if freedom <= 0 or model.mean_kwh <= 0 or reported_points < 1:
        return inf
    cv = sqrt(model.sse_kwh2 / freedom) / model.mean_kwh
    spread = sqrt(model.points / (reported_points * effective) * (1.0 + 2.0 / effective))
    student = float(t.ppf(0.5 + confidence / 2, freedom))
    return factor_k(resolution, months) * student * expected_kwh * cv * spread


def fractional_uncertainty(error_kwh: float, saving_kwh: float) -> float:
    """Half-width over the saving; infinite where there is none, so that it can prove nothing."""
    return error_kwh / saving_kwh if saving_kwh > 0 else inf
