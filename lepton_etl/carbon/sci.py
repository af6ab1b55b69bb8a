"""Software Carbon Intensity."""

from __future__ import annotations

from typing import Final

from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM

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
