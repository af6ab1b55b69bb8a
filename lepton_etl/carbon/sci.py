"""Software Carbon Intensity and the 24/7 carbon-free energy score."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.errors import ConfigurationError
from lepton_etl.fields import GRAMS_PER_KILOGRAM

LOCATION_SIGNALS: Final = ("average", "marginal")


def embodied_share_kgco2e(
    total_kgco2e: float, reserved_h: float, lifespan_h: float, reserved_ratio: float
) -> float:
    """M = TE x (TiR / EL) x (RR / ToR), kgCO2e; `reserved_ratio` is RR / ToR, 0..1.

    Source: Software Carbon Intensity Specification (ISO/IEC 21031:2024), embodied emissions.
    """
    return total_kgco2e * (reserved_h / lifespan_h) * reserved_ratio


def sci_gco2e(
    energy_kwh: float,
    intensity_g_per_kwh: float,
    embodied_kgco2e: float,
    functional_units: float,
    *,
    method: str,
) -> float | None:
    """SCI = (E x I + M) / R, gCO2e for each functional unit (a job, a request, a training run).

    `energy_kwh` is the reserved hardware's energy with idle and data-centre overhead. `method` names the signal
    of I: average or marginal, location-based. Market-based measures shall not enter and raise ConfigurationError.
    None where nothing was done (R = 0).
    Source: Software Carbon Intensity Specification (ISO/IEC 21031:2024).
    """
    if method not in LOCATION_SIGNALS:
        raise ConfigurationError(
            f"SCI takes no {method} intensity; one of {', '.join(LOCATION_SIGNALS)}",
            where="sci",
            remedy="use the location-based intensity",
        )
    if functional_units <= 0:
        return None
    return (energy_kwh * intensity_g_per_kwh + embodied_kgco2e * GRAMS_PER_KILOGRAM) / functional_units


def cfe_kwh(
    consumed_kwh: NDArray[np.float64],
    own_cfe_kwh: NDArray[np.float64],
    grid_cfe_ratio: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Carbon-free energy used in each hour: own or contracted first, then the grid's share of the rest.

    CFE = min(C, K) + (C - min(C, K)) x g, shapes (hours,); g in 0..1, NaN where the grid's share is unknown, which
    stays NaN unless K covers the hour. A surplus of one hour helps no other hour.
    Source: Google, 24/7 Carbon-Free Energy: Methodologies and Metrics (2021).
    """
    own = np.minimum(consumed_kwh, own_cfe_kwh)
    rest = consumed_kwh - own
    return np.asarray(own + np.where(rest > 0, rest * grid_cfe_ratio, 0.0), dtype=np.float64)


def cfe_score(
    consumed_kwh: NDArray[np.float64],
    own_cfe_kwh: NDArray[np.float64],
    grid_cfe_ratio: NDArray[np.float64],
) -> float | None:
    """Sum of carbon-free energy over sum of consumption, 0..1; None for no consumption or an unknown hour."""
    used = cfe_kwh(consumed_kwh, own_cfe_kwh, grid_cfe_ratio)
    total = float(consumed_kwh.sum())
    return float(used.sum()) / total if total > 0 and np.isfinite(used).all() else None
